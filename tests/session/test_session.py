"""`Session` over a small HTTP server, and over sessions that the caller made."""

from __future__ import annotations

import contextlib
import http.client
import logging
import pickle
import threading
import traceback
import xmlrpc.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import XenAPI
from pytest_mock import MockerFixture
from tiny_xapi import Hang, HangUp, Raw, Refuse, TinyXapi

from xenvol.errors import ForbiddenCall, RequestError, XapiError, XapiUnreachable
from xenvol.secret import Secret
from xenvol.session import CallRecord, Session, connect
from xenvol.session.endpoint import UntrustedHost
from xenvol.session.session import ATTEMPTS, FORBIDDEN_TO_DRIVERS

CANARY = "tweety-4711-canary"


def raising(error: Exception) -> Any:
    def answer(*_: Any) -> None:
        raise error

    return answer


@pytest.fixture
def host() -> Iterator[TinyXapi]:
    with TinyXapi(answers={"SR.get_all": ["OpaqueRef:sr"], "SR.scan": "", "SR.forget": ""}).running() as host:
        yield host


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def session(host: TinyXapi, waits: list[float]) -> Iterator[Session]:
    """A session of `connect` that records its waits and does not wait."""
    with connect(host.url, "root", "secret", failover=False) as connected:
        yield Session(connected._wrapped, sleep=waits.append)


class TestCalls:
    def test_a_call_is_spelled_as_text_or_as_attributes(self, session: Session, host: TinyXapi) -> None:
        """xenvol adds the session's reference itself."""
        assert session.call("SR.get_all") == session.xenapi.SR.get_all() == ["OpaqueRef:sr"]
        assert host.received[-1] == ("SR.get_all", [session.handle])
        assert repr(session.xenapi.SR.scan) == "<XenAPI call SR.scan>"

    def test_what_is_no_call_is_refused_before_anything_is_sent(
        self, session: Session, host: TinyXapi
    ) -> None:
        """A method without its class is one example."""
        sent = len(host.received)
        for spelled in (session.xenapi.SR_scan, session.xenapi.SR, session.xenapi.Async.SR_scan):
            with pytest.raises(ValueError, match=r"Class\.method"):
                spelled("OpaqueRef:sr")
        with pytest.raises(AttributeError):
            _ = session.xenapi.__deepcopy__
        assert len(host.received) == sent

    def test_ints_are_sent_as_digits(self, session: Session, host: TinyXapi) -> None:
        """So are the ints in records and lists; a size of 3 TiB arrives."""
        host.answers["VDI.introduce"] = "OpaqueRef:vdi"
        session.call("VDI.introduce", 3 * 2**40, {"LUNid": 0}, True, ["a", 1])
        assert host.params("VDI.introduce") == ["3298534883328", {"LUNid": "0"}, True, ["a", "1"]]

    def test_find_sends_one_call_with_a_narrow_filter(self, session: Session, host: TinyXapi) -> None:
        """It returns records by reference."""
        host.answers["VBD.get_all_records_where"] = {"OpaqueRef:vbd": {"VM": "OpaqueRef:vm"}}
        sent = len(host.received)
        found = session.find("VBD", {"VM": "OpaqueRef:vm"}, either={"VDI": ["a", "b"], "userdevice": 1})
        assert found == {"OpaqueRef:vbd": {"VM": "OpaqueRef:vm"}}
        assert host.params("VBD.get_all_records_where") == [
            'field "VM" = "OpaqueRef:vm" and ((field "VDI" = "a" or field "VDI" = "b") or field "userdevice" = "1")'
        ]
        assert len(host.received) == sent + 1


