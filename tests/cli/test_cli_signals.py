"""A signal ends a command tidily; a second one interrupts only the call that is running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.scenarios import arrange_target, changes, iscsi, touch_hosts
from xenvol.cli import app, failures
from xenvol.pool.undo import Undo
from xenvol.simulator import Simulator
from xenvol.simulator.orders import Order

if TYPE_CHECKING:
    from conftest import Shell

TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP


@pytest.fixture
def info(xapi: Simulator, shell: Shell) -> str:
    arrange_target(xapi)
    touch_hosts(xapi)
    xapi.add_vm("web")
    return shell.file("volume.json", iscsi(0))


class Running:
    """A command in its own process, which gets signals while xapi keeps it waiting."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def hit(self, number: signal.Signals, *, at: Order, hits: int = 1) -> None:
        """Send a signal once the order has struck so often."""
        deadline = time.monotonic() + 60
        while at.hits < hits:
            assert time.monotonic() < deadline, f"{at} was not met: {self.process.poll()}"
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)
        time.sleep(0.05)  # it has sent the call, and now waits for the answer
        self.process.send_signal(number)

    def end(self) -> tuple[int, list[str]]:
        """Return the exit status, and the lines that it printed about the error."""
        stdout, stderr = self.process.communicate(timeout=60)
        assert stdout == ""
        return self.process.returncode, [line.strip() for line in stderr.splitlines()]


@contextmanager
def running(shell: Shell, *arguments: str) -> Iterator[Running]:
    environment = {**os.environ, **{k: v for k, v in shell.environment.items() if v is not None}}
    command = [sys.executable, "-m", "xenvol.cli", *arguments]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Running(process)
        finally:
            if process.poll() is None:
                process.kill()


def wait_until_idle(xapi: Simulator) -> None:
    """Wait until xapi has finished the call whose client is gone."""
    deadline = time.monotonic() + 60
    while any(entry.outcome == "pending" for entry in xapi.journal) and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("first", "second", "status"), [(TERM, TERM, 143), (TERM, INT, 143), (INT, TERM, 130)]
)
def test_a_second_signal_costs_nothing(
    shell: Shell, info: str, xapi: Simulator, first: signal.Signals, second: signal.Signals, status: int
) -> None:
    """The step that it interrupts runs once more; the status is that of the first."""
    before = xapi.snapshot()
    create, unplug = xapi.faults.hang("VBD.create"), xapi.faults.hang("PBD.unplug")
    with running(shell, "attach", info, "web") as command:
        command.hit(first, at=create)
        command.hit(second, at=unplug)
        told = command.end()
    unplug.release()
    create.release()
    wait_until_idle(xapi)
    assert told[0] == status
    assert told[1][0] == "error: interrupted"
    notes = [line for line in told[1] if line.startswith("note: ")]
    assert notes == ["note: interrupted while undoing (Terminated): all of it was undone"]
    assert changes(before, xapi.snapshot()) == []


def test_a_third_signal_costs_the_step_that_it_interrupts_and_what_is_left_is_said(
    shell: Shell, info: str, xapi: Simulator
) -> None:
    """The same command again completes it, and a detach leaves nothing."""
    before = xapi.snapshot()
    create, unplug = xapi.faults.hang("VBD.create"), xapi.faults.hang("PBD.unplug", every=True)
    with running(shell, "attach", info, "web") as command:
        command.hit(TERM, at=create)
        command.hit(TERM, at=unplug)
        command.hit(INT, at=unplug, hits=2)
        status, lines = command.end()
    assert status == 143
    notes = [line for line in lines if line.startswith("note: ")]
    assert len(notes) == 1
    assert notes[0].startswith("note: not undone: plugged PBD OpaqueRef:")
    (pbd,) = xapi.db.refs("PBD")
    assert xapi.db.get("PBD", pbd, "currently_attached")
    xapi.faults.clear()
    create.release()
    wait_until_idle(xapi)
    assert shell("attach", info, "web").exit_code == 0
    assert shell("detach", info, "web").exit_code == 0
    assert changes(before, xapi.snapshot()) == []


def test_a_second_signal_while_it_is_looked_what_the_first_has_left(
    shell: Shell, info: str, xapi: Simulator
) -> None:
    """The command looks once more for what may have been made, and undoes it."""
    before = xapi.snapshot()
    create, look = xapi.faults.hang("VBD.create", answer=True), xapi.faults.hang("VBD.get_all_records_where")
    with running(shell, "attach", info, "web") as command:
        command.hit(TERM, at=create)
        command.hit(TERM, at=look)
        status, lines = command.end()
    create.release()
    look.release()
    wait_until_idle(xapi)
    assert (status, lines[0]) == (143, "error: interrupted")
    assert changes(before, xapi.snapshot()) == []


