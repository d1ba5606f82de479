"""The cost of a call, counted and not timed: a call that names its object does the same among 10,000 as among 100."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from xenvol.simulator import Simulator
from xenvol.simulator.dispatch import dispatch

FEW, MANY = 100, 10_000


class Counted(dict[str, Any]):
    """A table that counts iterations over its rows."""

    walked = 0

    def __iter__(self) -> Iterator[str]:
        for key in super().__iter__():
            Counted.walked += 1
            yield key

    def keys(self) -> Any:
        return list(self)

    def values(self) -> Any:
        return [self[key] for key in self]

    def items(self) -> Any:
        return [(key, self[key]) for key in self]


class Pool:
    """A pool with ``count`` objects of every storage class, and one VM and one SR of a few disks to call about."""

    def __init__(self, count: int) -> None:
        self.simulator = Simulator()
        self.xapi = self.simulator.xapi
        self.host = self.xapi.master
        self.sr = self.simulator.add_sr("the one", type="dummy")
        self.vdi, self.free, *_ = self.simulator.add_vdis(self.sr, 10, "mine")
        self.vm = self.simulator.add_vm("the one", kind="pv", power_state="Running")
        self.vbd = self.simulator.add_vbd(self.vm, self.vdi)
        self.simulator.add_vdis(self.simulator.add_sr("other", type="dummy"), count, "other")
        self.simulator.add_srs(count, "sr", type="dummy")
        self.simulator.add_vms(count, "vm")
        self.session = self.raw("session.login_with_password", "root", "secret", "1.0", "test")
        tables = self.xapi.db._rows
        for cls in tables:
            tables[cls] = Counted(tables[cls])

    def raw(self, method: str, *params: Any) -> Any:
        return dispatch(self.xapi, self.host, method, params)

    def call(self, method: str, *params: Any) -> Any:
        return self.raw(method, self.session, *params)

    def uuid(self, cls: str, ref: str) -> str:
        return str(self.xapi.db.row(cls, ref)["uuid"])


def attach_and_detach(pool: Pool) -> None:
    record = {
        "VM": pool.vm, "VDI": pool.free, "userdevice": "autodetect", "bootable": False, "mode": "RW",
        "type": "Disk", "empty": False, "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {},
    }  # fmt: skip  # the keys are of no interest
    vbd = pool.call("VBD.create", record)
    pool.call("VBD.plug", vbd)
    pool.call("VBD.unplug", vbd)
    pool.call("VBD.destroy", vbd)


def introduce_and_forget(pool: Pool) -> None:
    sr = pool.call("SR.introduce", "", "new", "", "dummy", "user", True, {})
    pbd = pool.call("PBD.create", {"SR": sr, "host": pool.host, "device_config": {"k": "v"}})
    pool.call("PBD.plug", pbd)
    pool.call("SR.scan", sr)
    pool.call("PBD.unplug", pbd)
    pool.call("SR.forget", sr)


def create_and_destroy(pool: Pool) -> None:
    record = {
        "SR": pool.sr, "virtual_size": 1 << 30, "type": "user", "sharable": False, "read_only": False,
        "other_config": {},
    }  # fmt: skip  # the keys are of no interest
    vdi = pool.call("VDI.create", record)
    pool.call("VDI.resize", vdi, 2 << 30)
    pool.call("VDI.destroy", vdi)


def where(cls: str, expression: Callable[[Pool], str]) -> Callable[[Pool], object]:
    return lambda pool: pool.call(f"{cls}.get_all_records_where", expression(pool))


CALLS: dict[str, Callable[[Pool], object]] = {
    "get_record": lambda pool: pool.call("VDI.get_record", pool.vdi),
    "a getter": lambda pool: pool.call("SR.get_VDIs", pool.sr),
    "a setter": lambda pool: pool.call("VM.set_name_label", pool.vm, "x"),
    "a map": lambda pool: pool.call("VM.set_other_config", pool.vm, {"k": "v"}),
    "get_by_uuid": lambda pool: pool.call("VM.get_by_uuid", pool.uuid("VM", pool.vm)),
    "get_by_name_label": lambda pool: pool.call("VDI.get_by_name_label", "mine-3"),
    "where uuid": where("SR", lambda pool: f'field "uuid" = "{pool.uuid("SR", pool.sr)}"'),
    "where name": where("VDI", lambda pool: 'field "name__label" = "mine-3" and field "managed" = "true"'),
    "where SR": where("VDI", lambda pool: f'(not field "managed" = "x") and field "SR" = "{pool.sr}"'),
    "where SR and host": where(
        "PBD", lambda pool: f'field "host" = "{pool.host}" and field "SR" = "{pool.sr}"'
    ),
    "where VM or VDI": where("VBD", lambda pool: f'field "VM" = "{pool.vm}" or field "VDI" = "{pool.vdi}"'),
    "event.from of one": lambda pool: pool.call("event.from", [f"vdi/{pool.vdi}"], "", 0.0),
    "event.from of none": lambda pool: pool.call("event.from", ["task"], "", 0.0),
    "log in and out": lambda pool: pool.raw(
        "session.logout", pool.raw("session.login_with_password", "root", "secret")
    ),
    "attach and detach": attach_and_detach,
    "introduce and forget": introduce_and_forget,
    "create and destroy": create_and_destroy,
    "snapshot": lambda pool: pool.call("VDI.destroy", pool.call("VDI.snapshot", pool.vdi, {})),
}


@pytest.fixture(scope="module")
def pools() -> Iterator[tuple[Pool, Pool]]:
    few, many = Pool(FEW), Pool(MANY)
    yield few, many
    few.simulator.close()
    many.simulator.close()


def work(pool: Pool, call: Callable[[Pool], object]) -> tuple[int, int]:
    """Return (functions called, rows iterated over) of the second call, when everything is cached."""
    call(pool)
    count = 0
    Counted.walked = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        call(pool)
    finally:
        sys.setprofile(before)
    return count, Counted.walked


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_names_its_object_does_the_same_among_many(pools: tuple[Pool, Pool], name: str) -> None:
    few, many = (work(pool, CALLS[name]) for pool in pools)
    assert many[1] == few[1], f"{name} walks over {few[1]} rows of {FEW}, {many[1]} of {MANY}"
    assert many[0] <= few[0] * 1.05 + 20, f"{name} calls {few[0]} functions, {many[0]} among many"


def test_a_search_is_seen_by_this_count(pools: tuple[Pool, Pool]) -> None:
    few, many = (work(pool, where("VM", lambda pool: 'field "is_a_template" = "x"')) for pool in pools)
    assert many[1] - few[1] == MANY - FEW
    assert many[0] > 50 * few[0]