class TestNoAndSilence:
    def test_a_refusal_has_code_params_and_call(self, session: Session, host: TinyXapi) -> None:
        """They are those of the official client's Failure, and the call is not retried."""
        host.answers["SR.forget"] = raising(Refuse("SR_HAS_PBD", "OpaqueRef:sr"))
        with pytest.raises(XapiError) as caught:
            session.xenapi.SR.forget("OpaqueRef:sr")
        error = caught.value
        assert (error.code, error.params, error.call) == ("SR_HAS_PBD", ("OpaqueRef:sr",), "SR.forget")
        assert isinstance(error.__cause__, XenAPI.Failure)
        assert host.calls("SR.forget") == 1

    def test_a_write_whose_answer_is_lost_is_sent_once(
        self, session: Session, host: TinyXapi, waits: list[float]
    ) -> None:
        """The change may have happened, and only the caller can find out."""
        host.answers["SR.forget"] = raising(HangUp())
        with pytest.raises(XapiUnreachable) as caught:
            session.call("SR.forget", "OpaqueRef:sr")
        assert caught.value.call == "SR.forget"
        assert isinstance(caught.value.__cause__, http.client.RemoteDisconnected)
        assert host.calls("SR.forget") == 1
        assert waits == []

    def test_a_read_whose_answer_is_lost_is_sent_again(
        self, session: Session, host: TinyXapi, waits: list[float]
    ) -> None:
        """It is sent until an answer comes."""
        fates = iter([HangUp(), Raw(b"", status=503), Raw(b"<garbage")])

        def answer(*_: Any) -> list[str]:
            for fate in fates:
                raise fate
            return ["OpaqueRef:sr"]

        host.answers["SR.get_all"] = answer
        assert session.call("SR.get_all") == ["OpaqueRef:sr"]
        assert host.calls("SR.get_all") == 4
        assert len(waits) == 3

    def test_a_read_is_not_sent_for_ever(self, session: Session, host: TinyXapi, waits: list[float]) -> None:
        """The waits are random, grow, and end."""
        host.answers["SR.get_all"] = raising(HangUp())
        with pytest.raises(XapiUnreachable):
            session.call("SR.get_all")
        assert host.calls("SR.get_all") == ATTEMPTS
        assert len(waits) == ATTEMPTS - 1
        assert all(0 <= wait <= 0.2 * 2**n for n, wait in enumerate(waits))

    def test_an_asynchronous_read_is_not_sent_again(self, session: Session, host: TinyXapi) -> None:
        """Each one makes a task."""
        host.answers["Async.SR.get_all"] = raising(HangUp())
        with pytest.raises(XapiUnreachable):
            session.xenapi.Async.SR.get_all()
        assert host.calls("Async.SR.get_all") == 1

    def test_a_host_that_hangs_is_silence_after_the_timeout(self, session: Session, host: TinyXapi) -> None:
        """A write is sent once, and so is a read if no time is left."""
        host.answers |= {"SR.scan": raising(Hang()), "SR.get_all": raising(Hang())}
        for call in ("SR.scan", "SR.get_all"):
            patient = Session(session._wrapped, retry_for=0.3)
            session._wrapped._clients._timeout = (
                0.3  # set after the log-in, which takes longer on a busy machine
            )
            with pytest.raises(XapiUnreachable) as caught:
                patient.call(call)
            assert isinstance(caught.value.__cause__, TimeoutError)
            assert host.calls(call) == 1

    def test_a_write_after_a_pause_in_which_the_host_hung_up_is_sent_once_and_works(
        self, session: Session, host: TinyXapi
    ) -> None:
        """It is not lost on a dead connection, and not sent over two."""
        session.call("SR.get_all")
        host.hang_up()
        session.call("SR.forget", "OpaqueRef:sr")
        assert host.calls("SR.forget") == 1

    def test_a_write_that_was_never_sent_is_tried_again(self) -> None:
        """xapi does not listen, so nothing has changed; a restart of xapi takes a while."""
        with TinyXapi().running() as host:
            connected = connect(host.url, "root", "secret", failover=False)
        restarted = TinyXapi(port=host.port, sessions=host.sessions, answers={"SR.forget": ""})
        with contextlib.ExitStack() as life:
            session = Session(connected._wrapped, sleep=lambda _: life.enter_context(restarted.running()))
            session.call("SR.forget", "OpaqueRef:sr")
            connected.close()
        assert restarted.calls("SR.forget") == 1
        assert restarted.calls("session.logout") == 1

    @pytest.mark.parametrize("code", ["TOO_MANY_PENDING_TASKS", "HOST_STILL_BOOTING"])
    def test_a_busy_xapi_is_asked_again_for_writes_too(
        self, session: Session, host: TinyXapi, waits: list[float], code: str
    ) -> None:
        """Nothing has changed, and xapi is busy for a short time; the retries end."""
        host.answers["SR.forget"] = raising(Refuse(code))
        with pytest.raises(XapiError) as caught:
            session.call("SR.forget", "OpaqueRef:sr")
        assert caught.value.code == code
        assert host.calls("SR.forget") == ATTEMPTS
        assert len(waits) == ATTEMPTS - 1

    def test_an_answer_without_a_status_is_silence(self, session: Session, host: TinyXapi) -> None:
        """The answer is valid XML-RPC without a result."""
        for answer in (
            "bare",
            {"Status": "Success"},
            {"Status": "Failure", "ErrorDescription": []},
            {"Status": "?"},
        ):
            host.answers["SR.scan"] = raising(
                Raw(xmlrpc.client.dumps((answer,), methodresponse=True).encode())
            )
            with pytest.raises(XapiUnreachable, match="not an answer of xapi"):
                session.call("SR.scan", "OpaqueRef:sr")

    def test_a_fault_is_silence(self, session: Session, host: TinyXapi) -> None:
        """xapi never refuses with a fault, so the result is unknown."""
        fault = xmlrpc.client.dumps(xmlrpc.client.Fault(1, "what?"), methodresponse=True)
        host.answers["SR.scan"] = raising(Raw(fault.encode()))
        with pytest.raises(XapiUnreachable):
            session.call("SR.scan", "OpaqueRef:sr")
        assert session.call("SR.get_all") == ["OpaqueRef:sr"]

    def test_errors_survive_pickling(self, session: Session, host: TinyXapi) -> None:
        """A worker process sends them to its parent."""
        host.answers["SR.scan"] = raising(HangUp())
        with pytest.raises(XapiUnreachable) as caught:
            session.call("SR.scan", "OpaqueRef:sr")
        assert pickle.loads(pickle.dumps(caught.value)).call == "SR.scan"


