"""The data names any SR by its uuid and by the keys that introduce it, as nova-volume and cinder sent it."""

import datetime
from typing import Any

import pytest

from xenvol.connection_data.keys import accepted_keys, json_schema
from xenvol.connection_data.xensm import XenSMConnectionData, XenSMVolume
from xenvol.errors import InvalidConnectionInfo
from xenvol.secret import Secret

SR = "5f1b2d7c-6c5a-4d0e-9a3b-0d6f5b8e7c01"
VDI = "0b8a3c5e-9d0f-4e0e-8a52-3f4f1c1d2e3f"


def test_what_nova_volume_sent_is_read() -> None:
    """With the columns of its database row, which are ignored."""
    volume = XenSMVolume.parse(
        {
            "backend_id": 1,
            "flavor_id": 2,
            "vdi_uuid": VDI.upper(),
            "created_at": datetime.datetime(2012, 7, 1, tzinfo=datetime.UTC),
            "deleted": False,
            "volume_id": 11,
            "sr_uuid": SR,
            "sr_type": "NFS",
            "name_label": "toybox",
            "server": "nas",
            "serverpath": "/local/scratch",
            "introduce_sr_keys": ["server", "serverpath", "sr_type"],
        }
    )
    assert volume.sr_uuid == SR
    assert volume.vdi_uuid == VDI
    assert volume.sr_type == "nfs"
    assert volume.device_config == {"server": "nas", "serverpath": "/local/scratch"}
    assert volume.sm_config == {}
    assert volume.volume_id == "11"
    assert volume.name_label == "toybox"


def test_what_cinders_xenapinfs_sent_is_read() -> None:
    """Without a volume_id."""
    keys = ["sr_type", "server", "serverpath"]
    volume = XenSMVolume.parse(
        {
            "sr_uuid": SR,
            "vdi_uuid": VDI,
            "sr_type": "nfs",
            "server": "nas",
            "serverpath": "/vol",
            "name_label": "n",
            "name_description": "d",
            "introduce_sr_keys": keys,
        }
    )
    assert volume.device_config == {"server": "nas", "serverpath": "/vol"}
    assert volume.name_description == "d"
    assert volume.volume_id is None


def test_an_sr_that_is_there_needs_only_its_uuid() -> None:
    """And LUN 0 is a LUN."""
    volume = XenSMVolume.parse({"sr_uuid": SR, "target_lun": "0"})
    assert volume.sr_type is None
    assert volume.target_lun == 0
    assert volume.vdi_uuid is None
    assert volume.device_config == {}


def test_device_config_is_text_and_secrets_stay_secret() -> None:
    """Every value of XenAPI's map is a string; a password must go another way."""
    told = {"port": 3260, "multihomed": True, "chappassword": "canary", "empty": "", "nosubdir": True}
    volume = XenSMVolume.parse(
        {"sr_uuid": SR, "sr_type": "iscsi", "introduce_sr_keys": [*told, "sr_type"], **told}
    )
    expected = {"port": "3260", "multihomed": "true", "chappassword": Secret("canary"), "empty": ""}
    assert volume.device_config == expected
    assert volume.sm_config == {"nosubdir": "true"}
    assert "canary" not in repr(volume)


def test_a_listed_key_may_have_the_name_of_one_that_we_read() -> None:
    """It then belongs to the SR, and is not checked as a key of the driver."""
    volume = XenSMVolume.parse({"sr_uuid": SR, "introduce_sr_keys": ["size"], "size": "10G"})
    assert volume.device_config == {"size": "10G"}


@pytest.mark.parametrize(
    ("data", "key", "words"),
    [
        ({}, "sr_uuid", "is missing"),
        ({"sr_uuid": ""}, "sr_uuid", "is missing"),
        ({"sr_uuid": SR, "vdi_uuid": "x"}, "vdi_uuid", "VDI"),
        ({"sr_uuid": SR, "target_lun": "x"}, "target_lun", "LUN"),
        ({"sr_uuid": SR, "introduce_sr_keys": "server"}, "introduce_sr_keys", "not a list"),
        ({"sr_uuid": SR, "introduce_sr_keys": [1]}, "introduce_sr_keys", "not a list"),
        ({"sr_uuid": SR, "introduce_sr_keys": ["server"]}, "introduce_sr_keys", "'server', which is missing"),
        ({"sr_uuid": SR, "introduce_sr_keys": ["a"], "a": ["b"]}, "introduce_sr_keys", "a tuple"),
    ],
)
def test_what_is_missing_or_wrong_is_named(data: dict[str, Any], key: str, words: str) -> None:
    """The key, the driver, and what would be accepted."""
    with pytest.raises(InvalidConnectionInfo) as caught:
        XenSMVolume.parse(data)
    assert caught.value.key == key
    assert caught.value.driver == "xensm"
    assert words in str(caught.value)


def test_every_key_says_which_form_it_takes() -> None:
    """In words and as JSON Schema."""
    assert all(accepted_keys(XenSMConnectionData).values())
    assert json_schema(XenSMConnectionData)["$defs"]["XenSMConnectionData"]["properties"]["sr_uuid"]


def test_an_sr_uuid_in_capitals_is_the_same_sr() -> None:
    """xapi compares uuids letter by letter, and writes them in small ones."""
    assert XenSMVolume.parse({"sr_uuid": SR.upper(), "target_lun": "0"}).sr_uuid == SR
