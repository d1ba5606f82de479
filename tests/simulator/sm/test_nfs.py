"""An export used by two hosts, and cases of mounting that the recordings lack."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from filelab import GIB, MIB, FileLab, file_lab
from lab import refusal

CONFIG = {"server": "10.0.0.5", "serverpath": "/export/a"}


@pytest.fixture
def lab() -> Iterator[FileLab]:
    with file_lab(hosts=2) as made:
        made.shares.add_nfs("10.0.0.5", "fd00::5").export("/export/a", size=GIB)
        made.simulator.storage.san.names["nas"] = "10.0.0.5"
        yield made


def members(lab: FileLab) -> list[str]:
    return [name for name, host in lab.simulator.storage.hosts.items() if "sr-mount" in repr(host.mounts)]


def test_a_shared_sr_is_mounted_on_every_host_and_only_the_master_introduces_disks(lab: FileLab) -> None:
    sr = lab.create("nfs", CONFIG, shared=True)
    assert sorted(members(lab)) == ["host1", "host2"]
    vdi = lab.vdi(sr, MIB)
    master, member = sorted(lab.x.SR.get_PBDs(sr), key=lambda pbd: bool(lab.x.PBD.get_host(pbd) != lab.host))
    lab.x.PBD.unplug(member)
    assert members(lab) == ["host1"]
    lab.x.PBD.plug(member)
    assert lab.x.SR.get_VDIs(sr) == [vdi]
    for pbd in (member, master):
        lab.x.PBD.unplug(pbd)
    assert members(lab) == []


def test_an_export_that_admits_the_master_only_leaves_the_member_unplugged(lab: FileLab) -> None:
    """SR.create waits for the other plugs and ignores their outcome (docs/background/xapi.md 2.4)."""
    lab.shares.nfs[0].exports["/export/a"].access = ["host1"]
    sr = lab.create("nfs", CONFIG, shared=True)
    assert members(lab) == ["host1"]
    (member,) = (pbd for pbd in lab.x.SR.get_PBDs(sr) if lab.x.PBD.get_host(pbd) != lab.host)
    why = "NFS mount error [opterr=mount failed on server `10.0.0.5` with return code 110]"
    assert refusal(lab.x.PBD.plug, member) == ["SR_BACKEND_FAILURE_73", "", why, ""]


def test_a_server_answers_to_its_names_and_to_ipv6(lab: FileLab) -> None:
    found = [lab.probe("nfs", CONFIG | {"server": server}) for server in ("10.0.0.5", "nas", "fd00::5")]
    assert len(set(found)) == 1
    refused = refusal(lab.probe, "nfs", {"server": "fd00::5", "serverpath": "/nope"})
    assert refused[2].endswith("[opterr=mount failed on server `[fd00::5]` with return code 110]")


def test_a_mount_that_was_asked_for_read_only_takes_no_sr(lab: FileLab) -> None:
    refused = refusal(lab.create, "nfs", CONFIG | {"options": "ro,hard"})
    assert refused[0] == "SR_BACKEND_FAILURE_461"


def test_a_directory_with_something_in_it_is_no_new_sr(lab: FileLab) -> None:
    """Error 42. A new SR has a random uuid, so only SR.create with nosubdir can find such a directory."""
    sr = lab.create("nfs", CONFIG, nosubdir="true")
    lab.vdi(sr, MIB)
    lab.x.PBD.unplug(lab.pbd(sr))
    second = lab.create("nfs", CONFIG, nosubdir="true")
    assert lab.rows(second) == {}


def test_a_full_export_takes_an_sr_and_no_note_about_hard_links(lab: FileLab) -> None:
    sr = lab.create("nfs", CONFIG)
    pbd = lab.pbd(sr)
    lab.x.PBD.unplug(pbd)
    export = lab.shares.nfs[0].exports["/export/a"]
    directory = export.filesystem.root.directory(lab.x.SR.get_uuid(sr))
    assert directory is not None
    directory.remove("sm-hardlink.conf")
    export.filesystem.fill()
    lab.x.PBD.plug(pbd)
    assert list(directory) == []


def test_an_sr_with_a_strangers_directory_in_it_is_erased_but_not_removed(lab: FileLab) -> None:
    """Error 76 (sm/NFSSR.py, delete)."""
    sr = lab.create("nfs", CONFIG)
    lab.disks_of(sr).make_directory("stranger")
    lab.x.PBD.unplug(lab.pbd(sr))
    assert refusal(lab.x.SR.destroy, sr)[0] == "SR_BACKEND_FAILURE_76"
    assert [lab.x.SR.get_uuid(ref) for ref in lab.x.SR.get_all()] == [lab.x.SR.get_uuid(sr)]
