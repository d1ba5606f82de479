"""A file on a share is a disk if its name can be a VDI's; else the error says why."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvol.connection_data.gluster import GlusterConnectionData, GlusterVolume
from xenvol.connection_data.keys import accepted_keys, json_schema
from xenvol.connection_data.nfs import NFSConnectionData, NFSVolume
from xenvol.connection_data.share import (
    DiskFile,
    Location,
    disk_file,
    parse_export,
    parse_options,
    parse_path,
)
from xenvol.errors import InvalidConnectionInfo

SR = "5f1b2d7c-6c5a-4d0e-9a3b-0d6f5b8e7c01"
VDI = "0b8a3c5e-9d0f-4e0e-8a52-3f4f1c1d2e3f"
OTHER = "11111111-2222-3333-4444-555555555555"


def nfs(**data: Any) -> NFSVolume:
    return NFSVolume.parse({"export": "nas:/vol", "name": f"{VDI}.vhd", **data})


def gluster(**data: Any) -> GlusterVolume:
    return GlusterVolume.parse({"export": "gfs1:/gv0", "name": f"{SR}/{VDI}.vhd", **data})


def refusal_of(parse: Any, **data: Any) -> InvalidConnectionInfo:
    with pytest.raises(InvalidConnectionInfo) as caught:
        parse(**data)
    assert caught.value.accepted in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("text", "host", "path"),
    [
        ("nas:/vol", "nas", "/vol"),
        ("NAS.example:/vol/a/", "nas.example", "/vol/a"),
        ("10.0.0.1:/", "10.0.0.1", "/"),
        ("[fd00::1]:/vol", "fd00::1", "/vol"),
        ("fd00::1:/vol", "fd00::1", "/vol"),
        ("nas:/a//b/./c", "nas", "/a/b/c"),
        ("nas:/with space:/colon", "nas", "/with space:/colon"),
    ],
)
def test_an_export_is_read_in_any_spelling(text: str, host: str, path: str) -> None:
    """A name, IPv4, IPv6 in brackets or bare; the path in one spelling."""
    assert parse_export(text) == Location(host, path)


@pytest.mark.parametrize(
    "text", ["", "nas", "nas:", "nas:vol", ":/vol", "/vol", "[::g]:/vol", "n s:/v", "nas:/a/../b"]
)
def test_what_is_no_export_is_refused(text: str) -> None:
    """For both drivers, by the name of the key."""
    with pytest.raises(ValueError):
        parse_export(text)
    assert refusal_of(nfs, export=text).key == "export"
    assert refusal_of(gluster, export=text).key == "export"


@given(st.ip_addresses().map(str), st.lists(st.text("ab.~", min_size=1, max_size=4), max_size=3))
def test_an_export_and_its_text_are_inverse(host: str, parts: list[str]) -> None:
    """Whatever the address."""
    path = "/" + "/".join(part for part in parts if part not in (".", ".."))
    location = Location(host, parse_path(path))
    assert parse_export(str(location)) == location


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (None, ()),
        ("", ()),
        ("-o vers=4.1,soft", ("vers=4.1", "soft")),
        ("-overs=3", ("vers=3",)),
        ("a,b -o c", ("a", "b", "c")),
        ("no-op", ("no-op",)),
    ],
)
def test_mount_options_are_read_with_and_without_their_flag(
    text: str | None, options: tuple[str, ...]
) -> None:
    """cinder passes the options as its operator wrote them."""
    assert parse_options(text) == options


@pytest.mark.parametrize(
    ("name", "fmt", "read"),
    [
        (f"{VDI}.vhd", None, "vhd"),
        (f"{VDI}.raw", "raw", "raw"),
        (f"{VDI}.VHD", "vpc", "vhd"),
        (VDI, None, None),
        (VDI.upper(), "raw", "raw"),
        (f"{VDI}.qcow2", None, "qcow2"),
    ],
)
def test_a_file_named_by_a_uuid_is_a_vdi(name: str, fmt: str | None, read: str | None) -> None:
    """With or without its extension; in the export itself, so the SR may have any uuid."""
    keys = NFSConnectionData(name=name, format=fmt)
    assert disk_file(keys, driver="nfs") == DiskFile(VDI, None, read)
    volume = nfs(name=name, format=fmt)
    assert volume.vdi_uuid == VDI
    assert volume.sr_uuid is None
    assert volume.nosubdir is True
    assert volume.sm_config == {"nosubdir": "true"}
    assert volume.device_config == {"server": "nas", "serverpath": "/vol"}


@pytest.mark.parametrize("data", [{"name": f"{SR}/{VDI}.vhd"}, {"sr_uuid": SR.upper()}])
def test_a_file_in_an_srs_directory_is_in_that_sr(data: dict[str, str]) -> None:
    """The directory is part of the name, or is in sr_uuid."""
    volume = nfs(**data)
    assert volume.sr_uuid == SR
    assert volume.nosubdir is False
    assert volume.sm_config == {}


@pytest.mark.parametrize(
    "name", [f"volume-{VDI}", "volume-1.vhd", f"{VDI}.img", f"{VDI}.vhd.bak", f"a/{VDI}.vhd", ""]
)
@pytest.mark.parametrize("parse", [nfs, gluster])
def test_a_file_of_another_name_is_refused_with_the_reason(parse: Any, name: str) -> None:
    """The storage manager knows a disk by its uuid only, and a *.vhd with another name stops its scans."""
    refusal = refusal_of(parse, name=name)
    assert refusal.key == "name"
    assert repr(name) in str(refusal)
    assert "named by a uuid" in str(refusal)
    assert "rename the file, or give sr_uuid and vdi_uuid" in str(refusal)


def test_a_volume_may_be_told_by_its_uuids() -> None:
    """As cinder's XenAPI driver sent them. The name then does not matter."""
    volume = NFSVolume.parse({"server": "nas", "serverpath": "/vol/", "sr_uuid": SR, "vdi_uuid": VDI.upper()})
    assert (volume.server, volume.serverpath) == ("nas", "/vol")
    assert (volume.sr_uuid, volume.vdi_uuid) == (SR, VDI)
    assert nfs(name=f"volume-{VDI}", vdi_uuid=OTHER, sr_uuid=SR).vdi_uuid == OTHER


