"""`xenvol image`: a disk holds the image or is not there; standard output is the image alone; no secret is shown."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from tests.cli.conftest import Shell
from tests.images.vhdkit import make_chain
from tests.scenarios import GIB, MIB, changes
from xenvol.cli import failures
from xenvol.cli.app import app
from xenvol.cli.image import COMMANDS, image
from xenvol.cli.image.looking import read_age
from xenvol.cli.terminal import _TransferBar
from xenvol.images import Progress
from xenvol.images.errors import TransferCancelled
from xenvol.simulator import Simulator

TOKEN = "canary-t0ken-of-an-image-service"
SIZE = 4 * MIB
CONTENT = os.urandom(2 * MIB) + bytes(MIB) + os.urandom(MIB)
DOOR = "PUT /import_raw_vdi"


@pytest.fixture
def shell(xapi: Simulator, tmp_path: Path) -> Shell:
    """Logged in to a pool with an SR `store`."""
    xapi.storage.shares.add_nfs("10.0.0.2").export("/vols", size=100 * GIB)
    device_config = {"server": "10.0.0.2", "serverpath": "/vols"}
    xapi.add_sr("store", type="nfs", device_config=device_config, create=True)
    return Shell(xapi, tmp_path)


@pytest.fixture
def disk(tmp_path: Path) -> str:
    """A raw image."""
    return raw(tmp_path / "disk.raw", CONTENT)


def raw(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def run(shell: Shell, *arguments: str, stdin: bytes | None = None) -> Result:
    environment = shell.environment
    return CliRunner().invoke(app, ["image", *arguments], input=stdin, env=environment)


def process(shell: Shell, *arguments: str, **how: Any) -> subprocess.Popen[bytes]:
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    return subprocess.Popen(command(*arguments), env=environment_of(shell), **how)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "xenvol.cli", "image", *arguments]


def environment_of(shell: Shell) -> dict[str, str]:
    return {**os.environ, **{name: value for name, value in shell.environment.items() if value is not None}}


def disks(xapi: Simulator) -> list[str]:
    return sorted(xapi.db.get("VDI", ref, "name_label") for ref in xapi.db.refs("VDI"))


def held(shell: Shell, name: str) -> bytes:
    """What a disk holds."""
    result = run(shell, "export", name, "-")
    assert result.exit_code == 0, result.stderr
    return result.stdout_bytes


def make(shell: Shell, name: str, content: bytes) -> dict[str, Any]:
    """A disk with this content."""
    where = raw(shell.directory / f"{name}.made", content)
    imported: dict[str, Any] = shell.json("image", "import", where, "store", "--name", name)
    return imported


def at_a_terminal(
    shell: Shell, arguments: Sequence[str], *answers: tuple[str, str], stdin: bytes | None = None
) -> tuple[int, str]:
    """The exit status and all that was shown, where each question was answered; `stdin` comes by and by."""
    terminal, its_end = pty.openpty()
    started = subprocess.Popen(
        command(*arguments),
        env={**environment_of(shell), "TERM": "xterm", "COLUMNS": "200"},
        stdin=its_end if stdin is None else subprocess.PIPE,
        stdout=its_end,
        stderr=its_end,
        start_new_session=True,  # so that this is its terminal, and not the one that the tests run at
    )
    feeder = threading.Thread(target=feed, args=(started, stdin))
    feeder.start()
    os.close(its_end)
    shown, left, deadline = b"", list(answers), time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                shown += os.read(terminal, 4096)
            except OSError:  # Linux says so when the other side is gone
                break
        if left and left[0][0].encode() in shown:
            os.write(terminal, f"{left.pop(0)[1]}\n".encode())
    os.close(terminal)
    feeder.join()
    assert left == [], shown
    return started.wait(60), shown.decode()


def feed(started: subprocess.Popen[bytes], content: bytes | None) -> None:
    if started.stdin is not None and content is not None:
        for offset in range(0, len(content), MIB):
            started.stdin.write(content[offset : offset + MIB])
            started.stdin.flush()
            time.sleep(0.3)  # for more than one look at it
        started.stdin.close()


# ---- an image service


class Service(ThreadingHTTPServer):
    """Gives an image to whoever has the token, and repeats in its refusals what it was told."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Whoever has seen enough hangs up; that is said nowhere."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v2/images/debian/file"


