"""No secret of a request shows: every operation, every call of it refused in words that repeat the secrets.

Looked at are the error and all errors that it came from, their notes, every log record, and the variables of every
frame that they passed. An interrupt passes the frames that send: there the text is in the clear, and nowhere above.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import traceback
import xmlrpc.client
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any
from urllib.parse import quote

import pytest
import XenAPI

import xenvol
from tests.scenarios import CHAP, GIB, SR_UUID, VDI_UUID, arrange_target, changes, iscsi, touch_hosts
from xenvol.drivers import registry
from xenvol.drivers.base import VolumeDriver
from xenvol.errors import InvalidConnectionInfo, XapiError, XenVolError
from xenvol.secret import Secret
from xenvol.session import Session
from xenvol.session.refs import VDIRef
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps

HERE, LIBRARY = Path(__file__), Path(xenvol.__file__).parent
SENDING = ("xenvol/session/clients.py", "xenvol/session/foreign.py")
"""Where secrets are revealed; what is called from there (the client, the transport) sends them."""

CANARIES = {
    "password": CHAP[1],
    "mutual": """ca<n>ary & 'mutual' "secret" \\ 1/2""",
    "option": "canary-in-an-option",
    "url": "canary-in-a-url",
    "digits": "4711000815",
    "nested": "canary-that-is-nested",
    "wrapped": "canary-that-was-wrapped",
    "beside": "canary-beside-the-data",
}


UNREAD: dict[str, Any] = {
    "options": f"ro,password={CANARIES['option']}",
    "management": f"https://admin:{CANARIES['url']}@array.example/",
    "san_password": int(CANARIES["digits"]),
    "logins": [{"credentials": {"one": [CANARIES["nested"]]}}],
    "api_token": Secret(CANARIES["wrapped"]),
    "other_password": CANARIES["mutual"],
}
"""Keys that no driver reads; their values are secrets nevertheless."""


def with_chap() -> dict[str, Any]:
    """Every form in which a service may send a secret, read by the driver or not."""
    return {
        **iscsi(
            0,
            auth_method="CHAP",
            auth_username=CHAP[0],
            auth_password=CANARIES["password"],
            discovery_auth_method="CHAP",
            discovery_auth_username=CHAP[0],
            discovery_auth_password=CANARIES["password"],
            incoming_auth_username="array",
            incoming_auth_password=CANARIES["mutual"],
            **UNREAD,
        ),
        "volume_id": "volume-0",
        "keyring": CANARIES["beside"],
    }


def arrange_chap(xapi: Simulator) -> None:
    arrange_target(xapi, chap=CHAP, mutual_chap=("array", CANARIES["mutual"]))


def on_smb() -> dict[str, Any]:
    return {
        "driver_volume_type": "xensm",
        "data": {
            "volume_id": "volume-smb",
            "sr_uuid": SR_UUID,
            "vdi_uuid": VDI_UUID,
            "sr_type": "smb",
            "server": "//10.0.0.4/vols",
            "username": CHAP[0],
            "password": Secret(CANARIES["password"]),
            "introduce_sr_keys": ["sr_type", "server", "username", "password"],
            **UNREAD,
        },
        "keyring": CANARIES["beside"],
    }


def arrange_smb(xapi: Simulator) -> None:
    share = xapi.storage.shares.add_smb("10.0.0.4", "vols", size=100 * GIB, credentials=CHAP)
    share.filesystem.root.make_directory(SR_UUID).add_vhd(VDI_UUID, GIB)


REQUESTS = {"iscsi": (arrange_chap, with_chap), "smb": (arrange_smb, on_smb)}


def attach(ops: VolumeOps, info: dict[str, Any]) -> object:
    return ops.attach_volume(info, "web", "/dev/xvdb")


def connect(ops: VolumeOps, info: dict[str, Any]) -> object:
    return ops.connect_volume(info)


def nothing(ops: VolumeOps, info: dict[str, Any]) -> object:
    return None


Run = Callable[[VolumeOps, dict[str, Any]], object]
OPERATIONS: dict[str, tuple[Run, Run]] = {
    "attach": (nothing, attach),
    "attach again": (attach, attach),
    "detach": (attach, lambda ops, info: ops.detach_volume(info, "web")),
    "connect": (nothing, connect),
    "disconnect": (connect, lambda ops, info: ops.disconnect_volume(info)),
    "extend": (connect, lambda ops, info: ops.extend_volume(info)),
    "prepare a migration": (attach, lambda ops, info: ops.prepare_migration("web", "host2", [info])),
}
"""By name: what is called before, and what is looked at."""


# ---- what shows


def spellings(canary: str) -> set[str]:
    xml = canary.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {canary, repr(canary)[1:-1], json.dumps(canary)[1:-1], quote(canary), xml}


SPELLED = {form for canary in CANARIES.values() for form in spellings(canary)}


_SPELLED = re.compile("|".join(map(re.escape, sorted(SPELLED))))


def shows(text: str) -> bool:
    return _SPELLED.search(text) is not None


def errors_of(error: BaseException) -> Iterator[BaseException]:
    left, seen = [error], set()
    while left:
        each = left.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            left += [more for more in (each.__cause__, each.__context__) if more is not None]


def texts_in(value: object, seen: set[int], depth: int = 0) -> Iterator[str]:
    """Every text that can be reached from a value: through collections, the fields of objects, and closures."""
    if isinstance(value, Secret) or id(value) in seen or depth > 12:
        return
    seen.add(id(value))
    if isinstance(value, str | int | bytes):
        yield str(value)
        return
    if type(value) not in (dict, list, tuple, set, frozenset):  # those say what their items say
        yield repr(value)
    inside: list[object] = []
    if isinstance(value, Mapping):
        inside += [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        inside += value
    elif isinstance(value, FunctionType):
        inside += [cell.cell_contents for cell in value.__closure__ or () if cell != type(cell)()]
    elif type(value).__module__.startswith(("xenvol", "tenacity")) and not isinstance(value, Simulator):
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        inside += [getattr(value, name) for name in slots if hasattr(value, name)]
        inside += vars(value).values() if hasattr(value, "__dict__") else []
    for item in inside:
        yield from texts_in(item, seen, depth + 1)


def leaks_of_frames(error: BaseException) -> Iterator[str]:
    """Errors of ours come without the frames that send; what nobody translates (an interrupt) passes them."""
    trace = error.__traceback__
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        file = frame.f_code.co_filename
        if Path(file) == HERE:
            continue  # the caller's
        for name, value in list(frame.f_locals.items()):
            if any(shows(text) for text in texts_in(value, set())):
                yield f"variable {name} of {frame.f_code.co_qualname} in {file}"
        if file.endswith(SENDING) and not isinstance(error, XenVolError | XenAPI.Failure | OSError):
            return  # what it calls sends


def leaks(error: BaseException) -> list[str]:
    found = []
    for each in errors_of(error):
        kind = type(each).__name__
        texts = [str(each), repr(each), *texts_in(each.args, set()), *texts_in(vars(each), set())]
        found += [f"text of {kind}: {text}" for text in texts if shows(text)]
        found += [f"{kind}: {leak}" for leak in leaks_of_frames(each)]
    return found


def leaks_of_logs(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        f"log {record.name}: {record.getMessage()}"
        for record in caplog.records
        if shows(record.getMessage()) or any(shows(text) for text in texts_in(record.args, set()))
    ]


# ---- what goes wrong


ECHO = [*sorted(SPELLED), repr(list(CANARIES.values())), json.dumps(CANARIES)]


TOLD = " ".join(ECHO)


class Echoing:
    """Somebody else's session, whose n-th call fails in words that repeat what it was told, and all canaries."""

    def __init__(self, xapi: Simulator, failure: Callable[[tuple[object, ...]], Exception]) -> None:
        self._client = XenAPI.Session(xapi.url)
        self._client.login_with_password(xapi.user, xapi.password)
        self._failure = failure
        self.calls, self.nth = 0, 0

    @property
    def xenapi(self) -> Any:
        return _Name(self, "")

    def close(self) -> None:
        self._client.xenapi.session.logout()
        self._client("close")()

    def call(self, name: str, params: tuple[object, ...]) -> object:
        self.calls += 1
        if self.calls == self.nth:
            raise self._failure(params)
        target = self._client.xenapi
        for part in name.split("."):
            target = getattr(target, part)
        return target(*params)


