"""The commands on hosts: show a host's connector, and make a VM's volumes visible on a host."""

from __future__ import annotations

import click

from xenvol.cli.options import Pool, pool_options, vm_argument


@click.command()
@click.argument("host", metavar="[HOST]", required=False)
@pool_options
def connector(pool: Pool, host: str | None) -> None:
    """Show what a storage service must know of a host to export volumes to it.

    Shows its initiator IQN, its Fibre Channel names, and whether it uses multipathing. HOST is a name, a uuid or
    a reference. Default: the pool's master.

    \b
    Examples:
      xenvol connector
      xenvol connector xen2 --json
    """
    with pool.volume_ops(f"asking about {host or 'the master'}") as ops:
        found = ops.get_connector(host, fibre_channel=True)
    rows = [[key, _text(value)] for key, value in sorted(found.items())]
    pool.terminal.listing(found, ["KEY", "VALUE"], rows)


@click.command("prepare-migration")
@vm_argument
@click.argument("host", metavar="HOST")
@click.option("--undo", is_flag=True, help="Undo it, if the VM has moved elsewhere or has not moved.")
@pool_options
def prepare_migration(pool: Pool, vm: str, host: str, undo: bool) -> None:
    """Make a VM's volumes visible on the host that it will move to.

    Run it before a live migration within the pool.

    \b
    Examples:
      xenvol prepare-migration web xen3
      xenvol prepare-migration web xen3 --undo
    """
    if undo:
        with pool.volume_ops(f"taking the volumes of {vm} off {host}") as ops:
            ops.undo_migration(vm, host)
        pool.terminal.result({"undone": True}, f"{host} shows only those volumes of {vm} that VMs there use")
        return
    with pool.volume_ops(f"plugging the volumes of {vm} on {host}") as ops:
        sr_uuids = ops.prepare_migration(vm, host)
    pool.terminal.result(
        {"sr_uuids": sr_uuids},
        f"{len(sr_uuids)} SRs with volumes of {vm} are plugged on {host}",
    )


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
