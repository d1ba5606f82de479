"""A secret shows itself to nobody who did not ask by name."""

import copy
import dataclasses
import json
import logging
import pickle
import pprint
import traceback

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvol.secret import Secret, has_secret, is_secret_key, masked

CANARY = "canary-7f3a"


@pytest.fixture
def secret() -> Secret:
    return Secret(CANARY)


def test_a_secret_is_revealed_only_by_reveal(secret: Secret) -> None:
    """Every way of turning a value into text gives the mask."""
    assert secret.reveal() == CANARY
    texts = [repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", f"{secret:>12}"]
    texts.append("%s %r" % (secret, secret))  # noqa: UP031  # the way of logging
    texts += [repr({"password": secret}), pprint.pformat([secret]), "{0}".format(secret)]  # noqa: UP030, UP032  # another road
    assert not [text for text in texts if CANARY in text]


def test_a_secret_is_not_in_a_log(secret: Secret, caplog: pytest.LogCaptureFixture) -> None:
    """Neither as an argument nor within a structure."""
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").info("connecting %s %r", secret, {"auth_password": secret})
    assert caplog.text
    assert CANARY not in caplog.text


def test_a_secret_is_not_in_a_traceback_that_shows_locals(secret: Secret) -> None:
    """Services print the locals of a crash."""
    try:
        raise ValueError(secret)
    except ValueError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "secret" in shown
    assert CANARY not in shown


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_refuses_to_be_pickled(secret: Secret, protocol: int) -> None:
    """The message says what to do instead, and does not quote it."""
    with pytest.raises(TypeError) as caught:
        pickle.dumps({"password": secret}, protocol)
    assert "reveal" in str(caught.value)
    assert CANARY not in str(caught.value)


def test_a_secret_refuses_to_be_json(secret: Secret) -> None:
    """With the standard library as with msgspec."""
    for encode in (json.dumps, msgspec.json.encode):
        with pytest.raises(TypeError) as caught:
            encode({"password": secret})
        assert CANARY not in str(caught.value)
    assert CANARY not in json.dumps([secret], default=str)


def test_a_copy_of_a_secret_is_the_secret(secret: Secret) -> None:
    """So that it can be part of data that is copied deeply."""

    @dataclasses.dataclass(frozen=True)
    class Login:
        password: Secret

    assert copy.deepcopy({"a": [secret]}) == {"a": [secret]}
    assert dataclasses.asdict(Login(secret)) == {"password": secret}
    assert hash(Login(secret)) == hash(Login(Secret(CANARY)))
    assert copy.copy(secret) is secret


def test_a_secret_does_not_change(secret: Secret) -> None:
    """Neither its text nor anything new on it; there is no dictionary to look into either."""
    with pytest.raises(AttributeError):
        secret._text = "x"
    with pytest.raises(AttributeError):
        del secret._text
    with pytest.raises(TypeError):
        vars(secret)


@pytest.mark.parametrize("wrong", [b"bytes", 7, None, Secret("x")])
def test_a_secret_is_made_of_text(wrong: object) -> None:
    """The error names the type and not the value."""
    with pytest.raises(TypeError, match=type(wrong).__name__):
        Secret(wrong)  # type: ignore[arg-type]  # the wrong types are the test


@given(st.text(), st.text())
def test_secrets_are_equal_when_their_texts_are(one: str, other: str) -> None:
    """A text is not equal to a secret: whoever compares must have said reveal."""
    assert (Secret(one) == Secret(other)) == (one == other)
    assert Secret(one) == Secret(one)
    assert Secret(one) != one
    assert Secret("\ud800") == Secret("\ud800")


@pytest.mark.parametrize(
    "key",
    [
        *["auth_password", "discovery_auth_password", "incoming_chappassword", "chappassword_secret"],
        *["PASSWORD", "keyring", "secret", "client_secret", "secret-key", "apiKey"],
        *["accessKey", "auth_tokens", "passphrase", "passwords", "chap_pwd", "credentials"],
    ],
)  # fmt: skip  # a list
def test_a_key_that_holds_a_secret_is_known(key: str) -> None:
    """Whatever its case and separators."""
    assert is_secret_key(key)


@pytest.mark.parametrize(
    "key",
    [
        *["auth_username", "auth_method", "target_lun", "introduce_sr_keys", "secret_uuid", "secret_type"],
        *["bypass", "compass", "key", "volume_id", "password_age_days", ""],
    ],
)  # fmt: skip  # a list
def test_a_key_that_holds_none_is_left_alone(key: str) -> None:
    """Or a driver would not find its data."""
    assert not is_secret_key(key)


@pytest.mark.parametrize(
    "text",
    [
        f"-o username=me,password={CANARY},vers=3",
        f"{{'chappassword': '{CANARY}'}}",
        f"<member><name>chappassword</name><value><string>{CANARY}</string></value></member>",
        f'"auth_password" : "{CANARY}"',
        f"smb://me:{CANARY}@nas/share",
        f"secret={CANARY};x",
    ],
)
def test_a_secret_within_a_text_is_found_and_masked(text: str) -> None:
    """The rest of the text stays."""
    assert has_secret(text)
    assert CANARY not in masked(text)
    assert "***" in masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "ISCSI login failed - check access settings for the initiator on the storage, if CHAP is used verify"
        " CHAP credentials",
        "name=admin,secretfile=/etc/ceph/admin.secret",
        "10.0.0.1:/export",
        "iqn.2010-10.org.openstack:volume-1",
        "",
    ],
)
def test_a_text_without_a_secret_stays_as_it_is(text: str) -> None:
    """Masking everything would hide what went wrong."""
    assert not has_secret(text)
    assert masked(text) == text