class _Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        self.server.asked.append(dict(self.headers))
        bearer = self.headers.get("Authorization", "").partition(" ")[2]
        token = self.headers.get("X-Auth-Token") or self.headers.get("X-Magic") or bearer
        is_known = token == TOKEN
        body = CONTENT if is_known else f"no such token: {token}".encode()
        self.send_response(200 if is_known else 403)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-MD5", hashlib.md5(body).hexdigest())
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


# ---- help


@pytest.mark.parametrize("name", COMMANDS)
class TestEveryCommand:
    def found(self, name: str) -> click.Command:
        found = image.get_command(click.Context(image, info_name="xenvol image"), name)
        assert found is not None
        return found

    def test_its_help_has_an_example(self, name: str) -> None:
        result = CliRunner().invoke(app, ["image", name, "-h"])
        assert result.exit_code == 0
        assert re.search(rf"Examples?:\n    xenvol image {name}\b", result.stdout)
        assert "--json" in result.stdout

    def test_it_is_listed_with_the_first_line_of_its_help(self, name: str) -> None:
        assert (self.found(name).help or "").partition("\n")[0] == COMMANDS[name].about

    def test_its_options_are_explained(self, name: str) -> None:
        options = [param for param in self.found(name).params if isinstance(param, click.Option)]
        assert [option.name for option in options if not option.help and option.name != "user"] == []

    def test_it_and_its_options_are_in_the_documentation(self, name: str) -> None:
        page = (Path(__file__).parent.parent / "docs/cli.md").read_text()
        section = page.partition("\n## Images\n")[2].partition("\n## ")[0]
        assert f"| `{name}" in section
        of_pools = "--url --user --password-file --ca-file --fingerprint --insecure --timeout"
        elsewhere = {*of_pools.split(), "--json", "--verbose", "--quiet"}
        options = {option for param in self.found(name).params for option in param.opts if option[:2] == "--"}
        assert [option for option in options - elsewhere if option not in section] == []


class TestWithoutTheExtra:
    def python(self, missing: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        code = f"import sys; sys.modules[{missing!r}] = None; from xenvol.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
        )

    def test_a_url_says_which_one_to_install(self) -> None:
        ran = self.python("urllib3", "image", "info", "http://127.0.0.1:9/disk.raw")
        assert ran.returncode == 2
        assert "pip install 'xenvol[images]'" in ran.stderr
        assert "Traceback" not in ran.stderr

    def test_files_and_the_help_need_none(self, disk: str) -> None:
        for arguments in (["image", "info", disk], ["image", "--help"]):
            ran = self.python("urllib3", *arguments)
            assert (ran.returncode, ran.stderr) == (0, "")


# ---- import


