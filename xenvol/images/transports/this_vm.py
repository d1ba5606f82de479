"""Which VM of the pool this machine is: what plugs a disk into itself must not plug it into another.

A control domain says so in its inventory, a guest's kernel in sysfs. Neither is asked of xapi, which knows the VM then.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from xenvol.attaching.vm import VM, find_vm
from xenvol.errors import UnknownVM
from xenvol.pool.view import View
from xenvol.session.refs import is_uuid

INVENTORY: Final = "etc/xensource-inventory"
KERNEL: Final = "sys/hypervisor"
"""``type`` and ``uuid``; with the uuid of zeros in a control domain."""
_CONTROL_DOMAIN = re.compile(r"^CONTROL_DOMAIN_UUID=['\"]?([0-9A-Fa-f-]{36})['\"]?\s*$", re.MULTILINE)


def own_uuid(root: Path = Path("/")) -> str | None:
    """The uuid of the VM that this is; None where it is none of Xen's."""
    inventory = _read(root / INVENTORY)
    if (found := _CONTROL_DOMAIN.search(inventory)) is not None and is_uuid(found[1]):
        return found[1].lower()
    uuid = _read(root / KERNEL / "uuid").strip().lower()
    is_xen = _read(root / KERNEL / "type").strip() in ("", "xen")
    return uuid if is_xen and is_uuid(uuid) and uuid.strip("0-") else None


def find_own_vm(view: View, *, root: Path = Path("/")) -> VM | None:
    """The VM in which we run; None where this is no VM of the pool. One call, none where it is no VM at all.

    One that does not run is not this one: the pool has a copy of it, or this is what became of one that it had.
    """
    uuid = own_uuid(root)
    if uuid is None:
        return None
    try:
        vm = find_vm(view, uuid)
    except UnknownVM:
        return None
    return vm if vm.is_running and not vm.is_template else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
