"""What a caller says of a transfer besides the image and the disk: one value, packed where the call comes in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xenvol.images.progress import Progress, Watch, ignore_progress
from xenvol.images.transports import (
    TIMEOUTS,
    Timeouts,
    Transport,
    TransportName,
    choose_transport,
    plugged_hosts,
)
from xenvol.pool.transfer_mark import Attempt
from xenvol.pool.view import View
from xenvol.session import Endpoint
from xenvol.session.refs import SRRef


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where this process runs, and how long it waits. Tests give other values."""

    root: Path = Path("/")
    """The directory that holds the files which say which VM this machine is."""
    dev: Path = Path("/dev")
    """The directory in which the kernel shows the devices of plugged disks."""
    endpoint: Endpoint | None = None
    """A host of the pool. Needed if the caller has logged in the session without xenvol."""
    timeouts: Timeouts = TIMEOUTS


HERE: Final = Environment()


@dataclass(frozen=True, kw_only=True)
class TransferOptions:
    """The options that every import, export and inspection takes."""

    transport: TransportName = "auto"
    staging_dir: str | Path | None = None
    """The directory for temporary files; None: the system's."""
    verify: bool = False
    """Whether the disk is read back and compared."""
    progress: Callable[[Progress], None] = ignore_progress
    cancel: threading.Event | None = None
    """When it is set, the transfer raises TransferCancelled."""
    environment: Environment = HERE

    def watch(self, what: str) -> Watch:
        """Return what reports the progress of `what`, and stops it if the caller cancels."""
        return Watch(what, self.progress, self.cancel, self.environment.timeouts.sleep)

    def begin(self, view: View, sr_ref: SRRef) -> tuple[Attempt, Transport]:
        """Begin an attempt, and choose the transport to the disks of an SR. Changes nothing; raises NoTransport.

        The pool's clock says when the attempt began. The pool's record, which names the master, is read with the PBDs.
        """
        here = self.environment
        plugged_hosts(view, view.record("SR", sr_ref))
        attempt = Attempt.begin(view)
        transport = choose_transport(
            view,
            sr_ref,
            attempt,
            wanted=self.transport,
            endpoint=here.endpoint,
            root=here.root,
            dev=here.dev,
            timeouts=here.timeouts,
        )
        return attempt, transport
