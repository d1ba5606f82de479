"""The verbs on SR, PBD, VDI and secret for drivers. Each records its inverse when it succeeds.

They are public: a driver in another package uses them as the built-in drivers do. No verb can format or erase. They
introduce and forget an SR; they create, plug, unplug and destroy a PBD. If an answer is lost, the verb reads whether
the change happened, so that the change is recorded.
"""

from xenvol.storage.disk import connect_disk, disconnect_disk, size_after_scan
from xenvol.storage.lun import (
    TYPES_ON_DEVICES,
    check_under_no_sr,
    find_listed_lun,
    find_lun,
    forget_lun,
    is_lun_per_vdi,
    log_in_again,
    release_lun,
    which_lun,
)
from xenvol.storage.lun_listing import look_anew, luns_on, seen_luns
from xenvol.storage.pbd import find_pbds, known_pbds
from xenvol.storage.release import is_ours, release_sr
from xenvol.storage.secrets import copies_of_passwords, forget_leftovers
from xenvol.storage.sr import SRSpec, connect_sr, find_sr, require_sr_type, scan_sr
from xenvol.storage.vdi import describe, find_vdi, forget_vdi, vdis_of

__all__ = [
    "TYPES_ON_DEVICES",
    "SRSpec",
    "check_under_no_sr",
    "connect_disk",
    "connect_sr",
    "copies_of_passwords",
    "describe",
    "disconnect_disk",
    "find_listed_lun",
    "find_lun",
    "find_pbds",
    "find_sr",
    "find_vdi",
    "forget_leftovers",
    "forget_lun",
    "forget_vdi",
    "is_lun_per_vdi",
    "is_ours",
    "known_pbds",
    "log_in_again",
    "look_anew",
    "luns_on",
    "release_lun",
    "release_sr",
    "require_sr_type",
    "scan_sr",
    "seen_luns",
    "size_after_scan",
    "vdis_of",
    "which_lun",
]
