"""XML-RPC as xapi reads and writes it: strings and integers as bare text, `<i4>` only for `Int32`.

Reading is stricter than the standard where xapi is (no empty names, no unknown tags): such a request is
`Garbage`. Tests compare bodies byte by byte with recorded ones.
"""

from __future__ import annotations

import base64
import binascii
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

from xenvol.simulator.failure import Failure, Garbage
from xenvol.simulator.ocaml import ocaml_float, ocaml_int64
from xenvol.simulator.values import Base64, Date, Int32, Wire

_HEAD = '<?xml version="1.0"?><methodResponse><params><param>'
_TAIL = "</param></params></methodResponse>"


# ---- reading


def parse_call(body: bytes) -> tuple[str, list[Wire]]:
    """Return the method and its parameters."""
    try:
        root = ET.fromstring(body)
    except (ET.ParseError, LookupError, ValueError) as error:
        if str(error) == "syntax error: line 1, column 0":
            raise Garbage('Xmlm.Error(1:1, "expected root element")') from error  # trace sm/30#219
        raise Garbage(f"Xmlrpc: {error}") from error
    if root.tag != "methodCall":
        raise Garbage(f'Xmlrpc.Parse_error("open_tag({root.tag})", "open_tag(methodCall)", _)')
    parts = list(root)
    if [part.tag for part in parts] != ["methodName", "params"]:
        raise Garbage('Xmlrpc.Parse_error("close_tag(methodCall)", "open_tag(params)", _)')
    name = parts[0].text
    if not name:
        raise Garbage('Xmlrpc.Parse_error("open_tag(params)", "close_tag(methodName)", _)')
    return name, [_value(_only(param, "param", "value")) for param in parts[1]]


def _only(element: ET.Element, tag: str, inner: str) -> ET.Element:
    """Return the only child of an element, if both have the expected tags."""
    if element.tag != tag or len(element) != 1 or element[0].tag != inner:
        raise Garbage(f'Xmlrpc.Parse_error("open_tag({element.tag})", "open_tag({tag})", _)')
    return element[0]


def _value(element: ET.Element) -> Wire:
    if len(element) == 0:
        text = element.text or ""
        return text if text.strip() else ""
    if len(element) > 1 or (element.text or "").strip() or (element[0].tail or "").strip():
        raise Garbage("Xmlrpc: a value holds one thing")
    typed = element[0]
    text = typed.text or ""
    try:
        match typed.tag:
            case "string":
                return text
            case "int" | "i4" | "i8":
                return ocaml_int64(text)
            case "boolean":
                return text == "1"  # anything else is false (trace 06#145..149)
            case "double":
                return ocaml_float(text)
            case "dateTime.iso8601":
                return Date(text)
            case "base64":
                return Base64(base64.b64decode(text))
            case "nil":
                return None
            case "array":
                return [_value(_tagged(item, "value")) for item in _only(typed, "array", "data")]
            case "struct":
                return _struct(typed)
    except (Failure, binascii.Error) as error:
        raise Garbage(f"Xmlrpc: {typed.tag}: {error}") from error
    raise Garbage(f'Xmlrpc.Parse_error("open_tag({typed.tag})", "expected a type", _)')


def _tagged(element: ET.Element, tag: str) -> ET.Element:
    if element.tag != tag:
        raise Garbage(f'Xmlrpc.Parse_error("open_tag({element.tag})", "open_tag({tag})", _)')
    return element


def _struct(element: ET.Element) -> dict[str, Wire]:
    members: dict[str, Wire] = {}
    for member in element:
        if member.tag != "member" or [part.tag for part in member] != ["name", "value"]:
            raise Garbage('Xmlrpc.Parse_error("open_tag(member)", "open_tag(name)", _)')
        name = member[0].text
        if not name:
            raise Garbage('Xmlrpc.Parse_error("close_tag(name)", "data", _)')
        members.setdefault(name, _value(member[1]))
    return members


# ---- writing


def success(value: Wire) -> bytes:
    return _response("Success", "Value", value)


def failure(description: list[str]) -> bytes:
    return _response("Failure", "ErrorDescription", description)


def bare(value: Wire) -> bytes:
    """Return an answer without Status, as for system.listMethods."""
    return (_HEAD + write(value) + _TAIL).encode()


def _response(status: str, name: str, value: Wire) -> bytes:
    return bare({"Status": status, name: value})


def write(value: Wire) -> str:
    """Return ``<value>...</value>``, the form that task.result also has."""
    writer = _WRITERS.get(type(value))
    if writer is None:
        raise TypeError(f"{value!r} is not a wire value")
    return writer(value)


_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escape(text: str) -> str:
    """Return the text for XML, which has no form at all for most control characters: each becomes U+FFFD."""
    if not text.isprintable():
        text = _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
    if "&" in text:
        text = text.replace("&", "&amp;")
    if "<" in text:
        text = text.replace("<", "&lt;")
    if ">" in text:
        text = text.replace(">", "&gt;")
    return text.replace('"', "&quot;") if '"' in text else text


def _list(items: list[Wire]) -> str:
    return f"<value><array><data>{''.join([write(item) for item in items])}</data></array></value>"


def _map(members: dict[str, Wire]) -> str:
    written = [f"<member><name>{escape(name)}</name>{write(item)}</member>" for name, item in members.items()]
    return f"<value><struct>{''.join(written)}</struct></value>"


_WRITERS: dict[type, Callable[[Any], str]] = {
    str: lambda value: f"<value>{escape(value)}</value>",
    bool: lambda value: f"<value><boolean>{value:d}</boolean></value>",
    int: lambda value: f"<value>{value}</value>",
    float: lambda value: f"<value><double>{value:.16g}</double></value>",
    list: _list,
    dict: _map,
    type(None): lambda value: "<value><nil/></value>",
    Date: lambda value: f"<value><dateTime.iso8601>{value.text}</dateTime.iso8601></value>",
    Int32: lambda value: f"<value><i4>{value.value}</i4></value>",
    Base64: lambda value: f"<value><base64>{base64.b64encode(value.data).decode()}</base64></value>",
}
"""Writers by type: a record has a hundred values, and a test run spends most of its time here."""
