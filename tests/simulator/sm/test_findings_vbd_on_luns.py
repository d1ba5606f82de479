"""docs/background/recordings.md, "VBD on LUN-per-VDI": how plugged LUN disks affect their SR, and the SR them."""

from collections.abc import Iterator
from typing import Any

import pytest
from lab import OTHER, OTHER_ADDRESS, TARGET, Lab, lab, refusal


@pytest.fixture
def luns() -> Iterator[Lab]:
    with lab() as made:
        yield made


def vm(luns: Lab, *disks: str, power_state: str = "Running") -> str:
    with luns.simulator.xapi.lock:
        return luns.simulator.add_vm("guest", power_state=power_state, disks=list(disks))


def vbd_record(vm_ref: str, vdi: str, **changes: Any) -> dict[str, Any]:
    return {
        "VM": vm_ref,
        "VDI": vdi,
        "userdevice": "autodetect",
        "bootable": False,
        "mode": "RW",
        "type": "Disk",
        "empty": False,
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
        **changes,
    }


def test_a_vbd_takes_the_backend_kind_of_its_disk_over(luns: Lab) -> None:
    sr, _ = luns.plug()
    vbd = luns.x.VBD.create(vbd_record(vm(luns), luns.vdis(sr)[1]["ref"]))
    assert luns.x.VBD.get_other_config(vbd) == {"backend-kind": "vbd"}


def test_while_a_disk_is_plugged_its_sr_stays_and_the_disk_can_neither_be_destroyed_nor_forgotten(
    luns: Lab,
) -> None:
    sr, pbd = luns.plug()
    vdi = luns.vdis(sr)[1]["ref"]
    vm(luns, vdi)
    assert refusal(luns.x.PBD.unplug, pbd) == ["VDI_IN_USE", vdi]
    assert refusal(luns.x.VDI.destroy, vdi) == ["VDI_IN_USE", vdi, "destroy"]
    assert refusal(luns.x.VDI.forget, vdi) == ["VDI_IN_USE", vdi, "forget"]
    assert refusal(luns.x.SR.forget, sr) == ["SR_HAS_PBD", sr]
    luns.x.SR.scan(sr)
    assert luns.vdis(sr)[1]["ref"] == vdi


def test_an_unplugged_vbd_holds_nothing_and_dangles_until_the_collector_runs(luns: Lab) -> None:
    sr, pbd = luns.plug()
    vdi = luns.vdis(sr)[1]["ref"]
    guest = vm(luns, vdi, power_state="Halted")
    (vbd,) = luns.x.VM.get_VBDs(guest)
    luns.x.PBD.unplug(pbd)
    luns.x.SR.forget(sr)
    assert luns.x.VBD.get_VDI(vbd) == vdi
    luns.collect()
    assert luns.x.VM.get_VBDs(guest) == []


class TestPlugging:
    def test_a_lun_that_is_there_can_be_plugged(self, luns: Lab) -> None:
        sr, _ = luns.plug()
        vbd = luns.x.VBD.create(vbd_record(vm(luns), luns.vdis(sr)[1]["ref"]))
        luns.x.VBD.plug(vbd)
        assert luns.x.VBD.get_currently_attached(vbd) is True
        luns.x.VBD.unplug(vbd)

    def test_a_domain_without_storage_changes_nothing_about_the_disk(self) -> None:
        """Trace 20c#17: the recorded host's domains were simulated, so no plug reached SM."""
        host = {"name": "host1", "iscsi_iqn": "iqn.2001-01.test:host1"}
        world = {"pool": {"domains_use_storage": False}, "hosts": [host]}
        with lab(world=world) as luns:
            sr, _ = luns.plug()
            before = luns.vdis(sr)[1]
            vbd = luns.x.VBD.create(vbd_record(vm(luns), before["ref"]))
            luns.x.VBD.plug(vbd)
            assert luns.vdis(sr)[1]["sm_config"] == before["sm_config"]
            luns.x.VBD.unplug(vbd)
            luns.x.VBD.destroy(vbd)
            assert luns.vdis(sr)[1] == before

    def test_one_that_has_vanished_cannot(self, luns: Lab) -> None:
        sr, _ = luns.plug()
        vbd = luns.x.VBD.create(vbd_record(vm(luns), luns.vdis(sr)[1]["ref"]))
        luns.san.remove_lun(TARGET, 1)
        assert "The VDI is not available" in str(refusal(luns.x.VBD.plug, vbd))
        assert luns.x.VBD.get_currently_attached(vbd) is False

    def test_nor_can_any_other_lun_of_the_target_until_the_next_scan(self, luns: Lab) -> None:
        sr, _ = luns.plug()
        guest = vm(luns)
        vbd = luns.x.VBD.create(vbd_record(guest, luns.vdis(sr)[1]["ref"]))
        luns.san.remove_lun(TARGET, 5)
        assert "The VDI is not available" in str(refusal(luns.x.VBD.plug, vbd))
        luns.x.SR.scan(sr)
        luns.x.VBD.plug(vbd)

    def test_nor_does_the_driver_let_go_of_it_or_of_another_until_the_host_looks_again(
        self, luns: Lab
    ) -> None:
        """RAWVDI.detach reads every LUN first, and then requires its own (libs/sm/LUNperVDI.py; no trace has it).

        The guest has released the disk by then.
        """
        sr, _ = luns.plug()
        guest, disks = vm(luns), luns.vdis(sr)
        gone, one, other = (luns.x.VBD.create(vbd_record(guest, disks[n]["ref"])) for n in (1, 5, 0))
        for vbd in (gone, one, other):
            luns.x.VBD.plug(vbd)
        luns.san.remove_lun(TARGET, 1)
        assert "The VDI is not available" in str(refusal(luns.x.VBD.unplug, one))
        assert luns.x.VBD.get_currently_attached(one) is False
        assert refusal(luns.x.VBD.unplug, one) == ["DEVICE_ALREADY_DETACHED", one]
        config = luns.x.PBD.get_device_config(luns.x.SR.get_PBDs(sr)[0])
        assert "SR_BACKEND_FAILURE_107" in str(refusal(luns.x.SR.probe, luns.host, config, "lvmoiscsi", {}))
        luns.x.VBD.unplug(other)
        assert "The VDI is not available" in str(refusal(luns.x.VBD.unplug, gone))


