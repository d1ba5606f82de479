"""One ``NewType`` for each XenAPI class of reference, so that the type checker tells an SR from a VDI.

At run time they are plain strings.
"""

import re
import uuid
from typing import NewType

from xenvol.errors import RequestError

SRRef = NewType("SRRef", str)
PBDRef = NewType("PBDRef", str)
VDIRef = NewType("VDIRef", str)
VBDRef = NewType("VBDRef", str)
VMRef = NewType("VMRef", str)
HostRef = NewType("HostRef", str)
SecretRef = NewType("SecretRef", str)
TaskRef = NewType("TaskRef", str)

Name = str | uuid.UUID
"""How callers name a VM or a host: a reference, a uuid (also as a UUID object), or a name."""

NULL_REF = "OpaqueRef:NULL"
"""The reference by which xapi says "no object"."""

_NOT_SENT = re.compile(r"[\x00-\x08\x0b-\x1f]")
"""XML cannot write these characters, and turns a carriage return into a line feed."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


def is_ref(text: str) -> bool:
    """Whether the text is an opaque reference, also the NULL reference, and no uuid or name."""
    return text.startswith("OpaqueRef:")


def is_uuid(text: str) -> bool:
    """Whether the text is a uuid as xapi writes it: 8-4-4-4-12 hexadecimal digits, in either case."""
    return _UUID.fullmatch(text) is not None


def text_of(named: object, what: str, *, by: str = "a reference, a uuid or a name") -> str:
    """Return the text by which a caller names an object: a str, or the text of a UUID object.

    Raises RequestError for another type, for an empty text, and for a text that XML would change.
    """
    if not isinstance(named, str | uuid.UUID):
        raise RequestError(f"{what} is named by {by}, not by a value of type {type(named).__name__}")
    text = str(named)
    if not text:
        raise RequestError(f"{what} is named by {by}, and the text given is empty")
    if _NOT_SENT.search(text):
        raise RequestError(f"{what} is named by {by}, and {text!r} has a control character in it")
    return text
