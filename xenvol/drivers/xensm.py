"""xensm: a VDI of any SR, both named by uuid. The SR is introduced from the data if the pool does not know it.

nova-volume's XenSM and cinder's XenAPINFS sent such data (docs/background/peers.md a.8, e.2), and xenvol's Storage
Manager sends it. An SR that xenvol did not introduce is used, and never forgotten.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from xenvol import storage
from xenvol.connection_data.identity import Identity
from xenvol.connection_data.keys import refusal
from xenvol.connection_data.xensm import DRIVER, XenSMConnectionData, XenSMVolume
from xenvol.drivers.base import VolumeDriver
from xenvol.errors import VolumeNotFound
from xenvol.pool.view import Record, View
from xenvol.secret import Secret
from xenvol.session.refs import SRRef, VDIRef
from xenvol.storage import SRSpec
from xenvol.storage.users import is_held_by_another, was_taken_out


class AnySRDriver(VolumeDriver):
    connection_data_schema = XenSMConnectionData

    def connect_volume(self, connection_data: Mapping[str, object]) -> VDIRef:
        volume = self.read_once(XenSMVolume.parse, connection_data)
        view = View.of(self.session)
        spec = _spec(volume, _known_type(view, volume))
        if (
            volume.vdi_uuid is not None
            and volume.target_lun is None
            and not storage.is_lun_per_vdi(spec.type)
        ):
            vdi_ref, vdi = storage.connect_disk(view, self.undo, spec, volume.vdi_uuid, self.hosts)
        else:
            vdi_ref, vdi = self._connect_lun(view, volume, spec)
        volume.identity.check(
            vdi_uuid=vdi["uuid"], scsi_id=vdi["sm_config"].get("SCSIid"), size=int(vdi["virtual_size"])
        )
        return vdi_ref

    def disconnect_volume(self, connection_data: Mapping[str, object]) -> None:
        volume = self.read_once(XenSMVolume.parse, connection_data)
        view = View.of(self.session)
        if volume.target_lun is None:
            storage.disconnect_disk(view, volume.sr_uuid, volume.vdi_uuid, volume_id=volume.volume_id)
        else:
            sr_ref = storage.find_sr(view, volume.sr_uuid)
            if sr_ref is not None:
                storage.release_lun(view, sr_ref, volume.target_lun, of=partial(_is_own, view, volume))
        passwords = [key for key, value in volume.device_config.items() if isinstance(value, Secret)]
        if passwords:
            storage.forget_leftovers(view, [volume.sr_uuid], passwords)

    def volume_key(self, connection_data: Mapping[str, object]) -> str:
        return self.identify(connection_data).key

    def identify(self, connection_data: Mapping[str, object]) -> Identity:
        volume = self.read_once(XenSMVolume.parse, connection_data)
        lun = "" if volume.target_lun is None else volume.target_lun
        places = {f"{volume.sr_uuid}/{volume.vdi_uuid or ''}/{lun}"}
        return dataclasses.replace(volume.identity, places=frozenset(places))

    def find_volume(
        self, connection_data: Mapping[str, object], among: Mapping[VDIRef, Mapping[str, Any]]
    ) -> set[VDIRef]:
        """Return the disks that are the volume. A LUN must have the SCSI id that the VM's host sees at its number."""
        volume = self.read_once(XenSMVolume.parse, connection_data)
        view = View.of(self.session)
        sr_ref = storage.find_sr(view, volume.sr_uuid)
        here = {ref: vdi for ref, vdi in among.items() if vdi["SR"] == sr_ref}
        if sr_ref is None or not here:
            return set()
        if storage.is_lun_per_vdi(view.record("SR", sr_ref)["type"]):
            return storage.which_lun(view, sr_ref, volume.target_lun, here, self.hosts)
        return {self._the_vdi(view, volume, sr_ref)[0]} & set(here)

    def ways(self, connection_data: Mapping[str, object]) -> list[Mapping[str, str | Secret]]:
        device_config = self.read_once(XenSMVolume.parse, connection_data).device_config
        return [device_config] if device_config else []

    def extend_volume(self, connection_data: Mapping[str, object]) -> int:
        """Scan the SR, or, for a LUN, log in again; return the new size in bytes. VolumeInUse if a LUN is plugged."""
        volume = self.read_once(XenSMVolume.parse, connection_data)
        view = View.of(self.session)
        sr_ref = storage.find_sr(view, volume.sr_uuid)
        if sr_ref is None:
            raise VolumeNotFound(f"SR {volume.sr_uuid}")
        is_lun = storage.is_lun_per_vdi(view.record("SR", sr_ref)["type"])
        if is_lun:
            storage.log_in_again(view, self.undo, sr_ref)
        else:
            storage.scan_sr(view, sr_ref)
        if is_lun and volume.target_lun is not None:
            proves = partial(_is_proved, volume)
            vdi = storage.find_listed_lun(view, sr_ref, volume.target_lun, hosts=self.hosts, proves=proves)
        else:
            _, vdi = self._the_vdi(view, volume, sr_ref)
        return int(vdi["virtual_size"])

    def _connect_lun(self, view: View, volume: XenSMVolume, spec: SRSpec) -> tuple[VDIRef, Record]:
        """Connect the SR; return a disk named by LUN number, a LUN named by uuid, or the SR's only disk."""
        storage.require_sr_type(view, spec.type)
        sr_ref, is_new = storage.connect_sr(view, self.undo, spec, self.hosts)
        if volume.target_lun is None:
            vdi_ref, vdi = self._the_vdi(view, volume, sr_ref)
        else:
            vdi_ref, vdi = storage.find_lun(
                view,
                self.undo,
                sr_ref,
                volume.target_lun,
                is_fresh=is_new,
                sharable=volume.multiattach,
                hosts=self.hosts,
                sr_type=spec.type,
                proves=partial(_is_proved, volume),
            )
        if storage.is_lun_per_vdi(spec.type):
            storage.check_under_no_sr(vdi, view.find("SR", {"type": storage.TYPES_ON_DEVICES}).values())
        return vdi_ref, vdi

    def _the_vdi(self, view: View, volume: XenSMVolume, sr_ref: SRRef) -> tuple[VDIRef, Record]:
        """Return the VDI that matches the data's uuid and LUN number, or the SR's only VDI. Raises VolumeNotFound."""
        vdis = storage.vdis_of(view, sr_ref)
        chosen = {ref: vdi for ref, vdi in vdis.items() if _is_the_vdi(volume, vdi)}
        if len(chosen) != 1:
            what = volume.vdi_uuid or (
                "the only VDI" if volume.target_lun is None else f"LUN {volume.target_lun}"
            )
            raise VolumeNotFound(f"{what} of SR {volume.sr_uuid}", found=map(storage.describe, vdis.values()))
        ((vdi_ref, vdi),) = chosen.items()
        return vdi_ref, vdi


