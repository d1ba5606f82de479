"""docs/background/recordings.md, "HTTP image transfer": each row and bullet; recording 30 is also replayed whole."""

from __future__ import annotations

import base64
import struct
import urllib.parse
from collections.abc import Iterator

import pytest
from imagekit import MIB, Doors, doors, wait_for
from storage_pool import refusal

DEAD, DEAD_UUID = "OpaqueRef:deadbeef-0000-0000-0000-000000000000", "deadbeef-0000-0000-0000-000000000000"
IMPORT, EXPORT = "/import_raw_vdi", "/export_raw_vdi"
IO_ERROR = ["VDI_IO_ERROR", "Device I/O errors"]
NO_STORE = ["Connection: close", "Cache-Control: no-cache, no-store"]
SECOND_ANSWER = "\r\n".join(
    ("HTTP/1.1 400 Bad Request", *NO_STORE, "", "HTTP/1.1 500 Internal Error", "")
).encode()
CHUNK, END = struct.pack("<QI", MIB, 512) + b"A" * 512, bytes(12)


@pytest.fixture(scope="module")
def pool() -> Iterator[Doors]:
    with doors() as made:
        yield made


@pytest.fixture(scope="module")
def vdi(pool: Doors) -> str:
    return pool.vdi()


def talk(
    pool: Doors,
    verb: str,
    path: str,
    body: bytes = b"",
    *headers: str,
    length: int | None = -1,
    silence: float = 60,
    **query: str,
) -> tuple[list[str], bytes, bool]:
    """Return head, body, and True if the server closed the connection; ``length`` None sends none, -1 the body's.

    The connection counts as open if nothing arrives for ``silence`` seconds after the head.
    """
    connection = pool.connection()
    try:
        connection.connect()
        sock = connection.sock
        lines = [f"{verb} {path}?{urllib.parse.urlencode(query)} HTTP/1.1", *headers]
        if length is not None and verb != "GET":
            lines.append(f"Content-Length: {len(body) if length == -1 else length}")
        sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
        if length != -1:
            sock.shutdown(1)
        received = bytearray()
        try:
            while data := sock.recv(MIB):
                received += data
                sock.settimeout(silence)
        except TimeoutError:
            is_closed = False
        else:
            is_closed = True
    finally:
        connection.close()
    head, _, rest = bytes(received).partition(b"\r\n\r\n")
    return head.decode().split("\r\n"), rest, is_closed


@pytest.mark.parametrize("size", [4 * MIB, MIB, 0])
def test_a_put_is_answered_by_a_head_alone_and_the_server_closes(pool: Doors, vdi: str, size: int) -> None:
    """Recording 30#9, #20, #32: as long as the disk, shorter, empty."""
    task = pool.task()
    head, body, is_closed = talk(
        pool, "PUT", IMPORT, b"A" * size, session_id=pool.session, vdi=vdi, task_id=task
    )
    assert head == [
        "HTTP/1.1 200 OK",
        *NO_STORE,
        f"task-id:{task}",
        "content-type: application/octet-stream",
    ]
    assert (body, is_closed) == (b"", True)
    assert pool.outcome(task) == ["success"]
    assert pool.x.task.get_result(task) == f"<value>{vdi}</value>"


@pytest.mark.parametrize(
    ("body", "length", "query"),
    [
        pytest.param(b"A" * (5 * MIB), -1, {}, id="longer than the disk"),
        pytest.param(b"A" * MIB, 4 * MIB, {}, id="cut off"),
        pytest.param(b"A" * MIB, None, {}, id="without a length"),
        pytest.param(b"A" * 512, -1, {"format": "vhd"}, id="no VHD"),
        pytest.param(CHUNK, None, {"chunked": "true"}, id="chunks without an end"),
        pytest.param(struct.pack("<QI", 8 * MIB, 1) + b"A" + END, None, {"chunked": ""}, id="chunk beyond"),
    ],
)
def test_a_put_that_fails_has_a_second_answer_in_its_body(
    pool: Doors, vdi: str, body: bytes, length: int | None, query: dict[str, str]
) -> None:
    """Recording 30#23, #26, #29, #44, #47, #56."""
    task = pool.task()
    head, rest, is_closed = talk(
        pool, "PUT", IMPORT, body, length=length, session_id=pool.session, vdi=vdi, task_id=task, **query
    )
    assert (head[0], is_closed) == ("HTTP/1.1 200 OK", True)
    assert rest.startswith(SECOND_ANSWER)
    assert b"VDI_IO_ERROR: [ Device I/O errors ]</body></html>" in rest
    assert pool.outcome(task) == IO_ERROR


