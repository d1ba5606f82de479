"""An image service in this process: what Cinder asks of Glance's API, version 2, and nothing more."""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from glanceclient.v2 import image_schema

_PIECE = 1 << 16


class Glance:
    """Images by their ids: a record, and bytes."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, Any]] = {}
        self.data: dict[str, bytes] = {}
        self.url = ""
        """``host:port``, once it listens."""

    def add(self, data: bytes, disk_format: str, container_format: str = "bare", **more: Any) -> str:
        """The id of an image that is ready; `more` goes before what would be true of it."""
        image_id = self.create({"disk_format": disk_format, "container_format": container_format})["id"]
        self.fill(image_id, data)
        self.records[image_id] |= more
        return str(image_id)

    def create(self, given: dict[str, Any]) -> dict[str, Any]:
        image_id = given.get("id") or str(uuid.uuid4())
        record = {
            "id": image_id,
            "name": "image",
            "status": "queued",
            "visibility": "private",
            "protected": False,
            "min_disk": 0,
            "min_ram": 0,
            "size": None,
            "virtual_size": None,
            "checksum": None,
            "os_hash_algo": None,
            "os_hash_value": None,
            "os_hidden": False,
            "owner": "somebody",
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
            "tags": [],
            **given,
        }
        self.records[image_id] = record
        return record

    def fill(self, image_id: str, data: bytes) -> None:
        self.data[image_id] = data
        self.records[image_id] |= {
            "status": "active",
            "size": len(data),
            "checksum": hashlib.md5(data, usedforsecurity=False).hexdigest(),
            "os_hash_algo": "sha512",
            "os_hash_value": hashlib.sha512(data).hexdigest(),
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    glance: Glance

    def do_GET(self) -> None:
        match self.path.strip("/").split("/"):
            case ["versions"]:
                self._json({"versions": [{"id": "v2.9", "status": "CURRENT"}]})
            case ["v2", "schemas", "image"]:
                self._json(image_schema._BASE_SCHEMA)
            case ["v2", "images", image_id] if image_id in self.glance.records:
                self._json(self.glance.records[image_id])
            case ["v2", "images", image_id, "file"] if image_id in self.glance.data:
                self._bytes(self.glance.data[image_id])
            case _:
                self._empty(404)

    def do_POST(self) -> None:
        assert self.path == "/v2/images"
        self._json(self.glance.create(json.loads(self._body())), status=201)

    def do_PUT(self) -> None:
        match self.path.strip("/").split("/"):
            case ["v2", "images", image_id, "file"] if image_id in self.glance.records:
                self.glance.fill(image_id, self._body())
                self._empty(204)
            case _:
                self._empty(404)

    def do_DELETE(self) -> None:
        image_id = self.path.rpartition("/")[2]
        self.glance.data.pop(image_id, None)
        self._empty(204 if self.glance.records.pop(image_id, None) is not None else 404)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, value: object, *, status: int = 200) -> None:
        self._bytes(json.dumps(value).encode(), "application/json", status)

    def _bytes(self, data: bytes, kind: str = "application/octet-stream", status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        for start in range(0, len(data), _PIECE):
            self.wfile.write(data[start : start + _PIECE])

    def _empty(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextmanager
def serving() -> Iterator[Glance]:
    """Listens on the loopback until the block is left."""
    glance = Glance()
    handler = type("Handler", (_Handler,), {"glance": glance})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        glance.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield glance
        finally:
            server.shutdown()
            thread.join()
