"""Every spelling of a portal gives one host and one port."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvol.connection_data.portal import Portal, parse_host, parse_portal


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.1:3260", "10.0.0.1", 3260),
        ("10.0.0.1", "10.0.0.1", 3260),
        ("10.0.0.1:860,1", "10.0.0.1", 860),
        ("10.0.0.1,1", "10.0.0.1", 3260),
        ("array.example:3261", "array.example", 3261),
        ("Array.Example", "array.example", 3260),
        ("array_1", "array_1", 3260),
        ("[::1]:3260", "::1", 3260),
        ("[::1]", "::1", 3260),
        ("[FD00:0::1]:3261,12", "fd00::1", 3261),
        ("fd00::1", "fd00::1", 3260),
        ("fd00::1,1", "fd00::1", 3260),
        ("fd00::1:3260", "fd00::1:3260", 3260),  # all of it is the address: its last group is no port
        ("[fe80::1%eth0]:3260", "fe80::1%eth0", 3260),
    ],
)
def test_a_portal_is_read_in_any_spelling(text: str, host: str, port: int) -> None:
    """With and without port, brackets and target portal group tag."""
    assert parse_portal(text) == Portal(host, port)


@pytest.mark.parametrize(
    "text",
    [
        *["", ":3260", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:x", "10.0.0.1:+1", "10.0.0.1:٣"],
        *["10.0.0.256:3260", "10.0.1", "[10.0.0.1]:3260", "[::1", "::1]:3260", "[]:3260", "[::g]", "1:2:3", "a b"],
        *["10.0.0.1:3260,", "10.0.0.1:3260,x", "10.0.0.1:3260 10.0.0.2:3260", "-a", "iscsi://a", "a\n", "[::1]\n"],
    ],
)  # fmt: skip  # by kind: ports, addresses, the rest
def test_what_is_no_portal_is_refused(text: str) -> None:
    """It does not become a name that cannot be resolved."""
    with pytest.raises(ValueError):
        parse_portal(text)


HOSTS = (
    st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6).map(str)
    | st.from_regex(r"[a-z][a-z0-9.-]{0,8}[a-z]", fullmatch=True)
)


@given(HOSTS, st.integers(1, 65535), st.sampled_from(["", ",1", ",65535"]))
def test_a_portal_and_its_text_are_inverse(host: str, port: int, tag: str) -> None:
    """For every address and port, tag or not."""
    portal = Portal(host, port)
    assert parse_portal(f"{portal}{tag}") == portal
    assert parse_portal(str(portal)).host == host


@given(st.ip_addresses(v=6), st.booleans(), st.booleans())
def test_one_address_has_one_spelling(
    address: ipaddress.IPv6Address, is_exploded: bool, is_upper: bool
) -> None:
    """Else one target would get two SRs."""
    text = address.exploded if is_exploded else address.compressed
    text = text.upper() if is_upper else text
    assert parse_host(text) == parse_host(f"[{text}]") == address.compressed


@given(st.text(alphabet="10.:[]afx,-%/ \n", max_size=20))
def test_any_text_is_a_portal_or_is_refused(text: str) -> None:
    """There is no third outcome, and the text of a portal can be parsed again."""
    try:
        portal = parse_portal(text)
    except ValueError:
        return
    assert 1 <= portal.port <= 65535
    assert parse_portal(str(portal)) == portal


@pytest.mark.parametrize("text", ["10.0.0.1:3260,-1", "10.0.0.1:3260,1", "[fd00::1]:3260,-1"])
def test_a_portal_group_that_open_iscsi_does_not_know_is_read(text: str) -> None:
    """iscsiadm prints -1 for it."""
    assert parse_portal(text).port == 3260


@pytest.mark.parametrize("text", ["10.0.0.1:3260,-2", "10.0.0.1:3260,--1", "10.0.0.1:3260,"])
def test_what_is_no_portal_group_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a portal"):
        parse_portal(text)
