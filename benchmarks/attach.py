"""Attach and detach of an iSCSI LUN, beside a script of the bare XenAPI client that makes the very same calls.

    python benchmarks/attach.py [--rounds 40]

The simulator runs in a process of its own, so the CPU time of this process is the client's alone. Both sides take turns
in one run, warm; the median counts. Columns: calls of the pair, CPU of the pair in milliseconds, their ratio. Rows: 1,
10 and 1000 LUNs on the target, CHAP, and 200 distributions installed beside xenvol (on sys.path, without a driver).
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import XenAPI

import xenvol
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps

IQN, PORTAL, GIB = "iqn.2010-10.org.openstack:volume-a", "10.0.0.1:3260", 1 << 30
CHAP = ("user", "correct horse battery")


def serve(pipe: Connection, luns: int, chap: tuple[str, str] | None) -> None:
    """The simulator's process: answers each message with the methods called since the last one."""
    with Simulator() as xapi:
        xapi.storage.san.add_target(IQN, PORTAL, chap=chap)
        for number in range(luns):
            xapi.storage.san.add_lun(IQN, number, GIB)
        vm = xapi.add_vm("web")
        pipe.send((xapi.url, xapi.user, xapi.password, xapi.db.get("VM", vm, "uuid")))
        while True:
            with xapi.journal.recording() as recording:
                if pipe.recv() == "end":
                    return
            pipe.send(recording.methods())


@contextmanager
def simulator(luns: int, chap: tuple[str, str] | None) -> Iterator[tuple[Connection, tuple[str, ...]]]:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(there, luns, chap))
    process.start()
    try:
        yield here, here.recv()
    finally:
        here.send("end")
        process.join()


class Recorder:
    """A session whose calls are recorded, with their parameters and answers, as the wire has them."""

    def __init__(self, session: Any) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], Any]] = []
        self._session = session

    @property
    def xenapi(self) -> Recorder:
        return self

    def __getattr__(self, name: str) -> Any:
        return _Method(self, name)

    def call(self, name: str, params: tuple[Any, ...]) -> Any:
        answer = _bare(self._session, name, params)
        self.calls.append((name, params, answer))
        return answer


class _Method:
    def __init__(self, recorder: Recorder, name: str) -> None:
        self._recorder, self._name = recorder, name

    def __getattr__(self, name: str) -> _Method:
        return _Method(self._recorder, f"{self._name}.{name}")

    def __call__(self, *params: Any) -> Any:
        return self._recorder.call(self._name, params)


def _bare(session: Any, name: str, params: tuple[Any, ...]) -> Any:
    cls, _, method = name.partition(".")
    return getattr(getattr(session.xenapi, cls), method)(*params)


def replay(session: Any, calls: list[tuple[str, tuple[Any, ...], Any]]) -> None:
    """Send recorded calls by the bare client; references that xapi made up are replaced by the new ones."""
    new: dict[str, str] = {}
    for name, params, answer in calls:
        now = _bare(session, name, _with(new, params))
        if isinstance(answer, str) and answer.startswith("OpaqueRef:"):
            new[answer] = now
        elif name.endswith("get_all_records_where"):
            by_uuid = {record["uuid"]: ref for ref, record in now.items()}
            new |= {
                ref: by_uuid[record["uuid"]] for ref, record in answer.items() if record["uuid"] in by_uuid
            }


def _with(new: dict[str, str], value: Any) -> Any:
    if isinstance(value, str):
        for old, ref in new.items():
            value = value.replace(old, ref)
        return value
    if isinstance(value, dict):
        return {key: _with(new, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_with(new, item) for item in value)
    return value


def cpu_ms(act: Callable[[], object]) -> float:
    began = time.process_time()
    act()
    return (time.process_time() - began) * 1000


@contextmanager
def distributions(count: int) -> Iterator[None]:
    """So many packages more on sys.path, each with metadata and without an entry point."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            metadata = Path(folder, f"other_{number}-1.0.dist-info")
            metadata.mkdir()
            (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: other-{number}\nVersion: 1.0\n")
            (metadata / "entry_points.txt").write_text("[console_scripts]\nother = other:main\n")
        sys.path.append(folder)
        try:
            yield
        finally:
            sys.path.remove(folder)


def measured(rounds: int, luns: int = 1, chap: tuple[str, str] | None = None) -> tuple[int, float, float]:
    """Calls of a pair, and the medians of the CPU that xenvol and the bare client take for it, in ms."""
    with simulator(luns, chap) as (pipe, (url, user, password, vm)):
        info = connection_info(luns - 1, chap)
        bare = XenAPI.Session(url)
        bare.login_with_password(user, password)
        recorder = Recorder(bare)

        def pair(ops: VolumeOps) -> None:
            ops.attach_volume(info, vm)
            ops.detach_volume(info, vm)

        pair(VolumeOps(recorder))  # the host's first use of the target makes more of the storage's own
        recorder.calls.clear()
        with xenvol.connect(url, user, password) as session:
            ops = VolumeOps(session)
            pair(ops)
            pipe.send("next")
            pipe.recv()
            pair(ops)
            pipe.send("next")
            methods = pipe.recv()
            pair(VolumeOps(recorder))
            wanted = [call for call in recorder.calls if call[0] in methods]
            replay(bare, wanted)
            pipe.send("next")
            sent = pipe.recv()[-len(wanted) :]
            if sent != methods:
                raise SystemExit(f"the script makes other calls:\n{sent}\n{methods}")
            ours, theirs = [], []
            for _ in range(rounds):
                ours.append(cpu_ms(lambda: pair(ops)))
                theirs.append(cpu_ms(lambda: replay(bare, wanted)))
        bare.xenapi.session.logout()
        bare("close")()
    return len(methods), statistics.median(ours), statistics.median(theirs)


def connection_info(lun: int, chap: tuple[str, str] | None) -> dict[str, object]:
    data: dict[str, object] = {"target_iqn": IQN, "target_portal": PORTAL, "target_lun": lun}
    if chap is not None:
        data |= {"auth_method": "CHAP", "auth_username": chap[0], "auth_password": chap[1]}
    return {"driver_volume_type": "iscsi", "data": data, "serial": "7b1c1f0e-52f0-4d3e-9b0a-0c1f4a5e6d7c"}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    print("| | calls | xenvol | bare XenAPI | ratio |")
    print("| --- | --- | --- | --- | --- |")

    def row(what: str, figures: tuple[int, float, float]) -> None:
        calls, ours, theirs = figures
        print(f"| {what} | {calls} | {ours:.1f} ms | {theirs:.1f} ms | {ours / theirs:.2f} |", flush=True)

    for luns in (1, 10, 1000):
        row(f"{luns} LUNs on the target", measured(rounds, luns))
    row("1 LUN, with CHAP", measured(rounds, chap=CHAP))
    with distributions(200):
        row("1 LUN, 200 distributions installed", measured(rounds))


if __name__ == "__main__":
    main()
