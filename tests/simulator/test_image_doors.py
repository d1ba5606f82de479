"""Image transfers beyond the recordings: bytes, holes, hosts, faults, memory."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagekit import GIB, KIB, MIB, Answer, Doors, doors, wait_for
from test_images_chunks import chunks

IO_ERROR = ["VDI_IO_ERROR", "Device I/O errors"]


@pytest.fixture
def pool() -> Iterator[Doors]:
    with doors() as made:
        yield made


def pattern(size: int) -> bytes:
    """Return bytes without a short period."""
    return os.urandom(64 * KIB) * (size // (64 * KIB)) + os.urandom(size % (64 * KIB))


class TestBytes:
    def test_come_back_as_they_were_written(self, pool: Doors) -> None:
        vdi, data = pool.vdi(), pattern(4 * MIB)
        assert pool.put(vdi, data) == ["success"]
        assert pool.get(vdi) == data

    @pytest.mark.parametrize(
        "size", [1, 511, 512, 513, 64 * KIB - 1, 64 * KIB + 1, MIB - 1, MIB, 2 * MIB + 1]
    )
    def test_of_a_shorter_image_leave_the_rest_of_the_disk_alone(self, pool: Doors, size: int) -> None:
        vdi, before, data = pool.vdi(), pattern(4 * MIB), pattern(size)
        pool.put(vdi, before)
        assert pool.put(vdi, data) == ["success"]
        assert pool.get(vdi) == data + before[size:]

    def test_of_a_longer_image_fill_the_disk_and_then_fail(self, pool: Doors) -> None:
        vdi, data = pool.vdi(), pattern(5 * MIB)
        assert pool.put(vdi, data) == IO_ERROR
        assert pool.get(vdi) == data[: 4 * MIB]

    def test_that_are_zeros_overwrite_what_was_there(self, pool: Doors) -> None:
        vdi = pool.vdi()
        pool.put(vdi, pattern(4 * MIB))
        pool.put(vdi, bytes(4 * MIB))
        assert pool.get(vdi) == bytes(4 * MIB)

    def test_that_are_zeros_leave_holes_in_a_new_disk(self, pool: Doors) -> None:
        vdi = pool.vdi(64 * MIB)
        data = bytearray(16 * MIB)
        data[5 * MIB : 5 * MIB + 3] = b"abc"
        assert pool.put(vdi, bytes(data)) == ["success"]
        stat = pool.content(vdi).stat()
        assert (stat.st_size, stat.st_blocks * 512 <= 128 * KIB) == (64 * MIB, True)
        assert pool.get(vdi)[: 16 * MIB] == data

    def test_land_in_the_disk_of_every_kind_of_sr(self, pool: Doors) -> None:
        with pool.xapi.xapi.lock:
            device = pool.xapi.storage.shares.new_device(GIB)
            pool.xapi.storage.host("host1").mounts.devices["/dev/sdb"] = device
            lvm = pool.xapi.add_sr(
                "lvm", type="lvm", device_config={"device": "/dev/sdb"}, create=True, shared=False
            )
        data = pattern(8 * MIB)
        for sm_config in ({}, {"type": "raw"}):
            vdi = pool.vdi(8 * MIB, sr=lvm, sm_config=sm_config)
            assert pool.put(vdi, data) == ["success"]
            assert pool.get(vdi) == data

    def test_do_not_reach_a_disk_whose_driver_has_no_address_for_a_control_domain(self, pool: Doors) -> None:
        with pool.xapi.xapi.lock:
            dummy = pool.xapi.add_sr("dummy")
        code, text = pool.put(pool.vdi(sr=dummy), pattern(MIB))
        assert code == "INTERNAL_ERROR"
        assert "Could not parse NBD URI" in text

    def test_over_tls_are_the_same(self) -> None:
        with doors(tls=True) as pool:
            vdi, data = pool.vdi(), pattern(4 * MIB)
            target = f"/import_raw_vdi?{pool.query(vdi=vdi)}"
            head = f"PUT {target} HTTP/1.1\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            assert over_tls(pool, head + data).startswith(b"HTTP/1.1 200 OK\r\n")
            got = over_tls(pool, f"GET /export_raw_vdi?{pool.query(vdi=vdi)} HTTP/1.1\r\n\r\n".encode())
            assert got.partition(b"\r\n\r\n")[2] == data

    @settings(max_examples=15)
    @given(
        st.lists(st.tuples(st.integers(0, 63), st.integers(1, 40), st.sampled_from(b"\0ab")), max_size=12),
        st.integers(-3, 3),
    )
    def test_come_back_whatever_their_pattern(self, runs: list[tuple[int, int, int]], shift: int) -> None:
        data = bytearray(4 * MIB)
        for start, length, value in runs:
            at = max(0, start * 64 * KIB + shift)
            data[at : at + length * 3 * KIB] = bytes([value]) * (length * 3 * KIB)
        del data[4 * MIB :]
        assert SHARED.put(SHARED_VDI, bytes(data)) == ["success"]
        assert SHARED.get(SHARED_VDI) == data


@pytest.fixture(scope="module", autouse=True)
def shared() -> Iterator[None]:
    """One pool for all examples of a property."""
    global SHARED, SHARED_VDI
    with doors() as SHARED:
        SHARED_VDI = SHARED.vdi()
        yield


def over_tls(pool: Doors, request: bytes) -> bytes:
    """Send a request over TLS; raises if the server ends without a TLS close."""
    parts = urllib.parse.urlsplit(pool.xapi.url)
    context = ssl.create_default_context(cafile=pool.xapi.ca_file)
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as plain:
        with context.wrap_socket(
            plain, server_hostname=parts.hostname, suppress_ragged_eofs=False
        ) as connection:
            connection.sendall(request)
            received = bytearray()
            while data := connection.recv(MIB):
                received += data
            return bytes(received)


class TestNewDisk:
    def test_is_as_large_as_the_body_and_called_an_imported_one(self, pool: Doors) -> None:
        task, data = pool.task(), pattern(4 * MIB)
        pool.request("PUT", "/import_raw_vdi", data, sr_id=pool.sr, task_id=task)
        vdi = pool.x.task.get_result(task).removeprefix("<value>").removesuffix("</value>")
        record = pool.x.VDI.get_record(vdi)
        assert (record["name_label"], record["virtual_size"]) == ("Imported VDI", str(4 * MIB))
        assert pool.get(vdi) == data

    def test_stays_when_its_body_was_cut_off(self, pool: Doors) -> None:
        """As in import_raw_vdi.ml, where nothing destroys it."""
        task = pool.task()
        parts = urllib.parse.urlsplit(pool.xapi.url)
        query = pool.query(sr_id=pool.sr, task_id=task)
        with socket.create_connection((parts.hostname, parts.port)) as connection:
            connection.sendall(
                f"PUT /import_raw_vdi?{query} HTTP/1.1\r\nContent-Length: 2097152\r\n\r\nabc".encode()
            )
        wait_for(lambda: pool.outcome(task) != ["pending"])
        assert pool.outcome(task) == IO_ERROR
        assert [pool.x.VDI.get_name_label(vdi) for vdi in pool.x.SR.get_VDIs(pool.sr)] == ["Imported VDI"]

    def test_that_cannot_be_made_is_refused_before_200(self, pool: Doors) -> None:
        task = pool.task()
        pool.filesystem.fill()
        answer = pool.request("PUT", "/import_raw_vdi", b"abc", sr_id=pool.sr, task_id=task)
        assert answer.status == 400
        assert answer.body.startswith(b"HTTP/1.1 500 Internal Error\r\n")
        assert pool.outcome(task)[0] == "SR_BACKEND_FAILURE_78"

    def test_in_an_sr_of_an_unknown_uuid_is_refused(self, pool: Doors) -> None:
        task, unknown = pool.task(), "deadbeef-0000-0000-0000-000000000000"
        answer = pool.request("PUT", "/import_raw_vdi", b"abc", sr_uuid=unknown, task_id=task)
        assert answer.status == 400
        assert pool.outcome(task) == ["UUID_INVALID", "SR", unknown]


class TestFullStorage:
    def test_ends_an_import_with_an_io_error_and_no_more_is_taken_than_there_is(self, pool: Doors) -> None:
        vdi = pool.vdi(64 * MIB)
        pool.filesystem.fill(leaving=4 * MIB)
        assert pool.put(vdi, pattern(16 * MIB)) == IO_ERROR
        assert pool.content(vdi).stat().st_blocks * 512 <= 4 * MIB
        assert pool.plugged(vdi) == []

    def test_takes_what_is_written_over_old_data(self, pool: Doors) -> None:
        vdi = pool.vdi(8 * MIB)
        pool.put(vdi, pattern(8 * MIB))
        pool.filesystem.fill()
        assert pool.put(vdi, pattern(8 * MIB)) == ["success"]


class TestHosts:
    @pytest.fixture
    def member_only(self) -> Iterator[tuple[Doors, str]]:
        """Yield an SR with a disk that the first host has not plugged."""
        with doors(hosts=2) as pool:
            member = pool.xapi.db.refs("host")[1]
            with pool.xapi.xapi.lock:
                pool.xapi.storage.host("host2").mounts.make_directory("/srv/images", size=GIB)
                sr = pool.xapi.add_sr(
                    "local",
                    type="file",
                    device_config={"location": "/srv/images"},
                    hosts=[member],
                    shared=False,
                )
            yield pool, pool.vdi(sr=sr)

    @pytest.mark.parametrize(("verb", "path"), [("PUT", "/import_raw_vdi"), ("GET", "/export_raw_vdi")])
    def test_without_the_sr_send_the_client_to_one_that_has_it(
        self, member_only: tuple[Doors, str], verb: str, path: str
    ) -> None:
        pool, vdi = member_only
        task = pool.task()
        body = b"abc" if verb == "PUT" else None
        answer = pool.request(verb, path, body, vdi=vdi, task_id=task)
        assert answer.status == 302
        assert answer.headers["Location"] == f"{pool.xapi.urls[1]}{path}?{pool.query(vdi=vdi, task_id=task)}"
        assert pool.outcome(task) == ["pending"]
        assert followed(pool, answer, verb, body).status == 200
        assert pool.outcome(task) == ["success"]

    def test_plug_the_disk_into_their_own_control_domain(self, member_only: tuple[Doors, str]) -> None:
        pool, vdi = member_only
        parts = urllib.parse.urlsplit(pool.xapi.urls[1])
        with socket.create_connection((parts.hostname, parts.port)) as connection:
            connection.sendall(
                f"PUT /import_raw_vdi?{pool.query(vdi=vdi)} HTTP/1.1\r\nContent-Length: 99\r\n\r\n".encode()
            )
            wait_for(lambda: pool.plugged(vdi) != [])
            (vbd,) = pool.plugged(vdi)
            assert pool.x.VM.get_resident_on(pool.x.VBD.get_VM(vbd)) == pool.xapi.db.refs("host")[1]
        wait_for(lambda: pool.plugged(vdi) == [])

    def test_that_are_disabled_or_dead_are_not_named(self, member_only: tuple[Doors, str]) -> None:
        pool, vdi = member_only
        pool.x.host.disable(pool.xapi.db.refs("host")[1])
        task = pool.task()
        assert pool.request("PUT", "/import_raw_vdi", b"abc", vdi=vdi, task_id=task).status == 400
        assert pool.outcome(task) == ["NO_HOSTS_AVAILABLE"]


def followed(pool: Doors, answer: Answer, verb: str, body: bytes | None) -> Answer:
    parts = urllib.parse.urlsplit(answer.headers["Location"])
    connection = pool.connection(answer.headers["Location"])
    try:
        connection.request(verb, f"{parts.path}?{parts.query}", body)
        response = connection.getresponse()
        return Answer(response.status, dict(response.headers), response.read())
    finally:
        connection.close()


class TestTask:
    def test_of_no_client_comes_and_goes_with_the_transfer(self, pool: Doors) -> None:
        vdi = pool.vdi()
        with pool.upload(vdi, MIB) as connection:
            records = pool.x.task.get_all_records()
            assert "Importing raw VDI" in [record["name_label"] for record in records.values()]
            connection.sendall(bytes(MIB))
        wait_for(lambda: len(pool.x.task.get_all()) == len(records) - 1)

    def test_tells_how_far_the_transfer_is(self, pool: Doors) -> None:
        vdi, task = pool.vdi(), pool.task()
        with pool.upload(vdi, 4 * MIB, task_id=task) as connection:
            connection.sendall(bytes(3 * MIB))
            wait_for(lambda: bool(pool.x.task.get_progress(task) == 0.75))

    def test_that_is_destroyed_meanwhile_does_not_disturb_the_transfer(self, pool: Doors) -> None:
        vdi, task = pool.vdi(), pool.task()
        with pool.upload(vdi, MIB, task_id=task) as connection:
            with pool.xapi.xapi.lock:
                pool.xapi.db.delete("task", task)
            connection.sendall(b"x" * MIB)
            assert connection.recv(1) == b""
        assert pool.get(vdi)[:MIB] == b"x" * MIB

    def test_that_is_cancelled_succeeds_when_the_stream_comes_to_its_end(self, pool: Doors) -> None:
        vdi, task = pool.vdi(), pool.task()
        with pool.upload(vdi, MIB, task_id=task) as connection:
            pool.x.task.cancel(task)
            connection.sendall(b"x" * MIB)
            assert connection.recv(1) == b""
        assert pool.outcome(task) == ["success"]


class TestClientThatGoes:
    def test_during_an_export_fails_the_task_and_leaves_no_vbd(self, pool: Doors) -> None:
        vdi, task = pool.vdi(256 * MIB), pool.task()
        connection = pool.connection()
        connection.request("GET", f"/export_raw_vdi?{pool.query(vdi=vdi, task_id=task)}")
        connection.getresponse().read(10)
        connection.sock.close() if connection.sock else None
        connection.close()
        wait_for(lambda: pool.outcome(task) != ["pending"])
        assert pool.outcome(task) == IO_ERROR
        assert pool.x.VDI.get_VBDs(vdi) == []

    def test_whose_connection_is_dropped_has_an_io_error(self, pool: Doors) -> None:
        vdi, task = pool.vdi(), pool.task()
        with pool.upload(vdi, MIB, task_id=task):
            pool.xapi.faults.drop_connection()
            wait_for(lambda: pool.outcome(task) == IO_ERROR)
        assert pool.x.VDI.get_VBDs(vdi) == []


class TestFaults:
    def test_are_ordered_for_a_door_by_verb_and_path(self, pool: Doors) -> None:
        vdi = pool.vdi()
        pool.xapi.faults.refuse("PUT /import_raw_vdi", "SR_BACKEND_FAILURE_47", "", "no such cable", "")
        task = pool.task()
        assert pool.request("PUT", "/import_raw_vdi", b"abc", vdi=vdi, task_id=task).status == 400
        assert pool.outcome(task)[0] == "SR_BACKEND_FAILURE_47"
        assert pool.put(vdi, b"abc") == ["success"]

    def test_that_lose_the_answer_leave_the_truth_to_the_task(self, pool: Doors) -> None:
        vdi, task = pool.vdi(), pool.task()
        pool.xapi.faults.lose_answer("PUT /import_raw_vdi")
        with pytest.raises(OSError):
            pool.request("PUT", "/import_raw_vdi", b"abc", vdi=vdi, task_id=task)
        assert pool.outcome(task) == ["success"]

    def test_that_kill_the_host_leave_its_vbd_and_a_task_that_pends_for_ever(self) -> None:
        with doors(hosts=2) as pool:
            vdi, task = pool.vdi(), pool.task()
            with pool.upload(vdi, MIB, task_id=task) as connection:
                threads = threading.active_count()
                pool.xapi.faults.die(host="host1")
                assert connection.recv(1) == b""
            wait_for(lambda: threading.active_count() < threads)
            pool.xapi.faults.come_back()
            assert len(pool.plugged(vdi)) == 1
            with pool.xapi.xapi.lock:
                assert pool.xapi.db.row("task", task)["status"] == "pending"

    def test_of_the_session_are_a_401(self, pool: Doors) -> None:
        vdi = pool.vdi()
        pool.xapi.faults.expire_session("PUT /import_raw_vdi")
        assert pool.request("PUT", "/import_raw_vdi", b"abc", vdi=vdi).status == 401


class TestJournal:
    def test_has_a_transfer_like_a_call(self, pool: Doors) -> None:
        vdi = pool.vdi()
        with pool.xapi.journal.recording() as calls:
            pool.request("PUT", "/import_raw_vdi", b"abc", vdi=vdi)
            pool.request("GET", "/export_raw_vdi", vdi="nonsense")
        assert calls.methods() == ["PUT /import_raw_vdi", "GET /export_raw_vdi"]
        assert [call.outcome for call in calls] == ["success", "UUID_INVALID"]
        assert (calls[0].session, calls[0].params) == (pool.session, ({"vdi": vdi},))


class TestParameters:
    def test_may_come_as_cookies(self, pool: Doors) -> None:
        """importexport.ml reads the query and the cookies alike; vhd-tool sends ``chunked`` this way."""
        vdi = pool.vdi()
        cookies = {"Cookie": "chunked=true; task_id=" + (task := pool.task())}
        pool.request("PUT", "/import_raw_vdi", chunks({MIB: b"abc"}), cookies, vdi=vdi)
        assert pool.outcome(task) == ["success"]
        assert pool.get(vdi)[MIB : MIB + 4] == b"abc\0"

    def test_with_a_user_of_wrong_password_are_a_401_and_no_session_stays_of_a_right_one(
        self, pool: Doors
    ) -> None:
        vdi, before = pool.vdi(), pool.xapi.db.count("session")
        for password, status in (("secret", 200), ("wrong", 401)):
            connection = pool.connection(pool.xapi.url)
            credentials = f"root:{password}".encode()
            headers = {"Authorization": f"Basic {base64.b64encode(credentials).decode()}"}
            connection.request("PUT", f"/import_raw_vdi?vdi={vdi}", b"abc", headers)
            response = connection.getresponse()
            response.read()  # until the connection's end, when all is over
            assert response.status == status
            connection.close()
        assert pool.xapi.db.count("session") == before


def test_the_memory_stays_flat_however_large_the_disk(pool: Doors) -> None:
    """256 MiB of data in and out, in a process of its own, whose peak is measured."""
    program = MEASURED.format(path=[*sys.path])
    grown = int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout)
    assert grown < 32 * 1024, f"{grown} KiB more than before"


MEASURED = """
import sys; sys.path[:] = {path}
import resource, socket, threading, urllib.parse
from imagekit import MIB, doors

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

with doors() as pool:
    vdi = pool.vdi(256 * MIB)
    piece = b"x" * MIB
    pool.put(vdi, piece)
    before = peak()
    with pool.upload(vdi, 256 * MIB) as connection:
        for _ in range(256):
            connection.sendall(piece)
        assert connection.recv(1) == b""
    del piece
    for form in ("raw", "vhd"):
        connection = pool.connection()
        connection.request("GET", "/export_raw_vdi?" + pool.query(vdi=vdi, format=form))
        response = connection.getresponse()
        got = 0
        while data := response.read(MIB):
            got += len(data)
        assert got >= 256 * MIB
        connection.close()
    print(peak() - before)
"""
