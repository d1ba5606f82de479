"""An error names the culprit and the remedy, keeps its facts, and shows no secret."""

import copy
import inspect
import pickle
import xmlrpc.client

import pytest

from xenvol import errors
from xenvol.errors import (
    AmbiguousDriver,
    AmbiguousVM,
    AttachedMeanwhile,
    AttachmentFenced,
    ChangedMeanwhile,
    DeadlineExceeded,
    DiskNotReleased,
    DriverLoadFailed,
    ExtendNotSupported,
    ForbiddenCall,
    HalfWrittenDisk,
    HostNotReady,
    HostNotTrusted,
    InvalidArgument,
    InvalidConnectionInfo,
    InvalidDriver,
    InvalidMountpoint,
    MountpointInUse,
    NoFreeMountpoint,
    NotHotpluggable,
    ReadOnlyNotSupported,
    TemplateGiven,
    UnknownDriver,
    UnknownHost,
    UnknownVM,
    UnmanagedVDI,
    UnsupportedSRType,
    VMBusy,
    VolumeInUse,
    VolumeNotFound,
    WrongPowerState,
    WrongVolume,
    XapiError,
    XapiUnreachable,
    XenVolError,
)
from xenvol.errors.remedies import find_remedy
from xenvol.session.endpoint import UntrustedHost

BLAMES = {
    errors.RequestError,
    errors.VMError,
    errors.DriverError,
    errors.StorageError,
    errors.HypervisorError,
    XapiUnreachable,
}

