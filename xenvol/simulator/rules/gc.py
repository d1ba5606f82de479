"""Remove the rows whose other end is gone, and notice dead hosts, as a pool does every 30 seconds (db_gc_util.ml).

`collect` does it at once, for a test; `Collector` does it periodically. A VBD whose VDI has vanished is
removed; a drive is emptied instead (docs/background/xapi.md 2.4, end; docs/background/recordings.md, finding
8 (storage)).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from xenvol.simulator import sessions, tasks
from xenvol.simulator.failure import NULL
from xenvol.simulator.rules import liveness

if TYPE_CHECKING:
    from xenvol.simulator.database import Database
    from xenvol.simulator.xapi import Xapi

INTERVAL = 30.0  # seconds; db_gc runs every 30 s on the master


def collect(xapi: Xapi) -> list[str]:
    """Collect once; return the references of the rows that were removed or emptied. Takes the pool's lock.

    Then look for hosts that have been silent for too long (db_gc.ml, single_pass).
    """
    with xapi.lock:
        db = xapi.db
        done = _vdis(db)
        done += _connectors(db, "PBD", ("host", "SR"))
        done += _vbds(db)
        done += _connectors(db, "VIF", ("VM", "network"), metrics="VIF_metrics")
        done += _connectors(db, "crashdump", ("VM", "VDI"))
        done += _connectors(db, "console", ("VM",))
        done += tasks.collect(xapi) + sessions.collect(xapi)
        liveness.check(xapi)
        return done


class Collector:
    """Collects periodically until it is stopped. `start` and `stop` are idempotent; a context manager.

    `stop` does not wait, so it may be called with the pool's lock held; no collection starts after it.
    """

    def __init__(self, xapi: Xapi, interval: float = INTERVAL) -> None:
        self._xapi = xapi
        self._interval = interval
        self._stopped: threading.Event | None = None
        """Stops the running thread; None without one."""

    def __repr__(self) -> str:
        state = "stopped" if self._stopped is None else "running"
        return f"<Collector {state}, every {self._interval:g} s>"

    def start(self) -> None:
        if self._stopped is None:
            self._stopped = threading.Event()
            threading.Thread(
                target=self._run, args=(self._stopped,), name="database collector", daemon=True
            ).start()

    def stop(self) -> None:
        if self._stopped is not None:
            self._stopped.set()
            self._stopped = None

    def __enter__(self) -> Collector:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, stopped: threading.Event) -> None:
        while not stopped.wait(self._interval):
            with self._xapi.lock:
                if not stopped.is_set():
                    collect(self._xapi)


_CLASS_OF_FIELD = {"host": "host", "SR": "SR", "VM": "VM", "VDI": "VDI", "network": "network"}


def _vdis(db: Database) -> list[str]:
    gone = [vdi for vdi in db.refs("VDI") if not db.exists("SR", db.row("VDI", vdi)["SR"])]
    for vdi in gone:
        db.delete("VDI", vdi)
    return gone


def _connectors(db: Database, cls: str, fields: tuple[str, ...], metrics: str = "") -> list[str]:
    """Remove rows that connect two objects if one of the objects is gone."""
    gone = []
    for ref in db.refs(cls):
        row = db.row(cls, ref)
        if all(db.exists(_CLASS_OF_FIELD[field], row[field]) for field in fields):
            continue
        if metrics and db.exists(metrics, row["metrics"]):
            db.delete(metrics, row["metrics"])
        db.delete(cls, ref)
        gone.append(ref)
    return gone


def _vbds(db: Database) -> list[str]:
    done = []
    for vbd in db.refs("VBD"):
        row = db.row("VBD", vbd)
        has_vm = db.exists("VM", row["VM"])
        if has_vm and (row["empty"] or db.exists("VDI", row["VDI"])):
            continue
        done.append(vbd)
        if has_vm and row["type"] == "CD":
            db.set("VBD", vbd, VDI=NULL, empty=True)
            continue
        if db.exists("VBD_metrics", row["metrics"]):
            db.delete("VBD_metrics", row["metrics"])
        db.delete("VBD", vbd)
    return done
