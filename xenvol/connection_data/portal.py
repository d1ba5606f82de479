"""Parse an iSCSI portal into host and port. IPv6 may be in brackets or bare; a tpgt may follow."""

import ipaddress
import re
from typing import NamedTuple

DEFAULT_PORT = 3260  # IANA's for iSCSI, and SM's

_PORTAL = re.compile(
    r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^\[\]:,\s]*))"  # [fd00::1], or a name, or an IPv4 address
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?:,(?:-1|[0-9]{1,5}))?"  # the target portal group tag; a login does not need it; open-iscsi: -1 is unknown
)
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?\.?")


class Portal(NamedTuple):
    host: str
    """An address or a name; an IPv6 address has no brackets here."""
    port: int

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.port}"


def parse_portal(text: str) -> Portal:
    """Parse ``10.0.0.1:3260``, ``[fd00::1]:3260,1``, ``fd00::1``, ``array.example``… Raises ValueError.

    An IPv6 address without brackets has no port: its last group belongs to the address.
    """
    bare = text.partition(",")[0]
    if bare.count(":") > 1 and not bare.startswith("["):
        return Portal(_ipv6(bare), DEFAULT_PORT)
    match = _PORTAL.fullmatch(text)
    if match is None:
        raise ValueError(f"is {text!r}, which is not a portal")
    port = DEFAULT_PORT if match["port"] is None else int(match["port"])
    if not 1 <= port <= 65535:
        raise ValueError(f"has port {port}, which is not in 1 to 65535")
    return Portal(_ipv6(match["v6"]) if match["v6"] is not None else parse_host(match["host"]), port)


def parse_host(text: str) -> str:
    """Return a name, IPv4 or IPv6 address in its canonical spelling, without brackets. Raises ValueError."""
    if text.startswith("[") and text.endswith("]"):
        return _ipv6(text[1:-1])
    if ":" in text:
        return _ipv6(text)
    if re.fullmatch(r"[0-9.]+", text):
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError as error:
            raise ValueError(f"has {text!r}, which is not an IPv4 address") from error
    name = text.lower()
    if not _NAME.fullmatch(name):
        raise ValueError(f"has {text!r}, which is not a host")
    return name


def bracketed(host: str) -> str:
    """Return a host as written before a colon: an IPv6 address gets brackets."""
    return f"[{host}]" if ":" in host else host


def _ipv6(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError as error:
        raise ValueError(f"has {text!r}, which is not an IPv6 address") from error