def test_the_servers_address_has_no_brackets() -> None:
    """The storage manager adds the brackets."""
    assert nfs(export="[FD00::1]:/vol").device_config["server"] == "fd00::1"
    assert nfs(export=None, server="[fd00::1]", serverpath="/vol").server == "fd00::1"
    assert nfs(server="NAS", serverpath="/vol/").server == "nas"


@pytest.mark.parametrize(
    ("data", "version", "options"),
    [
        ({}, None, None),
        ({"options": "-o vers=4.1,soft"}, "4.1", "soft"),
        ({"options": "nfsvers=3"}, "3", None),
        ({"options": "noatime"}, None, "noatime"),
        ({"nfsversion": 4, "options": "vers=3,soft"}, "4", "soft"),
        ({"nfsversion": 4.1}, "4.1", None),
        ({"nfsversion": "3"}, "3", None),
    ],
)
def test_the_version_and_the_options_go_their_own_ways(
    data: dict[str, Any], version: str | None, options: str | None
) -> None:
    """The storage manager has a key for each, and adds the version to the options by itself."""
    config = nfs(**data).device_config
    assert config.get("nfsversion") == version
    assert config.get("options") == options


@pytest.mark.parametrize(
    ("data", "key", "words"),
    [
        ({"export": None}, "export", "is missing"),
        ({"export": None, "server": "nas"}, "serverpath", "is missing"),
        ({"export": None, "serverpath": "/vol"}, "server", "is missing"),
        ({"server": "other"}, "server", "export says nas"),
        ({"serverpath": "/other"}, "serverpath", "export says /vol"),
        ({"serverpath": "vol"}, "serverpath", "absolute"),
        ({"server": "a b"}, "server", "not a host"),
        ({"name": None}, "name", "is missing"),
        ({"format": "vmdk"}, "format", "qcow2"),
        ({"format": "raw"}, "format", "name says vhd"),
        ({"vdi_uuid": OTHER}, "vdi_uuid", f"name says {VDI}"),
        ({"name": f"{SR}/{VDI}", "sr_uuid": OTHER}, "sr_uuid", f"name says {SR}"),
        ({"sr_uuid": "x"}, "sr_uuid", "uuid"),
        ({"nosubdir": False}, "sr_uuid", "nosubdir is false"),
        ({"nfsversion": "5"}, "nfsversion", "4.1"),
        ({"options": "vers=2"}, "nfsversion", "'2'"),
        ({"options": "password=canary"}, "options", "mount options"),
    ],
)
def test_what_is_missing_or_contradicts_itself_is_named(data: dict[str, Any], key: str, words: str) -> None:
    """The key, the driver, and what would be accepted."""
    refusal = refusal_of(nfs, **data)
    assert refusal.key == key
    assert refusal.driver == "nfs"
    assert words in str(refusal)
    assert "canary" not in str(refusal)


