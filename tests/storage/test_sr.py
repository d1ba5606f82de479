"""The order in which hosts plug and unplug an SR, and what is restored if that fails."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest

from tests.meanwhile import interrupted
from tests.scenarios import (
    CHAP,
    GIB,
    IQN,
    NFS_XENSM,
    SR_UUID,
    VDI_UUID,
    arrange_target,
    changes,
    iscsi,
    touch_hosts,
)
from xenvol.errors import XapiError
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps

THEIRS = {"target": "10.0.0.1", "targetIQN": IQN, "port": "3260"}


@pytest.fixture
def target(xapi: Simulator) -> Simulator:
    """A target that all hosts reach, and a halted VM, which needs it on all of them."""
    arrange_target(xapi)
    touch_hosts(xapi)
    xapi.add_vm("web", power_state="Halted")
    return xapi


def chap(lun: int) -> dict[str, Any]:
    return iscsi(lun, auth_method="CHAP", auth_username=CHAP[0], auth_password=CHAP[1])


def plugged(xapi: Simulator, sr: str) -> list[bool]:
    return [xapi.db.get("PBD", pbd, "currently_attached") for pbd in xapi.db.children(sr, "PBDs")]


@pytest.mark.xapi(hosts=4)
class TestTheMaster:
    """Only a plug on the master makes the storage driver list the disks, and xapi runs all work on a shared SR
    there."""

    def test_is_the_first_to_be_plugged_and_the_last_to_be_unplugged(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        with target.journal.recording() as attach:
            attachment = volume_ops.attach_volume(iscsi(0), "web")
        host_of = {
            pbd: target.db.get("PBD", pbd, "host") for pbd in target.db.children(attachment.sr_ref, "PBDs")
        }
        with target.journal.recording() as detach:
            volume_ops.detach_volume(iscsi(0), "web")
        plugs = [host_of[entry.params[0]] for entry in attach if entry.method == "PBD.plug"]
        unplugs = [host_of[entry.params[0]] for entry in detach if entry.method == "PBD.unplug"]
        assert len(plugs) == len(unplugs) == 4
        assert plugs[0] == unplugs[-1] == target.xapi.master


@pytest.mark.xapi(hosts=2)
class TestAPBDThatWasThere:
    """Another attempt's PBD, unplugged, with a portal that does not answer or a password that the target refuses."""

    @pytest.fixture
    def slave(self, xapi: Simulator) -> str:
        """A host of which the PBD is unplugged. A VM "far" runs there, and another one has a disk of the target."""
        arrange_target(xapi, chap=CHAP)
        touch_hosts(xapi)
        (slave,) = set(xapi.db.refs("host")) - {xapi.xapi.master}
        xapi.add_vm("near", resident_on=xapi.xapi.master)
        xapi.add_vm("far", resident_on=slave)
        return slave

    @pytest.fixture
    def sr(self, xapi: Simulator, volume_ops: VolumeOps, slave: str) -> str:
        volume_ops.attach_volume(chap(0), "near")
        attachment = volume_ops.attach_volume(chap(1), "far")
        volume_ops.detach_volume(chap(1), "far")
        pbd = self.pbd_of(xapi, attachment.sr_ref, slave)
        volume_ops._session.call("PBD.unplug", pbd)
        return attachment.sr_ref

    @staticmethod
    def pbd_of(xapi: Simulator, sr: str, host: str) -> str:
        (pbd,) = [pbd for pbd in xapi.db.children(sr, "PBDs") if xapi.db.get("PBD", pbd, "host") == host]
        return pbd

    def config_of(self, xapi: Simulator, sr: str, host: str) -> dict[str, str]:
        """The PBD's device_config, with the password in place of the secret's uuid."""
        config = dict(xapi.db.get("PBD", self.pbd_of(xapi, sr, host), "device_config"))
        secret = xapi.db.by_uuid("secret", config["chappassword_secret"])
        assert secret is not None
        return config | {"chappassword_secret": xapi.db.get("secret", secret, "value")}

    @pytest.mark.parametrize("every", [True, False], ids=["all-ways-fail", "the-new-way-works"])
    def test_is_there_again_after_an_attach_that_replaced_it_and_failed(
        self, xapi: Simulator, volume_ops: VolumeOps, slave: str, sr: str, every: bool
    ) -> None:
        """With its portal, its user and its password: xapi destroys a PBD's secret with the PBD."""
        before, config = xapi.snapshot(), self.config_of(xapi, sr, slave)
        xapi.faults.refuse("PBD.plug", "SR_BACKEND_FAILURE_68", "", "login failed", "", every=every)
        xapi.faults.refuse("VBD.create", "SR_BACKEND_FAILURE_202", "", "ordered", "")
        with (
            xapi.journal.recording() as calls,
            pytest.raises(XapiError, match="login failed" if every else "ordered"),
        ):
            volume_ops.attach_volume(chap(2), "far")
        assert "PBD.destroy" in calls.methods()
        rows = Counter(  # made again, a PBD and its secret have other uuids
            re.sub(r"^(PBD|secret) [0-9a-f-]{36} is (gone|new)\b.*$", r"\1 is \2", line)
            for line in changes(before, xapi.snapshot())
        )
        assert rows == Counter(["PBD is gone", "PBD is new", "secret is gone", "secret is new"])
        assert self.config_of(xapi, sr, slave) == config
        xapi.faults.clear()
        volume_ops._session.call("PBD.plug", self.pbd_of(xapi, sr, slave))


