"""The keys of nfs, and the parsed volume: cinder's export and file name, or the SR and VDI by uuid.

The storage manager mounts ``server:serverpath/<sr uuid>``. With sm_config nosubdir=true it mounts ``server:serverpath``
itself, and the SR may have any uuid (docs/background/recordings.md, file and nfs). So a file in the export itself needs
no sr_uuid.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from xenvol.connection_data.identity import Identity
from xenvol.connection_data.keys import read, refusal
from xenvol.connection_data.portal import parse_host
from xenvol.connection_data.share import (
    Location,
    ShareKeys,
    disk_file,
    parse_export,
    parse_options,
    parse_path,
)

DRIVER = "nfs"
_VERSIONS = (
    "3",
    "4",
    "4.0",
    "4.1",
    "4.2",
)  # the storage manager takes 3 and what begins with 4, and crashes (1200) on all others


class NFSConnectionData(ShareKeys, frozen=True, kw_only=True):
    """Keys of driver_volume_type nfs."""

    server: Annotated[str | None, Meta(description="the NFS server, a name or an address; or use export")] = (
        None
    )
    serverpath: Annotated[str | None, Meta(description="the exported directory, with server")] = None
    nfsversion: Annotated[
        str | int | float | None,
        Meta(description=f"one of {', '.join(_VERSIONS)}; vers= in options does the same"),
    ] = None
    nosubdir: Annotated[
        bool | None,
        Meta(description="true: the files are in serverpath itself, not in its directory sr_uuid"),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NFSVolume:
    """A file in an NFS directory."""

    server: str
    """A name or an address. IPv6 has no brackets: the storage manager adds them."""
    serverpath: str
    vdi_uuid: str
    sr_uuid: str | None
    """None only with `nosubdir`: then the SR may have any uuid."""
    nosubdir: bool
    nfsversion: str | None = None
    options: tuple[str, ...] = ()
    identity: Identity = field(default_factory=Identity)
    volume_id: str | None = None
    name_label: str | None = None
    name_description: str | None = None

    @classmethod
    def parse(cls, connection_data: Mapping[str, object]) -> "NFSVolume":
        """Parse the data of a connection_info. Raises InvalidConnectionInfo."""
        keys = read(NFSConnectionData, connection_data, driver=DRIVER)
        location = _location(keys)
        disk = disk_file(keys, driver=DRIVER)
        nosubdir = disk.sr_uuid is None if keys.nosubdir is None else keys.nosubdir
        if disk.sr_uuid is None and not nosubdir:
            raise refusal(
                "sr_uuid", NFSConnectionData, driver=DRIVER, problem="is missing, and nosubdir is false"
            )
        nfsversion, options = _version(keys)
        return cls(
            server=location.host,
            serverpath=location.path,
            vdi_uuid=disk.vdi_uuid,
            sr_uuid=disk.sr_uuid,
            nosubdir=nosubdir,
            nfsversion=nfsversion,
            options=options,
            identity=Identity.of(keys, vdi_uuid=disk.vdi_uuid),
            volume_id=keys.service_id,
            name_label=keys.name_label,
            name_description=keys.name_description,
        )

    @property
    def device_config(self) -> dict[str, str]:
        """The device_config for PBD.create."""
        config = {"server": self.server, "serverpath": self.serverpath}
        if self.nfsversion is not None:
            config["nfsversion"] = self.nfsversion
        if self.options:
            config["options"] = ",".join(self.options)
        return config

    @property
    def sm_config(self) -> dict[str, str]:
        """The sm_config for SR.introduce."""
        return {"nosubdir": "true"} if self.nosubdir else {}


def _location(keys: NFSConnectionData) -> Location:
    """Return the share: of export, or of server and serverpath. If the data has both, they must agree."""
    key = "export"
    try:
        export = None if keys.export is None else parse_export(keys.export)
        key = "server"
        server = None if keys.server is None else parse_host(keys.server)
        key = "serverpath"
        path = None if keys.serverpath is None else parse_path(keys.serverpath)
    except ValueError as error:
        raise refusal(key, NFSConnectionData, driver=DRIVER, problem=str(error)) from error
    if export is None:
        if server is None or path is None:
            lacking = "serverpath" if path is None and server is not None else "server" if path else "export"
            raise refusal(lacking, NFSConnectionData, driver=DRIVER)
        return Location(server, path)
    for key, one, other in (("server", server, export.host), ("serverpath", path, export.path)):
        if one is not None and one != other:
            raise refusal(key, NFSConnectionData, driver=DRIVER, problem=f"is {one}, and export says {other}")
    return export


def _version(keys: NFSConnectionData) -> tuple[str | None, tuple[str, ...]]:
    """Return the NFS version, which the storage manager takes separately, and the other options."""
    version = None if keys.nfsversion is None else str(keys.nfsversion)
    others = []
    for option in parse_options(keys.options):
        name, _, value = option.partition("=")
        if name in ("vers", "nfsvers"):
            version = value if version is None else version
        else:
            others.append(option)
    if version is not None and version not in _VERSIONS:
        raise refusal("nfsversion", NFSConnectionData, driver=DRIVER, problem=f"is {version!r}")
    return version, tuple(others)
