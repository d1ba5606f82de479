"""VHDs into disks, and disks as VHDs: against a second implementation, and against qemu-img if it is installed."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagekit import BLOCK, GIB, KIB, MIB, Doors, doors, vhd_file, vhd_footer, vhd_read

from tests import needs
from xenvol.simulator.images.vhdformat import footer_bytes

IO_ERROR = ["VDI_IO_ERROR", "Device I/O errors"]
SECTORS = BLOCK // 512
SIZE = 8 * MIB


@pytest.fixture(scope="module")
def pool() -> Iterator[Doors]:
    with doors() as made:
        yield made


def full(content: bytes) -> dict[int, bytes]:
    """Return all sectors of a block."""
    return {n: content[n * 512 : (n + 1) * 512] for n in range(SECTORS)}


def sectors() -> st.SearchStrategy[dict[int, bytes]]:
    """Some sectors of a block, in runs."""
    runs = st.lists(
        st.tuples(st.integers(0, SECTORS - 1), st.integers(1, 40), st.binary(min_size=1, max_size=1))
    )
    return runs.map(
        lambda found: {
            n: value * 512
            for first, length, value in found
            for n in range(first, min(SECTORS, first + length))
        }
    )


class TestIn:
    @settings(max_examples=20)
    @given(
        st.dictionaries(st.integers(0, SIZE // BLOCK - 1), sectors(), max_size=4),
        st.sampled_from([3, 4]),
        st.sampled_from([sorted, lambda found: sorted(found, reverse=True)]),
        st.sampled_from([0, 512, 4096]),
    )
    def test_the_sectors_that_a_vhd_has_are_written_and_no_others(
        self,
        pool: Doors,
        blocks: dict[int, dict[int, bytes]],
        kind: int,
        order: Callable[[list[int]], list[int]],
        gap: int,
    ) -> None:
        """Dynamic and differencing ones alike, for any order of the blocks and any data between them."""
        vdi = pool.vdi(SIZE)
        before = os.urandom(MIB) * 8
        assert pool.put(vdi, before) == ["success"]
        expected = bytearray(before)
        for number, there in blocks.items():
            for sector, content in there.items():
                at = number * BLOCK + sector * 512
                expected[at : at + 512] = content
        image = vhd_file(SIZE, blocks, kind=kind, order=order, gap=gap)
        assert pool.put(vdi, image, format="vhd") == ["success"]
        assert pool.get(vdi) == expected
        pool.x.VDI.destroy(vdi)

    def test_a_block_of_zeros_leaves_a_hole(self, pool: Doors) -> None:
        vdi = pool.vdi(SIZE)
        image = vhd_file(SIZE, {1: full(bytes(BLOCK)), 2: full(b"x" * BLOCK)})
        assert pool.put(vdi, image, format="VHD") == ["success"]
        assert pool.content(vdi).stat().st_blocks * 512 <= BLOCK + 64 * KIB

    def test_blocks_may_have_other_sizes(self, pool: Doors) -> None:
        vdi, block = pool.vdi(SIZE), 512 * KIB
        there = {n: bytes([n % 251 + 1]) * 512 for n in range(block // 512)}
        assert pool.put(vdi, vhd_file(SIZE, {3: there}, block_size=block), format="vhd") == ["success"]
        assert pool.get(vdi)[3 * block : 4 * block] == b"".join(there.values())

    def test_a_chain_goes_in_from_its_base_to_its_leaf(self, pool: Doors) -> None:
        vdi = pool.vdi(SIZE)
        for depth in range(1, 17):
            image = vhd_file(
                SIZE, {0: {depth: bytes([depth]) * 512, 99: bytes([depth]) * 512}}, kind=3 + (depth > 1)
            )
            assert pool.put(vdi, image, format="vhd") == ["success"]
        got = pool.get(vdi)
        assert got[99 * 512] == 16
        assert [got[depth * 512] for depth in range(1, 17)] == list(range(1, 17))

    @pytest.mark.parametrize(
        "image",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"A" * 512, id="no footer in front"),
            pytest.param(bytes(SIZE) + vhd_footer(SIZE, 2), id="fixed, whose footer is at its end"),
            pytest.param(vhd_footer(SIZE, 2, data_offset=(1 << 64) - 1), id="fixed, without its disk"),
            pytest.param(vhd_file(SIZE, {0: {0: b"x" * 512}})[:-512], id="no footer at the end"),
            pytest.param(vhd_file(SIZE, {})[:-512] + bytes(512), id="zeros where the footer should end it"),
            pytest.param(vhd_file(SIZE, {}, kind=2), id="blocks of a kind that has none"),
            pytest.param(vhd_file(SIZE, {0: {0: b"x" * 512}})[:MIB], id="cut off in a block"),
            pytest.param(vhd_file(SIZE, {})[:1000], id="cut off in the header"),
            pytest.param(vhd_file(16 * MIB, {7: {0: b"x" * 512}}), id="a block behind the disk's end"),
        ],
    )
    def test_what_is_no_vhd_of_that_disk_is_an_io_error(self, pool: Doors, image: bytes) -> None:
        """vhd-tool refuses a fixed VHD, because it needs the footer first, and blocks (vhd_format/f.ml, openstream)."""
        vdi = pool.vdi(SIZE)
        assert pool.put(vdi, image, format="vhd") == IO_ERROR
        assert pool.plugged(vdi) == []

    @pytest.mark.parametrize("at", [100, 512 + 100, 512 + 8, 20])
    def test_a_wrong_byte_in_footer_or_header_is_an_io_error(self, pool: Doors, at: int) -> None:
        image = bytearray(vhd_file(SIZE, {}))
        image[at] ^= 1
        assert pool.put(pool.vdi(SIZE), bytes(image), format="vhd") == IO_ERROR

    def test_a_table_that_leads_backwards_or_far_away_is_an_io_error(self, pool: Doors) -> None:
        image = vhd_file(SIZE, {0: {0: b"x" * 512}})
        for place in (0, 1, 3, 1 << 30):
            wrong = image[:1536] + place.to_bytes(4, "big") + image[1540:]
            assert pool.put(pool.vdi(SIZE), wrong, format="vhd") == IO_ERROR

    def test_a_disk_that_may_hold_old_bytes_is_no_place_for_a_vhd(self, pool: Doors) -> None:
        """A raw volume on LVM: "unimplemented: prezeroed" (vhd-tool, impl.ml), and xapi knows which those are."""
        with pool.xapi.xapi.lock:
            pool.xapi.storage.host("host1").mounts.devices["/dev/sdb"] = pool.xapi.storage.shares.new_device(
                GIB
            )
            config = {"device": "/dev/sdb"}
            lvm = pool.xapi.add_sr("lvm", type="lvm", device_config=config, create=True, shared=False)
        image = vhd_file(SIZE, {0: full(b"x" * BLOCK)})
        assert pool.put(pool.vdi(SIZE, sr=lvm, sm_config={"type": "raw"}), image, format="vhd") == IO_ERROR
        vdi = pool.vdi(SIZE, sr=lvm)
        assert pool.put(vdi, image, format="vhd") == ["success"]
        assert pool.get(vdi) == (b"x" * BLOCK).ljust(SIZE, b"\0")


class TestOut:
    def test_only_blocks_with_data_are_in_it(self, pool: Doors) -> None:
        vdi = pool.vdi(GIB)
        image = vhd_file(GIB, {n: full(bytes([n % 255 + 1]) * BLOCK) for n in (0, 7, 300, 511)})
        pool.put(vdi, image, format="vhd")
        size, blocks, parent = vhd_read(pool.get(vdi, format="vhd"))
        assert (size, parent) == (GIB, "0" * 32)
        assert blocks == {n: bytes([n % 255 + 1]) * BLOCK for n in (0, 7, 300, 511)}

    def test_a_disk_without_data_is_nothing_but_metadata(self, pool: Doors) -> None:
        image = pool.get(pool.vdi(GIB), format="vhd")
        assert vhd_read(image) == (GIB, {}, "0" * 32)
        assert len(image) < 8 * KIB

    def test_what_comes_out_goes_in_again(self, pool: Doors) -> None:
        first, second = pool.vdi(SIZE), pool.vdi(SIZE)
        data = bytes(BLOCK) + os.urandom(3 * MIB) + bytes(3 * MIB)
        pool.put(first, data)
        assert pool.put(second, pool.get(first, format="vhd"), format="vhd") == ["success"]
        assert pool.get(second) == data

    @pytest.mark.parametrize("size", [5 * MIB, 6 * MIB + 512, 6 * MIB + 4096])
    def test_a_disk_that_is_no_multiple_of_a_block_never_ends(self, size: int) -> None:
        """Also when the client has gone. Raw, the same disk does end (recordings.md, finding 2 (xapi))."""
        with doors() as pool:
            vdi, task = pool.vdi(size, sm_config={"type": "raw"}), pool.task()
            query = pool.query(vdi=vdi, task_id=task, format="vhd")
            connection = pool.connection()
            connection.request("GET", f"/export_raw_vdi?{query}")
            sock, response = connection.sock, connection.getresponse()
            assert response.read(8) == b"conectix"
            sock.settimeout(0.5)
            with pytest.raises(TimeoutError):
                response.read()
            response.close()
            time.sleep(0.2)
            assert (pool.outcome(task), len(pool.plugged(vdi))) == (["pending"], 1)
            assert pool.get(vdi) == bytes(size)
            assert len(pool.plugged(vdi)) == 1

    def test_a_delta_has_the_blocks_that_differ_from_its_base_and_names_it(self, pool: Doors) -> None:
        vdi = pool.vdi(SIZE)
        pool.put(vdi, b"a" * BLOCK + b"b" * BLOCK + bytes(BLOCK) + b"d" * BLOCK)
        base = pool.x.VDI.snapshot(vdi)
        base_bytes = pool.get(base)
        pool.put(vdi, b"a" * BLOCK + bytes(BLOCK) + b"C" + bytes(BLOCK - 1))
        base_uuid = pool.x.VDI.get_uuid(base)
        for name in (base, base_uuid):
            delta = pool.get(vdi, format="vhd", base=name)
            size, blocks, parent = vhd_read(delta)
            assert (size, parent) == (SIZE, base_uuid.replace("-", ""))
            assert blocks == {1: bytes(BLOCK), 2: b"C" + bytes(BLOCK - 1)}
        copy = pool.vdi(SIZE)
        pool.put(copy, base_bytes)
        assert pool.put(copy, delta, format="vhd") == ["success"]
        assert pool.get(copy) == pool.get(vdi)

    def test_beyond_2040_gib_it_is_too_large(self, pool: Doors) -> None:
        vdi, task = pool.vdi(2041 * GIB, sm_config={"type": "raw"}), pool.task()
        assert pool.request("GET", "/export_raw_vdi", vdi=vdi, format="vhd", task_id=task).status == 500
        assert pool.outcome(task) == ["VDI_TOO_LARGE", vdi, "2190433320960"]

    @pytest.mark.parametrize("size", [0, 512, 4 * MIB, 127 * GIB, 2040 * GIB])
    def test_a_footer_says_the_size_and_has_a_geometry_that_is_not_larger(self, size: int) -> None:
        footer = footer_bytes(size, 3, 2_000_000_000)
        assert int.from_bytes(footer[48:56], "big") == size
        cylinders, heads, sectors = int.from_bytes(footer[56:58], "big"), footer[58], footer[59]
        assert cylinders * heads * sectors * 512 <= size


class TestQemuImg:
    @pytest.fixture
    def raw(self, tmp_path: Path) -> Path:
        """A sparse disk of 64 MiB."""
        path = tmp_path / "disk.raw"
        with path.open("wb") as file:
            file.truncate(64 * MIB)
            for at in (0, 5 * MIB + 512, 33 * MIB, 64 * MIB - 4096):
                file.seek(at)
                file.write(os.urandom(4096))
        return path

    def test_reads_what_comes_out_as_the_disk(self, pool: Doors, raw: Path, tmp_path: Path) -> None:
        vdi = pool.vdi(64 * MIB)
        pool.put(vdi, raw.read_bytes())
        image = tmp_path / "disk.vhd"
        image.write_bytes(pool.get(vdi, format="vhd"))
        assert image.stat().st_size < 5 * (BLOCK + 4096)
        qemu_img("compare", "-f", "vpc", "-F", "raw", image, raw)

    def test_writes_what_goes_in_as_the_disk(self, pool: Doors, raw: Path, tmp_path: Path) -> None:
        vdi, image = pool.vdi(64 * MIB), tmp_path / "disk.vhd"
        qemu_img("convert", "-f", "raw", "-O", "vpc", "-o", "force_size=on", raw, image)
        assert pool.put(vdi, image.read_bytes(), format="vhd") == ["success"]
        assert pool.get(vdi) == raw.read_bytes()

    def test_writes_a_fixed_vhd_that_is_refused(self, pool: Doors, raw: Path, tmp_path: Path) -> None:
        vdi, image = pool.vdi(64 * MIB), tmp_path / "disk.vhd"
        qemu_img("convert", "-f", "raw", "-O", "vpc", "-o", "subformat=fixed,force_size=on", raw, image)
        assert pool.put(vdi, image.read_bytes(), format="vhd") == IO_ERROR


def qemu_img(*arguments: object) -> None:
    command = [needs.program("qemu-img"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
