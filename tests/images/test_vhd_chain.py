"""Layers over each other read as one disk, whatever they hold, and what is no chain is refused."""

from __future__ import annotations

import errno
import os
import random
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import vhdkit
from hypothesis import given, settings
from hypothesis import strategies as st
from vhdkit import BLOCK, GIB, KIB, MIB, BytesFile, BytesStream, laid_out, model, same

from xenvol.images.disk_image import Piece, dense
from xenvol.images.errors import InvalidImage, MissingParent, NoRoomToStage, TargetError
from xenvol.images.formats import vhd
from xenvol.images.formats.chain import MAX_CHAIN, flatten
from xenvol.images.formats.coverage import Coverage

SIZE = 2 * BLOCK + 4096


def opened(images: Sequence[bytes]) -> list[vhd.Layer]:
    return [vhd.from_file(BytesFile(image, f"{number}.vhd")) for number, image in enumerate(images)]


def streamed(images: Sequence[bytes]) -> Iterator[vhd.Layer]:
    """One after the other, as out of one tar: each must have been read to its end before the next is asked for."""
    for number, image in enumerate(images):
        stream = BytesStream(image, f"{number}.vhd")
        yield vhd.from_stream(stream)
        assert stream.position == len(image), f"{stream.name} was left before its end"


def read(layers: Iterable[vhd.Layer]) -> bytes:
    layers = iter(layers)
    disk = flatten(next(layers), layers)
    return laid_out(disk.virtual_size, disk.pieces())


# --- what is good ---------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(vhdkit.disks(layers=(1, 16)), st.randoms(use_true_random=False))
def test_a_chain_reads_as_its_layers_over_each_other(disk: vhdkit.Drawn, chance: random.Random) -> None:
    """Up to 16 of them, from files and out of a stream, with their blocks in any order."""
    uuids: list[UUID] = [uuid4() for _ in disk.layers]
    parents: list[UUID | None] = [*uuids[1:], None]
    images = []
    for runs, uuid, parent in zip(disk.layers, uuids, parents, strict=True):
        order = disk.blocks
        chance.shuffle(order)
        images.append(
            vhdkit.make_dynamic(
                disk.size,
                runs,
                uuid=uuid,
                parent=parent,
                order=order,
                block_size=disk.block_size,
                garbage=parent is not None,
            )
        )
    expected = model(disk.size, *disk.layers)
    leaf, *rest = opened(images)
    flat = flatten(leaf, rest)
    same(laid_out(disk.size, flat.pieces()), expected)
    same(read(streamed(images)), expected)
    laid = bytearray(b"?" * disk.size)
    for piece in dense(flatten(leaf, rest), disk.size):
        laid[piece.offset : piece.end] = piece.data
    same(bytes(laid), expected)


