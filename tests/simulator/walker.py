"""Random walks in the style of the recorded ones: any storage call, on live and dead objects, valid and invalid.

The seed decides a walk: the same seed makes the same calls and, except for the references, gets the same
answers. A walk begins with a default SR, two VMs with a disk each, one without, and two unused disks, as the
recorded ones do.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xenvol.simulator import Simulator
from xenvol.simulator.dispatch import dispatch
from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.values import plain

DEAD = "OpaqueRef:deadbeef-dead-dead-dead-deadbeefdead"
RUBBISH = ("rubbish", "", NULL, DEAD)
WRONG_TYPES = (5, True, None, [], {}, 1.5)
FAULTS = ("SRInUse", "VDIInUse", "SRScan", "SRUnavailable", "VDICreate", "VDISize", "VDIDelete")
FAILING = (
    *("create", "attach", "detach", "scan", "delete"),
    *("vdi_create", "vdi_delete", "vdi_attach", "vdi_snapshot", "vdi_resize"),
)
DEVICES = (
    *("0", "autodetect", "autodetect", "autodetect", "xvde", "5", "xvdc", "abc", "xvdb", "2", "15", "4", "1"),
    *("255", "", "3"),
)
VDI_TYPES = ("user", "user", "user", "user", "system", "metadata", "suspend", "ephemeral", "rrd", "nosuch")
SIZES = ("2147483648", 3221225472, "4294967296", "4096", "x")
ABOUT_ONE = {
    1: ("VDI.update", "secret.destroy", "task.destroy", "task.cancel"),
    2: ("SR.forget", "SR.destroy", "SR.update"),
    3: ("SR.scan", "PBD.destroy", "VDI.forget"),
    4: ("PBD.unplug", "VDI.destroy", "VDI.snapshot", "VDI.clone"),
    5: ("PBD.plug",),
}
"""Weight -> messages whose only parameter is an object of their class."""
ABOUT_A_GUEST = {
    1: ("VM.revert", "VM.hard_shutdown"),
    2: ("VM.pause", "VM.suspend", "VM.clean_reboot", "VM.hard_reboot", "VM.clean_shutdown", "VM.destroy"),
    4: ("VM.unpause",),
}
ABOUT_A_SLOT = {
    2: ("VBD.unplug_force", "VBD.assert_attachable", "VBD.destroy"),
    5: ("VBD.unplug",),
    12: ("VBD.plug",),
}
SYNCHRONOUS = ("secret.", "task.")
"""Classes whose messages have no Async form, or none that a walk would use."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call and its answer."""

    method: str
    params: tuple[Any, ...]
    """The parameters without the session."""
    result: Any = None
    """For an Async call, the reference that its task names."""
    error: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        return self.method.removeprefix("Async.")