def test_a_gluster_volume_is_read() -> None:
    """The storage driver mounts host:/volume and looks in the SR's directory."""
    volume = gluster(options="-o backup-volfile-servers=gfs2:gfs3,fetch-attempts=3")
    assert (volume.sr_uuid, volume.vdi_uuid) == (SR, VDI)
    assert volume.device_config == {"server": "gfs1:/gv0", "backupservers": "gfs2:gfs3", "fetchattempts": "3"}
    assert gluster().device_config == {"server": "gfs1:/gv0"}
    assert gluster(export="[fd00::1]:/gv0/").server == "[fd00::1]:/gv0"


def test_the_gluster_servers_key_and_lists_are_understood_too() -> None:
    """SR.create of such an SR takes them."""
    volume = gluster(export=None, server="GFS1:/gv0", backupservers=["gfs2", "gfs3"], fetchattempts="2")
    assert volume.device_config == {"server": "gfs1:/gv0", "backupservers": "gfs2:gfs3", "fetchattempts": "2"}
    assert gluster(backupservers="gfs2:gfs3").backupservers == ("gfs2", "gfs3")


def test_a_key_of_gluster_counts_more_than_the_mount_option_of_the_same_meaning() -> None:
    """The key is the more specific of the two."""
    options = "backup-volfile-servers=gfs8:gfs9,fetch-attempts=9"
    volume = gluster(options=options, backupservers="gfs2", fetchattempts=2)
    assert volume.device_config == {"server": "gfs1:/gv0", "backupservers": "gfs2", "fetchattempts": "2"}


@pytest.mark.parametrize(
    ("data", "key", "words"),
    [
        ({"export": None}, "export", "is missing"),
        ({"server": "gfs9:/gv0"}, "server", "export says gfs1:/gv0"),
        ({"server": "gfs1"}, "server", "not an export"),
        ({"name": f"{VDI}.vhd"}, "sr_uuid", "directory of its uuid"),
        ({"options": "log-level=DEBUG"}, "options", "'log-level=DEBUG'"),
        ({"backupservers": "a b"}, "backupservers", "not a host"),
        ({"fetchattempts": 0}, "fetchattempts", "1 or more"),
    ],
)
def test_what_gluster_cannot_do_is_named(data: dict[str, Any], key: str, words: str) -> None:
    """It is not mounted without the option."""
    refusal = refusal_of(gluster, **data)
    assert refusal.key == key
    assert refusal.driver == "gluster"
    assert words in str(refusal)


@pytest.mark.parametrize("table", [NFSConnectionData, GlusterConnectionData])
def test_every_key_says_which_form_it_takes(table: type) -> None:
    """In words and as JSON Schema."""
    assert all(accepted_keys(table).values())
    assert set(json_schema(table)["$defs"][table.__name__]["properties"]) == set(accepted_keys(table))
