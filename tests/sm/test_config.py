"""A backend's parameters: sorted by where they go, refused where they are wrong, written as text and read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvol.secret import Secret
from xenvol.sm import config
from xenvol.sm.errors import InvalidConfig
from xenvol.storage import srtypes

UUID = "0BADCAFE-0000-4000-8000-000000000001"
CANARY = "canary-5ecret-p4ssword"


def refusal(sr_type: str, parameters: dict[str, str | Secret]) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as caught:
        config.parse(sr_type, parameters)
    assert CANARY not in str(caught.value)
    return caught.value


class TestSorting:
    def test_what_is_the_sr_s_own_does_not_reach_the_driver(self) -> None:
        wanted = config.parse(
            "nfs",
            {
                "server": "a",
                "serverpath": "/v",
                "nosubdir": "true",
                "sr_uuid": UUID,
                "name_label": "toy box",
                "name_description": "for toys",
                "host": "host1",
            },
        )
        assert wanted.device_config == {"server": "a", "serverpath": "/v"}
        assert wanted.sm_config == {"nosubdir": "true"}
        assert (wanted.name_label, wanted.name_description) == ("toy box", "for toys")
        assert (wanted.sr_uuid, wanted.host) == (UUID.lower(), "host1")

    def test_an_empty_value_is_kept_for_the_driver_and_is_none_for_the_sr(self) -> None:
        wanted = config.parse("nfs", {"server": "a", "options": "", "name_label": "", "sr_uuid": ""})
        assert wanted.device_config == {"server": "a", "options": ""}
        assert (wanted.name_label, wanted.sr_uuid) == (None, None)

    def test_the_caller_s_mapping_is_not_kept(self) -> None:
        given: dict[str, str | Secret] = {"server": "a"}
        wanted = config.parse("nfs", given)
        given["server"] = "b"
        assert wanted.device_config == {"server": "a"}

    def test_storage_that_does_not_know_its_sr_s_uuid_is_told_from_storage_that_does(self) -> None:
        assert config.parse("nfs", {}).has_uuid
        assert not config.parse("nfs", {"nosubdir": "true"}).has_uuid
        assert not config.parse("file", {}).has_uuid


class TestWhatAnOperatorHasTyped:
    @pytest.mark.parametrize(
        ("sr_type", "key", "meant"),
        [
            ("nfs", "nfsverion", "nfsversion"),
            ("smb", "usrname", "username"),
            ("lvmoiscsi", "SCSIID", "SCSIid"),
            ("lvhdoiscsi", "chapusr", "chapuser"),
            ("iscsi", "prot", "port"),
            ("lvm", "alocation", "allocation"),
            ("nfs", "namelabel", "name_label"),
            ("linstor", "redundency", "redundancy"),
        ],
    )
    def test_is_a_key_that_the_driver_does_not_read(self, sr_type: str, key: str, meant: str) -> None:
        kind = srtypes.sr_type_of(sr_type)
        with pytest.raises(InvalidConfig, match=f"is not read.*did you mean {meant!r}") as caught:
            config.check_given(kind, {key: "1"}, [])
        assert caught.value.key == key

    def test_is_a_key_like_nothing(self) -> None:
        with pytest.raises(InvalidConfig, match="it reads nfsversion, options,") as caught:
            config.check_given(srtypes.sr_type_of("nfs"), {"zzzz": "1"}, [])
        assert "did you mean" not in str(caught.value)

    @pytest.mark.parametrize(
        "kind", [kind for kind in srtypes.known_types() if srtypes.sr_type_of(kind).optional]
    )
    def test_is_a_key_that_the_driver_reads(self, kind: str) -> None:
        """Those of the pool's driver too, which may be of a later release."""
        row = srtypes.sr_type_of(kind)
        own = ("sr_uuid", "name_label", "name_description", "host", "nosubdir")
        keys = [*row.required, *(row.optional or ()), *own, "of-a-later-release"]
        config.check_given(row, dict.fromkeys(keys, "1"), ["of-a-later-release"])

    def test_is_the_uuid_of_a_secret(self) -> None:
        config.check_given(srtypes.sr_type_of("smb"), {"password_secret": UUID}, [])
        for key, value in (("passwd_secret", UUID), ("username_secret", UUID)):
            with pytest.raises(InvalidConfig):
                config.check_given(srtypes.sr_type_of("smb"), {key: value}, [])

    def test_is_any_key_of_a_vendors_type(self) -> None:
        config.check_given(srtypes.sr_type_of("vendors-own"), {"anything": "1"}, [])

    @pytest.mark.parametrize("value", [" 10.0.0.2", "10.0.0.2 ", "10.0.0.2\u00a0"])
    def test_is_a_value_with_a_space_around_it(self, value: str) -> None:
        with pytest.raises(InvalidConfig, match="'server' has a space"):
            config.check_given(srtypes.sr_type_of("nfs"), {"server": value}, [])

    def test_is_a_password_with_a_space_around_it(self) -> None:
        """It may be right."""
        config.check_given(srtypes.sr_type_of("smb"), {"password": Secret(" x ")}, [])


