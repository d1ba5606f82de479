"""`xenvol demo`: attach and detach on a simulated pool, and the proof that nothing is left."""

from __future__ import annotations

import click

from xenvol.cli import failures
from xenvol.cli.demo import story, view
from xenvol.cli.options import output_options
from xenvol.cli.terminal import Terminal


@click.command()
@output_options
def demo(terminal: Terminal) -> None:
    """Attach volumes on a simulated pool, and show that nothing is left.

    Starts a simulated xapi with three hosts, a running VM, an iSCSI target, an NFS export and a gluster volume, on
    the loopback of this machine. Needs no hypervisor, changes none, and takes a second.

    \b
    Examples:
      xenvol demo
      xenvol demo --json | jq .is_clean
    """
    with terminal.working("attaching volumes on a simulated pool"):
        told = story.tell()
    if terminal.as_json:
        terminal.json(told.as_dict())
    else:
        view.show(told, terminal.out)
    if not told.is_clean:
        click.get_current_context().exit(failures.OTHER)
