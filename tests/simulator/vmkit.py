"""A XenAPI client for tests of rules, and the objects that most of them begin with; everything goes over the wire."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
import xmlrpc.client
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import XenAPI

from xenvol.simulator import Simulator

NULL = "OpaqueRef:NULL"


class Client:
    """``client("VBD.plug", vbd)`` is the result; ``client.refused("VBD.plug", vbd)`` is the ErrorDescription."""

    def __init__(self, simulator: Simulator) -> None:
        self._session = XenAPI.Session(simulator.url, ignore_ssl=True)
        self._session.login_with_password(simulator.user, simulator.password, "1.0", "test")
        self._simulator = simulator
        self._others: list[Client] = []

    def __call__(self, method: str, *arguments: Any) -> Any:
        return self._session.xenapi_request(method, arguments)

    def refused(self, method: str, *arguments: Any) -> list[str]:
        with pytest.raises(XenAPI.Failure) as caught:
            self(method, *arguments)
        return list(caught.value.details)

    def refused_in_json(self, method: str, *arguments: Any) -> list[str]:
        """Call with values that XML-RPC cannot send, like the empty key of a map, and return the ErrorDescription."""
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": [self._session.handle, *arguments]}
        with urllib.request.urlopen(f"{self._simulator.url}/jsonrpc", json.dumps(call).encode()) as answer:
            error = json.load(answer)["error"]
        return [error["message"], *error["data"]]

    def another(self) -> Client:
        """Return a client with a connection of its own, for another thread; closed with this one."""
        self._others.append(Client(self._simulator))
        return self._others[-1]

    def close(self) -> None:
        for other in self._others:
            other.close()
        self._session.logout()
        xmlrpc.client.ServerProxy.__call__(self._session, "close")()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def vbd_record(vm: str, vdi: str | None, userdevice: str = "autodetect", **fields: Any) -> dict[str, Any]:
    """Return a record for VBD.create."""
    record = {
        "VM": vm,
        "VDI": vdi or NULL,
        "userdevice": userdevice,
        "bootable": False,
        "mode": "RW",
        "type": "Disk",
        "empty": vdi is None,
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
    }
    return {**record, **fields}


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def in_background(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def client(xapi: Simulator) -> Iterator[Client]:
    with Client(xapi) as client:
        yield client


@pytest.fixture
def sr(xapi: Simulator) -> str:
    """A plugged SR whose disks are rows only."""
    return xapi.add_sr(type="dummy")


@pytest.fixture
def disk(xapi: Simulator, sr: str) -> str:
    return xapi.add_vdi(sr)


@pytest.fixture
def hosts(client: Client) -> list[str]:
    """The hosts by name; the first is the master."""
    names = {client("host.get_name_label", host): host for host in client("host.get_all")}
    return [names[name] for name in sorted(names)]
