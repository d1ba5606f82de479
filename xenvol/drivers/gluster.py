"""Gluster: a directory on a gluster volume is an SR of type ``glusterfs``. Only XCP-ng has that type."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from xenvol import storage
from xenvol.connection_data.gluster import GlusterConnectionData, GlusterVolume
from xenvol.connection_data.identity import Identity
from xenvol.drivers.base import VolumeDriver
from xenvol.pool.view import View
from xenvol.secret import Secret
from xenvol.session.refs import VDIRef
from xenvol.storage import SRSpec

SR_TYPE = "glusterfs"


class GlusterDriver(VolumeDriver):
    connection_data_schema = GlusterConnectionData

    def connect_volume(self, connection_data: Mapping[str, object]) -> VDIRef:
        volume = self.read_once(GlusterVolume.parse, connection_data)
        view = View.of(self.session)
        vdi_ref, vdi = storage.connect_disk(view, self.undo, _spec(volume), volume.vdi_uuid, self.hosts)
        volume.identity.check(vdi_uuid=vdi["uuid"], size=int(vdi["virtual_size"]))
        return vdi_ref

    def disconnect_volume(self, connection_data: Mapping[str, object]) -> None:
        volume = self.read_once(GlusterVolume.parse, connection_data)
        storage.disconnect_disk(
            View.of(self.session), volume.sr_uuid, volume.vdi_uuid, volume_id=volume.volume_id
        )

    def volume_key(self, connection_data: Mapping[str, object]) -> str:
        return self.identify(connection_data).key

    def identify(self, connection_data: Mapping[str, object]) -> Identity:
        volume = self.read_once(GlusterVolume.parse, connection_data)
        file = f"{volume.sr_uuid}/{volume.vdi_uuid}"  # the directory's uuid is unique, whatever the server is called
        places = {f"{volume.server}/{file}", file}
        return dataclasses.replace(volume.identity, places=frozenset(places))

    def ways(self, connection_data: Mapping[str, object]) -> list[Mapping[str, str | Secret]]:
        return [self.read_once(GlusterVolume.parse, connection_data).device_config]

    def extend_volume(self, connection_data: Mapping[str, object]) -> int:
        volume = self.read_once(GlusterVolume.parse, connection_data)
        return storage.size_after_scan(View.of(self.session), volume.vdi_uuid)


def _spec(volume: GlusterVolume) -> SRSpec:
    return SRSpec(
        uuid=volume.sr_uuid,
        type=SR_TYPE,
        name_label=volume.name_label or f"xenvol {volume.server}",
        name_description=volume.name_description or SRSpec.name_description,
        device_config=volume.device_config,
        content_type="user",
    )