class TestImport:
    def test_the_disk_holds_the_image(self, shell: Shell, disk: str) -> None:
        result = run(shell, "import", disk, "store", "--name", "debian", "--verify")
        assert (result.exit_code, result.stderr) == (0, "")
        assert f"holds {disk} (raw)" in result.stdout
        assert "3 MiB written by http, read back and compared" in result.stdout
        assert held(shell, "debian") == CONTENT

    def test_json_tells_all_facts_in_bytes(self, shell: Shell, disk: str, xapi: Simulator) -> None:
        told = shell.json("image", "import", disk, "store", "--description", "of today", "--raw-disk")
        ref = told.pop("vdi_ref")
        assert told.pop("vdi_uuid") == xapi.db.get("VDI", ref, "uuid")
        assert told.pop("sr_uuid")
        assert told == {
            "image": disk, "format": "raw", "virtual_size": SIZE, "vdi_size": SIZE, "written": 3 * MIB,
            "road": "http", "is_verified": False,
        }  # fmt: skip  # because it is read as a sentence
        assert xapi.db.get("VDI", ref, "name_label") == "disk.raw"
        assert xapi.db.get("VDI", ref, "name_description") == "of today"
        assert xapi.db.get("VDI", ref, "sm_config")["type"] == "raw"

    @pytest.mark.parametrize("size", [[], ["--size", "4MiB"]])
    def test_standard_input_is_an_image_too(self, shell: Shell, size: list[str]) -> None:
        """Whose size is known when it was staged, or when it is said."""
        result = run(shell, "import", "-", "store", "--name", "debian", *size, "-v", stdin=CONTENT)
        assert result.exit_code == 0, result.stderr
        assert ("info: staging" in result.stderr) == (size == [])
        assert held(shell, "debian") == CONTENT

    def test_a_file_is_standard_input_as_well_as_a_pipe(self, shell: Shell, disk: str) -> None:
        with (
            open(disk, "rb") as file,
            process(shell, "import", "-", "store", "--name", "x", stdin=file) as done,
        ):
            assert done.wait(60) == 0
        assert held(shell, "x") == CONTENT

    def test_a_chain_is_its_leaf_and_each_parent(self, shell: Shell) -> None:
        layers: list[dict[int, bytes]] = [
            {0: b"c" * 512, 1024: b"d" * 512},
            {512: b"b" * 512},
            {0: b"a" * 512},
        ]
        leaf, middle, base = (
            raw(shell.directory / f"{number}.vhd", content)
            for number, content in enumerate(make_chain(SIZE, layers))
        )
        shell.json("image", "import", leaf, "store", "--name", "chain", "--parent", middle, "--parent", base)
        expected = b"c" * 512 + b"b" * 512 + b"d" * 512
        assert held(shell, "chain") == expected.ljust(SIZE, b"\0")
        status, error = shell.error("image", "import", leaf, "store", "--parent", base)
        assert (status, error["blame"]) == (2, "request")

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ([], "either an SR"),
            (["store", "--into", "x"], "either an SR"),
            (["store", "--blank"], "only with --into"),
            (["store", "--yes"], "only with --into"),
            (["--into", "x", "--yes", "--name", "y"], "which makes no disk"),
            (["--into", "x", "--yes", "--raw-disk"], "which makes no disk"),
            (["store", "--checksum", "abc"], "is not a checksum"),
            (["store", "--size", "4GB"], "is no size"),
            (["store", "--header", "Accept: x"], "is no URL"),
            (["store", "--image-insecure"], "is no URL"),
            (["store", "--parent", "-"], "every VHD of the chain must be a file"),
            (["store", "--parent", "b.vhd", "--format", "raw"], "leave out --format and --checksum"),
            (
                ["store", "--parent", "b.vhd", "--checksum", f"md5:{'0' * 32}"],
                "leave out --format and --checksum",
            ),
        ],
    )
    def test_what_cannot_be_is_said_before_anybody_logs_in(
        self, shell: Shell, disk: str, xapi: Simulator, arguments: list[str], text: str
    ) -> None:
        before = list(xapi.journal.logins)
        result = run(shell, "import", disk, *arguments)
        assert result.exit_code == 2
        assert text in " ".join(result.stderr.split())
        assert list(xapi.journal.logins) == before


class TestFailures:
    """Whatever is wrong, the pool is as it was."""

    @pytest.fixture
    def unchanged(self, shell: Shell, xapi: Simulator) -> Iterator[None]:
        before = xapi.snapshot()
        yield
        assert changes(before, xapi.snapshot()) == []

    @pytest.mark.usefixtures("unchanged")
    def test_a_file_that_is_not_there(self, shell: Shell) -> None:
        status, error = shell.error("image", "import", "nowhere.raw", "store")
        assert (status, error["blame"], error["type"]) == (2, "request", "SourceError")
        assert error["message"] == "cannot read nowhere.raw: no such file"

    @pytest.mark.usefixtures("unchanged")
    def test_a_bad_image_is_one_line_that_says_what_is_wrong(self, shell: Shell) -> None:
        bad = raw(shell.directory / "bad.qcow2", b"QFI\xfb" + (9).to_bytes(4, "big") + bytes(1000))
        result = run(shell, "import", bad, "store")
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error: xenvol cannot read {bad}: ")
        assert len(result.stderr.splitlines()) == 1

    @pytest.mark.usefixtures("unchanged")
    def test_a_checksum_that_does_not_match(self, shell: Shell, disk: str) -> None:
        good, bad = hashlib.sha256(CONTENT).hexdigest(), "0" * 64
        status, error = shell.error("image", "import", disk, "store", "--checksum", f"sha256:{bad}")
        assert (status, error["type"]) == (2, "ChecksumMismatch")
        assert good in error["message"]
        assert shell.json("image", "info", disk, "--checksum", good)["format"] == "raw"

    @pytest.mark.usefixtures("unchanged")
    def test_an_sr_that_is_not_there(self, shell: Shell, disk: str) -> None:
        status, error = shell.error("image", "import", disk, "nowhere")
        assert (status, error["type"]) == (2, "UnknownDisk")

    @pytest.mark.usefixtures("unchanged")
    def test_a_host_that_refuses(self, shell: Shell, disk: str, xapi: Simulator) -> None:
        xapi.faults.refuse(DOOR, "SR_BACKEND_FAILURE_44", "", "no space", "")
        status, error = shell.error("image", "import", disk, "store")
        assert (status, error["blame"]) == (6, "hypervisor")
        assert "SR_BACKEND_FAILURE_44" in error["message"]

    def test_a_cancelled_transfer_is_an_interrupt(self) -> None:
        assert failures.blame_of(TransferCancelled("the import")).status == failures.INTERRUPTED


