"""One shell command serves a pool and prints how to log in."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from xenvol.simulator.wire import Caller

COMMAND = [sys.executable, "-m", "xenvol.simulator", "serve"]


@contextmanager
def served(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yield the process, and its output at the start."""
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("Ctrl-C"):
                break
        yield process, "".join(said)
    finally:
        process.kill()
        process.communicate()


def url_in(text: str) -> str:
    found = re.search(r"simulator: (\S+)", text)
    assert found is not None, text
    return found[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(number: signal.Signals) -> None:
    with served() as (process, text):
        assert (
            Caller(url_in(text)).call("xmlrpc", "session.login_with_password", ["root", "secret"]).kind
            == "result"
        )
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "stopped\n", "")


def test_the_printed_example_works() -> None:
    with served("--hosts", "2") as (_, text):
        code = "\n".join(line.strip() for line in text.splitlines() if line.startswith("    "))
        done = subprocess.run(
            [sys.executable, "-c", f"{code}\nprint(len(session.xenapi.host.get_all()))"],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip  # one line of thought
        assert done.stdout == "2\n"
        assert "member: http://127.0.0.2:" in text


def test_it_serves_the_release_and_the_world_that_were_asked_for(tmp_path: Path) -> None:
    world = tmp_path / "world.json"
    world.write_text(json.dumps({"hosts": [{"name": "mine"}]}))
    with served("--xapi-version", "v25.33.1", "--world", str(world)) as (_, text):
        assert text.startswith("xapi 25.33.1 simulator: ")
        caller = Caller(url_in(text))
        session = caller.call("xmlrpc", "session.login_with_password", ["root", "secret"]).value
        assert caller.call("xmlrpc", "host.get_by_name_label", [session, "mine"]).value != []


def test_verbosely_it_prints_every_call_and_no_password() -> None:
    with served("-v") as (process, text):
        caller = Caller(url_in(text))
        session = caller.call("xmlrpc", "session.login_with_password", ["root", "secret"]).value
        caller.call("xmlrpc", "SR.get_uuid", [session, "OpaqueRef:none"])
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        login, call, end = out.splitlines()
        assert login.startswith("1 session.login_with_password('root', '********') → success")
        assert re.fullmatch(
            r"2 SR\.get_uuid\('OpaqueRef:none'\) → HANDLE_INVALID \['SR', 'OpaqueRef:none'\] \d+\.\d ms", call
        )
        assert end == "stopped"


def test_a_taken_port_is_told_and_the_status_is_2() -> None:
    with served() as (_, text):
        port = url_in(text).rpartition(":")[2]
        done = subprocess.run(
            [*COMMAND, "--port", port], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"cannot listen on port {port}: Address already in use")


def test_a_wrong_world_file_is_told_with_its_key_and_the_status_is_2(tmp_path: Path) -> None:
    world = tmp_path / "world.json"
    world.write_text('{"hosts": [{"nam": "x"}]}')
    done = subprocess.run(
        [*COMMAND, "--world", str(world)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("world file: hosts[0].nam: unknown key; known are name")


def test_tls_is_announced_with_the_certificate() -> None:
    with served("--tls") as (_, text):
        assert "simulator: https://127.0.0.1:" in text
        found = re.search(r"certificate: (\S+)", text)
        assert found is not None
        assert Path(found[1]).exists()
