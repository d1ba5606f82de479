"""iSCSI: every LUN of a target is a VDI of one SR of type ``iscsi``, and the pool holds a target only once.

A target is the pool's by its IQN: the uuid of our SR is derived from that, so that all who attach mean the same
SR. An SR of somebody else's that holds the target already is used, and never forgotten, since a second SR on a
target stays empty and unscannable (docs/background/recordings.md, finding 12 (storage)). Plugging the SR brings in all
LUNs; one that was mapped later is brought in by its number. There is never a scan: it would drop the record of a LUN
that has vanished from under a plugged disk (finding 8 (storage)).
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Any

from xenvol import storage
from xenvol.connection_data.identity import Identity
from xenvol.connection_data.iscsi import ISCSIConnectionData, ISCSITarget, ISCSIVolume
from xenvol.drivers.base import VolumeDriver
from xenvol.errors import VolumeNotFound, XapiError
from xenvol.pool.view import Record, View
from xenvol.secret import Secret
from xenvol.session.refs import SRRef, VDIRef
from xenvol.storage import SRSpec
from xenvol.storage.users import is_held_by_another, was_taken_out

SR_TYPE = "iscsi"
_NAMESPACE = uuid.UUID("c1a4ad7e-9b5b-5a0c-8d21-5d6f3a1e7b11")

_NO_PORTAL = frozenset({"SR_BACKEND_FAILURE_140", "SR_BACKEND_FAILURE_141"})
"""Nobody there under this name or address: another portal of the target may answer."""
_CHAP_KEYS = ("chappassword", "incoming_chappassword")


class ISCSIDriver(VolumeDriver):
    connection_data_schema = ISCSIConnectionData

    def connect_volume(self, connection_data: Mapping[str, object]) -> VDIRef:
        volume = self.read_once(ISCSIVolume.parse, connection_data)
        view = View.of(self.session)
        storage.require_sr_type(view, SR_TYPE)
        target, sr_ref, is_fresh = self._connect_target(view, volume)
        vdi_ref, vdi = storage.find_lun(
            view,
            self.undo,
            sr_ref,
            target.lun,
            is_fresh=is_fresh,
            sharable=volume.multiattach,
            hosts=self.hosts,
            sr_type=SR_TYPE,
            proves=volume.proves,
        )
        storage.check_under_no_sr(vdi, view.remembered("SR").values())
        volume.identity.check(
            vdi_uuid=vdi["uuid"],
            scsi_id=vdi["sm_config"].get("SCSIid"),
            size=int(vdi["virtual_size"]),
            may_lag=not is_fresh,
        )
        return vdi_ref

    def disconnect_volume(self, connection_data: Mapping[str, object]) -> None:
        volume = self.read_once(ISCSIVolume.parse, connection_data)
        view = View.of(self.session)
        for target, sr_ref in self._holding(view, volume):
            own = partial(_is_own, view, volume, target)
            is_released = storage.release_sr(view, sr_ref, of=own)
            if not is_released or not storage.is_ours(view.record("SR", sr_ref)):
                storage.forget_lun(view, sr_ref, target.lun, of=own)
        if volume.chap is not None:
            storage.forget_leftovers(view, map(sr_uuid_of, volume.targets), _CHAP_KEYS)

    def volume_key(self, connection_data: Mapping[str, object]) -> str:
        return self.identify(connection_data).key

    def identify(self, connection_data: Mapping[str, object]) -> Identity:
        volume = self.read_once(ISCSIVolume.parse, connection_data)
        places = {f"{each.iqn}/{'' if each.lun is None else each.lun}" for each in volume.targets}
        return dataclasses.replace(volume.identity, places=frozenset(places))

    def find_volume(
        self, connection_data: Mapping[str, object], among: Mapping[VDIRef, Mapping[str, Any]]
    ) -> set[VDIRef]:
        """Those in an SR of the volume's targets that have the SCSI id which the VM's host sees under its number."""
        volume = self.read_once(ISCSIVolume.parse, connection_data)
        if not any("LUNid" in vdi["sm_config"] for vdi in among.values()):
            return set()
        view = View.of(self.session)
        found: set[VDIRef] = set()
        for target, sr_ref in self._holding(view, volume):
            here = {ref: vdi for ref, vdi in among.items() if vdi["SR"] == sr_ref}
            found |= storage.which_lun(view, sr_ref, target.lun, here, self.hosts)
        return found

    def ways(self, connection_data: Mapping[str, object]) -> list[Mapping[str, str | Secret]]:
        volume = self.read_once(ISCSIVolume.parse, connection_data)
        return [_spec(volume, target).device_config for target in volume.targets]

    def extend_volume(self, connection_data: Mapping[str, object]) -> int:
        """See the new size. The storage driver learns it only from a new log-in (docs/background/recordings.md,
        finding 7 (storage)), so no disk of the target may be plugged: raises VolumeInUse, which names those that
        are."""
        volume = self.read_once(ISCSIVolume.parse, connection_data)
        view = View.of(self.session)
        for target, sr_ref in self._holding(view, volume):
            storage.log_in_again(view, self.undo, sr_ref)
            _, vdi = storage.find_lun(
                view,
                self.undo,
                sr_ref,
                target.lun,
                is_fresh=True,
                sharable=False,
                sr_type=SR_TYPE,
                proves=volume.proves,
            )
            return int(vdi["virtual_size"])
        raise VolumeNotFound(f"the target {volume.targets[0].iqn}")

    # ---- the target's SR

    def _connect_target(self, view: View, volume: ISCSIVolume) -> tuple[ISCSITarget, SRRef, bool]:
        """The SR that holds the target, plugged, and whether its LUNs have been listed just now.

        Each host comes by the first portal of the target that answers it. A new SR is made for the first target that a
        portal answers for.
        """
        for target, sr_ref in self._holding(view, volume):
            spec, ways = _spec(volume, target), _ways(volume, target)
            return target, *storage.connect_sr(view, self.undo, spec, self.hosts, found=sr_ref, ways=ways)
        first_of_iqn = {target.iqn: target for target in reversed(volume.targets)}
        targets = [target for target in volume.targets if first_of_iqn[target.iqn] is target]
        for last, target in zip(range(len(targets) - 1, -1, -1), targets, strict=True):
            spec, ways = _spec(volume, target), _ways(volume, target)
            try:
                return target, *storage.connect_sr(view, self.undo, spec, self.hosts, ways=ways)
            except XapiError as error:
                if error.code not in _NO_PORTAL or not last:
                    raise
                self.undo.unwind()
        raise AssertionError("a volume without targets was parsed")

    def _holding(self, view: View, volume: ISCSIVolume) -> list[tuple[ISCSITarget, SRRef]]:
        """The targets of the volume that an SR of the pool holds already, ours or somebody's; two calls at most.

        Several SRs may claim a target, and only one of them has its LUNs: that one comes first. The SRs that may lie
        on a LUN come with the same call.
        """
        every = view.find("SR", {"type": [SR_TYPE, *storage.LVM_TYPES]})
        srs = {ref: sr for ref, sr in every.items() if sr["type"] == SR_TYPE}
        iqn_of = {
            ref: sr["sm_config"]["targetIQN"] for ref, sr in srs.items() if "targetIQN" in sr["sm_config"]
        }
        pbd_refs = [pbd for ref, sr in srs.items() if ref not in iqn_of for pbd in sr["PBDs"]]
        if pbd_refs:  # somebody else's: only their PBDs tell the target
            view.read({"PBD": pbd_refs})
            known = [pbd for ref in pbd_refs if (pbd := view.known("PBD", ref)) is not None]
            iqn_of |= {pbd["SR"]: pbd["device_config"].get("targetIQN", "") for pbd in known}
        by_iqn = {target.iqn: target for target in reversed(volume.targets)}
        holding = [(by_iqn[iqn], SRRef(ref)) for ref, iqn in iqn_of.items() if iqn in by_iqn]
        holding = [row for row in holding if storage.is_ours(srs[row[1]]) or srs[row[1]]["PBDs"]]
        return sorted(holding, key=lambda row: (not srs[row[1]]["VDIs"], not storage.is_ours(srs[row[1]])))


def _is_own(view: View, volume: ISCSIVolume, target: ISCSITarget, vdi: Record) -> bool:
    """Whether it is the volume's LUN: stale data may name a number that is another volume's by now, which is held.

    The record has the number that the master gives the LUN, and the data that of the VM's host. So where a disk of this
    SR was taken out of the VM, the volume is that one.
    """
    if is_held_by_another(vdi, volume.volume_id):
        return False
    if (proof := volume.proves(vdi)) is not None:
        return proof
    if (is_out := was_taken_out(view, vdi)) is not None:
        return is_out
    return target.lun is None or vdi["sm_config"].get("LUNid") == str(target.lun)


def sr_uuid_of(target: ISCSITarget) -> str:
    """The uuid of our SR for a target: the same for whoever attaches, whichever portal is given."""
    return str(uuid.uuid5(_NAMESPACE, f"iscsi:{target.iqn}"))


def _ways(volume: ISCSIVolume, target: ISCSITarget) -> list[Mapping[str, str | Secret]]:
    """The device_configs by which a host may reach the target: one for each of its portals."""
    return [_spec(volume, way).device_config for way in volume.targets if way.iqn == target.iqn]


def _spec(volume: ISCSIVolume, target: ISCSITarget) -> SRSpec:
    device_config: dict[str, str | Secret] = {
        "target": target.host,
        "port": str(target.port),
        "targetIQN": target.iqn,
    }
    if volume.chap is not None:
        device_config |= {"chapuser": volume.chap.username, "chappassword": volume.chap.password}
    if volume.incoming_chap is not None:
        device_config |= {
            "incoming_chapuser": volume.incoming_chap.username,
            "incoming_chappassword": volume.incoming_chap.password,
        }
    return SRSpec(
        uuid=sr_uuid_of(target),
        type=SR_TYPE,
        name_label=volume.name_label or f"xenvol {target.iqn}",
        name_description=volume.name_description or SRSpec.name_description,
        device_config=device_config,
        # what SR.create writes there, so that others see the target is taken (recordings.md, finding 13 (storage))
        sm_config={"target": target.host, "targetIQN": target.iqn},
    )