class TestInto:
    def test_a_disk_is_overwritten_when_it_may_be(self, shell: Shell, disk: str) -> None:
        """... and what is behind the image is zeroed."""
        uuid = make(shell, "old", os.urandom(6 * MIB))["vdi_uuid"]
        told = shell.json("image", "import", disk, "--into", uuid, "--yes", "--verify")
        assert (told["vdi_uuid"], told["vdi_size"], told["written"]) == (uuid, 6 * MIB, 6 * MIB)
        assert held(shell, "old") == CONTENT + bytes(2 * MIB)

    def test_to_a_blank_one_holes_are_not_written(self, shell: Shell, disk: str) -> None:
        make(shell, "new", bytes(SIZE))
        told = shell.json("image", "import", disk, "--into", "new", "--yes", "--blank")
        assert told["written"] == 3 * MIB
        assert held(shell, "new") == CONTENT

    def test_nobody_is_asked_without_a_terminal(self, shell: Shell, disk: str, xapi: Simulator) -> None:
        make(shell, "old", bytes(SIZE))
        logins = list(xapi.journal.logins)
        result = run(shell, "import", disk, "--into", "old")
        assert result.exit_code == 2
        assert "give --yes" in " ".join(result.stderr.split())
        assert list(xapi.journal.logins) == logins
        assert held(shell, "old") == bytes(SIZE)

    def test_whoever_sits_there_types_its_name(self, shell: Shell, disk: str) -> None:
        old = os.urandom(SIZE)
        uuid = make(shell, "old", old)["vdi_uuid"]
        import_ = ["import", disk, "--into", "old"]
        for answer in ("", "yes"):
            status, shown = at_a_terminal(shell, import_, ("leaves it as it is: ", answer))
            assert (status, uuid in shown) == (2, True)
            assert "was not changed, since its name was not typed" in shown
            assert held(shell, "old") == old
        assert at_a_terminal(shell, import_, ("leaves it as it is: ", "old"))[0] == 0
        assert held(shell, "old") == CONTENT
        assert at_a_terminal(shell, [*import_, "--json"])[0] == 2

    def test_a_disk_that_may_hold_a_part_is_told(self, shell: Shell, disk: str, xapi: Simulator) -> None:
        make(shell, "old", bytes(SIZE))
        xapi.faults.refuse(DOOR, "SR_BACKEND_FAILURE_44", "", "no space", "")
        _, error = shell.error("image", "import", disk, "--into", "old", "--yes")
        assert "may hold a part of the image" in " ".join(error["notes"])


