"""A service that connects and then forks its workers: no answer is crossed, no lock is inherited, no session is ended.

Each test runs a script in a process of its own, which forks there: the tests' own process has threads that must not be
forked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios import arrange_target, iscsi
from xenvol.simulator import Simulator

ROOT = Path(__file__).parents[2]
LIMIT = 60  # seconds; a child that waits for a lock of the parent never returns

PREAMBLE = """
import json, os, sys, threading, time
import XenAPI
import xenvol
from xenvol.errors import XenVolError
from xenvol.session import Session
from xenvol.volumeops import VolumeOps

url, user, password = sys.argv[1:4]

def in_child(function):
    # the id of a child that is forked now, and where to read what the function returned in it
    reads, writes = os.pipe()
    child = os.fork()
    if child:
        os.close(writes)
        return child, reads
    status = 1
    try:
        os.write(writes, json.dumps(function()).encode())
        status = 0
    except BaseException as error:
        os.write(writes, json.dumps(f"{type(error).__name__}: {error}").encode())
    finally:
        os._exit(status)

def answer(child, reads):
    with open(reads) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text)

def plain():
    session = XenAPI.Session(url)
    session.login_with_password(user, password)
    return session
"""


def forking(xapi: Simulator, script: str) -> Any:
    """Return the last line that the script printed, read as JSON."""
    ran = subprocess.run(
        [
            *(sys.executable, "-c", PREAMBLE + textwrap.dedent(script)),
            *(xapi.url, xapi.user, xapi.password),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture
def names(xapi: Simulator) -> list[str]:
    """One VM for each worker, which asks for its name. Each answer is delayed, so that the requests overlap."""
    found = [f"vm{number}" for number in range(4)]
    for name in found:
        xapi.add_vm(name)
    xapi.faults.delay("VM.get_name_label", 0.05, every=True)
    return found


ASKING = """
def ask(session, name):
    ref = session.xenapi.VM.get_by_name_label(name)[0]
    return [session.xenapi.VM.get_name_label(ref) for _ in range(3)]

names = ["vm0", "vm1", "vm2", "vm3"]
"""


@pytest.mark.parametrize(
    "session",
    [
        "xenvol.connect(url, user, password, timeout=10)",
        "Session(plain())",
    ],
    ids=["ours", "plain"],
)
def test_every_worker_gets_the_answers_to_its_own_questions(
    xapi: Simulator, names: list[str], session: str
) -> None:
    """The parent makes calls at the same time."""
    answers = forking(
        xapi,
        ASKING
        + f"""
session = {session}
ask(session, "vm0")
children = [in_child(lambda name=name: ask(session, name)) for name in names[:3]]
print(json.dumps([ask(session, names[3]), *(answer(*child) for child in children)]))
""",
    )
    assert answers == [[names[3]] * 3, *([name] * 3 for name in names[:3])]


def test_a_wrapper_that_is_made_in_the_worker_over_the_parent_s_plain_session_is_safe(
    xapi: Simulator, names: list[str]
) -> None:
    """It inherits a connection that a thread of the parent is using; only the process id shows this."""
    xapi.faults.delay("VM.get_uuid", 1.0)
    answers = forking(
        xapi,
        ASKING
        + """
session = plain()
ref = session.xenapi.VM.get_all()[0]
thread = threading.Thread(target=session.xenapi.VM.get_uuid, args=[ref])
thread.start()
time.sleep(0.3)
def work(name):
    Session(session).xenapi.VM.add_tags(ref, name)  # a write, which is not sent again when it has no answer
    return ask(Session(session), name)
children = [in_child(lambda name=name: work(name)) for name in names]
answers = [answer(*child) for child in children]
thread.join()
print(json.dumps(answers))
""",
    )
    assert answers == [[name] * 3 for name in names]


@pytest.mark.parametrize("session", ["xenvol.connect(url, user, password, timeout=10)", "Session(plain())"])
def test_a_fork_while_another_thread_is_in_a_call_neither_waits_for_it_nor_gets_its_answer(
    xapi: Simulator, names: list[str], session: str
) -> None:
    """The thread does not exist in the child, and its lock is never released there."""
    xapi.faults.delay("VM.get_uuid", 1.0)
    answers = forking(
        xapi,
        ASKING
        + f"""
