"""The command line: each command parses, calls one function of the library, and prints.

Needs the extra `cli` (click, rich), which is imported here and nowhere below.
"""

from __future__ import annotations

import sys

_EXTRA = frozenset({"click", "rich"})


def main() -> None:
    """Run the command line, and exit with a status that says whose fault it was (`xenvol.cli.failures`)."""
    try:
        from xenvol.cli.app import app  # late: a missing extra is an error message, not a traceback
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        print(
            f"xenvol: the command line needs {error.name}, which is not installed: pip install 'xenvol[cli]'",
            file=sys.stderr,
        )
        sys.exit(2)
    app()
