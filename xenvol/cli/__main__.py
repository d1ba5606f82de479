"""``python -m xenvol.cli`` is ``xenvol``."""

from xenvol.cli import main

main()
