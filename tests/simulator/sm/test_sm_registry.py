"""The SR types of the simulator, and their SM objects."""

import pytest

from xenvol.simulator.sm import registry
from xenvol.simulator.sm.errorcodes import reason


@pytest.mark.parametrize("sr_type", registry.known_types())
def test_every_type_describes_itself(sr_type: str) -> None:
    record = registry.sm_record(sr_type)
    assert record["type"] == sr_type
    assert record["name_label"]
    assert record["driver_filename"].startswith("/opt/xensource/sm/")
    assert record["driver_filename"].removesuffix("SR").rpartition("/")[2].lower() == sr_type
    assert sorted(record["features"]) == sorted(record["capabilities"])
    assert all(isinstance(version, int) for version in record["features"].values())


@pytest.mark.parametrize("cls", registry.CLASSES)
def test_every_driver_has_a_description_and_is_found_by_its_type(cls: type) -> None:
    assert registry.driver(cls.type) is cls
    assert cls.type in registry.known_types()


def test_an_alias_is_driven_by_the_same_class() -> None:
    assert registry.driver("lvhd") is registry.driver("lvm") is not None
    assert registry.driver("rawiscsi") is registry.driver("iscsi") is not None


def test_a_type_may_be_described_without_a_driver() -> None:
    assert registry.driver("linstor") is None
    assert registry.sm_record("linstor")["vendor"] == "Vates"


def test_an_unknown_type_has_neither() -> None:
    assert registry.driver("tape") is None
    with pytest.raises(KeyError):
        registry.sm_record("tape")


def test_a_version_in_a_capability_becomes_the_features_version() -> None:
    assert registry.sm_record("nfs")["features"]["VDI_RESET_ON_BOOT"] == 2


def test_what_xapi_takes_for_no_feature_is_not_shown() -> None:
    assert "ATOMIC_PAUSE" not in registry.sm_record("nfs")["capabilities"]


@pytest.mark.parametrize(
    ("number", "opterr", "text"),
    [
        (40, "why", "The SR scan failed  [opterr=why]"),
        (44, None, "There is insufficient space"),
        (140, None, "Incorrect DNS name, unable to resolve."),
    ],
)
def test_a_fault_has_the_text_of_the_drivers_own_table(number: int, opterr: str | None, text: str) -> None:
    assert reason(number, opterr) == text