def test_a_second_signal_while_it_logs_out_takes_no_line_away(
    shell: Shell, info: str, xapi: Simulator
) -> None:
    xapi.faults.refuse("PBD.unplug", "SR_BACKEND_FAILURE_1200", "", "ordered", "")
    create, logout = xapi.faults.hang("VBD.create"), xapi.faults.hang("session.logout")
    with running(shell, "attach", info, "web") as command:
        command.hit(TERM, at=create)
        command.hit(HUP, at=logout)
        status, lines = command.end()
    create.release()
    logout.release()
    assert status == 143
    assert [line.split(" OpaqueRef")[0] for line in lines if line.startswith("note: ")] == [
        "note: not undone: plugged PBD"
    ]


def test_many_signals_at_any_time_leave_a_pool_that_the_same_command_completes(
    shell: Shell, info: str, xapi: Simulator
) -> None:
    """There is no traceback, no wrong disk, and one line for each thing that is left."""
    before = xapi.snapshot()
    xapi.faults.delay("*", 0.02, every=True)
    create = xapi.faults.hang("VBD.create")
    with running(shell, "attach", info, "web", "--json") as command:
        command.hit(TERM, at=create)
        for _ in range(200):
            if command.process.poll() is not None:
                break
            command.process.send_signal(TERM)
            time.sleep(0.005)
        status, lines = command.end()
    create.release()
    wait_until_idle(xapi)
    assert status == 143
    error = json.loads(lines[-1])["error"]
    assert (error["message"], error["exit_status"]) == ("interrupted", 143)
    left = changes(before, xapi.snapshot())
    told = [note for note in error["notes"] if note.startswith("not undone: ")]
    assert bool(left) <= bool(told), (left, error)
    xapi.faults.clear()
    assert shell("attach", info, "web").exit_code == 0
    assert shell("detach", info, "web").exit_code == 0
    assert changes(before, xapi.snapshot()) == []


@pytest.fixture
def handlers() -> Iterator[None]:
    """Put back the handlers of signals at the end."""
    was = {number: signal.getsignal(number) for number in (TERM, INT, HUP)}
    yield
    for number, handler in was.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("later", [TERM, INT, HUP])
def test_a_later_signal_is_heard_by_a_step_that_takes_back_and_not_between_the_steps(
    handlers: None, later: signal.Signals
) -> None:
    """Between the steps it would end the undo."""
    runs: list[str] = []

    def step() -> None:
        runs.append("begun")
        if len(runs) == 1:
            signal.raise_signal(later)
        runs.append("ended")

    undo = Undo()
    undo.did("did something", step)

    def end() -> None:
        try:
            signal.raise_signal(TERM)
        except KeyboardInterrupt as error:
            signal.raise_signal(later)
            undo.unwind(error)
            signal.raise_signal(later)
            raise

    with pytest.raises(failures.Terminated) as caught, app._ending_tidily(is_process=True):
        end()
    assert runs == ["begun", "begun", "ended"]
    assert caught.value.status == 143


def test_a_signal_that_was_ignored_stays_so_and_handlers_are_put_back(handlers: None) -> None:
    """nohup ignores SIGHUP, for example."""
    signal.signal(HUP, signal.SIG_IGN)
    was = signal.getsignal(INT)
    with app._ending_tidily(is_process=True):
        signal.raise_signal(HUP)
        assert signal.getsignal(INT) is not was
    assert signal.getsignal(INT) is was
    assert signal.getsignal(HUP) is signal.SIG_IGN


@pytest.mark.parametrize(("args", "hears"), [(None, False), (["list", "web"], True)])
def test_a_program_that_calls_a_command_hears_signals_afterwards_and_the_console_script_does_not(
    handlers: None, monkeypatch: pytest.MonkeyPatch, args: list[str] | None, hears: bool
) -> None:
    """The script is about to exit, with the status of the first signal."""
    was = signal.getsignal(TERM)

    monkeypatch.setattr("sys.argv", ["xenvol", "list", "web"])
    monkeypatch.setattr("click.Group.invoke", lambda group, context: signal.raise_signal(TERM))
    with pytest.raises(SystemExit) as caught:
        app.app.main(args)
    assert caught.value.code == 143
    assert signal.getsignal(TERM) is (was if hears else signal.SIG_IGN)


@pytest.mark.parametrize(
    ("command", "hint", "other"),
    [
        ("image", "begins anew", "xenvol detach"),
        ("sm", "sm audit --repair", "xenvol detach"),
        ("attach", "xenvol detach", "sweep"),
    ],
)
def test_what_is_said_after_ctrl_c_is_true_of_the_command(command: str, hint: str, other: str) -> None:
    try:
        raise failures.Interrupted(command) from KeyboardInterrupt()
    except failures.Interrupted as interrupted:
        said = failures.hint_of(interrupted)
    assert said is not None
    assert hint in said
    assert other not in said
