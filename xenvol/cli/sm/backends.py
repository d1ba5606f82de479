"""The commands on backends."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import click

from xenvol.amounts import human_size
from xenvol.cli.sm.options import Service, database_options, service_options
from xenvol.cli.sm.parameters import read_parameters, read_secret
from xenvol.secret import MASK, Secret
from xenvol.sm import StorageManager
from xenvol.sm.errors import DeviceNotBlank
from xenvol.sm.records import Backend

_SECRET = "_secret"  # a stored password has this suffix on its key; its value is a xapi secret's uuid


@click.command("backend_list")
@click.argument("backend_id", metavar="[ID]", type=int, required=False)
@database_options
def backend_list(service: Service, backend_id: int | None) -> None:
    """List the backends, or show one.

    Shows the stored numbers; `xenvol sm stats` reads new ones from the pool. Passwords are not shown.

    \b
    Examples:
      xenvol sm backend_list
      xenvol sm backend_list 1
      xenvol sm backend_list --json | jq '.[] | select(.problem) | .id'
    """
    with service.manager("looking for backends") as manager:
        found = manager.list_backends(backend_id)
        labels = labels_of(manager, found)
    values = [facts(backend, labels) for backend in found]
    if service.terminal.as_json or backend_id is None:
        columns = ["ID", "FLAVOR", "STATE", "SR", "CONFIG"]
        service.terminal.listing(values, columns, [_row(backend, labels) for backend in found])
        return
    for backend in found:
        service.terminal.table(["KEY", "VALUE"], _details(backend, labels))


@click.command("backend_add")
@click.argument("flavor_label", metavar="FLAVOR")
@click.argument("sr_type", metavar="TYPE")
@click.argument("words", metavar="[KEY=VALUE]...", nargs=-1)
@click.option(
    "--format",
    "format_device",
    metavar="DEVICE",
    help="For types that lie on a device: the device to erase for the SR, as the parameters name it.",
)
@click.option(
    "--weight",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="For the policy `weighted`: its share of new volumes.",
)
@service_options
def backend_add(
    service: Service,
    flavor_label: str,
    sr_type: str,
    words: tuple[str, ...],
    format_device: str | None,
    weight: float,
) -> None:
    """Register a backend under a flavor, and make its SR.

    TYPE is an SR type of the pool: nfs, smb, lvm, ext, lvmoiscsi, lvmohba, iscsi… The parameters are those of the
    XenAPI command line, the device_config of an SR. If you leave out one that the storage can list (serverpath,
    targetIQN, SCSIid), the error lists the choices.

    These parameters are about the SR itself: name_label, name_description, host (the host of a local SR), and
    sr_uuid: an SR that the pool or the storage has already. xenvol uses that SR, and makes none. An SR of a backend
    whose database was lost, or that was removed, is used without sr_uuid.

    Do not write a secret here: every user of the machine could read it. chappassword=@FILE reads it from the
    first line of a file, chappassword= asks for it.

    xenvol erases only the device that --format names; at a terminal it asks.

    \b
    Examples:
      xenvol sm backend_add gold nfs server=10.0.0.2 serverpath=/vols name_label='toy box'
      xenvol sm backend_add gold lvm device=/dev/sdb host=xen1 --format /dev/sdb
      xenvol sm backend_add gold lvmoiscsi target=10.0.0.1 targetIQN=iqn.2010-10.org.example:a \\
          SCSIid=36001405… chapuser=xen chappassword=@/root/chap sr_uuid=6f1f3a3e-3a0f-4e0a-9a3e-0c1f6f8f0a00
    """
    config = read_parameters(service.terminal, words)
    with service.manager(f"registering a backend of type {sr_type}") as manager:
        backend = _add(service, manager, flavor_label, sr_type, config, format_device, weight)
        value = facts(backend, labels_of(manager, [backend]))
    lines = [f"backend {backend.id} of flavor {flavor_label} is ready: {described(backend)}"]
    if "sr_uuid" not in config and "sr_uuid" in backend.params:
        lines.append(f"the storage holds SR {backend.sr_uuid} of an earlier backend, and it is used")
    if backend.type.luns:
        lines.append(
            f"SR {backend.sr_uuid}: it has existing LUNs, and no volume is placed there; `xenvol sm volume_manage` "
            "makes one of its LUNs a volume"
        )
    else:
        size, free = human_size(backend.physical_size), human_size(max(0, backend.free))
        lines.append(f"SR {backend.sr_uuid}: {size}, {free} free for volumes")
    service.terminal.result(value, *lines)


@click.command("backend_update")
@click.argument("backend_id", metavar="ID", type=int)
@click.argument("words", metavar="[KEY=VALUE]...", nargs=-1)
@click.option(
    "--weight", type=click.FloatRange(min=0), help="For the policy `weighted`: its share of new volumes."
)
@service_options
def backend_update(service: Service, backend_id: int, words: tuple[str, ...], weight: float | None) -> None:
    """Change how hosts reach a backend's SR, or its weight.

    The keys are those of backend_add; KEY= removes one. The SR keeps its uuid, its disks and its volumes: nothing is
    changed unless the storage shows that SR there. The SR is unplugged and plugged again on each host, so no VM may
    have a disk of it plugged. backend_password changes a password.

    \b
    Examples:
      xenvol sm backend_update 1 server=10.0.0.22
      xenvol sm backend_update 1 nfsversion=4.1 --weight 3
    """
    if not words and weight is None:
        raise click.UsageError("nothing to change: give KEY=VALUE, or --weight", click.get_current_context())
    config = read_parameters(service.terminal, words)
    with service.manager(f"changing backend {backend_id}") as manager:
        backend = manager.update_backend(backend_id, config, weight=weight)
        value = facts(backend, labels_of(manager, [backend]))
    service.terminal.result(value, f"backend {backend.id} is {described(backend)}, weight {backend.weight:g}")


@click.command("backend_remove")
@click.argument("backend_id", metavar="ID", type=int)
@click.option("--destroy", is_flag=True, help="Erase its SR on the storage, which must be empty.")
@service_options
def backend_remove(service: Service, backend_id: int, destroy: bool) -> None:
    """Take a backend out of its flavor, and its SR out of the pool.

    The data stays: sr_uuid=… registers the SR again. An SR that was in the pool before stays there. A backend that
    has volumes is not removed.

    \b
    Examples:
      xenvol sm backend_remove 1
      xenvol sm backend_remove 1 --destroy
    """
    with service.manager(f"removing backend {backend_id}") as manager:
        (backend,) = manager.list_backends(backend_id)
        manager.remove_backend(backend_id, destroy=destroy)
    if backend.sr_uuid is None:
        fate = "its SR was not made"
    elif destroy:
        fate = f"its SR {backend.sr_uuid} is erased"
    elif backend.origin == "found":
        fate = f"SR {backend.sr_uuid}, which was in the pool before, stays"
    else:
        fate = f"its data stays: register it again with sr_uuid={backend.sr_uuid}"
    service.terminal.result(
        {"removed": True, "id": backend_id, "sr_uuid": backend.sr_uuid, "destroyed": destroy},
        f"backend {backend_id} is removed; {fate}",
    )


@click.command("backend_password")
@click.argument("backend_id", metavar="ID", type=int)
@click.argument("key", metavar="KEY[=@FILE]")
@service_options
def backend_password(service: Service, backend_id: int, key: str) -> None:
    """Set a password of a backend in this pool.

    Use it for a new password, or if the backend was registered in another pool. Without a file, xenvol asks for
    it. KEY is a key of backend_add: chappassword, password…

    \b
    Examples:
      xenvol sm backend_password 3 chappassword
      xenvol sm backend_password 3 chappassword=@/root/chap
    """
    name, _, value = key.partition("=")
    secret = read_secret(service.terminal, name, value)
    with service.manager(f"telling the pool a password of backend {backend_id}") as manager:
        manager.set_backend_password(backend_id, name, secret)
    service.terminal.result(
        {"told": True, "id": backend_id, "key": name},
        f"the pool knows the {name} of backend {backend_id}; the SR uses it from its next plug on",
    )


def labels_of(manager: StorageManager, backends: Iterable[Backend]) -> dict[int, str]:
    """Return the labels of the backends' flavors, by id."""
    labels = {flavor.id: flavor.label for flavor in manager.list_flavors()}
    for backend in backends:
        if backend.flavor_id not in labels:  # deleted, or made, since the backends were read
            labels[backend.flavor_id] = manager.flavor_of(backend).label
    return labels


