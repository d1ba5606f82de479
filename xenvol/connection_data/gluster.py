"""The keys of gluster, and the parsed volume: a file in an SR on the gluster volume ``host:/volume``.

The storage driver (type glusterfs, XCP-ng) mounts the gluster volume and reads its directory ``<sr uuid>`` only. So the
data must have the SR's uuid: in sr_uuid, or as the directory in name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from xenvol.connection_data.identity import Identity
from xenvol.connection_data.keys import Positive, read, refusal
from xenvol.connection_data.portal import parse_host
from xenvol.connection_data.share import ShareKeys, disk_file, parse_export, parse_options

DRIVER = "gluster"
_BACKUP_OPTIONS = ("backup-volfile-servers", "backupvolfile-server")
_ATTEMPTS_OPTION = "fetch-attempts"


class GlusterConnectionData(ShareKeys, frozen=True, kw_only=True):
    """Keys of driver_volume_type gluster. Of the mount options it accepts backup servers and fetch-attempts only."""

    server: Annotated[str | None, Meta(description="host:/volume; the same as export")] = None
    backupservers: Annotated[
        str | tuple[str, ...] | None,
        Meta(description="a list of other servers, or a text with : between them"),
    ] = None
    fetchattempts: Annotated[
        Positive | None, Meta(description="how often to ask a server before the next, 1 or more")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GlusterVolume:
    """A file in an SR's directory on a gluster volume."""

    server: str
    """``host:/volume``, as mount takes it: an IPv6 address is in brackets."""
    sr_uuid: str
    vdi_uuid: str
    backupservers: tuple[str, ...] = ()
    fetchattempts: int | None = None
    identity: Identity = field(default_factory=Identity)
    volume_id: str | None = None
    name_label: str | None = None
    name_description: str | None = None

    @classmethod
    def parse(cls, connection_data: Mapping[str, object]) -> "GlusterVolume":
        """Parse the data of a connection_info. Raises InvalidConnectionInfo."""
        keys = read(GlusterConnectionData, connection_data, driver=DRIVER)
        server = _server(keys)
        disk = disk_file(keys, driver=DRIVER)
        if disk.sr_uuid is None:
            problem = (
                "is missing: a glusterfs SR has its disks in the directory of its uuid, and finds no others"
            )
            raise refusal("sr_uuid", GlusterConnectionData, driver=DRIVER, problem=problem)
        backups, attempts = _options(keys)
        return cls(
            server=server,
            sr_uuid=disk.sr_uuid,
            vdi_uuid=disk.vdi_uuid,
            backupservers=backups,
            fetchattempts=attempts,
            identity=Identity.of(keys, vdi_uuid=disk.vdi_uuid),
            volume_id=keys.service_id,
            name_label=keys.name_label,
            name_description=keys.name_description,
        )

    @property
    def device_config(self) -> dict[str, str]:
        """The device_config for PBD.create."""
        config = {"server": self.server}
        if self.backupservers:
            config["backupservers"] = ":".join(self.backupservers)
        if self.fetchattempts is not None:
            config["fetchattempts"] = str(self.fetchattempts)
        return config


def _server(keys: GlusterConnectionData) -> str:
    servers = []
    for key, text in (("export", keys.export), ("server", keys.server)):
        if text is not None:
            try:
                servers.append(str(parse_export(text)))
            except ValueError as error:
                raise refusal(key, GlusterConnectionData, driver=DRIVER, problem=str(error)) from error
    if not servers:
        raise refusal("export", GlusterConnectionData, driver=DRIVER)
    if servers[0] != servers[-1]:
        problem = f"is {servers[-1]}, and export says {servers[0]}"
        raise refusal("server", GlusterConnectionData, driver=DRIVER, problem=problem)
    return servers[0]


def _options(keys: GlusterConnectionData) -> tuple[tuple[str, ...], int | None]:
    """Return backup servers and attempts: from their keys, else from the mount options. Refuses other options."""
    backups = keys.backupservers
    attempts = keys.fetchattempts
    for option in parse_options(keys.options):
        name, _, value = option.partition("=")
        if name in _BACKUP_OPTIONS and value:
            backups = value if backups is None else backups
        elif name == _ATTEMPTS_OPTION and value.isdecimal():
            attempts = int(value) if attempts is None else attempts
        else:
            problem = f"has {option!r}, which a glusterfs SR does not take"
            raise refusal("options", GlusterConnectionData, driver=DRIVER, problem=problem)
    hosts = (backups or "").split(":") if isinstance(backups, str | None) else backups
    try:
        return tuple(parse_host(host) for host in hosts if host), attempts
    except ValueError as error:
        raise refusal("backupservers", GlusterConnectionData, driver=DRIVER, problem=str(error)) from error
