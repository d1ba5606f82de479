"""The steps of the demo: each is a call of the library, recorded by the simulator's journal and by comparing its
states.

All calls go over the wire, through `xenvol.connect` and the official XenAPI client. Only the journal, the orders for
faults and the snapshots are taken from inside the simulator: no client of a xapi can see them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import xenvol
from xenvol.cli import failures
from xenvol.cli.demo import words
from xenvol.cli.demo.control import split, traces_of_the_bare_client
from xenvol.cli.demo.facts import Call, Disk, Host, Step, Story, Trial
from xenvol.cli.demo.volumes import (
    GLUSTER_VOLUME,
    ISCSI_VOLUME,
    NFS_VOLUME,
    TARGET,
    VM,
    Volume,
    xensm_volume,
)
from xenvol.errors import XenVolError
from xenvol.pool.marks import DRIVER, VOLUME
from xenvol.session import Session
from xenvol.simulator import Simulator
from xenvol.simulator.journal import Calls, Entry
from xenvol.simulator.snapshot import Snapshot
from xenvol.volumeops import VolumeOps


def tell() -> Story:
    """Run the demo on a pool of its own, and return its results."""
    control = traces_of_the_bare_client()
    started = time.monotonic()
    with Simulator(world="demo") as simulator:
        stage = _Stage(simulator, control)
        before = simulator.snapshot()
        with xenvol.connect(simulator.url, simulator.user, simulator.password) as session:
            ops = VolumeOps(session)
            volumes = [ISCSI_VOLUME, NFS_VOLUME, GLUSTER_VOLUME, _volume_of_the_pool(session)]
            facts = _facts_of_the_pool(session)
            attached = [_attach(stage, ops, volume) for volume in volumes]
            disks = _disks(session, {volume.driver: volume.about for volume in volumes})
            detached = [_detach(stage, ops, volume) for volume in volumes]
            refused = _refused(stage, ops)
            unanswered = _unanswered(stage, ops)
        left, left_by_the_pool = split(before.difference(simulator.snapshot()), control)
        return Story(
            url=simulator.url,
            version=simulator.version,
            **facts,
            attached=attached,
            disks=disks,
            detached=detached,
            refused=refused,
            unanswered=unanswered,
            objects=sum(map(len, before.objects.values())),
            left=left,
            left_by_the_pool=left_by_the_pool,
            calls=len(simulator.journal) + len(simulator.journal.logins),
            seconds=time.monotonic() - started,
        )


class _Stage:
    """The simulator, seen from inside."""

    def __init__(self, simulator: Simulator, control: list[str]) -> None:
        self.simulator = simulator
        self._control = control
        self._host_names: dict[str, str] = {}
        simulator.journal.listener = self._remember_hosts

    def _remember_hosts(self, entry: Entry) -> None:
        """Remember the names of hosts by the references of hosts and of PBDs, while these exist."""
        db = self.simulator.db
        with self.simulator.xapi.lock:
            for host in db.refs("host"):
                self._host_names[host] = db.get("host", host, "name_label")
            for pbd in db.refs("PBD"):
                self._host_names[pbd] = db.get("host", db.get("PBD", pbd, "host"), "name_label")

    def told(self, calls: Calls) -> list[Call]:
        return [
            Call(
                n,
                entry.method,
                words.about(entry.method, entry.params, self._host_names),
                words.is_change(entry.method),
                round((entry.seconds or 0) * 1000, 2),
                entry.outcome,
                entry.fault,
            )
            for n, entry in enumerate(calls, 1)
        ]

    def left_since(self, before: Snapshot) -> list[str]:
        """Return what differs since `before`, without what would differ without xenvol too."""
        ours, _ = split(before.difference(self.simulator.snapshot()), self._control)
        return ours


def _attach(stage: _Stage, ops: VolumeOps, volume: Volume) -> Step:
    with stage.simulator.journal.recording() as calls:
        attachment = ops.attach_volume(volume.connection_info, VM)
    return Step(volume.driver, attachment.volume_id, stage.told(calls))


def _detach(stage: _Stage, ops: VolumeOps, volume: Volume) -> Step:
    with stage.simulator.journal.recording() as calls:
        ops.detach_volume(volume.connection_info, VM)
    return Step(volume.driver, str(volume.connection_info["data"]["volume_id"]), stage.told(calls))


def _refused(stage: _Stage, ops: VolumeOps) -> Trial:
    """Attach while the VM's host cannot reach the portal: its plug, the second one, is refused. Then attach again."""
    portal = f"{TARGET['portal']}:{TARGET['port']}"
    order = stage.simulator.faults.refuse(
        "PBD.plug",
        "SR_BACKEND_FAILURE_141",
        "",
        f"Unable to connect to the iSCSI portal {portal}",
        "",
        nth=2,
    )
    return _try(stage, ops, ISCSI_VOLUME, str(order))


