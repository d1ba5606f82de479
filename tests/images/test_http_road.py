"""xapi's doors for disks as a road: bytes, hosts, refusals, faults, interrupts, and what is left after each."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_road_choice import (
    GIB,
    HURRY,
    KIB,
    MIB,
    SIZE,
    Pool,
    assembled,
    hosts,
    pieces_of,
    pool,
    pool_in,
    read,
)

import xenvol
from xenvol.errors import XapiError, XapiUnreachable
from xenvol.images.contents import NeedsFile, Piece
from xenvol.images.errors import ImageTooLarge, InvalidImage, NoRoad, TransferCancelled, TransferFailed
from xenvol.images.formats import vhd
from xenvol.images.roads import Patience, release
from xenvol.images.roads.exchange import CHUNK
from xenvol.images.roads.http import HTTPRoad
from xenvol.refs import VDIRef
from xenvol.session import Endpoint, Session
from xenvol.simulator import Simulator
from xenvol.testing import sweep
from xenvol.view import View

__all__ = ["hosts", "pool"]  # fixtures

PUT, GET = "PUT /import_raw_vdi", "GET /export_raw_vdi"
IO_ERROR = "VDI_IO_ERROR"


class TestBytes:
    def test_come_back_as_they_were_written_and_holes_are_not_sent(self, pool: Pool) -> None:
        vdi, data = pool.vdi(), bytearray(SIZE)
        data[3 * MIB : 4 * MIB] = os.urandom(MIB)
        data[SIZE - 512 :] = os.urandom(512)
        road = pool.http()
        road.fill(vdi, [Piece(SIZE - 512, bytes(data[-512:])), *pieces_of(bytes(data), 3 * MIB)])
        assert pool.bytes_of(vdi) == data
        assert pool.file(vdi).stat().st_blocks * 512 <= 2 * MIB
        assert read(road, vdi) == data
        assert pool.residue() == []

    def test_of_a_fill_and_of_a_look_cost_five_calls_and_the_transfer(self, pool: Pool) -> None:
        vdi, road = pool.vdi(), pool.http()
        with pool.xapi.journal.recording() as calls:
            road.fill(vdi, [Piece(0, b"a" * 512)])
        assert calls.methods() == [
            "event.from",
            "PBD.get_all_records_where",
            "task.create",
            PUT,
            "task.get_record",
            "task.destroy",
        ]
        with pool.xapi.journal.recording() as calls:
            read(road, vdi)
        assert len(calls) == 6

    def test_of_no_piece_at_all_leave_the_disk_as_it_is(self, pool: Pool) -> None:
        vdi = pool.vdi()
        pool.http().fill(vdi, [])
        pool.http().fill(vdi, [Piece(0, b""), Piece(MIB, b"")])
        assert pool.bytes_of(vdi) == bytes(SIZE)

    def test_that_are_odd_at_the_end_are_filled_up_with_zeros_to_the_sector(self, pool: Pool) -> None:
        vdi = pool.vdi()
        pool.http().fill(vdi, [Piece(0, b"x" * SIZE)])
        pool.http().fill(vdi, [Piece(MIB, b"abc")])
        assert pool.bytes_of(vdi)[MIB : MIB + 513] == b"abc".ljust(512, b"\0") + b"x"

    def test_of_ten_thousand_small_pieces_all_arrive(self, pool: Pool) -> None:
        vdi, data = pool.vdi(64 * MIB), os.urandom(64 * MIB)
        offsets = range(0, 64 * MIB, 6 * KIB)
        pieces = [Piece(at, data[at : at + 4 * KIB]) for at in offsets]
        pool.http().fill(vdi, pieces[::-1])
        found = pool.bytes_of(vdi)
        assert all(found[at : at + len(piece)] == piece for at, piece in pieces)

    def test_behind_the_end_of_the_disk_are_refused_before_they_are_sent(self, pool: Pool) -> None:
        vdi = pool.vdi()
        with pytest.raises(ImageTooLarge) as caught:
            pool.http().fill(vdi, [Piece(0, b"a" * MIB), Piece(SIZE - 512, b"b" * 1024)])
        assert (caught.value.size, caught.value.limit) == (SIZE + 512, SIZE)
        assert pool.residue() == []

    def test_over_tls_are_the_same_by_an_authority_or_a_fingerprint(self, tmp_path: Path) -> None:
        data = os.urandom(SIZE)
        with pool_in(tmp_path, tls=True) as pool:
            vdi, road = pool.vdi(), pool.http()
            road.fill(vdi, pieces_of(data, *range(0, SIZE, MIB)))
            assert read(road, vdi) == data
            small = [Piece(at, b"small" + bytes(507)) for at in range(0, SIZE, 4096)]
            road.fill(vdi, small)
            assert pool.bytes_of(vdi)[4096:4101] == b"small"
            assert pool.residue() == []

    def test_do_not_go_to_a_host_that_is_not_the_one_that_was_pinned(self, tmp_path: Path) -> None:
        with pool_in(tmp_path, tls=True) as pool:
            vdi = pool.vdi()
            wrong = Endpoint.parse(pool.xapi.url, xenvol.session.Trust(fingerprints=frozenset(["0" * 64])))
            with pytest.raises(XapiUnreachable) as caught:
                pool.http(endpoint=wrong).fill(vdi, [Piece(0, b"a" * 512)])
            assert not caught.value.was_sent
            assert "is not the pinned one" in str(caught.value)
            assert pool.residue() == []

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(
            st.tuples(st.integers(0, SIZE // 512 - 1), st.integers(1, 300), st.sampled_from(b"\0ab")),
            max_size=12,
        )
    )
    def test_arrive_whatever_their_pattern(self, pool: Pool, runs: list[tuple[int, int, int]]) -> None:
        """Over both roads, and they are read over both."""
        data = bytearray(SIZE)
        pieces = []
        for start, length, value in runs:
            piece = (bytes([value]) * (512 * length))[: SIZE - start * 512]
            data[start * 512 : start * 512 + len(piece)] = piece
            pieces.append(Piece(start * 512, piece))
        http, block = pool.http(), pool.block()
        for writer in (http, block):
            vdi = pool.vdi()
            writer.fill(vdi, pieces)
            assert pool.bytes_of(vdi) == data
            assert read(http, vdi) == data
            assert read(block, vdi) == data
        assert pool.residue() == []


class TestContents:
    def test_are_a_vhd_with_what_is_allocated(self, pool: Pool) -> None:
        vdi = pool.vdi(GIB)
        pool.http().fill(vdi, [Piece(700 * MIB, b"a" * MIB)])
        with pool.http().contents(vdi) as disk:
            assert (disk.format, disk.virtual_size, disk.is_ordered) == ("vhd", GIB, True)
            assert disk.allocated is not None
            assert disk.allocated <= 4 * MIB
            assert sum(len(piece.data) for piece in disk.pieces()) <= 4 * MIB

    def test_are_raw_where_the_vhd_cannot_be_read_as_it_comes(
        self, pool: Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        vdi, data = pool.vdi(), os.urandom(SIZE)
        pool.http().fill(vdi, [Piece(0, data)])

        def cannot(stream: Any) -> vhd.Layer:
            stream.read(512)
            raise NeedsFile("its blocks lie before its table")

        monkeypatch.setattr(vhd, "from_stream", cannot)  # xapi makes no such VHD today
        with pool.http().contents(vdi) as disk:
            assert disk.format == "raw"
            assert assembled(disk) == data
        assert pool.residue() == []

    def test_of_a_disk_too_large_for_a_vhd_are_raw_without_zeros(self, pool: Pool) -> None:
        size = 2041 * GIB
        vdi = pool.vdi(8 * MIB)
        pool.http().fill(vdi, [Piece(MIB, b"a" * MIB)])
        with pool.xapi.xapi.lock:
            pool.xapi.db.set("VDI", vdi, virtual_size=size)
        with pool.http().contents(vdi) as disk:
            assert (disk.format, disk.virtual_size) == ("raw", size)
            pieces = disk.pieces()
            assert next(pieces) == (MIB, b"a" * MIB)
            with pytest.raises(TransferFailed):
                next(pieces)  # the file behind it is shorter
        with pytest.raises(ImageTooLarge), pool.http().vhd_stream(vdi):
            pass
        assert pool.residue() == []

    def test_that_nobody_reads_to_the_end_leave_nothing(self, pool: Pool) -> None:
        vdi = pool.vdi(256 * MIB)
        pool.http().fill(vdi, [Piece(at, b"a" * MIB) for at in range(0, 256 * MIB, MIB)])
        with pool.http().contents(vdi) as disk:
            next(disk.pieces())
        assert pool.residue() == []
        with pytest.raises(ZeroDivisionError), pool.http().contents(vdi) as disk:
            next(disk.pieces())
            1 / 0
        assert pool.residue() == []

    def test_as_a_stream_are_xapis_own_vhd_or_what_differs_from_a_base(self, pool: Pool) -> None:
        base, vdi = pool.vdi(), pool.vdi()
        road = pool.http()
        for each in (base, vdi):
            road.fill(each, [Piece(0, b"a" * MIB)])
        road.fill(vdi, [Piece(4 * MIB, b"b" * MIB)])
        lengths = []
        for options in ({}, {"base": base}):
            with road.vhd_stream(vdi, **options) as stream:
                assert stream.length is None
                data = b""
                while piece := stream.read(MIB):
                    data += piece
                assert stream.read(MIB) == b""
            assert data[:8] == data[-512:-504] == b"conectix"
            lengths.append(len(data))
        assert lengths[1] < lengths[0]
        assert pool.residue() == []


class TestHosts:
    def test_that_have_the_sr_are_gone_to_straight_away(self, hosts: Pool) -> None:
        sr = hosts.local_sr()
        vdi, data = hosts.vdi(sr=sr), os.urandom(SIZE)
        road = hosts.http(sr)
        with hosts.xapi.journal.recording() as calls:
            road.fill(vdi, pieces_of(data, *range(0, SIZE, MIB)))
        assert len(calls) == 6
        assert hosts.bytes_of(vdi) == data
        assert read(road, vdi) == data
        assert hosts.residue() == []

    def test_that_do_not_have_it_send_us_on_before_a_byte_has_gone(self, hosts: Pool) -> None:
        sr = hosts.local_sr()
        vdi, data = hosts.vdi(sr=sr), os.urandom(SIZE)
        road = hosts.http(sr, endpoint=Endpoint.parse(hosts.xapi.url))  # the master, which has it not
        with hosts.xapi.journal.recording() as calls:
            road.fill(vdi, pieces_of(data, *range(0, SIZE, MIB)))
        assert calls.methods().count(PUT) == 2
        assert hosts.bytes_of(vdi) == data
        assert read(road, vdi) == data
        assert hosts.residue() == []

    def test_that_are_dead_are_passed_over_for_others_that_have_it(self, hosts: Pool) -> None:
        vdi = hosts.vdi()
        hosts.xapi.faults.move_master("host2")
        hosts.view.call("pool.get_all")
        hosts.xapi.faults.die(host="host1")
        hosts.http().fill(vdi, [Piece(0, b"a" * MIB)])
        assert hosts.bytes_of(vdi)[:MIB] == b"a" * MIB

    def test_that_are_no_hosts_of_the_pool_get_no_session(self, pool: Pool) -> None:
        vdi = pool.vdi()
        with listening(b"") as (elsewhere, heard_there):
            answer = f"HTTP/1.1 302 Found\r\nLocation: http://localhost:{elsewhere}/import_raw_vdi\r\n\r\n"
            with listening(answer.encode()) as (port, heard):
                road = pool.http(endpoint=Endpoint.parse(f"http://127.0.0.1:{port}"))
                with pytest.raises(TransferFailed, match="which is no host of the pool"):
                    road.fill(vdi, [Piece(0, b"a" * 512)])
                assert b"Cookie: session_id=OpaqueRef:" in heard[0]
            assert heard_there == []
        assert pool.residue() == []

    def test_that_send_us_in_circles_are_left_after_three_turns(self, pool: Pool) -> None:
        vdi = pool.vdi()
        answer = b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1/import_raw_vdi\r\n\r\n"
        with pool.xapi.xapi.lock:
            pool.xapi.db.set("host", pool.xapi.xapi.master, address="127.0.0.1")
        with listening(answer, answer, answer, answer, answer) as (port, heard):
            road = pool.http(endpoint=Endpoint.parse(f"http://127.0.0.1:{port}"), patience=BRIEF)
            with pytest.raises(XapiUnreachable, match="in circles"):
                road.fill(vdi, [Piece(0, b"a" * 512)])
        assert len(heard) == 4

    def test_none_of_which_has_the_sr_any_more_are_no_road(self, pool: Pool) -> None:
        vdi, road = pool.vdi(), pool.http()
        (pbd,) = pool.xapi.db.children(pool.sr, "PBDs")
        pool.view.call("PBD.unplug", pbd)
        with pytest.raises(NoRoad, match="plugged on no host"):
            road.fill(vdi, [])
        assert pool.residue() == []


BRIEF = Patience(head=1, stall=1, finish=0.2, settle=0.2, device=0.2)


@contextmanager
def listening(
    *answers: bytes, then: Callable[[socket.socket], None] | None = None
) -> Iterator[tuple[int, list[bytes]]]:
    """Somebody who hears a request's head, says one of these, and hangs up."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for answer in answers:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    head = b""
                    while not head.endswith(b"\r\n\r\n") and (data := connection.recv(65536)):
                        head += data
                    heard.append(head)
                    connection.sendall(answer)
                    if then is not None:
                        then(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], heard
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


