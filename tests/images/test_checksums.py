"""Tests of xenvol.images.sources.checksums: what arrives is what was promised."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvol.images.disk_image import PIECE
from xenvol.images.errors import ChecksumMismatch
from xenvol.images.sources.checksums import Checksum, Summed, check_file
from xenvol.images.sources.files import FileSource
from xenvol.images.sources.streams import stream_of

ALGORITHMS = ("md5", "sha256", "sha512")


def checksum(algorithm: str, data: bytes) -> Checksum:
    return Checksum(algorithm, hashlib.new(algorithm, data).hexdigest())


class TestChecksum:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_a_checksum_is_told_by_its_name_or_by_its_length(self, algorithm: str) -> None:
        """In either case, with spaces around it as they are copied along; and its text is read again."""
        expected = checksum(algorithm, b"data")
        for text in (str(expected), str(expected).upper(), expected.digest, f" {expected.digest.upper()}\n"):
            assert Checksum.parse(text) == expected

    @pytest.mark.parametrize(
        "text",
        ["", "sha256:", "ab" * 20, "md5:" + "ab" * 32, "sha1:" + "ab" * 20, "sha256:" + "xy" * 32, "a:b:c"],
    )
    def test_what_is_no_checksum_is_refused(self, text: str) -> None:
        """An unknown algorithm, or a digest that is not its own, is not passed over; the known ones are named."""
        with pytest.raises(ValueError, match="md5:32 digits, sha256:64 digits, sha512:128 digits"):
            Checksum.parse(text)


class TestSummed:
    @given(
        data=st.binary(max_size=500),
        sizes=st.lists(st.integers(1, 100)),
        algorithm=st.sampled_from(ALGORITHMS),
    )
    def test_the_sum_is_of_all_bytes_however_they_are_read(
        self, data: bytes, sizes: list[int], algorithm: str
    ) -> None:
        """What nobody read is read by the check; one byte less or another is found."""
        for is_right in (True, False):
            expected = checksum(algorithm, data if is_right else data + b"1")
            stream = Summed(stream_of(io.BytesIO(data), "image"), [expected])
            assert b"".join(map(stream.read, sizes)) == data[: sum(sizes)]
            if is_right:
                stream.check()
                stream.check()
                continue
            with pytest.raises(ChecksumMismatch) as caught:
                stream.check()
            found = hashlib.new(algorithm, data).hexdigest()
            assert (caught.value.algorithm, caught.value.expected) == (algorithm, expected.digest)
            assert (caught.value.image, caught.value.found) == ("image", found)

    def test_each_of_several_checksums_is_compared(self) -> None:
        """The caller's and the image service's: one that is right does not outweigh one that is wrong."""
        right, wrong = checksum("sha256", b"data"), checksum("md5", b"date")
        for expected in ([right, wrong], [wrong, right], [right, checksum("sha256", b"date")]):
            with pytest.raises(ChecksumMismatch):
                Summed(stream_of(io.BytesIO(b"data"), "image"), expected).check()
        Summed(stream_of(io.BytesIO(b"data"), "image"), [right, checksum("md5", b"data"), right]).check()

    def test_without_a_checksum_nothing_is_compared(self) -> None:
        """It is the stream as it was, its name and length too."""
        stream = Summed(stream_of(io.BytesIO(b"data"), "image", 4), [])
        assert (stream.name, stream.length, stream.read(9)) == ("image", 4, b"data")
        stream.check()


class TestCheckFile:
    def test_the_whole_file_counts_with_its_holes(self, tmp_path: Path) -> None:
        """A hole reads as zeros, and is summed up as such; progress is told of each piece."""
        path = tmp_path / "disk"
        with path.open("wb") as made:
            made.seek(2 * PIECE + 3)
            made.write(b"x")
        content = path.read_bytes()
        told: list[int] = []
        with FileSource(path) as file:
            check_file(file, [checksum(algorithm, content) for algorithm in ALGORITHMS], told.append)
            assert told == [PIECE, PIECE, 4]
            with pytest.raises(ChecksumMismatch, match=str(path)):
                check_file(file, [checksum("md5", content.strip(b"\0"))])

    def test_nothing_is_read_where_nothing_is_expected(self, tmp_path: Path) -> None:
        """A pass over hundreds of GiB is not for nothing."""
        (tmp_path / "disk").write_bytes(b"data")
        told: list[int] = []
        with FileSource(tmp_path / "disk") as file:
            check_file(file, iter(()), told.append)
        assert told == []

    def test_whoever_is_told_can_end_it(self, tmp_path: Path) -> None:
        """What `tick` raises passes unchanged."""
        (tmp_path / "disk").write_bytes(b"data")

        def cancel(size: int) -> None:
            raise KeyboardInterrupt

        with FileSource(tmp_path / "disk") as file, pytest.raises(KeyboardInterrupt):
            check_file(file, [checksum("md5", b"data")], cancel)


SHA256, SHA512, MD5 = "ab" * 32, "cd" * 64, "ef" * 16


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"{SHA256}  disk.raw\n", SHA256),
        (f"{SHA256} *disk.raw\n{MD5}  other.raw\n", SHA256),
        (f"{MD5}  disk.raw\n{SHA512}  ./images/disk.raw\n{SHA256}  disk.raw\n", SHA512),
        (f"SHA256 (disk.raw) = {SHA256.upper()}\n", SHA256),
        (f"SHA2-512(disk.raw)= {SHA512}\n", SHA512),
        (f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{SHA256}  disk.raw\n", SHA256),
        (f"{SHA256}\n", SHA256),
        ("# list\r\n" + f"{SHA256}  disk.raw\r\n", SHA256),
        (f"{'12' * 20}  disk.raw\n{SHA256}  disk.raw\n", SHA256),
    ],
)
def test_the_strongest_checksum_of_the_file_is_found_in_a_list(text: str, found: str) -> None:
    """As the usual programs write lists; SHA-1, which is not known, is passed over."""
    assert Checksum.listed(text, "disk.raw").digest == found


def test_the_only_checksum_in_a_list_is_that_of_a_stream_without_a_name() -> None:
    assert Checksum.listed(f"{SHA256}  disk.raw\n", "").digest == SHA256
    with pytest.raises(ValueError, match="could be the image's"):
        Checksum.listed(f"{SHA256}  disk.raw\n{MD5}  other.raw\n", "")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no checksum of disk.raw"),
        (f"{SHA256}  other.raw\n", "no checksum of disk.raw"),
        (f"{SHA256}  disk.raw\n{'00' * 32}  a/disk.raw\n", "several checksums of disk.raw"),
        ("<html>Not found</html>", "no checksum of disk.raw"),
    ],
)
def test_a_list_without_one_certain_checksum_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Checksum.listed(text, "disk.raw")
