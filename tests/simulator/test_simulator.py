"""A simulator is a whole pool on the loopback, cheap to start, and in its initial state after a reset."""

from __future__ import annotations

import socket
import ssl
import time
import urllib.request
import xmlrpc.client

import pytest
import XenAPI
from xapi_client import PlainClient, log_in

from xenvol.simulator import Simulator
from xenvol.simulator.bootstrap import RECORDED_SM_TYPES
from xenvol.simulator.sm.worldfile import WorldError
from xenvol.simulator.wire import Caller


class TestStart:
    def test_the_official_client_logs_in_as_the_docstring_says(self) -> None:
        with Simulator() as xapi:
            session = XenAPI.Session(xapi.url)
            session.login_with_password("root", "secret")
            assert len(session.xenapi.host.get_all()) == 1
            session("close")()

    def test_a_hundred_simulators_start_quickly(self) -> None:
        """In seconds of CPU, because a clock would also count other processes."""
        Simulator().close()
        start = time.process_time()
        for _ in range(100):
            with Simulator():
                pass
        assert (time.process_time() - start) / 100 < 0.05

    def test_before_the_start_there_is_no_address(self) -> None:
        xapi = Simulator()
        with pytest.raises(RuntimeError, match="not started"):
            xapi.url
        assert repr(xapi) == "<Simulator of xapi 24.16.0, not started>"
        xapi.close()

    def test_starting_and_closing_twice_is_like_once(self) -> None:
        xapi = Simulator()
        xapi.start()
        url = xapi.url
        xapi.start()
        assert xapi.url == url
        assert url in repr(xapi)
        xapi.close()
        xapi.close()

    def test_a_taken_port_is_an_error(self) -> None:
        with Simulator() as xapi, pytest.raises(OSError, match="in use"), Simulator(port=xapi.port):
            pass

    def test_where_one_host_cannot_listen_none_does(self) -> None:
        with socket.create_server(("127.0.0.2", 0)) as taken:
            port = taken.getsockname()[1]
            xapi = Simulator(hosts=2, port=port)
            with pytest.raises(OSError, match="in use"):
                xapi.start()
            assert Caller(f"http://127.0.0.1:{port}").call("xmlrpc", "host.get_all", ["s"]).kind == "nothing"
            xapi.close()

    def test_nothing_listens_after_the_end(self) -> None:
        with Simulator() as xapi:
            url = xapi.url
        assert Caller(url).call("xmlrpc", "host.get_all", ["s"]).kind == "nothing"

    def test_the_storage_goes_with_the_simulator(self) -> None:
        with Simulator() as xapi:
            directory = xapi.storage.directory
            assert directory.exists()
        assert not directory.exists()

    def test_the_data_of_a_failed_start_is_removed(self) -> None:
        with pytest.raises(WorldError):
            Simulator(world={"hosts": [{"name": "h"}], "storage": {"nonsense": 1}})

    def test_what_is_no_release_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"'8\.3' is not a release of xapi"):
            Simulator("8.3")

    def test_a_world_and_a_number_of_hosts_do_not_go_together(self) -> None:
        with pytest.raises(ValueError, match="hosts: a world has its own"):
            Simulator(world="demo", hosts=2)

    @pytest.mark.xapi(version="v25.33.1")
    def test_the_release_of_xapi_can_be_chosen(self, xapi: Simulator) -> None:
        assert xapi.version == "25.33.1"
        host = xapi.db.refs("host")[0]
        assert "ssh_enabled" in xapi.db.record("host", host)

    @pytest.mark.xapi(tls=True)
    def test_over_tls_the_certificate_can_be_verified(self, xapi: Simulator) -> None:
        assert xapi.url.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=xapi.ca_file)
        with urllib.request.urlopen(f"{xapi.url}/simulator", context=context) as answer:
            assert answer.status == 200

    @pytest.mark.xapi(tls=True)
    def test_over_tls_the_official_client_logs_in(self, xapi: Simulator) -> None:
        with log_in(xapi) as xenapi:
            assert len(xenapi.pool.get_all()) == 1