class TestRestricted:
    @pytest.mark.parametrize("prefix", ["", "Async.", "InternalAsync."])
    @pytest.mark.parametrize(
        "call",
        [
            "SR.create",
            "SR.destroy",
            "VDI.create",
            "VDI.destroy",
            "VDI.data_destroy",
            "VM.destroy",
            "VM.hard_shutdown",
            "VBD.create",
            "VBD.plug",
            "session.logout",
        ],
    )
    def test_a_driver_can_neither_format_nor_erase_nor_touch_a_vm(
        self, session: Session, host: TinyXapi, prefix: str, call: str
    ) -> None:
        """The error names the driver and the call, and nothing is sent."""
        view = session.restricted(driver="nfs")
        sent = len(host.received)
        with pytest.raises(ForbiddenCall, match=f"'nfs' may not call {prefix}{call}"):
            view.call(prefix + call, "OpaqueRef:x")
        with pytest.raises(ForbiddenCall):
            getattr(view.xenapi, (prefix + call).split(".")[0]).__getattr__(
                ".".join((prefix + call).split(".")[1:])
            )()
        assert len(host.received) == sent

    def test_what_a_driver_needs_is_allowed(self, session: Session, host: TinyXapi) -> None:
        """It introduces and forgets records, grows disks, and reads VBDs."""
        view = session.restricted(driver="iscsi")
        for call in (
            "SR.introduce",
            "SR.scan",
            "SR.forget",
            "PBD.create",
            "PBD.plug",
            "PBD.unplug",
            "PBD.destroy",
            "VDI.introduce",
            "VDI.forget",
            "VDI.resize",
            "secret.create",
            "secret.destroy",
            "VBD.get_all_records_where",
            "VM.get_record",
            "host.set_iscsi_iqn",
        ):
            host.answers[call] = ""
            assert view.call(call) == ""
        assert session.call("SR.get_all")

    def test_the_view_cannot_log_out_and_the_session_is_not_restricted_by_it(
        self, session: Session, host: TinyXapi
    ) -> None:
        """The session belongs to the caller."""
        view = session.restricted(driver="nfs")
        with pytest.raises(ForbiddenCall, match=r"session\.logout"):
            view.close()
        host.answers["VBD.plug"] = ""
        session.call("VBD.plug", "OpaqueRef:vbd")

    def test_restrictions_add_up_and_cannot_be_shaken_off(self, session: Session) -> None:
        """A driver cannot remove them by wrapping the view or by restricting it again."""
        view = session.restricted(driver="nfs")
        for again in (Session(view), view.restricted({"SR.scan"}), Session(view).restricted(())):
            with pytest.raises(ForbiddenCall, match="'nfs'"):
                again.call("SR.destroy", "OpaqueRef:sr")
        with pytest.raises(ForbiddenCall):
            view.restricted({"SR.scan"}).call("SR.scan", "OpaqueRef:sr")
        assert "SR.destroy" in FORBIDDEN_TO_DRIVERS


