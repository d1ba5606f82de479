"""The roads to a disk's bytes: each takes the pieces of any image, and none knows a format of files.

| module | its law |
| --- | --- |
| `choice` | which road there is, and why not the others, is known before anything is made |
| `http` | xapi's own door for disks, from anywhere |
| `block` | a VBD on the VM in which we run |
| `device` | a block device that this machine shows |
| `exchange`, `download` | one HTTP request, byte by byte; what comes of it, as an image |
| `tasks` | the truth about a transfer, and who still has a disk |
| `base` | what every road promises |
"""

from xenvol.images.transports.base import TIMEOUTS, Timeouts, Transport
from xenvol.images.transports.choice import TransportName, choose_transport, find_own_vm, plugged_hosts
from xenvol.images.transports.tasks import release

__all__ = [
    "TIMEOUTS",
    "Timeouts",
    "Transport",
    "TransportName",
    "choose_transport",
    "find_own_vm",
    "plugged_hosts",
    "release",
]