# every error there is, the facts that it keeps, and words that its message must have
EXAMPLES: list[tuple[XenVolError, dict[str, object], list[str]]] = [
    (
        InvalidConnectionInfo("target_iqn", "iscsi", accepted="the IQN of the target", problem="is missing"),
        {"key": "target_iqn", "driver": "iscsi", "accepted": "the IQN of the target"},
        ["'target_iqn'", "'iscsi'", "is missing", "the IQN of the target"],
    ),
    (InvalidArgument("no address of a xapi was given"), {}, ["no address"]),
    (InvalidMountpoint("xvdb1"), {"mountpoint": "xvdb1"}, ["'xvdb1'", "/dev/xvdb", "auto"]),
    (MountpointInUse("xvdb", free=["xvdc"]), {"mountpoint": "xvdb", "free": ["xvdc"]}, ["'xvdb'", "xvdc"]),
    (NoFreeMountpoint(taken=254), {"taken": 254}, ["254", "detach"]),
    (UnknownVM("web"), {"name": "web"}, ["'web'"]),
    (UnknownHost("h9"), {"name": "h9"}, ["'h9'"]),
    (
        AmbiguousVM("web", candidates=[("u1", "web", "Running"), ("u2", "web", "Halted")]),
        {"name": "web", "candidates": [("u1", "web", "Running"), ("u2", "web", "Halted")]},
        ["2 VMs", "u1 (Running)", "u2 (Halted)", "give a uuid"],
    ),
    (AttachmentFenced("a1", current="a2"), {"attachment_id": "a1", "current": "a2"}, ["'a1'", "'a2'"]),
    (
        NotHotpluggable("web", reason="no drivers"),
        {"vm": "web", "reason": "no drivers"},
        ["web", "no drivers"],
    ),
    (ReadOnlyNotSupported("web"), {"vm": "web"}, ["web", "HVM", "rw"]),
    (
        WrongPowerState("web", "Suspended", needed="Running", remedy="resume it"),
        {"vm": "web", "power_state": "Suspended"},
        ["web", "Suspended", "resume it"],
    ),
    (AttachedMeanwhile("web"), {"vm": "web"}, ["web", "retry"]),
    (TemplateGiven("golden"), {"vm": "golden"}, ["golden", "create a VM"]),
    (DiskNotReleased("web", device="xvdb"), {"vm": "web", "device": "xvdb"}, ["web", "xvdb"]),
    (VMBusy("web", operation="migrate_send"), {"vm": "web", "operation": "migrate_send"}, ["migrate_send"]),
    (
        ChangedMeanwhile("attach", what="another process changed it"),
        {"operation": "attach"},
        ["retry a little later"],
    ),
    (
        UnknownDriver("rbd", installed=["iscsi", "nfs"]),
        {"name": "rbd", "installed": ["iscsi", "nfs"], "package": None},
        ["'rbd'", "iscsi, nfs", "xenvol.drivers"],
    ),
    (UnknownDriver("rbd", installed=[], package="acme"), {"package": "acme"}, ["'acme'", "none"]),
    (
        AmbiguousDriver("fibre_channel", packages=["a", "b"]),
        {"name": "fibre_channel", "packages": ["a", "b"]},
        ["a, b", "XENVOL_DRIVER_FIBRE_CHANNEL"],
    ),
    (
        InvalidDriver("rbd", package="acme", problem="no connect_volume"),
        {"name": "rbd", "package": "acme", "problem": "no connect_volume"},
        ["'rbd'", "acme", "no connect_volume"],
    ),
    (
        DriverLoadFailed("rbd", package="acme", cause=ImportError("no librbd")),
        {"name": "rbd", "package": "acme", "reason": "ImportError: no librbd"},
        ["'rbd'", "acme", "no librbd"],
    ),
    (ForbiddenCall("SR.create"), {"call": "SR.create"}, ["SR.create", "introduce"]),
    (ForbiddenCall("SR.create", driver="rbd"), {"driver": "rbd"}, ["rbd"]),
    (ExtendNotSupported("rbd"), {"driver": "rbd"}, ["'rbd'", "attach it again"]),
    (
        VolumeNotFound("LUN 0 of iqn.a", found=["LUN 1", "LUN 2"]),
        {"what": "LUN 0 of iqn.a", "found": ["LUN 1", "LUN 2"]},
        ["LUN 0 of iqn.a", "LUN 1, LUN 2"],
    ),
    (VolumeNotFound("LUN 0"), {"found": []}, ["nothing"]),
    (WrongVolume("SCSI id 36", found="37"), {"expected": "SCSI id 36", "found": "37"}, ["SCSI id 36", "37"]),
    (UnmanagedVDI("v"), {"vdi": "v"}, ["v"]),
    (
        HalfWrittenDisk("v", is_new=False, machine="h/1", began=None, has_failed=True),
        {"vdi": "v", "is_new": False, "machine": "h/1", "began": None, "has_failed": True},
        ["v", "h/1", "fill the disk again"],
    ),
    (VolumeInUse("v", users=["web"]), {"vdi": "v", "users": ["web"]}, ["web", "multiattach"]),
    (
        UnsupportedSRType("iscsi", host="h1", offered=["nfs", "lvm"]),
        {"sr_type": "iscsi", "host": "h1", "offered": ["lvm", "nfs"]},
        ["'iscsi'", "h1", "lvm, nfs"],
    ),
    (HostNotReady("h1", problem="no initiator IQN"), {"host": "h1", "problem": "no initiator IQN"}, ["h1"]),
    (
        XapiError("SR_UUID_EXISTS", ["u"], "SR.introduce"),
        {"code": "SR_UUID_EXISTS", "params": ("u",), "call": "SR.introduce"},
        ["SR.introduce", "SR_UUID_EXISTS [u]", "use that"],
    ),
    (
        XapiUnreachable("SR.forget", TimeoutError("30 s")),
        {"call": "SR.forget", "reason": "TimeoutError: 30 s"},
        ["SR.forget", "30 s", "may have happened"],
    ),
    (
        DeadlineExceeded("PBD.plug", TimeoutError("timed out"), seconds=30),
        {"call": "PBD.plug", "seconds": 30, "was_sent": True},
        ["30 s", "PBD.plug", "may have happened", "more time"],
    ),
    (
        HostNotTrusted("SR.forget", UntrustedHost("the certificate of https://h is not the pinned one")),
        {"call": "SR.forget", "was_sent": False},
        ["https://h", "not the pinned one", "nothing was sent"],
    ),
]

every_example = pytest.mark.parametrize(
    ("error", "facts", "words"), EXAMPLES, ids=[type(error).__name__ for error, _, _ in EXAMPLES]
)


def test_every_error_has_an_example_here() -> None:
    """So that the tests below speak for all of them."""
    defined = {
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, XenVolError)
    }
    assert defined - {XenVolError} - (BLAMES - {XapiUnreachable}) == {type(error) for error, _, _ in EXAMPLES}


