"""Move a running VM to another host of the pool (message_forwarding.ml, pool_migrate).

docs/background/xapi.md 7. The destination must have every SR of the VM plugged. During the migration the VM's
current_operations contain it, and VBD.create is refused; ``Guest.stays_in_flight`` keeps a VM in this state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from xenvol.simulator import tasks
from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.guests import guest_of
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import hypervisor, liveness, message, vm_operations, vm_placement, vm_state
from xenvol.simulator.rules.operations import retry, unmark

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenvol.simulator.rulebook import Call

_POLL_SECONDS = 0.02  # seconds between two checks of a VM that is held in flight; short for a test
_HOST = "host"
"""A key in the result of host.migrate_receive."""


@rule("VM.pool_migrate")
def vm_pool_migrate(call: Call, vm: str, host: str, options: dict[str, str]) -> None:
    db = call.db
    db.row("host", host)
    source = db.row("VM", vm)["resident_on"]
    force = options.get("force") == "true"
    with _migrating(call, vm, strict=not force):
        vm_placement.assert_can_boot_here(call.xapi, vm, host)
        db.set("VM", vm, scheduled_to_be_resident_on=host)
        try:
            liveness.assert_runs_calls(call.xapi, vm)
            if host in call.xapi.dead:  # xapi_xenops.ml: its hypervisor's daemon does not answer
                raise Failure("VM_MIGRATE_CONTACT_REMOTE_SERVICE_FAILED")
            _stay_in_flight(call, vm)
            hypervisor.move(call, vm, host)
            db.set("VM", vm, resident_on=host)
        finally:
            db.set("VM", vm, scheduled_to_be_resident_on=NULL)
        vm_state.refresh(call.xapi, vm)
    row, here, there = db.row("VM", vm), db.row("host", source), db.row("host", host)
    body = (
        f"VM '{row['name_label']}' (uuid: {row['uuid']}) migrated from host '{here['name_label']}' "
        f"(uuid: {here['uuid']}) to host '{there['name_label']}' (uuid: {there['uuid']})"
    )
    message.write(call, "VM_MIGRATED", "VM", vm, body)
    vm_state.refresh_disks(call.xapi, vm)
    vm_state.refresh_vifs(call.xapi, vm)


@rule("host.migrate_receive")
def host_migrate_receive(call: Call, host: str, network: str, _options: dict[str, str]) -> dict[str, str]:
    """Return what the sender of a VM must know about its destination."""
    row = call.db.row("host", host)
    call.db.row("network", network)
    url = f"http://{row['address']}/services"
    return {
        _HOST: host,
        "session_id": call.session,
        "SM": f"{url}/SM?session_id={call.session}",
        "xenops": f"{url}/xenops?session_id={call.session}",
        "master": url.removesuffix("/services") + "/",
    }


@rule("VM.assert_can_migrate")
def vm_assert_can_migrate(
    call: Call,
    vm: str,
    dest: dict[str, str],
    _live: bool,
    vdi_map: dict[str, str],
    _vif_map: dict[str, str],
    options: dict[str, str],
    _vgpu_map: dict[str, str],
) -> None:
    """Raise if VM.migrate_send could not move the VM and its disks to a host of this pool."""
    xapi, db = call.xapi, call.db
    db.row("VM", vm)
    host = dest.get(_HOST, "")
    if not db.exists("host", host):
        raise Failure("VM_MIGRATE_CONTACT_REMOTE_SERVICE_FAILED")
    force = options.get("force") == "true"
    vm_operations.check(xapi, vm, "migrate_send", strict=not force)
    for vbd in db.children(vm, "VBDs"):
        row = db.row("VBD", vbd)
        if row["type"] == "Disk" and not row["empty"]:
            _assert_disk_can_move(call, row["VDI"], vdi_map, host)


def _assert_disk_can_move(call: Call, vdi: str, vdi_map: Mapping[str, str], host: str) -> None:
    db = call.db
    disk = db.row("VDI", vdi)
    if vdi not in vdi_map:
        raise Failure("VDI_NOT_IN_MAP", vdi)
    target = vdi_map[vdi]
    if vm_placement.unseen_srs(call.xapi, [target], host):
        raise Failure("SR_HAS_NO_PBDS", target)
    if target == disk["SR"]:
        return
    if disk["cbt_enabled"]:
        raise Failure("VDI_CBT_ENABLED", vdi)
    if "key_hash" in disk["sm_config"]:
        raise Failure("VDI_IS_ENCRYPTED", vdi)
    for sr, features in (
        (disk["SR"], ("VDI_SNAPSHOT", "VDI_MIRROR")),
        (target, ("VDI_SNAPSHOT", "VDI_MIRROR")),
    ):
        sr_type = db.row("SR", sr)["type"]
        offered = [
            db.row("SM", sm)["features"] for sm in db.refs("SM") if db.row("SM", sm)["type"] == sr_type
        ]
        if not offered or any(feature not in offered[0] for feature in features):
            raise Failure("SR_DOES_NOT_SUPPORT_MIGRATION", sr)


@contextlib.contextmanager
def _migrating(call: Call, vm: str, *, strict: bool) -> Iterator[None]:
    """Mark the VM; with ``force``, do not check whether its guest can be moved."""

    def mark() -> None:
        vm_operations.check(call.xapi, vm, "pool_migrate", strict=strict)
        call.db.map_add("VM", vm, "current_operations", call.task, "pool_migrate")
        vm_operations.update(call.xapi, vm)

    retry(call, mark)
    try:
        yield
    finally:
        unmark(call, "VM", vm)


def _stay_in_flight(call: Call, vm: str) -> None:
    """Wait as long as the test wants; a cancelled migration ends at the source: TASK_CANCELLED [task]."""
    while guest_of(call.xapi.guests, vm).stays_in_flight and not call.xapi.is_closed:
        if tasks.is_cancelled(call.xapi, call.task):
            raise Failure("TASK_CANCELLED", call.task)
        call.sleep(_POLL_SECONDS)