class TestControlDomain:
    @pytest.fixture
    def dom0(self, luns: Lab) -> str:
        return str(luns.x.host.get_control_domain(luns.host))

    def test_a_lun_cannot_be_plugged_into_it_for_want_of_an_nbd_address(self, luns: Lab, dom0: str) -> None:
        sr, _ = luns.plug()
        vdi = luns.vdis(sr)[1]["ref"]
        vbd = luns.x.VBD.create(vbd_record(dom0, vdi))
        text = 'Failure("Could not parse NBD URI returned from the storage backend: ")'
        assert refusal(luns.x.VBD.plug, vbd) == ["INTERNAL_ERROR", text]
        assert luns.x.VBD.get_currently_attached(vbd) is False
        host = luns.x.host.get_uuid(luns.host)
        sm_config = luns.x.VDI.get_sm_config(vdi)
        assert sm_config == {
            "LUNid": "1",
            "SCSIid": "3600a1",
            "backend-kind": "vbd",
            f"read-caching-enabled-on-{host}": "false",
            f"read-caching-reason-{host}": "SR_NOT_SUPPORTED",
        }  # and no host_<reference>: there is no tapdisk

    def test_a_lun_that_has_vanished_is_not_available_there(self, luns: Lab, dom0: str) -> None:
        sr, _ = luns.plug()
        vbd = luns.x.VBD.create(vbd_record(dom0, luns.vdis(sr)[1]["ref"]))
        luns.san.remove_lun(TARGET, 1)
        text = "The VDI is not available [opterr=Command  failed (exec failed): Operation not permitted]"
        assert refusal(luns.x.VBD.plug, vbd) == ["SR_BACKEND_FAILURE_46", "", text, ""]


@pytest.mark.parametrize("plugs_again", [False, True])
def test_a_member_of_the_pool_sees_only_the_luns_of_its_own_session(plugs_again: bool) -> None:
    """SR.scan scans on the master: a LUN that it adds has no disk yet on a member that was plugged before."""
    with lab(hosts=2) as luns:
        sr, _ = luns.introduce()
        other = next(host for host in luns.x.host.get_all() if host != luns.host)
        config = {"target": "10.0.0.1", "targetIQN": TARGET}
        pbd = luns.x.PBD.create({"host": other, "SR": sr, "device_config": config})
        for one in luns.x.SR.get_PBDs(sr):
            luns.x.PBD.plug(one)
        luns.san.add_lun(TARGET, 7, 1 << 20)
        luns.x.SR.scan(sr)
        name = luns.x.host.get_name_label(other)
        with luns.simulator.xapi.lock:
            guest = luns.simulator.add_vm("guest", power_state="Running", resident_on=name)
        vbd = luns.x.VBD.create(vbd_record(guest, luns.vdis(sr)[7]["ref"]))
        if plugs_again:
            luns.x.PBD.unplug(pbd)
            luns.x.PBD.plug(pbd)
            luns.x.VBD.plug(vbd)
        else:
            assert "The VDI is not available" in str(refusal(luns.x.VBD.plug, vbd))


def test_a_second_target_is_untouched_by_what_happens_to_the_first(luns: Lab) -> None:
    luns.plug()
    sr, _ = luns.plug({"target": OTHER_ADDRESS, "targetIQN": OTHER})
    vbd = luns.x.VBD.create(vbd_record(vm(luns), luns.vdis(sr)[1]["ref"]))
    luns.san.remove_lun(TARGET, 1)
    luns.x.VBD.plug(vbd)
    assert luns.x.VBD.get_currently_attached(vbd) is True
