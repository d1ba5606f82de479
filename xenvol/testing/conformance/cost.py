"""The requirement on cost: the number of calls is the same in a crowded pool as in an empty one."""

from __future__ import annotations

from xenvol.testing import sweep
from xenvol.testing.conformance.bench import Bench
from xenvol.testing.conformance.kit import Kit
from xenvol.testing.conformance.requirement import listed, require

_FEW, _MANY = 2, 40


class Cost(Kit):
    def test_the_calls_are_as_many_whatever_else_is_in_the_pool(self, bench: Bench) -> None:
        """The pool has SRs of the same type elsewhere, SRs of another type, VMs and disks: none is walked over."""
        few, many = (self._calls(bench, count) for count in (_FEW, _MANY))
        require(
            len(few) == len(many),
            f"with {_FEW} of each other object in the pool connect and disconnect took {len(few)} calls, with {_MANY} "
            f"{len(many)}:\n{listed(sorted(set(many)))}\n"
            "ask for all that is needed in one call: view.find (get_all_records_where) or view.read (event.from)",
        )

    def _calls(self, bench: Bench, count: int) -> list[str]:
        sr_ref = bench.sr_of(bench.begin().connect())
        sr = bench.xapi.db.record("SR", sr_ref)
        pbd = bench.xapi.db.record("PBD", sr["PBDs"][0])
        elsewhere = {
            key: value if value.isdecimal() else f"{value}-elsewhere"
            for key, value in pbd["device_config"].items()
            if not key.endswith("_secret")
        }

        def crowded() -> Bench:
            xapi = bench.begin().xapi
            xapi.add_srs(count, "elsewhere", type=sr["type"], device_config=elsewhere, plugged=False)
            vdis = xapi.add_vdis(xapi.add_sr("disks"), count)
            xapi.add_srs(count, "others", plugged=False)
            xapi.add_vbds(xapi.add_vm("a VM"), vdis)
            xapi.add_vms(count)
            return bench

        def connected() -> Bench:
            crowded().connect()
            return bench

        connect = sweep.calls_of(bench.xapi, crowded, Bench.connect)
        return connect + sweep.calls_of(bench.xapi, connected, Bench.disconnect)
