"""The transports to a disk's bytes. Each takes the pieces of any image; none knows a file format.

| module | its law |
| --- | --- |
| `choice` | which transport reaches a disk, and why the others do not, is known before xenvol makes anything |
| `http` | xapi's HTTP handlers for disks, from anywhere |
| `block` | a VBD on the VM in which this process runs |
| `device` | a block device of this machine |
| `exchange`, `download` | one HTTP request, byte by byte; its answer as an image |
| `tasks` | xapi's task tells the result of a transfer, and which transfer still has a disk |
| `base` | what every transport promises |
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