class TestPool:
    @pytest.mark.xapi(hosts=3)
    def test_every_host_has_an_address_of_its_own_and_the_same_port(self, xapi: Simulator) -> None:
        assert xapi.urls == [f"http://127.0.0.{n}:{xapi.port}" for n in (1, 2, 3)]
        with log_in(xapi) as xenapi:
            records = xenapi.host.get_all_records().values()
            assert {r["address"] for r in records} == {"127.0.0.1", "127.0.0.2", "127.0.0.3"}
            assert all(r["enabled"] for r in records)

    @pytest.mark.xapi(hosts=3)
    def test_where_a_member_sends_a_client_the_master_is(self, xapi: Simulator) -> None:
        session = XenAPI.Session(xapi.urls[2])
        with pytest.raises(XenAPI.Failure) as refused:
            session.login_with_password("root", "secret")
        session("close")()
        code, address = refused.value.details
        assert code == "HOST_IS_SLAVE"
        with log_in(xapi, f"http://{address}:{xapi.port}") as xenapi:
            assert len(xenapi.host.get_all()) == 3

    def test_each_host_has_its_control_domain(self, xapi: Simulator) -> None:
        xapi.add_host()
        for host in xapi.db.refs("host"):
            dom0 = xapi.db.row("host", host)["control_domain"]
            assert xapi.db.row("VM", dom0)["resident_on"] == host
            assert xapi.db.row("VM", dom0)["is_control_domain"]

    def test_a_host_that_joins_later_listens_at_once(self, xapi: Simulator) -> None:
        sr = xapi.add_sr("shared")
        host = xapi.add_host("late")
        assert xapi.urls[1] == f"http://127.0.0.2:{xapi.port}"
        answer = Caller(xapi.urls[1]).call("xmlrpc", "session.login_with_password", ["root", "secret"])
        assert answer.value[0] == "HOST_IS_SLAVE"
        pbds = xapi.db.children(sr, "PBDs")
        assert {xapi.db.row("PBD", pbd)["host"] for pbd in pbds} == set(xapi.db.refs("host"))
        assert [xapi.db.row("PBD", pbd)["currently_attached"] for pbd in pbds] == [True, False]
        assert xapi.find_host("late") == host

    def test_a_host_that_joined_is_gone_after_a_reset(self, xapi: Simulator) -> None:
        xapi.add_host()
        member = xapi.urls[1]
        xapi.reset()
        assert len(xapi.urls) == 1
        assert Caller(member).call("xmlrpc", "host.get_all", ["s"]).kind == "nothing"

    def test_an_unknown_host_is_an_error_that_lists_the_known(self, xapi: Simulator) -> None:
        with pytest.raises(KeyError, match="there are host1"):
            xapi.find_host("nowhere")


