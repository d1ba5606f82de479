"""Each command on volumes does what its function does, and reports to people and to machines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.scenarios import GIB, SCENARIOS, Scenario, arrange_target, changes, iscsi
from xenvol.simulator import Simulator

if TYPE_CHECKING:
    from conftest import Shell

ATTACHMENT_KEYS = {
    "attachment_id", "volume_id", "driver", "vm_ref", "vm_uuid", "vbd_ref", "vbd_uuid", "vdi_ref", "vdi_uuid",
    "virtual_size", "sr_ref", "sr_uuid", "userdevice", "device", "mode", "is_plugged",
}  # fmt: skip  # because a set of words reads better in lines than in a column


@pytest.fixture
def info(xapi: Simulator, shell: Shell) -> str:
    """A LUN's connection_info in a file; a running VM `web` in the pool."""
    arrange_target(xapi)
    xapi.add_vm("web")
    return shell.file("volume.json", iscsi(0))


class TestAttach:
    def test_it_says_where_the_volume_is(self, shell: Shell, info: str) -> None:
        result = shell("attach", info, "web", "/dev/xvdc")
        assert result.exit_code == 0
        assert result.stdout.startswith("volume volume-0 is /dev/xvdc of web (1 GiB, RW)\nattachment ")
        assert result.stderr == ""

    def test_json_is_the_whole_attachment(self, shell: Shell, info: str) -> None:
        attachment = shell.json("attach", info, "web")
        assert set(attachment) == ATTACHMENT_KEYS
        assert (attachment["device"], attachment["driver"], attachment["virtual_size"]) == (
            "xvda",
            "iscsi",
            GIB,
        )

    def test_the_same_command_again_shows_the_same_attachment(self, shell: Shell, info: str) -> None:
        assert shell.json("attach", info, "web") == shell.json("attach", info, "web")

    def test_a_dash_reads_standard_input(self, shell: Shell, info: str) -> None:
        result = shell("attach", "-", "web", stdin=json.dumps(iscsi(1)))
        assert result.exit_code == 0, result.stderr
        assert "volume-1" in result.stdout

    def test_without_hotplug_the_vm_gets_it_when_it_starts(self, shell: Shell, info: str) -> None:
        result = shell("attach", info, "web", "xvdb", "--no-hotplug")
        assert "volume volume-0 will be, once the VM starts, /dev/xvdb of web" in result.stdout

    @pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
    def test_a_volume_of_any_type_comes_and_goes(self, shell: Shell, scenario: Scenario) -> None:
        scenario.arrange(shell.xapi)
        shell.xapi.add_vm("web")
        before = shell.xapi.snapshot()
        info = shell.file("volume.json", scenario.connection_info)
        assert shell.json("attach", info, "web", "xvdb")["device"] == "xvdb"
        assert shell.json("detach", info, "web") == {
            "detached": True,
            "was_attached": True,
            "vm": "web",
        }
        assert changes(before, shell.xapi.snapshot()) == []


class TestDetach:
    def test_what_is_gone_already_is_fine(self, shell: Shell, info: str) -> None:
        shell("attach", info, "web")
        for said in ("the volume is detached from web\n", "web did not have the volume\n"):
            result = shell("detach", info, "web")
            assert (result.exit_code, result.stdout) == (0, said)
        assert shell.xapi.db.refs("SR") == []

    def test_an_old_attachment_id_touches_nothing(self, shell: Shell, info: str) -> None:
        old = shell.json("attach", info, "web")["attachment_id"]
        shell("detach", info, "web")
        new = shell.json("attach", info, "web")["attachment_id"]
        status, error = shell.error("detach", info, "web", "--attachment-id", old)
        assert (status, error["type"]) == (2, "AttachmentFenced")
        assert shell("detach", info, "web", "--attachment-id", new).exit_code == 0

    def test_a_mountpoint_must_be_the_volumes(self, shell: Shell, info: str) -> None:
        shell("attach", info, "web", "xvdb")
        assert shell.error("detach", info, "web", "xvdc")[1]["type"] == "InvalidMountpoint"

    def test_all_of_a_vm_go_without_a_connection_info(self, shell: Shell, info: str) -> None:
        shell("attach", info, "web", "xvdb")
        shell("attach", shell.file("other.json", iscsi(1)), "web", "xvdc")
        result = shell("detach-all", "web")
        assert result.stdout == "volume volume-0 was /dev/xvdb of web\nvolume volume-1 was /dev/xvdc of web\n"
        assert shell.json("detach-all", "web") == {"detached": []}
        assert shell("detach-all", "web").stdout == "web has no volumes of xenvol's\n"


