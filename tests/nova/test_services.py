"""Nova's services and Cinder's, as an operator installs them, on one simulated pool of two hosts.

Each test leaves the pool as it was, to the last field, the Storage Manager without a finding, and neither a server in
nova nor a volume in Cinder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

import xenvol
from tests.cinder.processes import wait_for
from tests.cinder.services import CinderAPI
from tests.nova.cloud import HOSTS, PAUSE, Cloud, NovaAPI, cloud
from tests.nova.standins import SERVICE_TOKEN
from xenvol.session import Session

XEN1, XEN2 = HOSTS


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with cloud(tmp_path_factory.mktemp("nova")) as made:
        for label in ("gold", "silver"):
            made.cinder.api.create_type(label, **{"xenvol:flavor": label, "pool_name": label})
        yield made


@pytest.fixture
def running(started: Cloud) -> Iterator[Cloud]:
    """For one test, which leaves nothing."""
    scan(started)
    before = started.cinder.pool.snapshot()
    yield started
    started.cinder.pool.forget_orders()
    left = started.api.left(), started.cinder.api.left()
    started.api.delete(*left[0])
    for path in left[1]:
        started.cinder.api.delete_again(path)  # so that the next test is told only of what it did itself
    assert left == ([], [])
    assert started.cinder.xenvol("sm", "audit")["findings"] == []
    scan(started)
    assert started.cinder.pool.changes_since(before) == []


def scan(running: Cloud) -> None:
    """Have the SRs look what they hold: whatever disk lies there has a VDI afterwards."""
    with xenvol.connect(running.cinder.pool.url, "root", "secret") as session:
        for sr_ref in session.find("SR", {"type": "nfs"}):
            session.call("SR.scan", sr_ref)


@pytest.fixture
def nova(running: Cloud) -> NovaAPI:
    return running.api


@pytest.fixture
def cinder(running: Cloud) -> CinderAPI:
    return running.cinder.api


@pytest.fixture
def xapi(running: Cloud) -> Iterator[Session]:
    """The pool, as an administrator sees it."""
    with xenvol.connect(running.cinder.pool.url, "root", "secret") as session:
        yield session


def create_root(cinder: CinderAPI, volume_type: str = "gold") -> str:
    """A volume from which a server boots."""
    volume_id = create_volume(cinder, volume_type)
    cinder.act(f"/volumes/{volume_id}", "os-set_bootable", bootable=True)
    return volume_id


def create_volume(cinder: CinderAPI, volume_type: str = "gold") -> str:
    volume_id = cinder.create_volume(1, volume_type)
    cinder.until(f"/volumes/{volume_id}", "available")
    return volume_id


def boot(running: Cloud, root_id: str, host: str, *data_ids: str) -> str:
    """A server that runs on this host and has these volumes."""
    server_id = running.api.create_server(root_id, host)
    running.api.until(server_id, "ACTIVE")
    for each in data_ids:
        running.api.attach(server_id, each)
        running.cinder.api.until(f"/volumes/{each}", "in-use")
    return server_id


def delete(running: Cloud, server_ids: Sequence[str], volume_ids: Sequence[str]) -> None:
    """The servers; then the volumes, which are available by then."""
    running.api.delete(*server_ids)
    for each in volume_ids:
        running.cinder.api.until(f"/volumes/{each}", "available")
        running.cinder.api.delete(f"/volumes/{each}")


def vdi_of(running: Cloud, xapi: Session, volume_id: str) -> tuple[str, dict[str, Any]]:
    """The reference and the record of the volume's disk. After a migration that is the disk of another id."""
    name_id = running.cinder.api.volume(volume_id)["os-vol-mig-status-attr:name_id"]
    vdi_uuid = running.cinder.xenvol("sm", "volume_connection", name_id or volume_id)["data"]["vdi_uuid"]
    ((vdi_ref, vdi),) = xapi.find("VDI", {"uuid": vdi_uuid}).items()
    return vdi_ref, vdi


def users_of(running: Cloud, xapi: Session, volume_id: str) -> list[tuple[str, str, bool]]:
    """Which VMs have the volume's disk: the server's id, the host on which it runs, whether the disk is plugged."""
    found = []
    for vbd in xapi.find("VBD", {"VDI": vdi_of(running, xapi, volume_id)[0]}).values():
        vm = xapi.call("VM.get_record", vbd["VM"])
        host = xapi.call("host.get_hostname", vm["resident_on"])
        found.append((vm["name_label"], host, vbd["currently_attached"]))
    return found


def is_live(xapi: Session, host: str) -> bool:
    """Whether the pool's master gets heartbeats of this host."""
    (found,) = xapi.find("host", {"hostname": host}).values()
    return bool(xapi.call("host_metrics.get_live", found["metrics"]))


def check(running: Cloud, xapi: Session, server_id: str, host: str, *volume_ids: str) -> None:
    """Nova, Cinder and the pool agree that the server runs on this host, and has these volumes and no others."""
    nova, cinder = running.api, running.cinder.api
    assert nova.host_of(server_id) == host
    attachments = {each: cinder.attachments_of(each) for each in volume_ids}
    assert attachments == {each: [attached] for each, attached in nova.volumes_of(server_id).items()}
    for each in volume_ids:
        assert cinder.volume(each)["status"] == "in-use"
        assert users_of(running, xapi, each) == [(server_id, host, True)]


