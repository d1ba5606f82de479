"""What the simulator's calls cost among 100 objects and among 100,000: prints the ratios. Run it by hand.

    python benchmarks/simulator_scale.py [--few 100] [--many 100000] [--clients 64]

Each call goes over HTTP on a kept connection, in both pools by turns, so that a busy machine disturbs both alike;
what counts is the median. Then all clients call at once, and then some of them wait for events while others change
things.
"""

from __future__ import annotations

import argparse
import http.client
import threading
import time
import xmlrpc.client
from collections.abc import Callable
from statistics import median
from typing import Any

from xenvol.simulator import Simulator

ROUNDS = 60


class Client:
    """One kept connection, logged in."""

    def __init__(self, simulator: Simulator) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", simulator.port, timeout=120)
        self.session = self.send("session.login_with_password", "root", "secret", "1.0", "benchmark")

    def send(self, method: str, *params: Any) -> Any:
        self._connection.request("POST", "/", xmlrpc.client.dumps(params, method))
        ((answer,), _) = xmlrpc.client.loads(self._connection.getresponse().read())
        if not isinstance(answer, dict) or answer["Status"] != "Success":
            raise RuntimeError(f"{method}: {answer}")
        return answer["Value"]

    def __call__(self, method: str, *params: Any) -> Any:
        return self.send(method, self.session, *params)


class Pool:
    """One VM and an SR with ten disks among very many others."""

    def __init__(self, count: int) -> None:
        self.count = count
        start = time.monotonic()
        self.simulator = Simulator()
        self.simulator.start()
        self.sr = self.simulator.add_sr("mine", type="dummy")
        self.vdis = self.simulator.add_vdis(self.sr, 10, "mine")
        self.vm = self.simulator.add_vm("mine", kind="pv", power_state="Running")
        self.simulator.add_vdis(self.simulator.add_sr("big", type="dummy"), count * 7 // 10, "other")
        self.simulator.add_srs(count // 10, "sr", type="dummy")
        self.simulator.add_vms(count // 20, "vm")
        self.client = Client(self.simulator)
        self.uuid = self.client("VDI.get_uuid", self.vdis[0])
        self.host = self.simulator.xapi.master
        self.seconds = time.monotonic() - start

    @property
    def objects(self) -> int:
        return sum(len(rows) for rows in self.simulator.snapshot().objects.values())


def attach_and_detach(pool: Pool) -> None:
    record = {
        "VM": pool.vm, "VDI": pool.vdis[1], "userdevice": "autodetect", "bootable": False, "mode": "RW",
        "type": "Disk", "empty": False, "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {},
    }  # fmt: skip  # because the keys are of no interest
    vbd = pool.client("VBD.create", record)
    for verb in ("plug", "unplug", "destroy"):
        pool.client(f"VBD.{verb}", vbd)


def introduce_and_forget(pool: Pool) -> None:
    sr = pool.client("SR.introduce", "", "new", "", "dummy", "user", True, {})
    pbd = pool.client("PBD.create", {"SR": sr, "host": pool.host, "device_config": {}})
    pool.client("PBD.plug", pbd)
    pool.client("PBD.unplug", pbd)
    pool.client("SR.forget", sr)


CALLS: dict[str, Callable[[Pool], object]] = {
    "VDI.get_record": lambda pool: pool.client("VDI.get_record", pool.vdis[0]),
    "VDI.get_by_uuid": lambda pool: pool.client("VDI.get_by_uuid", pool.uuid),
    "VDI.get_by_name_label": lambda pool: pool.client("VDI.get_by_name_label", "mine-3"),
    "VDI.set_name_description": lambda pool: pool.client("VDI.set_name_description", pool.vdis[0], "x"),
    "VM.set_other_config": lambda pool: pool.client("VM.set_other_config", pool.vm, {"k": "v"}),
    "VDI where uuid": lambda pool: pool.client("VDI.get_all_records_where", f'field "uuid" = "{pool.uuid}"'),
    "VDI where SR": lambda pool: pool.client("VDI.get_all_records_where", f'field "SR" = "{pool.sr}"'),
    "event.from one object": lambda pool: pool.client("event.from", [f"vdi/{pool.vdis[0]}"], "", 0.0),
    "attach, detach (4 calls)": attach_and_detach,
    "introduce, forget (5 calls)": introduce_and_forget,
}


def compare(few: Pool, many: Pool) -> None:
    print(f"\n{'':30} {few.count:>12,} {many.count:>12,}   ratio")
    for name, call in CALLS.items():
        taken: dict[Pool, list[float]] = {few: [], many: []}
        for _ in range(ROUNDS):
            for pool, seconds in taken.items():
                start = time.perf_counter()
                call(pool)
                seconds.append(time.perf_counter() - start)
        small, large = (median(seconds) * 1000 for seconds in taken.values())
        print(f"{name:30} {small:9.2f} ms {large:9.2f} ms {large / small:7.2f}")


def crowd(pool: Pool, count: int) -> None:
    """All clients read and write at once, each on a connection of its own."""
    clients = [Client(pool.simulator) for _ in range(count)]
    per_client = 20

    def work(client: Client) -> None:
        for _ in range(per_client):
            client("VDI.get_record", pool.vdis[0])
            client("VM.set_name_description", pool.vm, client.session)

    total = 2 * per_client * count
    print(f"{count} clients at once: {total / in_parallel(work, clients):,.0f} calls/s")


def audience(pool: Pool, count: int) -> None:
    """What a change costs while nobody, while everybody waits for events."""
    writer = Client(pool.simulator)

    def write(times: int) -> float:
        seconds = []
        for number in range(times):
            start = time.perf_counter()
            writer("VDI.set_name_description", pool.vdis[0], str(number))
            seconds.append(time.perf_counter() - start)
        return median(seconds) * 1000

    alone = write(300)
    stop = threading.Event()

    def listen(client: Client, classes: list[str]) -> None:
        token = client("event.from", classes, "", 0.0)["token"]
        while not stop.is_set():
            token = client("event.from", classes, token, 5.0)["token"]

    for what, classes in {"something else": ["pool"], "just this": ["vdi/" + pool.vdis[0]]}.items():
        listeners = [Client(pool.simulator) for _ in range(count)]
        threads = [threading.Thread(target=listen, args=(client, classes)) for client in listeners]
        for thread in threads:
            thread.start()
        while pool.simulator.xapi.bell.waiters < count:
            time.sleep(0.05)
        watched = write(300)
        stop.set()
        for thread in threads:
            thread.join()
        stop.clear()
        print(f"a change, {count} clients wait for {what}: {watched:.2f} ms; alone {alone:.2f} ms")


def in_parallel(work: Callable[[Client], None], clients: list[Client]) -> float:
    threads = [threading.Thread(target=work, args=(client,)) for client in clients]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=64)
    options = parser.parse_args()
    few, many = Pool(options.few), Pool(options.many)
    print(f"{few.objects:,} objects, and {many.objects:,} made in {many.seconds:.1f} s")
    compare(few, many)
    print()
    crowd(many, options.clients)
    audience(many, options.clients)
    few.simulator.close()
    many.simulator.close()


if __name__ == "__main__":
    main()