class _Name:
    def __init__(self, session: Echoing, name: str) -> None:
        self._session, self._name = session, name

    def __getattr__(self, part: str) -> _Name:
        return _Name(self._session, f"{self._name}.{part}".lstrip("."))

    def __call__(self, *params: object) -> object:
        return self._session.call(self._name, params)


FAILURES: dict[str, Callable[[tuple[object, ...]], Exception]] = {
    "refusal": lambda params: XenAPI.Failure(["SR_BACKEND_FAILURE_1200", "", repr(params), *ECHO]),
    "fault": lambda params: xmlrpc.client.Fault(1, f"{params} {TOLD}"),
    "silence": lambda params: ConnectionResetError(104, f"{params} {TOLD}", TOLD),
    "protocol": lambda params: xmlrpc.client.ProtocolError("url", 500, f"{params} {TOLD}", {}),
    "another's": lambda params: RuntimeError(params, ECHO, {"sent": ECHO}),
}


@pytest.fixture(autouse=True)
def every_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="")


CASES = [
    pytest.param(
        request,
        operation,
        failure,
        id=f"{request}, {operation}, {failure}",
        marks=[] if (request, operation) == ("iscsi", "attach") else [pytest.mark.slow],
    )
    for request in REQUESTS
    for operation in OPERATIONS
    for failure in FAILURES
    if request == "iscsi" or failure in ("refusal", "another's")
]