@pytest.mark.parametrize("value", ["", "true", "false"])
@pytest.mark.parametrize("length", [None, -1])
def test_chunked_with_any_value_means_xapis_own_chunks(
    pool: Doors, vdi: str, value: str, length: int | None
) -> None:
    """Recording 30#38, #41."""
    pool.put(vdi, bytes(4 * MIB))
    task = pool.task()
    query = {"session_id": pool.session, "vdi": vdi, "task_id": task, "chunked": value}
    head, rest, _ = talk(pool, "PUT", IMPORT, CHUNK + END, length=length, **query)
    assert (head[0], rest, pool.outcome(task)) == ("HTTP/1.1 200 OK", b"", ["success"])
    assert pool.get(vdi)[MIB : MIB + 513] == b"A" * 512 + b"\0"


@pytest.mark.parametrize(
    ("headers", "query", "status", "text"),
    [
        (["Transfer-Encoding: chunked"], {}, "404 Not Found", "Cannot handle encoding: chunked"),
        ([], {"format": "bogus"}, "404 Not Found", "Unknown format bogus"),
        ([], {"format": "qcow2"}, "404 Not Found", "Unknown format qcow2"),
        ([], {"format": "vhd", "chunked": "1"}, "404 Not Found", "Cannot handle chunked VHD"),
        (
            [],
            {"vdi": "", "sr_id": "$sr", "format": "vhd"},
            "400 Bad Request",
            "Importing a VHD directly into an SR not yet supported",
        ),
        (
            [],
            {"vdi": "", "sr_id": "$sr", "format": "tar"},
            "400 Bad Request",
            "Not enough info supplied to import",
        ),
    ],
)
def test_what_is_wrong_in_form_is_a_head_of_http_1_0_and_an_internal_error(
    pool: Doors, vdi: str, headers: list[str], query: dict[str, str], status: str, text: str
) -> None:
    """Recording 30#35, #50, #53, #59, #78, #81."""
    task = pool.task()
    given = {"session_id": pool.session, "vdi": vdi, "task_id": task, **query}
    given = {
        name: value.replace("$sr", pool.sr) for name, value in given.items() if (name, value) != ("vdi", "")
    }
    head, rest, is_closed = talk(pool, "PUT", IMPORT, b"A" * 512, *headers, **given)
    assert (head, rest, is_closed) == ([f"HTTP/1.0 {status}", *NO_STORE], b"", True)
    assert pool.outcome(task) == ["INTERNAL_ERROR", text]


def test_a_format_may_be_in_capitals(pool: Doors, vdi: str) -> None:
    """Recording 30#62."""
    assert pool.put(vdi, b"A" * 512, format="RAW") == ["success"]


def test_a_put_for_no_disk_is_refused_and_the_connection_stays_open(pool: Doors) -> None:
    """Recording 30#65."""
    task = pool.task()
    query = {"session_id": pool.session, "task_id": task}
    head, rest, is_closed = talk(pool, "PUT", IMPORT, b"A" * 512, silence=0.5, **query)
    assert (head, rest, is_closed) == (["HTTP/1.1 400 Bad Request", *NO_STORE], b"", False)
    assert pool.outcome(task) == ["VDI_MISSING"]


@pytest.mark.parametrize("key", ["sr_id", "sr_uuid"])
def test_a_put_for_an_sr_makes_a_disk_of_the_bodys_length(pool: Doors, key: str) -> None:
    """Recording 30#68, #72."""
    task, sr = pool.task(), pool.sr if key == "sr_id" else pool.x.SR.get_uuid(pool.sr)
    query = {"session_id": pool.session, "task_id": task, key: sr}
    head, _, _ = talk(pool, "PUT", IMPORT, b"A" * (2 * MIB), **query)
    assert (head[0], pool.outcome(task)) == ("HTTP/1.1 200 OK", ["success"])
    made = pool.x.task.get_result(task).removeprefix("<value>").removesuffix("</value>")
    assert pool.x.VDI.get_name_label(made) == "Imported VDI"
    assert pool.get(made) == b"A" * (2 * MIB)


