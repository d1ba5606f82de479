"""Many objects and many clients: the cost of a call does not grow, and no data is lost or inconsistent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from statistics import median

import pytest
from xapi_client import PlainClient, log_in

from xenvol.simulator import Simulator

CLIENTS = 64
MANY = 100_000


def seconds(call: Callable[[], object], times: int = 30) -> float:
    """Return the median of some calls, in seconds of CPU of this process, which also runs the simulator."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return median(taken)


def in_parallel(work: Callable[[int], None], count: int = CLIENTS) -> None:
    """Run the work in ``count`` threads at once, and raise the first exception."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            barrier.wait(60)
            work(number)
        except BaseException as error:  # noqa: BLE001  # the main thread raises it
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_call_that_names_its_object_costs_the_same_among_100000(xapi: Simulator) -> None:
    sr = xapi.add_sr("sr")
    vdis = xapi.add_vdis(sr, 100)
    vm = xapi.add_vm("vm")
    with log_in(xapi) as xenapi:

        def attach_and_detach() -> None:
            record = {
                "VM": vm, "VDI": vdis[7], "userdevice": "autodetect", "bootable": False, "mode": "RW",
                "type": "Disk", "empty": False, "other_config": {},
                "qos_algorithm_type": "", "qos_algorithm_params": {},
            }  # fmt: skip  # the keys are of no interest
            vbd = xenapi.VBD.create(record)
            xenapi.VBD.plug(vbd)
            xenapi.VBD.unplug(vbd)
            xenapi.VBD.destroy(vbd)

        uuid = xenapi.VDI.get_uuid(vdis[7])
        calls: dict[str, Callable[[], object]] = {
            "get_record": lambda: xenapi.VDI.get_record(vdis[7]),
            "get_by_uuid": lambda: xenapi.VDI.get_by_uuid(uuid),
            "get_by_name_label": lambda: xenapi.VDI.get_by_name_label("vdi-8"),
            "where uuid": lambda: xenapi.VDI.get_all_records_where(f'field "uuid" = "{uuid}"'),
            "attach and detach": attach_and_detach,
        }
        small = {name: seconds(call) for name, call in calls.items()}
        start = time.process_time()
        other = xapi.add_sr("other")
        xapi.add_vdis(other, MANY - 11_000, "more")
        xapi.add_srs(5_000, "many")
        xapi.add_vms(1_000, "many")
        assert time.process_time() - start < 60
        assert sum(len(rows) for rows in xapi.snapshot().objects.values()) > MANY
        large = {name: seconds(call) for name, call in calls.items()}
    for name, cost in large.items():
        assert cost < 3 * small[name] + 0.005, f"{name}: {small[name]:.4f} s → {cost:.4f} s"


def test_64_clients_read_at_once(xapi: Simulator) -> None:
    xapi.add_vms(50)
    total = 10

    def work(number: int) -> None:
        with log_in(xapi) as xenapi:
            for _ in range(total):
                assert len(xenapi.host.get_all()) == 1
                assert len(xenapi.VM.get_all_records_where('field "name__label" = "vm-7"')) == 1

    in_parallel(work)
    assert len(xapi.journal) == CLIENTS * total * 2
    assert {entry.outcome for entry in xapi.journal} == {"success"}


def test_64_clients_attach_and_detach_and_nothing_is_left(xapi: Simulator) -> None:
    vdis = xapi.add_vdis(xapi.add_sr("sr"), CLIENTS)
    vms = [xapi.add_vm(f"vm{number}") for number in range(8)]
    before = xapi.snapshot()

    def work(number: int) -> None:
        client = PlainClient(xapi)
        record = {
            "VM": vms[number % 8], "VDI": vdis[number], "userdevice": "autodetect", "bootable": False, "mode": "RW",
            "type": "Disk", "empty": False, "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {},
        }  # fmt: skip  # the keys are of no interest
        kind, vbd = client.call("VBD.create", record)
        assert kind == "result", vbd
        for method in ("VBD.plug", "VBD.unplug", "VBD.destroy"):
            assert client.call(method, vbd) == ("result", "")

    in_parallel(work)
    assert before.difference(xapi.snapshot()) == []


def test_of_64_clients_that_want_one_slot_one_gets_it(xapi: Simulator) -> None:
    sr = xapi.add_sr("sr")
    vdis = xapi.add_vdis(sr, CLIENTS)
    vm = xapi.add_vm("vm")
    answers: list[str] = []

    def work(number: int) -> None:
        record = {
            "VM": vm, "VDI": vdis[number], "userdevice": "5", "bootable": False, "mode": "RW", "type": "Disk",
            "empty": False, "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {},
        }  # fmt: skip  # the keys are of no interest
        kind, value = PlainClient(xapi).call("VBD.create", record)
        answers.append("created" if kind == "result" else value[0])

    in_parallel(work)
    assert answers.count("created") == 1
    assert answers.count("DEVICE_ALREADY_EXISTS") == CLIENTS - 1
    assert len(xapi.db.children(vm, "VBDs")) == 1


def test_both_sides_of_every_relation_agree_after_a_storm(xapi: Simulator) -> None:
    sr = xapi.add_sr("sr")

    def work(number: int) -> None:
        client = PlainClient(xapi)
        for _ in range(3):
            record = {
                "SR": sr, "virtual_size": "1024", "type": "user", "sharable": False, "read_only": False,
                "other_config": {}, "name_label": f"disk {number}",
            }  # fmt: skip  # the keys are of no interest
            kind, vdi = client.call("VDI.create", record)
            assert kind == "result", vdi
            if number % 2:
                assert client.call("VDI.destroy", vdi) == ("result", "")

    in_parallel(work, 16)
    db = xapi.db
    for child, field, parent, members in db.model.relations:
        if child not in db.model.classes or field not in db.model.classes[child].fields:  # of a later release
            continue
        for ref in db.refs(parent):
            claimed = [row for row in db.refs(child) if ref in as_list(db.get(child, row, field))]
            assert sorted(db.children(ref, members)) == sorted(claimed), (parent, members)
    assert db.count("VDI") == 8 * 3


def as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