class Walker:
    """Walks through a pool of its own, which `close` ends."""

    def __init__(self, version: str, seed: int) -> None:
        self.simulator = Simulator(version, world="recorded")
        self.xapi = self.simulator.xapi
        self.db = self.xapi.db
        self.host = self.xapi.master
        self._random = random.Random(seed)
        self._count = 0
        self.session = self._dispatch("session.login_with_password", "root", "secret", "1.0", "walk")
        self._alphabet = self._letters()
        self._furnish()

    def __enter__(self) -> Walker:
        return self

    def __exit__(self, *_: object) -> None:
        self.simulator.close()

    def step(self) -> Step:
        """Choose a call at random, and make it."""
        pick = self._random
        weights = [weight for weight, _ in self._alphabet.values()]
        method = pick.choices(list(self._alphabet), weights)[0]
        params = self._alphabet[method][1]()
        match pick.random():
            case chance if chance < 0.02:
                params.append("extra")
            case chance if chance < 0.04 and params:
                params.pop()
            case chance if chance < 0.05 and params:
                params[pick.randrange(len(params))] = pick.choice(WRONG_TYPES)
        if pick.random() < 0.1 and not method.startswith(SYNCHRONOUS):
            return self.call_async(method, *params)
        return self.call(method, *params)

    def call(self, method: str, *params: Any) -> Step:
        try:
            return Step(method, params, self._dispatch(method, self.session, *params))
        except Failure as failure:
            return Step(method, params, error=tuple(failure.description))

    def call_async(self, method: str, *params: Any) -> Step:
        """Make an Async call as the recorded walks do: call, wait for the task, destroy the task."""
        name = f"Async.{method}"
        started = self.call(name, *params)
        if started.error:
            return started
        task = self._outcome(started.result)
        self.call("task.destroy", started.result)
        result = task["result"].removeprefix("<value>").removesuffix("</value>")
        return Step(name, params, result, tuple(task["error_info"]))

    # ---- inside

    def _dispatch(self, method: str, *params: Any) -> Any:
        return plain(dispatch(self.xapi, self.host, method, params))

    def _outcome(self, task: str) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with self.xapi.lock:
                if self.db.row("task", task)["status"] != "pending":
                    return self.db.record("task", task)
            time.sleep(0.0005)
        raise AssertionError(f"task {task} does not end")

    def _furnish(self) -> None:
        sr = self.call("SR.create", self.host, {}, "0", "base", "", "dummy", "user", True, {}).result
        self.call("pool.set_suspend_image_SR", self.db.first("pool"), sr)
        for _ in range(2):
            vm = self.call("VM.create", self._vm()).result
            self.call("VBD.create", self._vbd(vm, self.call("VDI.create", self._vdi(sr)).result, "0"))
        for sharable in (False, True):
            self.call("VDI.create", self._vdi(sr, sharable=sharable))
        self.call("VM.create", self._vm())

    def _ref(self, cls: str) -> Any:
        """Return a reference: mostly a live one of the class, sometimes a dead, another class's or an invalid one."""
        pick, live = self._random, self.db.refs(cls)
        if live and pick.random() < 0.9:
            return pick.choice(live)
        others = [ref for other in ("SR", "VDI", "VM", "host") for ref in self.db.refs(other)]
        return pick.choice([*RUBBISH, *others])

    def _guest(self) -> Any:
        """Return a VM that is not a control domain, which a walk never changes."""
        vm = self._likely("VM", lambda vm: not (vm["is_a_template"] or vm["is_control_domain"]))
        is_guest = not self.db.exists("VM", vm) or not self.db.row("VM", vm)["is_control_domain"]
        return vm if is_guest else DEAD

    def _slot(self) -> Any:
        """Return a VBD, mostly of a running VM, so that the call has an effect."""
        return self._likely("VBD", lambda vbd: self.db.row("VM", vbd["VM"])["power_state"] == "Running")

    def _drive(self) -> Any:
        return self._likely("VBD", lambda vbd: vbd["type"] == "CD")

    def _likely(self, cls: str, wanted: Callable[[dict[str, Any]], bool]) -> Any:
        chosen = [ref for ref in self.db.refs(cls) if wanted(self.db.row(cls, ref))]
        return self._random.choice(chosen) if chosen and self._random.random() < 0.7 else self._ref(cls)

    def _one(self, *choices: Any) -> Any:
        return self._random.choice(choices)

    def _uuid(self) -> str:
        self._count += 1
        return f"{self._count:08x}-0000-4000-8000-{self._random.randrange(10**12):012d}"

    def _device_config(self) -> dict[str, str]:
        failing = {f"fail_{self._one(*FAILING)}": self._one(*FAULTS)}
        return dict(self._one({}, {}, {"x": "y"}, {"user": "u", "password": "p"}, failing))

    def _vdi(self, sr: Any, **fields: Any) -> dict[str, Any]:
        record = {
            "name_label": "v",
            "name_description": "",
            "SR": sr,
            "virtual_size": "1073741824",
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": {},
            "xenstore_data": {},
            "sm_config": {},
            "tags": [],
        }
        return {**record, **fields}

    def _any_vdi(self) -> dict[str, Any]:
        chance = self._random.random
        return self._vdi(
            self._ref("SR"),
            type=self._one(*VDI_TYPES),
            sharable=chance() < 0.15,
            read_only=chance() < 0.1,
        )

    def _vbd(self, vm: Any, vdi: Any, device: str, **fields: Any) -> dict[str, Any]:
        record = {
            "VM": vm,
            "VDI": vdi,
            "userdevice": device,
            "bootable": False,
            "mode": "RW",
            "type": "Disk",
            "empty": vdi == NULL,
            "other_config": {},
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
        }
        return {**record, **fields}

    def _any_vbd(self) -> dict[str, Any]:
        device = self._one(*DEVICES)
        if self._random.random() < 0.25:
            return self._vbd(self._guest(), NULL, device, mode=self._one("RO", "RO", "RW"), type="CD")
        kinds = {"mode": self._one("RW", "RW", "RO", "ro"), "type": self._one(*["Disk"] * 8, "CD", "bogus")}
        return self._vbd(self._guest(), self._ref("VDI"), device, **kinds)

    def _vm(self, **fields: Any) -> dict[str, Any]:
        memory = dict.fromkeys(
            (f"memory_{kind}_{end}" for kind in ("static", "dynamic") for end in ("min", "max")), "268435456"
        )
        texts = dict.fromkeys(
            ("PV_kernel", "PV_ramdisk", "PV_args", "PV_bootloader_args", "PV_legacy_args", "PCI_bus"), ""
        )
        record = {
            "name_label": "vm",
            "name_description": "",
            "user_version": "1",
            "is_a_template": False,
            "affinity": NULL,
            "VCPUs_params": {},
            "VCPUs_max": "1",
            "VCPUs_at_startup": "1",
            "actions_after_shutdown": "destroy",
            "actions_after_reboot": "restart",
            "actions_after_crash": "restart",
            "PV_bootloader": "pygrub",
            "HVM_boot_policy": "",
            "HVM_boot_params": {},
            "platform": {},
            "other_config": {},
            "recommendations": "",
        }
        return {**record, **memory, **texts, **fields}

    def _any_vm(self) -> dict[str, Any]:
        hvm = {"HVM_boot_policy": "BIOS order", "PV_bootloader": ""}
        with_drivers = {**hvm, "platform": {"sim-pv": "true"}}
        return self._vm(
            **self._one({}, {}, {}, {"is_a_template": True}, {"VCPUs_max": "0"}, hvm, with_drivers)
        )

    def _any_sr(self) -> list[Any]:
        host = self._one(*[self.host] * 6, NULL, "")
        kind = self._one("dummy", "dummy", "DUMMY", "flaky", "nosuch")
        config, size = self._device_config(), self._one("0", "5000", 0, "abc")
        return [
            host,
            config,
            size,
            "created",
            "d",
            kind,
            self._one("user", "iso", ""),
            self._one(True, False),
            {},
        ]

    def _letters(self) -> dict[str, tuple[int, Callable[[], list[Any]]]]:
        """Return message -> (weight, its parameters)."""
        ref, guest, one = self._ref, self._guest, self._one
        letters: dict[str, tuple[int, Callable[[], list[Any]]]] = {
            "SR.create": (4, self._any_sr),
            "SR.introduce": (
                3,
                lambda: [self._uuid(), "i", "d", one("dummy", "flaky", "nosuch"), "", one(True, False), {}],
            ),
            "PBD.create": (
                5,
                lambda: [{"host": self.host, "SR": ref("SR"), "device_config": self._device_config()}],
            ),
            "VDI.create": (8, lambda: [self._any_vdi()]),
            "VDI.introduce": (3, lambda: self._introduced(self._uuid())),
            "VDI.resize": (4, lambda: [ref("VDI"), one(*SIZES)]),
            "VDI.set_name_label": (1, lambda: [ref("VDI"), "n"]),
            "VDI.set_on_boot": (1, lambda: [ref("VDI"), one("persist", "reset")]),
            "VDI.set_read_only": (1, lambda: [ref("VDI"), True]),
            "VBD.create": (11, lambda: [self._any_vbd()]),
            "VBD.insert": (5, lambda: [self._drive(), ref("VDI")]),
            "VBD.eject": (5, lambda: [self._drive()]),
            "VBD.set_mode": (1, lambda: [ref("VBD"), one("RO", "RW")]),
            "VBD.set_type": (1, lambda: [ref("VBD"), one("CD", "Disk")]),
            "VBD.set_unpluggable": (1, lambda: [ref("VBD"), one(True, True, False)]),
            "VM.create": (3, lambda: [self._any_vm()]),
            "VM.start": (14, lambda: [guest(), one(*[False] * 5, True), False]),
            "VM.resume": (3, lambda: [guest(), one(*[False] * 5, True), False]),
            "VM.snapshot": (3, lambda: [guest(), "copied"]),
            "VM.clone": (3, lambda: [guest(), "copied"]),
            "VM.checkpoint": (1, lambda: [guest(), "copied"]),
            "VM.set_VCPUs_max": (1, lambda: [guest(), one("2", "0")]),
            "VM.add_to_blocked_operations": (1, lambda: [guest(), "start", "no"]),
            "VM.remove_from_blocked_operations": (2, lambda: [guest(), "start"]),
            "SR.set_name_label": (1, lambda: [ref("SR"), "n1"]),
            "SR.set_tags": (1, lambda: [ref("SR"), ["a", "b", "a"]]),
            "secret.create": (1, lambda: [{"value": "s"}]),
            "task.create": (1, lambda: ["label", "description"]),
            "task.set_status": (1, lambda: [ref("task"), "success"]),
        }
        for weight, methods in ABOUT_ONE.items():
            for method in methods:
                cls = method.partition(".")[0]
                letters[method] = (weight, lambda cls=cls: [ref(cls)])
        for weight, methods in ABOUT_A_GUEST.items():
            for method in methods:
                letters[method] = (weight, lambda: [guest()])
        for weight, methods in ABOUT_A_SLOT.items():
            for method in methods:
                letters[method] = (weight, lambda: [self._slot()])
        return letters

    def _introduced(self, uuid: str) -> list[Any]:
        sr = self._ref("SR")
        return [uuid, "i", "d", sr, "user", False, self._one(True, False), {}, uuid, {}, {}]
