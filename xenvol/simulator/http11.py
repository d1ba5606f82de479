"""Read HTTP/1.1 requests from a stream, write replies, and make xapi's HTML pages."""

from __future__ import annotations

import html
import socket
from dataclasses import dataclass, replace
from typing import BinaryIO

from xenvol.simulator.hooks import Reply

_LONGEST_LINE = 65536

_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorised",
    403: "Forbidden",
    404: "Not Found",
    413: "Request Entity Too Large",
    500: "Internal Error",
    501: "Method not implemented",
}
_PAGES = {
    400: "<h1>HTTP 400 bad request</h1>The HTTP request was malformed. Please correct and retry.",
    401: "<h1>HTTP 401 unauthorised</h1>Please check your credentials and retry.",
    403: "<h1>HTTP 403 forbidden</h1>Access to the requested resource is forbidden.",
    404: "<h1>HTTP 404 not found</h1>",
    413: "<h1>HTTP 413 request entity too large</h1>",
    500: "<h1>HTTP 500 internal server error</h1>An unexpected error occurred; please wait a while and try again. "
    "If the problem persists, please contact your support representative.<h1> Additional information </h1>",
    501: "<h1>HTTP 501 Method Not Implemented</h1><p>Unknown {more} not supported.<br /></p>",
}


@dataclass(frozen=True, slots=True)
class Request:
    verb: str
    path: str
    """The path with its query."""
    headers: dict[str, str]
    """Headers by name in lower case."""
    body: bytes
    is_last: bool
    """True if the client wants the connection closed after the answer."""

    @property
    def content_length(self) -> int | None:
        """The Content-Length; None if the header is missing or is not a number."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isdecimal() else None


def page(status: int, more: str = "") -> Reply:
    """Return one of the HTML pages that xapi sends instead of an answer; ``more`` is escaped."""
    begin, _, end = _PAGES[status].partition("{more}")
    text = f"<html><body>{begin}{html.escape(more, quote=True)}{end}</body></html>"
    return Reply(status, "text/html", text.encode())


def read_head(stream: BinaryIO) -> Request | None:
    """Read the next request up to its body; None if the client has finished or sends no HTTP."""
    words = stream.readline(_LONGEST_LINE).decode("latin-1").split()
    if len(words) != 3:
        return None
    verb, path, version = words
    headers = {}
    while (line := stream.readline(_LONGEST_LINE).decode("latin-1").strip()) != "":
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    wish = headers.get("connection", "").lower()
    is_last = wish == "close" or (version == "HTTP/1.0" and wish != "keep-alive")
    return Request(verb, path, headers, b"", is_last)


def read_body(request: Request, stream: BinaryIO, connection: socket.socket) -> Request:
    """Read the request's body into memory, and return the request with it."""
    if request.headers.get("expect", "").lower() == "100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = request.content_length
    return replace(request, body=stream.read(length)) if length else request


def head(reply: Reply, request: Request, *, is_last: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Other')}",
        f"content-length: {len(reply.body)}",
        f"connection: {'close' if is_last else 'keep-alive'}",
        "cache-control: no-cache, no-store",
    ]
    content_type = f"content-type: {reply.content_type}"
    lines.insert(
        len(lines) if reply.status == 200 else 2, content_type
    )  # in HTML pages it is the second header (trace sm/30#220)
    if reply.status == 200:
        lines.append("Access-Control-Allow-Origin: *")
        wanted = request.headers.get("access-control-request-headers")
        lines.append(f"Access-Control-Allow-Headers: {f'{wanted}, ' if wanted else ''}X-Requested-With")
        if request.verb == "OPTIONS":
            lines.append("Access-Control-Allow-Methods: PUT")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
