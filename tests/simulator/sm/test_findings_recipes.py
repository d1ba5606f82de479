"""docs/background/recordings.md, "Working recipes": the calls that add and remove volumes, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from filelab import MIB, file_lab
from lab import ADDRESS, GIB, TARGET, Lab, lab, lun_uuid, refusal
from test_findings_vbd_on_luns import vbd_record, vm

CONFIG = {"target": ADDRESS, "targetIQN": TARGET}
USER, PASSWORD = "user1", "sekret12chap"


@pytest.fixture
def iscsi() -> Iterator[Lab]:
    with lab() as made:
        yield made


def plugged(iscsi: Lab, guest: str, vdi: str) -> str:
    vbd = iscsi.x.VBD.create(vbd_record(guest, vdi))
    iscsi.x.VBD.plug(vbd)
    return str(vbd)


def taken_out(iscsi: Lab, vbd: str) -> None:
    iscsi.x.VBD.unplug(vbd)
    iscsi.x.VBD.destroy(vbd)


def test_a_lun_is_attached_without_a_scan_and_detached_without_a_trace(iscsi: Lab) -> None:
    iscsi.san.targets[TARGET].chap = (USER, PASSWORD)
    guest = vm(iscsi)
    before = iscsi.simulator.snapshot()
    secret = iscsi.x.secret.create({"value": PASSWORD, "other_config": {}})
    login = {"chapuser": USER, "chappassword_secret": iscsi.x.secret.get_uuid(secret)}
    sr, pbd = iscsi.plug({**CONFIG, **login})
    vdi = iscsi.vdis(sr)[5]["ref"]
    assert iscsi.x.VDI.get_by_uuid(lun_uuid(5)) == vdi
    vbd = plugged(iscsi, guest, vdi)
    assert iscsi.x.VBD.get_device(vbd) == "xvda"
    taken_out(iscsi, vbd)
    iscsi.x.PBD.unplug(pbd)
    iscsi.x.PBD.destroy(pbd)
    iscsi.x.SR.forget(sr)
    iscsi.x.secret.destroy(secret)
    assert iscsi.initiator.sessions == []
    after = iscsi.simulator.snapshot()
    assert before.difference(after) == []


@pytest.mark.parametrize("by_scan", [True, False])
def test_one_more_lun_of_the_target_comes_into_the_same_sr(iscsi: Lab, by_scan: bool) -> None:
    """Passes if nothing is raised."""
    sr, _ = iscsi.plug()
    iscsi.san.add_lun(TARGET, 7, GIB)
    if by_scan:
        iscsi.x.SR.scan(sr)
        vdi = iscsi.vdis(sr)[7]["ref"]
    else:
        vdi = iscsi.by_introduce(sr, {"LUNid": "7"})
    taken_out(iscsi, plugged(iscsi, vm(iscsi), vdi))


def test_a_lun_that_is_forgotten_before_it_is_removed_leaves_nothing(iscsi: Lab) -> None:
    sr, pbd = iscsi.plug()
    guest = vm(iscsi)
    vdi = iscsi.vdis(sr)[1]["ref"]
    taken_out(iscsi, plugged(iscsi, guest, vdi))
    iscsi.x.VDI.forget(vdi)
    iscsi.san.remove_lun(TARGET, 1)
    iscsi.x.SR.scan(sr)
    assert sorted(iscsi.vdis(sr)) == [0, 5]
    taken_out(iscsi, plugged(iscsi, guest, iscsi.vdis(sr)[0]["ref"]))
    iscsi.x.PBD.unplug(pbd)


def test_a_resized_lun_is_seen_after_an_unplug_that_logs_out(iscsi: Lab) -> None:
    sr, pbd = iscsi.plug()
    iscsi.san.resize_lun(TARGET, 1, 3 * GIB)
    iscsi.x.SR.scan(sr)
    assert iscsi.vdis(sr)[1]["virtual_size"] == str(2 * GIB)
    iscsi.x.PBD.unplug(pbd)
    iscsi.x.PBD.plug(pbd)
    assert iscsi.vdis(sr)[1]["virtual_size"] == str(3 * GIB)


def test_a_host_gets_its_initiator_name_once(iscsi: Lab) -> None:
    iscsi.x.host.remove_from_other_config(iscsi.host, "iscsi_iqn")
    _, pbd = iscsi.introduce()
    assert refusal(iscsi.x.PBD.plug, pbd)[0] == "SR_BACKEND_FAILURE_97"
    iscsi.x.host.set_iscsi_iqn(iscsi.host, "iqn.2024-01.test:late")
    iscsi.x.PBD.plug(pbd)
    assert iscsi.initiator.name == "iqn.2024-01.test:late"


@pytest.mark.parametrize(
    ("sr_type", "config"),
    [("file", {"location": "/srv/sr"}), ("nfs", {"server": "10.0.0.5", "serverpath": "/export/a"})],
)
def test_a_share_that_is_introduced_again_has_all_its_disks_with_the_plug(
    sr_type: str, config: dict[str, str]
) -> None:
    with file_lab() as files:
        files.mounts.make_directory("/srv", size=GIB)
        files.shares.add_nfs("10.0.0.5").export("/export/a", size=GIB)
        sr = files.create(sr_type, config)
        uuids = {files.x.VDI.get_uuid(files.vdi(sr, MIB)) for _ in range(2)}
        assert {name for name in files.disks_of(sr) if name.endswith(".vhd")} == {f"{u}.vhd" for u in uuids}
        rows = files.rows(files.forget_and_plug_again(sr, config))
        assert rows.keys() == uuids
        assert {row["name_label"] for row in rows.values()} == {""}
