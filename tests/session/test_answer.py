"""xenvol reads an answer as the standard library does, and refuses a body that is no answer."""

from __future__ import annotations

import xml.etree.ElementTree as ET
import xmlrpc.client
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvol.session.answer import read_answer

NO_ANSWER = (ET.ParseError, xmlrpc.client.ResponseError, ValueError, TypeError, LookupError)

TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff")
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
)


def answered(value: object) -> bytes:
    return xmlrpc.client.dumps((value,), methodresponse=True, allow_none=True).encode()


def in_value(inner: str) -> bytes:
    return f"<methodResponse><params><param><value>{inner}</value></param></params></methodResponse>".encode()


@given(VALUES)
def test_any_value_arrives_as_it_was(value: Any) -> None:
    assert read_answer(answered(value)) == value


@given(VALUES, st.data())
def test_a_broken_answer_is_refused_or_says_what_the_standard_library_reads_in_it(
    value: Any, data: st.DataObject
) -> None:
    """One byte is lost, doubled or changed."""
    body = bytearray(answered(value))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at : at + 1] = data.draw(st.sampled_from([b"", b"<", b"/", b">", b"x", b"&", body[at : at + 1] * 2]))
    try:
        found = read_answer(bytes(body))
    except (*NO_ANSWER, xmlrpc.client.Fault):
        return
    ((expected,), _) = xmlrpc.client.loads(bytes(body))
    assert found == expected


@pytest.mark.parametrize(
    ("inner", "value"),
    [
        ("bare &amp; &lt;text&gt;", "bare & <text>"),
        ("", ""),
        ("<string/>", ""),
        ("<i8>9007199254740993</i8>", 9007199254740993),
        (
            "<dateTime.iso8601>20261121T01:38:42Z</dateTime.iso8601>",
            xmlrpc.client.DateTime("20261121T01:38:42Z"),
        ),
        ("<base64>AAEC</base64>", xmlrpc.client.Binary(b"\0\1\2")),
        ("<array><data/></array>", []),
        ("<struct/>", {}),
        ("\n <struct>\n <member>\n <name>a</name>\n <value>1</value>\n </member>\n </struct>\n ", {"a": "1"}),
    ],
)
def test_what_xapi_writes_is_read(inner: str, value: object) -> None:
    """xapi writes text and integers without a type."""
    assert read_answer(in_value(inner)) == value


def test_a_fault_is_raised() -> None:
    body = xmlrpc.client.dumps(xmlrpc.client.Fault(1, "no"), methodresponse=True).encode()
    with pytest.raises(xmlrpc.client.Fault) as caught:
        read_answer(body)
    assert (caught.value.faultCode, caught.value.faultString) == (1, "no")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html/>",
        b"<methodResponse/>",
        b"<methodResponse><params/></methodResponse>",
        b"<methodResponse><params><param/></params></methodResponse>",
        b"<methodResponse><params><value>1</value></params></methodResponse>",
        b"<methodCall><params><param><value>1</value></param></params></methodCall>",
        in_value("<boolean>2</boolean>"),
        in_value("<int/>"),
        in_value("<unknown>1</unknown>"),
        in_value("<int>1</int><int>2</int>"),
        in_value("<array><value>1</value></array>"),
        in_value("<struct><member><value>1</value><name>a</name></member></struct>"),
        in_value("<struct><member><name>a</name></member></struct>"),
        b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>' + in_value("&b;"),
    ],
)
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    with pytest.raises(NO_ANSWER):
        read_answer(body)
