"""A gate holds calls: before they are served, and when their storage operation begins."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from xapi_client import PlainClient

from xenvol.simulator import Simulator
from xenvol.simulator.hooks import Incoming


class Doorman:
    """Records what passes, and the pool at that moment."""

    def __init__(self, look: Callable[[], object]) -> None:
        self.seen: list[tuple[str, str, object]] = []
        self._look = look

    def enter(self, call: Incoming) -> None:
        self.seen.append(("enter", call.method, self._look()))

    def in_storage(self, call: Incoming, sleep: Callable[[float], None]) -> None:
        self.seen.append(("storage", call.method, self._look()))

    def left(self, call: Incoming) -> None:
        self.seen.append(("left", call.method, self._look()))


def test_a_call_passes_the_gate_on_its_way_in_in_the_storage_and_out(xapi: Simulator) -> None:
    sr = xapi.add_sr("store", plugged=False)
    client = PlainClient(xapi)
    xapi.gate = gate = Doorman(lambda: list(xapi.db.row("SR", sr)["current_operations"].values()))
    client.call("PBD.plug", xapi.db.children(sr, "PBDs")[0])
    client.call("SR.get_uuid", sr)
    assert gate.seen == [
        ("enter", "PBD.plug", []),
        ("storage", "PBD.plug", ["plug"]),
        ("left", "PBD.plug", []),
        ("enter", "SR.get_uuid", []),
        ("left", "SR.get_uuid", []),
    ]


@pytest.mark.parametrize("fault", ["refuse", "lose_request"])
def test_a_call_that_goes_wrong_leaves_all_the_same(xapi: Simulator, fault: str) -> None:
    client = PlainClient(xapi)
    xapi.gate = gate = Doorman(lambda: None)
    more = {"error": ["NO"]} if fault == "refuse" else {}
    xapi.faults.order({"fault": fault, "method": "host.get_all", **more})
    client.call("host.get_all")
    assert [where for where, _, _ in gate.seen] == ["enter", "left"]


def test_while_a_call_is_held_others_are_served(xapi: Simulator) -> None:
    held, may_go = threading.Event(), threading.Event()

    class Holder(Doorman):
        def enter(self, call: Incoming) -> None:
            if call.method == "host.get_all":
                held.set()
                may_go.wait(60)

    slow, quick = PlainClient(xapi), PlainClient(xapi)
    xapi.gate = Holder(lambda: None)
    thread = threading.Thread(target=slow.call, args=("host.get_all",))
    thread.start()
    held.wait(60)
    assert quick.call("pool.get_all")[0] == "result"
    assert xapi.journal[0].outcome == "pending"
    may_go.set()
    thread.join()
    assert xapi.journal[0].outcome == "success"


def test_a_reset_takes_the_gate_away(xapi: Simulator) -> None:
    xapi.gate = gate = Doorman(lambda: None)
    xapi.reset()
    PlainClient(xapi).call("host.get_all")
    assert xapi.gate is None
    assert gate.seen == []