class TestRefusals:
    """Those of the recorded table (trace sm/30), as far as this road can meet them."""

    def test_of_a_read_only_disk_comes_in_the_body_and_has_the_tasks_code(self, pool: Pool) -> None:
        vdi = pool.vdi(read_only=True)
        with pytest.raises(TransferFailed) as caught:
            pool.http().fill(vdi, [Piece(0, b"a" * MIB)])
        assert caught.value.code == "VDI_READONLY"
        assert isinstance(caught.value.__cause__, XapiError)
        assert caught.value.__cause__.params == (vdi,)
        assert pool.residue() == []

    def test_of_a_disk_that_is_gone_is_xapis(self, pool: Pool) -> None:
        vdi, road = pool.vdi(), pool.http()
        pool.view.call("VDI.destroy", vdi)
        with pytest.raises(XapiError) as caught:
            road.fill(vdi, [])
        assert caught.value.code == "HANDLE_INVALID"
        assert pool.residue() == []

    def test_of_a_disk_that_goes_meanwhile_is_a_500_and_its_task_is_not_waited_for(self, pool: Pool) -> None:
        """sm/30#161: it stays pending for ever."""
        vdi = pool.vdi()
        pool.xapi.faults.delay(PUT, 0.5)
        gone = threading.Timer(0.2, lambda: with_lock(pool, lambda: pool.xapi.db.delete("VDI", vdi)))
        gone.start()
        started = time.monotonic()
        with pytest.raises(TransferFailed) as caught:
            pool.http(patience=Patience()).fill(vdi, [Piece(0, b"a" * MIB)])
        assert time.monotonic() - started < 10
        gone.join()
        assert caught.value.status in (400, 500)
        assert [line for line in pool.residue() if "pending" not in line] == []

    def test_of_a_code_before_200_has_the_tasks_code_and_the_status(self, pool: Pool) -> None:
        vdi = pool.vdi()
        pool.xapi.faults.refuse(PUT, "SR_BACKEND_FAILURE_47", "", "no such cable", "")
        with pytest.raises(TransferFailed, match="no such cable") as caught:
            pool.http().fill(vdi, [Piece(0, b"a" * MIB)])
        assert (caught.value.code, caught.value.status) == ("SR_BACKEND_FAILURE_47", 400)
        assert pool.residue() == []

    def test_of_a_session_that_is_over_is_followed_by_a_new_one(self, pool: Pool) -> None:
        vdi = pool.vdi()
        pool.xapi.faults.expire_session(PUT)
        pool.http().fill(vdi, [Piece(0, b"a" * MIB)])
        assert pool.bytes_of(vdi)[:MIB] == b"a" * MIB
        assert pool.residue() == []

    def test_of_two_sessions_in_a_row_is_a_401_with_nothing_left(self, pool: Pool) -> None:
        vdi = pool.vdi()
        pool.xapi.faults.expire_session(PUT, every=True)
        with pytest.raises(TransferFailed) as caught:
            pool.http().fill(vdi, [Piece(0, b"a" * MIB)])
        assert caught.value.status == 401
        assert "HTTP 401" in str(caught.value)
        assert "OpaqueRef" not in str(caught.value)
        # a task that pends is marked, and goes with xapi's next collection
        assert [line for line in pool.residue() if "pending" not in line] == []

    def test_of_a_full_storage_is_an_io_error(self, pool: Pool) -> None:
        vdi = pool.vdi(64 * MIB)
        pool.filesystem.fill(leaving=4 * MIB)
        with pytest.raises(TransferFailed) as caught:
            pool.http().fill(vdi, (Piece(at, os.urandom(MIB)) for at in range(0, 64 * MIB, MIB)))
        assert caught.value.code == IO_ERROR
        assert pool.residue() == []

    def test_of_a_driver_without_an_address_is_xapis_text(self, pool: Pool) -> None:
        with pool.xapi.xapi.lock:
            dummy = pool.xapi.add_sr("dummy")
        vdi = pool.vdi(sr=dummy)
        for transfer in (
            lambda: pool.http(dummy).fill(vdi, [Piece(0, b"a" * 512)]),
            lambda: read(pool.http(dummy), vdi),
        ):
            with pytest.raises(TransferFailed, match="Could not parse NBD URI") as caught:
                transfer()
            assert caught.value.code == "INTERNAL_ERROR"
        assert pool.residue() == []

    def test_of_an_unknown_base_comes_in_the_body_of_the_vhd(self, pool: Pool) -> None:
        """sm/30#333."""
        vdi = pool.vdi()
        with pytest.raises(TransferFailed) as caught:
            with pool.http().vhd_stream(vdi, base=VDIRef("deadbeef-0000-0000-0000-000000000000")) as stream:
                while stream.read(MIB):
                    pass
        assert caught.value.code == "UUID_INVALID"
        assert pool.residue() == []

    def test_that_ends_a_vhd_is_the_hosts_failure_and_no_bad_image(self, pool: Pool) -> None:
        vdi = pool.vdi(64 * MIB)
        pool.http().fill(vdi, [Piece(at, b"a" * MIB) for at in range(0, 64 * MIB, MIB)])
        with pool.xapi.xapi.lock:
            os.truncate(pool.file(vdi), 33 * MIB)  # the storage fails there
        for way in ("vhd", "raw"):
            with pytest.raises(TransferFailed) as caught:
                with pool.http()._download(pool.http()._disk(vdi), format=way) as stream:
                    from xenvol.images.roads import http

                    disk = (
                        http._VHDContents(vhd.from_stream(stream), stream)
                        if way == "vhd"
                        else http._RawContents(64 * MIB, stream)
                    )
                    assembled(disk)
            assert not isinstance(caught.value, InvalidImage)
            assert pool.residue() == []


def with_lock(pool: Pool, act: Callable[[], object]) -> None:
    with pool.xapi.xapi.lock:
        act()
