"""Tests of xenvol.images.formats.tarball and tar_headers: a tarball is one chain of VHDs, or refused."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import random
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from uuid import UUID

import pytest
import vhdkit
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import needs
from xenvol.images.disk_image import DiskImage
from xenvol.images.errors import InvalidImage, MissingParent, NoRoomToStage, SourceError, TruncatedImage
from xenvol.images.formats import tar_headers, tarball
from xenvol.images.formats.tar_headers import MAX_ENTRIES, MAX_MEMBER, MAX_PADDING
from xenvol.images.sources.compression import decompressed
from xenvol.images.sources.files import FileSource
from xenvol.images.sources.staging import Staging
from xenvol.images.sources.streams import Peekable, stream_of

MIB = 1 << 20
SIZE = 2 * MIB
BLOCK_SIZE = MIB // 2  # of the VHDs here, so that they are small
OLD = ("snap.vhd", "image.vhd", "base.vhd")

Members = Sequence[tuple[str, bytes]]


def runs(seed: int, *offsets: int) -> dict[int, bytes]:
    return {
        offset: random.Random(seed * 100 + number).randbytes(3 * 512) for number, offset in enumerate(offsets)
    }


LAYERS = [
    runs(1, 0, MIB),
    runs(2, 512, MIB + BLOCK_SIZE),
    runs(3, 0, 3 * 512, MIB + BLOCK_SIZE, SIZE - 3 * 512),
]
LEAF, MIDDLE, BASE = vhdkit.make_chain(SIZE, LAYERS, block_size=BLOCK_SIZE)
DISK = vhdkit.model(SIZE, *LAYERS)
ALONE = vhdkit.make_dynamic(SIZE, LAYERS[2], block_size=BLOCK_SIZE)


def tar(members: Members, format: int = tarfile.USTAR_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=format) as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return made.getvalue()


def header(name: str, kind: bytes = b"0", size: int = 0, **fields: object) -> bytes:
    """One header alone."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = kind, size
    for key, value in fields.items():
        setattr(entry, key, value)
    return entry.tobuf(tarfile.GNU_FORMAT)


def resummed(block: bytes) -> bytes:
    total = sum(block[:148]) + sum(block[156:512]) + 8 * 32
    return block[:148] + b"%06o\0 " % total + block[156:]


END = bytes(1024)


def disk_of(image: DiskImage) -> bytes:
    return vhdkit.laid_out(image.virtual_size, image.pieces())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Staging]:
    """A staging, of which nothing must be left."""
    directory = tmp_path / "staging"
    directory.mkdir()
    with Staging(directory) as staging:
        yield staging
    assert list(directory.iterdir()) == []


def from_stream(data: bytes, place: Staging) -> DiskImage:
    return tarball.from_stream(stream_of(io.BytesIO(data), "image.tar"), staging=place)


def staged(place: Staging) -> int:
    """Files there have been."""
    return place._files


def read_stream(data: bytes, place: Staging) -> bytes:
    return disk_of(from_stream(data, place))


def read_file(data: bytes, place: Staging) -> bytes:
    return disk_of(tarball.from_file(vhdkit.BytesFile(data, "image.tar")))


READERS = pytest.mark.parametrize("read", [read_stream, read_file])
Read = Callable[[bytes, Staging], bytes]


