"""A backend's password is never taken from the command line, never printed, and never in the database's file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from tests.scenarios import CHAP, GIB, IQN, scsi_id
from xenvol.cli.app import app
from xenvol.cli.sm import COMMANDS, sm
from xenvol.simulator import Simulator

if TYPE_CHECKING:
    from conftest import Shell

PASSWORD = CHAP[1]
LVM_OVER_ISCSI = ["lvmoiscsi", "target=10.0.0.1", f"targetIQN={IQN}", f"SCSIid={scsi_id(0)}"]
ERASE = ["--format", scsi_id(0)]


@pytest.fixture
def locked(shell: Shell, xapi: Simulator) -> Shell:
    """A target that needs CHAP, with its password in the file `chap`; and a flavor."""
    xapi.storage.san.add_target(IQN, "10.0.0.1:3260", chap=CHAP)
    xapi.storage.san.add_lun(IQN, 0, 100 * GIB, scsi_id=scsi_id(0))
    xapi.storage.shares.add_smb("10.0.0.4", "vols", size=100 * GIB, credentials=("user", PASSWORD))
    xapi.add_vm("web")
    shell.sm("flavor_create", "gold", "backups are possible")
    shell.file("chap", f"{PASSWORD}\nnot this\n")
    return shell


def login(shell: Shell) -> list[str]:
    return [f"chapuser={CHAP[0]}", f"chappassword=@{shell.directory / 'chap'}"]


class TestCommandLine:
    @pytest.mark.parametrize(
        "word",
        [
            f"chappassword={PASSWORD}",
            f"password={PASSWORD}",
            f"incoming_chappassword={PASSWORD}",
            f"secret_key={PASSWORD}",
            f"Keyring={PASSWORD}",
            f"chappassword_secret={PASSWORD}",
            f"password={PASSWORD}=@{PASSWORD}",
        ],
    )
    def test_a_secret_in_plain_text_is_refused_with_the_way_to_give_it(
        self, locked: Shell, xapi: Simulator, word: str
    ) -> None:
        result = locked("sm", "backend_add", "gold", *LVM_OVER_ISCSI, word)
        assert (result.exit_code, PASSWORD in result.output) == (2, False)
        key = word.partition("=")[0]
        assert f"{key}=@FILE" in result.stderr
        assert f"{key}= to be asked" in result.stderr
        assert list(xapi.journal.logins) == []

    @pytest.mark.parametrize(
        "words",
        [
            ["server=//10.0.0.4/vols", f"options=username=u,password={PASSWORD}"],
            [f"server=smb://user:{PASSWORD}@10.0.0.4/vols"],
        ],
    )
    def test_neither_is_one_within_a_value(self, locked: Shell, words: list[str]) -> None:
        """It would be stored as it is."""
        result = locked("sm", "backend_add", "gold", "smb", *words)
        assert (result.exit_code, PASSWORD in result.output) == (2, False)
        assert "has a password in it, which would be stored and shown" in " ".join(result.stderr.split())

    @pytest.mark.parametrize(
        "words", [["password=@FILE", PASSWORD], ["password=", PASSWORD], ["server=a", f"password:{PASSWORD}"]]
    )
    def test_one_that_went_astray_is_not_quoted(self, locked: Shell, words: list[str]) -> None:
        words = [word.replace("FILE", str(locked.directory / "chap")) for word in words]
        result = locked("sm", "backend_add", "gold", "smb", *words)
        assert (result.exit_code, PASSWORD in result.output) == (2, False)
        assert re.search(r"parameter 2( \('password:\*\*\*'\))? is not key=value", result.stderr)

    def test_a_description_may_speak_of_passwords(self, locked: Shell) -> None:
        words = [*LVM_OVER_ISCSI, *login(locked), "name_description=password: ask Bob", *ERASE]
        assert locked.json("sm", "backend_add", "gold", *words)["state"] == "ready"

    def test_the_uuid_of_a_secret_that_the_pool_has_is_none(self, locked: Shell) -> None:
        """So an administrator who has put a secret into the pool can name it."""
        uuid = "7e1f0c9a-4b0e-4d7e-9f8e-0a6f1f2d3c4b"
        status, error = locked.error(
            "sm", "backend_add", "gold", *LVM_OVER_ISCSI, f"chapuser={CHAP[0]}", f"chappassword_secret={uuid}"
        )
        assert "@FILE" not in error["message"]
        assert status != 2

    def test_without_a_terminal_nobody_is_asked(self, locked: Shell) -> None:
        status, error = locked.error("sm", "backend_add", "gold", *LVM_OVER_ISCSI, "chappassword=")
        assert (status, error["type"]) == (2, "UsageError")
        assert "there is no terminal to ask at: write chappassword=@FILE" in error["message"]

    @pytest.mark.parametrize("content", [None, "", b"\xff" + PASSWORD.encode()])
    def test_a_file_that_holds_none_is_said_to_and_not_quoted(
        self, locked: Shell, tmp_path: Path, content: str | bytes | None
    ) -> None:
        path = tmp_path / "secret"
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        result = locked("sm", "backend_add", "gold", *LVM_OVER_ISCSI, f"chappassword=@{path}")
        assert (result.exit_code, PASSWORD in result.output) == (2, False)
        assert "file of chappassword" in result.stderr

    def test_a_file_may_be_in_ones_home(self, locked: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
        """A shell does not expand the ~ behind an @."""
        monkeypatch.setenv("HOME", str(locked.directory))
        words = [*LVM_OVER_ISCSI, f"chapuser={CHAP[0]}", "chappassword=@~/chap", *ERASE]
        assert locked.json("sm", "backend_add", "gold", *words)["state"] == "ready"

    def test_no_command_has_an_option_for_one(self) -> None:
        """`--secret` of `volume_connection` takes the key of one."""
        for name in COMMANDS:
            command = sm.get_command(click.Context(sm, parent=click.Context(app)), name)
            assert command is not None
            options = {option for param in command.params for option in param.opts}
            told = {option for option in options if option.endswith(("password", "secret"))}
            assert told == ({"--secret"} if name == "volume_connection" else set())

    @pytest.mark.parametrize(
        "url",
        [
            f"postgresql://xenvol:{PASSWORD}@127.0.0.1:9/xenvol",
            f"mariadb://:{PASSWORD}@127.0.0.1:9/xenvol",
            f"postgresql://127.0.0.1:9/xenvol?password={PASSWORD}",
            f"mysql+pymysql://u:a/{PASSWORD}:b@127.0.0.1:9/xenvol",
        ],
    )
    def test_a_databases_password_is_taken_from_the_environment_and_from_a_file_alone(
        self, shell: Shell, url: str
    ) -> None:
        refused = shell("sm", "flavor_list", "--database", url)
        assert (refused.exit_code, PASSWORD in refused.output) == (2, False)
        assert "set XENVOL_SM_DATABASE instead, or write @FILE" in " ".join(refused.stderr.split())
        assert shell("sm", "flavor_list", XENVOL_SM_DATABASE=url).exit_code == 8
        assert shell("sm", "flavor_list", "--database", f"@{shell.file('url', url)}").exit_code == 8


class TestOutput:
    @pytest.mark.parametrize("switches", [[], ["--json"], ["-vv"], ["-vv", "--json"]])
    def test_no_command_shows_one(self, locked: Shell, xapi: Simulator, switches: list[str]) -> None:
        """Neither successful nor failing commands show it, and it is not in the database's file."""
        add = ["backend_add", "gold", *LVM_OVER_ISCSI, *login(locked)]
        smb = ["backend_add", "gold", "smb", "server=//10.0.0.4/vols", "username=user"]
        locked.file("wrong", f"{PASSWORD}-wrong")
        outputs = []

        def run(*command: str) -> None:
            outputs.append(locked("sm", *command, *switches).output)

        run(
            "backend_add",
            "gold",
            *LVM_OVER_ISCSI,
            f"chapuser={CHAP[0]}",
            f"chappassword=@{locked.directory}/wrong",
        )
        run(*add)
        for method in ("secret.introduce", "SR.probe", "SR.create"):
            xapi.faults.refuse(method, "INTERNAL_ERROR", f"because of {PASSWORD}")
            run(*add, *ERASE)
            xapi.faults.clear()
        run(*add, *ERASE)
        run(*smb, f"password=@{locked.directory}/chap")
        run("backend_list")
        run("backend_list", "1")
        run("volume_create", "gold", "1", "--id", "mail")
        xapi.faults.refuse("secret.get_value", "INTERNAL_ERROR", "by order")
        run("volume_connection", "mail")
        xapi.faults.clear()
        run("stats")
        run("setup")
        run("audit")
        run("backend_password", "1", f"chappassword=@{locked.directory}/chap")
        for _ in range(2):
            xapi.faults.refuse("secret.set_value", "INTERNAL_ERROR", f"because of {PASSWORD}")
            run("backend_password", "1", f"chappassword=@{locked.directory}/chap")
        assert all(outputs)
        assert [output for output in outputs if PASSWORD in output] == []
        assert locked.json("sm", "volume_show", "mail")["state"] == "available"
        files = [path for path in locked.directory.iterdir() if path.name.startswith("sm.sqlite")]
        assert files
        assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []

    def test_a_table_has_stars_where_one_is(self, locked: Shell) -> None:
        locked.sm("backend_add", "gold", *LVM_OVER_ISCSI, *login(locked), *ERASE)
        assert f"chapuser={CHAP[0]} chappassword=***" in locked.sm("backend_list")
        assert "chappassword=***" in locked.sm("setup")

    def test_a_connection_info_that_names_it_alone_has_it(self, locked: Shell) -> None:
        """It goes into a pipe or a file, since that is the purpose of the option."""
        locked.sm("backend_add", "gold", *LVM_OVER_ISCSI, *login(locked), *ERASE)
        locked.sm("volume_create", "gold", "1", "--id", "mail")
        info = locked.sm("volume_connection", "mail", "--secret", "chappassword")
        assert json.loads(info)["data"]["chappassword"] == PASSWORD
        attached = locked("attach", "-", "web", stdin=info)
        assert (attached.exit_code, PASSWORD in attached.output) == (0, False)
