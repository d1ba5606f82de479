"""A world file, checked and frozen; for a wrong key, `WorldError` says what is accepted."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xenvol.simulator.bootstrap import RECORDED_SM_TYPES, HostSpec, PoolSpec
from xenvol.simulator.sm import registry
from xenvol.simulator.sm.worldfile import WorldError, section, size_in_bytes, text, texts

VM_KINDS = ("pv", "hvm", "pvh")
POWER_STATES = ("Halted", "Running", "Paused", "Suspended")


@dataclass(frozen=True, slots=True)
class VDISpec:
    """A disk to create in an SR."""

    name: str
    size: int = 1 << 30
    sharable: bool = False
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class SRSpec:
    """An SR that exists from the start."""

    name: str
    type: str
    device_config: Mapping[str, str] = dataclasses.field(default_factory=dict)
    uuid: str = ""
    content_type: str = "user"
    shared: bool = True
    create: bool = False
    """True: format it (SR.create); False: introduce an existing one."""
    hosts: tuple[str, ...] | None = None
    """The hosts with a PBD; None: all."""
    plugged: bool = True
    is_default: bool = False
    vdis: tuple[VDISpec, ...] = ()


@dataclass(frozen=True, slots=True)
class VMSpec:
    """A VM that exists from the start."""

    name: str
    kind: str = "pv"
    power_state: str = "Halted"
    pv_drivers: bool = True
    resident_on: str | None = None
    disks: tuple[str, ...] = ()
    """The names of VDIs in the file's SRs."""
    refuses_unplug: bool = False


