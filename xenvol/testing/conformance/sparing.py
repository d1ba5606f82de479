"""The requirements on storage in use: a VM's disk, an older SR, another volume of the same storage."""

from __future__ import annotations

import pytest

from xenvol.testing.conformance.bench import Bench
from xenvol.testing.conformance.kit import Kit
from xenvol.testing.conformance.requirement import must_pass, require

_SPARE = (
    "before an SR is unplugged and forgotten, ask xapi for the VBDs on its VDIs, plugged or not, of any VM "
    "(storage.release_sr does so)"
)


class Sparing(Kit):
    @pytest.mark.parametrize("power_state", ["Running", "Halted"])
    def test_disconnect_spares_a_volume_that_a_vm_uses(self, bench: Bench, power_state: str) -> None:
        """A halted VM needs its disk when it starts; after the VM has released it, disconnect leaves nothing."""
        vm = bench.xapi.add_vm("another client's VM", power_state=power_state)
        bench.remember()
        before = bench.before
        vbd_ref = bench.xapi.add_vbd(vm, bench.connect())
        bench.remember()
        with must_pass(f"a VM, {power_state}, uses the volume, and disconnect_volume was called", _SPARE):
            bench.disconnect()
        bench.check_nothing_left(
            f"a VM, {power_state}, uses the volume: after disconnect_volume, which must spare it", _SPARE
        )
        if power_state == "Running":
            bench.session.call("VBD.unplug", vbd_ref)
        bench.session.call("VBD.destroy", vbd_ref)
        bench.disconnect()
        bench.before = before
        bench.check_nothing_left("after the VM released the volume and disconnect_volume was called", _SPARE)

    def test_an_sr_that_was_there_before_stays(self, bench: Bench) -> None:
        """An operator's SR shows the volume: the driver uses the SR, and never removes it."""
        self._introduce_as_operator(bench)
        remedy = (
            "use the SR that shows the volume, even another client's, and forget only an SR with your mark "
            "(storage.connect_sr and storage.release_sr do so)"
        )
        with must_pass("another client's SR already shows the volume, and connect_volume was called", remedy):
            bench.check_reachable(bench.connect(), bench.hosts)
        with must_pass("the SR was there before, and disconnect_volume was called", remedy):
            bench.disconnect()
        bench.check_nothing_left("the SR was there before: after connect and disconnect_volume", remedy)

        driver = bench.driver()
        driver.connect_volume(bench.data)
        driver.rollback(bench.data)
        bench.check_nothing_left("the SR was there before: after connect and rollback", remedy)

    def test_disconnect_spares_another_volume_of_the_same_storage(self, bench: Bench) -> None:
        """The last volume that is disconnected removes what both shared."""
        vm = bench.xapi.add_vm("another client's VM")
        other = {**bench.connection_info, "data": dict(self.arrange_another(bench.xapi))}
        bench.remember()
        ops = bench.volume_ops()
        with must_pass("two volumes of one storage were connected", _SPARE):
            bench.connect()
            attachment = ops.attach_volume(other, vm)
        with must_pass("one of two volumes of one storage was disconnected", _SPARE):
            bench.disconnect()
        vbd = bench.xapi.db.record("VBD", attachment.vbd_ref) if bench.xapi.db.refs("VBD") else {}
        require(
            vbd.get("currently_attached"),
            f"a VM uses another volume of the storage, and disconnect_volume removed it: {_SPARE}",
        )
        bench.check_reachable(attachment.vdi_ref, bench.hosts[:1])
        with must_pass("the other of two volumes of one storage was disconnected", _SPARE):
            ops.detach_volume(other, vm)
        bench.check_nothing_left("after both volumes were disconnected", _SPARE)

    def _introduce_as_operator(self, bench: Bench) -> None:
        """Introduce the SR that the driver would introduce, without its marks, as an operator who is faster."""
        db = bench.xapi.db
        sr_ref = bench.sr_of(bench.connect())
        sr = db.record("SR", sr_ref)
        device_config = dict(db.get("PBD", db.children(sr_ref, "PBDs")[0], "device_config"))
        for key in [key for key in device_config if key.endswith("_secret")]:
            secret_ref = db.by_uuid("secret", device_config.pop(key))
            assert secret_ref is not None
            device_config[key.removesuffix("_secret")] = db.get("secret", secret_ref, "value")
        bench.begin()
        bench.xapi.add_sr(
            "an operator's",
            type=sr["type"],
            sr_uuid=sr["uuid"],
            device_config=device_config,
            content_type=sr["content_type"],
            shared=sr["shared"],
            sm_config={key: value for key, value in sr["sm_config"].items() if key not in self.marks},
        )
        bench.remember()
