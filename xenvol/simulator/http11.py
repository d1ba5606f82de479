"""HTTP/1.1 as text: a request read off a stream, a reply written down, and xapi's pages of HTML."""

from __future__ import annotations

import html
import socket
from dataclasses import dataclass
from typing import BinaryIO

from xenvol.simulator.hooks import Reply

_LONGEST_LINE = 65536

_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    413: "Request Entity Too Large",
    500: "Internal Error",
    501: "Method not implemented",
}
_PAGES = {
    400: "<h1>HTTP 400 bad request</h1>The HTTP request was malformed. Please correct and retry.",
    403: "<h1>HTTP 403 forbidden</h1>Access to the requested resource is forbidden.",
    404: "<h1>HTTP 404 not found</h1>",
    413: "<h1>HTTP 413 request entity too large</h1>",
    500: "<h1>HTTP 500 internal server error</h1>An unexpected error occurred; please wait a while and try again. "
    "If the problem persists, please contact your support representative.<h1> Additional information </h1>",
    501: "<h1>HTTP 501 Method Not Implemented</h1>",
}


@dataclass(frozen=True, slots=True)
class Request:
    verb: str
    path: str
    """With the query."""
    headers: dict[str, str]
    """By name in lower case."""
    body: bytes
    is_last: bool
    """The client wants the connection closed afterwards."""


def page(status: int, more: str = "") -> Reply:
    """One of the pages of HTML that take the place of an answer."""
    text = f"<html><body>{_PAGES[status]}{html.escape(more, quote=True)}</body></html>"
    return Reply(status, "text/html", text.encode())


def read(stream: BinaryIO, connection: socket.socket) -> Request | None:
    """The next request; None when the client is done or sends no HTTP."""
    words = stream.readline(_LONGEST_LINE).decode("latin-1").split()
    if len(words) != 3:
        return None
    verb, path, version = words
    headers = {}
    while (line := stream.readline(_LONGEST_LINE).decode("latin-1").strip()) != "":
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("expect", "").lower() == "100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = headers.get("content-length", "0")
    body = stream.read(int(length)) if length.isdecimal() else b""
    wish = headers.get("connection", "").lower()
    is_last = wish == "close" or (version == "HTTP/1.0" and wish != "keep-alive")
    return Request(verb, path, headers, body, is_last)


def head(reply: Reply, request: Request, *, is_last: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Other')}",
        f"content-length: {len(reply.body)}",
        f"connection: {'close' if is_last else 'keep-alive'}",
        "cache-control: no-cache, no-store",
        f"content-type: {reply.content_type}",
    ]
    if reply.status == 200:
        lines.append("Access-Control-Allow-Origin: *")
        wanted = request.headers.get("access-control-request-headers")
        lines.append(f"Access-Control-Allow-Headers: {f'{wanted}, ' if wanted else ''}X-Requested-With")
        if request.verb == "OPTIONS":
            lines.append("Access-Control-Allow-Methods: PUT")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
