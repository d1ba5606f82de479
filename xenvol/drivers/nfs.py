"""NFS: a directory of an export is an SR of type ``nfs``, and a file in it that is named by a uuid is a VDI.

The storage manager mounts ``serverpath/<sr uuid>``, so the name of that directory is the SR's uuid. An SR with
``nosubdir`` is the export itself, and may have any uuid: xenvol derives it from server and path
(docs/background/recordings.md, file and nfs).
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping

from xenvol import storage
from xenvol.connection_data.identity import Identity
from xenvol.connection_data.nfs import NFSConnectionData, NFSVolume
from xenvol.drivers.base import VolumeDriver
from xenvol.pool.view import View
from xenvol.secret import Secret
from xenvol.session.refs import VDIRef
from xenvol.storage import SRSpec

SR_TYPE = "nfs"
_NAMESPACE = uuid.UUID("0d5fd0b6-4d0a-5f35-a6b8-2c8f30f6d1a4")


class NFSDriver(VolumeDriver):
    connection_data_schema = NFSConnectionData

    def connect_volume(self, connection_data: Mapping[str, object]) -> VDIRef:
        volume = self.read_once(NFSVolume.parse, connection_data)
        view = View.of(self.session)
        vdi_ref, vdi = storage.connect_disk(view, self.undo, _spec(volume), volume.vdi_uuid, self.hosts)
        volume.identity.check(vdi_uuid=vdi["uuid"], size=int(vdi["virtual_size"]))
        return vdi_ref

    def disconnect_volume(self, connection_data: Mapping[str, object]) -> None:
        volume = self.read_once(NFSVolume.parse, connection_data)
        sr_uuid = sr_uuid_of(volume)
        storage.disconnect_disk(View.of(self.session), sr_uuid, volume.vdi_uuid, volume_id=volume.volume_id)

    def volume_key(self, connection_data: Mapping[str, object]) -> str:
        return self.identify(connection_data).key

    def identify(self, connection_data: Mapping[str, object]) -> Identity:
        volume = self.read_once(NFSVolume.parse, connection_data)
        file = f"{volume.sr_uuid or ''}/{volume.vdi_uuid}"
        places = {f"{volume.server}:{volume.serverpath}/{file}"}
        if volume.sr_uuid is not None:  # the directory's uuid is unique, whatever the server is called
            places.add(file)
        return dataclasses.replace(volume.identity, places=frozenset(places))

    def ways(self, connection_data: Mapping[str, object]) -> list[Mapping[str, str | Secret]]:
        return [self.read_once(NFSVolume.parse, connection_data).device_config]

    def extend_volume(self, connection_data: Mapping[str, object]) -> int:
        volume = self.read_once(NFSVolume.parse, connection_data)
        return storage.size_after_scan(View.of(self.session), volume.vdi_uuid)


def sr_uuid_of(volume: NFSVolume) -> str:
    """Return the SR's uuid: the name of its directory, or, for the export itself, one derived from server and path."""
    return volume.sr_uuid or str(uuid.uuid5(_NAMESPACE, f"nfs:{volume.server}:{volume.serverpath}"))


def _spec(volume: NFSVolume) -> SRSpec:
    return SRSpec(
        uuid=sr_uuid_of(volume),
        type=SR_TYPE,
        name_label=volume.name_label or f"xenvol {volume.server}:{volume.serverpath}",
        name_description=volume.name_description or SRSpec.name_description,
        device_config=volume.device_config,
        content_type="user",
        sm_config=volume.sm_config,
    )