class TestRefusals:
    @pytest.mark.parametrize("sr_type", ["iso", "udev", "shm", "ISO"])
    def test_a_type_that_holds_no_disks_is_refused_with_the_reason(self, sr_type: str) -> None:
        assert "not volumes" in str(refusal(sr_type, {"location": "/x"}))

    @pytest.mark.parametrize("key", ["", "a b", "a=b", "a\t"])
    def test_a_key_is_one_word(self, key: str) -> None:
        assert refusal("nfs", {key: "x"}).key == key

    def test_a_uuid_has_the_form_of_one(self) -> None:
        assert refusal("nfs", {"sr_uuid": "5"}).key == "sr_uuid"

    @pytest.mark.parametrize(
        "key", ["password", "chappassword", "cifspassword", "secret", "api_key", "keyring"]
    )
    def test_a_secret_does_not_come_as_plain_text(self, key: str) -> None:
        assert refusal("smb", {"server": "//a/b", key: CANARY}).key == key

    def test_a_reference_to_a_secret_of_xapi_is_no_secret(self) -> None:
        wanted = config.parse("smb", {"server": "//a/b", "password_secret": UUID})
        assert wanted.device_config["password_secret"] == UUID

    def test_what_only_looks_like_a_reference_is_refused(self) -> None:
        assert refusal("smb", {"password_secret": CANARY}).key == "password_secret"

    @pytest.mark.parametrize("key", ["secret", "apikey", "options", "passwords"])
    def test_a_secret_comes_by_a_key_that_xapi_keeps_as_one(self, key: str) -> None:
        """xapi moves only ``*password`` into a secret; any other key can be read in the PBD."""
        assert "password" in str(refusal("cephfs", {key: Secret(CANARY)}))

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("options", f"name=admin,secret={CANARY}"),
            ("options", f"username=u,password={CANARY}"),
            ("server", f"smb://user:{CANARY}@filer/vols"),
        ],
    )
    def test_a_secret_within_a_value_is_refused(self, key: str, value: str) -> None:
        assert refusal("cephfs", {key: value}).key == key

    def test_a_file_that_holds_a_secret_may_be_named(self) -> None:
        options = "name=admin,secretfile=/etc/ceph/admin.secret"
        assert config.parse("cephfs", {"options": options}).device_config["options"] == options

    def test_a_name_for_people_may_speak_of_passwords(self) -> None:
        assert config.parse("nfs", {"name_label": "password: ask Joe"}).name_label == "password: ask Joe"

    @pytest.mark.parametrize("value", ["a\nb", "a\0", "\x7f"])
    def test_a_value_is_one_line(self, value: str) -> None:
        assert refusal("nfs", {"server": value}).key == "server"

    def test_a_required_key_is_named_with_all_that_are_needed(self) -> None:
        with pytest.raises(InvalidConfig, match=r"'serverpath' is missing; needed: server=…, serverpath=…"):
            config.parse("nfs", {"server": "a"}).check_complete()

    def test_a_required_key_may_be_left_to_the_storage_to_list(self) -> None:
        config.parse("nfs", {"server": "a"}).check_complete(but=["serverpath"])

    def test_a_required_password_is_there_once_it_is_a_reference(self) -> None:
        login = {"target": "a", "username": "u", "aggregate": "p"}
        with pytest.raises(InvalidConfig):
            config.parse("netapp", login).check_complete()
        config.parse("netapp", {**login, "password": Secret("x")}).check_complete()
        config.parse("netapp", {**login, "password_secret": UUID}).check_complete()


_values = st.text(st.characters(exclude_categories=["Cs", "Cc"]))
_keys = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="="), min_size=1)


class TestText:
    @given(st.dictionaries(_keys, _values))
    def test_what_is_written_is_read_back(self, params: dict[str, str]) -> None:
        assert config.from_text(config.to_text(params)) == params

    def test_values_hold_equals_signs_and_spaces(self) -> None:
        assert config.from_words(["options=vers=4.1,sec=sys", "name_label=toy box"]) == {
            "options": "vers=4.1,sec=sys",
            "name_label": "toy box",
        }

    @pytest.mark.parametrize("words", [["server"], ["=x"], ["a=1", "a=2"]])
    def test_what_is_not_key_value_is_refused(self, words: list[str]) -> None:
        with pytest.raises(ValueError):
            config.from_words(words)
