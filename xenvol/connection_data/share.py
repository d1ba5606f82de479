"""Parse a file on a share: the export ``server:/path`` becomes an SR, and the file's name a VDI of it.

An SR of files is a directory. Its VDIs are the files in it that are named ``<uuid>.vhd``, ``.raw`` or ``.qcow2``. Other
names are ignored, and a ``*.raw`` or ``*.vhd`` without a uuid breaks every scan (docs/background/xapi.md 5.2,
docs/background/recordings.md, file and nfs). So only a file that is named by a uuid can be attached.
"""

import re
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

from xenvol.connection_data.connection_info import has_control_character
from xenvol.connection_data.keys import CommonKeys, Uuid, refusal
from xenvol.connection_data.portal import bracketed, parse_host

Format = Literal["raw", "vhd", "qcow2"]
_FORMATS: dict[str, Format] = {"raw": "raw", "vhd": "vhd", "vpc": "vhd", "qcow2": "qcow2"}

_EXPORT = re.compile(r"(?P<host>\[[^\[\]]+\]|[^\[\]]+?):(?P<path>/.*)")
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_NAME = re.compile(rf"(?:(?P<sr>{_UUID})/)?(?P<vdi>{_UUID})(?:\.(?P<format>vhd|raw|qcow2))?", re.IGNORECASE)


class ShareKeys(CommonKeys, frozen=True, kw_only=True):
    """The keys of every driver for files on a share."""

    export: Annotated[str | None, Meta(description="server:/path, an IPv6 address in brackets")] = None
    name: Annotated[
        str | None,
        Meta(
            description="the file: <uuid>.vhd, .raw or .qcow2, or the uuid alone, which is the VDI's;"
            " <sr uuid>/ before it names its directory in the export"
        ),
    ] = None
    format: Annotated[
        Literal["raw", "vhd", "vpc", "qcow2"] | None, Meta(description="raw, vhd (or vpc) or qcow2")
    ] = None
    options: Annotated[str | None, Meta(description="mount options, with or without -o before them")] = None
    sr_uuid: Annotated[Uuid | None, Meta(description="the SR's uuid, the name of its directory")] = None
    vdi_uuid: Annotated[Uuid | None, Meta(description="the VDI's uuid, the name of its file")] = None


class Location(NamedTuple):
    """The host and path of a share. The host has no brackets, and the path ends without a slash."""

    host: str
    path: str

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.path}"


class DiskFile(NamedTuple):
    vdi_uuid: str
    sr_uuid: str | None
    """The SR's directory with the file, or None if the data does not name it."""
    format: Format | None
    """None if the data does not name it: the storage driver finds it out."""


def parse_export(text: str) -> Location:
    """Parse ``10.0.0.1:/vol``, ``[fd00::1]:/vol``, ``fd00::1:/vol``, ``nas:/a/b/``. Raises ValueError."""
    match = _EXPORT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"is {text!r}, which is not an export")
    return Location(parse_host(match["host"]), parse_path(match["path"]))


def parse_path(text: str) -> str:
    """Return a path in its canonical spelling, so that a directory never gets two SRs. Raises ValueError."""
    if not text.startswith("/") or "/../" in f"{text}/":
        raise ValueError(f"is {text!r}, which is not an absolute path")
    if has_control_character(text):
        raise ValueError("has a control character")
    return "/" + "/".join(part for part in text.split("/") if part not in ("", "."))


def parse_options(text: str | None) -> tuple[str, ...]:
    """Return the single options of ``-o vers=4.1,soft``."""
    words = re.sub(r"(?:^|\s)-o\s*", " ", text or "")
    return tuple(option for option in re.split(r"[,\s]+", words) if option)


def disk_file(keys: ShareKeys, *, driver: str) -> DiskFile:
    """Return the VDI that the keys mean. Keys that say the same must agree. Raises InvalidConnectionInfo."""
    table = type(keys)
    named = None if keys.name is None else _NAME.fullmatch(keys.name)
    if named is None and keys.vdi_uuid is None:
        if keys.name is None:
            raise refusal("name", table, driver=driver)
        problem = (
            f"is {keys.name!r}, which is not a disk of any SR: the storage manager finds a disk only if its file is"
            " named by a uuid, and a *.vhd or *.raw with another name stops its scan; rename the file, or give"
            " sr_uuid and vdi_uuid"
        )
        raise refusal("name", table, driver=driver, problem=problem)

    of_name = (
        None
        if named is None
        else DiskFile(
            named["vdi"].lower(),
            None if named["sr"] is None else named["sr"].lower(),
            None if named["format"] is None else _FORMATS[named["format"].lower()],
        )
    )
    of_keys = DiskFile(
        "" if keys.vdi_uuid is None else keys.vdi_uuid.lower(),
        None if keys.sr_uuid is None else keys.sr_uuid.lower(),
        None if keys.format is None else _FORMATS[keys.format],
    )
    if of_name is None:
        return of_keys
    for key in ("vdi_uuid", "sr_uuid", "format"):
        one, other = getattr(of_keys, key), getattr(of_name, key)
        if one and other and one != other:
            raise refusal(key, table, driver=driver, problem=f"is {one}, and name says {other}")
    return DiskFile(of_name.vdi_uuid, of_name.sr_uuid or of_keys.sr_uuid, of_name.format or of_keys.format)