class TestForeignSessions:
    """A program that uses xenvol as a library may have a session already."""

    def test_the_official_client_is_wrapped(self, host: TinyXapi) -> None:
        """xenvol neither logs it in nor logs it out."""
        theirs = XenAPI.Session(host.url)
        with Session(theirs) as session:
            assert host.received == []
            theirs.login_with_password("root", "secret", "1.0", "theirs")
            assert session.call("SR.get_all") == session.xenapi.SR.get_all() == ["OpaqueRef:sr"]
            assert session.handle == theirs.handle
            assert session.endpoint is None
            with pytest.raises(RequestError, match="did not log in to this session"):
                session.log_in()
        assert host.calls("session.logout") == 0
        theirs.logout()
        theirs("close")()

    def test_an_official_client_serves_one_thread_at_a_time(self, host: TinyXapi) -> None:
        """It is one connection, on which answers could get mixed up."""
        theirs = XenAPI.Session(host.url)
        theirs.login_with_password("root", "secret")
        session = Session(theirs)
        host.answers["VM.get_by_name_label"] = lambda _, name: [name]
        with ThreadPoolExecutor(8) as threads:
            names = [str(n) for n in range(80)]
            assert list(threads.map(lambda n: session.call("VM.get_by_name_label", n), names)) == [
                [n] for n in names
            ]
        assert host.connections == 1
        theirs("close")()

    def test_an_official_client_serves_one_thread_at_a_time_though_each_has_a_session_over_it(
        self, host: TinyXapi
    ) -> None:
        """A service may make a new `Session` over its one client for each request."""
        theirs = XenAPI.Session(host.url)
        theirs.login_with_password("root", "secret")
        host.answers["VM.get_by_name_label"] = lambda _, name: [name]
        with ThreadPoolExecutor(8) as threads:
            names = [str(n) for n in range(80)]
            assert list(threads.map(lambda n: Session(theirs).call("VM.get_by_name_label", n), names)) == [
                [n] for n in names
            ]
        assert host.connections == 1
        theirs("close")()

    def test_an_official_client_that_cannot_renew_its_session_is_refused(self, host: TinyXapi) -> None:
        """A client that got a session without logging in raises a Fault of its own."""
        theirs = XenAPI.Session(host.url)
        theirs._session = "OpaqueRef:ended"
        with pytest.raises(XapiError) as caught:
            Session(theirs).call("SR.forget", "OpaqueRef:sr")
        assert caught.value.code == "SESSION_INVALID"
        theirs("close")()

    def test_a_mock_is_wrapped(self, mocker: MockerFixture) -> None:
        """Unit tests of drivers do this: the call arrives unchanged, with ints as digits."""
        mock = mocker.Mock()
        mock.xenapi.VDI.introduce.return_value = "OpaqueRef:vdi"
        session = Session(mock)
        assert session.xenapi.VDI.introduce("uuid", 5) == "OpaqueRef:vdi"
        mock.xenapi.VDI.introduce.assert_called_once_with("uuid", "5")
        session.xenapi.Async.SR.scan("OpaqueRef:sr")
        mock.xenapi.Async.SR.scan.assert_called_once_with("OpaqueRef:sr")
        session.close()
        mock.logout.assert_not_called()
        assert repr(session) == "<Session over Mock>"

    @pytest.mark.parametrize(
        "silence",
        [
            TimeoutError("timed out"),
            ConnectionResetError(104, "reset"),
            http.client.RemoteDisconnected("closed"),
            xmlrpc.client.ProtocolError("host/", 503, "unavailable", {}),
            http.client.BadStatusLine("x"),
            xmlrpc.client.ResponseError("no response"),
        ],
    )
    def test_a_mock_that_is_silent_is_unreachable(self, mocker: MockerFixture, silence: Exception) -> None:
        """The cases are the errors of its transport; a write is sent once."""
        mock = mocker.Mock()
        mock.xenapi.SR.forget.side_effect = silence
        with pytest.raises(XapiUnreachable) as caught:
            Session(mock).call("SR.forget", "OpaqueRef:sr")
        assert caught.value.__cause__ is caught.value.cause is silence
        assert mock.xenapi.SR.forget.call_count == 1

    def test_a_mock_that_refuses_gives_xapi_s_code(self, mocker: MockerFixture) -> None:
        """Vendors' tests raise XenAPI.Failure, as the official client does."""
        mock = mocker.Mock()
        mock.xenapi.SR.introduce.side_effect = XenAPI.Failure(["SR_UUID_EXISTS", "u"])
        with pytest.raises(XapiError) as caught:
            Session(mock).xenapi.SR.introduce("u")
        assert (caught.value.code, caught.value.params) == ("SR_UUID_EXISTS", ("u",))

    def test_a_foreign_connection_that_is_refused_was_never_used(self, mocker: MockerFixture) -> None:
        """Then even a write is retried."""
        mock = mocker.Mock()
        mock.xenapi.SR.forget.side_effect = [ConnectionRefusedError(111, "refused"), ""]
        assert Session(mock, sleep=lambda _: None).call("SR.forget", "OpaqueRef:sr") == ""

    def test_a_host_that_did_not_prove_itself_is_not_asked_again(self, mocker: MockerFixture) -> None:
        """A retry does not change its certificate."""
        mock = mocker.Mock()
        mock.xenapi.SR.get_all.side_effect = UntrustedHost("wrong certificate")
        with pytest.raises(XapiUnreachable, match="wrong certificate"):
            Session(mock).call("SR.get_all")
        assert mock.xenapi.SR.get_all.call_count == 1

    def test_a_bug_is_neither_a_refusal_nor_silence(self, mocker: MockerFixture) -> None:
        """A TypeError in a mock reaches the caller unchanged."""
        mock = mocker.Mock()
        mock.xenapi.SR.get_all.side_effect = TypeError("bug")
        with pytest.raises(TypeError, match="bug"):
            Session(mock).call("SR.get_all")
        assert mock.xenapi.SR.get_all.call_count == 1

    def test_wrapping_twice_is_wrapping_once(self, mocker: MockerFixture) -> None:
        """A call is retried and reported by one layer."""
        records: list[CallRecord] = []
        mock = mocker.Mock()
        mock.xenapi.SR.get_all.side_effect = ConnectionResetError
        twice = Session(Session(mock, on_call=records.append), sleep=lambda _: None)
        with pytest.raises(XapiUnreachable):
            twice.call("SR.get_all")
        assert mock.xenapi.SR.get_all.call_count == len(records) == ATTEMPTS


