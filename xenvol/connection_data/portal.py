"""An iSCSI portal in all its spellings ⇄ a host and a port; IPv6 in brackets or bare, with or without tpgt."""

import ipaddress
import re
from typing import NamedTuple

DEFAULT_PORT = 3260  # IANA's for iSCSI, and SM's

_PORTAL = re.compile(
    r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^\[\]:,\s]*))"  # [fd00::1], or a name, or an IPv4 address
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?:,(?:-1|[0-9]{1,5}))?"  # the target portal group tag, which a login does not need; open-iscsi: -1 is unknown
)
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?\.?")


class Portal(NamedTuple):
    host: str
    """An address or a name; an IPv6 address has no brackets here."""
    port: int

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.port}"


def parse_portal(text: str) -> Portal:
    """Read ``10.0.0.1:3260``, ``[fd00::1]:3260,1``, ``fd00::1``, ``array.example``…; ValueError says what
    is wrong.

    An IPv6 address without brackets is all address: its last group is never taken for a port.
    """
    bare = text.partition(",")[0]
    if bare.count(":") > 1 and not bare.startswith("["):
        return Portal(_ipv6(bare), DEFAULT_PORT)
    match = _PORTAL.fullmatch(text)
    if match is None:
        raise ValueError(f"is {text!r}, which is no portal")
    port = DEFAULT_PORT if match["port"] is None else int(match["port"])
    if not 1 <= port <= 65535:
        raise ValueError(f"has the port {port}, which is not in 1 to 65535")
    return Portal(_ipv6(match["v6"]) if match["v6"] is not None else parse_host(match["host"]), port)


def parse_host(text: str) -> str:
    """One spelling for a name or an IPv4 or IPv6 address, brackets taken off; ValueError says what is wrong."""
    if text.startswith("[") and text.endswith("]"):
        return _ipv6(text[1:-1])
    if ":" in text:
        return _ipv6(text)
    if re.fullmatch(r"[0-9.]+", text):
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError as error:
            raise ValueError(f"has {text!r}, which is no IPv4 address") from error
    name = text.lower()
    if not _NAME.fullmatch(name):
        raise ValueError(f"has {text!r}, which is no host")
    return name


def bracketed(host: str) -> str:
    """A host as it stands before a colon."""
    return f"[{host}]" if ":" in host else host


def _ipv6(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError as error:
        raise ValueError(f"has {text!r}, which is no IPv6 address") from error
