"""An image service in a process of its own: what Cinder asks of Glance's API, version 2, and nothing more.

    python -m tests.cinder.glance DIRECTORY

An image is two files in the directory: its record as JSON, and its bytes. So a test reads and writes images without
a request, and an image of a GiB of zeros takes no memory.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import uuid
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

_PIECE = 1 << 16
_ZEROS = bytes(_PIECE)


@dataclass(frozen=True)
class Glance:
    """Images by their ids."""

    directory: Path

    def add(self, data: bytes, disk_format: str, container_format: str = "bare", **more: Any) -> str:
        """Return the id of a new image that is active; `more` replaces fields of its record."""
        record = self.create({"disk_format": disk_format, "container_format": container_format})
        image_id = str(record["id"])
        self.data(image_id).write_bytes(data)
        hashes = {
            "checksum": hashlib.md5(data, usedforsecurity=False).hexdigest(),
            "os_hash_algo": "sha512",
            "os_hash_value": hashlib.sha512(data).hexdigest(),
        }
        self.activate(image_id, **(hashes | more))
        return image_id

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
        self._write(record)
        return record

    def activate(self, image_id: str, **more: Any) -> None:
        """Say that the bytes of an image are complete."""
        size = self.data(image_id).stat().st_size
        self._write({**self.record(image_id), "status": "active", "size": size, **more})

    def record(self, image_id: str) -> dict[str, Any]:
        """Raises FileNotFoundError if there is no such image."""
        record: dict[str, Any] = json.loads(self._record_file(image_id).read_text())
        return record

    def data(self, image_id: str) -> Path:
        """The file with the image's bytes."""
        return self.directory / f"{image_id}.data"

    def has(self, image_id: str) -> bool:
        return self._record_file(image_id).exists()

    def delete(self, image_id: str) -> None:
        self.data(image_id).unlink(missing_ok=True)
        self._record_file(image_id).unlink()

    def _record_file(self, image_id: str) -> Path:
        return self.directory / f"{image_id}.json"

    def _write(self, record: dict[str, Any]) -> None:
        path = self._record_file(record["id"])
        new = path.with_suffix(".new")
        new.write_text(json.dumps(record))
        new.replace(path)  # a reader sees the old record or the new one


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    glance: Glance
    schema: object

    def do_GET(self) -> None:
        match self.path.strip("/").split("/"):
            case ["versions"]:
                self._json({"versions": [{"id": "v2.9", "status": "CURRENT"}]})
            case ["v2", "schemas", "image"]:
                self._json(self.schema)
            case ["v2", "images", image_id] if self.glance.has(image_id):
                self._json(self.glance.record(image_id))
            case ["v2", "images", image_id, "file"] if self.glance.data(image_id).exists():
                self._file(self.glance.data(image_id))
            case _:
                self._empty(404)

    def do_POST(self) -> None:
        assert self.path == "/v2/images"
        length = int(self.headers.get("Content-Length", 0))
        self._json(self.glance.create(json.loads(self.rfile.read(length))), status=201)

    def do_PUT(self) -> None:
        match self.path.strip("/").split("/"):
            case ["v2", "images", image_id, "file"] if self.glance.has(image_id):
                with self.glance.data(image_id).open("wb") as file:
                    self._receive(file)
                self.glance.activate(image_id)
                self._empty(204)
            case _:
                self._empty(404)

    def do_DELETE(self) -> None:
        image_id = self.path.rpartition("/")[2]
        if self.glance.has(image_id):
            self.glance.delete(image_id)
            self._empty(204)
        else:
            self._empty(404)

    def _receive(self, file: BinaryIO) -> None:
        """Write the body of the request, which glanceclient sends in chunks; zeros become holes."""
        assert self.headers.get("Transfer-Encoding") == "chunked"
        while size := int(self.rfile.readline(), 16):
            piece = self.rfile.read(size)
            if piece == _ZEROS[:size]:
                file.seek(size, 1)
            else:
                file.write(piece)
            self.rfile.readline()
        self.rfile.readline()
        file.truncate()

    def _json(self, value: object, *, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self._head(status, "application/json", len(data))
        self.wfile.write(data)

    def _file(self, path: Path) -> None:
        with path.open("rb") as file:
            self._head(200, "application/octet-stream", path.stat().st_size)
            shutil.copyfileobj(file, self.wfile, _PIECE)

    def _head(self, status: int, kind: str, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _empty(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


def main(directory: Path) -> None:
    """Serve on the loopback until the process is ended; the log starts with the address."""
    from glanceclient.v2 import image_schema  # takes half a second to import, which no test needs

    attributes = {"glance": Glance(directory), "schema": image_schema._BASE_SCHEMA}
    handler = type("Handler", (_Handler,), attributes)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        sys.stdout.write(f"glance: http://127.0.0.1:{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
