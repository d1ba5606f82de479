"""Which host runs a storage call, and through which of the SR's PBDs (docs/background/xapi.md 2.3).

If an SR has one PBD, the call uses it; if it has several, the call needs the pool master's PBD. Only the
SRmaster may change an SR's content: the pool master for a shared SR, the one host with a PBD for any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenvol.simulator.failure import Failure

if TYPE_CHECKING:
    from xenvol.simulator.database import Database
    from xenvol.simulator.xapi import Xapi


def is_live(db: Database, host: str) -> bool:
    """Return True if the host is known to be up; False for a host that does not exist."""
    if not db.exists("host", host):
        return False
    metrics = db.row("host", host)["metrics"]
    return db.exists("host_metrics", metrics) and bool(db.row("host_metrics", metrics)["live"])


def assert_live(xapi: Xapi, host: str) -> None:
    """Raise HOST_OFFLINE or CANNOT_CONTACT_HOST unless the host runs calls; the master always does.

    The first is for a host that the master takes for dead, the second for one that does not answer although it is
    ``live`` (message_forwarding.ml, check_live and do_op_on_common).
    """
    if host == xapi.master:
        return
    if not is_live(xapi.db, host):
        raise Failure("HOST_OFFLINE", host)
    if host in xapi.dead:
        raise Failure("CANNOT_CONTACT_HOST", host)


def plugged_pbds(db: Database, sr: str) -> list[str]:
    return [pbd for pbd in db.children(sr, "PBDs") if db.row("PBD", pbd)["currently_attached"]]


def host_for_sr(xapi: Xapi, sr: str, *, or_unplugged: bool = False) -> str:
    """Return the host that runs a call on an SR (message_forwarding.ml, forward_sr_op).

    Raises HANDLE_INVALID, SR_HAS_NO_PBDS [sr] or HOST_OFFLINE. ``or_unplugged``: SR.destroy needs no plugged
    PBD.
    """
    db = xapi.db
    db.row("SR", sr)
    hosts = [db.row("PBD", pbd)["host"] for pbd in candidate_pbds(xapi, sr, or_unplugged=or_unplugged)]
    if not hosts:
        raise Failure("SR_HAS_NO_PBDS", sr)
    assert_live(xapi, hosts[0])
    return str(hosts[0])


def candidate_pbds(xapi: Xapi, sr: str, *, or_unplugged: bool) -> list[str]:
    """Return the PBDs that a call on the SR may use, the preferred one first; none without a needed master's PBD."""
    db = xapi.db
    every = db.children(sr, "PBDs")
    pbds = every if or_unplugged else plugged_pbds(db, sr)
    if len(every) < 2:
        return pbds
    of_master = [pbd for pbd in pbds if db.row("PBD", pbd)["host"] == xapi.master]
    return of_master + [pbd for pbd in pbds if pbd not in of_master] if of_master else []


def srmaster(xapi: Xapi, sr: str) -> str:
    """Return the one host whose driver may change the SR's content (helpers.ml, get_srmaster)."""
    db = xapi.db
    if db.row("SR", sr)["shared"]:
        return xapi.master
    pbds = db.children(sr, "PBDs")
    if not pbds:
        raise Failure("SR_HAS_NO_PBDS")
    if len(pbds) > 1:
        raise Failure("SR_HAS_MULTIPLE_PBDS", *(db.row("PBD", pbd)["uuid"] for pbd in pbds))
    host: str = db.row("PBD", pbds[0])["host"]
    return host


def pbd_of(db: Database, sr: str, host: str) -> str:
    """Return the host's PBD for the SR, plugged or not (sm.ml, get_my_pbd_for_sr)."""
    for pbd in db.children(sr, "PBDs"):
        if db.row("PBD", pbd)["host"] == host:
            return pbd
    raise Failure("SR_HAS_NO_PBDS", sr)


def assert_plugged(db: Database, sr: str, host: str) -> None:
    """Raise SR_HAS_NO_PBDS [sr] unless the SR is plugged on the host."""
    if not db.row("PBD", pbd_of(db, sr, host))["currently_attached"]:
        raise Failure("SR_HAS_NO_PBDS", sr)
