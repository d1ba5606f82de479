"""A requested position is given or refused, and both translations agree on every position."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvol.attaching.mountpoint import choose, name_of, order_of, position_of, shown_name, userdevice_of
from xenvol.errors import InvalidMountpoint, MountpointInUse, NoFreeMountpoint

POSITIONS = st.integers(min_value=0, max_value=254)


@pytest.mark.parametrize(
    ("mountpoint", "userdevice"),
    [
        ("/dev/xvdb", "1"),
        ("xvdb", "1"),
        ("vdb", "1"),
        ("/dev/vdb", "1"),
        ("sdb", "1"),
        ("hdb", "1"),
        ("1", "1"),
        (1, "1"),
        ("/dev/sda", "0"),
        ("0", "0"),
        (0, "0"),
        ("xvdd", "3"),
        ("/dev/xvdq", "16"),
        ("xvdz", "25"),
        ("xvdaa", "26"),
        ("/dev/sdaz", "51"),
        ("vdba", "52"),
        ("xvdiu", "254"),
        ("254", "254"),
        (254, "254"),
    ],
)
def test_a_name_in_any_spelling_is_a_position(mountpoint: str | int, userdevice: str) -> None:
    """The letters count, the prefix does not, and 0 is a position."""
    assert userdevice_of(mountpoint) == userdevice


@pytest.mark.parametrize("mountpoint", ["auto", "autodetect", None])
def test_auto_leaves_the_choice(mountpoint: str | None) -> None:
    """xapi's own word, autodetect, means the same."""
    assert userdevice_of(mountpoint) is None


@pytest.mark.parametrize(
    "mountpoint",
    [
        *["", "/dev/", "/dev/sd", "dev/sdb", "xvd", "xvdB", "HDB", "fda", "cdrom", "b", "AUTO", "nvme0n1"],
        *[" xvdb", "xvdb ", "xvdb\n", "/dev/1", "/dev/disk/by-id/x", "/dev/mapper/xvdb", "xvdiv"],
        *["xvdzzzzzzzz", "01", "-1", "+1", "1.5", "1_0", "²", "٣", "255", "12345678", -1, 255, 1.0, True, False],
        *[b"xvdb", ["xvdb"]],
    ],
)  # fmt: skip  # by kind: names, numbers, others
def test_what_is_no_position_is_refused(mountpoint: object) -> None:
    """The message repeats the mountpoint and says what is accepted."""
    with pytest.raises(InvalidMountpoint) as caught:
        userdevice_of(mountpoint)  # type: ignore[arg-type]  # the wrong types are the test
    assert caught.value.mountpoint == mountpoint
    assert repr(mountpoint) in str(caught.value)
    assert "xvdb" in str(caught.value)


@pytest.mark.parametrize(("mountpoint", "disk"), [("/dev/xvdb1", "/dev/xvdb"), ("vdc12", "vdc")])
def test_a_partition_is_refused_and_its_disk_named(mountpoint: str, disk: str) -> None:
    """A volume is a whole disk."""
    with pytest.raises(InvalidMountpoint) as caught:
        userdevice_of(mountpoint)
    assert f"the whole disk: {disk};" in str(caught.value)


@given(POSITIONS, st.sampled_from(["xvd", "vd", "sd", "hd"]), st.booleans())
def test_names_and_positions_are_inverse(position: int, prefix: str, with_dev: bool) -> None:
    """Every position of 0 to 254 goes to a name and back, under every prefix."""
    letters = name_of(str(position)).removeprefix("xvd")
    assert userdevice_of(f"{'/dev/' if with_dev else ''}{prefix}{letters}") == str(position)


@pytest.mark.parametrize("userdevice", ["255", "-1", "", "xvdb", "01", True, 255])
def test_only_a_position_has_a_name(userdevice: str | int) -> None:
    """The positions are 0 to 254."""
    with pytest.raises(InvalidMountpoint):
        name_of(userdevice)


