"""xapi's HTTP handlers for disks as a transport: bytes, hosts, refusals, faults, interrupts, and what is left."""

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
from test_transport_choice import (
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
from xenvol.images.disk_image import NeedsFile, Piece
from xenvol.images.errors import ImageTooLarge, NoTransport, TransferCancelled, TransferFailed
from xenvol.images.formats import vhd
from xenvol.images.transports import Timeouts, Transport, release
from xenvol.images.transports.exchange import CHUNK
from xenvol.session import Endpoint
from xenvol.session.refs import VDIRef
from xenvol.simulator import Simulator
from xenvol.testing import sweep

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
        assert pool.bytes_of(vdi) == bytes(SIZE)

    def test_behind_an_empty_piece_arrive_although_it_looks_like_the_end_marker(self, pool: Pool) -> None:
        vdi = pool.vdi()
        pool.http().fill(vdi, [Piece(0, b""), Piece(MIB, b"a" * 512)])
        assert pool.bytes_of(vdi)[MIB : MIB + 512] == b"a" * 512

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
            road = pool.http(endpoint=wrong)
            with pool.xapi.journal.recording() as calls, pytest.raises(XapiUnreachable) as caught:
                road.fill(vdi, [Piece(0, b"a" * 512)])
            assert "task.get_record" not in calls.methods()  # no host has heard of it
            assert not caught.value.was_sent
            assert "is not the pinned one" in str(caught.value)
            assert pool.residue() == []

    @settings(
        max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    )
    @given(
        st.lists(
            st.tuples(st.integers(0, SIZE // 512 - 1), st.integers(1, 300), st.sampled_from(b"\0ab")),
            max_size=12,
        )
    )
    def test_arrive_whatever_their_pattern(self, pool: Pool, runs: list[tuple[int, int, int]]) -> None:
        """By both transports, and they are read by both."""
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
            with pytest.raises(TransferFailed) as caught:
                next(pieces)  # the file behind it is shorter, and the page of an error is no piece
            assert caught.value.code == IO_ERROR
        with pytest.raises(ImageTooLarge), pool.http().vhd_stream(vdi):
            pass
        assert pool.residue() == []

    def test_that_nobody_reads_to_the_end_leave_nothing(self, pool: Pool) -> None:
        vdi = pool.vdi(256 * MIB)
        pool.http().fill(vdi, [Piece(at, b"a" * MIB) for at in range(0, 256 * MIB, MIB)])
        with pool.xapi.journal.recording() as calls:
            with pool.http().contents(vdi) as disk:
                next(disk.pieces())
        assert "task.cancel" in calls.methods()
        assert pool.residue() == []
        with pytest.raises(Stop):
            look_at(pool.http(), vdi, raising(Stop()))
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

    def test_of_which_one_is_the_master_are_known_by_the_address_that_the_session_has(
        self, pool: Pool
    ) -> None:
        """A name on a certificate, or a socket: not what xapi says."""
        with pool.xapi.xapi.lock:
            pool.xapi.db.set("host", pool.xapi.xapi.master, address="192.0.2.1")
        vdi = pool.vdi()
        pool.http().fill(vdi, [Piece(0, b"a" * 512)])
        assert pool.bytes_of(vdi)[:512] == b"a" * 512

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
                with pytest.raises(TransferFailed, match="which is not a host of the pool"):
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
            road = pool.http(endpoint=Endpoint.parse(f"http://127.0.0.1:{port}"), timeouts=BRIEF)
            with pytest.raises(XapiUnreachable, match="in a circle"):
                road.fill(vdi, [Piece(0, b"a" * 512)])
        assert len(heard) == 4

    def test_none_of_which_has_the_sr_any_more_are_no_road(self, pool: Pool) -> None:
        vdi, road = pool.vdi(), pool.http()
        (pbd,) = pool.xapi.db.children(pool.sr, "PBDs")
        pool.view.call("PBD.unplug", pbd)
        with pytest.raises(NoTransport, match="plugged on no host"):
            road.fill(vdi, [])
        assert pool.residue() == []


BRIEF = Timeouts(head=1, stall=1, finish=0.2, settle=0.2, device=0.2)


@contextmanager
def listening(
    *answers: bytes, then: Callable[[socket.socket], None] | None = None
) -> Iterator[tuple[int, list[bytes]]]:
    """A server that reads a request's head, says one of these, and hangs up."""
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
    thread.join(60)


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
        order = pool.xapi.faults.hang(PUT)

        def go() -> None:
            while not order.hits:
                time.sleep(0.01)
            with_lock(pool, lambda: pool.xapi.db.delete("VDI", vdi))
            order.release()

        gone = threading.Thread(target=go)
        gone.start()
        started = time.monotonic()
        with pytest.raises(TransferFailed) as caught:
            pool.http(timeouts=Timeouts()).fill(vdi, [Piece(0, b"a" * MIB)])
        assert time.monotonic() - started < 60
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
        vdi, first = pool.vdi(), pool.session.handle
        pool.xapi.faults.delay(PUT, 0.5)
        ended = threading.Timer(0.2, lambda: with_lock(pool, lambda: pool.xapi.db.delete("session", first)))
        ended.start()
        pool.http().fill(vdi, [Piece(0, b"a" * MIB)])
        ended.join()
        assert pool.session.handle != first
        assert pool.bytes_of(vdi)[:MIB] == b"a" * MIB
        assert pool.residue() == []

    def test_of_a_good_session_is_a_401_with_nothing_left(self, pool: Pool) -> None:
        vdi = pool.vdi()
        answer = (
            "HTTP/1.1 401 Unauthorised\r\nContent-Type: text/html\r\n\r\n<html><body><h1>HTTP 401</h1>not you, "
            f"{pool.session.handle}</body></html>"
        )
        with listening(answer.encode(), answer.encode()) as (port, heard):
            road = pool.http(endpoint=Endpoint.parse(f"http://127.0.0.1:{port}"))
            with pytest.raises(TransferFailed, match=r"HTTP 401: HTTP 401 not you, \*\*\*$") as caught:
                road.fill(vdi, [Piece(0, b"a" * MIB)])
        assert len(heard) == 1
        assert (caught.value.status, caught.value.code) == (401, None)
        assert pool.residue() == []

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
        with pool.http().vhd_stream(vdi, base=VDIRef("deadbeef-0000-0000-0000-000000000000")) as stream:
            with pytest.raises(TransferFailed) as caught:
                list(iter(lambda: stream.read(MIB), b""))
        assert caught.value.code == "UUID_INVALID"
        assert pool.residue() == []

    def test_that_ends_a_vhd_is_the_hosts_failure_and_no_bad_image(self, pool: Pool) -> None:
        vdi = pool.vdi(64 * MIB)
        pool.http().fill(vdi, [Piece(at, b"a" * MIB) for at in range(0, 64 * MIB, MIB)])
        with pytest.raises(TransferFailed) as caught:  # the storage fails there:
            look_at(pool.http(), vdi, lambda: os.truncate(pool.file(vdi), 33 * MIB))
        assert caught.value.code == IO_ERROR
        assert pool.residue() == []


def with_lock(pool: Pool, act: Callable[[], object]) -> None:
    with pool.xapi.xapi.lock:
        act()


class Stop(Exception):
    """What a source of pieces may raise."""


by_each_error = pytest.mark.parametrize(
    "error",
    [Stop(), TransferCancelled("the import"), KeyboardInterrupt(), TransferFailed("elsewhere", problem="no")],
    ids=lambda error: type(error).__name__,
)
"""What ends a transfer before its last piece."""


def breaking(pool: Pool, act: Callable[[], object], after: int = 3) -> Iterator[Piece]:
    """Pieces, between which something happens while the disk is in a control domain."""
    for number in range(after):
        yield Piece(number * MIB, b"a" * MIB)
    deadline = time.monotonic() + 60
    while not pool.vbds() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert pool.vbds()
    act()
    for number in range(after, SIZE // MIB):
        yield Piece(number * MIB, b"a" * MIB)


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def look_at(road: Transport, vdi: VDIRef, act: Callable[[], object]) -> None:
    """Something happens after the first piece, and the rest is read."""
    with road.contents(vdi) as disk:
        pieces = disk.pieces()
        next(pieces)
        act()
        for _ in pieces:
            pass


class TestBrokenOff:
    @by_each_error
    def test_by_whoever_gives_the_pieces_leaves_his_error_and_a_disk_that_can_be_destroyed(
        self, pool: Pool, error: BaseException
    ) -> None:
        vdi = pool.vdi()
        with pytest.raises(type(error)) as caught:
            pool.http().fill(vdi, breaking(pool, raising(error)))
        assert caught.value is error
        assert not getattr(error, "__notes__", [])
        assert pool.residue() == []
        pool.view.call("VDI.destroy", vdi)

    def test_by_who_reads_leaves_his_error_and_a_disk_that_can_be_destroyed(self, pool: Pool) -> None:
        vdi = pool.vdi(64 * MIB)
        pool.http().fill(vdi, [Piece(at, b"a" * MIB) for at in range(0, 64 * MIB, MIB)])
        with pytest.raises(KeyboardInterrupt):
            look_at(pool.http(), vdi, raising(KeyboardInterrupt()))
        assert pool.residue() == []
        pool.view.call("VDI.destroy", vdi)

    def test_by_the_network_is_what_the_task_says(self, pool: Pool) -> None:
        vdi = pool.vdi()
        with pytest.raises(TransferFailed) as caught:
            pool.http().fill(vdi, breaking(pool, pool.xapi.faults.drop_connection))
        assert caught.value.code == IO_ERROR
        assert pool.residue() == []

    def test_while_it_is_read_by_the_network_is_what_the_task_says(self, pool: Pool) -> None:
        vdi = pool.vdi(64 * MIB)
        pool.http().fill(vdi, [Piece(at, b"a" * MIB) for at in range(0, 64 * MIB, MIB)])
        with pytest.raises(TransferFailed) as caught:
            look_at(pool.http(), vdi, pool.xapi.faults.drop_connection)
        assert caught.value.code == IO_ERROR
        assert pool.residue() == []

    def test_by_a_dead_host_is_a_silence_and_its_vbd_is_released_later(self, hosts: Pool) -> None:
        """Its task pends for ever, so that it is not waited for for ever."""
        sr = hosts.local_sr()
        vdi = hosts.vdi(sr=sr)
        with pytest.raises(XapiUnreachable):
            hosts.http(sr, timeouts=BRIEF).fill(
                vdi, breaking(hosts, lambda: hosts.xapi.faults.die(host="host2"))
            )
        assert len(hosts.residue()) == 1  # the VBD; the task is gone
        hosts.xapi.faults.come_back()
        assert release(hosts.view, vdi) is True
        assert hosts.residue() == []
        with hosts.xapi.journal.recording() as calls:
            assert release(hosts.view, vdi) is True
        assert len(calls) == 1
        hosts.view.call("VDI.destroy", vdi)

    def test_twice_by_the_user_leaves_the_first_interrupt_and_a_note(self, pool: Pool) -> None:
        def interrupted(seconds: float) -> None:
            raise KeyboardInterrupt

        for _ in range(
            30
        ):  # until a look comes before the host has noticed, as it does but for a busy machine
            road = pool.http(timeouts=Timeouts(sleep=interrupted, settle=5))
            with pytest.raises(Stop) as caught:
                road.fill(pool.vdi(), breaking(pool, raising(Stop())))
            if notes := getattr(caught.value, "__notes__", []):
                break
        (note,) = notes
        assert "it is not known whether the host has ended it" in note


class TestSilence:
    @pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"])
    def test_instead_of_an_answer_is_a_silence(self, pool: Pool, answer: bytes) -> None:
        vdi = pool.vdi()
        with listening(answer) as (port, _):
            road = pool.http(endpoint=Endpoint.parse(f"http://127.0.0.1:{port}"), timeouts=BRIEF)
            with pytest.raises(XapiUnreachable) as caught:
                road.fill(vdi, [Piece(0, b"a" * MIB)])
        assert caught.value.was_sent
        assert "nonsense" not in str(caught.value)
        assert pool.residue() == []

    @pytest.mark.parametrize("size", [MIB, 64 * MIB])
    def test_after_200_is_not_waited_for_for_ever(self, pool: Pool, size: int) -> None:
        """With as much as the socket takes, and with more."""
        vdi = pool.vdi(64 * MIB)
        with listening(b"HTTP/1.1 200 OK\r\n\r\n", then=lambda connection: time.sleep(2)) as (port, _):
            road = pool.http(endpoint=Endpoint.parse(f"http://127.0.0.1:{port}"), timeouts=BRIEF)
            started = time.monotonic()
            with pytest.raises(XapiUnreachable):
                road.fill(vdi, (Piece(at, b"a" * MIB) for at in range(0, size, MIB)))
            assert time.monotonic() - started < 60
        assert pool.residue() == []

    def test_after_the_end_marker_is_no_failure_where_the_task_has_succeeded(self, pool: Pool) -> None:
        vdi = pool.vdi()
        got = bytearray()

        def take(connection: socket.socket) -> None:
            while not got.endswith(CHUNK.pack(0, 0)) and (data := connection.recv(MIB)):
                got.extend(data)
            with_lock(pool, succeed)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, CHUNK_LINGER)  # a reset, no end

        def succeed() -> None:
            for ref in pool.xapi.db.refs("task"):
                if pool.xapi.db.row("task", ref)["status"] == "pending":
                    pool.xapi.db.set("task", ref, status="success")

        with listening(b"HTTP/1.1 200 OK\r\n\r\n", then=take) as (port, heard):
            road = pool.http(endpoint=Endpoint.parse(f"http://127.0.0.1:{port}"), timeouts=HURRY)
            road.fill(vdi, [Piece(MIB, b"a" * 1024)])
        assert got == CHUNK.pack(MIB, 1024) + b"a" * 1024 + CHUNK.pack(0, 0)
        assert b"chunked=true" in heard[0].splitlines()[0]
        assert pool.residue() == []

    def test_of_a_host_that_says_nothing_is_over_when_its_task_is(self, pool: Pool) -> None:
        """Its connection may stay open: what counts is the task."""
        vdi = pool.vdi()

        def take(connection: socket.socket) -> None:
            for ref in pool.xapi.db.refs("task"):
                if pool.xapi.db.row("task", ref)["status"] == "pending":
                    with_lock(pool, lambda ref=ref: pool.xapi.db.set("task", ref, status="success"))
            connection.recv(MIB)
            time.sleep(2)

        with listening(b"HTTP/1.1 200 OK\r\n\r\n", then=take) as (port, _):
            road = pool.http(endpoint=Endpoint.parse(f"http://127.0.0.1:{port}"), timeouts=BRIEF)
            road.fill(vdi, [Piece(MIB, b"a" * 1024)])
        assert pool.residue() == []


CHUNK_LINGER = b"\x01\0\0\0\0\0\0\0"
"""struct linger: on, for no time."""


class Trial:
    """A pool with a disk, and a transport to it, in which one call goes wrong."""

    def __init__(self, xapi: Simulator, home: Path, way: str) -> None:
        xapi.reset()
        self.pool = Pool(xapi, home)
        self.vdi = self.pool.vdi()
        self.file = self.pool.file(self.vdi)
        self.way = way

    @property
    def road(self) -> Transport:
        return self.pool.http(timeouts=BRIEF) if self.way == "http" else self.pool.block(timeouts=BRIEF)

    def fill(self) -> None:
        self.road.fill(self.vdi, [Piece(0, b"a" * MIB), Piece(4 * MIB, b"b" * MIB)])

    def read(self) -> bytes:
        return read(self.road, self.vdi)


@pytest.fixture(scope="module")
def xapi() -> Iterator[Simulator]:
    with Simulator() as made:
        yield made


@pytest.mark.parametrize("way", ["http", "block"])
@pytest.mark.parametrize("run", [Trial.fill, Trial.read], ids=["fill", "read"])
class TestSweep:
    @pytest.mark.parametrize("strike", [sweep.refuse, sweep.lose_answer, sweep.lose_request])
    def test_a_call_that_goes_wrong_leaves_no_vbd_and_no_task(
        self,
        xapi: Simulator,
        tmp_path: Path,
        way: str,
        run: Callable[[Trial], object],
        strike: sweep.Strike,
    ) -> None:
        struck = 0
        for case in sweep.each_call(xapi, lambda: Trial(xapi, tmp_path, way), run, strike):
            struck += 1
            expected = (
                (TransferFailed, XapiError) if strike is sweep.refuse else (TransferFailed, XapiUnreachable)
            )
            assert case.error is None or isinstance(case.error, expected), case
            assert case.trial.pool.residue() == [], case
            if case.error is None and run is Trial.fill:
                assert case.trial.file.read_bytes()[4 * MIB : 5 * MIB] == b"b" * MIB, case
            case.trial.pool.view.call("VDI.destroy", case.trial.vdi)
        assert struck >= 5

    def test_what_a_process_leaves_that_died_is_released_by_the_next(
        self, xapi: Simulator, tmp_path: Path, way: str, run: Callable[[Trial], object]
    ) -> None:
        for case in sweep.each_call(xapi, lambda: Trial(xapi, tmp_path, way), run, sweep.die):
            pool = case.trial.pool
            assert release(pool.view, case.trial.vdi, pool.attempt) is True, case
            assert [line for line in pool.residue() if not line.startswith("task xenvol")] == [], case
            pool.view.call("VDI.destroy", case.trial.vdi)


class TestSecrets:
    def test_are_in_no_url_no_log_and_no_error(self, pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        vdi = pool.vdi()
        texts = []
        with pool.xapi.journal.recording() as calls:
            road = pool.http()
            road.fill(vdi, [Piece(0, b"a" * MIB)])
            read(road, vdi)
        texts += [repr(call.params) for call in calls if call.method in (PUT, GET)]
        texts += [repr(road), caplog.text]
        with listening(b"nonsense\r\n\r\n") as (port, heard):
            road = pool.http(endpoint=Endpoint.parse(f"http://127.0.0.1:{port}"), timeouts=BRIEF)
            with pytest.raises(XapiUnreachable) as caught:
                road.fill(vdi, [])
        texts += [str(caught.value), heard[0].splitlines()[0].decode()]
        for text in texts:
            assert pool.session.handle not in text
            assert pool.xapi.password not in text.replace("xenvol.secret", "")
        assert f"Cookie: session_id={pool.session.handle}".encode() in heard[0].splitlines()


class TestRelease:
    def test_leaves_what_a_task_is_pending_for(self, pool: Pool) -> None:
        """Another client's transfer, under its own task, or under none that says of which disk."""
        vdi = pool.vdi()
        dom0 = pool.xapi.db.row("host", pool.xapi.xapi.master)["control_domain"]
        with pool.xapi.xapi.lock:
            pool.xapi.add_vbd(dom0, vdi)
        uuid = pool.view.record("VDI", vdi)["uuid"]
        for label in (f"xenvol: writing VDI {uuid} (0123)", "Importing raw VDI"):
            task = pool.view.call("task.create", label, "")
            assert release(pool.view, vdi) is False
            assert len(pool.vbds()) == 1
            pool.view.call("task.set_status", task, "cancelled")
        pool.view.call("task.create", "something else", "")
        assert release(pool.view, vdi) is True
        assert pool.vbds() == []

    def test_leaves_what_another_attempt_has_marked_and_guests(self, pool: Pool) -> None:
        vdi = pool.vdi()
        dom0 = pool.xapi.db.row("host", pool.xapi.xapi.master)["control_domain"]
        record = {
            "VM": dom0,
            "VDI": vdi,
            "userdevice": "autodetect",
            "bootable": False,
            "mode": "RW",
            "type": "Disk",
            "empty": False,
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
            "other_config": pool.attempt.mark,
        }
        pool.view.call("VBD.create", record)
        guest = pool.xapi.add_vm("guest")
        other = pool.view.call("VBD.create", {**record, "VM": guest, "other_config": {}})
        assert release(pool.view, vdi) is False
        assert len(pool.vbds()) == 2
        assert release(pool.view, vdi, pool.attempt) is True
        assert pool.vbds() == [other]
