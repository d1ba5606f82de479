"""The commands on backends register, show and remove them, and erase only a device that the caller names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.scenarios import CHAP, GIB, IQN, changes, scsi_id, touch_hosts
from xenvol.simulator import Simulator

if TYPE_CHECKING:
    from conftest import Shell

NFS = ["nfs", "server=10.0.0.2", "serverpath=/vols"]
LVM_OVER_ISCSI = ["lvmoiscsi", "target=10.0.0.1", f"targetIQN={IQN}", f"SCSIid={scsi_id(0)}"]
LUNS = ["iscsi", "target=10.0.0.1", f"targetIQN={IQN}"]
KEYS = {
    "id", "flavor_id", "flavor", "sr_uuid", "sr_type", "config_params", "origin", "host_uuid", "state", "features",
    "physical_size", "physical_utilisation", "virtual_allocation", "free", "weight", "stats_at", "problem",
    "created_at", "thin",
}  # fmt: skip  # because a set of words reads better in lines than in a column


@pytest.fixture
def silver(shell: Shell, xapi: Simulator) -> Shell:
    """A flavor without backends, in a world that has an export, a target and a disk."""
    xapi.storage.shares.add_nfs("10.0.0.2").export("/vols", size=100 * GIB)
    xapi.storage.san.add_target(IQN, "10.0.0.1:3260")
    xapi.storage.san.add_lun(IQN, 0, 100 * GIB, scsi_id=scsi_id(0))
    xapi.storage.host("host1").mounts.devices["/dev/sdb"] = xapi.storage.shares.new_device(100 * GIB)
    touch_hosts(xapi)
    shell.sm("flavor_create", "silver", "no backups")
    return shell


def the_lun(xapi: Simulator) -> Any:
    return xapi.storage.san.volumes[scsi_id(0)]


class TestAdd:
    def test_it_says_what_it_is_and_what_room_there_is(self, silver: Shell, xapi: Simulator) -> None:
        lines = silver.sm("backend_add", "silver", *NFS).splitlines()
        (sr,) = xapi.db.refs("SR")
        assert lines == [
            "backend 1 of flavor silver is ready: nfs server=10.0.0.2 serverpath=/vols",
            f"SR {xapi.db.get('SR', sr, 'uuid')}: 100 GiB, 100 GiB free for volumes",
        ]

    def test_json_is_the_whole_backend(self, silver: Shell) -> None:
        backend = silver.json("sm", "backend_add", "silver", *NFS, "--weight", "3")
        assert set(backend) == KEYS
        assert (backend["id"], backend["flavor"], backend["state"], backend["weight"]) == (
            1,
            "silver",
            "ready",
            3,
        )
        assert backend["config_params"] == {"server": "10.0.0.2", "serverpath": "/vols"}

    def test_values_may_hold_equal_signs_and_spaces(self, silver: Shell, xapi: Simulator) -> None:
        path = "/a=b c/d="
        xapi.storage.shares.add_nfs("10.0.0.3").export(path, size=GIB)
        words = ["server=10.0.0.3", f"serverpath={path}", "name_label=toy box", "name_description=x = y"]
        said = silver.sm("backend_add", "silver", "nfs", *words)
        assert f"serverpath='{path}'" in said
        (sr,) = xapi.db.refs("SR")
        assert xapi.db.get("SR", sr, "name_label") == "toy box"
        assert xapi.db.get("SR", sr, "name_description") == "x = y"
        params = silver.json("sm", "backend_list")[0]["config_params"]
        assert params["serverpath"] == path

    def test_what_the_storage_can_list_may_be_left_out_to_be_told(self, silver: Shell) -> None:
        status, error = silver.error("sm", "backend_add", "silver", "nfs", "server=10.0.0.2")
        assert (status, error["type"]) == (5, "IncompleteConfig")
        assert "the storage offers: serverpath=/vols" in error["message"]

    def test_the_same_place_is_refused_the_second_time(self, silver: Shell) -> None:
        silver.sm("backend_add", "silver", *NFS)
        status, error = silver.error("sm", "backend_add", "silver", *NFS[:-1], "serverpath=/vols/")
        assert (status, error["type"]) == (2, "BackendExists")

    def test_storage_that_does_not_answer_leaves_nothing(self, silver: Shell, xapi: Simulator) -> None:
        before = xapi.snapshot()
        status, error = silver.error("sm", "backend_add", "silver", "nfs", "server=10.9.9.9", "serverpath=/x")
        assert (status, error["type"], error["hint"] is None) == (6, "XapiError", False)
        assert silver.json("sm", "backend_list") == []
        assert changes(before, xapi.snapshot()) == []

    @pytest.mark.parametrize(
        ("arguments", "status", "kind"),
        [
            (["bronze", *NFS], 2, "UnknownFlavor"),
            (["silver", "nsf", "server=10.0.0.2"], 6, "UnsupportedSRType"),
            (["silver", "iso", "location=10.0.0.2:/isos"], 2, "InvalidConfig"),
            (["silver", "nfs", "serverpath=/vols"], 2, "InvalidConfig"),
            (["silver", *NFS, "sr_uuid=5"], 2, "InvalidConfig"),
        ],
    )
    def test_what_cannot_be_is_refused(
        self, silver: Shell, arguments: list[str], status: int, kind: str
    ) -> None:
        found, error = silver.error("sm", "backend_add", *arguments)
        assert (found, error["type"]) == (status, kind)

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            (["server=10.0.0.2", "/vols"], "parameter 2 ('/vols') is not key=value"),
            (["=10.0.0.2"], "parameter 1 ('=10.0.0.2') is not key=value"),
            (["server=a", "server=b"], "key 'server' is given twice"),
        ],
    )
    def test_what_is_no_parameter_is_said_before_anybody_logs_in(
        self, silver: Shell, xapi: Simulator, words: list[str], text: str
    ) -> None:
        status, error = silver.error("sm", "backend_add", "silver", "nfs", *words)
        assert (status, error["message"]) == (2, text)
        assert list(xapi.journal.logins) == []

    def test_luns_that_are_there_are_not_said_to_be_room(self, silver: Shell) -> None:
        lines = silver.sm("backend_add", "silver", *LUNS).splitlines()
        assert "it has existing LUNs, and no volume is placed there" in lines[1]
        assert "volume_manage" in lines[1]


class TestFormat:
    @pytest.mark.parametrize(
        ("words", "device"), [(["lvm", "device=/dev/sdb"], "/dev/sdb"), (LVM_OVER_ISCSI, scsi_id(0))]
    )
    def test_a_device_is_erased_only_by_its_name(
        self, silver: Shell, xapi: Simulator, words: list[str], device: str
    ) -> None:
        """Without the name, or with another one, the device is untouched; with it, the SR is made."""
        disk = xapi.storage.host("host1").mounts.devices["/dev/sdb"] if "lvm" in words else the_lun(xapi)
        before = xapi.snapshot()
        for switch in ([], ["--format", "/dev/sdz"]):
            status, error = silver.error("sm", "backend_add", "silver", *words, *switch)
            assert (status, error["type"]) == (5, "DeviceNotBlank")
            assert f"name it: --format {device}" in error["message"]
        assert disk.content is None
        assert changes(before, xapi.snapshot()) == []
        silver.sm("backend_add", "silver", *words, "--format", device)
        assert disk.content is not None

    def test_an_sr_on_the_device_is_told_and_can_be_used_as_it_is(self, silver: Shell) -> None:
        silver.sm("backend_add", "silver", *LVM_OVER_ISCSI, "--format", scsi_id(0))
        uuid = silver.json("sm", "backend_remove", "1")["sr_uuid"]
        _, error = silver.error("sm", "backend_add", "silver", *LVM_OVER_ISCSI)
        assert f"holds SR {uuid}; to use it, give sr_uuid={uuid}" in error["message"]
        again = silver.json("sm", "backend_add", "silver", *LVM_OVER_ISCSI, f"sr_uuid={uuid}")
        assert (again["sr_uuid"], again["origin"]) == (uuid, "introduced")


class TestList:
    def test_the_table_has_a_row_for_each(self, gold: Shell) -> None:
        (backend,) = gold.json("sm", "backend_list")
        assert set(backend) == KEYS
        assert gold.sm("backend_list").splitlines() == [
            "ID\tFLAVOR\tSTATE\tSR\tCONFIG",
            f"1\tgold\tready\t{backend['sr_uuid']}\tnfs server=10.0.0.2 serverpath=/vols",
        ]

    def test_one_is_shown_with_all_that_is_known_of_it(self, gold: Shell) -> None:
        (backend,) = gold.json("sm", "backend_list", "1")
        rows = dict(line.split("\t", 1) for line in gold.sm("backend_list", "1").splitlines())
        assert rows["flavor"] == "gold"
        assert rows["config"] == "server=10.0.0.2 serverpath=/vols"
        assert rows["SR"] == f"{backend['sr_uuid']} (created)"
        assert rows["provisioning"] == "thin"
        assert "VDI_SNAPSHOT" in rows["features"].split()
        assert "problem" not in rows

    def test_one_that_is_out_of_order_is_said_to_be(self, gold: Shell, xapi: Simulator) -> None:
        unplug_all(xapi)
        gold.json("sm", "stats")
        assert "\tout of order\t" in gold.sm("backend_list")
        assert "problem\tits SR is plugged on no host" in gold.sm("backend_list", "1")

    def test_an_unknown_one_is_an_error(self, gold: Shell) -> None:
        status, error = gold.error("sm", "backend_list", "7")
        assert (status, error["type"]) == (2, "UnknownBackend")


class TestRemove:
    def test_its_data_stays_and_it_is_said_how_to_have_it_back(self, gold: Shell, xapi: Simulator) -> None:
        (backend,) = gold.json("sm", "backend_list")
        said = gold.sm("backend_remove", "1")
        uuid = backend["sr_uuid"]
        assert said == f"backend 1 is removed; its data stays: register it again with sr_uuid={uuid}\n"
        assert xapi.db.refs("SR") == []
        assert gold.json("sm", "backend_add", "gold", *NFS, f"sr_uuid={uuid}")["sr_uuid"] == uuid

    def test_it_is_erased_where_that_is_asked_for(self, gold: Shell) -> None:
        (backend,) = gold.json("sm", "backend_list")
        said = gold.sm("backend_remove", "1", "--destroy")
        assert said == f"backend 1 is removed; its SR {backend['sr_uuid']} is erased\n"
        status, _ = gold.error("sm", "backend_add", "gold", *NFS, f"sr_uuid={backend['sr_uuid']}")
        assert status != 0

    def test_an_sr_that_was_there_before_it_stays(self, silver: Shell, xapi: Simulator) -> None:
        device_config = {"server": "10.0.0.2", "serverpath": "/vols"}
        sr = xapi.add_sr("somebody's", type="nfs", device_config=device_config, create=True)
        uuid = xapi.db.get("SR", sr, "uuid")
        silver.sm("backend_add", "silver", *NFS, f"sr_uuid={uuid}")
        said = silver.sm("backend_remove", "1")
        assert said == f"backend 1 is removed; SR {uuid}, which was in the pool before, stays\n"
        assert xapi.db.refs("SR") == [sr]

    def test_json_tells_what_became_of_it(self, gold: Shell) -> None:
        (backend,) = gold.json("sm", "backend_list")
        assert gold.json("sm", "backend_remove", "1", "--destroy") == {
            "removed": True,
            "id": 1,
            "sr_uuid": backend["sr_uuid"],
            "destroyed": True,
        }

    def test_one_with_volumes_stays_and_they_are_told(self, gold: Shell) -> None:
        gold.sm("volume_create", "gold", "1", "--id", "mail")
        status, error = gold.error("sm", "backend_remove", "1")
        assert (status, error["type"]) == (2, "BackendInUse")
        assert "has volumes: mail;" in error["message"]


class TestPassword:
    @pytest.fixture
    def locked(self, silver: Shell, xapi: Simulator) -> Shell:
        """A backend that logs in with CHAP."""
        xapi.storage.san.targets[IQN].chap = CHAP
        file = silver.file("chap", CHAP[1])
        login = [f"chapuser={CHAP[0]}", f"chappassword=@{file}"]
        silver.sm("backend_add", "silver", *LVM_OVER_ISCSI, *login, "--format", scsi_id(0))
        return silver

    def test_a_new_one_is_told_to_the_pool(self, locked: Shell, xapi: Simulator) -> None:
        file = locked.file("new", "canary-new-p4ssword")
        said = locked.sm("backend_password", "1", f"chappassword=@{file}")
        assert said.startswith("the pool knows the chappassword of backend 1; ")
        (backend,) = locked.json("sm", "backend_list")
        ref = xapi.db.by_uuid("secret", backend["config_params"]["chappassword_secret"])
        assert xapi.db.get("secret", ref, "value") == "canary-new-p4ssword"

    def test_json_says_which(self, locked: Shell) -> None:
        file = locked.file("new", "canary-new-p4ssword")
        told = locked.json("sm", "backend_password", "1", f"chappassword=@{file}")
        assert told == {"told": True, "id": 1, "key": "chappassword"}

    def test_a_key_that_the_backend_has_not_is_refused_with_those_it_has(self, locked: Shell) -> None:
        file = locked.file("new", "canary-new-p4ssword")
        status, error = locked.error("sm", "backend_password", "1", f"password=@{file}")
        assert (status, error["type"]) == (2, "InvalidConfig")
        assert "its passwords: chappassword" in error["message"]


def unplug_all(xapi: Simulator) -> None:
    with xapi.xapi.lock:
        for pbd in xapi.db.refs("PBD"):
            xapi.db.set("PBD", pbd, currently_attached=False)


def test_a_mistyped_key_is_an_error_that_says_what_was_meant(gold: Shell, xapi: Simulator) -> None:
    before = xapi.snapshot()
    words = ["server=10.0.0.2", "serverpath=/more", "nfsverion=4.1"]
    status, error = gold.error("sm", "backend_add", "gold", "nfs", *words)
    assert (status, error["type"]) == (2, "InvalidConfig")
    assert "did you mean 'nfsversion'?" in error["message"]
    assert changes(before, xapi.snapshot()) == []


def test_an_sr_of_ours_that_is_used_again_is_told(gold: Shell) -> None:
    (backend,) = gold.json("sm", "backend_list")
    gold.sm("backend_delete", "1")
    told = gold.sm("backend_add", "gold", "nfs", "server=10.0.0.2", "serverpath=/vols")
    assert f"the storage holds SR {backend['sr_uuid']} of an earlier backend, and it is used" in told


def test_a_backend_is_told_the_new_address_of_its_server(gold: Shell, xapi: Simulator) -> None:
    xapi.storage.shares.nfs_server("10.0.0.2").addresses[:] = ["10.0.0.22"]
    told = gold.sm("backend_update", "1", "server=10.0.0.22", "--weight", "2")
    assert told == "backend 1 is nfs server=10.0.0.22 serverpath=/vols, weight 2\n"
    assert gold.json("sm", "backend_list", "1")[0]["weight"] == 2
    status, error = gold.error("sm", "backend_update", "1")
    assert (status, error["type"]) == (2, "UsageError")
