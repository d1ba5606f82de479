"""What an operation left behind: two snapshots of a pool compared, as strictly as a xapi allows.

A host's first use of a kind of storage leaves traces by xapi's and the storage drivers' own doing (`FIRST_USE`); no
client causes them and none can take them back. Everything else that differs is somebody's.
"""

from __future__ import annotations

import re

from xenvol.simulator import Simulator
from xenvol.simulator.snapshot import Snapshot

FIRST_USE = re.compile(
    r"other_config: \[storage_driver_domain\]"  # xapi's note on the control domain
    r"|initiator: .*→ .*: no session>"  # iscsid runs from then on
    r"|storage\.hosts\.\w+(\.files)?: absent → \{(files: \{)?/run/sr-mount/[^:]*: 0\}+$"  # an empty directory
    r"|/sm-hardlink\.conf: absent → 1$"  # the driver tried whether the server has hard links
    r"|^VDI .*: other_config: \[content_id\]"  # xapi notes that the disk may have been written
    r"|: allowed_operations: "  # xapi's advice, worked out anew now and then
)


def touch_hosts(xapi: Simulator) -> None:
    """A host's storage exists from its first use on; let that be now, so that later snapshots compare."""
    for host in xapi.db.refs("host"):
        xapi.storage.host(xapi.db.get("host", host, "name_label"))


def changes(before: Snapshot, after: Snapshot) -> list[str]:
    """What differs, a line for each change; empty when nothing was left."""
    return [line for line in before.difference(after) if not FIRST_USE.search(line)]
