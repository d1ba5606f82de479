"""Passwords are xapi secrets and are stored nowhere else; a backend's secrets go with it."""

from __future__ import annotations

import pytest
from backend_lab import secrets_of

from xenvol.errors import XapiError, XapiUnreachable
from xenvol.pool.view import View
from xenvol.secret import Secret
from xenvol.session import Session
from xenvol.simulator import Simulator
from xenvol.sm import passwords
from xenvol.sm.errors import BackendNotReady
from xenvol.storage import find_sr

TOKEN = "70000000-0000-4000-8000-000000000001"
CANARY = "canary-5ecret-p4ssword"
LOGIN: dict[str, str | Secret] = {"chapuser": "me", "chappassword": Secret(CANARY)}
STORED = passwords.referred(TOKEN, LOGIN)


def test_what_is_stored_has_a_uuid_that_follows_from_the_backend() -> None:
    assert {"chapuser": "me", "chappassword_secret": passwords.uuid_of(TOKEN, "chappassword")} == STORED
    assert passwords.uuid_of(TOKEN, "chappassword") != passwords.uuid_of(TOKEN, "incoming_chappassword")
    assert passwords.keys_in(STORED) == ["chappassword"]


def test_keeping_is_done_once_or_twice_with_the_same_result(xapi: Simulator, xapi_session: Session) -> None:
    view = View(xapi_session)
    for _ in range(2):
        passwords.keep(view, TOKEN, LOGIN)
        assert secrets_of(xapi) == {passwords.uuid_of(TOKEN, "chappassword"): CANARY}
    passwords.keep(view, TOKEN, {"chappassword": Secret("another-p4ssword")})
    assert list(secrets_of(xapi).values()) == ["another-p4ssword"]


def test_an_answer_that_is_lost_is_looked_up(xapi: Simulator, xapi_session: Session) -> None:
    xapi.faults.lose_answer("secret.introduce")
    passwords.keep(View(xapi_session), TOKEN, LOGIN)
    assert list(secrets_of(xapi).values()) == [CANARY]


def test_two_who_keep_the_same_at_once_agree(xapi: Simulator, xapi_session: Session) -> None:
    """The second process finds no secret, and is refused when it makes it."""
    uuid = passwords.uuid_of(TOKEN, "chappassword")
    xapi_session.call("secret.introduce", uuid, "of the first", {})
    xapi.faults.refuse("secret.get_by_uuid", "UUID_INVALID", "secret", uuid)
    passwords.keep(View(xapi_session), TOKEN, LOGIN)
    assert secrets_of(xapi) == {uuid: CANARY}


def test_a_refusal_and_a_silence_leave_as_themselves(xapi: Simulator, xapi_session: Session) -> None:
    xapi.faults.refuse("secret.introduce", "RBAC_PERMISSION_DENIED", "secret.introduce", "")
    with pytest.raises(XapiError):
        passwords.keep(View(xapi_session), TOKEN, LOGIN)
    xapi.faults.lose_request("secret.introduce")
    with pytest.raises(XapiUnreachable):
        passwords.keep(View(xapi_session), TOKEN, LOGIN)
    assert secrets_of(xapi) == {}


def test_what_is_stored_is_revealed_to_whoever_must_log_in(xapi: Simulator, xapi_session: Session) -> None:
    passwords.keep(View(xapi_session), TOKEN, LOGIN)
    assert passwords.revealed(View(xapi_session), 7, STORED) == LOGIN


def test_a_pool_that_does_not_know_it_says_so(xapi_session: Session) -> None:
    view = View(xapi_session)
    with pytest.raises(BackendNotReady, match="backend_password 7 chappassword"):
        passwords.revealed(view, 7, STORED)
    with pytest.raises(BackendNotReady):
        passwords.check_known(view, 7, STORED)
    passwords.keep(view, TOKEN, LOGIN)
    passwords.check_known(view, 7, STORED)


def test_forgetting_spares_what_is_not_ours(xapi: Simulator, xapi_session: Session) -> None:
    view = View(xapi_session)
    ref = xapi_session.call("secret.create", {"value": "theirs", "other_config": {}})
    theirs = xapi_session.call("secret.get_uuid", ref)
    passwords.keep(view, TOKEN, LOGIN)
    for _ in range(2):  # idempotent
        passwords.forget(view, TOKEN, {**STORED, "incoming_chappassword_secret": theirs})
        assert secrets_of(xapi) == {theirs: "theirs"}


@pytest.mark.xapi(hosts=2)
def test_the_copies_of_pbds_are_told(xapi: Simulator, xapi_session: Session) -> None:
    sr = xapi.add_sr("x", device_config={"chapuser": "me", "chappassword": "old"})
    view = View(xapi_session)
    sr_ref = find_sr(view, xapi.db.get("SR", sr, "uuid"))
    assert sr_ref is not None
    passwords.tell_pbds(view, sr_ref, {"chappassword": Secret(CANARY), "chapuser": "me"})
    copies = [xapi.db.row("PBD", pbd)["device_config"]["chappassword_secret"] for pbd in xapi.db.refs("PBD")]
    assert [secrets_of(xapi)[copy] for copy in copies] == [CANARY, CANARY]