def facts(backend: Backend, labels: Mapping[int, str]) -> dict[str, Any]:
    """Return the JSON of a backend."""
    return {**backend.as_dict(), "flavor": labels[backend.flavor_id]}


def described(backend: Backend) -> str:
    """Return ``nfs server=… serverpath=…``, as it was given, without secrets."""
    return f"{backend.sr_type} {_config(backend)}"


def _add(
    service: Service,
    manager: StorageManager,
    flavor_label: str,
    sr_type: str,
    config: Mapping[str, str | Secret],
    format_device: str | None,
    weight: float,
) -> Backend:
    """Register the backend. If that would erase a device that --format does not name, ask the user at the terminal for
    it."""
    try:
        return manager.add_backend(flavor_label, sr_type, config, format_device=format_device, weight=weight)
    except DeviceNotBlank as error:
        terminal = service.terminal
        if format_device is not None or terminal.as_json or not sys.stdin.isatty():
            raise
        terminal.warn(str(error))
        typed = terminal.ask(f"To erase it, type its name ({error.device}); Enter keeps it")
        if typed.strip() != error.device:
            raise
        device = error.device
    return manager.add_backend(flavor_label, sr_type, config, format_device=device, weight=weight)


def _config(backend: Backend) -> str:
    return " ".join(
        f"{key.removesuffix(_SECRET)}={MASK}" if key.endswith(_SECRET) else f"{key}={shlex.quote(value)}"
        for key, value in backend.params.items()
    )


def _state(backend: Backend) -> str:
    if backend.state == "new":
        return "not made yet"
    return "ready" if backend.problem is None else "out of order"


def _row(backend: Backend, labels: Mapping[int, str]) -> list[str]:
    return [
        str(backend.id),
        labels[backend.flavor_id],
        _state(backend),
        backend.sr_uuid or "",
        described(backend),
    ]


def _details(backend: Backend, labels: Mapping[int, str]) -> list[list[str]]:
    size, used = backend.physical_size, backend.physical_utilisation
    told = {
        "id": str(backend.id),
        "flavor": labels[backend.flavor_id],
        "type": backend.sr_type,
        "config": _config(backend),
        "SR": f"{backend.sr_uuid} ({backend.origin})" if backend.sr_uuid else None,
        "host": backend.host_uuid,
        "state": _state(backend),
        "problem": backend.problem,
        "size": human_size(size),
        "used": human_size(used),
        "promised": human_size(backend.virtual_allocation),
        "free for volumes": human_size(max(0, backend.free)),
        "provisioning": "thin" if backend.is_thin else "thick",
        "weight": f"{backend.weight:g}",
        "looked at": None if backend.stats_at is None else f"{backend.stats_at:%Y-%m-%d %H:%M:%S} UTC",
        "features": " ".join(backend.features.split()),
    }
    return [[key, value] for key, value in told.items() if value is not None]