def test_a_put_for_an_sr_needs_a_length(pool: Doors) -> None:
    """Recording 30#75."""
    task = pool.task()
    query = {"session_id": pool.session, "task_id": task, "sr_id": pool.sr}
    head, _, _ = talk(pool, "PUT", IMPORT, b"A" * 512, length=None, **query)
    assert head[0] == "HTTP/1.0 400 Bad Request"
    assert pool.outcome(task) == ["INTERNAL_ERROR", "Not enough info supplied to import"]


@pytest.mark.parametrize("name", [DEAD, DEAD_UUID, ""])
@pytest.mark.parametrize(("verb", "path"), [("PUT", IMPORT), ("GET", EXPORT)])
def test_an_unknown_disk_is_a_500_and_the_task_pends_for_ever(
    pool: Doors, verb: str, path: str, name: str
) -> None:
    """Recording 30#84, #116, #148, #260."""
    task = pool.task()
    body = b"A" * 512 if verb == "PUT" else b""
    head, rest, is_closed = talk(pool, verb, path, body, session_id=pool.session, vdi=name, task_id=task)
    assert (head[0], is_closed) == ("HTTP/1.1 500 Internal Error", True)
    assert f"Db_exn.Read_missing_uuid(&quot;VDI&quot;, &quot;&quot;, &quot;{name}&quot;)".encode() in rest
    assert pool.outcome(task) == ["pending"]


def test_an_unknown_sr_is_one_that_no_host_has(pool: Doors) -> None:
    """Recording 30#180."""
    task = pool.task()
    head, rest, _ = talk(pool, "PUT", IMPORT, b"A", session_id=pool.session, sr_id=DEAD, task_id=task)
    assert head == ["HTTP/1.1 400 Bad Request", *NO_STORE]
    assert rest.startswith(b"HTTP/1.1 500 Internal Error\r\n")
    assert pool.outcome(task) == ["NO_HOSTS_AVAILABLE"]


def test_an_sr_that_is_plugged_nowhere_fails_a_put_and_leaves_a_get_pending() -> None:
    """Recording 30#373, #376."""
    with doors() as pool:
        vdi = pool.vdi()
        pool.x.PBD.unplug(pool.x.SR.get_PBDs(pool.sr)[0])
        for verb, path, status, outcome in (
            ("PUT", IMPORT, "HTTP/1.1 400 Bad Request", ["NO_HOSTS_AVAILABLE"]),
            ("GET", EXPORT, "HTTP/1.1 500 Internal Error", ["pending"]),
        ):
            task = pool.task()
            head, rest, _ = talk(pool, verb, path, session_id=pool.session, vdi=vdi, task_id=task)
            assert (head[0], pool.outcome(task)) == (status, outcome)
            assert b"NO_HOSTS_AVAILABLE: [  ]" in rest


@pytest.mark.parametrize(("verb", "path"), [("PUT", IMPORT), ("GET", EXPORT)])
def test_who_is_not_logged_in_is_a_401_with_the_doors_realm_and_the_task_pends(
    pool: Doors, vdi: str, verb: str, path: str
) -> None:
    """Recording 30#183, #214, #216, #301."""
    wrong = "Authorization: Basic " + base64.b64encode(b"root:wrong").decode()
    for query, headers in (({"session_id": DEAD}, []), ({}, []), ({}, [wrong])):
        task = pool.task()
        head, rest, is_closed = talk(pool, verb, path, b"", *headers, vdi=vdi, task_id=task, **query)
        assert head[0] == "HTTP/1.1 401 Unauthorised"
        assert head[-1] == f'WWW-Authenticate: Basic realm="{verb.lower()}_{path[1:]}"'
        assert (len(rest), is_closed) == (96, True)
        assert pool.outcome(task) == ["pending"]


