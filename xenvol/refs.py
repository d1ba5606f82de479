"""A reference knows its class: one ``NewType`` for each XenAPI class, so that no SR is passed for a VDI.

They are plain strings at run time; the type checker is what keeps them apart.
"""

import re
import uuid
from typing import NewType

SRRef = NewType("SRRef", str)
PBDRef = NewType("PBDRef", str)
VDIRef = NewType("VDIRef", str)
VBDRef = NewType("VBDRef", str)
VMRef = NewType("VMRef", str)
HostRef = NewType("HostRef", str)
PoolRef = NewType("PoolRef", str)
SecretRef = NewType("SecretRef", str)
TaskRef = NewType("TaskRef", str)
SMRef = NewType("SMRef", str)

Name = str | uuid.UUID
"""How callers name a VM or a host: a reference, a uuid (also as a UUID object), or a name."""

NULL_REF = "OpaqueRef:NULL"
"""What xapi answers for "no object"."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


def is_ref(text: str) -> bool:
    """Tell an opaque reference from a uuid and from a name; the NULL reference is one too."""
    return text.startswith("OpaqueRef:")


def is_uuid(text: str) -> bool:
    """Tell a uuid in xapi's spelling, 8-4-4-4-12 hexadecimal digits in any case, from anything else."""
    return _UUID.fullmatch(text) is not None
