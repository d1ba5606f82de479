"""Calls that only a storage driver may make: other_config of its session names the SR that it works for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenvol.simulator.failure import Failure

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call

_SM_SESSION = "_sm_session"


def assert_storage_session(call: Call, sr: str) -> None:
    """Raise PERMISSION_DENIED [""] unless the session is a driver's (sm.ml, assert_session_has_internal_sr_access)."""
    db = call.db
    other_config = (
        db.row("session", call.session)["other_config"] if db.exists("session", call.session) else {}
    )
    if other_config.get(_SM_SESSION) != sr:
        raise Failure("PERMISSION_DENIED", "")