def _is_own(view: View, volume: XenSMVolume, vdi: Record) -> bool:
    """Return whether this VDI is the volume's LUN, although its record may have another number, that of the master."""
    if is_held_by_another(vdi, volume.volume_id):
        return False
    is_out = was_taken_out(view, vdi)
    return _is_the_vdi(volume, vdi) if is_out is None else is_out


def _is_proved(volume: XenSMVolume, vdi: Record) -> bool | None:
    return volume.identity.is_of(vdi["uuid"], vdi["sm_config"].get("SCSIid"))


def _is_the_vdi(volume: XenSMVolume, vdi: Record) -> bool:
    return (volume.vdi_uuid is None or vdi["uuid"] == volume.vdi_uuid) and (
        volume.target_lun is None or vdi["sm_config"].get("LUNid") == str(volume.target_lun)
    )


def _known_type(view: View, volume: XenSMVolume) -> str:
    """Return the SR's type: the data's, else that of the pool's SR.

    Raises InvalidConnectionInfo if the data does not say how to introduce the SR, and the pool does not have it.
    """
    if volume.sr_type is not None and volume.device_config:
        return volume.sr_type
    sr_ref = storage.find_sr(view, volume.sr_uuid)
    if sr_ref is None:
        raise refusal(
            "sr_type" if volume.sr_type is None else "introduce_sr_keys",
            XenSMConnectionData,
            driver=DRIVER,
            problem=f"is missing, and the pool has no SR {volume.sr_uuid} (of the Storage Manager's SRs, "
            "`xenvol sm setup` introduces each)",
        )
    return str(view.record("SR", sr_ref)["type"])


def _spec(volume: XenSMVolume, sr_type: str) -> SRSpec:
    return SRSpec(
        uuid=volume.sr_uuid,
        type=sr_type,
        name_label=volume.name_label or f"xenvol {sr_type} {volume.sr_uuid}",
        name_description=volume.name_description or SRSpec.name_description,
        device_config=volume.device_config,
        content_type=volume.content_type or ("" if storage.is_lun_per_vdi(sr_type) else "user"),
        sm_config=volume.sm_config,
    )