def test_a_server_boots_from_a_volume(running: Cloud, cinder: CinderAPI, xapi: Session) -> None:
    """Boot from a volume, and delete the server."""
    root_id = create_root(cinder)
    server_id = boot(running, root_id, XEN1)
    check(running, xapi, server_id, XEN1, root_id)
    delete(running, [server_id], [root_id])


def test_a_volume_is_attached_and_detached(
    running: Cloud, nova: NovaAPI, cinder: CinderAPI, xapi: Session
) -> None:
    """Attach a volume to a running server, and detach it."""
    root_id, data_id = create_root(cinder), create_volume(cinder)
    server_id = boot(running, root_id, XEN1, data_id)
    check(running, xapi, server_id, XEN1, root_id, data_id)
    nova.detach(server_id, data_id)
    cinder.until(f"/volumes/{data_id}", "available")
    check(running, xapi, server_id, XEN1, root_id)
    assert users_of(running, xapi, data_id) == []
    delete(running, [server_id], [root_id, data_id])


def test_a_server_migrates_live_and_back(
    running: Cloud, nova: NovaAPI, cinder: CinderAPI, xapi: Session
) -> None:
    """Migrate a server live, and back."""
    volume_ids = create_root(cinder), create_volume(cinder)
    server_id = boot(running, volume_ids[0], XEN1, volume_ids[1])
    for host in (XEN2, XEN1):
        assert nova.migrate(server_id, host) == "completed"
        check(running, xapi, server_id, host, *volume_ids)
    delete(running, [server_id], volume_ids)


def test_a_server_whose_migration_fails_stays_where_it_is(
    running: Cloud, nova: NovaAPI, cinder: CinderAPI, xapi: Session
) -> None:
    """A live migration that xapi refuses once the destination is prepared; the next one succeeds."""
    volume_ids = create_root(cinder), create_volume(cinder)
    server_id = boot(running, volume_ids[0], XEN1, volume_ids[1])
    refusal = ["VM_MIGRATE_FAILED", "OpaqueRef:NULL", XEN1, XEN2, "the link is down"]
    running.cinder.pool.order("refuse", "*VM.pool_migrate", error=refusal)
    assert nova.migrate(server_id, XEN2) != "completed"
    assert running.cinder.pool.orders() == []
    check(running, xapi, server_id, XEN1, *volume_ids)
    assert nova.migrate(server_id, XEN2) == "completed"
    check(running, xapi, server_id, XEN2, *volume_ids)
    delete(running, [server_id], volume_ids)


def test_a_server_whose_destination_cannot_reach_the_storage_stays_where_it_is(
    running: Cloud, nova: NovaAPI, cinder: CinderAPI, xapi: Session
) -> None:
    """A live migration to a host that cannot plug the SR; the next one succeeds."""
    # whose SR was plugged last: so it is the last again, which xapi notes on the host's control domain
    volume_ids = create_root(cinder, "silver"), create_volume(cinder, "silver")
    server_id = boot(running, volume_ids[0], XEN1, volume_ids[1])
    (xen2_ref,) = xapi.find("host", {"hostname": XEN2})
    (pbd_ref,) = xapi.find("PBD", {"SR": vdi_of(running, xapi, volume_ids[0])[1]["SR"], "host": xen2_ref})
    xapi.call("PBD.unplug", pbd_ref)
    running.cinder.pool.order(
        "refuse", "PBD.plug", error=["SR_BACKEND_FAILURE_73", "", "no route to host", ""]
    )
    assert nova.migrate(server_id, XEN2) != "completed"
    assert running.cinder.pool.orders() == []
    check(running, xapi, server_id, XEN1, *volume_ids)
    assert nova.migrate(server_id, XEN2) == "completed"
    check(running, xapi, server_id, XEN2, *volume_ids)
    delete(running, [server_id], volume_ids)
    if not xapi.call("PBD.get_currently_attached", pbd_ref):
        xapi.call("PBD.plug", pbd_ref)


def test_a_volume_in_use_is_retyped_with_migration(running: Cloud, cinder: CinderAPI, xapi: Session) -> None:
    """Retype a volume in use, with migration: nova swaps the disks."""
    root_id, data_id = create_root(cinder), create_volume(cinder)
    server_id = boot(running, root_id, XEN1, data_id)
    _, old = vdi_of(running, xapi, data_id)
    cinder.act(f"/volumes/{data_id}", "os-retype", new_type="silver", migration_policy="on-demand")
    cinder.until_retyped(data_id, "silver")
    _, new = vdi_of(running, xapi, data_id)
    assert new["SR"] != old["SR"]
    wait_for("the old disk to be deleted", lambda: xapi.find("VDI", {"uuid": old["uuid"]}) == {} or None)
    check(running, xapi, server_id, XEN1, root_id, data_id)
    running.api.detach(server_id, data_id)
    cinder.until(f"/volumes/{data_id}", "available")
    delete(running, [server_id], [root_id, data_id])


