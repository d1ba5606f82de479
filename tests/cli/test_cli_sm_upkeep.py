"""The commands for maintenance report what is well and what is not, and exit accordingly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.scenarios import GIB
from xenvol.pool.marks import MANAGED
from xenvol.session import Session
from xenvol.simulator import Simulator

if TYPE_CHECKING:
    from conftest import Shell


@pytest.fixture
def two(gold: Shell, xapi: Simulator) -> Shell:
    """A second backend of gold, on another server."""
    xapi.storage.shares.add_nfs("10.0.0.3").export("/more", size=50 * GIB)
    gold.sm("backend_add", "gold", "nfs", "server=10.0.0.3", "serverpath=/more")
    return gold


@pytest.fixture
def forget(xapi: Simulator, xapi_session: Session) -> Callable[[], None]:
    """Forget all SRs, as another tool might."""

    def forget() -> None:
        for sr in xapi.db.refs("SR"):
            for pbd in xapi.db.get("SR", sr, "PBDs"):
                xapi_session.call("PBD.unplug", pbd)
            xapi_session.call("SR.forget", sr)

    return forget


class TestSetup:
    def test_what_is_forgotten_is_there_again(
        self, two: Shell, xapi: Simulator, forget: Callable[[], None]
    ) -> None:
        forget()
        assert two.sm("setup").splitlines() == [
            "BACKEND\tFLAVOR\tCONFIG\tSTATE\tPROBLEM",
            "1\tgold\tnfs server=10.0.0.2 serverpath=/vols\tup\t",
            "2\tgold\tnfs server=10.0.0.3 serverpath=/more\tup\t",
        ]
        assert len(xapi.db.refs("SR")) == 2

    def test_json_has_each_backend_and_what_is_wrong_with_it(self, two: Shell) -> None:
        reports = two.json("sm", "setup")
        assert [report["backend"]["id"] for report in reports] == [1, 2]
        assert [report["error"] for report in reports] == [None, None]
        assert reports[0]["backend"]["flavor"] == "gold"

    def test_one_that_is_dead_is_told_and_stops_nobody(
        self, two: Shell, xapi: Simulator, forget: Callable[[], None]
    ) -> None:
        forget()
        xapi.storage.shares.nfs[0].is_listening = False
        result = two("sm", "setup")
        assert result.exit_code == 5
        rows = [line.split("\t") for line in result.stdout.splitlines()]
        assert [row[3] for row in rows] == ["STATE", "dead", "up"]
        assert "was refused" in rows[1][4]
        shown = two("sm", "setup", "-vv").stderr
        assert "warning: backend 1 cannot be used: " in shown
        assert ("backend 1 is up" in shown, "backend 2 is up" in shown) == (False, True)
        result = two("sm", "setup", "--json")
        dead, up = json.loads(result.stdout)
        assert (result.exit_code, dead["error"]["blame"], up["error"]) == (5, "hypervisor", None)

    def test_each_that_is_up_is_said_to_whoever_asks_for_more(self, two: Shell) -> None:
        shown = two("sm", "setup", "-vv").stderr
        assert "info: backend 1 is up" in shown
        assert "info: backend 2 is up" in shown
        assert two("sm", "setup").stderr == ""


class TestStats:
    def test_the_table_has_what_the_pool_says_now(self, two: Shell) -> None:
        two.sm("volume_create", "gold", "10")
        rows = [line.split("\t") for line in two.sm("stats").splitlines()]
        assert rows[0] == [
            "BACKEND", "FLAVOR", "TYPE", "SIZE", "USED", "PROMISED", "FREE", "VOLUMES", "CAN", "PROBLEM",
        ]  # fmt: skip  # because a row reads better in a line than in a column
        assert rows[1][:4] == ["1", "gold", "nfs", "100 GiB"]
        assert rows[1][5:] == ["10 GiB", "90 GiB", "1", "snapshot, clone, resize", ""]
        assert rows[2][:4] == ["2", "gold", "nfs", "50 GiB"]

    def test_json_can_be_reckoned_with(self, two: Shell) -> None:
        two.sm("volume_create", "gold", "10")
        first, second = two.json("sm", "stats")
        assert (first["physical_size"], first["virtual_allocation"], first["volumes"]) == (
            100 * GIB,
            10 * GIB,
            1,
        )
        assert (second["flavor"], second["volumes"], second["problem"]) == ("gold", 0, None)

    def test_of_one_flavor_alone(self, two: Shell) -> None:
        two.sm("flavor_create", "silver", "no backups")
        assert two.json("sm", "stats", "silver") == []
        assert len(two.json("sm", "stats", "gold")) == 2
        assert two.error("sm", "stats", "bronze")[1]["type"] == "UnknownFlavor"

    def test_one_that_is_out_of_order_says_why(
        self, two: Shell, xapi: Simulator, forget: Callable[[], None]
    ) -> None:
        forget()
        assert two.sm("stats").splitlines()[1].endswith("\tits SR is not known to the pool")


class TestAudit:
    def test_that_they_agree_is_one_line(self, two: Shell) -> None:
        two.sm("volume_create", "gold", "1")
        assert two.sm("audit") == "database and pool agree: 2 backends, 1 volume, 1 VDI compared\n"
        report = two.json("sm", "audit")
        assert report == {"agrees": True, "backends": 2, "volumes": 1, "vdis": 1, "findings": []}

    def test_what_nobody_can_mend_stays_a_disagreement(
        self, gold: Shell, xapi: Simulator, xapi_session: Session
    ) -> None:
        gold.sm("volume_create", "gold", "1", "--id", "mail")
        (vdi,) = xapi.db.refs("VDI")
        xapi_session.call("VDI.destroy", vdi)
        for switch in ([], ["--repair"]):
            result = gold("sm", "audit", *switch)
            assert result.exit_code == 5
            heading, row, verdict = result.stdout.splitlines()
            assert heading == "FINDING\tBACKEND\tWHAT\tREPAIRED"
            assert row.startswith("vdi_missing\t1\tvolume mail is VDI ")
            assert row.endswith("\tno")
            assert verdict.startswith("database and pool do not agree: 1 backend, ")
        result = gold("sm", "audit", "--json")
        assert (result.exit_code, json.loads(result.stdout)["agrees"]) == (5, False)

    def test_what_somebody_left_who_died_is_mended(self, gold: Shell, xapi: Simulator) -> None:
        xapi.faults.die(after="VDI.create")
        gold("sm", "volume_create", "gold", "1", "--id", "mail", "--timeout", "1")
        xapi.faults.come_back()
        assert gold("sm", "audit").exit_code == 5
        result = gold("sm", "audit", "--repair")
        assert result.exit_code == 0
        assert result.stdout.splitlines()[1].startswith("half_made\t1\t")
        assert result.stdout.splitlines()[1].endswith("\tyes")
        assert gold("sm", "audit").exit_code == 0
        assert gold.json("sm", "volume_show", "mail")["state"] == "available"

    def test_each_backend_is_said_to_whoever_asks_for_more(self, two: Shell) -> None:
        lines = [json.loads(line) for line in two("sm", "audit", "-v", "--json").stderr.splitlines()]
        assert {"info": "comparing backend 1"} in lines
        assert {"info": "comparing backend 2"} in lines


class TestDatabase:
    def test_it_is_upgraded_as_often_as_one_likes(self, shell: Shell) -> None:
        for _ in range(2):
            assert shell.sm("db_upgrade") == (
                f"the tables in sqlite:///{shell.database} are those of this release\n"
            )
        assert shell.json("sm", "db_upgrade") == {
            "upgraded": True,
            "database": f"sqlite:///{shell.database}",
        }

    @pytest.mark.parametrize(
        "url", ["sqlite://", "nonsense", "sybase://host/x", "postgresql://xenvol@127.0.0.1:9/xenvol"]
    )
    def test_8_a_database_that_is_none_or_does_not_answer(self, shell: Shell, url: str) -> None:
        status, error = shell.error("sm", "flavor_list", "--database", url)
        assert (status, error["blame"], error["type"]) == (8, "database", "DatabaseError")

    def test_its_options_value_goes_before_the_environments(self, shell: Shell, tmp_path: Path) -> None:
        other = f"sqlite:///{tmp_path / 'other.sqlite'}"
        shell.sm("flavor_create", "gold", "here")
        shell.sm("flavor_create", "silver", "there", "--database", other)
        assert [flavor["label"] for flavor in shell.json("sm", "flavor_list")] == ["gold"]
        assert "silver" in shell.sm("flavor_list", "--database", other)

    def test_its_url_may_be_the_first_line_of_a_file(self, shell: Shell, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'other.sqlite'}"
        shell.sm("flavor_create", "silver", "there", "--database", url)
        assert "silver" in shell.sm("flavor_list", "--database", f"@{shell.file('url', url)}")
        result = shell("sm", "flavor_list", "--database", f"@{tmp_path / 'nowhere'}")
        assert (result.exit_code, "cannot be read" in result.stderr) == (2, True)

    def test_without_any_it_is_a_file_in_the_users_data_directory(self, shell: Shell, tmp_path: Path) -> None:
        home = {"XENVOL_SM_DATABASE": None, "XDG_DATA_HOME": str(tmp_path / "data")}
        before = shell.database.read_bytes()
        assert shell("sm", "flavor_create", "gold", "…", **home).exit_code == 0
        assert (tmp_path / "data/xenvol/sm.sqlite").exists()
        assert shell.database.read_bytes() == before


class TestWithoutAPool:
    COMMANDS = (
        ["flavor_create", "silver", "…"],
        ["flavor_list"],
        ["flavor_delete", "silver"],
        ["backend_list"],
        ["backend_list", "1"],
        ["volume_list"],
        ["volume_show", "mail"],
        ["db_upgrade"],
    )

    def test_what_is_in_the_database_alone_is_had_without_a_log_in(
        self, gold: Shell, xapi: Simulator
    ) -> None:
        """These commands need neither an address nor a password."""
        gold.sm("volume_create", "gold", "1", "--id", "mail")
        logins = len(list(xapi.journal.logins))
        nobody: dict[str, Any] = {"XENVOL_URL": None, "XENVOL_USER": None, "XENVOL_PASSWORD": None}
        for command in self.COMMANDS:
            result = gold("sm", *command, **nobody)
            assert result.exit_code == 0, (command, result.stderr)
        assert len(list(xapi.journal.logins)) == logins

    def test_the_others_say_how_to_give_an_address(self, gold: Shell) -> None:
        for command in (["stats"], ["setup"], ["audit"], ["volume_create", "gold", "1"]):
            result = gold("sm", *command, XENVOL_URL=None)
            assert result.exit_code == 2, command
            assert "'--url' (env var: 'XENVOL_URL')" in result.stderr


class TestRebuild:
    def test_tells_what_it_wrote_and_what_no_mark_tells(self, gold: Shell) -> None:
        gold.sm("volume_create", "gold", "1", "--id", "mail")
        for path in gold.directory.glob("sm.sqlite*"):
            path.unlink()
        gold.sm("db_upgrade")
        told = gold.json("sm", "rebuild")
        assert (told["flavors"], told["backends"], told["volumes"]) == (["gold"], [1], ["mail"])
        assert (told["left_out"], bool(told["defaults"])) == ([], True)
        assert gold.json("sm", "volume_show", "mail")["state"] == "available"
        assert gold.sm("rebuild") == "written: flavors 0, backends 0, volumes 0\n"

    def test_of_what_needs_a_word_of_the_operator_exits_with_5(self, shell: Shell, xapi: Simulator) -> None:
        xapi.storage.shares.add_nfs("10.0.0.2").export("/vols", size=100 * GIB)
        config = {"server": "10.0.0.2", "serverpath": "/vols"}
        sr = xapi.add_sr("theirs", type="nfs", device_config=config, create=True)
        sr_uuid = xapi.db.get("SR", sr, "uuid")
        disk = xapi.add_vdi(sr, "disk", size=GIB)
        with xapi.xapi.lock:
            xapi.db.set("VDI", disk, other_config={MANAGED: "mail"})
        result = shell("sm", "rebuild", "--json")
        assert (result.exit_code, json.loads(result.stdout)["volumes"]) == (5, [])
        assert shell.json("sm", "rebuild", "--flavor", f"{sr_uuid}=silver")["volumes"] == ["mail"]

    @pytest.mark.parametrize("words", ["gold", "=gold", "7e1f0c9a-4b0e-4d7e-9f8e-0a6f1f2d3c4b="])
    def test_of_a_mistyped_flavor_is_refused(self, shell: Shell, words: str) -> None:
        assert "SR-UUID=LABEL" in shell.error("sm", "rebuild", "--flavor", words)[1]["message"]