def test_a_session_may_be_in_the_query_in_a_cookie_or_made_of_name_and_password(
    pool: Doors, vdi: str
) -> None:
    """Recording 30#9, #215, #217."""
    right = "Authorization: Basic " + base64.b64encode(b"root:secret").decode()
    for query, headers in (
        ({"session_id": pool.session}, []),
        ({}, [f"Cookie: session_id={pool.session}"]),
        ({}, [right]),
    ):
        task = pool.task()
        talk(pool, "PUT", IMPORT, b"A", *headers, vdi=vdi, task_id=task, **query)
        assert pool.outcome(task) == ["success"]


def test_an_unknown_task_is_a_500(pool: Doors, vdi: str) -> None:
    """Recording 30#218; the findings list no answer, because the recorder's connection was reset after it."""
    head, rest, _ = talk(pool, "PUT", IMPORT, b"A", session_id=pool.session, vdi=vdi, task_id=DEAD)
    assert head[0] == "HTTP/1.1 500 Internal Error"
    assert (
        b"Db_exn.DBCache_NotFound(&quot;missing row&quot;, &quot;task&quot;, &quot;OpaqueRef:deadbeef" in rest
    )


def test_a_read_only_disk_can_be_exported_and_not_be_filled(pool: Doors) -> None:
    """Recording 30#351, #354."""
    vdi = pool.vdi(read_only=True)
    task = pool.task()
    head, rest, _ = talk(pool, "PUT", IMPORT, b"A" * MIB, session_id=pool.session, vdi=vdi, task_id=task)
    assert head[0] == "HTTP/1.1 200 OK"
    assert rest.startswith(SECOND_ANSWER)
    assert pool.outcome(task) == ["VDI_READONLY", vdi]
    assert pool.get(vdi) == bytes(4 * MIB)


@pytest.mark.parametrize(
    ("query", "content_type", "suffix"),
    [
        ({}, "application/octet-stream", "raw"),
        ({"format": "raw"}, "application/octet-stream", "raw"),
        ({"format": "vhd"}, "application/vhd", "vhd"),
    ],
)
def test_a_get_names_a_file_says_no_length_and_the_server_closes(
    pool: Doors, vdi: str, query: dict[str, str], content_type: str, suffix: str
) -> None:
    """Recording 30#12, #295, #298, #336."""
    task = pool.task()
    head, _, is_closed = talk(
        pool, "GET", EXPORT, b"", "Range: bytes=0-9", session_id=pool.session, vdi=vdi, task_id=task, **query
    )
    name = f"{pool.x.VDI.get_uuid(vdi)}.{suffix}"
    assert head == [
        "HTTP/1.1 200 OK",
        *NO_STORE,
        f"task-id:{task}",
        f"content-type:{content_type}",
        f'content-disposition: attachment; filename="{name}"',
    ]
    assert (is_closed, pool.outcome(task), pool.x.task.get_result(task)) == (True, ["success"], "")


def test_a_get_of_no_disk_is_a_500_and_the_task_pends(pool: Doors) -> None:
    """Recording 30#228."""
    task = pool.task()
    head, rest, _ = talk(pool, "GET", EXPORT, session_id=pool.session, task_id=task)
    assert head[0] == "HTTP/1.1 500 Internal Error"
    assert b"Failure(&quot;Missing vdi query parameter&quot;)" in rest
    assert pool.outcome(task) == ["pending"]


def test_a_get_in_an_unknown_format_is_a_404(pool: Doors, vdi: str) -> None:
    """Recording 30#292."""
    task = pool.task()
    head, rest, _ = talk(pool, "GET", EXPORT, session_id=pool.session, vdi=vdi, task_id=task, format="bogus")
    assert (head, rest) == (["HTTP/1.0 404 Not Found", *NO_STORE], b"")
    assert pool.outcome(task) == ["INTERNAL_ERROR", "Unknown format bogus"]


def test_an_unknown_base_is_found_out_after_200(pool: Doors, vdi: str) -> None:
    """Recording 30#333."""
    task = pool.task()
    query = {"session_id": pool.session, "vdi": vdi, "task_id": task, "format": "vhd", "base": DEAD_UUID}
    head, rest, _ = talk(pool, "GET", EXPORT, **query)
    assert head[0] == "HTTP/1.1 200 OK"
    assert rest.startswith(b"HTTP/1.1 500 Internal Error\r\n")
    assert pool.outcome(task) == ["UUID_INVALID", "VDI", DEAD_UUID]
    assert pool.plugged(vdi) == []