class TestRecords:
    def test_every_attempt_is_reported_with_its_outcome(self, host: TinyXapi) -> None:
        """This includes log-in and log-out, and calls through a driver's view."""
        records: list[CallRecord] = []
        fates = iter([HangUp()])

        def answer(*_: Any) -> list[str]:
            for fate in fates:
                raise fate
            return []

        host.answers |= {"VM.get_all": answer, "SR.forget": raising(Refuse("SR_HAS_PBD", "x"))}
        with connect(host.url, "root", "secret", failover=False, on_call=records.append) as session:
            session.call("VM.get_all")
            with pytest.raises(XapiError):
                session.restricted().call("SR.forget", "x")
        assert [(record.call, record.outcome) for record in records] == [
            ("session.login_with_password", "ok"),
            ("VM.get_all", "unreachable"),
            ("VM.get_all", "ok"),
            ("SR.forget", "SR_HAS_PBD"),
            ("session.logout", "ok"),
        ]
        assert all(0 <= record.seconds < 10 for record in records)

    def test_calls_are_logged_at_debug_and_only_there(
        self, host: TinyXapi, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The log shows their parameters, and not the reference of the session."""
        caplog.set_level(logging.DEBUG)
        with connect(host.url, "root", "secret", failover=False) as session:
            handle = session.handle
            session.call("SR.scan", "OpaqueRef:sr")
        assert "SR.scan('OpaqueRef:sr',): ok, 0.0" in caplog.text
        assert handle not in caplog.text
        assert {record.levelno for record in caplog.records} == {logging.DEBUG}


class TestSecrets:
    """No log and no error contains a password."""

    @pytest.fixture
    def everything(self) -> Iterator[list[str]]:
        """All log output with tracebacks, and all text that the test adds."""
        said: list[str] = []

        class Grep(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                said.append(self.format(record))

        root, handler = logging.getLogger(), Grep()
        level = root.level
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
        yield said
        root.removeHandler(handler)
        root.setLevel(level)
        assert len(said) > 1
        for words in said:
            assert CANARY not in words

    @pytest.mark.parametrize(
        "end", ["ok", "refused", "echoed", "silent", "garbage", "html", "echoed as garbage"]
    )
    @pytest.mark.parametrize(
        ("call", "params"),
        [
            ("secret.create", [{"value": CANARY, "other_config": {}}]),
            ("secret.create", [{"value": Secret(CANARY), "other_config": {}}]),
            (
                "PBD.create",
                [{"host": "h", "SR": "s", "device_config": {"chapuser": "u", "chappassword": CANARY}}],
            ),
            ("SR.probe", ["h", {"incoming_chappassword": CANARY}, "iscsi", {}]),
            ("SR.add_to_sm_config", ["s", "password", CANARY]),
            ("VM.call_plugin", ["vm", Secret(CANARY)]),
        ],
    )
    def test_a_password_in_a_call_is_nowhere_but_on_the_wire(
        self,
        host: TinyXapi,
        everything: list[str],
        call: str,
        params: Any,
        end: str,
    ) -> None:
        """This holds for every outcome of the call, and for all that xapi quotes."""
        garbage = f"<methodResponse><params><param><value><int>{CANARY}</int></value></param></params></methodResponse>"
        host.answers[call] = {
            "ok": "OpaqueRef:new",
            "refused": raising(Refuse("INTERNAL_ERROR", "boom")),
            "echoed": raising(Refuse("INVALID_VALUE", "value", f"<{CANARY}>")),
            "silent": raising(HangUp()),
            "garbage": raising(Raw(b"<garbage")),
            "html": raising(Raw(f"<html>{CANARY}</html>".encode(), status=500)),
            "echoed as garbage": raising(Raw(garbage.encode())),
        }[end]
        with connect(host.url, "root", CANARY + "-login", failover=False) as session:
            everything.append(repr(session))
            try:
                session.call(call, *params)
            except (XapiError, XapiUnreachable) as error:
                assert end != "ok"
                logging.getLogger("xenvol.test").exception("it failed")
                everything += [
                    repr(error),
                    str(error),
                    "".join(traceback.format_exception(error)),
                    repr(vars(error)),
                ]
                everything += [repr(error.__cause__), repr(error.__context__)]
            else:
                assert end == "ok"
        assert CANARY in repr(host.received)

    @pytest.fixture
    def host(self) -> Iterator[TinyXapi]:
        with TinyXapi(password=CANARY + "-login").running() as host:
            yield host

    def test_an_echo_is_masked_and_the_rest_stays_verbatim(self, host: TinyXapi) -> None:
        """The rest is enough to work with."""
        host.answers["secret.create"] = raising(Refuse("INVALID_VALUE", "value", f"<{CANARY}>"))
        with connect(host.url, "root", CANARY + "-login", failover=False) as session:
            with pytest.raises(XapiError) as caught:
                session.call("secret.create", {"value": Secret(CANARY)})
        assert (caught.value.code, caught.value.params) == ("INVALID_VALUE", ("value", "<***>"))

    def test_the_password_of_the_log_in_is_not_kept_in_the_clear(self, host: TinyXapi) -> None:
        """The official client keeps it in last_login_params; the clients of xenvol do not."""
        with connect(host.url, "root", CANARY + "-login", failover=False) as session:
            client = session._wrapped
            official, _ = client._clients._mine.client
            for thing in (session, client, official):
                assert CANARY not in repr(vars(thing))

    def test_a_refused_log_in_that_quotes_the_password_does_not(
        self, host: TinyXapi, everything: list[str]
    ) -> None:
        """A directory service might quote it."""
        host.answers["session.login_with_password"] = raising(
            Refuse("SESSION_AUTHENTICATION_FAILED", "root", f"bad password {CANARY}-login")
        )
        with pytest.raises(XapiError) as caught:
            connect(host.url, "root", CANARY + "-login")
        logging.getLogger("xenvol.test").error("it failed", exc_info=caught.value)
        everything += [repr(caught.value), str(caught.value), repr(vars(caught.value))]


def test_two_sessions_of_one_client_may_be_used_from_many_threads(host: TinyXapi) -> None:
    """One thread uses a driver's view, another the facade's session."""
    with connect(host.url, "root", "secret", failover=False) as session:
        view = session.restricted(driver="nfs")
        start = threading.Barrier(2)

        def work(which: Session) -> bool:
            start.wait()
            return all(which.call("SR.get_all") == ["OpaqueRef:sr"] for _ in range(20))

        with ThreadPoolExecutor(2) as threads:
            assert all(threads.map(work, [session, view]))
