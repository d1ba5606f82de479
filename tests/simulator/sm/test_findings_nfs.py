"""docs/background/recordings.md, findings on nfs: one test for each, over the wire."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from filelab import GIB, LARGEST, MIB, OTHER_UUID, SR_UUID, FileLab, file_lab
from lab import refusal

from xenvol.simulator.sm.servers import NfsServer

SERVER = "10.0.0.5"
CONFIG = {"server": SERVER, "serverpath": "/export/a"}
SMALL = {"server": SERVER, "serverpath": "/export/small"}
NOT_MOUNTED = [
    "SR_BACKEND_FAILURE_73",
    "",
    f"NFS mount error [opterr=mount failed on server `{SERVER}` with return code 110]",
    "",
]
NOTHING_FOUND = '<?xml version="1.0" ?>\n<SRlist/>\n'
EXPORTS = """<?xml version="1.0" ?>
<nfs-exports>
\t<Export>
\t\t<Target>10.0.0.5</Target>
\t\t<Path>/export/a</Path>
\t\t<Accesslist>*</Accesslist>
\t</Export>
</nfs-exports>

"""
VERSIONS = """\t<SupportedVersions>
\t\t<Version>3</Version>
\t\t<Version>4</Version>
\t</SupportedVersions>
"""


@pytest.fixture
def lab() -> Iterator[FileLab]:
    with file_lab() as made:
        made.shares.add_nfs(SERVER).export("/export/a", size=100 * GIB)
        yield made


@pytest.fixture
def server(lab: FileLab) -> NfsServer:
    return lab.shares.nfs[0]


def both(lab: FileLab, config: dict[str, str]) -> list[str]:
    """Return the common error of probe, create and plug."""
    refusals = [refusal(lab.probe, "nfs", config), refusal(lab.create, "nfs", config)]
    _sr, pbd = lab.introduce("nfs", config)
    assert refusals[0] == refusals[1] == refusal(lab.x.PBD.plug, pbd)
    return refusals[0]


def test_without_a_server_it_is_102(lab: FileLab) -> None:
    """Trace 22#5."""
    missing = "The request is missing the server parameter"
    assert both(lab, {"serverpath": "/export/a"}) == ["SR_BACKEND_FAILURE_102", "", missing, ""]


def test_without_a_serverpath_it_is_101_and_probe_and_create_list_the_exports(lab: FileLab) -> None:
    """Traces 22#6, 22#19; the plug does not ask the server (sm/NFSSR.py, attach)."""
    missing = ["SR_BACKEND_FAILURE_101", "", "The request is missing the serverpath parameter"]
    assert refusal(lab.probe, "nfs", {"server": SERVER}) == [*missing, EXPORTS]
    assert refusal(lab.create, "nfs", {"server": SERVER}) == [*missing, EXPORTS]
    _sr, pbd = lab.introduce("nfs", {"server": SERVER})
    assert refusal(lab.x.PBD.plug, pbd) == [*missing, ""]


@pytest.mark.parametrize(
    "change",
    [{"serverpath": "/nope"}, {"serverpath": "/export/a/nodir"}, {"options": "badopt"}],
    ids=["not exported", "no such directory", "bad option"],
)
def test_whatever_is_wrong_with_a_mount_is_73_with_return_code_110(
    lab: FileLab, change: dict[str, str]
) -> None:
    """Traces 22#8, 22#9, 22#16, 22#17."""
    assert both(lab, CONFIG | change) == NOT_MOUNTED


def test_an_export_for_others_is_a_mount_that_fails(lab: FileLab, server: NfsServer) -> None:
    """As trace 22#8: mount.nfs says no more."""
    server.exports["/export/a"].access = ["10.9.0.0/16", "host2"]
    assert both(lab, CONFIG) == NOT_MOUNTED
    lab.mounts.addresses.append("10.9.1.2")
    assert lab.probe("nfs", CONFIG) == NOTHING_FOUND


def test_a_server_whose_port_refuses_is_108(lab: FileLab, server: NfsServer) -> None:
    """Traces 22#10, 22#18."""
    no_service = ["SR_BACKEND_FAILURE_108", "", "Unable to detect an NFS service on this target.", ""]
    assert both(lab, CONFIG | {"server": "10.0.0.9"}) == no_service
    server.is_listening = False
    assert refusal(lab.probe, "nfs", CONFIG) == no_service


def test_a_server_whose_name_does_not_resolve_is_140(lab: FileLab) -> None:
    """Trace 22#11."""
    unknown = ["SR_BACKEND_FAILURE_140", "", "Incorrect DNS name, unable to resolve.", ""]
    assert both(lab, CONFIG | {"server": "no.such.host.invalid"}) == unknown


def test_a_server_that_answers_on_its_port_and_not_to_rpcinfo_is_72(lab: FileLab) -> None:
    """Trace 22#12."""
    lab.shares.add_nfs("10.0.0.6").has_rpcbind = False
    why = "Failed to read supported NFS version from server 10.0.0.6"
    unsupported = f"Required NFS server version unsupported [opterr={why}]"
    assert both(lab, CONFIG | {"server": "10.0.0.6"}) == ["SR_BACKEND_FAILURE_72", "", unsupported, ""]


def test_a_server_of_version_4_only_needs_no_rpcinfo_and_the_version_to_be_asked_for(
    lab: FileLab, server: NfsServer
) -> None:
    """sm/nfs.py, get_supported_nfs_versions: a version that does not register is tried."""
    server.has_rpcbind, server.versions = False, ["4"]
    why = "Required NFS server version unsupported [opterr=Unsupported NFS version: 3]"
    assert refusal(lab.probe, "nfs", CONFIG) == ["SR_BACKEND_FAILURE_72", "", why, ""]
    assert lab.probe("nfs", CONFIG | {"nfsversion": "4.1"}) == NOTHING_FOUND