session = {session}
ref = session.xenapi.VM.get_by_name_label("vm0")[0]
got = []
thread = threading.Thread(target=lambda: got.append(session.xenapi.VM.get_uuid(ref)))
thread.start()
time.sleep(0.3)
began = time.monotonic()
answers = answer(*in_child(lambda: ask(session, "vm1")))
took = time.monotonic() - began
thread.join()
print(json.dumps([answers, got == [session.xenapi.VM.get_record(ref)["uuid"]], took < 0.7]))
""",
    )
    assert answers == [["vm1"] * 3, True, True]


def test_a_lock_that_a_thread_held_at_the_fork_is_free_in_the_child(
    xapi: Simulator, names: list[str]
) -> None:
    """The test holds the lock of the pool, as in a failover, and that of the clients."""
    answers = forking(
        xapi,
        ASKING
        + """
session = xenvol.connect(url, user, password, timeout=10)
client = session._wrapped
is_held, is_over = threading.Event(), threading.Event()
def hold():
    with client._lock, client._clients._lock:
        is_held.set()
        is_over.wait()
threading.Thread(target=hold, daemon=True).start()
is_held.wait()
def work():
    names = ask(session, "vm1")
    session.close()
    return names
child = in_child(work)
print(json.dumps(answer(*child)))
is_over.set()
""",
    )
    assert answers == ["vm1"] * 3


def test_a_worker_ends_no_session_but_its_own(xapi: Simulator, names: list[str]) -> None:
    """It does not log out the parent's session, but the one that it began after the parent had logged out."""
    known = len(xapi.journal.logins)
    answers = forking(
        xapi,
        ASKING
        + """
outcomes = []
session = xenvol.connect(url, user, password, timeout=10, on_call=lambda record: outcomes.append(record.call))
def leave():
    with session:
        ask(session, "vm0")
    return ["session.logout" in outcomes, repr(session)]
left = answer(*in_child(leave))
still = ask(session, "vm1")
ready, go = os.pipe(), os.pipe()
def go_on():
    os.write(ready[1], b"x")
    os.read(go[0], 1)
    with session:
        return ask(session, "vm2")
child = in_child(go_on)
os.read(ready[0], 1)
session.close()
os.write(go[1], b"x")
print(json.dumps([left, still, answer(*child)]))
""",
    )
    (is_logout_told, shown), *asked = answers
    assert asked == [["vm1"] * 3, ["vm2"] * 3]
    assert not is_logout_told
    assert "closed" in shown
    made = xapi.journal.logins.methods()[known:]
    assert made.count("session.login_with_password") == made.count("session.logout") == 2


def test_workers_attach_their_own_volumes_through_the_ops_of_their_parent(xapi: Simulator) -> None:
    """Each volume is in its own VM."""
    arrange_target(xapi)
    for number in range(3):
        xapi.add_vm(f"vm{number}")
    xapi.faults.delay("*", 0.02, every=True)
    infos = [{**iscsi(number), "volume_id": f"V{number}"} for number in range(3)]
    answers = forking(
        xapi,
        f"""
        infos = json.loads({json.dumps(infos)!r})
        session = xenvol.connect(url, user, password, timeout=20)
        ops = VolumeOps(session)
        def attach(n):
            ops.attach_volume(infos[n], f"vm{{n}}")
            return [volume.volume_id for volume in ops.list_volumes(f"vm{{n}}")]
        children = [in_child(lambda n=n: attach(n)) for n in range(3)]
        print(json.dumps([answer(*child) for child in children]))
        """,
    )
    assert answers == [["V0"], ["V1"], ["V2"]]