class TestWrite:
    """A real device is the library's tests' to write to: here it is refused, asked about, or not there."""

    def test_what_is_no_block_device_is_refused(self, shell: Shell, disk: str) -> None:
        file = raw(shell.directory / "file", b"mine" * 4096)
        status, error = shell.error("image", "write", disk, file, "--yes")
        assert (status, error["type"]) == (2, "TargetError")
        assert error["message"] == f"cannot write {file}: it is not a block device"
        assert Path(file).read_bytes() == b"mine" * 4096

    @pytest.mark.parametrize("switches", [[], ["--json"]])
    def test_nobody_is_asked_without_a_terminal(self, shell: Shell, disk: str, switches: list[str]) -> None:
        result = run(shell, "write", disk, "/nowhere/xvdb", *switches)
        assert result.exit_code == 2
        assert "give --yes" in " ".join(result.stderr.split())

    def test_whoever_sits_there_types_its_name(self, shell: Shell, disk: str) -> None:
        write = ["write", disk, "/nowhere/xvdb"]
        question = "leaves it as it is: "
        status, shown = at_a_terminal(shell, write, (question, ""))
        assert (status, "its name was not typed" in shown) == (2, True)
        status, shown = at_a_terminal(shell, write, (question, "/nowhere/xvdb"))
        assert (status, "cannot write /nowhere/xvdb" in shown) == (2, True)


# ---- URLs and their secrets


class TestURLs:
    def test_the_token_of_a_file_opens_the_image_service(self, shell: Shell, service: Service) -> None:
        token = raw(shell.directory / "token", f"{TOKEN}\nanother line\n".encode())
        shell.json("image", "import", service.url, "store", "--name", "url", "--token-file", token)
        assert held(shell, "url") == CONTENT
        header = raw(shell.directory / "header", f"Authorization: Bearer {TOKEN}\n".encode())
        told = shell.json("image", "info", service.url, "--header-file", header, "--header", "Accept: x/y")
        assert told["virtual_size"] == SIZE
        assert [asked.get("X-Auth-Token") for asked in service.asked] == [TOKEN, None]
        assert service.asked[1]["Authorization"] == f"Bearer {TOKEN}"
        assert service.asked[1]["Accept"] == "x/y"

    @pytest.mark.parametrize("switches", [[], ["--json"], ["-vv"], ["-vv", "--json"]])
    def test_no_token_is_ever_shown(self, shell: Shell, service: Service, switches: list[str]) -> None:
        """By commands that work, by those that fail, and where the image service repeats it."""
        good = raw(shell.directory / "good", TOKEN.encode())
        bad = raw(shell.directory / "bad", f"{TOKEN}-bad".encode())
        url = f"{service.url}?signature={TOKEN}"
        commands = [
            ["import", url, "store", "--token-file", good],
            ["import", url, "store", "--token-file", bad],
            ["info", url, "--header-file", raw(shell.directory / "h", f"X-Magic: {TOKEN}-bad".encode())],
            ["info", url, "--header", f"X-Auth-Token: {TOKEN}"],
            ["info", url, "--header", f"Cookie: {TOKEN}"],
            ["info", url, "--header", TOKEN],
            ["info", url, "--header-file", good],
            ["info", f"http://user:{TOKEN}@127.0.0.1/", "--token-file", good],
            ["info", "http://198.51.100.1/disk.raw", "--token-file", good],
            ["info", url, "--checksum", "0" * 32, "--check", "--token-file", good],
        ]
        results = [run(shell, *each, *switches) for each in commands]
        assert [result.exit_code for result in results] == [0] + [2] * 9
        assert all(result.output for result in results)
        assert [number for number, result in enumerate(results) if TOKEN in result.output] == []

    @pytest.mark.parametrize("name", ["X-Auth-Token", "authorization", "Cookie", "X-Api-Key"])
    def test_a_secret_header_is_not_taken_from_the_command_line(
        self, shell: Shell, service: Service, name: str
    ) -> None:
        result = run(shell, "info", service.url, "--header", f"{name}: {TOKEN}")
        assert result.exit_code == 2
        assert "--header-file" in result.stderr
        assert service.asked == []

    def test_what_is_no_header_is_a_usage_error(self, shell: Shell, service: Service) -> None:
        for header in ("no colon", "empty:", ": x", "sp ace: x"):
            status, error = shell.error("image", "info", service.url, "--header", header)
            assert (status, error["type"]) == (2, "UsageError")
        both = ["--image-insecure", "--image-ca-file", raw(shell.directory / "ca", b"")]
        assert shell.error("image", "info", service.url, *both)[1]["type"] == "UsageError"
        assert service.asked == []


# ---- export


