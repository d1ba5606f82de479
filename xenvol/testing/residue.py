"""What an operation left behind: a comparison of two snapshots of a pool, as strict as a xapi allows.

At a host's first use of a kind of storage, xapi and the storage drivers leave traces (`FIRST_USE`); no client
causes them and none can remove them. Every other difference is a client's.
"""

from __future__ import annotations

import re

from xenvol.simulator import Simulator
from xenvol.simulator.snapshot import Snapshot

FIRST_USE = re.compile(
    r"initiator: .*→ .*: no session>"  # iscsid runs from then on
    r"|storage\.hosts\.\w+(\.files)?: absent → \{(files: \{)?/run/sr-mount/[^:]*: 0\}+$"  # an empty directory
    r"|/sm-hardlink\.conf: absent → 1$"  # the driver tested whether the server has hard links
    r"|^VDI .*: other_config: \[content_id\]"  # xapi notes that the disk may have been written
    r"|^SR .*: other_config: \[dirty\]"  # xapi's note that a scan is due, until the next scan
    r"|: allowed_operations: "  # xapi recomputes it now and then
)


def touch_hosts(xapi: Simulator) -> None:
    """Use each host's storage once, so that later snapshots compare: it exists only from the first use on."""
    for host in xapi.db.refs("host"):
        xapi.storage.host(xapi.db.get("host", host, "name_label"))


def changes(before: Snapshot, after: Snapshot) -> list[str]:
    """Return the changes, one per line; empty if nothing was left."""
    return [line for line in before.difference(after) if not FIRST_USE.search(line)]
