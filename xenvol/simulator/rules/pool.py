"""The pool: its master, and how that changes (xapi_pool.ml). Its default SRs are ordinary fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenvol.simulator.failure import Failure
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import sr_hosts
from xenvol.simulator.rules.nested import invoke

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call


@rule("pool.designate_new_master")
def pool_designate_new_master(call: Call, host: str) -> None:
    """Make another live host the master; the old one then answers calls with HOST_IS_SLAVE."""
    db = call.db
    pool = db.refs("pool")[0]
    db.row("host", host)
    if db.row("pool", pool)["ha_enabled"]:
        raise Failure("HA_IS_ENABLED")
    if not sr_hosts.is_live(db, host):
        raise Failure("HOST_NOT_LIVE")
    db.set("pool", pool, master=host)


@rule("pool.sync_database")
def pool_sync_database(_call: Call) -> None:
    """Do nothing: every host has the database already."""


@rule("pool.recover_slaves")
def pool_recover_slaves(call: Call) -> list[str]:
    """Return the members that learnt of a new master."""
    return [
        host for host in call.db.refs("host") if host != call.xapi.master and sr_hosts.is_live(call.db, host)
    ]


@rule("pool.is_slave")
def pool_is_slave(call: Call, host: str) -> bool:
    call.db.row("host", host)
    return host != call.xapi.master


@rule("pool.has_extension")
def pool_has_extension(call: Call, pool: str, _name: str) -> bool:
    call.db.row("pool", pool)
    return False


@rule("pool.create_new_blob")
def pool_create_new_blob(call: Call, pool: str, name: str, mime_type: str, public: bool) -> str:
    call.db.row("pool", pool)
    blob: str = invoke(call, "blob.create", mime_type, public)
    call.db.map_add("pool", pool, "blobs", name, blob)
    return blob
