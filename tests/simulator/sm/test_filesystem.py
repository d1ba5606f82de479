"""Files, directories, and the used space of the file system that holds them."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvol.simulator.sm.filesystem import Directory, File, FileSystem, ext4_on

KIB, GIB = 1 << 10, 1 << 30


def error_of(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.RaisesExc(OSError, check=lambda error: error.errno == number)


def test_a_file_takes_whole_blocks_and_gives_them_back() -> None:
    disk = FileSystem(GIB, used=8192)
    disk.root.add_file("a", 1)
    disk.root.add_file("b", 4097)
    assert disk.utilisation == 8192 + 3 * 4096
    disk.root.remove("a")
    disk.root.remove("b")
    assert disk.utilisation == 8192


def test_a_sparse_file_takes_nothing_and_a_directory_one_block() -> None:
    disk = FileSystem(GIB)
    disk.root.add_raw("disk", GIB * 100)
    assert disk.utilisation == 0
    below = disk.root.make_directory("a")
    below.make_directory("b")
    assert disk.utilisation == 2 * 4096
    below.remove("b")
    disk.root.remove("a")
    assert disk.utilisation == 0


def test_a_full_file_system_refuses_and_keeps_its_account() -> None:
    disk = FileSystem(100 * KIB)
    disk.fill(leaving=4096)
    with error_of(errno.ENOSPC):
        disk.root.add_file("too big", 4097)
    assert disk.free == 4096
    disk.root.add_file("fits", 4096)
    assert disk.free == 0


def test_a_read_only_file_system_takes_and_gives_nothing() -> None:
    disk = FileSystem(GIB)
    disk.root.add_file("here", 1)
    disk.is_read_only = True
    with error_of(errno.EROFS):
        disk.root.add_file("new", 1)
    with error_of(errno.EROFS):
        disk.root.remove("here")
    with error_of(errno.EROFS):
        disk.root.make_directory("new")
    assert list(disk.root) == ["here"]


def test_a_file_over_another_takes_its_place_and_its_space() -> None:
    disk = FileSystem(GIB)
    disk.root.add_file("a", 100 * KIB)
    disk.root.add_file("a", 1)
    assert disk.utilisation == 4096


def test_a_directory_with_something_in_it_is_not_removed() -> None:
    root = FileSystem(GIB).root
    root.make_directory("a").add_file("b")
    with error_of(errno.ENOTEMPTY):
        root.remove("a")
    with error_of(errno.ENOENT):
        root.remove("nothing")


def test_a_file_is_no_directory() -> None:
    root = FileSystem(GIB).root
    root.add_file("a")
    with error_of(errno.ENOTDIR):
        root.make_directory("a/b")
    assert root.directory("a") is None
    assert root.find("a/b") is None
    assert isinstance(root.find("a"), File)
    assert isinstance(root.find("/"), Directory)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3 * 4096)), max_size=30))
def test_whatever_comes_and_goes_the_account_is_the_sum_of_the_files(steps: list[tuple[str, int]]) -> None:
    disk = FileSystem(64 * KIB)
    for name, size in steps:
        if size == 0 and name in disk.root:
            disk.root.remove(name)
            continue
        try:
            disk.root.add_file(name, size)
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017  # because the property allows for it, and for nothing else
    files = [file for name in disk.root if (file := disk.root.file(name))]
    assert disk.utilisation == sum(file.footprint(4096) for file in files) <= disk.size


def test_an_ext4_has_the_size_that_mkfs_left() -> None:
    """Trace sm/24#57."""
    assert ext4_on(1061158912) == (1025114112, 24576)


@given(st.integers(min_value=64 << 20, max_value=4 << 40))
def test_an_ext4_of_any_size_leaves_most_of_its_volume(volume: int) -> None:
    size, used = ext4_on(volume)
    assert 0.8 * volume < size < volume
    assert used < size