@dataclass(frozen=True, slots=True)
class WorldSpec:
    """Everything that `Simulator` builds, again at every reset."""

    pool: PoolSpec
    srs: tuple[SRSpec, ...] = ()
    vms: tuple[VMSpec, ...] = ()
    storage: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The values that `xenvol.simulator.sm.world.World.from_dict` reads."""
    faults: tuple[Mapping[str, Any], ...] = ()


@functools.cache
def all_sm_types() -> tuple[str, ...]:
    """Return the types that have a driver here, under all their names."""
    return tuple(sorted(t for t in registry.known_types() if registry.driver(t) is not None))


def parse(data: Any) -> WorldSpec:
    """Check and freeze a world; WorldError names the key."""
    top = section(data, "world", "about", "pool", "hosts", "srs", "vms", "storage", "faults")
    hosts = _list(top, "hosts", _host)
    if not hosts:
        raise WorldError('hosts: expected at least one, as in [{"name": "host1"}]')
    srs = _list(top, "srs", _sr)
    vms = _list(top, "vms", _vm)
    spec = WorldSpec(
        _pool(top.get("pool", {}), hosts),
        srs,
        vms,
        section(top.get("storage", {}), "storage"),
        _list(top, "faults", lambda fault, where: dict(section(fault, where))),
    )
    _check_names(spec)
    return spec


def _pool(values: Any, hosts: tuple[HostSpec, ...]) -> PoolSpec:
    pool = section(values, "pool", "name", "sm_types", "domains_use_storage")
    types = tuple(texts(pool.get("sm_types", all_sm_types()), "pool.sm_types"))
    known = {*registry.known_types(), *RECORDED_SM_TYPES}
    for index, sr_type in enumerate(types):
        if sr_type not in known:
            raise WorldError(
                f"pool.sm_types[{index}]: no driver {sr_type!r}; there are {', '.join(sorted(known))}"
            )
    uses_storage = _bool(pool, "domains_use_storage", "pool", True)
    return PoolSpec(hosts, _text(pool, "name", "pool"), types, uses_storage)


def _host(values: Any, where: str) -> HostSpec:
    host = section(values, where, "name", "address", "iscsi_iqn", "multipathing", "enabled")
    return HostSpec(
        name=_required(host, "name", where),
        address=_text(host, "address", where),
        iscsi_iqn=_text(host, "iscsi_iqn", where),
        multipathing=_bool(host, "multipathing", where, False),
        enabled=_bool(host, "enabled", where, True),
    )


def _sr(values: Any, where: str) -> SRSpec:
    sr = section(values, where, *(_json_name(field.name) for field in dataclasses.fields(SRSpec)))
    config = section(sr.get("device_config", {}), f"{where}.device_config")
    for key, value in config.items():
        if not isinstance(value, str):
            raise WorldError(f"{where}.device_config.{key}: expected a text, not {value!r}")
    return SRSpec(
        name=_required(sr, "name", where),
        type=_required(sr, "type", where),
        device_config=dict(config),
        uuid=_text(sr, "uuid", where),
        content_type=_text(sr, "content_type", where, "user"),
        shared=_bool(sr, "shared", where, True),
        create=_bool(sr, "create", where, False),
        hosts=tuple(texts(sr["hosts"], f"{where}.hosts")) if "hosts" in sr else None,
        plugged=_bool(sr, "plugged", where, True),
        is_default=_bool(sr, "default", where, False),
        vdis=_list(sr, "vdis", _vdi, where),
    )


def _vdi(values: Any, where: str) -> VDISpec:
    vdi = section(values, where, "name", "size", "sharable", "read_only")
    return VDISpec(
        name=_required(vdi, "name", where),
        size=size_in_bytes(vdi.get("size", 1 << 30), f"{where}.size"),
        sharable=_bool(vdi, "sharable", where, False),
        read_only=_bool(vdi, "read_only", where, False),
    )


def _vm(values: Any, where: str) -> VMSpec:
    vm = section(values, where, *(field.name for field in dataclasses.fields(VMSpec)))
    return VMSpec(
        name=_required(vm, "name", where),
        kind=_one_of(vm, "kind", where, VM_KINDS),
        power_state=_one_of(vm, "power_state", where, POWER_STATES),
        pv_drivers=_bool(vm, "pv_drivers", where, True),
        resident_on=_text(vm, "resident_on", where) or None,
        disks=tuple(texts(vm.get("disks", []), f"{where}.disks")),
        refuses_unplug=_bool(vm, "refuses_unplug", where, False),
    )


def _check_names(spec: WorldSpec) -> None:
    """Check that names within the file refer to its own objects."""
    hosts = [host.name for host in spec.pool.hosts]
    for name in hosts:
        if hosts.count(name) > 1:
            raise WorldError(f"hosts: two are called {name!r}; each needs a name of its own")
    for host in section(spec.storage.get("hosts", {}), "storage.hosts"):
        if host not in hosts:
            raise WorldError(f"storage.hosts.{host}: no such host; there are {', '.join(hosts)}")
    for index, sr in enumerate(spec.srs):
        for host in sr.hosts or ():
            if host not in hosts:
                raise WorldError(f"srs[{index}].hosts: no host {host!r}; there are {', '.join(hosts)}")
    vdis = [vdi.name for sr in spec.srs for vdi in sr.vdis]
    for index, vm in enumerate(spec.vms):
        if vm.resident_on is not None and vm.resident_on not in hosts:
            raise WorldError(
                f"vms[{index}].resident_on: no host {vm.resident_on!r}; there are {', '.join(hosts)}"
            )
        for disk in vm.disks:
            if disk not in vdis:
                raise WorldError(
                    f"vms[{index}].disks: no VDI {disk!r} in srs; there are {', '.join(vdis) or 'none'}"
                )


def _json_name(field: str) -> str:
    return field.removeprefix("is_")


def _list(values: Mapping[str, Any], key: str, read: Callable[[Any, str], Any], where: str = "") -> Any:
    """Return a tuple of the items that ``read`` returns; the caller's annotation gives their type."""
    path = f"{where}.{key}" if where else key
    items = values.get(key, [])
    if not isinstance(items, list):
        raise WorldError(f"{path}: expected a list, not {items!r}")
    return tuple(read(item, f"{path}[{index}]") for index, item in enumerate(items))


def _required(values: Mapping[str, Any], key: str, where: str) -> str:
    if key not in values:
        raise WorldError(f"{where}.{key}: missing; expected a text")
    return text(values[key], f"{where}.{key}")


def _text(values: Mapping[str, Any], key: str, where: str, default: str = "") -> str:
    value = values.get(key, default)
    if not isinstance(value, str):
        raise WorldError(f"{where}.{key}: expected a text, not {value!r}")
    return value


def _bool(values: Mapping[str, Any], key: str, where: str, default: bool) -> bool:
    value = values.get(key, default)
    if not isinstance(value, bool):
        raise WorldError(f"{where}.{key}: expected true or false, not {value!r}")
    return value


def _one_of(values: Mapping[str, Any], key: str, where: str, accepted: Sequence[str]) -> str:
    value = values.get(key, accepted[0])
    if value not in accepted:
        raise WorldError(f"{where}.{key}: {value!r} is not one of {', '.join(accepted)}")
    return str(value)
