"""JSON-RPC 1 and 2 as in xapi: integers are numbers (docs/background/xapi.md 4.2, trace 10#37..59)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from xenvol.simulator.failure import Failure, Garbage
from xenvol.simulator.values import Base64, Date, Int32, Wire, show


@dataclass(frozen=True, slots=True)
class JsonCall:
    version: int
    id: int | str
    method: str
    params: list[Wire]


def parse_call(body: bytes) -> JsonCall:
    try:
        message = json.loads(body.decode("utf-8", "surrogateescape"), parse_int=_int64)
    except ValueError as error:
        raise Garbage(f"Jsonrpc: {error}") from error
    if not isinstance(message, dict):
        raise Garbage("Jsonrpc.Malformed_method_request: not an object")
    version = {None: 1, "2.0": 2}.get(message.get("jsonrpc")) if "jsonrpc" in message else 1
    number, method, params = message.get("id"), message.get("method"), message.get("params")
    if version is None:
        raise Garbage("Jsonrpc.Malformed_method_request: jsonrpc")
    if isinstance(number, bool) or not isinstance(number, (int, str)):
        raise Garbage("Jsonrpc.Malformed_method_request: id")
    if not isinstance(method, str):
        raise Garbage("Jsonrpc.Malformed_method_request: method")
    if version == 2 and params is None:
        params = []
    if version == 2 and isinstance(params, dict):
        params = [params]
    if not isinstance(params, list):
        raise Garbage("Jsonrpc.Malformed_method_request: params")
    return JsonCall(version, number, method, params)


def assert_unicode(params: list[Wire]) -> None:
    """Raise INVALID_VALUE for a parameter with invalid UTF-8 or half a surrogate pair; checked before anything else."""
    for param in params:
        text = show(param)
        if _SURROGATE.search(text):
            raise Failure(
                "INVALID_VALUE", "Invalid UTF-8 string in parameter", _SURROGATE.sub("\ufffd", text)
            )


_SURROGATE = re.compile("[\ud800-\udfff]")


def _int64(digits: str) -> int:
    number = int(digits)
    if not -(2**63) <= number < 2**63:
        raise ValueError("Int64.of_string")
    return number


def success(call: JsonCall, value: Wire) -> bytes:
    if call.version == 2:
        return _dump({"jsonrpc": "2.0", "result": value, "id": call.id})
    return _dump({"result": value, "error": None, "id": call.id})


def failure(call: JsonCall, description: list[str]) -> bytes:
    if call.version == 2:
        error = {"code": 1, "message": description[0], "data": description[1:]}
        return _dump({"jsonrpc": "2.0", "error": error, "id": call.id})
    return _dump({"result": None, "error": description, "id": call.id})


def _dump(message: dict[str, Any]) -> bytes:
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":"), default=_untagged)
    return text.encode()


def _untagged(value: Wire) -> Any:
    match value:
        case Date():
            return value.text
        case Int32():
            return value.value
        case Base64():
            return value.data.decode("utf-8", "replace")
    raise TypeError(f"{value!r} is not a wire value")