@pytest.mark.xapi(hosts=2)
@pytest.mark.parametrize(("request_", "operation", "failure"), CASES)
def test_no_secret_shows_whichever_call_fails(
    xapi: Simulator, caplog: pytest.LogCaptureFixture, request_: str, operation: str, failure: str
) -> None:
    """Through a session of the official client, or of anybody: any failure, in words that repeat what was sent."""
    with contextlib.closing(Echoing(xapi, FAILURES[failure])) as session:

        def strike(nth: int) -> None:
            session.calls, session.nth = 0, nth

        _check_each_call(xapi, Session(session, sleep=lambda seconds: None), request_, operation, strike)
    assert leaks_of_logs(caplog) == []


@pytest.mark.xapi(hosts=2)
@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(operation, marks=[] if operation == "attach" else [pytest.mark.slow])
        for operation in OPERATIONS
    ],
)
def test_no_secret_shows_through_our_own_session(
    xapi: Simulator, caplog: pytest.LogCaptureFixture, operation: str
) -> None:
    """xapi refuses, in the words of a driver's command; or its answer is lost."""

    def refuse(nth: int) -> None:
        xapi.faults.clear()
        if nth:
            xapi.faults.refuse("*", "SR_BACKEND_FAILURE_1200", "", *ECHO, nth=nth)

    def lose(nth: int) -> None:
        xapi.faults.clear()
        if nth:
            xapi.faults.lose_answer("*", nth=nth, every=True)

    for strike in (refuse, lose):
        xapi.reset()
        with xenvol.connect(xapi.url, xapi.user, xapi.password) as own:
            session = Session(own, sleep=lambda seconds: None)
            _check_each_call(xapi, session, "iscsi", operation, strike)
    assert leaks_of_logs(caplog) == []


def _check_each_call(
    xapi: Simulator, session: Session, request: str, operation: str, strike: Callable[[int], None]
) -> None:
    """Strike each call in turn; look at the error, then detach: nothing is left."""
    arrange, make_info = REQUESTS[request]
    prepare, run = OPERATIONS[operation]
    arrange(xapi)
    touch_hosts(xapi)
    xapi.add_vm("web", resident_on=xapi.db.refs("host")[0])
    ops = VolumeOps(session)
    pristine = xapi.snapshot()
    prepare(ops, make_info())
    kept = xapi.checkpoint()
    with xapi.journal.recording() as calls:
        run(ops, make_info())
    for nth in range(1, len(calls.methods()) + 1):
        xapi.restore(kept)
        strike(nth)
        left: list[str] = []
        try:
            run(ops, make_info())
        except Exception as error:  # noqa: BLE001  # whatever leaves is looked at
            left = leaks(error)
        assert left == [], f"call {nth}"
        strike(0)
        ops.detach_volume(make_info(), "web")
        assert changes(pristine, xapi.snapshot()) == [], f"call {nth}"