class TestExport:
    @pytest.fixture
    def debian(self, shell: Shell) -> Shell:
        make(shell, "debian", CONTENT)
        return shell

    def test_a_file_holds_what_the_disk_holds(self, debian: Shell) -> None:
        target = debian.directory / "out.raw"
        told = debian.json("image", "export", "debian", str(target))
        assert target.read_bytes() == CONTENT
        assert told.pop("vdi_uuid")
        assert told == {
            "target": str(target), "format": "raw", "compression": "none", "virtual_size": SIZE, "size": SIZE,
            "road": "http", "was_in_use": False, "residue": [],
        }  # fmt: skip  # because it is read as a sentence

    @pytest.mark.parametrize("format", ["vhd", "tarball"])
    def test_what_was_exported_can_be_imported(self, debian: Shell, format: str) -> None:
        target = str(debian.directory / "image")
        result = run(debian, "export", "debian", target, "--format", format)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.startswith(f"{target} holds VDI ")
        assert debian.json("image", "info", target)["format"] == format
        debian.json("image", "import", target, "store", "--name", "again")
        assert held(debian, "again") == CONTENT

    def test_a_file_is_replaced_only_when_it_may_be(self, debian: Shell) -> None:
        target = raw(debian.directory / "mine", b"mine")
        status, error = debian.error("image", "export", "debian", target)
        assert (status, error["type"]) == (2, "TargetError")
        assert "--overwrite" in error["message"]
        assert Path(target).read_bytes() == b"mine"
        debian.json("image", "export", "debian", target, "--overwrite")
        assert Path(target).read_bytes() == CONTENT

    def test_standard_output_is_the_image_and_nothing_else(self, debian: Shell) -> None:
        result = run(debian, "export", "debian", "-")
        assert (result.exit_code, result.stdout_bytes) == (0, CONTENT)
        assert result.stderr.startswith("standard output holds VDI ")
        result = run(debian, "export", "debian", "-", "--json", "--compress", "gzip")
        assert gzip.decompress(result.stdout_bytes) == CONTENT
        assert json.loads(result.stderr)["result"]["compression"] == "gzip"

    def test_a_new_file_as_standard_output_has_holes(self, debian: Shell) -> None:
        sparse = os.urandom(MIB) + bytes(7 * MIB)  # xapi's VHD, by which it comes, has blocks of 2 MiB
        make(debian, "sparse", sparse)
        path = debian.directory / "out"
        with open(path, "wb") as file, process(debian, "export", "sparse", "-", stdout=file) as done:
            assert done.wait(60) == 0
        assert path.read_bytes() == sparse
        assert path.stat().st_blocks * 512 <= 2 * MIB

    @pytest.mark.parametrize(
        ("mode", "before"), [("ab", b""), ("ab", b"\xff" * MIB), ("r+b", b"\xff" * 9 * MIB)]
    )
    def test_what_a_file_held_does_not_shine_through_the_holes(
        self, debian: Shell, mode: str, before: bytes
    ) -> None:
        """Neither where the shell appends (>>), nor where it opens what is there (1<>)."""
        sparse = os.urandom(MIB) + bytes(6 * MIB) + os.urandom(MIB)
        make(debian, "sparse", sparse)
        path = Path(raw(debian.directory / "out", before))
        with open(path, mode) as file, process(debian, "export", "sparse", "-", stdout=file) as done:
            assert done.wait(60) == 0
        assert path.read_bytes() == (before + sparse if mode == "ab" else sparse + before[len(sparse) :])

    @pytest.mark.parametrize("compression", ["none", "gzip"])
    def test_a_reader_that_has_gone_is_an_error_in_one_line(self, debian: Shell, compression: str) -> None:
        started = process(debian, "export", "debian", "-", "--compress", compression)
        assert started.stdout is not None
        assert started.stderr is not None
        assert len(started.stdout.read(10)) == 10
        started.stdout.close()
        errors = started.stderr.read().decode()
        started.stderr.close()
        assert started.wait(60) == 2
        assert errors == "error: cannot write standard output: the program that read it has ended\n"

    def test_what_a_broken_pipe_has_not_taken_is_not_written_again(self) -> None:
        """By Python, which would say so when it ends."""
        code = (
            "from xenvol.cli.image.standard import standard_output\n"
            "from xenvol.images.errors import TargetError\n"
            "file = standard_output()\n"
            "try:\n    file.write(b'footer')\n    file.flush()\n"
            "except TargetError: pass\n"
        )
        reader, writer = os.pipe()
        os.close(reader)
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        ran = subprocess.run(
            [sys.executable, "-c", code], env=buffered, stdout=writer, stderr=subprocess.PIPE, check=False
        )
        os.close(writer)
        assert (ran.returncode, ran.stderr) == (0, b"")

    def test_no_image_is_written_to_a_terminal_or_read_from_one(self, debian: Shell) -> None:
        for arguments in (["export", "debian", "-"], ["import", "-", "store"], ["info", "-"]):
            status, shown = at_a_terminal(debian, arguments)
            assert (status, "which is the terminal" in shown) == (2, True)


