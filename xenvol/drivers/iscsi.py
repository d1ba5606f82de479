"""iSCSI: every LUN of a target is a VDI of one SR of type ``iscsi``, and a pool can have a target in one SR only.

The uuid of xenvol's SR is derived from the target's IQN, so that all processes mean the same SR. If an SR that xenvol
did not introduce has the target, it is used and never forgotten: a second SR on a target stays empty and cannot be
scanned (docs/background/recordings.md, finding 12 (storage)). A plug of the SR adds a VDI for every LUN. A LUN that is
mapped later is introduced by its number. The SR is never scanned: a scan drops the record of a LUN that has vanished
from under a plugged disk (finding 8 (storage)).
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
"""No answer at this name or address. Another portal of the target may answer."""
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
            storage.release_lun(view, sr_ref, target.lun, of=partial(_is_own, view, volume, target))
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
        """Return the disks of the target's SRs that have the SCSI id that the VM's host sees under the LUN's number."""
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
        """Log in to the target again and return the LUN's new size in bytes.

        The storage driver reads the size only at a log-in (docs/background/recordings.md, finding 7 (storage)). Raises
        VolumeInUse, which names the users, if a disk of the target is plugged.
        """
        volume = self.read_once(ISCSIVolume.parse, connection_data)
        view = View.of(self.session)
        for target, sr_ref in self._holding(view, volume):
            storage.log_in_again(view, self.undo, sr_ref)
            vdi = storage.find_listed_lun(view, sr_ref, target.lun, hosts=self.hosts, proves=volume.proves)
            return int(vdi["virtual_size"])
        raise VolumeNotFound(f"the target {volume.targets[0].iqn}")

    # ---- the target's SR

    def _connect_target(self, view: View, volume: ISCSIVolume) -> tuple[ISCSITarget, SRRef, bool]:
        """Return the target in use, its SR, which is plugged, and whether the plug has just listed the target's LUNs.

        Each host uses the first portal of the target that answers it. If no SR has a target of the volume, one is
        introduced for the first target that answers.
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
        """Return the targets of the volume that SRs of the pool have, each with its SR. Two calls at most.

        Several SRs may claim a target, and only one of them has its LUNs: that one comes first. The same call reads
        the LVM SRs, which may lie on a LUN.
        """
        every = view.find("SR", {"type": [SR_TYPE, *storage.TYPES_ON_DEVICES]})
        srs = {ref: sr for ref, sr in every.items() if sr["type"] == SR_TYPE}
        iqn_of = {
            ref: sr["sm_config"]["targetIQN"] for ref, sr in srs.items() if "targetIQN" in sr["sm_config"]
        }
        pbd_refs = [pbd for ref, sr in srs.items() if ref not in iqn_of for pbd in sr["PBDs"]]
        if pbd_refs:  # of SRs that xenvol did not introduce, only the PBDs tell the target
            view.read({"PBD": pbd_refs})
            known = view.known_of("PBD", pbd_refs)
            iqn_of |= {pbd["SR"]: pbd["device_config"].get("targetIQN", "") for pbd in known.values()}
        by_iqn = {target.iqn: target for target in reversed(volume.targets)}
        holding = [(by_iqn[iqn], SRRef(ref)) for ref, iqn in iqn_of.items() if iqn in by_iqn]
        holding = [row for row in holding if storage.is_ours(srs[row[1]]) or srs[row[1]]["PBDs"]]
        return sorted(holding, key=lambda row: (not srs[row[1]]["VDIs"], not storage.is_ours(srs[row[1]])))


def _is_own(view: View, volume: ISCSIVolume, target: ISCSITarget, vdi: Record) -> bool:
    """Return whether this VDI is the volume's LUN. False if the VDI is held as another volume: the data is stale.

    The VDI's record has the master's number of the LUN, and the data has that of the VM's host. So if this operation
    took a disk of this SR out of a VM, that disk is the volume.
    """
    if is_held_by_another(vdi, volume.volume_id):
        return False
    if (proof := volume.proves(vdi)) is not None:
        return proof
    if (is_out := was_taken_out(view, vdi)) is not None:
        return is_out
    return target.lun is None or vdi["sm_config"].get("LUNid") == str(target.lun)


def sr_uuid_of(target: ISCSITarget) -> str:
    """Return the uuid of xenvol's SR for a target. It depends on the IQN only, not on the portal."""
    return str(uuid.uuid5(_NAMESPACE, f"iscsi:{target.iqn}"))


def _ways(volume: ISCSIVolume, target: ISCSITarget) -> list[Mapping[str, str | Secret]]:
    """Return the device_configs by which a host may reach the target, one for each of its portals."""
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
        # as SR.create writes it, so that other SRs see the target is taken (recordings.md, finding 13 (storage))
        sm_config={"target": target.host, "targetIQN": target.iqn},
    )
