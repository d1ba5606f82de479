"""First attaches of one target, many at once: prints how much longer the slowest takes than one alone.

    python benchmarks/first_attaches.py [--plugs 0.05 0.5 2] [--counts 2 8 16] [--hosts 1 2]

Each VM gets another LUN, in a session of its own, on a simulated v24.16.0, which lets a call that conflicts with
another one sleep 1 to 20 seconds. PBD.plug takes as long as is said. Then all are detached at once.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import xenvol
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps

IQN, PORTAL, GIB = "iqn.2010-10.org.openstack:volume-a", "10.0.0.1:3260", 1 << 30
ALMOST_NONE = 1e-9
"""Of the time that real storage takes; the orders of delays stand for it. Conflicting calls sleep all the same."""


def measured(count: int, hosts: int, plug: float) -> tuple[float, float, int]:
    """Seconds of the slowest attach and detach of so many, and the calls that had to wait in the pool."""
    with Simulator(version="24.16.0", hosts=hosts, storage_delays=ALMOST_NONE) as xapi:
        xapi.storage.san.add_target(IQN, PORTAL)
        refs = xapi.db.refs("host")
        for number in range(count):
            xapi.storage.san.add_lun(IQN, number, GIB)
            xapi.add_vm(f"vm{number}", resident_on=refs[number % hosts])
        for call in ("PBD.plug", "PBD.unplug"):
            xapi.faults.delay(call, plug, inside=True, every=True)
        sessions = [xenvol.connect(xapi.url, xapi.user, xapi.password) for _ in range(count)]
        attach = slowest(count, lambda n: VolumeOps(sessions[n]).attach_volume(connection_info(n), f"vm{n}"))
        detach = slowest(count, lambda n: VolumeOps(sessions[n]).detach_volume(connection_info(n), f"vm{n}"))
        for session in sessions:
            session.close()
        return attach, detach, len(xapi.journal.waits())


def slowest(count: int, act: Callable[[int], object]) -> float:
    barrier = threading.Barrier(count)

    def timed(number: int) -> float:
        barrier.wait()
        began = time.monotonic()
        act(number)
        return time.monotonic() - began

    with ThreadPoolExecutor(count) as executor:
        return max(executor.map(timed, range(count)))


def connection_info(lun: int) -> dict[str, object]:
    data = {"target_iqn": IQN, "target_portal": PORTAL, "target_lun": lun}
    return {"driver_volume_type": "iscsi", "data": data}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "--plugs", type=float, nargs="+", default=[0.05, 0.5, 2.0], help="seconds of PBD.plug"
    )
    parser.add_argument("--counts", type=int, nargs="+", default=[2, 8, 16])
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    print("| hosts | plug | at once | attach | one alone | ratio | detach | one alone | ratio | waits |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for hosts in options.hosts:
        for plug in options.plugs:
            alone = measured(1, hosts, plug)
            for count in options.counts:
                attach, detach, waits = measured(count, hosts, plug)
                times = [
                    f"{both:.2f} s | {one:.2f} s | {both / one:.1f}"
                    for both, one in zip((attach, detach), alone[:2], strict=True)
                ]
                print(f"| {hosts} | {plug} s | {count} | {' | '.join(times)} | {waits} |", flush=True)


if __name__ == "__main__":
    main()