class TestChains:
    @READERS
    @pytest.mark.parametrize(
        ("members", "number_staged"),
        [
            ([("0.vhd", LEAF), ("1.vhd", MIDDLE), ("2.vhd", BASE)], 0),
            ([("2.vhd", BASE), ("1.vhd", MIDDLE), ("0.vhd", LEAF)], 2),
            ([("0.vhd", LEAF), ("2.vhd", BASE), ("1.vhd", MIDDLE)], 1),
            ([("1.vhd", MIDDLE), ("0.vhd", LEAF), ("2.vhd", BASE)], 1),
            (
                [("0.vhd", LEAF), ("swap.vhd", b"junk"), ("1.vhd", MIDDLE), ("2.vhd", BASE)],
                0,
            ),
            ([("snap.vhd", LEAF), ("image.vhd", MIDDLE), ("base.vhd", BASE)], 0),
            ([("base.vhd", BASE), ("image.vhd", MIDDLE), ("snap.vhd", LEAF)], 2),
            ([("image.vhd", MIDDLE), ("snap.vhd", LEAF), ("swap.vhd", b""), ("base.vhd", BASE)], 1),
            ([("snap.vhd", LEAF), ("base.vhd", BASE), ("image.vhd", MIDDLE)], 1),
        ],
    )
    def test_a_chain_is_one_disk_whatever_the_order(
        self, read: Read, members: Members, number_staged: int, place: Staging
    ) -> None:
        """What comes before its turn is staged; where the leaf leads and its parents follow, nothing is."""
        assert read(tar(members), place) == DISK
        assert staged(place) == (number_staged if read is read_stream else 0)

    @READERS
    @pytest.mark.parametrize(
        ("names", "is_staged"),
        [
            (["image.vhd", "base.vhd"], True),
            (["base.vhd", "image.vhd"], True),
            (["snap.vhd", "image.vhd"], False),
            (["image.vhd", "snap.vhd"], True),
        ],
    )
    def test_of_the_old_names_the_image_alone_must_be_there(
        self, read: Read, names: list[str], is_staged: bool, place: Staging
    ) -> None:
        """Whether there is a snap.vhd above image.vhd is known only at the end."""
        leaf, base = vhdkit.make_chain(SIZE, LAYERS[:2])
        parts = dict(zip(sorted(names, key=OLD.index), (leaf, base), strict=True))
        assert read(tar([(name, parts[name]) for name in names]), place) == vhdkit.model(SIZE, *LAYERS[:2])
        assert (staged(place) > 0) == (is_staged and read is read_stream)

    @READERS
    @pytest.mark.parametrize(
        ("name", "is_staged"),
        [
            ("0.vhd", False),
            ("7.vhd", True),
            ("snap.vhd", False),
            ("image.vhd", True),
            ("base.vhd", True),
            ("d1b9c9ef-0e5c-4a53-a5b2-1a1f6bd5b6b5.vhd", False),
            ("00.vhd", False),
            ("my disk (1).vhd", False),
            ("Ünïcode.vhd", False),
        ],
    )
    @pytest.mark.parametrize("prefix", ["", "./"])
    def test_a_single_vhd_may_have_any_name(
        self, read: Read, name: str, is_staged: bool, prefix: str, place: Staging
    ) -> None:
        """Later services renamed it; a swap disk besides does not count."""
        data = tar([("./swap.vhd", b"junk"), (prefix + name, ALONE)], tarfile.GNU_FORMAT)
        assert read(data, place) == vhdkit.model(SIZE, LAYERS[2])
        assert staged(place) == (1 if is_staged and read is read_stream else 0)

    @READERS
    def test_a_fixed_vhd_can_be_in_it(self, read: Read, place: Staging) -> None:
        """By its name it can be nothing else; as a stream its end is checked."""
        assert read(tar([("0.vhd", vhdkit.make_fixed(DISK))]), place) == DISK
        uuid = UUID(int=7)
        leaf = vhdkit.make_differencing(SIZE, LAYERS[0], parent=uuid)
        members = [("0.vhd", leaf), ("1.vhd", vhdkit.make_fixed(vhdkit.model(SIZE, *LAYERS[1:]), uuid=uuid))]
        assert read(tar(members), place) == DISK
        with pytest.raises(InvalidImage, match=r"1\.vhd in image\.tar"):
            read(tar([members[0], ("1.vhd", bytes(SIZE + 512))]), place)

    @READERS
    @pytest.mark.parametrize("odd", [0, 1, 2])
    def test_a_layer_that_cannot_be_read_as_it_comes_is_staged(
        self, read: Read, odd: int, place: Staging
    ) -> None:
        """Its blocks lie before the table that says where; its room comes back when it has been read."""
        uuids = [UUID(int=number) for number in (1, 2, 3)]
        chain = [
            vhdkit.make_dynamic(
                SIZE, LAYERS[at], uuid=uuids[at], parent=[*uuids, None][at + 1], bat_at_end=at == odd
            )
            for at in range(3)
        ]
        data = tar([(f"{at}.vhd", layer) for at, layer in enumerate(chain)])
        assert read(data, place) == DISK
        if read is read_stream:
            assert staged(place) == 1
            (own,) = place.directory.iterdir()
            assert [path.name for path in own.iterdir() if path.name.endswith("stream")] == []

    @settings(max_examples=40)
    @given(data=st.data())
    def test_any_layers_in_any_order_make_the_disk_that_they_are(self, data: st.DataObject) -> None:
        """Up to sixteen, of random sectors, read as a stream and as a file, against a model of plain bytes."""
        count = data.draw(st.integers(1, 16))
        sectors = st.lists(st.integers(0, SIZE // 512 - 1), max_size=6, unique=True)
        layers = [
            {at * 512: bytes([layer + 1]) * 511 + bytes([at % 256]) for at in data.draw(sectors)}
            for layer in range(count)
        ]
        chain = vhdkit.make_chain(SIZE, layers, block_size=BLOCK_SIZE)
        members = data.draw(st.permutations([(f"./{at}.vhd", layer) for at, layer in enumerate(chain)]))
        made = tar([("./swap.vhd", b"123"), *members], data.draw(st.sampled_from([0, 1, 2])))
        expected = vhdkit.model(SIZE, *layers)
        with tempfile.TemporaryDirectory() as directory:
            with Staging(directory) as place:
                assert read_stream(made, place) == expected
                assert read_file(made, place) == expected
            assert os.listdir(directory) == []

    def test_what_is_staged_is_told(self, place: Staging) -> None:
        """And whoever is told can end it."""
        made = tar([("1.vhd", ALONE), ("0.vhd", LEAF)])
        told: list[int] = []
        tarball.from_stream(stream_of(io.BytesIO(made), "image.tar"), staging=place, tick=told.append)
        assert sum(told) == len(ALONE)

        def cancel(size: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            tarball.from_stream(stream_of(io.BytesIO(made), "image.tar"), staging=place, tick=cancel)

    def test_the_size_is_known_before_a_block_is_read(self, place: Staging) -> None:
        """So that what is too large is refused before anything is made."""
        source = io.BytesIO(tar([("0.vhd", vhdkit.make_dynamic(SIZE, LAYERS[0], whole=True))]))
        image = tarball.from_stream(stream_of(source, "image.tar"), staging=place)
        assert (image.virtual_size, image.format) == (SIZE, "vhd")
        assert source.tell() < 64 << 10

    def test_a_chain_of_which_all_is_known_is_checked_before_a_block_is_read(self, place: Staging) -> None:
        """From a file always; from a stream, where its leaf comes last."""
        stranger = vhdkit.make_dynamic(SIZE, LAYERS[1])
        with pytest.raises(InvalidImage, match=r"0\.vhd in image\.tar"):
            tarball.from_file(vhdkit.BytesFile(tar([("0.vhd", LEAF), ("1.vhd", stranger)]), "image.tar"))
        with pytest.raises(InvalidImage, match=r"image\.vhd in image\.tar"):
            from_stream(tar([("base.vhd", stranger), ("image.vhd", LEAF)]), place)
        with pytest.raises(MissingParent):
            from_stream(tar([("any.vhd", LEAF)]), place)


def run_tar(directory: Path, *arguments: str) -> bytes:
    command = [needs.program("tar"), "-C", str(directory), *arguments]
    return subprocess.run(command, capture_output=True, check=True, timeout=100).stdout


class TestTheTarProgram:
    @pytest.fixture
    def chain(self, tmp_path: Path) -> Path:
        directory = tmp_path / "chain"
        directory.mkdir()
        for name, layer in (("0.vhd", LEAF), ("1.vhd", MIDDLE), ("2.vhd", BASE)):
            (directory / name).write_bytes(layer)
        return directory

    @pytest.mark.parametrize("format", ["v7", "oldgnu", "gnu", "ustar", "posix"])
    @pytest.mark.parametrize("packed", ["", "-z", "--zstd"])
    @pytest.mark.parametrize("order", ["0.vhd 1.vhd 2.vhd", "2.vhd 0.vhd 1.vhd", "."])
    def test_what_it_makes_is_read(
        self, chain: Path, format: str, packed: str, order: str, place: Staging
    ) -> None:
        """In each of its formats, packed by gzip, zstd or nothing, by names or as a directory."""
        if packed == "--zstd":
            needs.program("zstd")  # tar runs it
        arguments = ["-c", f"--format={format}", *([packed] if packed else []), *order.split()]
        made = run_tar(chain, *arguments)
        source = decompressed(Peekable(stream_of(io.BytesIO(made), "image.tgz")))
        assert disk_of(tarball.from_stream(source, staging=place)) == DISK
        if not packed:
            assert read_file(made, place) == DISK

    @pytest.mark.parametrize("blocking", ["-b1", "-b20", "-b2048"])
    def test_its_padding_is_read(self, chain: Path, blocking: str, place: Staging) -> None:
        """As long as the records of any tape."""
        made = run_tar(chain, "-c", blocking, "0.vhd", "1.vhd", "2.vhd")
        assert read_stream(made, place) == DISK

    @pytest.mark.parametrize("format", ["gnu", "posix"])
    def test_its_sparse_files_are_refused(self, chain: Path, format: str, place: Staging) -> None:
        """They are not the file's bytes; the message says what to do."""
        with (chain / "0.vhd").open("wb") as sparse:
            sparse.truncate(MIB)
        made = run_tar(chain, "-cS", f"--format={format}", "0.vhd")
        with pytest.raises(InvalidImage, match=r"sparse.*--sparse"):
            read_stream(made, place)

    def test_what_carries_times_and_attributes_is_read(self, chain: Path, place: Staging) -> None:
        """Pax records that say nothing of the bytes."""
        made = run_tar(
            chain,
            "-c",
            "--format=posix",
            "--pax-option=comment=made by hand,globexthdr.name=x",
            "0.vhd",
            "1.vhd",
            "2.vhd",
        )
        assert read_stream(made, place) == DISK
        assert read_file(made, place) == DISK


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return header("PaxHeader", kind, len(records)) + records + bytes(-len(records) % 512)


def record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = next(n for n in range(len(body), len(body) + 9) if n == len(b"%d" % n) + len(body))
    return b"%d" % length + body


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


class TestHeaders:
    @READERS
    def test_sizes_and_names_may_come_in_pax_records(self, read: Read, place: Staging) -> None:
        """What they say goes before what the header says."""
        data = pax(record(b"path", b"0.vhd") + record(b"size", b"%d" % len(ALONE)) + record(b"mtime", b"1.5"))
        assert read(data + header("x", size=0) + padded(ALONE) + END, place) == vhdkit.model(SIZE, LAYERS[2])

    @READERS
    def test_sizes_may_be_in_base_256_and_names_in_entries_of_gnu(self, read: Read, place: Staging) -> None:
        """As GNU tar does for what is longer than 8 GiB, or 100 characters."""
        block = header("x")
        block = resummed(block[:124] + b"\x80" + len(ALONE).to_bytes(11, "big") + block[136:])
        name = header("././@LongLink", b"L", 6) + padded(b"0.vhd\0")
        assert read(name + block + padded(ALONE) + END, place) == vhdkit.model(SIZE, LAYERS[2])

    def test_times_of_gnu_are_no_part_of_a_name(self, place: Staging) -> None:
        """They lie where POSIX has the first part of a long name."""
        block = header("0.vhd", size=len(ALONE))
        block = resummed(block[:345] + b"14716045103\0" + block[357:])
        assert read_stream(block + padded(ALONE) + END, place) == vhdkit.model(SIZE, LAYERS[2])

    def test_old_sums_of_signed_characters_are_right_too(self, place: Staging) -> None:
        """Of names with other letters than English."""
        block = header("\u00fc.vhd", size=len(ALONE))
        signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + b" " * 8 + block[156:])
        block = block[:148] + b"%06o\0 " % signed + block[156:]
        assert read_stream(block + padded(ALONE) + END, place) == vhdkit.model(SIZE, LAYERS[2])

    @READERS
    def test_one_block_of_zeros_is_an_end_and_none_is_not(self, read: Read, place: Staging) -> None:
        """The first is lenient, as GNU tar is; without any, nobody knows whether there was more."""
        data = header("0.vhd", size=len(ALONE)) + padded(ALONE)
        assert read(data + bytes(512), place) == vhdkit.model(SIZE, LAYERS[2])
        with pytest.raises(TruncatedImage, match="without the zeros") as caught:
            read(data, place)
        assert caught.value.offset == len(data)


GOOD = header("0.vhd", size=len(ALONE)) + padded(ALONE)

BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "without the zeros"),
    "nothing but its end": (END, "no VHD in it"),
    "nothing but a directory": (header("./", b"5") + END, "no VHD in it"),
    "nothing but swap": (tar([("swap.vhd", ALONE)]), "no VHD in it"),
    "another file": (
        tar([("0.vhd", ALONE), ("readme.txt", b"")]),
        "'readme.txt' does not have the name of a VHD of a chain",
    ),
    "upper case": (tar([("0.VHD", ALONE)]), "'0.VHD' does not have the name of a VHD"),
    "an absolute path": (
        tar([("0.vhd", ALONE), ("/0.vhd", b"")]),
        "'/0.vhd' does not have the name of a VHD",
    ),
    "a path upwards": (tar([("../0.vhd", ALONE)]), "'../0.vhd' does not have the name of a VHD"),
    "a path upwards within": (tar([("./../0.vhd", ALONE)]), r"'./../0.vhd' does not have the name of a VHD"),
    "a path with a directory": (tar([("disk/0.vhd", ALONE)]), "'disk/0.vhd' does not have the name of a VHD"),
    "a directory": (header("disk", b"5") + GOOD + END, "'disk/' is a directory"),
    "a directory upwards": (header("..", b"5") + GOOD + END, "'../' is a directory"),
    "a directory of V7": (header("disk/") + GOOD + END, "'disk/' is a directory"),
    "a prefix": (tar([("x" * 100 + "/" + "y" * 80 + ".vhd", ALONE)]), "does not have the name of a VHD"),
    "a backslash": (tar([("a\\0.vhd", ALONE)]), "does not have the name of a VHD"),
    "a line break": (tar([("a\n0.vhd", ALONE)]), r"'a\\n0.vhd' does not have the name of a VHD"),
    "a name that is no text": (
        tar([("\udcff.vhd", ALONE)]),
        r"'\\udcff.vhd' does not have the name of a VHD",
    ),
    "a name that garbles a terminal": (
        tar([("a\u202e.vhd", ALONE)], tarfile.GNU_FORMAT),
        r"'a\\u202e.vhd' does not have the name of a VHD",
    ),
    "a name that no file has": (
        tar([("x" * 252 + ".vhd", ALONE)], tarfile.GNU_FORMAT),
        "'xxxx.*…' does not have the name of a VHD",
    ),
    "a long name": (
        tar([("x" * 5000, ALONE)], tarfile.GNU_FORMAT),
        "'xxxx.*…' does not have the name of a VHD",
    ),
    "an empty name": (tar([("", ALONE)]), "'' does not have the name of a VHD"),
    "no name but its ending": (tar([(".vhd", ALONE)]), "'.vhd' does not have the name of a VHD"),
    "a symbolic link": (header("0.vhd", b"2", linkname="/etc/passwd") + END, "'0.vhd' is a symbolic link"),
    "a hard link": (GOOD + header("1.vhd", b"1", linkname="0.vhd") + END, "'1.vhd' is a hard link"),
    "a device": (header("0.vhd", b"3", devmajor=8) + END, "'0.vhd' is a device"),
    "a block device": (header("0.vhd", b"4", devmajor=8) + END, "'0.vhd' is a device"),
    "a pipe": (header("0.vhd", b"6") + END, "'0.vhd' is a pipe"),
    "an unknown kind": (header("0.vhd", b"Q") + END, "'0.vhd' is of the unknown kind b'Q'"),
    "a part of a file": (header("0.vhd", b"M") + END, "'0.vhd' is a part of a file"),
    "a sparse file": (header("0.vhd", b"S") + END, "'0.vhd' is a sparse file"),
    "a pax sparse file": (pax(record(b"GNU.sparse.major", b"1")) + GOOD + END, "sparse file"),
    "a name twice": (tar([("0.vhd", ALONE), ("0.vhd", ALONE)]), "'0.vhd' is there twice"),
    "a name twice with a prefix": (tar([("0.vhd", ALONE), ("./0.vhd", ALONE)]), "'./0.vhd' is there twice"),
    "swap twice": (
        tar([("swap.vhd", b""), ("0.vhd", ALONE), ("swap.vhd", b"")]),
        "'swap.vhd' is there twice",
    ),
    "a gap": (tar([("0.vhd", LEAF), ("2.vhd", BASE)]), "1.vhd is missing, and 0.vhd, 2.vhd are there"),
    "no leaf": (tar([("1.vhd", MIDDLE), ("2.vhd", BASE)]), "0.vhd is missing"),
    "no image": (tar([("snap.vhd", LEAF), ("base.vhd", BASE)]), "image.vhd between them is missing"),
    "both namings": (
        tar([("0.vhd", LEAF), ("image.vhd", BASE)]),
        "'image.vhd' is of another kind than '0.vhd'",
    ),
    "both namings, old first": (tar([("image.vhd", BASE), ("1.vhd", LEAF)]), "'1.vhd' is of another kind"),
    "two of any name": (tar([("a.vhd", ALONE), ("b.vhd", ALONE)]), "'b.vhd' is of another kind than 'a.vhd'"),
    "any name and a number": (tar([("a.vhd", ALONE), ("0.vhd", ALONE)]), "'0.vhd' is of another kind"),
    "a number and any name": (tar([("0.vhd", ALONE), ("01.vhd", ALONE)]), "'01.vhd' is of another kind"),
    "too many layers": (
        tar([("0.vhd", LEAF), ("30.vhd", BASE)]),
        "'30.vhd' would be more than the 30 layers",
    ),
    "too many members": (
        header("./", b"5") * (MAX_ENTRIES + 1) + GOOD + END,
        f"more than {MAX_ENTRIES} members",
    ),
    "too many records": (pax(b"", b"g") * (MAX_ENTRIES + 1) + GOOD + END, f"more than {MAX_ENTRIES} members"),
    "an endless member": (header("0.vhd", size=MAX_MEMBER + 1), "no disk is so large"),
    "a huge number": (
        resummed(header("0.vhd")[:124] + b"\x80" + b"\xff" * 11 + header("0.vhd")[136:]),
        "no disk is so large",
    ),
    "a huge pax size": (pax(record(b"size", b"9" * 20)) + GOOD + END, "no disk is so large"),
    "a negative number": (
        resummed(header("0.vhd")[:124] + b"\xff" * 12 + header("0.vhd")[136:]),
        "a number in a member's header is invalid",
    ),
    "a number that is none": (
        resummed(header("0.vhd")[:124] + b"0000000099 \0" + header("0.vhd")[136:]),
        "a number in a member's header is invalid",
    ),
    "a wrong sum": (
        header("0.vhd")[:10] + b"x" + header("0.vhd")[11:],
        "checksum of a member's header is wrong",
    ),
    "a sum that is none": (header("0.vhd")[:148] + b"xxxxxxxx" + header("0.vhd")[156:], "is invalid"),
    "noise": (random.Random(1).randbytes(512 * 9), "is invalid|is wrong"),
    "noise behind a member": (GOOD + b"x" * 512 + END, "is invalid|is wrong"),
    "a pax record of no length": (pax(b"path=0.vhd\n") + GOOD + END, "attributes of a member are damaged"),
    "a pax record of another length": (
        pax(b"99 path=0.vhd\n") + GOOD + END,
        "attributes of a member are damaged",
    ),
    "a pax record of length 0": (pax(b"0 path=0.vhd\n") + GOOD + END, "attributes of a member are damaged"),
    "a pax record of length 0 behind another": (
        pax(record(b"a", b"b") + b"0 path=0.vhd\n") + GOOD + END,
        "attributes of a member are damaged",
    ),
    "a cut in its padding": (
        header("swap.vhd", size=100) + b"x" * 200,
        "ends in 'swap.vhd'|without the zeros",
    ),
    "a pax record without an end": (
        pax(b"14 path=0.vhdx") + GOOD + END,
        "attributes of a member are damaged",
    ),
    "a pax size that is none": (pax(record(b"size", b"-1")) + GOOD + END, "size of a member is no number"),
    "a pax header for all sizes": (pax(record(b"size", b"1"), b"g") + GOOD + END, "same name or size"),
    "a huge pax header": (
        header("x", b"x", 2 * MIB) + bytes(2 * MIB) + GOOD + END,
        "attributes have 2097152 bytes",
    ),
    "a huge long name": (
        header("x", b"L", 2 * MIB) + bytes(2 * MIB) + GOOD + END,
        "attributes have 2097152 bytes",
    ),
    "a name without a member": (GOOD + pax(record(b"path", b"1.vhd")) + END, "member that has it is missing"),
    "more behind its end": (GOOD + END + b"more", "bytes follow its end"),
    "a member behind its end": (GOOD + END + header("1.vhd") + END, "bytes follow its end"),
    "a member behind one block of zeros": (
        GOOD + bytes(512) + header("1.vhd") + END,
        "bytes follow its end",
    ),
    "endless zeros": (GOOD + END + bytes(MAX_PADDING + 512), "too many zeros follow its end"),
    "no VHD": (tar([("0.vhd", b"x" * 70000)]), "0.vhd in image.tar is not a valid VHD image"),
    "an empty VHD": (tar([("0.vhd", b"")]), "0.vhd in image.tar is not a valid VHD image"),
    "a missing parent": (
        tar([("0.vhd", LEAF)]),
        "0.vhd in image.tar is not a valid VHD image: it holds only the",
    ),
    "a missing second parent": (tar([("0.vhd", LEAF), ("1.vhd", MIDDLE)]), "1.vhd in image.tar"),
    "a parent too many": (tar([("0.vhd", ALONE), ("1.vhd", BASE)]), "1.vhd in image.tar"),
    "another's parent": (tar([("0.vhd", LEAF), ("1.vhd", ALONE)]), "0.vhd in image.tar"),
    "a VHD in the wrong place": (
        tar([("0.vhd", LEAF), ("1.vhd", BASE), ("2.vhd", MIDDLE)]),
        "0.vhd in image.tar",
    ),
    "a hidden leaf": (tar([("0.vhd", vhdkit.make_dynamic(SIZE, hidden=True))]), "hidden"),
    "itself for a parent": (
        tar(
            [
                (f"{at}.vhd", vhdkit.make_differencing(SIZE, uuid=UUID(int=1 + at), parent=UUID(int=2 - at)))
                for at in (0, 1)
            ]
        ),
        "holds only the differences from 00000000-0000-0000-0000-000000000001",
    ),
    "a VHD with a byte more": (tar([("0.vhd", ALONE + b"!")]), "0.vhd in image.tar"),
    "a VHD that is cut": (tar([("0.vhd", ALONE[:-512])]), "0.vhd in image.tar"),
}


