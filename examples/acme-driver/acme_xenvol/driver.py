"""smb: a disk on an SMB share is a file named by a uuid, in the directory of an SR of type ``smb``."""

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta

from xenvol import storage
from xenvol.connection_data.identity import Identity
from xenvol.connection_data.keys import CommonKeys, Uuid, read, refusal
from xenvol.drivers.base import VolumeDriver
from xenvol.pool.view import View
from xenvol.secret import Secret
from xenvol.session.refs import VDIRef
from xenvol.storage import SRSpec

DRIVER = "smb"


class SMBConnectionData(CommonKeys, frozen=True, kw_only=True):
    """The keys, each with the form that it takes; a key without a default is needed."""

    export: Annotated[str, Meta(pattern=r"^//[^/]+/[^/]+$", description="the share, as //server/share")]
    sr_uuid: Annotated[Uuid, Meta(description="the directory of the share that has the disk")]
    vdi_uuid: Annotated[Uuid, Meta(description="the disk, a file of that name and .vhd")]
    username: Annotated[str | None, Meta(description="who may open the share")] = None
    password: Annotated[Secret | None, Meta(description="that user's password")] = None


class SMBDriver(VolumeDriver):
    connection_data_schema = SMBConnectionData

    def connect_volume(self, connection_data: Mapping[str, object]) -> VDIRef:
        keys = _read(connection_data)
        view = View.of(self.session)
        vdi_ref, vdi = storage.connect_disk(view, self.undo, _spec(keys), keys.vdi_uuid, self.hosts)
        Identity.of(keys, vdi_uuid=keys.vdi_uuid).check(vdi_uuid=vdi["uuid"], size=int(vdi["virtual_size"]))
        return vdi_ref

    def disconnect_volume(self, connection_data: Mapping[str, object]) -> None:
        keys = _read(connection_data)
        view = View.of(self.session)
        storage.disconnect_disk(view, keys.sr_uuid, keys.vdi_uuid)
        if keys.password is not None:
            storage.forget_leftovers(view, [keys.sr_uuid], ["password"])

    def extend_volume(self, connection_data: Mapping[str, object]) -> int:
        return storage.size_after_scan(View.of(self.session), _read(connection_data).vdi_uuid)


def _read(connection_data: Mapping[str, object]) -> SMBConnectionData:
    keys = read(SMBConnectionData, connection_data, driver=DRIVER)
    if (keys.username is None) != (keys.password is None):
        raise refusal("username" if keys.username is None else "password", SMBConnectionData, driver=DRIVER)
    return keys


def _spec(keys: SMBConnectionData) -> SRSpec:
    device_config: dict[str, str | Secret] = {"server": keys.export}
    if keys.username is not None and keys.password is not None:
        device_config |= {"username": keys.username, "password": keys.password}
    name_label = keys.name_label or f"ACME {keys.export}"
    return SRSpec(uuid=keys.sr_uuid, type="smb", name_label=name_label, device_config=device_config)
