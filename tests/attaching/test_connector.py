"""The connector has what the block-storage service must know of a host."""

from __future__ import annotations

import pytest

from xenvol.errors import UnknownHost, XapiError
from xenvol.simulator import Simulator
from xenvol.simulator.sm.initiator import HBA
from xenvol.volumeops import VolumeOps


def test_a_host_is_told_by_its_initiator_name_and_its_addresses(
    xapi: Simulator, volume_ops: VolumeOps
) -> None:
    host = xapi.db.record("host", xapi.db.refs("host")[0])
    connector = volume_ops.get_connector(host["name_label"])
    assert connector["initiator"] == host["iscsi_iqn"] != ""
    assert (connector["uuid"], connector["host"], connector["ip"]) == (
        host["uuid"],
        host["hostname"],
        host["address"],
    )
    assert connector["multipath"] is False
    assert connector == volume_ops.get_connector(host["uuid"]) == volume_ops.get_connector()


def test_a_host_with_fibre_channel_is_told_by_its_ports(xapi: Simulator, volume_ops: VolumeOps) -> None:
    name = xapi.db.get("host", xapi.db.refs("host")[0], "name_label")
    xapi.storage.host(name).hbas.append(HBA("50014380186af83c", "50014380186af83d", "FC"))
    before = xapi.snapshot()
    connector = volume_ops.get_connector(fibre_channel=True)
    assert (connector["wwpns"], connector["wwnns"]) == (["50014380186af83c"], ["50014380186af83d"])
    assert before.difference(xapi.snapshot()) == []
    xapi.add_vm("web")
    assert volume_ops.get_connectors("web", fibre_channel=True) == [connector]


def test_a_host_is_told_without_its_ports_to_a_caller_that_does_not_ask(
    xapi: Simulator, volume_ops: VolumeOps
) -> None:
    """An empty list would tell the service that the host has none."""
    assert {"wwpns", "wwnns"}.isdisjoint(volume_ops.get_connector())


def test_a_host_whose_fibre_channel_cannot_be_probed_is_told_without(
    xapi: Simulator, volume_ops: VolumeOps
) -> None:
    xapi.faults.refuse("SR.probe", "SR_BACKEND_FAILURE_1200", "", "the driver crashed", "")
    connector = volume_ops.get_connector(fibre_channel=True)
    assert connector["initiator"]
    assert (connector["wwpns"], connector["wwnns"]) == ([], [])


def test_a_host_that_is_down_has_no_connector(xapi: Simulator, volume_ops: VolumeOps) -> None:
    xapi.faults.refuse("SR.probe", "HOST_OFFLINE", "OpaqueRef:host")
    with pytest.raises(XapiError, match="HOST_OFFLINE"):
        volume_ops.get_connector(fibre_channel=True)


def test_a_host_without_an_initiator_name_has_none(xapi: Simulator, volume_ops: VolumeOps) -> None:
    host = xapi.add_host("bare")
    with xapi.xapi.lock:
        xapi.db.set("host", host, iscsi_iqn="", other_config={})
    assert "initiator" not in volume_ops.get_connector("bare")


@pytest.mark.xapi(hosts=2)
def test_two_hosts_of_one_name_are_ambiguous(xapi: Simulator, volume_ops: VolumeOps) -> None:
    with xapi.xapi.lock:
        for host in xapi.db.refs("host"):
            xapi.db.set("host", host, name_label="twin")
    with pytest.raises(UnknownHost) as caught:
        volume_ops.get_connector("twin")
    assert set(caught.value.candidates) == {
        xapi.db.get("host", host, "uuid") for host in xapi.db.refs("host")
    }


@pytest.mark.xapi(hosts=3)
def test_each_host_of_a_pool_has_its_own(xapi: Simulator, volume_ops: VolumeOps) -> None:
    names = [xapi.db.get("host", host, "name_label") for host in xapi.db.refs("host")]
    assert len({volume_ops.get_connector(name)["initiator"] for name in names}) == 3


def test_a_host_that_is_unknown_is_an_error(volume_ops: VolumeOps) -> None:
    with pytest.raises(UnknownHost, match="nowhere"):
        volume_ops.get_connector("nowhere")


@pytest.mark.xapi(hosts=2)
def test_a_host_that_is_down_is_among_those_of_a_halted_vm(xapi: Simulator, volume_ops: VolumeOps) -> None:
    """The VM may start on it later. Only its Fibre Channel names are missing."""
    xapi.add_vm("web", power_state="Halted")
    _, other = xapi.db.refs("host")
    with xapi.xapi.lock:
        xapi.db.set("host_metrics", xapi.db.get("host", other, "metrics"), live=False)
    connectors = volume_ops.get_connectors("web", fibre_channel=True)
    assert [each["initiator"] for each in connectors] == [
        xapi.db.get("host", host, "iscsi_iqn") for host in xapi.db.refs("host")
    ]
    assert [each["wwpns"] for each in connectors] == [[], []]
