"""One image request and its connection: heads, pages, bytes of a disk, the end.

The heads are spelt as recorded (trace sm/30), which is not how xapi spells the heads of other answers.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import ssl
import time
import urllib.parse
from collections.abc import Iterable
from typing import BinaryIO

from xenvol.simulator.http11 import Request, page
from xenvol.simulator.images.body import PIECE, Body

_NO_STORE = ("Connection: close", "Cache-Control: no-cache, no-store")
_PATIENCE = 2.0
"""Seconds for which data that the client still sends is read and dropped, so that the client reads its answer."""


class Exchange:
    def __init__(self, request: Request, stream: BinaryIO, connection: socket.socket) -> None:
        self.request = request
        self.stream = stream
        self.connection = connection
        path, _, query = request.path.partition("?")
        self.path = path
        self.query = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        self.parameters = {**_cookies(request.headers.get("cookie", "")), **self.query}
        """The query and the cookies; xapi accepts every parameter from a cookie as well (importexport.ml)."""
        self.body = Body(stream, request.content_length)
        self.is_mute = False
        """If True, everything written from then on is dropped."""
        self.stays_open = False
        """If True, the connection is not closed afterwards."""
        self._last = bytearray()
        """What is written when the request is over, and shown in the journal."""

    def __repr__(self) -> str:
        return f"<Exchange: {self.request.verb} {self.path}>"

    @property
    def credentials(self) -> tuple[str, str] | None:
        """The user and password of HTTP basic auth."""
        kind, _, value = self.request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "basic":
            return None
        try:
            user, colon, password = base64.b64decode(value).decode().partition(":")
        except ValueError:
            return None
        return (user, password) if colon else None

    # ---- answering

    def accept(self, *headers: str) -> None:
        """Send the head of a 200 answer at once."""
        self.send(_head("HTTP/1.1 200 OK", (*_NO_STORE, *headers)))

    def end(self, status: str, headers: Iterable[str] = _NO_STORE) -> None:
        """Answer with a head alone; ``status`` is its whole first line: ``HTTP/1.0 404 Not Found``."""
        self._last += _head(status, headers)

    def page(self, status: str, number: int, text: str = "", *headers: str) -> None:
        """Send an HTML page; if an answer has begun, the page is a second answer in the body of the first."""
        body = page(number, text).body
        lines = (
            f"content-length: {len(body)}",
            "content-type: text/html",
            "connection: close",
            "cache-control: no-cache, no-store",
        )
        self._last += _head(status, (*lines, *headers)) + body

    def send(self, data: bytes | bytearray) -> None:
        if not self.is_mute:
            self.connection.sendall(data)

    def send_range(self, disk: BinaryIO, offset: int, size: int) -> None:
        """Send bytes of a file; on a plain connection they are not read into memory."""
        if self.is_mute:
            return
        end = offset + size
        while offset < end:
            if isinstance(self.connection, ssl.SSLSocket):
                data = os.pread(disk.fileno(), min(PIECE, end - offset), offset)
                self.connection.sendall(data)
                sent = len(data)
            else:
                sent = os.sendfile(
                    self.connection.fileno(), disk.fileno(), offset, min(end - offset, 1 << 30)
                )
            if sent == 0:
                raise OSError(f"the disk ended at {offset}")
            offset += sent

    def finish(self) -> None:
        """Write the rest of the answer, shut down the connection for writing, and read what the client still sends.

        Closing at once would reset the connection, and the client might lose the answer before reading it.
        """
        with contextlib.suppress(OSError):
            self.send(self._last)
            if self.stays_open:
                return
            self.connection.settimeout(_PATIENCE)
            if isinstance(self.connection, ssl.SSLSocket):
                with contextlib.suppress(OSError):
                    self.connection = self.connection.unwrap()
            self.connection.shutdown(socket.SHUT_WR)
            deadline = time.monotonic() + _PATIENCE
            while time.monotonic() < deadline and self.connection.recv(PIECE):
                pass


def _head(status: str, headers: Iterable[str]) -> bytes:
    return ("\r\n".join((status, *headers)) + "\r\n\r\n").encode("latin-1")


def _cookies(header: str) -> dict[str, str]:
    pairs = (cookie.strip().partition("=") for cookie in header.split(";") if cookie.strip())
    return {name: value for name, _, value in pairs}
