"""What attach and detach cost in calls: pinned, and the same whatever is in the pool (nova: 14 and 13, growing)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenarios import CHAP, GIB, IQN, SCENARIOS, arrange_target, iscsi
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps

ATTACH = [
    "VM.get_all_records_where",  # the VM, by its uuid
    "event.from",  # its disks, its guest's metrics, the pool's master, the SR types on offer
    "SR.get_all_records_where",  # who holds the target
    "SR.introduce",
    "PBD.create",
    "PBD.plug",
    "VDI.get_all_records_where",  # the LUN
    "VBD.create",
    "VBD.plug",
    "event.from",  # what there is now: VBD, VDI and SR
]
DETACH = [
    "VM.get_all_records_where",
    "VBD.get_all_records_where",
    "VBD.unplug",
    "VBD.destroy",
    "SR.get_all_records_where",  # who holds the target
    "VDI.get_all_records_where",  # whether anybody uses a LUN of it
    "PBD.unplug",
    "VDI.get_all_records_where",  # whether anybody has come meanwhile
    "SR.forget",
]


def calls_of_attach_and_detach(
    xapi: Simulator, ops: VolumeOps, info: dict[str, Any], vm: str
) -> tuple[list[str], list[str]]:
    uuid = xapi.db.get("VM", vm, "uuid")
    with xapi.journal.recording() as attach:
        ops.attach_volume(info, uuid, "/dev/xvdiu")
    with xapi.journal.recording() as detach:
        ops.detach_volume(info, uuid, "/dev/xvdiu")
    return attach.methods(), detach.methods()


def test_attach_and_detach_of_a_lun_are_ten_calls_and_nine(xapi: Simulator, volume_ops: VolumeOps) -> None:
    arrange_target(xapi, luns=1)
    assert calls_of_attach_and_detach(xapi, volume_ops, iscsi(0), xapi.add_vm("web")) == (ATTACH, DETACH)


@pytest.mark.parametrize("luns", [1, 100, 1000])
def test_they_are_as_many_whatever_the_number_of_luns_on_the_target(
    xapi: Simulator, volume_ops: VolumeOps, luns: int
) -> None:
    xapi.storage.san.add_target(IQN, "10.0.0.1:3260")
    for number in range(luns):
        xapi.storage.san.add_lun(IQN, number, GIB)
    assert calls_of_attach_and_detach(xapi, volume_ops, iscsi(luns - 1), xapi.add_vm("web")) == (
        ATTACH,
        DETACH,
    )


@pytest.mark.parametrize("vbds", [1, 250])
def test_they_are_as_many_whatever_the_number_of_disks_of_the_vm(
    xapi: Simulator, volume_ops: VolumeOps, vbds: int
) -> None:
    arrange_target(xapi)
    vm = xapi.add_vm("web")
    xapi.add_vbds(vm, xapi.add_vdis(xapi.add_sr(), vbds))
    assert calls_of_attach_and_detach(xapi, volume_ops, iscsi(0), vm) == (ATTACH, DETACH)


@pytest.mark.parametrize("sr_type", ["nfs", "iscsi"])
@pytest.mark.parametrize("srs", [1, 10_000])
def test_they_are_as_many_whatever_the_number_of_srs_in_the_pool(
    xapi: Simulator, volume_ops: VolumeOps, srs: int, sr_type: str
) -> None:
    arrange_target(xapi)
    xapi.add_srs(srs, type=sr_type, plugged=False, hosts=[])
    assert calls_of_attach_and_detach(xapi, volume_ops, iscsi(0), xapi.add_vm("web")) == (ATTACH, DETACH)


def test_somebody_elses_iscsi_srs_cost_one_call_more_each_way_however_many_they_are(
    xapi: Simulator, volume_ops: VolumeOps
) -> None:
    """Only their PBDs tell which target they hold; all are read in one call."""
    arrange_target(xapi)
    vm = xapi.add_vm("web")
    for number in range(20):
        device_config = {"target": "10.0.0.77", "targetIQN": f"iqn.2000-01.example:{number}"}
        xapi.add_sr(f"theirs{number}", type="iscsi", device_config=device_config, plugged=False)
    attach, detach = calls_of_attach_and_detach(xapi, volume_ops, iscsi(0), vm)
    assert (len(attach), len(detach)) == (len(ATTACH) + 1, len(DETACH) + 1)


@pytest.mark.xapi(hosts=4)
@pytest.mark.parametrize(("resident", "further"), [(0, 0), (2, 1)], ids=["on-the-master", "on-a-slave"])
def test_a_further_host_costs_a_pbd_a_plug_and_the_question_which_lun_it_sees(
    xapi: Simulator, volume_ops: VolumeOps, resident: int, further: int
) -> None:
    arrange_target(xapi)
    vm = xapi.add_vm("web", resident_on=xapi.db.refs("host")[resident])
    attach, detach = calls_of_attach_and_detach(xapi, volume_ops, iscsi(0), vm)
    assert len(attach) == len(ATTACH) + 3 * further
    assert len(detach) <= 10 + 2 * further


def test_chap_costs_two_calls_more_to_attach_and_one_to_detach(
    xapi: Simulator, volume_ops: VolumeOps
) -> None:
    arrange_target(xapi, chap=CHAP)
    info = iscsi(0, auth_method="CHAP", auth_username=CHAP[0], auth_password=CHAP[1])
    attach, detach = calls_of_attach_and_detach(xapi, volume_ops, info, xapi.add_vm("web"))
    assert (len(attach), len(detach)) == (len(ATTACH) + 2, len(DETACH) + 1)


@pytest.mark.parametrize("scenario", [s for s in SCENARIOS if not s.name.startswith("iscsi")], ids=str)
def test_a_disk_file_costs_ten_calls_each_way(xapi: Simulator, volume_ops: VolumeOps, scenario: Any) -> None:
    scenario.arrange(xapi)
    attach, detach = calls_of_attach_and_detach(
        xapi, volume_ops, scenario.connection_info, xapi.add_vm("web")
    )
    is_lvm = "lvm" in scenario.name  # its drivers rewrite the SR's mark, so it is written twice
    assert (len(attach), len(detach)) == (11 if is_lvm else 10, 10)


def test_a_second_lun_of_a_known_target_costs_less(xapi: Simulator, volume_ops: VolumeOps) -> None:
    arrange_target(xapi)
    vm = xapi.add_vm("web")
    volume_ops.attach_volume(iscsi(0), "web")
    attach, detach = calls_of_attach_and_detach(xapi, volume_ops, iscsi(1), vm)
    assert (len(attach), len(detach)) == (9, 8)


@pytest.mark.xapi(hosts=3)
@pytest.mark.parametrize("named_by", [None, "reference", "uuid", "name_label"])
def test_a_connector_is_one_call_and_two_more_with_fibre_channel(
    xapi: Simulator, volume_ops: VolumeOps, named_by: str | None
) -> None:
    """nova asks for one before each attach. A probe of a host's hardware can take seconds."""
    ref = xapi.db.refs("host")[1]
    names = {None: None, "reference": ref, **xapi.db.record("host", ref)}
    host = names[named_by]
    with xapi.journal.recording() as calls:
        volume_ops.get_connector(host)
    assert calls.methods() == ["event.from"]
    with xapi.journal.recording() as calls:
        volume_ops.get_connector(host, fibre_channel=True)
    assert calls.methods() == ["event.from", "SM.get_all_records_where", "SR.probe"]


@pytest.mark.xapi(hosts=8)
def test_the_connectors_of_a_vm_are_two_calls_whatever_the_number_of_hosts(
    xapi: Simulator, volume_ops: VolumeOps
) -> None:
    xapi.add_vm("web", power_state="Halted")
    with xapi.journal.recording() as calls:
        assert len(volume_ops.get_connectors("web")) == 8
    assert calls.methods() == ["VM.get_all_records_where", "event.from"]
