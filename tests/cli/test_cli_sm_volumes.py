"""Each command on volumes does what its function does, and the next command accepts what it prints."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING

import click
import pytest

from tests.scenarios import GIB, IQN, MIB
from xenvol.cli.sm.options import read_size
from xenvol.simulator import Simulator

if TYPE_CHECKING:
    from conftest import Shell

KEYS = {
    "id", "backend_id", "flavor", "vdi_uuid", "state", "name", "size", "virtual_size", "source_id", "snapshot_of",
    "created_at", "image",
}  # fmt: skip  # because a set of words reads better in lines than in a column


class TestSizes:
    """The callback of the argument; other tests show that the commands use it."""

    @pytest.mark.parametrize(
        ("text", "size"),
        [
            ("10", 10 * GIB),
            ("1.5", 3 * GIB // 2),
            ("10GiB", 10 * GIB),
            ("10 gib", 10 * GIB),
            ("10G", 10 * GIB),
            ("512MiB", 512 * MIB),
            ("64k", 65536),
            ("1TiB", 1024 * GIB),
            ("0.5P", 512 * 1024 * GIB),
            ("4096B", 4096),
            ("4096b", 4096),
            ("0.1MiB", 104858),
            ("0.3B", 1),
        ],
    )
    def test_a_number_is_gib_or_what_its_unit_says(self, text: str, size: int) -> None:
        """A fraction of a byte is rounded up."""
        assert read(text) == size

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "ten",
            "10GB",
            "10GiBs",
            "-1",
            "1e3",
            "nan",
            "10,5",
            "0x10",
            "1  GiB",
            "٣",
            "1_0",
            "1.",
            "1" * 5000,
        ],
    )
    def test_what_is_no_size_is_refused_with_the_way_to_write_one(self, text: str) -> None:
        """GB is refused too: 10 GB are 9.3 GiB to some people, and 10 GiB to others."""
        with pytest.raises(click.BadParameter, match=r"write 10 \(GiB\), 10GiB"):
            read(text)

    @pytest.mark.parametrize("text", ["0", "0.0GiB", "8192PiB", "1" * 30])
    def test_what_is_no_size_of_a_disk_is_refused(self, text: str) -> None:
        with pytest.raises(click.BadParameter, match="is no size of a disk"):
            read(text)

    def test_the_largest_is_what_the_database_can_tell(self) -> None:
        assert read(f"{2**63 - 1}B") == 2**63 - 1


def read(text: str) -> int | None:
    return read_size(click.Context(click.Command("x")), click.Option(["--size"]), text)


class TestCreate:
    def test_it_says_where_the_volume_is(self, gold: Shell, xapi: Simulator) -> None:
        lines = gold.sm("volume_create", "gold", "10", "--id", "mail").splitlines()
        (vdi,) = xapi.db.refs("VDI")
        assert lines == [
            "volume mail has 10 GiB on backend 1 of flavor gold",
            f"VDI {xapi.db.get('VDI', vdi, 'uuid')}",
        ]

    def test_json_is_the_whole_volume(self, gold: Shell) -> None:
        volume = gold.json("sm", "volume_create", "gold", "3000001B", "--id", "mail", "--name", "spool")
        assert set(volume) == KEYS
        assert (volume["size"], volume["virtual_size"], volume["name"]) == (3000001, 4 * MIB, "spool")

    def test_without_an_id_each_is_a_new_one(self, gold: Shell) -> None:
        ids = [gold.json("sm", "volume_create", "gold", "1")["id"] for _ in range(2)]
        assert [str(uuid.UUID(each)) for each in ids] == ids
        assert ids[0] != ids[1]

    def test_with_one_the_same_command_again_shows_the_same_volume(self, gold: Shell) -> None:
        command = ["sm", "volume_create", "gold", "1", "--id", "mail"]
        assert gold.json(*command) == gold.json(*command)
        status, error = gold.error("sm", "volume_create", "gold", "2", "--id", "mail")
        assert (status, error["type"]) == (2, "VolumeExists")

    def test_where_no_backend_takes_it_each_tells_why(self, gold: Shell, xapi: Simulator) -> None:
        xapi.storage.shares.add_nfs("10.0.0.3").export("/vols", size=GIB)
        gold.sm("backend_add", "gold", "nfs", "server=10.0.0.3", "serverpath=/vols")
        status, error = gold.error("sm", "volume_create", "gold", "2TiB")
        assert (status, error["type"]) == (5, "NoBackendFits")
        assert "backend 1: " in error["message"]
        assert "backend 2: " in error["message"]

    def test_what_is_needed_of_its_backend_is_heeded(self, gold: Shell) -> None:
        gold.sm("volume_create", "gold", "1", "--needs", "snapshot", "--needs", "clone")
        status, error = gold.error("sm", "volume_create", "gold", "1", "--needs", "resize_online")
        assert (status, error["type"]) == (5, "NoBackendFits")
        assert gold.error("sm", "volume_create", "gold", "1", "--needs", "wings")[1]["type"] == "UsageError"

    def test_a_size_that_is_none_is_said_before_anybody_logs_in(self, gold: Shell, xapi: Simulator) -> None:
        before = len(list(xapi.journal.logins))
        status, error = gold.error("sm", "volume_create", "gold", "10GB")
        assert (status, error["type"]) == (2, "UsageError")
        assert len(list(xapi.journal.logins)) == before

    def test_a_silence_tells_the_id_with_which_to_go_on(self, gold: Shell, xapi: Simulator) -> None:
        """A caller who chose no id could not repeat the command, and would get a second volume."""
        xapi.faults.die(after="VDI.create")
        result = gold("sm", "volume_create", "gold", "1", "--json", "--timeout", "1")
        xapi.faults.come_back()
        error = json.loads(result.stderr.splitlines()[-1])["error"]
        assert (result.exit_code, error["blame"]) == (7, "unreachable")
        (told,) = [note for note in error["notes"] if note.startswith("its id is ")]
        new_id = told.split()[3].rstrip(":")
        assert f"--id {new_id}" in told
        volume = gold.json("sm", "volume_create", "gold", "1", "--id", new_id)
        assert volume["state"] == "available"
        assert len(xapi.db.refs("VDI")) == 1
        assert gold("sm", "audit").exit_code == 0

    def test_whoever_chose_the_id_is_not_told_it(self, gold: Shell, xapi: Simulator) -> None:
        xapi.faults.die(after="VDI.create")
        result = gold("sm", "volume_create", "gold", "1", "--id", "mail", "--timeout", "1")
        xapi.faults.come_back()
        assert result.exit_code == 7
        assert "its id is" not in result.stderr


class TestList:
    def test_the_table_has_a_row_for_each(self, gold: Shell) -> None:
        gold.sm("volume_create", "gold", "1", "--id", "mail", "--name", "spool")
        gold.sm("volume_snapshot", "mail", "--id", "monday")
        assert gold.sm("volume_list").splitlines() == [
            "VOLUME\tNAME\tSIZE\tSTATE\tFLAVOR\tBACKEND\tSNAPSHOT OF",
            "mail\tspool\t1 GiB\tavailable\tgold\t1\t",
            "monday\t\t1 GiB\tavailable\tgold\t1\tmail",
        ]

    def test_it_can_be_narrowed_and_read_in_pages(self, gold: Shell, xapi: Simulator) -> None:
        xapi.storage.shares.add_nfs("10.0.0.3").export("/vols", size=GIB * 10)
        gold.sm("flavor_create", "silver", "no backups")
        gold.sm("backend_add", "silver", "nfs", "server=10.0.0.3", "serverpath=/vols")
        for name in "abc":
            gold.sm("volume_create", "gold", "1", "--id", name)
        gold.sm("volume_create", "silver", "1", "--id", "z")

        def listed(*options: str) -> str:
            return "".join(volume["id"] for volume in gold.json("sm", "volume_list", *options))

        assert listed() == "abcz"
        assert listed("--flavor", "gold") == "abc"
        assert listed("--backend", "2") == "z"
        assert listed("--limit", "2") == "ab"
        assert listed("--limit", "2", "--after", "b") == "cz"
        assert gold.error("sm", "volume_list", "--flavor", "bronze")[1]["type"] == "UnknownFlavor"

    def test_json_is_what_show_says_of_each(self, gold: Shell) -> None:
        gold.sm("volume_create", "gold", "1", "--id", "mail")
        assert gold.json("sm", "volume_list") == [gold.json("sm", "volume_show", "mail")]


class TestShow:
    def test_a_row_for_each_thing_that_is_known(self, gold: Shell) -> None:
        volume = gold.json("sm", "volume_create", "gold", "1", "--id", "mail")
        rows = dict(line.split("\t", 1) for line in gold.sm("volume_show", "mail").splitlines())
        assert rows.pop("created").endswith(" UTC")
        assert rows == {
            "KEY": "VALUE",
            "id": "mail",
            "flavor": "gold",
            "backend": "1",
            "size": f"1 GiB ({GIB} bytes)",
            "state": "available",
            "VDI": volume["vdi_uuid"],
        }
        assert gold.json("sm", "volume_show", "mail") == volume

    def test_a_copy_names_its_source(self, gold: Shell) -> None:
        gold.sm("volume_create", "gold", "1", "--id", "mail")
        gold.sm("volume_snapshot", "mail", "--id", "monday")
        gold.sm("volume_clone", "monday", "--id", "copy")
        assert "\nsnapshot of\tmail\n" in gold.sm("volume_show", "monday")
        assert "copied from" not in gold.sm("volume_show", "monday")
        assert "\ncopied from\tmonday\n" in gold.sm("volume_show", "copy")

    def test_one_that_is_not_there_is_an_error(self, gold: Shell) -> None:
        status, error = gold.error("sm", "volume_show", "mail")
        assert (status, error["type"]) == (2, "UnknownVolume")


class TestChanges:
    @pytest.fixture(autouse=True)
    def _mail(self, gold: Shell) -> None:
        gold.sm("volume_create", "gold", "1", "--id", "mail")

    def test_it_grows_and_never_shrinks(self, gold: Shell) -> None:
        assert gold.sm("volume_extend", "mail", "2").startswith("volume mail has 2 GiB on backend 1 ")
        assert gold.json("sm", "volume_extend", "mail", "3GiB")["virtual_size"] == 3 * GIB
        assert gold.error("sm", "volume_extend", "mail", "1")[1]["type"] == "NotSupported"

    def test_a_snapshot_is_said_to_be_one(self, gold: Shell) -> None:
        said = gold.sm("volume_snapshot", "mail", "--id", "monday", "--name", "before the upgrade")
        assert said.startswith("snapshot monday of mail has 1 GiB on backend 1 of flavor gold\nVDI ")
        assert gold.json("sm", "volume_show", "monday")["name"] == "before the upgrade"

    def test_a_clone_may_be_larger(self, gold: Shell) -> None:
        copy = gold.json("sm", "volume_clone", "mail", "--id", "copy", "--size", "2", "--name", "copy")
        assert (copy["virtual_size"], copy["source_id"], copy["name"]) == (2 * GIB, "mail", "copy")
        assert gold.sm("volume_clone", "mail").endswith("\n")

    def test_deleted_it_is_gone_and_that_it_is_gone_is_fine(self, gold: Shell, xapi: Simulator) -> None:
        for _ in range(2):
            assert gold.sm("volume_delete", "mail") == "volume mail is gone\n"
        assert gold.json("sm", "volume_delete", "mail") == {"deleted": True, "id": "mail"}
        assert xapi.db.refs("VDI") == []

    def test_one_with_snapshots_stays_and_they_are_told(self, gold: Shell) -> None:
        gold.sm("volume_snapshot", "mail", "--id", "monday")
        status, error = gold.error("sm", "volume_delete", "mail")
        assert (status, error["type"]) == (2, "NotSupported")
        assert "it has snapshots: monday" in error["message"]

    def test_a_disk_that_is_let_go_can_be_a_volume_again(self, gold: Shell, xapi: Simulator) -> None:
        vdi = gold.json("sm", "volume_show", "mail")["vdi_uuid"]
        assert gold.sm("volume_unmanage", "mail") == (
            f"mail is no volume any more; VDI {vdi} stays, with its data\n"
        )
        assert gold.json("sm", "volume_list") == []
        said = gold.sm("volume_manage", vdi.upper(), "--id", "post", "--name", "post")
        assert said.splitlines() == ["volume post has 1 GiB on backend 1 of flavor gold", f"VDI {vdi}"]
        assert gold.json("sm", "volume_unmanage", "post") == {
            "unmanaged": True,
            "id": "post",
            "vdi_uuid": vdi,
        }
        assert gold.error("sm", "volume_manage", "no uuid")[1]["type"] == "UsageError"


class TestConnection:
    def test_it_is_json_always_and_the_attach_command_takes_it(self, gold: Shell, xapi: Simulator) -> None:
        xapi.add_vm("web")
        gold.sm("volume_create", "gold", "1", "--id", "mail")
        info = gold.sm("volume_connection", "mail")
        assert json.loads(info) == gold.json("sm", "volume_connection", "mail")
        assert json.loads(info)["driver_volume_type"] == "xensm"
        attached = gold("attach", "-", "web", stdin=info)
        assert attached.exit_code == 0, attached.stderr
        assert attached.stdout.startswith("volume mail is /dev/xvda of web (1 GiB, RW)\n")
        in_use = gold.error("sm", "volume_delete", "mail")
        assert (in_use[0], in_use[1]["type"]) == (5, "VolumeInUse")
        assert gold("detach", "-", "web", stdin=info).exit_code == 0
        gold.sm("volume_delete", "mail")

    def test_a_lun_that_was_managed_can_be_attached(self, shell: Shell, xapi: Simulator) -> None:
        """Where disks are LUNs, this is the only way to a volume."""
        xapi.storage.san.add_target(IQN, "10.0.0.1:3260")
        xapi.storage.san.add_lun(IQN, 0, GIB)
        xapi.add_vm("web")
        shell.sm("flavor_create", "luns", "made by the array")
        shell.sm("backend_add", "luns", "iscsi", "target=10.0.0.1", f"targetIQN={IQN}")
        assert "LUN" in shell.error("sm", "volume_create", "luns", "1")[1]["message"]
        (vdi,) = xapi.db.refs("VDI")
        volume = shell.json("sm", "volume_manage", xapi.db.get("VDI", vdi, "uuid"), "--id", "lun")
        assert volume["virtual_size"] == GIB
        info = shell.sm("volume_connection", "lun")
        assert shell("attach", "-", "web", stdin=info).exit_code == 0

    def test_a_snapshot_has_none(self, gold: Shell) -> None:
        gold.sm("volume_create", "gold", "1", "--id", "mail")
        gold.sm("volume_snapshot", "mail", "--id", "monday")
        status, error = gold.error("sm", "volume_connection", "monday")
        assert (status, error["type"]) == (2, "NotSupported")


class TestInterrupt:
    def test_130_and_the_id_is_told_with_which_to_go_on(self, gold: Shell, xapi: Simulator) -> None:
        order = xapi.faults.hang("VDI.create")
        environment = {**os.environ, **{k: v for k, v in gold.environment.items() if v is not None}}
        process = subprocess.Popen(
            [sys.executable, "-m", "xenvol.cli", "sm", "volume_create", "gold", "1"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 60
        while not order.hits and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
        order.release()
        assert (process.returncode, stdout) == (130, "")
        assert stderr.startswith("error: interrupted\n")
        told = re.search(r"note: its id is (\S+): repeat the command with --id \1 to complete it", stderr)
        assert told is not None
        assert gold.json("sm", "volume_create", "gold", "1", "--id", told[1])["state"] == "available"
        assert gold("sm", "audit").exit_code == 0


def test_a_list_of_a_mistyped_flavor_or_backend_is_an_error_and_not_empty(gold: Shell) -> None:
    assert gold.error("sm", "volume_list", "--flavor", "gld")[1]["type"] == "UnknownFlavor"
    assert gold.error("sm", "volume_list", "--backend", "7")[1]["type"] == "UnknownBackend"
    assert gold.json("sm", "volume_list", "--flavor", "gold", "--backend", "1") == []


def test_a_delete_of_a_mistyped_id_is_an_error(gold: Shell) -> None:
    gold.sm("volume_create", "gold", "1", "--id", "mail")
    assert gold.error("sm", "volume_delete", "mial")[1]["type"] == "UnknownVolume"
