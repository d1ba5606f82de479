"""Sessions: log-in, log-out, and the check of every call's session.

A pool member other than the master accepts only local sessions; it answers every other one with the master's
address (docs/background/xapi.md 4.4, session_check.ml).
"""

from __future__ import annotations

import uuid

from xenvol.simulator.database import Database
from xenvol.simulator.failure import NULL, Failure, internal_error
from xenvol.simulator.rulebook import Call, rule
from xenvol.simulator.xapi import Xapi

LOCAL_SUPERUSER = "root"
IDLE_SECONDS = 86400.0  # an idle session ends after this (xapi_globs.ml)
REFRESH_SECONDS = 600.0  # the longest delay of last_active
MOST_OF_A_KIND = 500  # sessions of one originator, of one user
MOST_ANONYMOUS = 400  # sessions without an originator


def check(xapi: Xapi, session: str, host: str, method: str, *, intra_pool_only: bool = False) -> None:
    """Let the call pass, or raise SESSION_INVALID, HOST_IS_SLAVE or INTERNAL_ERROR."""
    if xapi.local_sessions.get(session) == host:
        return
    if not xapi.db.exists("session", session):
        raise Failure("SESSION_INVALID", session)
    if not xapi.db.row("session", session)["pool"]:
        if intra_pool_only:
            raise internal_error(f'Internal API "{method}" call attempted with non-pool (external) session')
        if host != xapi.master:
            raise host_is_slave(xapi)
    _touch(xapi, session)


def host_is_slave(xapi: Xapi) -> Failure:
    return Failure("HOST_IS_SLAVE", xapi.db.row("host", xapi.master)["address"])


def _touch(xapi: Xapi, session: str) -> None:
    """Update last_active, but not at every call, because each update is a change of the database."""
    last_active = xapi.db.row("session", session)["last_active"]
    if last_active < xapi.now(-IDLE_SECONDS):
        destroy(xapi, session)
        raise Failure("SESSION_INVALID", session)
    if last_active < xapi.now(-REFRESH_SECONDS):
        xapi.db.set("session", session, last_active=xapi.now())


def collect(xapi: Xapi) -> list[str]:
    """Collect sessions as the garbage collector does, and return those that ended (db_gc_util.ml, timeout_sessions).

    If one originator, one user, or all callers without an originator have too many sessions, those idle
    longest end.
    """
    db = xapi.db
    rows = {session: db.row("session", session) for session in db.refs("session")}
    oldest = xapi.now(-IDLE_SECONDS)
    gone = {session: None for session, row in rows.items() if row["last_active"] < oldest}
    crowds: dict[tuple[str, str], list[str]] = {}
    for session, row in rows.items():
        if session in gone or _is_busy(db, session):
            continue
        for kind in ("originator", "auth_user_name"):
            crowds.setdefault((kind, row[kind]), []).append(session)
    for (kind, name), crowd in crowds.items():
        limit = MOST_ANONYMOUS if (kind, name) == ("originator", "") else MOST_OF_A_KIND
        crowd.sort(key=lambda session: rows[session]["last_active"], reverse=True)
        gone |= dict.fromkeys(crowd[limit:])
    for session in gone:
        destroy(xapi, session)
    return list(gone)


def _is_busy(db: Database, session: str) -> bool:
    return any(db.row("task", task)["status"] == "pending" for task in db.get("session", session, "tasks"))


def authenticate(xapi: Xapi, user: str, password: str) -> None:
    """Check user and password, as PAM does; a failure takes PAM's time."""
    if user not in xapi.users:
        reason = "User not known to the underlying authentication module"
    elif xapi.users[user] != password:
        reason = "Authentication failure"
    else:
        return
    xapi.sleep(xapi.login_penalty)
    raise Failure("SESSION_AUTHENTICATION_FAILED", user, reason)


@rule("session.login_with_password")
def login_with_password(call: Call, user: str, password: str, version: str, originator: str) -> str:
    if call.host != call.xapi.master:
        raise host_is_slave(call.xapi)
    authenticate(call.xapi, user, password)
    now = call.xapi.now()
    return call.db.create(
        "session",
        this_host=call.host,
        this_user=NULL,
        last_active=now,
        validation_time=now,
        is_local_superuser=True,
        auth_user_name=user,
        originator=originator,
    )


@rule("session.slave_local_login_with_password")
def slave_local_login_with_password(call: Call, user: str, password: str) -> str:
    """Log in locally; works on every host, master or not."""
    authenticate(call.xapi, user, password)
    session = f"OpaqueRef:{uuid.uuid4()}"
    call.xapi.local_sessions[session] = call.host
    return session


@rule("session.slave_login")
def slave_login(call: Call, host: str, secret: str) -> str:
    """Refuse another host's log-in: no client has this pool's secret."""
    raise Failure("SESSION_AUTHENTICATION_FAILED", host, "Pool credentials invalid")


@rule("session.slave_local_login")
def slave_local_login(call: Call, secret: str) -> str:
    raise Failure("SESSION_AUTHENTICATION_FAILED", "localhost", "Pool credentials invalid")


@rule("session.logout")
def logout(call: Call) -> None:
    destroy(call.xapi, call.session)


@rule("session.local_logout")
def local_logout(call: Call) -> None:
    call.xapi.local_sessions.pop(call.session, None)


def destroy(xapi: Xapi, session: str) -> None:
    """End the session; a call that waits for events under it gets SESSION_INVALID. Idempotent."""
    if xapi.db.exists("session", session):
        xapi.db.delete("session", session)
    xapi.local_sessions.pop(session, None)


@rule("session.change_password")
def change_password(call: Call, old: str, new: str) -> None:
    """Change root's password, for any caller; the old password is not checked (xapi_session.ml)."""
    call.xapi.users[LOCAL_SUPERUSER] = new


@rule("session.logout_subject_identifier")
def logout_subject_identifier(call: Call, subject_identifier: str) -> None:
    """End the sessions of an external user, except the caller's own and root's."""
    for session in call.db.refs("session"):
        row = call.db.row("session", session)
        is_root = row["is_local_superuser"]
        if not is_root and session != call.session and row["auth_user_sid"] == subject_identifier:
            destroy(call.xapi, session)


@rule("session.get_all_subject_identifiers")
def get_all_subject_identifiers(call: Call) -> list[str]:
    """Return the external users that are logged in; there are none."""
    return []
