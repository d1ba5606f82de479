"""An image from wherever it comes: an image service, a pipe, a process that is killed; and what that costs."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import hashlib
import http.server
import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
import vhdkit
import XenAPI
from imagelab import MIB, Lab, lab, pattern

from tests import needs
from tests.scenarios import changes
from xenvol.images import (
    ImageSource,
    Progress,
    fill_vdi,
    find_leftovers,
    import_image,
    inspect_image,
    sweep,
)
from xenvol.images.errors import (
    ChecksumMismatch,
    ImageTooLarge,
    SourceError,
    TransferCancelled,
    TruncatedImage,
)
from xenvol.secret import Secret

SIZE = 5 * MIB
DATA = pattern(SIZE, seed=9)
QemuImg = Callable[..., str]
TOKEN = "canary-t0ken-of-the-image-service"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("root")) as made:
        made.sr("nfs")
        yield made


@contextmanager
def image_service(data: bytes, **headers: str) -> Iterator[str]:
    """Gives these bytes to whoever has the token."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers["X-Auth-Token"] != TOKEN:
                self.send_error(401)
                return
            self.send_response(200)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v2/images/5f/file"
        finally:
            server.shutdown()
            thread.join()


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class TestAnImageService:
    @pytest.mark.parametrize("format", ["raw", "vhd"])
    def test_gives_an_image_that_is_not_staged(self, pool: Lab, tmp_path: Path, format: str) -> None:
        layer = {0: DATA}
        data = DATA if format == "raw" else vhdkit.make_dynamic(SIZE, layer)
        told: list[Progress] = []
        with image_service(data, x_image_meta_checksum=md5(data)) as url:
            source = ImageSource(where=url, headers={"X-Auth-Token": Secret(TOKEN)})
            made = import_image(pool.session, source, pool.sr(), progress=told.append, here=pool.elsewhere)
        assert {progress.phase for progress in told} == {"writing"}
        assert pool.content(made.vdi_uuid) == DATA.ljust(made.vdi_size, b"\0")
        assert (made.format, pool.session.call("VDI.get_name_label", made.vdi_ref)) == (format, "file")

    def test_whose_checksum_is_anothers_makes_no_disk(self, pool: Lab) -> None:
        before = pool.xapi.snapshot()
        with image_service(DATA, x_image_meta_checksum=md5(b"another")) as url:
            source = ImageSource(where=url, headers={"X-Auth-Token": Secret(TOKEN)})
            with pytest.raises(ChecksumMismatch):
                import_image(pool.session, source, pool.sr(), here=pool.elsewhere)
        assert (
            before.difference(pool.xapi.snapshot(), ignore=["SR.physical_utilisation"])
            == pool.residue()
            == []
        )

    def test_that_refuses_makes_no_disk_and_hears_no_more_of_the_token(
        self, pool: Lab, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        before = pool.xapi.snapshot()
        with image_service(DATA) as url:
            source = ImageSource(where=url, headers={"X-Auth-Token": Secret(TOKEN + "x")})
            with pytest.raises(SourceError) as caught:
                import_image(pool.session, source, pool.sr(), here=pool.elsewhere)
        assert caught.value.status == 401
        assert TOKEN not in repr(source) + str(caught.value) + caplog.text
        assert before.difference(pool.xapi.snapshot()) == []


class Endless(io.RawIOBase):
    """A stream that says nothing of its length."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        return self._file.readinto(buffer)


class TestAStreamOfUnknownLength:
    """What came may be a part of it: the end of the stream is that of its writer, however that ended."""

    def test_is_no_raw_disk_and_nothing_is_made(self, pool: Lab, tmp_path: Path) -> None:
        before = pool.xapi.snapshot()
        for format in (None, "raw"):
            source = ImageSource(where=cast(BinaryIO, Endless(pattern(2 * MIB))), format=format)
            with pytest.raises(
                SourceError, match="it ended after 2097152 bytes, and its length is not known"
            ):
                import_image(pool.session, source, pool.sr(), staging_dir=tmp_path, here=pool.elsewhere)
        assert changes(before, pool.xapi.snapshot()) == []
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("said", ["unknown_length", "checksum", "size"])
    def test_is_one_if_its_caller_knows_that_it_is_whole(self, pool: Lab, said: str) -> None:
        data = pattern(2 * MIB)
        known = {"unknown_length": True, "checksum": hashlib.sha256(data).hexdigest(), "size": len(data)}
        source = ImageSource(where=cast(BinaryIO, Endless(data)), **{said: known[said]})  # type: ignore[arg-type]  # the values are of several types
        made = import_image(pool.session, source, pool.sr(), here=pool.elsewhere)
        assert pool.content(made.vdi_uuid) == data

    def test_that_is_compressed_shows_its_own_end(self, pool: Lab) -> None:
        data = pattern(2 * MIB)
        packed = gzip.compress(data)
        made = import_image(pool.session, cast(BinaryIO, Endless(packed)), pool.sr(), here=pool.elsewhere)
        assert pool.content(made.vdi_uuid) == data
        with pytest.raises(TruncatedImage):
            import_image(pool.session, cast(BinaryIO, Endless(packed[:-9])), pool.sr(), here=pool.elsewhere)


@pytest.mark.parametrize(
    "place", ["s3://bucket/disk.raw", "ftp://files.example/disk.raw", "GS://b/d?sig=canary"]
)
def test_a_url_that_is_not_fetched_is_refused_as_one(place: str) -> None:
    """And is not taken for the name of a file; what may be a secret in it is not shown."""
    with pytest.raises(SourceError, match="xenvol fetches http and https URLs") as caught:
        inspect_image(place)
    assert "canary" not in str(caught.value)


def test_the_url_of_a_file_is_refused_with_what_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("file:///srv/disk.raw", "file:/srv/disk.raw"):
        with pytest.raises(SourceError, match="give its path"):
            inspect_image(place)
    monkeypatch.chdir(tmp_path)
    Path("file:disk.raw").write_bytes(bytes(512))
    assert inspect_image("file:disk.raw").virtual_size == 512  # there is one


@pytest.mark.parametrize("is_right", [True, False])
def test_a_list_of_checksums_is_read_for_the_one_of_the_image(tmp_path: Path, is_right: bool) -> None:
    data = pattern(MIB)
    (tmp_path / "disk.raw").write_bytes(data)
    digest = hashlib.sha256(data if is_right else b"").hexdigest()
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  other.raw\n{digest}  disk.raw\n")
    source = ImageSource(where=tmp_path / "disk.raw", checksum_file=tmp_path / "SHA256SUMS")
    with contextlib.nullcontext() if is_right else pytest.raises(ChecksumMismatch):
        assert inspect_image(source, check=True).is_checked


@pytest.mark.parametrize("road", ["http", "block"])
@pytest.mark.parametrize("sr", ["nfs", "lvm"])
def test_a_disk_may_be_larger_than_its_image_and_reads_as_zeros_behind_it(
    pool: Lab, sr: str, road: str
) -> None:
    """Also where a new disk may hold old bytes."""
    image = io.BytesIO(pattern(3 * MIB, density=1.0))
    made = import_image(pool.session, image, pool.sr(sr), size=10 * MIB, verify=True, here=pool.on(road))
    assert (made.virtual_size, made.vdi_size) == (3 * MIB, 10 * MIB)
    assert pool.content(made.vdi_uuid) == image.getvalue().ljust(10 * MIB, b"\0")


def test_a_disk_smaller_than_its_image_is_not_made(pool: Lab) -> None:
    before = pool.xapi.snapshot()
    with pytest.raises(ImageTooLarge, match="the requested disk has at most 1048576"):
        import_image(pool.session, io.BytesIO(bytes(3 * MIB)), pool.sr(), size=MIB, here=pool.elsewhere)
    assert changes(before, pool.xapi.snapshot()) == []


class TestProgress:
    """It counts what the caller waits for, and ends at all of it."""

    SPARSE = (pattern(MIB, density=1.0) + bytes(3 * MIB)) * 2

    @pytest.mark.parametrize("road", ["http", "block"])
    def test_of_a_stream_with_zeros_counts_them_as_they_pass(self, pool: Lab, road: str) -> None:
        """Although they are not sent."""
        told: list[Progress] = []
        source = ImageSource(where=cast(BinaryIO, Endless(self.SPARSE)), size=len(self.SPARSE))
        import_image(pool.session, source, pool.sr(), progress=told.append, here=pool.on(road))
        assert [(each.phase, each.done, each.total) for each in told] == [
            ("writing", done * MIB, len(self.SPARSE)) for done in range(1, 9)
        ]

    def test_of_a_disk_that_is_overwritten_counts_all_of_the_disk(self, pool: Lab) -> None:
        told: list[Progress] = []
        vdi = pool.vdi("nfs", 12 * MIB)
        fill_vdi(pool.session, io.BytesIO(self.SPARSE), vdi, progress=told.append, here=pool.elsewhere)
        last = told[-1]
        assert (last.phase, last.done, last.total) == ("writing", 12 * MIB, 12 * MIB)

    def test_of_a_vhd_whose_blocks_are_partly_empty_ends_at_all_of_it(self, pool: Lab) -> None:
        told: list[Progress] = []
        image = vhdkit.make_dynamic(8 * MIB, {512: b"x" * 512})
        import_image(pool.session, io.BytesIO(image), pool.sr(), progress=told.append, here=pool.elsewhere)
        assert told[-1].done == told[-1].total == 2 * MIB
        assert [each.done for each in told] == sorted(each.done for each in told)

    def test_of_staging_counts_the_bytes_of_the_source_and_not_what_they_unfold_to(
        self, pool: Lab, tmp_path: Path
    ) -> None:
        told: list[Progress] = []
        (tmp_path / "disk.raw.gz").write_bytes(packed := gzip.compress(self.SPARSE))
        place = tmp_path / "disk.raw.gz"
        import_image(pool.session, place, pool.sr(), progress=told.append, here=pool.elsewhere)
        last = [each for each in told if each.phase == "staging"][-1]
        assert last.done == last.total == len(packed)


class TestAPipe:
    def test_of_a_known_size_is_not_staged(self, pool: Lab, tmp_path: Path) -> None:
        (tmp_path / "raw").write_bytes(DATA)
        told: list[Progress] = []
        with subprocess.Popen(["cat", tmp_path / "raw"], stdout=subprocess.PIPE) as cat:
            assert cat.stdout is not None
            source = ImageSource(where=cat.stdout, size=SIZE)  # type: ignore[arg-type]  # a test passes what its parameters say
            made = import_image(pool.session, source, pool.sr(), progress=told.append, here=pool.elsewhere)
        assert {progress.phase for progress in told} == {"writing"}
        assert pool.content(made.vdi_uuid) == DATA.ljust(made.vdi_size, b"\0")

    @pytest.mark.parametrize("size", [None, len(DATA) + 512])
    def test_that_ends_as_a_fixed_vhd_is_told_by_its_end_or_refused(
        self, pool: Lab, size: int | None, tmp_path: Path
    ) -> None:
        """Its beginning is the disk's; where it is staged the end is seen, else whoever knows must say so."""
        vhd = vhdkit.make_fixed(DATA)
        before = pool.xapi.snapshot()
        if size is None:
            made = import_image(
                pool.session, io.BytesIO(vhd), pool.sr(), staging_dir=tmp_path, here=pool.elsewhere
            )
            assert (made.format, made.virtual_size, list(tmp_path.glob("xenvol*"))) == ("vhd", SIZE, [])
            return
        with pytest.raises(Exception, match="--format vhd"):
            import_image(
                pool.session, ImageSource(where=io.BytesIO(vhd), size=size), pool.sr(), here=pool.elsewhere
            )
        assert before.difference(pool.xapi.snapshot(), ignore=["SR.physical_utilisation"]) == []
        source = ImageSource(where=io.BytesIO(vhd), size=size, format="vhd")
        made = import_image(pool.session, source, pool.sr(), here=pool.elsewhere)
        assert pool.content(made.vdi_uuid) == DATA.ljust(made.vdi_size, b"\0")


@pytest.mark.parametrize("road", ["http", "block"])
@pytest.mark.parametrize("phase", ["staging", "writing", "verifying"])
def test_what_is_cancelled_leaves_nothing(pool: Lab, tmp_path: Path, road: str, phase: str) -> None:
    cancel, reached = threading.Event(), []
    before = pool.xapi.snapshot()

    def stop(progress: Progress) -> None:
        if progress.phase == phase:
            reached.append(progress)
            cancel.set()

    with pytest.raises(TransferCancelled, match="nothing of it remains"):
        import_image(
            pool.session,
            io.BytesIO(DATA),  # of unknown length: it is staged
            pool.sr(),
            verify=True,
            staging_dir=tmp_path,
            progress=stop,
            cancel=cancel,
            here=pool.on(road),
        )
    assert len(reached) == 1
    assert before.difference(pool.xapi.snapshot(), ignore=["SR.physical_utilisation"]) == pool.residue() == []
    assert list(tmp_path.glob("xenvol*")) == []


IMPORT = """
import sys, xenvol
from xenvol.images import import_image, ImageSource
url, sr, image, staging = sys.argv[1:5]
session = xenvol.connect(url, "root", "secret")
source = ImageSource(where=sys.stdin.buffer) if image == "-" else image
import_image(session, source, sr, staging_dir=staging, name_label="victim")
"""


def started(pool: Lab, image: str, staging: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", IMPORT, pool.xapi.url, pool.sr(), image, str(staging)]
    return subprocess.Popen(command, stdin=subprocess.PIPE)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within a minute"
        time.sleep(0.01)


class TestAKilledProcess:
    def test_leaves_a_staging_directory_that_the_next_import_sweeps(self, pool: Lab, tmp_path: Path) -> None:
        with started(pool, "-", tmp_path) as process:
            assert process.stdin is not None
            process.stdin.write(DATA)
            process.stdin.flush()
            wait_for(lambda: [path for path in tmp_path.rglob("*stream") if path.stat().st_size])
            process.kill()
        assert list(tmp_path.glob("xenvol*")) != []
        import_image(pool.session, io.BytesIO(DATA), pool.sr(), staging_dir=tmp_path, here=pool.elsewhere)
        assert list(tmp_path.glob("xenvol*")) == []

    def test_leaves_a_disk_that_a_sweep_finds_by_its_mark(self, pool: Lab, tmp_path: Path) -> None:
        fifo = tmp_path / "image.vhd"
        os.mkfifo(fifo)
        data = vhdkit.make_dynamic(SIZE, {0: DATA})
        before = pool.xapi.snapshot()
        with started(pool, str(fifo), tmp_path) as process:
            with fifo.open("wb", buffering=0) as pipe:
                pipe.write(data[: 3 * MIB])
                db = pool.xapi.db
                wait_for(lambda: [vbd for vbd in db.refs("VBD") if db.get("VBD", vbd, "currently_attached")])
                process.kill()
                process.wait()
        assert find_leftovers(pool.session) == []  # it is not old yet
        wait_for(lambda: not pool.xapi.db.refs("VBD"))  # xapi notices by itself that nobody sends any more
        now = datetime.timedelta(seconds=-5)
        (found,) = find_leftovers(pool.session, older_than=now)
        assert (found.kind, found.name, found.kept) == ("disk", "victim", None)
        assert sweep(pool.session, older_than=now) == [found]
        assert before.difference(pool.xapi.snapshot(), ignore=["SR.physical_utilisation"]) == []
        assert all("task" in line for line in pool.residue()), "xapi collects those by itself"

    def test_that_is_interrupted_takes_all_back(self, pool: Lab, tmp_path: Path) -> None:
        fifo = tmp_path / "image.vhd"
        os.mkfifo(fifo)
        data = vhdkit.make_dynamic(SIZE, {0: DATA})
        before, residue = pool.xapi.snapshot(), pool.residue()
        with started(pool, str(fifo), tmp_path) as process:
            with fifo.open("wb", buffering=0) as pipe:
                pipe.write(data[: 3 * MIB])
                wait_for(lambda: pool.xapi.db.refs("VBD"))
                process.send_signal(signal.SIGINT)
                process.wait(60)
        assert process.returncode not in (0, None)
        assert before.difference(pool.xapi.snapshot(), ignore=["SR.physical_utilisation"]) == []
        assert pool.residue() == residue
        assert list(tmp_path.glob("xenvol*")) == []


MEASURE = """
import sys, xenvol
from pathlib import Path
from xenvol.images import Environment, export_image, import_image
url, sr, image, road, root, dev = sys.argv[1:7]
session = xenvol.connect(url, "root", "secret")
here = Environment(root=Path(root), dev=Path(dev))
small = Path(image).with_name("small")
small.write_bytes(b"x" * (1 << 20))
import_image(session, small, sr, road=road, here=here)  # all that is imported is, and all that is cached
def most():  # KiB; ru_maxrss would be that of whoever started this process, too
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1])
before = most()
made = import_image(session, image, sr, road=road, verify=True, here=here)
export_image(session, made.vdi_uuid, image + ".out", format="vhd", road=road, here=here)
print(most() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("road", ["http", "block"])
@pytest.mark.parametrize("format", ["raw", "tarball"])
def test_memory_stays_flat(pool: Lab, tmp_path: Path, qemu_img: QemuImg, road: str, format: str) -> None:
    """300 MiB of data on a disk of 200 GiB, in, verified and out again: less than 64 MiB more than for 1 MiB."""
    size, data = 200 << 30, os.urandom(MIB)
    raw, image = tmp_path / "raw", tmp_path / "image"
    with raw.open("wb") as file:
        for number in range(300):
            file.seek(number * (size // 300) // 4096 * 4096)
            file.write(data)
        file.truncate(size)
    if format == "raw":
        raw.rename(image)
    else:
        options = ["-f", "raw", "-O", "vpc", "-o", "subformat=dynamic,force_size=on"]
        qemu_img("convert", *options, raw, tmp_path / "0.vhd")
        subprocess.run([needs.program("tar"), "-C", tmp_path, "-czf", image, "0.vhd"], check=True)
    here = pool.on(road)
    dev = here.dev if road == "block" else tmp_path
    command = [sys.executable, "-c", MEASURE, pool.xapi.url, pool.sr(), image, road, here.root, dev]
    grown = int(subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout)
    assert grown < 64 << 10, f"{grown} KiB"


def test_a_session_that_somebody_else_has_logged_in_needs_to_be_told_where(pool: Lab, tmp_path: Path) -> None:

    session = XenAPI.Session(pool.xapi.url)
    session.xenapi.login_with_password("root", "secret", "1.0", "test")
    try:
        (tmp_path / "raw").write_bytes(DATA)
        with pytest.raises(Exception, match="endpoint"):
            import_image(session, tmp_path / "raw", pool.sr(), here=pool.elsewhere)
        made = import_image(session, tmp_path / "raw", pool.sr(), here=pool.on("block"))
        assert pool.content(made.vdi_uuid) == DATA.ljust(made.vdi_size, b"\0")
    finally:
        session.xenapi.session.logout()
        session("close")()  # the official client leaves that to the garbage collector, which warns


def test_an_image_is_told_without_a_pool(tmp_path: Path) -> None:
    path = tmp_path / "disk.txt"
    path.write_bytes(vhdkit.make_dynamic(SIZE, {2 * MIB: DATA[:MIB]}))
    info = inspect_image(path, check=True)
    assert (info.format, info.virtual_size, info.is_checked) == ("vhd", SIZE, True)
    assert MIB <= (info.allocated or 0) <= 2 * MIB


def test_a_mistake_in_what_is_said_of_a_source_is_found_at_once() -> None:
    for wrong in ({"format": "png"}, {"checksum": "sha256:12"}):
        with pytest.raises(ValueError):
            ImageSource(where="disk", **wrong)  # type: ignore[arg-type]  # the keywords are of several types