@every_example
def test_an_error_has_its_facts_as_attributes_and_in_its_message(
    error: XenVolError, facts: dict[str, object], words: list[str]
) -> None:
    """Decisions are made on attributes; the message is for people."""
    assert {name: getattr(error, name) for name in facts} == facts
    assert [word for word in words if word not in str(error)] == []
    assert not str(error).endswith(".")


@every_example
def test_an_error_is_one_partys_fault(error: XenVolError, facts: object, words: object) -> None:
    """Each belongs to exactly one blame."""
    assert len([blame for blame in BLAMES if isinstance(error, blame)]) == 1


@every_example
def test_an_error_survives_pickling_and_copying(
    error: XenVolError, facts: dict[str, object], words: object
) -> None:
    """With its facts, its message and its notes."""
    error = copy.copy(error)
    error.add_note("not undone: introduced SR")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert repr(twin) == repr(error)
        assert {name: getattr(twin, name) for name in facts} == facts
        assert twin.__notes__ == ["not undone: introduced SR"]


def test_a_silence_survives_pickling_whatever_caused_it() -> None:
    """Some transport errors can be pickled and not unpickled; their text travels instead."""
    cause = xmlrpc.client.ProtocolError("pool/RPC2", 502, "Bad Gateway", {})
    error = XapiUnreachable("SR.scan", cause)
    assert error.cause is cause
    twin = pickle.loads(pickle.dumps(error))
    assert twin.cause is None
    assert "502" in twin.reason


def test_the_parameters_of_a_refusal_are_verbatim_and_complete() -> None:
    """The message shows the beginning of a long one, and the attribute has all of it."""
    xml = "<iscsi-target-iqns>" + "x" * 5000
    error = XapiError("SR_BACKEND_FAILURE_96", ["", "missing", xml], "PBD.plug")
    assert error.params == ("", "missing", xml)
    assert len(str(error)) < 600
    assert "targetIQN" in str(error)


@pytest.mark.parametrize("number", [46, 47, 68, 73, 83, 96, 97, 102, 107, 140, 141, 142, 202])
def test_common_storage_failures_have_a_remedy_of_their_own(number: int) -> None:
    """A number says nothing to people."""
    error = XapiError(f"SR_BACKEND_FAILURE_{number}", ["", "text", ""], "PBD.plug")
    assert error.hint is not None
    assert error.hint in str(error)
    assert "SMlog" not in error.hint


@pytest.mark.parametrize("code", ["SR_BACKEND_FAILURE_9999", "SR_BACKEND_FAILURE", "SR_BACKEND_FAILURE_x"])
def test_other_storage_failures_point_to_the_log(code: str) -> None:
    """The storage manager writes what happened on the host."""
    remedy = find_remedy(code)
    assert remedy is not None
    assert "SMlog" in remedy.text


def test_a_code_without_a_remedy_stands_for_itself() -> None:
    """No remedy is better than an invented one."""
    error = XapiError("SOMETHING_NEW", [], "VM.start")
    assert error.hint is None
    assert not error.is_transient
    assert str(error) == "VM.start was refused: SOMETHING_NEW"


@pytest.mark.parametrize(
    ("code", "transient"),
    [("OTHER_OPERATION_IN_PROGRESS", True), ("TOO_MANY_PENDING_TASKS", True), ("UUID_INVALID", False)],
)
def test_a_refusal_knows_whether_waiting_helps(code: str, transient: bool) -> None:
    """What waits and retries asks this, and not the text."""
    assert XapiError(code, [], "SR.scan").is_transient is transient


def test_a_refusal_shows_no_password_and_no_session() -> None:
    """A crashed storage driver dumps its request, and a session's reference is as good as a login."""
    dump = "{'chapuser': 'me', 'chappassword': 'canary-1'} <name>chappassword</name><value>canary-2</value>"
    crash = XapiError("SR_BACKEND_FAILURE", ["1", "", dump], "PBD.plug")
    expired = XapiError("SESSION_INVALID", ["OpaqueRef:canary-3"], "VM.get_record")
    gone = XapiError("HANDLE_INVALID", ["session", "OpaqueRef:canary-4"], "session.logout")
    silence = XapiUnreachable("SR.scan", OSError("http://root:canary-5@pool/ failed"))
    shown = [f"{error} {error!r} {error.args}" for error in (crash, expired, gone, silence)]
    assert not [text for text in shown if "canary" in text]
    assert "canary" not in str(crash.params)
    assert b"canary" not in pickle.dumps(crash)