class TestConnections:
    def test_of_a_client_that_is_gone_count_until_its_last_call_is_over(self, xapi: Simulator) -> None:
        """The pool completes what a killed client asked for."""
        assert xapi.connections == 0
        client = PlainClient(xapi)
        order = xapi.faults.hang("VM.get_all")
        connection = socket.create_connection(("127.0.0.1", xapi.port))
        body = xmlrpc.client.dumps((client.session,), "VM.get_all").encode()
        connection.sendall(b"POST / HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        while not order.hits:
            time.sleep(0.002)
        connection.close()
        assert xapi.connections >= 1
        order.release()
        while xapi.connections > 1:  # the other client's connection may be kept
            time.sleep(0.002)


class TestReset:
    def test_a_reset_restores_everything(self, xapi: Simulator) -> None:
        before = xapi.snapshot()
        objects = {cls: xapi.db.count(cls) for cls in xapi.xapi.model.classes}
        xapi.add_sr("sr")
        xapi.faults.refuse("*", "X", every=True)
        xapi.storage.shares.add_nfs("10.0.0.1")
        PlainClient(xapi)
        xapi.reset()
        assert {cls: xapi.db.count(cls) for cls in xapi.xapi.model.classes} == objects
        assert xapi.faults.orders == []
        assert len(xapi.journal) == len(xapi.journal.logins) == 0
        assert xapi.snapshot().storage == before.storage

    def test_a_session_of_before_the_reset_is_invalid(self, xapi: Simulator) -> None:
        client = PlainClient(xapi)
        xapi.reset()
        assert client.call("host.get_all") == ("error", ["SESSION_INVALID", client.session])

    def test_a_dead_host_is_up_after_a_reset(self, xapi: Simulator) -> None:
        xapi.faults.die()
        xapi.reset()
        assert PlainClient(xapi).call("host.get_all")[0] == "result"

    def test_the_address_stays(self, xapi: Simulator) -> None:
        url = xapi.url
        xapi.reset()
        assert xapi.url == url

    def test_the_old_storage_is_removed(self, xapi: Simulator) -> None:
        directory = xapi.storage.directory
        xapi.reset()
        assert not directory.exists()
        assert xapi.storage.directory.exists()

    @pytest.mark.xapi(world="recorded")
    def test_the_recorded_state_is_that_of_the_recordings(self, xapi: Simulator) -> None:
        db = xapi.db
        counts = {
            cls: db.count(cls)
            for cls in ("pool", "host", "VM", "SR", "PBD", "VDI", "VBD", "network", "secret")
        }
        assert counts == {
            "pool": 1, "host": 1, "VM": 1, "SR": 0, "PBD": 0, "VDI": 0, "VBD": 0, "network": 1, "secret": 1,
        }  # fmt: skip  # a row per count is no gain
        types = {db.row("SM", sm)["type"] for sm in db.refs("SM")}
        assert types == set(RECORDED_SM_TYPES)


class TestBuilding:
    """The helpers make what a client's calls make."""

    def test_an_sr_is_as_a_client_would_have_made_it(self, xapi: Simulator) -> None:
        made = xapi.add_sr("sr")
        with log_in(xapi) as xenapi:
            called = xenapi.SR.introduce("", "sr", "", "dummy", "user", True, {})
            host = xenapi.host.get_all()[0]
            pbd = xenapi.PBD.create({"host": host, "SR": called, "device_config": {}})
            xenapi.PBD.plug(pbd)
        assert_alike(xapi, "SR", made, called)
        assert_alike(xapi, "PBD", xapi.db.children(made, "PBDs")[0], pbd)

    def test_an_sr_can_be_formatted_on_all_hosts(self) -> None:
        with Simulator(hosts=2) as xapi:
            sr = xapi.add_sr("sr", create=True)
            pbds = xapi.db.children(sr, "PBDs")
            assert [xapi.db.row("PBD", pbd)["currently_attached"] for pbd in pbds] == [True, True]

    def test_an_sr_can_be_on_some_hosts_and_unplugged(self) -> None:
        with Simulator(hosts=2) as xapi:
            sr = xapi.add_sr("sr", hosts=["host2"], plugged=False)
            (pbd,) = xapi.db.children(sr, "PBDs")
            assert xapi.db.row("PBD", pbd)["host"] == xapi.find_host("host2")
            assert not xapi.db.row("PBD", pbd)["currently_attached"]

    def test_many_srs_are_all_like_the_first(self, xapi: Simulator) -> None:
        srs = xapi.add_srs(5, "sr")
        assert [xapi.db.row("SR", sr)["name_label"] for sr in srs] == [f"sr-{n}" for n in range(1, 6)]
        single = xapi.add_sr("sr-1")
        for sr in srs:
            assert_alike(xapi, "SR", single, sr)
            assert len(xapi.db.children(sr, "PBDs")) == 1

    def test_many_disks_are_all_like_the_first(self, xapi: Simulator) -> None:
        sr = xapi.add_sr("sr")
        vdis = xapi.add_vdis(sr, 5, size=1 << 20)
        single = xapi.add_vdi(sr, size=1 << 20)
        for vdi in vdis:
            assert_alike(xapi, "VDI", single, vdi)
            row = xapi.db.row("VDI", vdi)
            assert row["location"] == row["uuid"]
        client = PlainClient(xapi)
        assert client.call("SR.scan", sr) == ("result", "")
        assert client.call("VDI.destroy", vdis[3]) == ("result", "")

    def test_rows_without_data_are_not_made_where_data_is_needed(self, xapi: Simulator) -> None:
        sr = xapi.add_sr("sr", type="nfs", plugged=False)
        with pytest.raises(ValueError, match="add_vdi"):
            xapi.add_vdis(sr, 5)

    @pytest.mark.parametrize("kind", ["pv", "hvm", "pvh"])
    @pytest.mark.parametrize("power_state", ["Halted", "Running", "Paused", "Suspended"])
    def test_a_vm_can_be_of_every_kind_and_in_every_state(
        self, xapi: Simulator, kind: str, power_state: str
    ) -> None:
        disk = xapi.add_vdi(xapi.add_sr("sr"))
        vm = xapi.add_vm("vm", kind=kind, power_state=power_state, disks=[disk])
        row = xapi.db.row("VM", vm)
        assert row["power_state"] == power_state
        (vbd,) = xapi.db.children(vm, "VBDs")
        assert xapi.db.row("VBD", vbd)["currently_attached"] == (power_state != "Halted")

    @pytest.mark.xapi(hosts=3)
    def test_a_vm_starts_where_it_is_told(self, xapi: Simulator) -> None:
        vm = xapi.add_vm("vm", resident_on="host3")
        assert xapi.db.row("VM", vm)["resident_on"] == xapi.find_host("host3")

    @pytest.mark.parametrize(
        ("kind", "pv_drivers", "answer"),
        [("pv", True, "result"), ("hvm", True, "result"), ("hvm", False, "error"), ("pvh", True, "result")],
    )
    def test_only_an_hvm_vm_without_drivers_refuses_a_hot_plug(
        self, xapi: Simulator, kind: str, pv_drivers: bool, answer: str
    ) -> None:
        disk = xapi.add_vdi(xapi.add_sr("sr"))
        vm = xapi.add_vm("vm", kind=kind, pv_drivers=pv_drivers)
        vbd = xapi.add_vbd(vm, disk, plugged=False)
        kind_of_answer, value = PlainClient(xapi).call("VBD.plug", vbd)
        assert kind_of_answer == answer, value

    def test_many_vms_are_all_like_the_first(self, xapi: Simulator) -> None:
        vms = xapi.add_vms(4, kind="hvm")
        single = xapi.add_vm("vm", kind="hvm", power_state="Halted")
        for vm in vms:
            assert_alike(xapi, "VM", single, vm)
        assert PlainClient(xapi).call("VM.start", vms[3], False, False) == ("result", "")

    def test_many_disks_of_a_vm_are_all_plugged(self, xapi: Simulator) -> None:
        vdis = xapi.add_vdis(xapi.add_sr("sr"), 30)
        vm = xapi.add_vm("vm")
        vbds = xapi.add_vbds(vm, vdis)
        assert [xapi.db.row("VBD", vbd)["device"] for vbd in vbds[24:28]] == [
            "xvdy",
            "xvdz",
            "xvdaa",
            "xvdab",
        ]
        client = PlainClient(xapi)
        assert client.call("VBD.unplug", vbds[29]) == ("result", "")
        assert client.call("VBD.destroy", vbds[29]) == ("result", "")
        single = xapi.add_vbd(vm, vdis[29])
        assert xapi.db.row("VBD", single)["userdevice"] == "29"
        assert_alike(xapi, "VBD", single, vbds[3])

    def test_a_guest_can_be_told_to_keep_its_disks(self, xapi: Simulator) -> None:
        disk = xapi.add_vdi(xapi.add_sr("sr"))
        vm = xapi.add_vm("vm")
        vbd = xapi.add_vbd(vm, disk)
        xapi.guest(vm).refuses_unplug = True
        client = PlainClient(xapi)
        assert client.call("VBD.unplug", vbd)[1][0] == "DEVICE_DETACH_REJECTED"
        xapi.guest(vm).refuses_unplug = False
        assert client.call("VBD.unplug", vbd) == ("result", "")


OWN = {"uuid", "name_label", "location", "VDIs", "PBDs", "VBDs", "VIFs", "consoles"}
"""Fields in which two copies differ."""
REFERENCES = {
    "SR",
    "VDI",
    "metrics",
    "guest_metrics",
    "userdevice",
    "device",
    "other_config",
    "domid",
    "host",
}


def assert_alike(xapi: Simulator, cls: str, one: str, other: str) -> None:
    """Check that the two differ only in these fields."""
    first, second = xapi.db.record(cls, one), xapi.db.record(cls, other)
    for field in first.keys() - OWN - REFERENCES:
        assert first[field] == second[field], field