@pytest.mark.xapi(hosts=2)
class TestReleasing:
    def test_plugs_the_other_hosts_again_where_one_cannot_let_go(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        sr = volume_ops.attach_volume(iscsi(0), "web").sr_ref
        target.faults.refuse("PBD.unplug", "SR_BACKEND_FAILURE_1200", "", "stuck", "", nth=2)
        with pytest.raises(XapiError, match="stuck"):
            volume_ops.detach_volume(iscsi(0), "web")
        assert plugged(target, sr) == [True, True]

    def test_plugs_the_other_hosts_again_where_one_still_uses_a_disk(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        attachment = volume_ops.attach_volume(iscsi(0), "web")
        target.faults.refuse("PBD.unplug", "VDI_IN_USE", attachment.vdi_ref, nth=2)
        volume_ops.detach_volume(iscsi(0), "web")
        assert plugged(target, attachment.sr_ref) == [True, True]

    @pytest.mark.parametrize("nth", [1, 2])
    def test_is_done_if_another_process_forgets_the_sr_meanwhile(
        self, target: Simulator, volume_ops: VolumeOps, nth: int
    ) -> None:
        sr = volume_ops.attach_volume(iscsi(0), "web").sr_ref

        def forget() -> None:
            for pbd in target.db.children(sr, "PBDs"):
                volume_ops._session.call("PBD.unplug", pbd)
            volume_ops._session.call("SR.forget", sr)

        with interrupted(target, "VDI.get_all_records_where", forget, nth=nth) as ops:
            ops.detach_volume(iscsi(0), "web")
        assert not target.db.refs("SR")


class TestAnotherOwnersSR:
    def test_that_was_plugged_before_the_disk_came_is_scanned_for_it(
        self, xapi: Simulator, volume_ops: VolumeOps
    ) -> None:
        export = xapi.storage.shares.add_nfs("10.0.0.2").export("/export/vols", size=100 * GIB)
        directory = export.filesystem.root.make_directory(SR_UUID)
        share = {"server": "10.0.0.2", "serverpath": "/export/vols"}
        sr = xapi.add_sr("theirs", type="nfs", sr_uuid=SR_UUID, device_config=share)
        xapi.add_vm("web")
        directory.add_vhd(VDI_UUID, GIB)
        attachment = volume_ops.attach_volume(NFS_XENSM, "web")
        assert (attachment.sr_ref, attachment.vdi_uuid) == (sr, VDI_UUID)
        volume_ops.detach_volume(NFS_XENSM, "web")
        assert plugged(xapi, sr) == [True]

    @pytest.mark.parametrize("method", ["PBD.plug", "VBD.create", "VBD.plug"])
    def test_carries_no_mark_of_an_attach_that_failed(
        self, target: Simulator, volume_ops: VolumeOps, method: str
    ) -> None:
        sr = target.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="")
        (pbd,) = target.db.children(sr, "PBDs")
        volume_ops._session.call("PBD.unplug", pbd)
        target.add_vm("running")
        before = target.snapshot()
        target.faults.refuse(method, "SR_BACKEND_FAILURE_1200", "", "ordered", "")
        with pytest.raises(XapiError, match="ordered"):
            volume_ops.attach_volume(iscsi(0), "running")
        assert changes(before, target.snapshot()) == []

    def test_is_plugged_where_an_attempt_died_between_the_mark_and_the_plug(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        sr = target.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="")
        (pbd,) = target.db.children(sr, "PBDs")
        volume_ops._session.call("PBD.unplug", pbd)
        volume_ops._session.call("PBD.add_to_other_config", pbd, "xenvol", "plugged")
        assert volume_ops.attach_volume(iscsi(0), "web").sr_ref == sr
        volume_ops.detach_volume(iscsi(0), "web")
        assert plugged(target, sr) == [False]
        assert "xenvol" not in target.db.get("PBD", pbd, "other_config")