def test_a_server_of_a_dead_host_is_evacuated(
    running: Cloud, nova: NovaAPI, cinder: CinderAPI, xapi: Session
) -> None:
    """Evacuate a server after its host died; the host comes back and spares it."""
    volume_ids = create_root(cinder), create_volume(cinder)
    server_id = boot(running, volume_ids[0], XEN2, volume_ids[1])
    running.stop_compute(XEN2)
    running.cinder.pool.control("POST", "/faults", {"fault": "die", "host": XEN2})
    wait_for("the master to take the host for dead", lambda: not is_live(xapi, XEN2) or None)
    service = f"/os-services/{nova.service_id(XEN2)}"
    nova.request("PUT", service, {"forced_down": True})
    nova.act(server_id, "evacuate", host=XEN1)
    nova.until(server_id, "SHUTOFF")  # by which nova means: the operator starts it
    nova.act(server_id, "os-start")
    nova.until(server_id, "ACTIVE")
    check(running, xapi, server_id, XEN1, *volume_ids)
    running.cinder.pool.control("POST", "/faults", {"fault": "come_back", "host": XEN2})
    running.start_compute(XEN2)
    wait_for(
        "nova-compute to see that its server is gone",
        lambda: nova.migrations(server_id) == ["completed"] or None,
    )
    nova.request("PUT", service, {"forced_down": False})
    running.wait_for_hosts()
    check(running, xapi, server_id, XEN1, *volume_ids)
    delete(running, [server_id], volume_ids)


def kill_during_attach(running: Cloud, server_id: str, volume_id: str, method: str) -> None:
    """Kill the nova-compute of the first host while it waits for the answer to this call, and start it again."""
    pool = running.cinder.pool
    pool.order("hang", method, answer=True)
    running.api.attach(server_id, volume_id)
    wait_for(f"nova-compute to call {method}", lambda: pool.orders() == [] or None, pause=PAUSE)
    running.stop_compute(XEN1)
    pool.forget_orders()
    running.start_compute(XEN1)
    running.wait_for_hosts()


def test_an_attach_of_a_killed_nova_compute_is_done_again(
    running: Cloud, nova: NovaAPI, cinder: CinderAPI, xapi: Session
) -> None:
    """Kill nova-compute in the middle of an attach, start it again, attach again.

    Nova and Cinder do not go on with the attach by themselves. The operator deletes the attachment, with the token of a
    service, and at a hard reboot nova sees that it is gone.
    """
    root_id, data_id = create_root(cinder), create_volume(cinder)
    server_id = boot(running, root_id, XEN1)
    kill_during_attach(running, server_id, data_id, "VBD.plug")
    (attachment_id,) = cinder.attachments_of(data_id)
    cinder.request("DELETE", f"/attachments/{attachment_id}", headers={"X-Service-Token": SERVICE_TOKEN})
    nova.act(server_id, "reboot", type="HARD")
    nova.until(server_id, "ACTIVE")
    check(running, xapi, server_id, XEN1, root_id)
    nova.attach(server_id, data_id)
    cinder.until(f"/volumes/{data_id}", "in-use")
    check(running, xapi, server_id, XEN1, root_id, data_id)
    nova.detach(server_id, data_id)
    cinder.until(f"/volumes/{data_id}", "available")
    assert users_of(running, xapi, data_id) == []
    delete(running, [server_id], [root_id, data_id])


def test_an_attach_of_a_killed_nova_compute_leaves_nothing_when_the_server_is_deleted(
    running: Cloud, cinder: CinderAPI, xapi: Session
) -> None:
    """Kill nova-compute in the middle of an attach, start it again, delete the server."""
    root_id, data_id = create_root(cinder), create_volume(cinder)
    server_id = boot(running, root_id, XEN1)
    kill_during_attach(running, server_id, data_id, "VBD.create")
    assert users_of(running, xapi, data_id) == [(server_id, XEN1, False)]
    delete(running, [server_id], [root_id, data_id])


def test_five_servers_boot_migrate_and_are_deleted_at_once(
    running: Cloud, nova: NovaAPI, cinder: CinderAPI, xapi: Session
) -> None:
    """Five servers at once, where the scheduler puts them: boot with two volumes, migrate live, delete."""
    root_ids = [create_root(cinder) for _ in range(5)]
    data_ids = [create_volume(cinder) for _ in range(5)]
    pairs = list(zip(root_ids, data_ids, strict=True))
    server_ids = [nova.create_server(root_id, None, data_id) for root_id, data_id in pairs]
    for each in server_ids:
        nova.until(each, "ACTIVE")
    others = {each: XEN2 if nova.host_of(each) == XEN1 else XEN1 for each in server_ids}
    for each, host in others.items():
        nova.begin_migration(each, host)
    for each in server_ids:
        assert nova.until_migrated(each) == "completed"
    for each, volume_ids in zip(server_ids, pairs, strict=True):
        check(running, xapi, each, others[each], *volume_ids)
    delete(running, server_ids, [*root_ids, *data_ids])