# ---- info, and the bar


class TestInfo:
    def test_asks_no_pool(self, shell: Shell, disk: str, xapi: Simulator) -> None:
        told = shell.json("image", "info", disk)
        assert told == {
            "image": disk, "format": "raw", "virtual_size": SIZE, "allocated": told["allocated"],
            "is_checked": False,
        }  # fmt: skip  # because it is read as a sentence
        shown = run(shell, "info", disk, "--check").stdout
        assert f"size of the disk\t4 MiB ({SIZE} bytes)" in shown
        assert "checked\tall of it is good" in shown
        assert list(xapi.journal.logins) == []

    def test_what_is_cut_off_is_found_by_a_check(self, shell: Shell) -> None:
        result = run(shell, "info", "-", "--check", "--size", "4MiB", stdin=CONTENT[:-1])
        assert result.exit_code == 2
        assert "standard input" in result.stderr or "the stream" in result.stderr


class TestProgress:
    def test_people_see_how_much_how_fast_and_how_long(self, shell: Shell) -> None:
        arguments = ["import", "-", "store", "--size", "4MiB", "--verify"]
        status, shown = at_a_terminal(shell, arguments, stdin=CONTENT)
        assert status == 0
        assert re.search(r"writing .* \d+% *\S* [\d.]+ MiB of 4 MiB, [\d.]+ [KMG]iB/s", shown)
        assert "verifying" in shown
        assert re.search(r"0:00:0\d", shown)
        assert "holds standard input (raw)" in shown

    def test_programs_see_nothing_unless_they_ask(self, shell: Shell, disk: str) -> None:
        assert run(shell, "import", disk, "store", "--verify").stderr == ""
        assert run(shell, "import", disk, "store", "--verify", "--json").stderr == ""
        lines = run(shell, "import", disk, "store", "--verify", "--json", "-v").stderr.splitlines()
        told = [json.loads(line).get("info", "") for line in lines]
        assert [text.partition(",")[0] for text in told if text] == ["writing", "verifying"]

    def test_a_long_one_prints_a_line_now_and_then(
        self, shell: Shell, disk: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And its end; as JSON for programs; nothing with -q."""
        monkeypatch.setattr("xenvol.cli.terminal._LINE_EVERY", 0.0)
        lines = run(shell, "import", disk, "store").stderr.splitlines()
        assert len(lines) > 1
        assert all(re.fullmatch(r"writing: [\d.]+ [KM]iB of [\d.]+ MiB, \d+ %", line) for line in lines)
        assert lines[-1].endswith("100 %")
        told = [
            json.loads(line)["progress"]
            for line in run(shell, "import", disk, "store", "--json").stderr.splitlines()
        ]
        assert told[-1]["done"] == told[-1]["total"]
        assert {each["phase"] for each in told} == {"writing"}
        assert run(shell, "import", disk, "store", "-q").stderr == ""
        assert run(shell, "import", disk, "store", "-q", "--json").stderr == ""

    @pytest.mark.parametrize("width", [40, 60, 80])
    def test_its_bar_fits_the_terminal(self, width: int) -> None:
        file = io.StringIO()
        bar = _TransferBar(Console(file=file, width=width, force_terminal=True, color_system=None))
        with bar:
            bar.show(Progress("verifying", 123_456_789, 2 << 40))
            shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", file.getvalue())
            bar.refresh()
        assert "verifying" in shown
        assert max(map(len, shown.splitlines())) <= width
        assert "…" not in shown


# ---- interrupts, and what is left of the dead


def interrupted(shell: Shell, xapi: Simulator, number: signal.Signals, *, staging: Path) -> tuple[int, str]:
    """An import that was staged, and is hit while the host has it."""
    order = xapi.faults.delay(DOOR, 3.0)
    image_file = shell.directory / "piped"
    image_file.write_bytes(CONTENT)
    with subprocess.Popen(["cat", str(image_file)], stdout=subprocess.PIPE) as cat:
        started = process(
            shell,
            *("import", "-", "store", "--name", "half", "--unknown-length", "--staging-dir", str(staging)),
            stdin=cat.stdout,
        )
        deadline = time.monotonic() + 60
        while not order.hits and time.monotonic() < deadline:
            time.sleep(0.02)
        assert order.hits
        assert len(list(staging.iterdir())) == 1
        started.send_signal(number)
        _, stderr = started.communicate(timeout=60)
    return started.returncode, stderr.decode()


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    directory = tmp_path / "staging"
    directory.mkdir()
    return directory


class TestInterrupt:
    def test_130_and_nothing_remains(self, shell: Shell, xapi: Simulator, staging: Path) -> None:
        """Neither in the pool nor in the staging directory."""
        before = xapi.snapshot()
        status, stderr = interrupted(shell, xapi, signal.SIGINT, staging=staging)
        assert (status, stderr.splitlines()[0]) == (130, "error: interrupted")
        assert "not undone" not in stderr
        assert "xenvol image sweep" in stderr
        deadline = time.monotonic() + 60  # the host sees in its own time that nobody is there any more
        while (left := changes(before, xapi.snapshot())) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left == []
        assert list(staging.iterdir()) == []


class TestSweep:
    def test_what_a_killed_import_left_is_shown_and_taken_away(
        self, shell: Shell, xapi: Simulator, staging: Path
    ) -> None:
        before = xapi.snapshot()
        assert interrupted(shell, xapi, signal.SIGKILL, staging=staging)[0] == -signal.SIGKILL
        assert disks(xapi) == ["half"]
        assert shell.json("image", "sweep") == []
        shown = run(shell, "sweep", "--older-than", "0s").stdout.splitlines()
        assert shown[0].split("\t") == ["WHAT", "VDI", "NAME", "BEGAN", "BY", "REMOVED"]
        assert shown[1].split("\t")[::5] == ["disk", "no (--remove)"]
        (told,) = shell.json("image", "sweep", "--older-than", "0s")
        assert (told["kind"], told["name"], told["kept"], told["removed"]) == ("disk", "half", None, False)
        assert disks(xapi) == ["half"]
        (told,) = shell.json("image", "sweep", "--older-than", "0s", "--remove")
        assert (told["kept"], told["removed"]) == (None, True)
        assert disks(xapi) == []
        assert shell.json("image", "sweep", "--older-than", "0s", "--remove") == []
        left = [line for line in changes(before, xapi.snapshot()) if not line.startswith("task")]
        assert [line for line in left if "VDI" in line or "VBD" in line] == []

    def test_it_fails_where_something_stays(self, shell: Shell, xapi: Simulator, staging: Path) -> None:
        interrupted(shell, xapi, signal.SIGKILL, staging=staging)
        xapi.faults.refuse("VDI.destroy", "INTERNAL_ERROR", "by order", every=True)
        result = run(shell, "sweep", "--older-than", "0s", "--remove", "--json")
        assert result.exit_code == 5
        (told,) = json.loads(result.stdout)
        assert (told["removed"], "by order" in told["kept"]) == (False, True)
        assert disks(xapi) == ["half"]

    @pytest.mark.parametrize(
        ("text", "seconds"), [("90s", 90), ("30m", 1800), ("24h", 86400), ("7 d", 604800), ("0s", 0)]
    )
    def test_a_time_is_a_number_with_a_unit(self, text: str, seconds: int) -> None:
        context, option = click.Context(click.Command("x")), click.Option(["--older-than"])
        assert read_age(context, option, text).total_seconds() == seconds
        for wrong in ("24", "h", "-1h", "1w", "1.5h", ""):
            with pytest.raises(click.BadParameter):
                read_age(context, option, wrong)