@READERS
def test_what_a_mac_adds_is_left_out(read: Read, place: Staging) -> None:
    """Attributes of its files, before or behind each of them."""
    before = [("./._0.vhd", b"\0\x05\x16\x07"), (".DS_Store", b"x"), ("__MACOSX/._0.vhd", b"x")]
    packed = tar([*before, ("0.vhd", ALONE), ("._image", b"x")])
    assert read(packed, place) == read(tar([("0.vhd", ALONE)]), place)


class TestBadTarballs:
    @READERS
    @pytest.mark.parametrize("case", BAD)
    def test_what_is_no_tarball_of_a_chain_is_refused(self, read: Read, case: str, place: Staging) -> None:
        """As a stream and as a file; the error names the member, and nothing that was staged stays."""
        data, problem = BAD[case]
        with pytest.raises(InvalidImage, match=problem) as caught:
            read(data, place)
        assert caught.value.format in ("tarball", "vhd")
        assert str(caught.value).isprintable()

    @READERS
    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
    def test_wherever_it_is_cut_it_is_refused(
        self, read: Read, order: tuple[int, ...], place: Staging
    ) -> None:
        """In a header, in a member, in its padding, between members."""
        members = [("0.vhd", LEAF), ("1.vhd", MIDDLE), ("2.vhd", BASE)]
        made = tar([members[at] for at in order]).rstrip(b"\0")
        ends = {0, 1, 511, 512, 513, len(made) - 1, *random.Random(1).sample(range(len(made)), 25)}
        for end in sorted(ends):
            with pytest.raises(InvalidImage):
                read(made[:end], place)

    @READERS
    def test_a_cut_member_is_named(self, read: Read, place: Staging) -> None:
        """And where the tar ends."""
        data = GOOD[:-100_000]
        with pytest.raises(TruncatedImage, match=r"0\.vhd") as caught:
            read(data, place)
        assert caught.value.offset == len(data)

    @READERS
    def test_a_changed_byte_is_refused_or_changes_nothing_but_its_sector(
        self, read: Read, place: Staging
    ) -> None:
        """A seeded sweep over mutations: only errors of ours, and a disk of the right size."""
        rng = random.Random(3)
        good = bytearray(tar([("1.vhd", MIDDLE), ("0.vhd", LEAF), ("2.vhd", BASE)])[: -5 * 512])
        structure = [at for at in range(len(good)) if at % 512 < 8 or good[at]]
        for _ in range(100):
            bad = bytearray(good)
            for _ in range(rng.randint(1, 3)):
                bad[rng.choice(structure)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
            with contextlib.suppress(InvalidImage):
                assert len(read(bytes(bad), place)) == SIZE

    def test_a_stream_that_breaks_is_a_source_error(self, place: Staging) -> None:
        """And no bad tarball."""
        made = tar([("0.vhd", ALONE)])
        source = stream_of(io.BytesIO(made[:-3000]), "image.tar", len(made))
        with pytest.raises(SourceError):
            disk_of(tarball.from_stream(source, staging=place))

    def test_a_member_that_does_not_fit_is_refused_before_it_is_read(self, place: Staging) -> None:
        """The room is asked for by the size that its header says; the message names it, and why."""
        data = header("1.vhd", size=MAX_MEMBER) + bytes(MIB)
        with pytest.raises(
            NoRoomToStage, match=r"1\.vhd in image\.tar has to be read from a file: it comes before"
        ):
            from_stream(data, place)
        assert list(place.directory.iterdir()) == []

    def test_what_is_staged_is_gone_with_its_reader(self, place: Staging, tmp_path: Path) -> None:
        """An import that stops in the middle leaves no file, though nobody closed the image."""
        pieces = from_stream(tar([("1.vhd", MIDDLE), ("0.vhd", LEAF), ("2.vhd", BASE)]), place).pieces()
        next(pieces)
        assert list(place.directory.iterdir()) != []
        place.close()
        assert list(place.directory.iterdir()) == []

    def test_a_layer_is_not_read_when_its_turn_is_over(self, place: Staging) -> None:
        """It would give another's bytes."""
        walk = tarball._Walk(
            stream_of(io.BytesIO(tar([("0.vhd", LEAF), ("1.vhd", MIDDLE)])), "t"), place, None
        )
        walk._advance()
        first = walk._data("0.vhd")
        walk._advance()
        with pytest.raises(ValueError, match="past it"):
            first.read(1)

    def test_the_walk_over_headers_is_bounded_by_what_it_is_given(self) -> None:
        """It never asks for more than a megabyte, or backwards."""
        asked: list[tuple[int, int]] = []
        data = pax(record(b"comment", b"x" * 300_000)) + GOOD + END

        def read(offset: int, size: int) -> bytes:
            asked.append((offset, size))
            return data[offset : offset + size]

        headers = tar_headers.Headers("t", read)
        while headers.next() is not None:
            pass
        assert [offset for offset, _ in asked] == sorted(offset for offset, _ in asked)
        assert max(size for _, size in asked) <= MIB


BOMB = """
import sys
from pathlib import Path
from xenvol.images.formats import tarball
from xenvol.images.sources.compression import decompressed
from xenvol.images.sources.files import FileSource, as_stream
from xenvol.images.sources.staging import Staging
from xenvol.images.sources.streams import Peekable
import xenvol.images.sources.expanders, zlib, backports.zstd
def peak():  # KiB of this program alone: ru_maxrss begins with what the process had before exec
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])
before = peak()
with FileSource(sys.argv[1]) as file, Staging(sys.argv[2]) as staging:
    image = tarball.from_stream(decompressed(Peekable(as_stream(file))), staging=staging)
    total = sum(len(piece.data) for piece in image.pieces())
print(total, peak() - before)
"""


class TestMemory:
    @pytest.mark.parametrize(
        "kind",
        [
            "gzip",
            pytest.param("zstd", marks=pytest.mark.slow),
            pytest.param("staged", marks=pytest.mark.slow),
        ],
    )
    def test_a_tarball_that_unfolds_a_thousandfold_takes_no_more_memory_than_another(
        self, tmp_path: Path, kind: str
    ) -> None:
        """300 MB of zeros, in one that is 300 KB long: less than 64 MiB are in memory, streamed or staged."""
        size = 300 * MIB
        whole = {at: bytes(2 * MIB) for at in range(0, size, 2 * MIB)}
        vhd = vhdkit.make_dynamic(size, whole, whole=True)
        path = tmp_path / "bomb"
        made = tar([("image.vhd" if kind == "staged" else "0.vhd", vhd)])
        if kind == "zstd":
            zstd = needs.module("backports.zstd", "'xenvol[images]'")
            path.write_bytes(zstd.compress(made, level=3))
        else:
            path.write_bytes(gzip.compress(made, compresslevel=1))
        assert path.stat().st_size < size // 200
        del made, vhd, whole
        command = [sys.executable, "-c", BOMB, str(path), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
        total, growth = map(int, done.stdout.split())
        assert total == size
        assert growth < 64 << 10  # KiB


def test_a_plain_file_is_read_without_staging(tmp_path: Path) -> None:
    """Through the file system, whose holes it may have."""
    path = tmp_path / "image.tar"
    path.write_bytes(tar([("1.vhd", MIDDLE), ("2.vhd", BASE), ("0.vhd", LEAF)]))
    with FileSource(path) as file:
        assert disk_of(tarball.from_file(file)) == DISK
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_what_a_chain_keeps_on_disk_lies_in_the_staging_directory(
    is_stream: bool, order: Sequence[int], place: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not in the system's for temporary files, which may be a small one; it has no name there."""
    monkeypatch.setattr(tempfile, "tempdir", str(place.directory / "missing"))
    layers = [runs(number, 0, 2 * MIB, 4 * MIB) for number in (1, 2, 3)]
    images = vhdkit.make_chain(3 * SIZE, layers, block_size=BLOCK_SIZE)
    data = tar([(f"{number}.vhd", images[number]) for number in order])
    image = (
        from_stream(data, place)
        if is_stream
        else tarball.from_file(vhdkit.BytesFile(data, "image.tar"), directory=place.directory)
    )
    kept: set[str] = set()
    pieces = []
    for piece in image.pieces():
        pieces.append(piece)
        kept |= {target for target in map(target_of, os.listdir("/proc/self/fd")) if "(deleted)" in target}
    assert vhdkit.laid_out(3 * SIZE, iter(pieces)) == vhdkit.model(3 * SIZE, *layers)
    assert any(target.startswith(f"{place.directory}/#") for target in kept), kept


def target_of(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:  # of the listing itself
        return ""
