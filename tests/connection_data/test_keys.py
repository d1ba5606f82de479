"""A table of keys reads the data, for built-in drivers and for those of a third party."""

from typing import Annotated, Literal

import pytest
from msgspec import Meta

from xenvol.connection_data.keys import CommonKeys, Uuid, accepted_keys, json_schema, read
from xenvol.errors import InvalidConnectionInfo

UUID = "d1500000-0000-4000-8000-000000000001"


class AcmeKeys(CommonKeys, frozen=True, kw_only=True):
    """A third party's table: two keys are required, a third is optional."""

    pool: Annotated[str, Meta(description="the pool of the array")]
    vdi_uuid: Annotated[Uuid, Meta(description="the disk")]
    port: Annotated[int, Meta(ge=1, description="a number, 1 or more")] = 8443


def test_a_key_without_a_default_is_needed() -> None:
    keys = read(AcmeKeys, {"pool": "gold", "vdi_uuid": UUID}, driver="acme")
    assert (keys.pool, keys.vdi_uuid, keys.port) == ("gold", UUID, 8443)


@pytest.mark.parametrize(
    ("data", "key"),
    [({}, "pool"), ({"pool": "gold"}, "vdi_uuid"), ({"pool": None, "vdi_uuid": UUID}, "pool")],
)
def test_without_it_the_error_names_it_and_its_form(data: dict[str, object], key: str) -> None:
    """Null is as good as absent."""
    with pytest.raises(InvalidConnectionInfo) as caught:
        read(AcmeKeys, data, driver="acme")
    assert (caught.value.key, caught.value.driver) == (key, "acme")
    assert caught.value.accepted == accepted_keys(AcmeKeys)[key]
    assert "is missing" in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("vdi_uuid", "disk-1"), ("port", 0), ("pool", {"a": "map"})])
def test_a_value_of_another_form_is_an_error_too(key: str, value: object) -> None:
    """The error has the description of the field."""
    with pytest.raises(InvalidConnectionInfo) as caught:
        read(AcmeKeys, {"pool": "gold", "vdi_uuid": UUID, key: value}, driver="acme")
    assert caught.value.key == key


def test_the_schema_says_which_keys_are_needed() -> None:
    """Also to a reader of the JSON Schema."""
    (definition,) = (
        item for name, item in json_schema(AcmeKeys)["$defs"].items() if name.endswith("AcmeKeys")
    )
    assert definition["required"] == ["pool", "vdi_uuid"]


class WordKeys(CommonKeys, frozen=True, kw_only=True):
    """A key that takes a word of a list, and one that takes any text."""

    format: Annotated[Literal["vhd", "RAW"] | None, Meta(description="vhd or RAW")] = None
    label: Annotated[str | None, Meta(description="any text")] = None


@pytest.mark.parametrize(("said", "read_as"), [("VHD", "vhd"), ("vhd", "vhd"), ("raw", "RAW"), (None, None)])
def test_a_word_of_a_list_is_read_in_any_case_of_letters(said: str | None, read_as: str | None) -> None:
    """And any other text stays as it is."""
    keys = read(WordKeys, {"format": said, "label": "VHD"}, driver="acme")
    assert (keys.format, keys.label) == (read_as, "VHD")


@pytest.mark.parametrize("text", ["VHD\r", "a\0b", ["a", "b\r"]])
def test_a_control_character_is_refused_where_a_disk_is_found_again_by_the_text(text: object) -> None:
    """xapi would receive a carriage return as a line feed."""
    with pytest.raises(InvalidConnectionInfo, match="control character") as caught:
        read(WordKeys, {"label": text}, driver="acme")
    assert caught.value.key == "label"
    assert (
        read(WordKeys, {"name_description": "two\r\nlines"}, driver="acme").name_description == "two\r\nlines"
    )
