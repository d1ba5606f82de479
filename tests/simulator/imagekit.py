"""A pool with a file SR on NFS, its image handlers, and a second implementation of VHD to test the first with."""

from __future__ import annotations

import http.client
import socket
import struct
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xapi_client import log_in

from xenvol.simulator import Simulator
from xenvol.simulator.rulebook import Call
from xenvol.simulator.rules import datapath

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
BLOCK = 2 * MIB
NFS = {"server": "10.0.0.2", "serverpath": "/vols"}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Doors:
    def __init__(self, xapi: Simulator, x: Any) -> None:
        self.xapi = xapi
        self.x = x
        """The ``xenapi`` object of a session."""
        (self.session,) = xapi.db.refs("session")
        export = xapi.storage.shares.add_nfs("10.0.0.2").export("/vols", size=1 << 44)
        self.filesystem = export.filesystem
        with xapi.xapi.lock:
            self.sr = xapi.add_sr("store", type="nfs", device_config=NFS, create=True)

    def vdi(self, size: int = 4 * MIB, **values: Any) -> str:
        with self.xapi.xapi.lock:
            return self.xapi.add_vdi(values.pop("sr", self.sr), "disk", size=size, **values)

    def task(self) -> str:
        return str(self.x.task.create("transfer", ""))

    def content(self, vdi: str) -> Path:
        """Return the sparse file behind the disk."""
        with self.xapi.xapi.lock:
            master = self.xapi.xapi.master
            return datapath.content(Call(self.xapi.xapi, "test", "", "", master), master, vdi)

    # ---- requests

    def query(self, **parameters: str) -> str:
        return urllib.parse.urlencode({"session_id": self.session, **parameters})

    def request(
        self,
        verb: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        url: str | None = None,
        **parameters: str,
    ) -> Answer:
        connection = self.connection(url)
        try:
            connection.request(verb, f"{path}?{self.query(**parameters)}", body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, dict(response.headers), response.read())
        finally:
            connection.close()

    def connection(self, url: str | None = None) -> http.client.HTTPConnection:
        parts = urllib.parse.urlsplit(url or self.xapi.url)
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)

    def put(self, vdi: str, body: bytes, **parameters: str) -> list[str]:
        """Upload the body, and return the task's outcome: ``["success"]``, or the error."""
        task = self.task()
        answer = self.request("PUT", "/import_raw_vdi", body, vdi=vdi, task_id=task, **parameters)
        assert answer.status == 200, answer
        return self.outcome(task)

    def get(self, vdi: str, **parameters: str) -> bytes:
        task = self.task()
        answer = self.request("GET", "/export_raw_vdi", vdi=vdi, task_id=task, **parameters)
        assert (answer.status, self.outcome(task)) == (200, ["success"])
        return answer.body

    def outcome(self, task: str) -> list[str]:
        record = self.x.task.get_record(task)
        return [record["status"]] if record["status"] != "failure" else list(record["error_info"])

    @contextmanager
    def upload(self, vdi: str, length: int, **parameters: str) -> Iterator[socket.socket]:
        """Start a PUT, and yield its connection when the head is answered; the block sends the body."""
        parts = urllib.parse.urlsplit(self.xapi.url)
        with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
            target = f"/import_raw_vdi?{self.query(vdi=vdi, **parameters)}"
            connection.sendall(f"PUT {target} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode())
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += connection.recv(1)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            wait_for(lambda: self.plugged(vdi) != [])
            yield connection

    def plugged(self, vdi: str) -> list[str]:
        """Return the disk's VBDs that are plugged."""
        with self.xapi.xapi.lock:
            db = self.xapi.db
            vbds = db.children(vdi, "VBDs")
            return [vbd for vbd in vbds if db.row("VBD", vbd)["currently_attached"]]


@contextmanager
def doors(version: str = "24.16.0", **kwargs: Any) -> Iterator[Doors]:
    with Simulator(version, **kwargs) as xapi, log_in(xapi) as x:
        yield Doors(xapi, x)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true, at most a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within a minute"
        time.sleep(0.005)


# ---- VHD, written down from Microsoft's specification and nothing else


def vhd_sum(data: bytes) -> int:
    """Return the checksum of a structure whose own checksum is 0."""
    return sum(data) ^ 0xFFFFFFFF


def vhd_footer(size: int, kind: int, *, data_offset: int = 512, creator: bytes = b"tap\0") -> bytes:
    def with_sum(checksum: int) -> bytes:
        return b"".join(
            (
                b"conectix",
                (2).to_bytes(4, "big"),
                (0x10000).to_bytes(4, "big"),
                data_offset.to_bytes(8, "big"),
                bytes(4),
                creator,
                (0x10000).to_bytes(4, "big"),
                bytes(4),
                size.to_bytes(8, "big") * 2,
                bytes(4),
                kind.to_bytes(4, "big"),
                checksum.to_bytes(4, "big"),
                bytes(16),
                bytes(428),
            )
        )

    return with_sum(vhd_sum(with_sum(0)))


def vhd_file(
    size: int,
    blocks: Mapping[int, Mapping[int, bytes]],
    *,
    kind: int = 3,
    block_size: int = BLOCK,
    order: Callable[[list[int]], list[int]] = sorted,
    gap: int = 0,
) -> bytes:
    """Return a VHD.

    ``blocks``: block number to its present sectors, by number; ``gap`` bytes precede each block.
    """
    entries = -(-size // block_size)
    table_offset = 1536
    table = [0xFFFFFFFF] * entries
    table_size = -(-entries * 4 // 512) * 512
    bitmap_size = -(-block_size // 512 // 8 // 512) * 512
    written = bytearray()
    for number in order(list(blocks)):
        written += bytes(gap)
        table[number] = (table_offset + table_size + len(written)) // 512
        bitmap, data = bytearray(bitmap_size), bytearray(b"\xee" * block_size)
        for sector, content in blocks[number].items():
            bitmap[sector >> 3] |= 1 << (7 - (sector & 7))
            data[sector * 512 : (sector + 1) * 512] = content
        written += bitmap + data

    def header(checksum: int) -> bytes:
        fields = struct.pack(
            ">8sQQIIII", b"cxsparse", (1 << 64) - 1, table_offset, 0x10000, entries, block_size, checksum
        )
        return fields.ljust(1024, b"\0")

    footer = vhd_footer(size, kind)
    numbers = b"".join(place.to_bytes(4, "big") for place in table).ljust(table_size, b"\xff")
    return footer + header(vhd_sum(header(0))) + numbers + bytes(written) + footer


def vhd_read(image: bytes) -> tuple[int, dict[int, bytes], str]:
    """Return the disk's size, its present blocks, and the uuid of the parent (hexadecimal; 0 for none)."""
    footer = image[-512:]
    assert footer == image[:512]
    assert footer[:8] == b"conectix"
    assert vhd_sum(footer[:64] + bytes(4) + footer[68:]) == int.from_bytes(footer[64:68], "big")
    at = int.from_bytes(footer[16:24], "big")
    header = image[at : at + 1024]
    assert header[:8] == b"cxsparse"
    assert vhd_sum(header[:36] + bytes(4) + header[40:]) == int.from_bytes(header[36:40], "big")
    table, entries, block = (int.from_bytes(header[a:b], "big") for a, b in ((16, 24), (28, 32), (32, 36)))
    blocks = {}
    for number in range(entries):
        place = int.from_bytes(image[table + number * 4 : table + number * 4 + 4], "big")
        if place != 0xFFFFFFFF:
            start = place * 512
            assert image[start : start + block // 4096] == b"\xff" * (block // 4096)
            start += block // 4096
            blocks[number] = image[start : start + block]
            assert len(blocks[number]) == block
    return int.from_bytes(footer[48:56], "big"), blocks, header[40:56].hex()
