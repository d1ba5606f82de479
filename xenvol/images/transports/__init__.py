"""The roads to a disk's bytes: each takes the pieces of any image, and none knows a format of files.

| module | its law |
| --- | --- |
| `choice` | which road there is, and why not the others, is known before anything is made |
| `http` | xapi's own door for disks, from anywhere |
| `block` | a VBD on the VM in which we run |
| `device` | a block device that this machine shows |
| `here` | which VM this machine is |
| `exchange`, `download` | one HTTP request, byte by byte; what comes of it, as an image |
| `tasks` | the truth about a transfer, and who still has a disk |
| `base` | what every road promises |
"""

from xenvol.images.transports.base import PATIENCE, Patience, Road
from xenvol.images.transports.choice import RoadName, choose
from xenvol.images.transports.tasks import release
from xenvol.images.transports.this_vm import find_own_vm

__all__ = ["PATIENCE", "Patience", "Road", "RoadName", "choose", "find_own_vm", "release"]
