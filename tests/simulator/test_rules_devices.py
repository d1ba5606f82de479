"""The names of a disk's position, and when two names mean one slot; traces 04#63-145 of both releases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvol.simulator.rules import device_numbers
from xenvol.simulator.rules.device_numbers import Device

RELEASES = pytest.mark.parametrize("checked", [False, True], ids=["24.16", "25.33"])


def valid(name: str, *, checked: bool, vbd_type: str = "Disk") -> bool:
    return device_numbers.is_valid(name, vbd_type=vbd_type, checked=checked)


@RELEASES
@pytest.mark.parametrize(
    "name",
    [
        "hdb",
        "xvdc",
        "sdd",
        "15",
        "16",
        "255",
        "256",
        "4096",
        "-1",
        "autodetect",
        "hda1",
        "xvdb1",
        "0x5",
        "05",
        "fda",
        "hde",
        "sda1",
        "51712",
    ],
)
def test_both_releases_accept_what_was_recorded_as_accepted(name: str, checked: bool) -> None:
    assert valid(name, checked=checked)


@RELEASES
@pytest.mark.parametrize("name", ["abc", "", " 6", "1.5", "HDB", "xvda_", "5 "])
def test_both_releases_refuse_what_was_recorded_as_refused(name: str, checked: bool) -> None:
    assert not valid(name, checked=checked)


@pytest.mark.parametrize("name", ["xvdz", "xvdaa", "d5", "d5p1"])
def test_letters_beyond_p_are_disks_for_the_newer_release_only(name: str) -> None:
    assert not valid(name, checked=False)
    assert valid(name, checked=True)


@RELEASES
def test_a_floppy_has_a_name_and_for_the_older_release_no_number(checked: bool) -> None:
    assert valid("fda", checked=checked, vbd_type="Floppy")
    assert valid("0", checked=checked, vbd_type="Floppy") is checked


@RELEASES
def test_a_number_and_its_names_clash(checked: bool) -> None:
    """ "1" may be an IDE disk or not, so it clashes with both names."""
    number = device_numbers.possible("1", checked=checked)
    for name in ("xvdb", "hdb"):
        assert set(number) & set(device_numbers.possible(name, checked=checked))
    assert not set(number) & set(device_numbers.possible("sdb", checked=checked))
    assert not set(number) & set(device_numbers.possible("xvdc", checked=checked))


@RELEASES
@pytest.mark.parametrize("name", ["zzz", "", "autodetect"])
def test_rubbish_means_no_device(name: str, checked: bool) -> None:
    assert device_numbers.possible(name, checked=checked) == []


def test_the_newer_release_knows_where_a_bus_ends() -> None:
    assert device_numbers.possible("-1", checked=True) == []
    assert device_numbers.possible("1048576", checked=True) == []
    assert device_numbers.possible("-1", checked=False) != []


@pytest.mark.parametrize(
    ("disk", "name"), [(0, "xvda"), (25, "xvdz"), (26, "xvdaa"), (300, "xvdko"), (702, "xvdaaa")]
)
def test_a_disk_has_the_letters_that_linux_gives_it(disk: int, name: str) -> None:
    assert device_numbers.linux_name(Device("xen", disk)) == name
    assert device_numbers.linux_name(Device("ide", disk)) == name


@given(st.integers(0, 1 << 20 - 1), st.integers(0, 15))
def test_a_name_is_read_as_the_device_that_it_was_made_of(disk: int, partition: int) -> None:
    device = Device("xen", disk, partition)
    name = device_numbers.linux_name(device)
    assert device_numbers.parse(name, hvm=False, checked=True) == device
    assert device_numbers.parse(name, hvm=False, checked=False) == device


@given(st.text(max_size=6), st.booleans(), st.booleans())
def test_no_name_at_all_breaks_the_reading(name: str, hvm: bool, checked: bool) -> None:
    """Passes if nothing is raised."""
    device = device_numbers.parse(name, hvm=hvm, checked=checked)
    if device is not None:
        device_numbers.linux_name(device)
    device_numbers.is_valid(name, vbd_type="Disk", checked=checked)


@given(st.integers(-(1 << 62), (1 << 62) - 1))
def test_ocaml_reads_every_number_that_it_can_hold(number: int) -> None:
    assert device_numbers.ocaml_int(str(number)) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [("0x10", 16), ("0b11", 3), ("0o17", 15), ("1_000", 1000), ("+5", 5), ("-0x5", -5), ("0u7", 7)],
)
def test_ocaml_has_other_spellings_of_numbers(text: str, number: int) -> None:
    assert device_numbers.ocaml_int(text) == number


@pytest.mark.parametrize("text", ["", " 5", "_1", "0x", "5.0", str(1 << 62), "--1", "١"])
def test_ocaml_reads_nothing_else(text: str) -> None:
    assert device_numbers.ocaml_int(text) is None


def test_255_disks_fit_into_a_vm_and_one_more_into_a_control_domain() -> None:
    vm = device_numbers.candidates(vbd_type="Disk", hvm=True, control_domain=False)
    dom0 = device_numbers.candidates(vbd_type="CD", hvm=False, control_domain=True)
    assert [device.disk for device in vm] == list(range(255))
    assert [device.disk for device in dom0] == list(range(256))


def test_only_an_hvm_vm_has_floppy_drives() -> None:
    assert device_numbers.candidates(vbd_type="Floppy", hvm=False, control_domain=False) == []
    assert [
        device_numbers.linux_name(device)
        for device in device_numbers.candidates(vbd_type="Floppy", hvm=True, control_domain=False)
    ] == ["fda", "fdb"]