def test_no_secret_shows_where_the_operation_is_interrupted(xapi: Simulator) -> None:
    arrange_chap(xapi)
    xapi.add_vm("web")

    def interrupt(params: tuple[object, ...]) -> Exception:
        raise KeyboardInterrupt(TOLD)

    with contextlib.closing(Echoing(xapi, interrupt)) as session:
        before = xapi.snapshot()
        for nth in range(1, 12):
            session.calls, session.nth = 0, nth
            with pytest.raises(KeyboardInterrupt) as caught:
                attach(VolumeOps(session), with_chap())
            assert leaks(caught.value) == [], f"call {nth}"
            frames = [frame.f_code.co_qualname for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
            assert "Echoing.call" in frames, "where it was interrupted can still be read"
            assert changes(before, xapi.snapshot()) == [], f"call {nth}"


@pytest.mark.parametrize(
    "change",
    [
        {"driver_volume_type": None},
        {"driver_volume_type": "unheard of"},
        {"access_mode": "sideways"},
        {"data": {**iscsi(0)["data"], **UNREAD, "auth_method": "CHAP", "auth_username": "user1"}},
        {"data": {**iscsi(0)["data"], **UNREAD, "target_lun": "x"}},
        {"data": {**iscsi(0)["data"], **UNREAD, "auth_password": {"a": CANARIES["password"]}}},
        {"data": 5},
    ],
)
def test_no_secret_of_a_request_that_cannot_be_shows(
    xapi: Simulator, volume_ops: VolumeOps, change: dict[str, Any]
) -> None:
    arrange_chap(xapi)
    xapi.add_vm("web")
    attach(volume_ops, with_chap())
    wrong = {**with_chap(), **change}
    for ask in (attach, connect, lambda ops, info: ops.prepare_migration("web", "host1", [info])):
        with pytest.raises(XenVolError) as caught:
            ask(volume_ops, wrong)
        assert leaks(caught.value) == []


@pytest.mark.parametrize("make", [json.dumps, lambda info: json.dumps(info).encode(), lambda info: [info]])
def test_no_secret_of_what_is_no_connection_info_shows(
    volume_ops: VolumeOps, make: Callable[[object], Any]
) -> None:
    given = make({"data": {"auth_password": CANARIES["password"]}})
    for _, run in OPERATIONS.values():
        with pytest.raises(InvalidConnectionInfo, match=f"is a {type(given).__name__}") as caught:
            run(volume_ops, given)
        assert leaks(caught.value) == []


def test_no_password_of_a_log_in_shows(xapi: Simulator) -> None:
    for user, password in (("nobody", CANARIES["mutual"]), ("root", Secret(CANARIES["mutual"]))):
        with pytest.raises(XapiError, match="AUTHENTICATION") as caught:
            xenvol.connect(xapi.url, user, password)
        assert leaks(caught.value) == []


class _Careless(VolumeDriver):
    """A stranger's, that reveals the password in its errors, and in what it has to take back."""

    def connect_volume(self, connection_data: Mapping[str, object]) -> VDIRef:
        told = connection_data["auth_password"]
        assert isinstance(told, Secret)
        password = f"used {Secret(told.reveal())!r}", told

        def fail() -> None:
            raise RuntimeError("logout", told.reveal())

        self.undo.did("logged in", fail)
        assert password
        raise _refusal_of(told)

    def disconnect_volume(self, connection_data: Mapping[str, object]) -> None: ...


def _refusal_of(password: Secret) -> Exception:
    error = ExceptionGroup(
        "two things", [ValueError(f"login {password.reveal()}"), OSError(1, password.reveal())]
    )
    error.add_note(f"with {password.reveal()}")
    return error


def test_no_secret_shows_that_a_driver_tells_in_its_own_errors(
    xapi: Simulator,
    volume_ops: VolumeOps,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(registry, "get_driver_class", lambda name, prefer: _Careless)
    xapi.add_vm("web")
    before = xapi.snapshot()
    with pytest.raises(ExceptionGroup) as caught:
        attach(volume_ops, with_chap())
    inside = [*caught.value.exceptions, caught.value]
    assert not [
        text for error in inside for text in (str(error), repr(error), str(vars(error))) if shows(text)
    ]
    assert "not undone: logged in (RuntimeError: ('logout', '***'))" in caplog.text
    assert leaks_of_logs(caplog) == []
    assert changes(before, xapi.snapshot()) == []


@pytest.mark.parametrize("password", ["BACKEND_FAILURE", "SR_BACKEND_FAILURE_1200"])
def test_an_error_code_stays_readable_where_a_password_reads_like_it(
    xapi: Simulator, volume_ops: VolumeOps, password: str
) -> None:
    """The same text in the words of the refusal is masked."""
    arrange_target(xapi, chap=(CHAP[0], password))
    xapi.add_vm("web")
    xapi.faults.refuse("PBD.plug", "SR_BACKEND_FAILURE_1200", "", f"login with {password} failed", "")
    with pytest.raises(XapiError) as caught:
        volume_ops.attach_volume(
            iscsi(0, auth_method="CHAP", auth_username=CHAP[0], auth_password=password), "web"
        )
    assert caught.value.code == "SR_BACKEND_FAILURE_1200"
    assert caught.value.params[1] == "login with *** failed"
    cause = caught.value.__cause__
    assert isinstance(cause, XenAPI.Failure)
    assert cause.details[:3] == ["SR_BACKEND_FAILURE_1200", "", "login with *** failed"]