@settings(max_examples=12)
@given(disk=vhdkit.disks(layers=(2, 16), grain=8, block_sizes=(BLOCK,)))
def test_libvhdi_reads_the_same_chain(disk: vhdkit.Drawn, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In steps of 4 KiB, in which it reads bitmaps rightly."""
    directory = tmp_path_factory.mktemp("libvhdi")
    size = -(-disk.size // 4096) * 4096
    layers = [vhdkit.painted(size, spans, tag) for tag, spans in enumerate(disk.spans)]
    images = vhdkit.make_chain(size, layers)
    paths = [directory / str(number) for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(image)
    same(read(opened(images)), vhdkit.by_libvhdi(*paths))


@pytest.mark.parametrize("base_size", [512, BLOCK - 512, BLOCK + 512, SIZE, SIZE + 512, 3 * BLOCK])
def test_the_disk_has_the_size_of_its_leaf(base_size: int) -> None:
    """What a larger parent has behind it is left out; behind a smaller one are zeros."""
    base, leaf = uuid4(), uuid4()
    lower = vhdkit.painted(base_size, [(0, 1 << 20)], 1)
    upper = vhdkit.painted(SIZE, [(0, 3), (SIZE // 512 - 2, 2)], 2)
    for images in (
        [
            vhdkit.make_differencing(SIZE, upper, uuid=leaf, parent=base),
            vhdkit.make_dynamic(base_size, lower, uuid=base),
        ],
        [
            vhdkit.make_differencing(SIZE, upper, uuid=leaf, parent=base),
            vhdkit.make_fixed(model(base_size, lower), uuid=base),
        ],
    ):
        same(read(opened(images)), model(SIZE, upper, lower))


def test_a_fixed_base_comes_out_of_a_stream() -> None:
    """Whose UUID is known only when it has been read, and is checked then."""
    base = uuid4()
    lower = vhdkit.painted(MIB, [(0, 1 << 20)], 1)
    upper = {512: b"x" * 512}
    leaf = vhdkit.make_differencing(MIB, upper, parent=base)
    for uuid, is_right in ((base, True), (uuid4(), False)):
        image = vhdkit.make_fixed(model(MIB, lower), uuid=uuid)
        layers = [
            vhd.from_file(BytesFile(leaf, "leaf.vhd")),
            vhd.fixed_from_stream(BytesStream(image, "base.vhd", knows_length=True)),
        ]
        if is_right:
            same(read(layers), model(MIB, upper, lower))
        else:
            with pytest.raises(InvalidImage, match="which follows, is"):
                read(layers)


def test_a_single_layer_is_given_as_it_is() -> None:
    """Nothing is kept of it, and it knows what it has."""
    runs = {0: b"x" * 1024}
    (layer,) = opened([vhdkit.make_dynamic(SIZE, runs)])
    disk = flatten(layer, [])
    assert (disk.format, disk.virtual_size, disk.allocated, disk.is_ordered) == ("vhd", SIZE, BLOCK, True)
    assert list(disk.pieces()) == [(0, b"x" * 1024)]
    leaf, base = opened(vhdkit.make_chain(SIZE, [runs, {}]))
    disk = flatten(leaf, [base])
    assert (disk.allocated, disk.is_ordered) == (None, False)
    assert repr(disk).startswith("<chain of VHDs of <Layer '0.vhd'")


def test_parents_are_asked_for_when_their_turn_comes() -> None:
    """Not before all of the child has been taken, for they may follow it in one stream."""
    images = vhdkit.make_chain(SIZE, [{0: b"a" * 512}, {512: b"b" * 512}, {1024: b"c" * 512}])
    asked: list[str] = []

    def parents() -> Iterator[vhd.Layer]:
        for layer in layers:
            asked.append(layer.name)
            yield layer

    leaf, *layers = opened(images)
    pieces = flatten(leaf, parents()).pieces()
    assert asked == []
    assert next(pieces).data == b"a" * 512
    assert asked == []
    assert next(pieces).data == b"b" * 512
    assert asked == ["1.vhd"]
    assert next(pieces).data == b"c" * 512
    assert asked == ["1.vhd", "2.vhd"]
    assert next(pieces, None) is None


# --- what is no chain -----------------------------------------------------------------------------------------------


def both(layers: Sequence[vhd.Layer], error: type[InvalidImage], match: str) -> None:
    """As a sequence it is refused at once; as they come, before the end."""
    leaf, *parents = layers
    with pytest.raises(error, match=match):
        flatten(leaf, parents)
    with pytest.raises(error, match=match):
        list(flatten(leaf, iter(parents)).pieces())


def test_a_leaf_without_its_parent_is_refused() -> None:
    base = uuid4()
    image = vhdkit.make_differencing(SIZE, {0: b"x" * 512}, parent=base, parent_name="base.vhd")
    both(opened([image]), MissingParent, rf"differences from {base} \(base.vhd\)")


def test_a_chain_that_ends_with_a_differencing_vhd_is_refused() -> None:
    images = vhdkit.make_chain(SIZE, [{}, {0: b"x" * 512}, {}])
    both(opened(images[:2]), MissingParent, r"^1\.vhd .*whole chain")


def test_the_wrong_parent_is_refused() -> None:
    images = vhdkit.make_chain(SIZE, [{}, {}])
    other = vhdkit.make_dynamic(SIZE)
    both(opened([images[0], other]), InvalidImage, r"^0\.vhd .* and 1\.vhd, which follows, is")


NOBODY = UUID(int=0)


@pytest.mark.parametrize("number", [1, 2])
def test_a_parent_without_a_uuid_is_not_anybodys(number: int) -> None:
    """Zeros are a UUID like another: they are compared, in the middle of a chain and at its end."""
    uuids = [UUID(int=value) for value in (1, 2, 3)]
    ours = vhdkit.make_chain(SIZE, [{}, {}, {}], uuids=uuids)
    uuids[number] = NOBODY
    theirs = vhdkit.make_chain(SIZE, [{}, {0: b"x" * 512}, {0: b"x" * 512}], uuids=uuids)
    match = rf"^{number - 1}\.vhd .* differs from {UUID(int=number + 1)}, and .*, which follows, is {NOBODY}"
    both(opened([*ours[:number], *theirs[number:]]), InvalidImage, match)
    with pytest.raises(InvalidImage, match=match):
        read(streamed([*ours[:number], *theirs[number:]]))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_parent_without_a_uuid_is_its_childs(number: int) -> None:
    uuids = [UUID(int=value) for value in (1, 2, 3)]
    uuids[number] = NOBODY
    layers = [vhdkit.painted(SIZE, [(at, 2)], at) for at in (1, 2, 3)]
    images = vhdkit.make_chain(SIZE, layers, uuids=uuids)
    same(read(opened(images)), model(SIZE, *layers))
    same(read(streamed(images)), model(SIZE, *layers))


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize("uuid", [NOBODY, UUID(int=9)])
def test_a_fixed_base_is_compared_too(uuid: UUID, is_streamed: bool) -> None:
    """At its end at the latest."""
    leaf = vhdkit.make_differencing(MIB, {0: b"x" * 512}, parent=UUID(int=2))
    image = vhdkit.make_fixed(bytes(MIB), uuid=uuid)
    base = (
        vhd.fixed_from_stream(BytesStream(image, "1.vhd", knows_length=True))
        if is_streamed
        else vhd.from_file(BytesFile(image, "1.vhd"))
    )
    with pytest.raises(InvalidImage, match=f"which follows, is {uuid}"):
        read([*opened([leaf]), base])


def test_layers_in_the_wrong_order_are_refused() -> None:
    first, second, third = vhdkit.make_chain(SIZE, [{}, {}, {}])
    both(opened([first, third, second]), InvalidImage, "which follows, is")
    both(
        opened([third, second, first]), InvalidImage, r"^1\.vhd .*0\.vhd, which is a dynamic VHD and has none"
    )


@pytest.mark.parametrize(
    "base", [vhdkit.make_dynamic(SIZE), vhdkit.make_fixed(bytes(SIZE))], ids=["dynamic", "fixed"]
)
def test_a_layer_that_nobody_stands_on_is_refused(base: bytes) -> None:
    both(opened([base, vhdkit.make_dynamic(SIZE)]), InvalidImage, r"^1\.vhd .* given as a parent of 0\.vhd")
    images = vhdkit.make_chain(SIZE, [{}, {}])
    both(opened([*images, base]), InvalidImage, r"^2\.vhd .* given as a parent of 1\.vhd")


def test_a_chain_that_refers_to_itself_is_refused() -> None:
    one, two = uuid4(), uuid4()
    images = [
        vhdkit.make_differencing(SIZE, uuid=one, parent=two),
        vhdkit.make_differencing(SIZE, uuid=two, parent=one),
        vhdkit.make_differencing(SIZE, uuid=one, parent=two),
    ]
    both(opened(images), InvalidImage, r"refers to itself: 2\.vhd and 0\.vhd are both")
    fixed = vhd.fixed_from_stream(
        BytesStream(vhdkit.make_fixed(bytes(SIZE), uuid=one), "base.vhd", knows_length=True)
    )
    with pytest.raises(InvalidImage, match=r"refers to itself: base\.vhd and 0\.vhd are both"):
        read([*opened(images[:2]), fixed])


def test_a_hidden_leaf_is_refused_and_a_hidden_parent_is_what_it_should_be() -> None:
    base = uuid4()
    images = [
        vhdkit.make_differencing(SIZE, {0: b"x" * 512}, parent=base),
        vhdkit.make_dynamic(SIZE, {512: b"y" * 512}, uuid=base, hidden=True),
    ]
    same(read(opened(images)), model(SIZE, {0: b"x" * 512, 512: b"y" * 512}))
    with pytest.raises(InvalidImage, match="it is hidden"):
        flatten(opened(images[1:])[0], [])
    fixed = vhdkit.make_fixed(bytes(512), hidden=True)
    late = flatten(vhd.fixed_from_stream(BytesStream(fixed, knows_length=True)), [])
    with pytest.raises(InvalidImage, match="it is hidden"):
        list(late.pieces())


def test_the_longest_chain_is_read_and_a_longer_one_refused() -> None:
    images = vhdkit.make_chain(512 * KIB, [{}] * (MAX_CHAIN + 1), block_size=512 * KIB)
    both(opened(images), InvalidImage, "more than 30 layers")
    longest = vhdkit.make_chain(512 * KIB, [{}] * (MAX_CHAIN - 1) + [{512: b"x" * 512}], block_size=512 * KIB)
    same(read(opened(longest)), model(512 * KIB, {512: b"x" * 512}))


# --- coverage -------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(
    st.integers(1, 3 * BLOCK // 512),
    st.lists(st.tuples(st.integers(0, 3 * BLOCK // 512), st.integers(1, 6000), st.booleans()), max_size=30),
)
def test_each_sector_is_taken_once(total: int, asked: list[tuple[int, int, bool]]) -> None:
    """As a set of numbers would tell it; what is left is what could be taken."""
    taken: set[int] = set()
    with Coverage(total * 512) as coverage:
        for first, count, is_taken in asked:
            count = min(count, total - first)
            if count <= 0:
                continue
            (data,) = vhdkit.painted(total * 512, [(first, count)], 1).values()
            parts = list((coverage.take if is_taken else coverage.left)(Piece(first * 512, data)))
            found = [at // 512 for part in parts for at in range(part.offset, part.end, 512)]
            assert found == sorted(set(range(first, first + count)) - taken)
            assert all(
                part.data == data[part.offset - first * 512 : part.end - first * 512] for part in parts
            )
            if is_taken:
                taken.update(found)


def test_what_is_covered_lies_in_a_file_without_a_name(tmp_path: Path) -> None:
    """In the directory that was said; nothing remains of it whatever happens."""
    with Coverage(4 * BLOCK, directory=tmp_path) as coverage:
        for block in range(4):
            list(coverage.take(Piece(block * BLOCK, bytes(512))))
        list(coverage.take(Piece(BLOCK + 512, bytes(BLOCK - 512))))
        assert repr(coverage) == "<Coverage: 1 whole and 3 parts of 4 blocks>"
        (link,) = [target for fd in os.listdir("/proc/self/fd") if str(tmp_path) in (target := _target(fd))]
        assert list(tmp_path.iterdir()) == []
        assert "deleted" in link
    assert not any(str(tmp_path) in _target(fd) for fd in os.listdir("/proc/self/fd"))


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:  # of the listing itself
        return ""


def test_the_temporary_file_is_closed_when_nobody_reads_on(tmp_path: Path) -> None:
    images = vhdkit.make_chain(2 * BLOCK, [{0: b"x" * 512, BLOCK: b"x" * 512}, {512: b"y" * 512}])
    leaf, base = opened(images)
    pieces = flatten(leaf, [base], directory=tmp_path).pieces()
    for _ in range(3):
        next(pieces)
    assert any(str(tmp_path) in _target(fd) for fd in os.listdir("/proc/self/fd"))
    pieces.close()  # type: ignore[attr-defined]  # the object has more than its declared type
    assert not any(str(tmp_path) in _target(fd) for fd in os.listdir("/proc/self/fd"))


def test_a_directory_that_is_missing_or_full_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cover(directory: Path) -> None:
        with Coverage(4 * BLOCK, directory=directory) as coverage:
            for block in range(4):
                list(coverage.take(Piece(block * BLOCK, bytes(512))))

    with pytest.raises(TargetError, match="missing"):
        cover(tmp_path / "missing")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(NoRoomToStage, match="upper layers"):
        cover(tmp_path)


def test_coverage_of_the_largest_disk_takes_little_memory() -> None:
    size = 2040 * GIB
    chance = random.Random(1)
    tracemalloc.start()
    try:
        with Coverage(size) as coverage:
            for _ in range(2000):
                list(coverage.take(Piece(chance.randrange(size // BLOCK) * BLOCK, bytes(4096))))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB
