"""The pool itself: its master, and what the pool, its hosts and VMs answer about themselves."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import XenAPI
from vmkit import Client, client, hosts

from xenvol.simulator import Simulator
from xenvol.simulator.failure import Failure

__all__ = ["client", "hosts"]  # fixtures


@pytest.mark.xapi(hosts=2)
def test_a_pool_that_has_a_new_master_is_asked_there(xapi: Simulator) -> None:
    with Client(xapi) as client:
        pool = client("pool.get_all")[0]
        old = client("pool.get_master", pool)
        new = next(host for host in client("host.get_all") if host != old)
        address = client("host.get_address", new)
        assert client("pool.is_slave", new) is True
        client("pool.designate_new_master", new)
        with pytest.raises(XenAPI.Failure) as caught:
            client("pool.get_all")
        assert caught.value.details == ["HOST_IS_SLAVE", address]
        xapi.move_master(old)
        assert client("pool.get_master", pool) == old


@pytest.mark.xapi(hosts=2)
class TestMaster:
    def test_a_dead_host_does_not_become_master(
        self, xapi: Simulator, client: Client, hosts: list[str]
    ) -> None:
        other = hosts[1]
        assert client("pool.recover_slaves") == [other]
        with xapi.xapi.lock:
            xapi.db.set("host_metrics", xapi.db.get("host", other, "metrics"), live=False)
        assert client.refused("pool.designate_new_master", other) == ["HOST_NOT_LIVE"]
        assert client("pool.recover_slaves") == []
        client("pool.sync_database")

    def test_high_availability_chooses_the_master_itself(self, xapi: Simulator, client: Client) -> None:
        with xapi.xapi.lock:
            xapi.db.set("pool", xapi.db.refs("pool")[0], ha_enabled=True)
        assert client.refused("pool.designate_new_master", client("host.get_all")[1]) == ["HA_IS_ENABLED"]


class TestQuestions:
    def test_a_host_tells_the_time(self, client: Client) -> None:
        host = client("host.get_all")[0]
        assert len(str(client("host.get_servertime", host))) == len("20260101T00:00:00Z")
        assert len(str(client("host.get_server_localtime", host))) == len("20260101T00:00:00")

    def test_a_host_has_no_plugins_extensions_or_certificate(self, client: Client) -> None:
        host, pool = client("host.get_all")[0], client("pool.get_all")[0]
        assert client("host.is_in_emergency_mode") is False
        assert client("host.has_extension", host, "x") is False
        assert client("pool.has_extension", pool, "x") is False
        assert client.refused("host.call_plugin", host, "p", "f", {}) == ["XENAPI_MISSING_PLUGIN", "p"]
        assert client.refused("host.get_server_certificate", host) == ["CERTIFICATE_LIBRARY_CORRUPT"]

    def test_a_plugin_answers_what_a_test_has_ordered(self, xapi: Simulator, client: Client) -> None:
        def greet(arguments: Mapping[str, str]) -> str:
            if not arguments:
                raise Failure("XENAPI_PLUGIN_FAILURE", "greet", "KeyError", "name")
            return f"hello {arguments['name']}"

        host = client("host.get_all")[0]
        xapi.answer_plugin("raid.py", "check", "[]")
        xapi.answer_plugin("raid.py", "greet", greet)
        assert client("host.call_plugin", host, "raid.py", "check", {"a": "b"}) == "[]"
        assert client("host.call_plugin", host, "raid.py", "greet", {"name": "x"}) == "hello x"
        refused = client.refused("host.call_plugin", host, "raid.py", "greet", {})
        assert refused == ["XENAPI_PLUGIN_FAILURE", "greet", "KeyError", "name"]
        refused = client.refused("host.call_plugin", host, "raid.py", "no", {})
        assert refused == ["XENAPI_PLUGIN_FAILURE", "no", "UNKNOWN_FUNCTION", ""]
        kept = xapi.checkpoint()
        xapi.restore(kept)
        assert client("host.call_plugin", host, "raid.py", "check", {}) == "[]"

    def test_a_host_lists_all_messages(self, client: Client) -> None:
        assert {"VBD.plug", "SR.probe", "VM.start"} <= set(client("host.list_methods"))

    def test_other_config_of_a_host_is_mirrored_in_its_fields(self, client: Client) -> None:
        host = client("host.get_all")[0]
        client("host.set_other_config", host, {"iscsi_iqn": "iqn.x", "multipathing": "true"})
        assert client("host.get_iscsi_iqn", host) == "iqn.x"
        assert client("host.get_multipathing", host) is True
        refusal = ["MAP_DUPLICATE_KEY", "host", "other_config", host, "iscsi_iqn"]
        assert client.refused("host.add_to_other_config", host, "iscsi_iqn", "iqn.y") == refusal
        client("host.remove_from_other_config", host, "iscsi_iqn")
        assert client("host.get_iscsi_iqn", host) == "iqn.x"


class TestBlobs:
    @pytest.mark.parametrize("cls", ["VM", "host", "pool", "network"])
    def test_an_object_holds_blobs_by_name(self, xapi: Simulator, client: Client, cls: str) -> None:
        ref = xapi.add_vm(power_state="Halted") if cls == "VM" else client(f"{cls}.get_all")[0]
        blob = client(f"{cls}.create_new_blob", ref, "picture", "image/png", True)
        assert client(f"{cls}.get_blobs", ref)["picture"] == blob
        assert client("blob.get_mime_type", blob) == "image/png"
        assert client("blob.get_public", blob) is True
        client("blob.destroy", blob)
        assert client.refused("blob.get_uuid", blob) == ["HANDLE_INVALID", "blob", blob]

    def test_a_vm_takes_its_blobs_along(self, xapi: Simulator, client: Client) -> None:
        vm = xapi.add_vm(power_state="Halted")
        blob = client("VM.create_new_blob", vm, "b", "", False)
        assert client("blob.get_mime_type", blob) == "application/octet-stream"
        client("VM.destroy", vm)
        assert client.refused("blob.get_uuid", blob)[0] == "HANDLE_INVALID"


class TestMessages:
    def test_messages_are_destroyed_one_by_one_or_together(self, xapi: Simulator, client: Client) -> None:
        uuid = client("VM.get_uuid", xapi.add_vm(power_state="Halted"))
        messages = [client("message.create", f"M{n}", "5", "VM", uuid, "") for n in range(3)]
        assert set(client("message.get_since", "19700101T00:00:00Z")) == set(messages)
        assert client("message.get_since", "29990101T00:00:00Z") == {}
        client("message.destroy", messages[0])
        client("message.destroy_many", messages[1:])
        assert client("message.get_all") == []
