"""The rules by which a VM takes or releases a disk, checked on records alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from xenvol.attaching.vm import VM, check_gives_disk_back, check_takes_disk, find_vm
from xenvol.errors import NotHotpluggable, ReadOnlyNotSupported, VMBusy, VMError, WrongPowerState
from xenvol.pool.view import View
from xenvol.session import Session
from xenvol.session.refs import HostRef, VMRef
from xenvol.simulator import Simulator

RUNNING_PV = VM(
    ref=VMRef("OpaqueRef:vm"),
    uuid="5a000000-0000-4000-8000-000000000009",
    name="web",
    power_state="Running",
    resident_on=HostRef("OpaqueRef:host"),
    is_hvm=False,
    vbd_refs=(),
    guest_metrics_ref="OpaqueRef:metrics",
    current_operations=frozenset(),
)
DRIVERS = {"PV_drivers_detected": True}


@pytest.mark.parametrize(
    ("changes", "metrics", "mode", "will_plug", "error"),
    [
        ({}, None, "RW", True, None),
        ({}, None, "RO", True, None),
        ({"is_hvm": True}, DRIVERS, "RW", True, None),
        ({"is_hvm": True}, {"can_use_hotplug_vbd": "yes"}, "RW", True, None),
        ({"is_hvm": True}, {"PV_drivers_version": {"major": "9"}}, "RW", True, None),
        ({"is_hvm": True}, None, "RW", True, NotHotpluggable),
        ({"is_hvm": True}, {"PV_drivers_detected": False}, "RW", True, NotHotpluggable),
        ({"is_hvm": True}, {"can_use_hotplug_vbd": "no", **DRIVERS}, "RW", True, NotHotpluggable),
        ({"is_hvm": True}, None, "RW", False, None),
        ({"is_hvm": True}, DRIVERS, "RO", False, ReadOnlyNotSupported),
        ({"power_state": "Halted"}, None, "RW", False, None),
        ({"power_state": "Paused"}, None, "RW", True, WrongPowerState),
        ({"power_state": "Paused"}, None, "RW", False, None),
        ({"power_state": "Suspended"}, None, "RW", False, WrongPowerState),
        ({"current_operations": frozenset({"pool_migrate"})}, None, "RW", True, VMBusy),
        ({"current_operations": frozenset({"migrate_send"})}, None, "RW", False, VMBusy),
        ({"current_operations": frozenset({"clean_shutdown"})}, None, "RW", True, VMBusy),
        ({"current_operations": frozenset({"clean_shutdown"})}, None, "RW", False, None),
        ({"current_operations": frozenset({"snapshot"})}, None, "RW", True, None),
        ({"power_state": "Halted", "current_operations": frozenset({"start"})}, None, "RW", False, VMBusy),
        ({"power_state": "Paused", "current_operations": frozenset({"unpause"})}, None, "RW", True, VMBusy),
    ],
)
def test_a_vm_takes_a_disk_or_says_why_not(
    changes: dict[str, Any],
    metrics: dict[str, Any] | None,
    mode: str,
    will_plug: bool,
    error: type[VMError] | None,
) -> None:
    vm = replace(RUNNING_PV, **changes)
    if error is None:
        check_takes_disk(vm, metrics, mode=mode, will_plug=will_plug)
        return
    with pytest.raises(error, match="web"):
        check_takes_disk(vm, metrics, mode=mode, will_plug=will_plug)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({}, None),
        ({"power_state": "Paused"}, WrongPowerState),
        ({"power_state": "Suspended"}, WrongPowerState),
        ({"current_operations": frozenset({"pool_migrate"})}, VMBusy),
    ],
)
def test_a_vm_gives_a_plugged_disk_back_or_says_why_not(
    changes: dict[str, Any], error: type[VMError] | None
) -> None:
    vm = replace(RUNNING_PV, **changes)
    if error is None:
        check_gives_disk_back(vm, "xvdb")
        return
    with pytest.raises(error):
        check_gives_disk_back(vm, "xvdb")


def test_a_template_of_the_same_name_makes_no_name_ambiguous(xapi: Simulator, xapi_session: Session) -> None:
    """Snapshots are templates, too, and mostly have the name of their VM."""
    template = xapi.add_vm("web", power_state="Halted")
    with xapi.xapi.lock:
        xapi.db.set("VM", template, is_a_template=True)
    vm = xapi.add_vm("web")
    assert find_vm(View(xapi_session), "web").ref == vm
