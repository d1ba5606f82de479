"""The client side of a replay: send calls exactly as recorded, and return answers as JSON can hold them.

It is not a XenAPI client: it sends requests that no such client would, and opens a new connection for each
call.
"""

from __future__ import annotations

import base64
import http.client
import json
import urllib.parse
import xmlrpc.client
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.parsers.expat import ExpatError
from xml.sax.saxutils import escape

KINDS = ("result", "error", "bare", "fault", "unparsable", "nothing")
"""The kinds of answer.

Each is a key of a recorded line, except ``nothing``: the connection closed without answer.
"""


@dataclass(frozen=True, slots=True)
class Answer:
    kind: str
    value: Any

    def as_json(self) -> dict[str, Any]:
        return {self.kind: self.value}


class Caller:
    """Calls one server; the protocol is ``xmlrpc``, ``jsonrpc`` or ``jsonrpc2``."""

    def __init__(self, url: str, *, timeout: float = 180.0) -> None:
        parts = urllib.parse.urlsplit(url)
        self._address = (parts.hostname or "", parts.port)
        self._timeout = timeout
        self._count = 0

    def http(self, verb: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Send one request, and return status and body; OSError if there is no answer."""
        connection = http.client.HTTPConnection(*self._address, timeout=self._timeout)
        try:
            connection.request(verb, path, body, dict(headers))
            response = connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as error:
            raise ConnectionError(repr(error)) from error
        finally:
            connection.close()

    def call(self, protocol: str, method: str, params: list[Any]) -> Answer:
        self._count += 1
        if protocol == "xmlrpc":
            path, content_type, body = "/", "text/xml", _xml_call(method, params)
        else:
            message = {"method": method, "params": _json_value(params), "id": self._count}
            if protocol == "jsonrpc2":
                message["jsonrpc"] = "2.0"
            path, content_type, body = "/jsonrpc", "application/json", json.dumps(message)
        try:
            status, data = self.http("POST", path, body.encode(), {"Content-Type": content_type})
        except OSError as error:
            return Answer("nothing", repr(error))
        found = _xml_answer(data) if protocol == "xmlrpc" else _json_answer(data)
        return found or Answer("unparsable", {"status": status})


def body_parts(data: bytes) -> dict[str, Any]:
    """Parse any body: ``rpc`` is an answer as [kind, value], with the ``id`` and ``jsonrpc`` of JSON-RPC."""
    if found := _xml_answer(data):
        return {"rpc": [found.kind, found.value]}
    if found := _json_answer(data):
        message = json.loads(data)
        return {
            "rpc": [found.kind, found.value],
            **{key: message[key] for key in ("jsonrpc", "id") if key in message},
        }
    return {}


def _xml_answer(data: bytes) -> Answer | None:
    """Parse an XML-RPC answer; None for any other body."""
    try:
        (value,), _ = xmlrpc.client.loads(data.decode())
    except xmlrpc.client.Fault as fault:
        return Answer("fault", [fault.faultCode, fault.faultString])
    except (ValueError, ExpatError, xmlrpc.client.Error, LookupError, TypeError):
        return None
    value = _plain(value)
    if not isinstance(value, dict) or "Status" not in value:
        return Answer("bare", value)
    if value["Status"] == "Success":
        return Answer("result", value.get("Value"))
    return Answer("error", value.get("ErrorDescription"))


def _json_answer(data: bytes) -> Answer | None:
    """Parse a JSON-RPC answer; None for any other body."""
    try:
        message = json.loads(data)
    except ValueError:
        return None
    if not isinstance(message, dict) or not {"result", "error"} & message.keys():
        return None
    if message.get("error") is not None:
        return Answer("error", message["error"])
    return Answer("result", message["result"])


def _plain(value: Any) -> Any:
    """Convert what xmlrpc.client returns, with its own types as in a recording."""
    if isinstance(value, xmlrpc.client.DateTime):
        return {"$dateTime": value.value}
    if isinstance(value, xmlrpc.client.Binary):
        return {"$base64": base64.b64encode(value.data).decode()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _xml_call(method: str, params: list[Any]) -> str:
    values = "".join(f"<param>{_xml_value(value)}</param>" for value in params)
    return (
        f'<?xml version="1.0"?><methodCall><methodName>{escape(method)}</methodName>'
        f"<params>{values}</params></methodCall>"
    )


def _xml_value(value: Any) -> str:
    if isinstance(value, dict) and value.keys() == {"$rawxml"}:
        return str(value["$rawxml"])
    return f"<value>{_xml_typed(value)}</value>"


def _xml_typed(value: Any) -> str:
    if value is None:
        return "<nil/>"
    if isinstance(value, bool):
        return f"<boolean>{value:d}</boolean>"
    if isinstance(value, str):
        return f"<string>{escape(value)}</string>"
    if isinstance(value, int):
        return f"<int>{value}</int>"
    if isinstance(value, float):
        return f"<double>{value!r}</double>"
    if isinstance(value, list):
        return f"<array><data>{''.join(map(_xml_value, value))}</data></array>"
    if value.keys() == {"$dateTime"}:
        return f"<dateTime.iso8601>{value['$dateTime']}</dateTime.iso8601>"
    members = "".join(
        f"<member><name>{escape(key)}</name>{_xml_value(item)}</member>" for key, item in value.items()
    )
    return f"<struct>{members}</struct>"


def _json_value(value: Any) -> Any:
    """Replace dates by text, because JSON has no dates."""
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"$dateTime"}:
            return value["$dateTime"]
        return {key: _json_value(item) for key, item in value.items()}
    return value
