"""Another disk never counts as the volume, and the right one is never refused."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvol.connection_data.identity import GIB, Identity
from xenvol.connection_data.keys import CommonKeys
from xenvol.errors import WrongVolume

UUID = "0b8a3c5e-9d0f-4e0e-8a52-3f4f1c1d2e3f"
HEX = st.text("0123456789abcdef", min_size=16, max_size=32)


def identity(*scsi_ids: str, vdi_uuid: str | None = None, **sizes: int) -> Identity:
    return Identity.of(CommonKeys(**sizes), scsi_ids=scsi_ids, vdi_uuid=vdi_uuid)


@given(
    HEX,
    st.sampled_from(["", "3", "2", "1"]),
    st.sampled_from(["", "naa.", "0x", "wwn-0x", "scsi-"]),
    st.booleans(),
)
def test_a_scsi_id_is_the_same_in_any_spelling(number: str, digit: str, prefix: str, is_upper: bool) -> None:
    """With udev's type digit or without, as NAA, WWN or plain, in any case."""
    told = f"{prefix}{number.upper() if is_upper else number}"
    identity(told).check(scsi_id=f"{digit}{number}")
    identity(f"{digit}{number}").check(scsi_id=told)


@given(HEX, HEX)
def test_another_scsi_id_is_another_disk(one: str, other: str) -> None:
    """Unless they differ by the type digit only."""
    if one == other or "3" in (one[0], other[0]):
        return
    with pytest.raises(WrongVolume) as caught:
        identity(one).check(scsi_id=other)
    assert caught.value.expected == f"SCSI id {one}"
    assert caught.value.found == f"SCSI id {other}"


def test_only_a_type_digit_may_come_before_a_scsi_id() -> None:
    """Another character is another id."""
    identity("6001").check(scsi_id="36001")
    with pytest.raises(WrongVolume):
        identity("6001").check(scsi_id="a6001")


def test_every_scsi_id_told_must_fit() -> None:
    """One that fits does not excuse one that does not."""
    with pytest.raises(WrongVolume):
        identity("36001", "36002").check(scsi_id="36001")
    identity("36001", "naa.6001").check(scsi_id="36001")


@pytest.mark.parametrize("size", [5 * GIB, 5 * GIB + 1024, 6 * GIB - 1])
def test_a_size_in_gib_allows_for_what_an_array_rounds_up(size: int) -> None:
    """A LUN of 5 GiB may have some bytes more."""
    identity(size=5).check(size=size)
    identity(volume_size=5).check(size=size)


@pytest.mark.parametrize("size", [5 * GIB - 1, 6 * GIB, 0])
def test_another_size_in_gib_is_another_disk(size: int) -> None:
    """The error has both sizes."""
    with pytest.raises(WrongVolume) as caught:
        identity(size=5).check(size=size)
    assert "5 GiB" in caught.value.expected
    assert str(size) in caught.value.found


def test_a_size_in_bytes_is_exact() -> None:
    """The size in GiB does not count then."""
    identity(size_bytes=5 * GIB + 1024, size=4).check(size=5 * GIB + 1024)
    with pytest.raises(WrongVolume):
        identity(size_bytes=5 * GIB).check(size=5 * GIB + 1024)


def test_a_scsi_id_that_fits_outweighs_the_size() -> None:
    """xapi shows the old size of a LUN that grew until the next login."""
    identity("36001", size=10).check(scsi_id="36001", size=5 * GIB)


def test_a_size_counts_where_one_side_has_no_scsi_id() -> None:
    """Files have none."""
    with pytest.raises(WrongVolume):
        identity(size=10).check(scsi_id="36001", size=5 * GIB)
    with pytest.raises(WrongVolume):
        identity("36001", size=10).check(scsi_id=None, size=5 * GIB)


def test_a_vdi_has_the_uuid_that_was_told() -> None:
    """In any case of letters."""
    identity(vdi_uuid=UUID.upper()).check(vdi_uuid=UUID)
    with pytest.raises(WrongVolume, match=UUID):
        identity(vdi_uuid=UUID).check(vdi_uuid=UUID.replace("0", "1"))


def test_what_is_unknown_proves_nothing() -> None:
    """An empty identity fits every disk, and a disk without properties fits every identity."""
    identity().check(vdi_uuid=UUID, scsi_id="36001", size=1)
    identity("36001", vdi_uuid=UUID, size=5).check()
    identity("36001").check(scsi_id="")


def test_a_scsi_id_may_have_colons_between_its_bytes() -> None:
    """As arrays and switches write a WWN."""
    identity = Identity.of(CommonKeys(), scsi_ids=["60:01:40:5A", "naa.60:01:40:5a"])
    identity.check(scsi_id="36001405a")
    with pytest.raises(WrongVolume):
        identity.check(scsi_id="36001405b")


@given(st.lists(st.text("abc/", min_size=1), min_size=1, unique=True), st.randoms())
def test_places_in_any_order_are_one_volume(places: list[str], random: Random) -> None:
    """The key of one is a place of the other, and each of its places is."""
    shuffled = list(places)
    random.shuffle(shuffled)
    one, other = Identity(places=frozenset(places)), Identity(places=frozenset(shuffled))
    assert one.key == other.key
    assert other.is_at(one.key)
    assert all(one.is_at(place) for place in places)
    assert not one.is_at("elsewhere")


def test_a_proof_says_yes_or_no_and_nothing_proves_nothing() -> None:
    assert identity(vdi_uuid=UUID).is_of(UUID.upper(), "36001") is True
    assert identity(vdi_uuid=UUID).is_of(UUID.replace("0", "1"), "36001") is False
    assert identity("naa.6001").is_of(UUID, "36001") is True
    assert identity("naa.6002").is_of(UUID, "36001") is False
    assert identity("naa.6001").is_of(UUID, None) is None
    assert identity(size=1).is_of(UUID, "36001") is None