def test_the_wrong_verb_at_a_door(pool: Doors, vdi: str) -> None:
    """Recording 30#219-222: POST is XML-RPC, a GET instead of a PUT leaves the connection open."""
    for verb, path, status, closes in (
        ("HEAD", EXPORT, "HTTP/1.1 501 Method not implemented", True),
        ("POST", IMPORT, "HTTP/1.1 500 Internal Error", True),
        ("GET", IMPORT, "HTTP/1.1 403 Forbidden", False),
        ("PUT", EXPORT, "HTTP/1.1 403 Forbidden", True),
    ):
        silence = 60 if closes else 0.5
        head, _, is_closed = talk(pool, verb, path, b"A", silence=silence, session_id=pool.session, vdi=vdi)
        assert (verb, path, head[0], is_closed) == (verb, path, status, closes)


def test_an_expectation_of_100_is_ignored(pool: Doors, vdi: str) -> None:
    """Recording 30#224: the first line is 200's, and no 100 comes before it."""
    query = {"session_id": pool.session, "vdi": vdi}
    head, rest, _ = talk(pool, "PUT", IMPORT, b"A", "Expect: 100-continue", **query)
    assert (head[0], rest) == ("HTTP/1.1 200 OK", b"")


def test_a_slash_may_follow_the_path(pool: Doors, vdi: str) -> None:
    """Recording 30#226."""
    head, _, _ = talk(pool, "PUT", f"{IMPORT}/", b"A", session_id=pool.session, vdi=vdi)
    assert head[0] == "HTTP/1.1 200 OK"


class TestDuringATransfer:
    """Recording 30#357-368."""

    def test_200_comes_before_the_body_and_the_disk_is_plugged_into_the_control_domain(
        self, pool: Doors, vdi: str
    ) -> None:
        with pool.upload(vdi, MIB):  # which waits for 200, and for the VBD
            (vbd,) = pool.plugged(vdi)
            record = pool.x.VBD.get_record(vbd)
            dom0 = pool.x.host.get_control_domain(pool.xapi.xapi.master)
            assert (record["VM"], record["mode"], record["type"]) == (dom0, "RW", "Disk")
        wait_for(lambda: pool.x.VDI.get_VBDs(vdi) == [])

    def test_the_disk_can_be_neither_destroyed_nor_resized(self, pool: Doors, vdi: str) -> None:
        with pool.upload(vdi, MIB):
            assert refusal(pool.x.VDI.destroy, vdi) == ["VDI_IN_USE", vdi, "destroy"]
            assert refusal(pool.x.VDI.resize, vdi, str(8 * MIB)) == ["VDI_IN_USE", vdi, "resize"]
            assert sorted(pool.x.VDI.get_allowed_operations(vdi)) == ["clone", "snapshot"]
        wait_for(lambda: pool.plugged(vdi) == [])

    def test_a_cancel_returns_at_once_and_the_task_pends_until_the_client_goes(
        self, pool: Doors, vdi: str
    ) -> None:
        task = pool.task()
        with pool.upload(vdi, MIB, task_id=task) as connection:
            connection.sendall(b"A" * 512)
            pool.x.task.cancel(task)
            assert pool.outcome(task) == ["pending"]
            (asking,) = pool.x.task.get_current_operations(task).items()
            assert asking[0].startswith("DummyRef:|")
            assert (asking[0].partition("|task.")[2], asking[1]) == ("cancel", "cancel")
        wait_for(lambda: pool.outcome(task) != ["pending"])
        assert pool.outcome(task) == IO_ERROR
        assert pool.x.VDI.get_VBDs(vdi) == []


def test_a_disk_that_a_running_vm_has_can_be_filled_and_exported(pool: Doors) -> None:
    """Recording 30#342, #345."""
    vdi = pool.vdi()
    with pool.xapi.xapi.lock:
        pool.xapi.add_vm("guest", disks=[vdi])
    assert len(pool.plugged(vdi)) == 1
    assert pool.put(vdi, b"A" * (4 * MIB)) == ["success"]
    assert pool.get(vdi) == b"A" * (4 * MIB)
    assert len(pool.plugged(vdi)) == 1
