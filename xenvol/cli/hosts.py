"""The commands on hosts: what a storage service must know of one, and getting one ready for a VM."""

from __future__ import annotations

import click

from xenvol.cli.options import Pool, pool_options, vm_argument


@click.command()
@click.argument("host", metavar="[HOST]", required=False)
@pool_options
def connector(pool: Pool, host: str | None) -> None:
    """Show what a storage service must know of a host to export volumes to it.

    Its initiator IQN, its Fibre Channel names, whether it multiplies paths. HOST is a name, a uuid or a
    reference; without one, the pool's master.

    \b
    Examples:
      xenvol connector
      xenvol connector xen2 --json
    """
    with pool.volume_ops(f"asking about {host or 'the master'}") as ops:
        found = ops.get_connector(host)
    rows = [[key, _text(value)] for key, value in sorted(found.items())]
    pool.terminal.listing(found, ["KEY", "VALUE"], rows)


@click.command("prepare-migration")
@vm_argument
@click.argument("host", metavar="HOST")
@click.option("--undo", is_flag=True, help="Take it back, after the VM has moved elsewhere or not at all.")
@pool_options
def prepare_migration(pool: Pool, vm: str, host: str, undo: bool) -> None:
    """Make a VM's volumes visible on the host that it shall move to.

    To be called before a live migration within the pool.

    \b
    Examples:
      xenvol prepare-migration web xen3
      xenvol prepare-migration web xen3 --undo
    """
    if undo:
        with pool.volume_ops(f"taking the volumes of {vm} off {host}") as ops:
            ops.undo_migration(vm, host)
        pool.terminal.result(
            {"undone": True}, f"the volumes of {vm} are on {host} only as far as VMs there use them"
        )
        return
    with pool.volume_ops(f"plugging the volumes of {vm} on {host}") as ops:
        sr_uuids = ops.prepare_migration(vm, host)
    pool.terminal.result(
        {"sr_uuids": sr_uuids},
        f"{len(sr_uuids)} SRs with the volumes of {vm} are plugged on {host}",
    )


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