class TestList:
    def test_the_table_has_tabs_where_there_is_no_terminal(self, shell: Shell, info: str) -> None:
        sr_uuid = shell.json("attach", info, "web", "xvdb")["sr_uuid"]
        assert shell("list", "web").stdout.splitlines() == [
            "DEVICE\tSIZE\tMODE\tDRIVER\tVOLUME\tSR",
            f"/dev/xvdb\t1 GiB\tRW\tiscsi\tvolume-0\t{sr_uuid}",
        ]

    def test_json_has_the_attachments(self, shell: Shell, info: str) -> None:
        attachment = shell.json("attach", info, "web")
        assert shell.json("list", "web") == {"volumes": [attachment]}

    def test_one_that_is_not_plugged_is_said_to_be(self, shell: Shell, info: str) -> None:
        shell("attach", info, "web", "xvdb", "--no-hotplug")
        assert "/dev/xvdb (not plugged)\t" in shell("list", "web").stdout

    def test_a_check_of_what_is_well_finds_nothing(self, shell: Shell, info: str) -> None:
        shell("attach", info, "web")
        assert shell.json("list", "web", "--check")["bad"] == []

    def test_a_check_exits_with_the_status_of_the_storage(self, shell: Shell, info: str) -> None:
        """The VM could not start with its volumes, and the command says why."""
        shell("attach", info, "web", "xvdb", "--no-hotplug")
        with shell.xapi.xapi.lock:
            for pbd in shell.xapi.db.refs("PBD"):
                shell.xapi.db.set("PBD", pbd, currently_attached=False)
        result = shell("list", "web", "--check")
        assert result.exit_code == 5
        assert "is not plugged on any host" in result.stdout
        value = json.loads(shell("list", "web", "--check", "--json").stdout)
        assert [bad["volume_id"] for bad in value["bad"]] == ["volume-0"]
        assert set(value["bad"][0]) == {"volume_id", "mountpoint", "reason"}


class TestWithoutAVM:
    def test_connect_makes_a_disk_of_the_pool_and_disconnect_takes_it_back(
        self, shell: Shell, info: str
    ) -> None:
        before = shell.xapi.snapshot()
        volume = shell.json("connect", info)
        assert set(volume) == {"sr_ref", "sr_uuid", "vdi_ref", "vdi_uuid", "virtual_size"}
        assert f"the volume is VDI {volume['vdi_uuid']} (1 GiB) in SR" in shell("connect", info).stdout
        assert shell.json("disconnect", info) == {"disconnected": True}
        assert changes(before, shell.xapi.snapshot()) == []

    def test_extend_shows_the_new_size(self, shell: Shell, info: str) -> None:
        shell("connect", info)
        SCENARIOS[0].grow(shell.xapi)
        assert shell("extend", info).stdout == f"the volume has 2 GiB ({2 * GIB} bytes)\n"
        assert shell.json("extend", info) == {"virtual_size": 2 * GIB}


@pytest.mark.xapi(hosts=2)
class TestHosts:
    def test_the_connector_is_that_of_the_master_or_of_the_host_named(self, shell: Shell) -> None:
        assert shell.json("connector")["host"] == shell.json("connector", "host1")["host"]
        assert shell.json("connector", "host2")["uuid"] != shell.json("connector")["uuid"]
        assert f"ip\t{shell.json('connector')['ip']}" in shell("connector").stdout

    def test_a_vms_volumes_become_visible_where_it_shall_move_to_and_no_longer(
        self, shell: Shell, xapi: Simulator
    ) -> None:
        arrange_target(xapi)
        xapi.add_vm("web", resident_on="host1")
        attachment = shell.json("attach", shell.file("volume.json", iscsi(0)), "web")
        assert shell.json("prepare-migration", "web", "host2") == {"sr_uuids": [attachment["sr_uuid"]]}
        assert plugged_on(xapi) == {"host1", "host2"}
        assert shell.json("prepare-migration", "web", "host2", "--undo") == {"undone": True}
        assert plugged_on(xapi) == {"host1"}


def plugged_on(xapi: Simulator) -> set[str]:
    rows = [xapi.db.row("PBD", ref) for ref in xapi.db.refs("PBD")]
    return {xapi.db.get("host", row["host"], "name_label") for row in rows if row["currently_attached"]}