def test_a_version_that_is_none_crashes_the_driver_with_1200(lab: FileLab) -> None:
    """Traces 22#14, 22#21."""
    crash = ["SR_BACKEND_FAILURE_1200", "", "Invalid nfsversion.", ""]
    assert both(lab, CONFIG | {"nfsversion": "9"}) == crash


def test_a_read_only_export_is_461_and_no_sr_is_left(lab: FileLab, server: NfsServer) -> None:
    """Traces 22#20, 22#22."""
    server.export("/export/ro", size=GIB, is_read_only=True)
    why = "The file system for SR cannot be written to."
    opterr = "[opterr=remote filesystem is read-only error is 30]"
    config = CONFIG | {"serverpath": "/export/ro"}
    assert refusal(lab.create, "nfs", config) == ["SR_BACKEND_FAILURE_461", "", f"{why} {opterr}", ""]
    assert lab.x.SR.get_all() == []


def test_probe_lists_the_directories_that_are_named_like_an_sr(lab: FileLab, server: NfsServer) -> None:
    """Traces 22#7, 22#29."""
    assert lab.probe("nfs", CONFIG) == NOTHING_FOUND
    sr_uuid = lab.x.SR.get_uuid(lab.create("nfs", CONFIG))
    server.exports["/export/a"].filesystem.root.make_directory("not-an-sr")
    found = f"<SRlist>\n\t<SR>\n\t\t<UUID>{sr_uuid}</UUID>\n\t</SR>\n</SRlist>\n"
    assert lab.probe("nfs", CONFIG) == f'<?xml version="1.0" ?>\n{found}'


def test_probe_with_the_key_probeversion_tells_the_versions_of_the_server_too(lab: FileLab) -> None:
    """Traces 22#13, 22#30: beside the SRs that it finds."""
    found = f'<?xml version="1.0" ?>\n<SRlist>\n{VERSIONS}</SRlist>\n'
    assert lab.probe("nfs", CONFIG | {"probeversion": ""}) == found
    sr_uuid = lab.x.SR.get_uuid(lab.create("nfs", CONFIG))
    srs = f"\t<SR>\n\t\t<UUID>{sr_uuid}</UUID>\n\t</SR>\n"
    assert lab.probe("nfs", CONFIG | {"probeversion": ""}) == found.replace(VERSIONS, srs + VERSIONS)


def test_the_disks_lie_in_a_directory_named_after_the_sr_and_another_uuid_cannot_be_plugged(
    lab: FileLab, server: NfsServer
) -> None:
    """Traces 22#28, 22#121-123."""
    sr = lab.create("nfs", CONFIG)
    assert list(server.exports["/export/a"].filesystem.root) == [lab.x.SR.get_uuid(sr)]
    _other, pbd = lab.introduce("nfs", CONFIG, uuid=OTHER_UUID)
    assert refusal(lab.x.PBD.plug, pbd) == NOT_MOUNTED


def test_with_nosubdir_the_disks_lie_in_the_export_itself_and_any_uuid_will_do(
    lab: FileLab, server: NfsServer
) -> None:
    """Traces 22#153-164."""
    sr = lab.create("nfs", CONFIG, nosubdir="true")
    vdi = lab.x.VDI.get_uuid(lab.vdi(sr))
    assert f"{vdi}.vhd" in server.exports["/export/a"].filesystem.root
    assert lab.probe("nfs", CONFIG) == NOTHING_FOUND
    lab.x.PBD.unplug(lab.pbd(sr))
    lab.x.SR.forget(sr)
    again, _ = lab.plug("nfs", CONFIG, uuid=SR_UUID, nosubdir="true")
    assert list(lab.rows(again)) == [vdi]


def test_on_a_full_disk_a_large_vhd_is_78_while_small_and_raw_ones_still_succeed(
    lab: FileLab, server: NfsServer
) -> None:
    """Traces 22#167-180: the tables of a VHD of 2040 GiB take 4 MiB, those of a small one a block."""
    server.export("/export/small", size=14 * MIB, block=1024)
    sr = lab.create("nfs", SMALL)
    for _ in range(3):
        lab.vdi(sr, LARGEST)
    full = ["SR_BACKEND_FAILURE_78", "", "VDI Creation failed [opterr=error 28]", ""]
    assert refusal(lab.vdi, sr, LARGEST) == full
    lab.vdi(sr, MIB)
    lab.vdi(sr, MIB, sm_config={"type": "raw"})
    lab.x.SR.scan(sr)
    assert len(lab.x.SR.get_VDIs(sr)) == 5


def test_the_sr_is_as_large_and_as_full_as_the_export(lab: FileLab, server: NfsServer) -> None:
    """Traces 22#25, 22#174."""
    server.export("/export/small", size=14410752, used=2048, block=1024)
    sr = lab.create("nfs", SMALL)
    assert (lab.x.SR.get_physical_size(sr), lab.x.SR.get_physical_utilisation(sr)) == ("14410752", "4096")
    server.exports["/export/small"].filesystem.fill()
    lab.x.SR.update(sr)
    assert lab.x.SR.get_physical_utilisation(sr) == "14410752"


def test_an_sr_without_disks_can_be_destroyed_and_takes_its_directory_along(
    lab: FileLab, server: NfsServer
) -> None:
    """sm/NFSSR.py, delete; with another client's directory in it, it cannot be removed."""
    sr = lab.create("nfs", CONFIG)
    lab.x.PBD.unplug(lab.pbd(sr))
    lab.x.SR.destroy(sr)
    assert len(server.exports["/export/a"].filesystem.root) == 0
    assert lab.x.SR.get_all() == []
