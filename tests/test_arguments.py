"""What callers pass by mistake is refused by one of our errors, in words, and nothing is changed."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
import XenAPI

import xenvol
from tests.scenarios import arrange_target, changes, iscsi
from xenvol.drivers import registry
from xenvol.errors import InvalidArgument, RequestError
from xenvol.pool.view import View
from xenvol.secret import Secret
from xenvol.session import Session
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps

NAMES_NOTHING: list[Any] = [None, 5, ["web"], b"web", "", "we\rb", "we\0b"]

ON_A_VM: dict[str, Callable[[VolumeOps, Any], object]] = {
    "attach_volume": lambda ops, vm: ops.attach_volume(iscsi(0), vm),
    "detach_volume": lambda ops, vm: ops.detach_volume(iscsi(0), vm),
    "detach_all": lambda ops, vm: ops.detach_all(vm),
    "list_volumes": lambda ops, vm: ops.list_volumes(vm),
    "find_bad_volumes": lambda ops, vm: ops.find_bad_volumes(vm),
    "prepare_migration": lambda ops, vm: ops.prepare_migration(vm, "host1"),
    "undo_migration": lambda ops, vm: ops.undo_migration(vm, "host1"),
}
ON_A_HOST: dict[str, Callable[[VolumeOps, Any], object]] = {
    "prepare_migration": lambda ops, host: ops.prepare_migration("web", host),
    "undo_migration": lambda ops, host: ops.undo_migration("web", host),
    "connect_volume": lambda ops, host: ops.connect_volume(iscsi(0), hosts=[host]),
    "get_connector": lambda ops, host: ops.get_connector(host),
    "detach_volume": lambda ops, host: ops.detach_volume(iscsi(0), "web", host=host),
    "detach_all": lambda ops, host: ops.detach_all("web", host=host),
}
NONE_IS_A_HOST = {"get_connector": "the master", "detach_volume": "any", "detach_all": "any"}
WITHOUT_A_SESSION: dict[str, Callable[[VolumeOps], object]] = {
    **{name: lambda ops, call=call: call(ops, "web") for name, call in ON_A_VM.items()},
    "connect_volume": lambda ops: ops.connect_volume(iscsi(0)),
    "disconnect_volume": lambda ops: ops.disconnect_volume(iscsi(0)),
    "extend_volume": lambda ops: ops.extend_volume(iscsi(0)),
    "get_connector": lambda ops: ops.get_connector(),
}


@pytest.fixture
def target(xapi: Simulator) -> Simulator:
    arrange_target(xapi)
    xapi.add_vm("web")
    return xapi


@pytest.mark.parametrize("vm", NAMES_NOTHING, ids=repr)
@pytest.mark.parametrize("call", ON_A_VM.values(), ids=ON_A_VM)
def test_what_names_no_vm_is_refused(
    target: Simulator, volume_ops: VolumeOps, call: Callable[[VolumeOps, Any], object], vm: Any
) -> None:
    before = target.snapshot()
    with pytest.raises(RequestError, match="a VM is named by"):
        call(volume_ops, vm)
    assert changes(before, target.snapshot()) == []


@pytest.mark.parametrize("host", NAMES_NOTHING, ids=repr)
@pytest.mark.parametrize("call", ON_A_HOST.values(), ids=ON_A_HOST)
def test_what_names_no_host_is_refused(
    target: Simulator, volume_ops: VolumeOps, call: Callable[[VolumeOps, Any], object], host: Any
) -> None:
    if host is None and call in [ON_A_HOST[name] for name in NONE_IS_A_HOST]:
        return
    before = target.snapshot()
    with pytest.raises(RequestError, match="a host is named by"):
        call(volume_ops, host)
    assert changes(before, target.snapshot()) == []


@pytest.mark.parametrize("hosts", ["host1", 5])
def test_hosts_are_a_list(target: Simulator, volume_ops: VolumeOps, hosts: Any) -> None:
    """A single text would be taken for a list of its letters."""
    with pytest.raises(RequestError, match="hosts must be a list"):
        volume_ops.connect_volume(iscsi(0), hosts=hosts)


def test_a_uuid_object_names_a_vm_and_a_host(target: Simulator, volume_ops: VolumeOps) -> None:
    """As object-relational mappers give them."""
    api = volume_ops._session.xenapi
    vm = uuid.UUID(api.VM.get_uuid(api.VM.get_by_name_label("web")[0]))
    host = uuid.UUID(api.host.get_uuid(api.host.get_all()[0]))
    volume_id = uuid.uuid4()
    attached = volume_ops.attach_volume({**iscsi(0), "volume_id": volume_id}, vm)
    assert attached.volume_id == str(volume_id)
    assert volume_ops.prepare_migration(vm, host) == [attached.sr_uuid]
    assert volume_ops.get_connector(host)["uuid"] == str(host)
    volume_ops.detach_volume({**iscsi(0), "volume_id": volume_id}, vm)
    volume = volume_ops.connect_volume(iscsi(0), hosts=[host])
    assert api.VDI.get_uuid(volume.vdi_ref) == volume.vdi_uuid


@pytest.mark.parametrize("attachment_id", ["", 5, b"a", "a\r"])
def test_what_is_no_attachment_id_takes_no_fence_away(
    target: Simulator, volume_ops: VolumeOps, attachment_id: Any
) -> None:
    """An empty one comes of a variable that is not set."""
    volume_ops.attach_volume(iscsi(0), "web")
    with pytest.raises(RequestError, match="an attachment is named by"):
        volume_ops.detach_volume(iscsi(0), "web", attachment_id=attachment_id)
    assert len(volume_ops.list_volumes("web")) == 1


@pytest.mark.parametrize(
    "given", [None, "https://xen1", b"x", 5, object()], ids=lambda given: type(given).__name__
)
@pytest.mark.parametrize("call", WITHOUT_A_SESSION.values(), ids=WITHOUT_A_SESSION)
def test_what_is_no_session_is_refused(call: Callable[[VolumeOps], object], given: Any) -> None:
    """A connection that failed, or its address."""
    with pytest.raises(RequestError, match=r"pass a session of xenvol\.connect"):
        call(VolumeOps(given))


def test_what_is_no_session_is_refused_by_the_layers_below_as_well() -> None:
    for make in (Session, View.of):
        with pytest.raises(RequestError, match=r"pass a session of xenvol\.connect"):
            make(None)


@pytest.mark.parametrize("call", WITHOUT_A_SESSION.values(), ids=WITHOUT_A_SESSION)
def test_a_session_that_is_closed_or_not_logged_in_says_so(
    target: Simulator, call: Callable[[VolumeOps], object]
) -> None:
    """Ours, and that of the official client."""
    closed = xenvol.connect(target.urls, target.user, target.password)
    closed.close()
    with pytest.raises(RequestError, match="closed"):
        call(VolumeOps(closed))
    with pytest.raises(RequestError, match="not logged in"):
        call(VolumeOps(XenAPI.Session(target.url)))
    left = XenAPI.Session(target.url)
    left.login_with_password(target.user, target.password)
    left.xenapi.session.logout()
    with pytest.raises(RequestError, match="not logged in"):
        call(VolumeOps(left))
    left("close")()


@pytest.mark.parametrize("refs", [None, 5, "OpaqueRef:x", [None]])
def test_a_cleanup_of_what_is_no_list_raises_nothing(
    target: Simulator, volume_ops: VolumeOps, refs: Any
) -> None:
    """It is called while another error is on its way. xapi is not asked about what cannot be a reference."""
    with target.journal.recording() as calls:
        volume_ops.safe_cleanup_from_vdis(refs)
    assert calls.methods() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"url": None}, "url is an address"),
        ({"url": [None]}, "url is an address"),
        ({"url": b"https://xen1"}, "url is an address"),
        ({"url": []}, "no address"),
        ({"url": "ftp://xen1"}, "no address of a xapi"),
        ({"user": None}, "user is a str"),
        ({"password": None}, "password is a str"),
        ({"password": b"canary"}, "password is a str"),
        ({"timeout": None}, "timeout is a number"),
        ({"connect_timeout": 0}, "timeout is a number"),
        ({"fingerprint": "x"}, "SHA-256"),
    ],
)
def test_connect_refuses_what_cannot_be(change: dict[str, Any], words: str) -> None:
    """As an error of ours, which is a ValueError, too."""
    given: dict[str, Any] = {"url": "https://xen1", "user": "root", "password": Secret("canary")}
    with pytest.raises(InvalidArgument, match=words) as caught:
        xenvol.connect(**{**given, **change})
    assert isinstance(caught.value, ValueError)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("name", [None, "", 5])
def test_a_driver_has_a_name(name: Any) -> None:
    with pytest.raises(RequestError, match="a driver is named by"):
        registry.get_driver_class(name)


@pytest.mark.parametrize("given", [None, 0, 1, "false", [], {}], ids=repr)
@pytest.mark.parametrize("name", ["hotplug", "bootable"])
def test_a_switch_is_true_or_false(target: Simulator, volume_ops: VolumeOps, name: str, given: Any) -> None:
    """The text "false" would be taken for True."""
    before = target.snapshot()
    with pytest.raises(RequestError, match=f"{name} must be True or False"):
        volume_ops.attach_volume(iscsi(0), "web", **{name: given})
    assert changes(before, target.snapshot()) == []


@pytest.mark.parametrize("given", [None, 5, "text", iscsi(0)], ids=["None", "int", "str", "one"])
def test_connection_infos_are_a_list(target: Simulator, volume_ops: VolumeOps, given: Any) -> None:
    """A single one would be taken for a list of its keys."""
    with pytest.raises(RequestError, match="connection_infos must be a list"):
        volume_ops.prepare_migration("web", "host1", given)


@pytest.mark.parametrize("given", [5, "iscsi", ["iscsi"]], ids=repr)
def test_a_preference_is_a_mapping(volume_ops: VolumeOps, given: Any) -> None:
    with pytest.raises(RequestError, match="prefer must map names of drivers to packages"):
        VolumeOps(volume_ops._session, prefer=given)