@given(st.text(alphabet="xvdshab/e0129. ", max_size=12))
def test_any_text_is_a_position_or_is_refused(text: str) -> None:
    """There is no third outcome, and an accepted position is within range."""
    try:
        userdevice = userdevice_of(text)
    except InvalidMountpoint:
        return
    assert userdevice is not None
    assert 0 <= int(userdevice) <= 254


def test_a_named_position_is_given() -> None:
    """Even where a lower position is free."""
    assert choose("/dev/xvde", ["0", "1"]) == "4"


def test_the_cd_drives_position_is_given_if_it_is_named() -> None:
    """Position 3 is the CD drive's by convention only."""
    assert choose("xvdd", ["0"]) == "3"
    assert choose(3, ["0"]) == "3"


def test_a_position_in_use_is_refused_with_the_free_ones_named() -> None:
    """A disk is never put elsewhere unasked."""
    with pytest.raises(MountpointInUse) as caught:
        choose("/dev/vdb", ["0", "1", "2"])
    assert caught.value.mountpoint == "/dev/vdb"
    assert caught.value.free[:3] == ["xvdd", "xvde", "xvdf"]
    assert len(caught.value.free) == 252
    assert "free: xvdd, xvde, xvdf" in str(caught.value)
    assert "and 244 more" in str(caught.value)


def test_auto_takes_the_lowest_free_position_but_the_cd_drives() -> None:
    """0, 1, 2, then 4."""
    taken: list[str] = []
    for expected in ["0", "1", "2", "4", "5"]:
        assert choose("auto", taken) == expected
        taken.append(expected)


@pytest.mark.parametrize("spelling", ["0", "xvda", "hda", "sda", "xvda1", "hda2", "00", "d0", "d0p1"])
def test_a_position_is_taken_in_any_of_xapis_spellings(spelling: str) -> None:
    """xapi and xenvol see one position in all of them."""
    assert choose(None, [spelling]) == "1"
    with pytest.raises(MountpointInUse):
        choose("xvda", [spelling])


@pytest.mark.parametrize("spelling", ["", "fda", "autodetect", "4096", "nonsense"])
def test_what_is_no_disks_position_takes_none(spelling: str) -> None:
    """A VBD that was never plugged has an empty device; a floppy has no disk's position."""
    assert choose(None, [spelling]) == "0"


def test_a_full_vm_has_no_place_left() -> None:
    """auto does not take the CD drive's position, even if it is the last one."""
    taken = [str(position) for position in range(255) if position != 3]
    with pytest.raises(NoFreeMountpoint) as caught:
        choose("auto", taken)
    assert caught.value.taken == 254
    assert "position 3" in str(caught.value)
    assert choose("3", taken) == "3"


@given(st.one_of(POSITIONS, st.none()), st.sets(POSITIONS))
def test_a_choice_is_free_and_is_the_requested_one(requested: int | None, taken: set[int]) -> None:
    """For any VM: the position is none of those taken, and is the requested one if there is one."""
    free = set(range(255)) - taken
    try:
        chosen = int(choose(requested, [str(position) for position in taken]))
    except MountpointInUse as refusal:
        named = refusal.free
        assert requested is not None
        assert requested not in free
        assert named == [name_of(position) for position in sorted(free)]
    except NoFreeMountpoint:
        assert requested is None
        assert free <= {3}
    else:
        assert chosen in free
        assert chosen == (min(free - {3}) if requested is None else requested)


@pytest.mark.parametrize(
    ("userdevice", "position", "shown"),
    [
        ("5", "5", "xvdf"),
        ("xvdf", "5", "xvdf"),
        ("sdf", "5", "xvdf"),
        ("05", "5", "xvdf"),
        ("255", "255", "255"),
        ("-1", None, "-1"),
        ("fda", None, "fda"),
    ],
)
def test_what_another_tool_wrote_is_a_position_or_shown_as_it_is(
    userdevice: str, position: str | None, shown: str
) -> None:
    assert position_of(userdevice) == position
    assert shown_name(userdevice) == shown


def test_disks_are_in_the_order_of_their_positions_and_those_without_one_come_last() -> None:
    assert sorted(["fda", "10", "xvdf", "-1", "2"], key=order_of) == ["2", "xvdf", "10", "-1", "fda"]
