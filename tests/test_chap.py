"""A CHAP password goes to the storage and nowhere else: somebody greps for it and finds nothing."""

from __future__ import annotations

import json
import logging
import traceback
from typing import Any

import pytest

from tests.scenarios import CHAP, arrange_target, iscsi
from xenvol.errors import XapiError, XenVolError
from xenvol.simulator import Simulator
from xenvol.storage import secrets
from xenvol.volumeops import VolumeOps

pytestmark = pytest.mark.usefixtures("impatient")

USER, PASSWORD = CHAP
MUTUAL = ("array", "canary-of-the-array")


def chap(password: str = PASSWORD, **more: Any) -> dict[str, Any]:
    return iscsi(0, auth_method="CHAP", auth_username=USER, auth_password=password, **more)


def rows_with(xapi: Simulator, text: str) -> list[str]:
    """The classes of all objects in which a text stands."""
    return sorted(
        cls
        for cls in xapi.db.model.classes
        for ref in xapi.db.refs(cls)
        if text in json.dumps(xapi.db.record(cls, ref), default=str)
    )


@pytest.fixture
def target(xapi: Simulator) -> Simulator:
    arrange_target(xapi, chap=CHAP)
    xapi.add_vm("web")
    return xapi


def test_is_in_one_secret_of_the_pbd_while_the_volume_is_attached_and_then_in_none(
    target: Simulator, volume_ops: VolumeOps
) -> None:
    secrets = target.db.count("secret")
    attachment = volume_ops.attach_volume(chap(), "web")
    assert rows_with(target, PASSWORD) == ["secret"]
    assert target.db.count("secret") == secrets + 1
    (pbd,) = target.db.children(attachment.sr_ref, "PBDs")
    assert "chappassword" not in target.db.get("PBD", pbd, "device_config")
    volume_ops.detach_volume(chap(), "web")
    assert rows_with(target, PASSWORD) == []
    assert target.db.count("secret") == secrets


@pytest.mark.xapi(hosts=3)
def test_is_in_one_secret_for_each_host_and_then_in_none(target: Simulator, volume_ops: VolumeOps) -> None:
    secrets = target.db.count("secret")
    target.add_vm("halted", power_state="Halted")
    volume_ops.attach_volume(chap(), "halted")
    assert target.db.count("secret") == secrets + 3
    volume_ops.detach_volume(chap(), "halted")
    assert target.db.count("secret") == secrets


def test_of_either_direction_travels_the_same_way(xapi: Simulator, volume_ops: VolumeOps) -> None:
    arrange_target(xapi, chap=CHAP, mutual_chap=MUTUAL)
    xapi.add_vm("web")
    secrets = xapi.db.count("secret")
    info = chap(incoming_auth_username=MUTUAL[0], incoming_auth_password=MUTUAL[1])
    volume_ops.attach_volume(info, "web")
    assert rows_with(xapi, MUTUAL[1]) == ["secret"]
    volume_ops.detach_volume(info, "web")
    assert xapi.db.count("secret") == secrets


def test_is_in_no_log_no_error_and_no_result(
    target: Simulator, volume_ops: VolumeOps, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="")
    wrong = "canary-that-is-wrong"
    with pytest.raises(XapiError) as caught:
        volume_ops.attach_volume(chap(wrong), "web")
    attachment = volume_ops.attach_volume(chap(), "web")
    volume_ops.detach_volume(chap(), "web")
    seen = [
        caplog.text,
        "".join(traceback.format_exception(caught.value)),
        repr(caught.value),
        str(caught.value.params),
        repr(attachment),
        json.dumps(attachment.as_dict()),
        *map(str, target.journal),
    ]
    assert not [text for text in seen if PASSWORD in text or wrong in text]


@pytest.mark.parametrize(
    "method", ["secret.introduce", "PBD.create", "secret.destroy", "PBD.plug", "VBD.create"]
)
def test_stays_in_no_secret_whichever_call_fails(
    target: Simulator, volume_ops: VolumeOps, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="")
    secrets = target.db.count("secret")
    target.faults.refuse(
        method, "INTERNAL_ERROR", f"a refusal that quotes {PASSWORD}", every=method[:6] != "secret"
    )
    said = ""
    try:
        volume_ops.attach_volume(chap(), "web")
    except XenVolError as error:
        said = "".join(traceback.format_exception(error))
    assert PASSWORD not in said
    target.faults.clear()
    volume_ops.detach_volume(chap(), "web")
    assert target.db.count("secret") == secrets
    assert PASSWORD not in caplog.text


def test_left_by_an_attempt_that_died_is_removed_by_the_detach(
    target: Simulator, volume_ops: VolumeOps
) -> None:
    secrets = target.db.count("secret")
    target.faults.lose_answer("PBD.create")
    for nth in range(1, 30):
        target.faults.lose_request("*", nth=nth + 6)
    with pytest.raises(XenVolError):
        volume_ops.attach_volume(chap(), "web")
    target.faults.clear()
    assert target.db.count("secret") > secrets
    volume_ops.detach_volume(chap(), "web")
    assert target.db.count("secret") == secrets


def test_of_another_attempt_in_the_same_slot_is_not_taken_for_ours(
    target: Simulator, volume_ops: VolumeOps
) -> None:
    """xapi has the same code for a slot that is taken and for a refusal that came after the deed."""
    api = volume_ops._session.xenapi
    attachment = volume_ops.attach_volume(chap(), "web")
    volume_ops.detach_volume(chap(), "web")
    slots = secrets._uuids_of(attachment.sr_uuid, "chappassword")
    theirs = [
        api.secret.introduce(slot, "another password", {"xenvol:attempt": "theirs"}) for slot in slots[1:]
    ]
    volume_ops.attach_volume(chap(), "web")
    assert [api.secret.get_value(ref) for ref in theirs] == ["another password"] * len(theirs)


@pytest.mark.parametrize("operation", ["attach", "detach", "disconnect"])
def test_is_in_no_error_of_a_call_before_or_without_a_secret(
    target: Simulator, volume_ops: VolumeOps, operation: str
) -> None:
    """It is hidden from the first call on: not every operation makes a secret."""
    volume_ops.attach_volume(chap(), "web")
    call = {
        "attach": "VM.get_all_records_where",
        "detach": "PBD.unplug",
        "disconnect": "SR.get_all_records_where",
    }
    target.faults.refuse(
        call[operation], "SR_BACKEND_FAILURE_68", "", f"iscsiadm --value {PASSWORD}: failed", ""
    )
    operations = {
        "attach": lambda: volume_ops.attach_volume(chap(), "web"),
        "detach": lambda: volume_ops.detach_volume(chap(), "web"),
        "disconnect": lambda: volume_ops.disconnect_volume(chap()),
    }
    with pytest.raises(XapiError) as caught:
        operations[operation]()
    assert "iscsiadm --value ***" in str(caught.value)
    assert PASSWORD not in f"{caught.value!r} {caught.value.params} {getattr(caught.value, '__notes__', '')}"
