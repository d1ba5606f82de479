"""A pool with an SR of each type, this machine in it as a VM if need be, and disks whose bytes can be seen."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import xenvol
from tests.sm.backend_lab import BY_NAME, IQN, StorageWorld
from xenvol.images import Environment
from xenvol.images.transports import Timeouts
from xenvol.session import CallRecord, Session
from xenvol.simulator import Simulator
from xenvol.simulator.rulebook import Call
from xenvol.simulator.rules import datapath

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

DISK_SRS = ("nfs", "smb", "cephfs", "glusterfs", "file", "ext", "lvm", "lvmoiscsi", "lvmohba", "lvmofcoe")
"""Types on which a disk is made."""
IMPATIENT = Timeouts(settle=2, device=5, head=5, sleep=lambda seconds: None)


class Lab:
    """A pool of two hosts."""

    def __init__(self, xapi: Simulator, session: Session, root: Path) -> None:
        self.xapi = xapi
        self.session = session
        self.root = root
        self.srs: dict[str, str] = {}

    def sr(self, name: str = "nfs") -> str:
        """The uuid of an SR of that type, made when it is asked for first; ``iso`` is a library of ISO images."""
        if name not in self.srs:
            self.srs[name] = self._iso() if name == "iso" else self._sr(BY_NAME[name])
        return str(self.xapi.db.get("SR", self.srs[name], "uuid"))

    def _sr(self, world: StorageWorld) -> str:
        world.arrange(self.xapi)
        return self.xapi.add_sr(
            world.name,
            type=world.sr_type,
            device_config=world.plain_config,
            create=not world.luns,
            shared=not world.is_local,
            hosts=["host1"] if world.is_local else None,
        )

    def _iso(self) -> str:
        self.xapi.storage.shares.add_nfs("10.0.0.9").export("/isos", size=100 * GIB)
        config = {"location": "10.0.0.9:/isos", "type": "nfs_iso"}
        return self.xapi.add_sr("isos", type="iso", content_type="iso", device_config=config, create=True)

    def lun(self, size: int = 8 * MIB) -> str:
        """The uuid of the VDI that shows a LUN, on an SR of type iscsi."""
        self.sr("iscsi")
        scsi_id = "3600140500000000000000000000beef"
        self.xapi.storage.san.add_lun(IQN, 7, size, scsi_id=scsi_id)
        self.session.call("SR.scan", self.srs["iscsi"])
        digest = hashlib.md5(scsi_id.encode(), usedforsecurity=False).hexdigest()
        vdis = [self.xapi.db.get("VDI", ref, "uuid") for ref in self.vdis("iscsi")]
        (uuid,) = [uuid for uuid in vdis if uuid.replace("-", "") == digest]
        return str(uuid)

    def vdi(self, sr: str = "nfs", size: int = 8 * MIB, **values: object) -> str:
        """The uuid of a new disk."""
        self.sr(sr)
        ref = self.xapi.add_vdi(self.srs[sr], "disk", size=size, **values)  # type: ignore[arg-type]  # the keywords are of several types
        return str(self.xapi.db.get("VDI", ref, "uuid"))

    def vdis(self, sr: str) -> list[str]:
        self.sr(sr)
        db = self.xapi.db
        return [ref for ref in db.refs("VDI") if db.get("VDI", ref, "SR") == self.srs[sr]]

    def ref(self, vdi_uuid: str) -> str:
        return str(self.session.call("VDI.get_by_uuid", vdi_uuid))

    def file(self, vdi_uuid: str, host: str = "host1") -> Path:
        """What lies behind the disk: a sparse file."""
        ref = self.ref(vdi_uuid)
        with self.xapi.xapi.lock:
            (host_ref,) = [
                h for h in self.xapi.db.refs("host") if self.xapi.db.get("host", h, "name_label") == host
            ]
            return datapath.content(Call(self.xapi.xapi, "test", "", "", host_ref), host_ref, ref)

    def content(self, vdi_uuid: str) -> bytes:
        """All of the disk; its file may be shorter, as its end is a hole."""
        size = int(self.session.call("VDI.get_virtual_size", self.ref(vdi_uuid)))
        return self.file(vdi_uuid).read_bytes().ljust(size, b"\0")

    def run_in(self, vm: str | None) -> Environment:
        """As if this machine were that VM; None: the master's control domain."""
        db = self.xapi.db
        if vm is None:
            master = db.get("pool", db.refs("pool")[0], "master")
            (vm,) = [
                ref
                for ref in db.refs("VM")
                if db.get("VM", ref, "is_control_domain") and db.get("VM", ref, "resident_on") == master
            ]
        sysfs = self.root / "sys/hypervisor"
        sysfs.mkdir(parents=True, exist_ok=True)
        (sysfs / "uuid").write_text(db.get("VM", vm, "uuid"))
        return Environment(root=self.root, dev=self.xapi.dev, timeouts=IMPATIENT)

    @property
    def elsewhere(self) -> Environment:
        """This machine is no VM of the pool."""
        return Environment(root=self.root / "nowhere", timeouts=IMPATIENT)

    def on(self, road: str) -> Environment:
        return self.run_in(None) if road == "block" else self.elsewhere

    def residue(self) -> list[str]:
        """What a transfer leaves that it should not: slots of control domains, tasks, marks."""
        db = self.xapi.db
        slots = [
            f"VBD {ref}"
            for ref in db.refs("VBD")
            if db.get("VM", db.get("VBD", ref, "VM"), "is_control_domain")
        ]
        tasks = [f"task {db.get('task', ref, 'name_label')}" for ref in db.refs("task")]
        marks = [
            f"{cls} {ref} is marked"
            for cls in ("VDI", "VBD")
            for ref in db.refs(cls)
            if any("image" in key or "export" in key for key in db.get(cls, ref, "other_config"))
        ]
        return slots + [task for task in tasks if "xenvol" in task] + marks

    @classmethod
    def of(cls, xapi: Simulator, root: Path) -> Lab:
        """Logged in; the caller closes its session."""
        session = xenvol.connect(xapi.url, xapi.user, xapi.password)
        return cls(xapi, Session(session, sleep=lambda seconds: None), root)