def _unanswered(stage: _Stage, ops: VolumeOps) -> Trial:
    """Attach while the connection breaks after the plug is done, and before xapi answers."""
    return _try(stage, ops, NFS_VOLUME, str(stage.simulator.faults.lose_answer("VBD.plug")))


def _try(stage: _Stage, ops: VolumeOps, volume: Volume, ordered: str) -> Trial:
    journal, before = stage.simulator.journal, stage.simulator.snapshot()
    error, left, retry_calls = None, [], []
    with journal.recording() as calls:
        try:
            attachment = ops.attach_volume(volume.connection_info, VM)
        except XenVolError as failure:
            error = failures.as_json(failure)
    told = stage.told(calls)
    if error is not None:
        left = stage.left_since(before)
        with journal.recording() as again:
            attachment = ops.attach_volume(volume.connection_info, VM)
        retry_calls = stage.told(again)
    ops.detach_volume(volume.connection_info, VM)
    if error is None:
        left = stage.left_since(before)
    return Trial(
        driver=volume.driver,
        ordered=ordered,
        calls=told,
        error=error,
        retry_calls=retry_calls,
        device=attachment.device,
        left=left,
    )


# ---- what a client sees of the pool


def _volume_of_the_pool(session: Session) -> Volume:
    (vdi_ref,) = session.xenapi.VDI.get_by_name_label("archive")
    vdi = session.xenapi.VDI.get_record(vdi_ref)
    return xensm_volume(session.xenapi.SR.get_uuid(vdi["SR"]), vdi["uuid"])


def _facts_of_the_pool(session: Session) -> dict[str, Any]:
    (pool,) = session.xenapi.pool.get_all_records().values()
    hosts = session.xenapi.host.get_all_records()
    (vm_ref,) = session.xenapi.VM.get_by_name_label(VM)
    return {
        "pool": pool["name_label"],
        "hosts": [
            Host(host["name_label"], host["address"], is_master=ref == pool["master"])
            for ref, host in sorted(hosts.items(), key=lambda item: item[1]["name_label"])
        ],
        "vm": VM,
        "vm_host": hosts[session.xenapi.VM.get_resident_on(vm_ref)]["name_label"],
    }


def _disks(session: Session, abouts: Mapping[str, str]) -> list[Disk]:
    """Return the VM's disks by position, also those that xenvol did not attach."""
    (vm_ref,) = session.xenapi.VM.get_by_name_label(VM)
    disks = []
    vbds = session.find("VBD", {"VM": vm_ref, "type": "Disk"}).values()
    for vbd in sorted(vbds, key=lambda vbd: int(vbd["userdevice"])):
        vdi = session.xenapi.VDI.get_record(vbd["VDI"])
        sr = session.xenapi.SR.get_record(vdi["SR"])
        driver = vbd["other_config"].get(DRIVER)
        disks.append(
            Disk(
                device=vbd["device"],
                size=int(vdi["virtual_size"]),
                driver=driver,
                volume_id=vbd["other_config"].get(VOLUME),
                about=abouts[driver] if driver is not None else "the VM's own system disk",
                sr=sr["name_label"],
                sr_type=sr["type"],
            )
        )
    return disks
