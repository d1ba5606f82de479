"""Put objects into a pool without a client, by the rules that serve a client's calls.

So `PoolBuilder` makes what `SR.create`, `VM.start` and the others would make. For many objects at once, the
rules make the first one and the others are copies, which takes some microseconds each.
"""

from __future__ import annotations

import abc
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xenvol.simulator import bootstrap, sessions
from xenvol.simulator.bootstrap import HostSpec
from xenvol.simulator.dispatch import load_rules
from xenvol.simulator.failure import NULL
from xenvol.simulator.guests import Guest, guest_of
from xenvol.simulator.rulebook import RULES, Call
from xenvol.simulator.xapi import Xapi

GIB = 1 << 30
_MEMORY = 256 << 20
"""Bytes of memory of a VM; enough for every rule."""


class PoolBuilder(abc.ABC):
    """Adds objects to a pool. Objects are named by reference, hosts also by name, address or uuid."""

    @property
    @abc.abstractmethod
    def xapi(self) -> Xapi:
        """The pool's state."""

    # ---- hosts

    def add_host(
        self, name: str | None = None, *, address: str = "", iscsi_iqn: str = "", enabled: bool = True
    ) -> str:
        """Add a member. It gets an unplugged PBD for every shared SR of the pool."""
        with self.xapi.lock:
            db = self.xapi.db
            name = name or f"host{db.count('host') + 1}"
            host = bootstrap.add_host(
                self.xapi, HostSpec(name, address=address, iscsi_iqn=iscsi_iqn, enabled=enabled)
            )
            for sr in db.refs("SR"):
                pbds = db.children(sr, "PBDs")
                if db.row("SR", sr)["shared"] and pbds:
                    config = db.get("PBD", pbds[0], "device_config")
                    self._do("PBD.create", {"host": host, "SR": sr, "device_config": config})
            return host

    def find_host(self, host: str) -> str:
        """Return the reference of the host with that reference, uuid, name or address; KeyError for none."""
        db = self.xapi.db
        if db.exists("host", host):
            return host
        for ref in db.refs("host"):
            row = db.row("host", ref)
            if host in (row["uuid"], row["name_label"], row["address"]):
                return ref
        names = ", ".join(db.row("host", ref)["name_label"] for ref in db.refs("host"))
        raise KeyError(f"no host {host!r}; there are {names}")

    def move_master(self, host: str, *, keep_sessions: bool = True) -> None:
        """Make another host the master; ``keep_sessions=False`` ends all sessions, as a real new master knows none."""
        with self.xapi.lock:
            found = self.find_host(host)
            self.xapi.db.set("pool", self.xapi.db.refs("pool")[0], master=found)
            if not keep_sessions:
                for session in self.xapi.db.refs("session"):
                    sessions.destroy(self.xapi, session)

    # ---- storage

    def add_sr(
        self,
        name: str = "sr",
        *,
        type: str = "dummy",
        device_config: Mapping[str, str] | None = None,
        sr_uuid: str = "",
        content_type: str = "user",
        shared: bool = True,
        create: bool = False,
        sm_config: Mapping[str, str] | None = None,
        hosts: Iterable[str] | None = None,
        plugged: bool = True,
    ) -> str:
        """Introduce an SR, create its PBD on each host (None: on every host), and plug them.

        ``create=True`` formats it instead (SR.create): everywhere if shared, else on the first host. Raises
        `Failure` as the calls would.
        """
        with self.xapi.lock:
            config = dict(device_config or {})
            chosen = [
                self.find_host(host) for host in (self.xapi.db.refs("host") if hosts is None else hosts)
            ]
            if create:
                created: str = self._do(
                    "SR.create",
                    chosen[0],
                    config,
                    0,
                    name,
                    "",
                    type,
                    content_type,
                    shared,
                    dict(sm_config or {}),
                )
                return created
            sr: str = self._do(
                "SR.introduce", sr_uuid, name, "", type, content_type, shared, dict(sm_config or {})
            )
            for host in chosen:
                pbd = self._do("PBD.create", {"host": host, "SR": sr, "device_config": config})
                if plugged:
                    self._do("PBD.plug", pbd)
            return sr

    def add_vdi(
        self,
        sr: str,
        name: str = "vdi",
        *,
        size: int = GIB,
        type: str = "user",
        sharable: bool = False,
        read_only: bool = False,
        sm_config: Mapping[str, str] | None = None,
    ) -> str:
        """Create a VDI in a plugged SR (VDI.create)."""
        with self.xapi.lock:
            vdi: str = self._do(
                "VDI.create",
                {
                    "SR": sr,
                    "name_label": name,
                    "name_description": "",
                    "virtual_size": size,
                    "type": type,
                    "sharable": sharable,
                    "read_only": read_only,
                    "other_config": {},
                    "xenstore_data": {},
                    "sm_config": dict(sm_config or {}),
                    "tags": [],
                },
            )
            return vdi

    def scan(self, sr: str) -> None:
        """Scan an SR (SR.scan)."""
        with self.xapi.lock:
            self._do("SR.scan", sr)

    # ---- virtual machines

    def add_vm(
        self,
        name: str = "vm",
        *,
        kind: str = "pv",
        power_state: str = "Running",
        pv_drivers: bool = True,
        resident_on: str | None = None,
        disks: Sequence[str] = (),
    ) -> str:
        """Add a VM with these VDIs in its first slots; it starts on that host, or on a host that xapi chooses.

        ``kind`` is ``pv``, ``hvm`` or ``pvh``. Only an HVM VM can lack PV drivers. A suspended VM keeps its
        memory in the pool's suspend_image_SR, or else in the SR of its first disk.
        """
        with self.xapi.lock:
            vm: str = self._do("VM.create", self._vm_record(name, kind, pv_drivers))
            for disk in disks:
                self.add_vbd(vm, disk, plugged=False)
            if power_state in ("Running", "Paused", "Suspended"):
                paused = power_state == "Paused"
                if resident_on is None:
                    self._do("VM.start", vm, paused, False)
                else:
                    self._do("VM.start_on", vm, self.find_host(resident_on), paused, False)
            if power_state == "Suspended":
                db = self.xapi.db
                if disks and db.row("pool", db.refs("pool")[0])["suspend_image_SR"] == NULL:
                    db.set("VM", vm, suspend_SR=db.row("VDI", disks[0])["SR"])
                self._do("VM.suspend", vm)
            return vm

    def add_vbd(
        self,
        vm: str,
        vdi: str | None,
        *,
        userdevice: str = "autodetect",
        mode: str = "RW",
        type: str = "Disk",
        plugged: bool | None = None,
    ) -> str:
        """Create a VBD, empty without a VDI, and plug it if ``plugged`` (None: if the VM is running)."""
        with self.xapi.lock:
            vbd: str = self._do(
                "VBD.create",
                {
                    "VM": vm,
                    "VDI": vdi or NULL,
                    "device": "",
                    "userdevice": userdevice,
                    "bootable": False,
                    "mode": mode,
                    "type": type,
                    "unpluggable": True,
                    "empty": vdi is None,
                    "other_config": {},
                    "qos_algorithm_type": "",
                    "qos_algorithm_params": {},
                    "currently_attached": False,
                },
            )
            running = self.xapi.db.row("VM", vm)["power_state"] == "Running"
            if plugged or (plugged is None and running):
                self._do("VBD.plug", vbd)
            return vbd

    def guest(self, vm: str) -> Guest:
        """Return the guest of that VM; a test changes it to arrange misbehaviour."""
        with self.xapi.lock:
            self.xapi.db.row("VM", vm)
            return guest_of(self.xapi.guests, vm)

    # ---- inside

    def _do(self, method: str, *arguments: Any) -> Any:
        """Run a rule, as for a call that passed all checks."""
        load_rules()
        call = Call(self.xapi, method, NULL, f"OpaqueRef:{uuid.uuid4()}", self.xapi.master)
        return RULES[method](call, *arguments)

    def _vm_record(self, name: str, kind: str, pv_drivers: bool) -> dict[str, Any]:
        """Return the record that a client would send to VM.create, with its optional fields."""
        fields = self.xapi.model.classes["VM"].constructor.values()
        record = {field.name: field.default for field in fields if field.has_default}
        is_hvm = kind == "hvm"
        return record | {
            "name_label": name,
            "name_description": "",
            "user_version": 1,
            "is_a_template": False,
            "affinity": NULL,
            **dict.fromkeys(
                ("memory_static_max", "memory_dynamic_max", "memory_dynamic_min", "memory_static_min"),
                _MEMORY,
            ),
            "VCPUs_params": {},
            "VCPUs_max": 1,
            "VCPUs_at_startup": 1,
            "actions_after_shutdown": "destroy",
            "actions_after_reboot": "restart",
            "actions_after_crash": "restart",
            **dict.fromkeys(
                ("PV_kernel", "PV_ramdisk", "PV_args", "PV_bootloader_args", "PV_legacy_args", "PCI_bus"), ""
            ),
            "PV_bootloader": "" if is_hvm else "pygrub",
            "HVM_boot_policy": "BIOS order" if is_hvm else "",
            "HVM_boot_params": {"order": "cd"} if is_hvm else {},
            "platform": {"sim-pv": "true"} if is_hvm and pv_drivers else {},
            "other_config": {},
            "recommendations": "",
            "domain_type": kind,
        }


class Pool(PoolBuilder):
    """A builder for one fixed pool."""

    def __init__(self, xapi: Xapi) -> None:
        self._xapi = xapi

    @property
    def xapi(self) -> Xapi:
        return self._xapi
