"""What the demo does, and what came of it: facts only, told by the simulator's journal and by comparing its states.

Everything goes over the wire, through `xenvol.connect` and the official XenAPI client. What is looked at from
inside is the journal, the fault orders and the snapshots, which no client of a xapi could see.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xenvol
from xenvol.cli import failures
from xenvol.cli.demo import words
from xenvol.cli.demo.control import split, traces_of_the_bare_client
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
from xenvol.session import Session
from xenvol.simulator import Simulator
from xenvol.simulator.journal import Calls, Entry
from xenvol.simulator.snapshot import Snapshot
from xenvol.vbd import DRIVER, VOLUME
from xenvol.volumeops import VolumeOps


@dataclass(frozen=True)
class Call:
    """One call, as the journal has it."""

    n: int
    """From 1 in each step."""
    call: str
    about: str
    is_change: bool
    milliseconds: float
    outcome: str
    fault: str


@dataclass(frozen=True)
class Host:
    name: str
    address: str
    is_master: bool


@dataclass(frozen=True)
class Disk:
    """A disk of the VM, as its records say over the wire."""

    device: str
    size: int
    driver: str | None
    """None: not a volume of xenvol's."""
    volume_id: str | None
    about: str
    sr: str
    sr_type: str


@dataclass(frozen=True)
class Step:
    """An attach or a detach, and what it took."""

    driver: str
    volume_id: str
    calls: list[Call]


@dataclass(frozen=True)
class Trial:
    """An attach into which a fault was ordered."""

    driver: str
    ordered: str
    calls: list[Call]
    error: dict[str, Any] | None
    """None: the attach found out, and completed."""
    retry_calls: list[Call]
    """Of the same call again, where there was an error."""
    device: str
    """Where the volume was in the end; then it was detached."""
    left: list[str]
    """What was not as before, right after the error or, where there was none, after the detach."""

    @property
    def struck(self) -> int | None:
        """The number of the call that met the fault; None: none did."""
        return next((call.n for call in self.calls if call.fault), None)

    @property
    def is_survived(self) -> bool:
        """Whether the fault struck, and the pool did not keep anything of it."""
        return self.struck is not None and not self.left


@dataclass(frozen=True)
class Story:
    url: str
    version: str
    pool: str
    hosts: list[Host]
    vm: str
    vm_host: str
    attached: list[Step]
    disks: list[Disk]
    detached: list[Step]
    refused: Trial
    unanswered: Trial
    objects: int
    """How many objects were compared, every field of each; with them sessions, mounts and files."""
    left: list[str]
    """What differs from the pool at the start; empty is the point."""
    left_by_the_pool: list[str]
    """What differs as well where no xenvol was: see `xenvol.cli.demo.control`."""
    calls: int
    seconds: float

    @property
    def is_clean(self) -> bool:
        """Whether nothing of xenvol's is left, now and after each fault."""
        return not self.left and self.refused.is_survived and self.unanswered.is_survived

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"is_clean": self.is_clean}


def tell() -> Story:
    """Run it, on a pool of its own."""
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
    """The simulator as the story's teller sees it from inside."""

    def __init__(self, simulator: Simulator, control: list[str]) -> None:
        self.simulator = simulator
        self._control = control
        self._host_names: dict[str, str] = {}
        simulator.journal.listener = self._remember_hosts

    def _remember_hosts(self, entry: Entry) -> None:
        """PBDs come and go; their hosts' names are noted as long as they are there."""
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
        """What is not as it was, and would be without xenvol."""
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
    """The host of the VM does not reach the portal: the second plug is refused. Then it does."""
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
    """The plug is done, and the connection breaks before xapi says so."""
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
    """The VM's disks by position, those that are none of xenvol's as well."""
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
