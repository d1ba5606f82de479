"""The life of an SR: introduce, create, forget, destroy (xapi_sr.ml; message_forwarding.ml, module SR)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from xenvol.simulator import tasks
from xenvol.simulator.failure import Failure, internal_error
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import attachment, backend, pbd, secret, sr_hosts
from xenvol.simulator.rules.operations import operation
from xenvol.simulator.rules.sr_operations import update as update_allowed_operations

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call

_UUID_PREFIX = 8  # characters (xapi_sr.ml, unload_metrics_from_memory)


@rule("SR.introduce")
def introduce(
    call: Call,
    uuid: str,
    name_label: str,
    name_description: str,
    sr_type: str,
    content_type: str,
    shared: bool,
    sm_config: dict[str, str],
) -> str:
    """Add a row and nothing else: neither the type nor the uuid is checked (trace 02#7-16)."""
    db = call.db
    if db.by_uuid("SR", uuid) is not None:
        raise Failure("SR_UUID_EXISTS", uuid)
    sr = db.create(
        "SR",
        uuid=uuid,
        name_label=name_label,
        name_description=name_description,
        type=sr_type.lower(),
        content_type=content_type,
        shared=shared,
        sm_config=sm_config,
        physical_size=-1,
        physical_utilisation=-1,
        virtual_allocation=0,
    )
    update_allowed_operations(call.xapi, sr)
    return sr


@rule("SR.create")
def create(
    call: Call,
    host: str,
    device_config: dict[str, str],
    physical_size: int,
    name_label: str,
    name_description: str,
    sr_type: str,
    content_type: str,
    shared: bool,
    sm_config: dict[str, str],
) -> str:
    """Make the SR on the storage, and plug it; a shared SR is plugged on every host, and the given host is ignored.

    If the driver refuses, no SR is left; if a plug fails, the SR stays (trace 02#122-127). The secrets stay
    in both cases.
    """
    db, master = call.db, call.xapi.master
    config = secret.move_passwords(call, device_config)
    if shared:
        host = master
    else:
        sr_hosts.assert_live(call.xapi, host)
    sr = str(introduce(call, "", name_label, name_description, sr_type, content_type, shared, sm_config))
    hosts = [master, *(other for other in db.refs("host") if other != master)] if shared else [host]
    pbds = [pbd.add(call, sr, each, config) for each in hosts]
    try:
        _create_on_storage(call, sr, pbds[0], host, physical_size)
    except BaseException:
        db.delete("SR", sr)
        for each in pbds:
            db.delete("PBD", each)
        raise
    config = db.get("PBD", pbds[0], "device_config")
    for each in pbds:
        db.set("PBD", each, device_config=config)
    _plug_all(call, pbds)
    return sr


def _create_on_storage(call: Call, sr: str, pbd_ref: str, host: str, size: int) -> None:
    backend.bind(call, pbd_ref)
    with backend.holding(call, "SR", host, call.db.row("SR", sr)["uuid"]):
        try:
            backend.run(call, sr, host, lambda driver: driver.create(size), is_srmaster=True)
        except backend.Unimplemented:
            raise Failure("SR_OPERATION_NOT_SUPPORTED", sr) from None


def _plug_all(call: Call, pbds: list[str]) -> None:
    """Plug all PBDs at once, each under a task that stays (trace 08#26); failures are ignored."""

    def plug(pbd_ref: str) -> str:
        def work(under_task: Call) -> str:
            pbd.plug(under_task, pbd_ref)
            return ""

        task = tasks.start(dataclasses.replace(call, method="PBD.plug"), "Async.PBD.plug", work)
        if call.db.exists("task", call.task):
            call.db.set("task", task, subtask_of=call.task)
        return task

    started = [plug(each) for each in pbds]
    while any(_is_pending(call, task) for task in started) and not call.xapi.is_closed:
        call.xapi.lock.wait()


def _is_pending(call: Call, task: str) -> bool:
    return call.db.exists("task", task) and call.db.row("task", task)["status"] == "pending"


@rule("SR.make")
def make(call: Call, host: str, device_config: dict[str, str], *_: object) -> None:
    secret.move_passwords(call, device_config)
    sr_hosts.assert_live(call.xapi, host)
    raise Failure("MESSAGE_DEPRECATED")


@rule("SR.forget")
def forget(call: Call, sr: str) -> None:
    """Delete the rows of the SR, its PBDs and VDIs; the data stays, and VBDs dangle until the garbage collection."""
    with operation(call, ("SR", sr, "forget")):
        _assert_unplugged(call, sr)
        _unload_metrics(call, sr)
        _drop_rows(call, sr)


@rule("SR.destroy")
def destroy(call: Call, sr: str) -> None:
    """Attach the SR, erase it, and forget it. If the driver refuses, everything stays as it was."""
    db = call.db
    with operation(call, ("SR", sr, "destroy")):
        _assert_unplugged(call, sr)
        if db.row("SR", sr)["other_config"].get("indestructible") == "true":
            raise Failure("SR_INDESTRUCTIBLE", sr)
        for host in db.refs("host"):
            if db.row("host", host)["local_cache_sr"] == sr:
                raise Failure("SR_IS_CACHE_SR", host)
        _erase(call, sr, sr_hosts.host_for_sr(call.xapi, sr, or_unplugged=True))
        secret.drop(call, db.row("SR", sr)["sm_config"])
        _unload_metrics(call, sr)
        _drop_rows(call, sr)


def _erase(call: Call, sr: str, host: str) -> None:
    """Erase the SR; the driver needs its PBD plugged meanwhile (storage_access.ml, destroy_sr)."""
    db = call.db
    pbd_ref = sr_hosts.pbd_of(db, sr, host)
    uuid = db.row("SR", sr)["uuid"]
    backend.bind(call, pbd_ref)
    attachment.attach(call, sr, host)
    db.set("PBD", pbd_ref, currently_attached=True)
    try:
        with backend.holding(call, "SR", host, uuid):
            backend.run(call, sr, host, lambda driver: driver.delete())
            call.xapi.attached_srs.discard((host, uuid))
    except Failure as failure:
        attachment.detach(call, sr, host)
        if isinstance(failure, backend.Unimplemented):
            raise Failure("SR_OPERATION_NOT_SUPPORTED", sr) from None
        raise
    finally:
        db.set("PBD", pbd_ref, currently_attached=False)


def _assert_unplugged(call: Call, sr: str) -> None:
    if sr_hosts.plugged_pbds(call.db, sr):
        raise Failure("SR_HAS_PBD", sr)


def _unload_metrics(call: Call, sr: str) -> None:
    """Raise INTERNAL_ERROR for a uuid of less than eight characters, which hosts use as the key of an SR's metrics."""
    hosts = (
        call.db.row("PBD", each)["host"] for each in sr_hosts.candidate_pbds(call.xapi, sr, or_unplugged=True)
    )
    is_asked = any(host == call.xapi.master or sr_hosts.is_live(call.db, host) for host in hosts)
    if is_asked and len(call.db.row("SR", sr)["uuid"]) < _UUID_PREFIX:
        raise internal_error('Invalid_argument("String.sub / Bytes.sub")')


def _drop_rows(call: Call, sr: str) -> None:
    for each in call.db.children(sr, "PBDs"):
        pbd.remove(call, each)
    for vdi in call.db.children(sr, "VDIs"):
        call.db.delete("VDI", vdi)
    call.db.delete("SR", sr)
