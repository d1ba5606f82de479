"""Both codecs, byte by byte against recorded bodies, and HTTP beyond the recordings."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xmlrpc.client import loads

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvol.simulator import Simulator, jsonrpc, xmlrpc
from xenvol.simulator.failure import Garbage
from xenvol.simulator.values import Date, Int32, Wire

RECORDED = Path(__file__).parents[1] / "data" / "recordings" / "wire"


def recorded(protocol: str) -> list[Any]:
    lines = [
        json.loads(line)
        for path in sorted(RECORDED.glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    return [
        pytest.param(line, id=f"{number}-{line['note']}")
        for number, line in enumerate(lines)
        if line["proto"] == protocol and line["status"] == 200
    ]


def read_answer(element: ET.Element) -> Wire:
    """Read a recorded `<value>`, without the code under test."""
    if len(element) == 0:
        return element.text or ""
    inner = element[0]
    match inner.tag:
        case "boolean":
            return inner.text == "1"
        case "double":
            return float(inner.text or "")
        case "dateTime.iso8601":
            return Date(inner.text or "")
        case "i4":
            return Int32(int(inner.text or ""))
        case "array":
            return [read_answer(item) for item in inner[0]]
        case "struct":
            return {member[0].text: read_answer(member[1]) for member in inner}
    raise AssertionError(f"a type that no recording has: {inner.tag}")


@pytest.mark.parametrize("line", recorded("xmlrpc"))
def test_an_xmlrpc_answer_is_written_as_xapi_wrote_it(line: dict[str, Any]) -> None:
    value = ET.fromstring(line["response"]).find("params/param/value")
    assert value is not None
    assert xmlrpc.bare(read_answer(value)).decode() == line["response"]


@pytest.mark.parametrize("line", [*recorded("jsonrpc"), *recorded("jsonrpc2")])
def test_a_jsonrpc_answer_is_written_as_xapi_wrote_it(line: dict[str, Any]) -> None:
    call = jsonrpc.parse_call(line["request"].encode())
    answer = json.loads(line["response"])
    if answer.get("error") is None:
        written = jsonrpc.success(call, answer["result"])
    elif call.version == 2:
        written = jsonrpc.failure(call, [answer["error"]["message"], *answer["error"]["data"]])
    else:
        written = jsonrpc.failure(call, answer["error"])
    assert written.decode() == line["response"]


@pytest.mark.parametrize("line", recorded("xmlrpc"))
def test_an_xmlrpc_request_is_read_as_pythons_own_reader_does(line: dict[str, Any]) -> None:
    params, method = loads(line["request"])
    assert xmlrpc.parse_call(line["request"].encode()) == (method, list(params))


# ---- round trips

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"))
INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT = st.floats(allow_nan=False)
SCALAR = st.one_of(TEXT, INT64, st.booleans(), FLOAT, st.none())
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT.filter(bool), inner, max_size=4),
    max_leaves=20,
)


def as_tagged(value: Wire) -> str:
    """Return a value as a client may send it, with every type tagged."""
    match value:
        case None:
            return "<value><nil/></value>"
        case bool():
            return f"<value><boolean>{value:d}</boolean></value>"
        case int():
            return f"<value><i8>{value}</i8></value>"
        case float():
            return f"<value><double>{value!r}</double></value>"
        case str():
            return f"<value><string>{xmlrpc.escape(value)}</string></value>"
        case list():
            return f"<value><array><data>{''.join(map(as_tagged, value))}</data></array></value>"
    members = "".join(
        f"<member><name>{xmlrpc.escape(name)}</name>{as_tagged(item)}</member>"
        for name, item in value.items()
    )
    return f"<value><struct>{members}</struct></value>"


def request(params: list[Wire], method: str = "a.b") -> bytes:
    inner = "".join(f"<param>{as_tagged(param)}</param>" for param in params)
    return f"<methodCall><methodName>{method}</methodName><params>{inner}</params></methodCall>".encode()


@given(st.lists(VALUE, max_size=4))
def test_what_an_xmlrpc_client_sends_is_what_is_read(params: list[Wire]) -> None:
    assert xmlrpc.parse_call(request(params)) == ("a.b", params)


def as_the_client_sees(value: Wire) -> Wire:
    """Return a value as XML-RPC answers have it: integers as strings, and 16 digits of a double."""
    match value:
        case bool() | None:
            return value
        case int():
            return str(value)
        case float():
            return float(f"{value:.16g}")
        case list():
            return [as_the_client_sees(item) for item in value]
        case dict():
            return {name: as_the_client_sees(item) for name, item in value.items()}
    return value


@given(VALUE)
def test_what_is_written_is_what_pythons_xmlrpc_client_reads(value: Wire) -> None:
    (answer,), _ = loads(xmlrpc.success(value).decode())
    assert answer == {"Status": "Success", "Value": as_the_client_sees(value)}


@given(VALUE, st.sampled_from([1, 2]), st.integers() | st.text())
def test_what_is_written_is_what_a_json_client_reads(value: Wire, version: int, number: int | str) -> None:
    call = jsonrpc.JsonCall(version, number, "a.b", [])
    answer = json.loads(jsonrpc.success(call, value))
    assert answer["result"] == value
    assert answer["id"] == number


@given(st.lists(VALUE, max_size=4))
def test_what_a_json_client_sends_is_what_is_read(params: list[Wire]) -> None:
    body = json.dumps({"jsonrpc": "2.0", "method": "a.b", "params": params, "id": 1}).encode()
    assert jsonrpc.parse_call(body) == jsonrpc.JsonCall(2, 1, "a.b", params)


@pytest.mark.parametrize("character", ["\0", "\x04", "\x1b", "\ufffe", "\ud800"])
def test_a_character_that_xml_does_not_have_is_replaced(character: str) -> None:
    """As in an error that quotes the bytes that a client sent."""
    written = xmlrpc.failure([f"a{character}b", "\t\n ä \U0001f600"])
    ((answer,), _) = loads(written)
    assert answer["ErrorDescription"] == ["a\ufffdb", "\t\n ä \U0001f600"]  # type: ignore[index]  # of what loads returns


@given(st.binary(max_size=200))
def test_rubbish_is_garbage_and_nothing_else(body: bytes) -> None:
    for parse in (xmlrpc.parse_call, jsonrpc.parse_call):
        with pytest.raises(Garbage):
            parse(body)


# ---- what xapi does not read


@pytest.mark.parametrize(
    "value",
    [
        "<value><int>99999999999999999999</int></value>",
        "<value><int>5.0</int></value>",
        "<value><double>x</double></value>",
        "<value><unknown>1</unknown></value>",
        "<value><struct><member><name></name><value>x</value></member></struct></value>",
        "<value><struct><member><value>x</value></member></struct></value>",
        "<value><array><value>x</value></array></value>",
        "<value><string>a</string><string>b</string></value>",
        "<value>text<string>a</string></value>",
        "<value>&eacute;</value>",
        "<value>\x01</value>",
        "<string>x</string>",
    ],
)
def test_a_value_that_xapi_does_not_read_is_garbage(value: str) -> None:
    body = f"<methodCall><methodName>a</methodName><params><param>{value}</param></params></methodCall>"
    with pytest.raises(Garbage):
        xmlrpc.parse_call(body.encode())


@pytest.mark.parametrize("text", ["true", "2", "", " 1"])
def test_a_boolean_that_is_not_1_is_false(text: str) -> None:
    body = request([]).replace(
        b"<params></params>",
        f"<params><param><value><boolean>{text}</boolean></value></param></params>".encode(),
    )
    assert xmlrpc.parse_call(body)[1] == [False]


@pytest.mark.parametrize("name", [b"\\udc80", b"\xff", b"caf\xe9"])
def test_a_json_string_that_is_no_utf_8_is_an_invalid_value(
    connection: http.client.HTTPConnection, name: bytes
) -> None:
    body = b'{"method": "VM.get_by_name_label", "params": ["x", "' + name + b'"], "id": 1}'
    connection.request("POST", "/jsonrpc", body)
    code, what, _ = json.loads(connection.getresponse().read())["error"]
    assert (code, what) == ("INVALID_VALUE", "Invalid UTF-8 string in parameter")


# ---- HTTP


@pytest.fixture
def connection(xapi: Simulator) -> Iterator[http.client.HTTPConnection]:
    found = http.client.HTTPConnection("127.0.0.1", xapi.port, timeout=60)
    yield found
    found.close()


LISTING = request(["OpaqueRef:NULL"], "VM.get_all")


def test_one_connection_serves_many_requests(connection: http.client.HTTPConnection) -> None:
    sockets = set()
    for _ in range(3):
        connection.request("POST", "/", LISTING)
        answer = connection.getresponse()
        assert b"SESSION_INVALID" in answer.read()
        sockets.add(connection.sock)
    assert len(sockets) == 1


def test_a_page_of_html_ends_the_connection(connection: http.client.HTTPConnection) -> None:
    connection.request("POST", "/", b"rubbish")
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("connection")) == (500, "close")
    assert b"<h1>HTTP 500 internal server error</h1>" in answer.read()


def test_a_body_above_300_kib_is_refused(connection: http.client.HTTPConnection) -> None:
    connection.request("POST", "/", request(["x" * 300 * 1024]))
    assert connection.getresponse().status == 413


def test_requests_may_be_sent_before_the_answers_are_read(xapi: Simulator) -> None:
    head = f"POST / HTTP/1.1\r\nContent-Length: {len(LISTING)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", xapi.port), timeout=60) as client:
        client.sendall((head + LISTING) * 2 + head.replace(b"1.1", b"1.0", 1) + LISTING)
        received = b""
        while chunk := client.recv(65536):
            received += chunk
    assert received.count(b"SESSION_INVALID") == 3


def test_a_client_may_ask_before_it_sends_the_body(xapi: Simulator) -> None:
    with socket.create_connection(("127.0.0.1", xapi.port), timeout=60) as client:
        client.sendall(
            f"POST / HTTP/1.1\r\nContent-Length: {len(LISTING)}\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        client.sendall(LISTING)
        assert b"SESSION_INVALID" in client.recv(65536)


@pytest.mark.xapi(tls=True)
def test_the_same_is_spoken_over_tls(xapi: Simulator) -> None:
    context = ssl.create_default_context(cafile=xapi.ca_file)
    client = http.client.HTTPSConnection("127.0.0.1", xapi.port, timeout=60, context=context)
    try:
        client.request("POST", "/RPC2", LISTING)
        assert b"SESSION_INVALID" in client.getresponse().read()
    finally:
        client.close()


def test_a_client_that_speaks_no_tls_disturbs_no_other_client() -> None:
    with Simulator(tls=True) as xapi:
        with socket.create_connection(("127.0.0.1", xapi.port), timeout=60) as stranger:
            stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with contextlib.suppress(ConnectionError):  # TLS decides how the client learns it
                stranger.recv(100)
        context = ssl.create_default_context(cafile=xapi.ca_file)
        client = http.client.HTTPSConnection("127.0.0.1", xapi.port, timeout=60, context=context)
        client.request("GET", "/")
        assert client.getresponse().status == 403
        client.close()