@contextmanager
def lab(root: Path, **kwargs: object) -> Iterator[Lab]:
    with Simulator(hosts=2, **kwargs) as xapi:  # type: ignore[arg-type]  # the keywords are of several types
        with xenvol.connect(xapi.url, xapi.user, xapi.password) as session:
            yield Lab(xapi, Session(session, sleep=lambda seconds: None), root)


def pattern(size: int, *, seed: int = 1, density: float = 0.5, grain: int = 64 * KIB) -> bytes:
    """A disk some grains of which hold random bytes and the others zeros."""
    chance = random.Random(seed)
    grains = []
    for start in range(0, size, grain):
        length = min(grain, size - start)
        grains.append(chance.randbytes(length) if chance.random() < density else bytes(length))
    return b"".join(grains)


class Guest:
    """A guest of the pool in which we run; its kernel shows disks, as simulated ones do not."""

    def __init__(self, pool: Lab) -> None:
        self._pool = pool
        db = pool.xapi.db
        self._dev = pool.root / "guest-dev"
        self._dev.mkdir()
        self._vm = pool.xapi.add_vm("worker", resident_on=db.get("pool", db.refs("pool")[0], "master"))
        self.session = Session(pool.session, on_call=self._hear)
        self.here = replace(pool.run_in(self._vm), dev=self._dev)

    def _hear(self, call: CallRecord) -> None:
        db = self._pool.xapi.db
        vbds = [db.row("VBD", ref) for ref in db.refs("VBD")]
        ours = [vbd for vbd in vbds if vbd["VM"] == self._vm]
        if call.call == "VBD.plug" and call.outcome == "ok":
            for vbd in ours:
                (self._dev / vbd["device"]).symlink_to(self._pool.file(db.get("VDI", vbd["VDI"], "uuid")))
        elif call.call == "VBD.unplug" and call.outcome == "ok":
            for path in self._dev.iterdir():
                path.unlink()
