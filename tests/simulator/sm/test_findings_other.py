"""docs/background/recordings.md, findings on hba, udev, iso and smb, over the wire; also gluster and CephFS.

"Not recorded" marks what was read in the drivers (XCP-ng's for gluster and CephFS, which XenServer does not have).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from filelab import GIB, MIB, SR_UUID, FileLab, file_lab
from lab import refusal

NOTHING_FOUND = '<?xml version="1.0" ?>\n<SRlist/>\n'
NO_PROBE = (
    "Storage_error ([S(Internal_error);S(Server_error(SR_BACKEND_FAILURE, "
    "[ Operation 'sr_probe' not supported by this SR type; ;  ]))])"
)
LOCAL = {"location": "/srv/isos", "legacy_mode": "true"}
GLUSTER = {"server": "gl1:/gv0"}
CEPH = {"server": "mon1,mon2", "serverpath": "/", "options": "name=admin,secretfile=/etc/ceph/admin.secret"}
SMB = {"server": r"\\files\disks", "username": r"DOMAIN\user", "password": "pw"}


@pytest.fixture
def lab() -> Iterator[FileLab]:
    with file_lab() as made:
        made.mounts.make_directory("/srv/isos", size=GIB)
        made.shares.add_nfs("10.0.0.5").export("/isos", size=GIB)
        made.shares.add_gluster("gv0", "gl1", "gl2", size=GIB)
        made.shares.add_cephfs("mon1", "mon2", size=GIB)
        made.shares.add_smb("files", "disks", size=GIB, credentials=("user", "pw"))
        yield made


# ---- hba


def test_without_an_adapter_a_probe_of_hba_finds_nothing_create_is_19_and_a_plug_succeeds(
    lab: FileLab,
) -> None:
    """Traces 23#16, 23#33, 23#53."""
    assert lab.probe("hba", {}) == NOTHING_FOUND
    why = "No such device [opterr=No such HBA Device detected [any]]"
    assert refusal(lab.create, "hba", {}) == ["SR_BACKEND_FAILURE_19", "", why, ""]
    sr, _pbd = lab.plug("hba", {})
    assert lab.x.SR.get_VDIs(sr) == []


def test_lvmohba_without_a_scsi_id_is_107_with_a_list_of_devices(lab: FileLab) -> None:
    """Traces 23#18, 23#35."""
    missing = ["SR_BACKEND_FAILURE_107", "", "The SCSIid parameter is missing or incorrect"]
    devices = '<?xml version="1.0" ?>\n<Devlist/>\n\n'
    assert refusal(lab.probe, "lvmohba", {}) == [*missing, devices]
    assert refusal(lab.create, "lvmohba", {}) == [*missing, devices]


def test_lvmohba_with_a_scsi_id_that_no_adapter_shows(lab: FileLab) -> None:
    """Traces 23#19, 23#34, 23#59."""
    config = {"SCSIid": "3600a0"}
    assert lab.probe("lvmohba", config) == NOTHING_FOUND
    why = "No such device [opterr=Device /dev/disk/by-id/scsi-3600a0 does not exist]"
    assert refusal(lab.create, "lvmohba", config) == ["SR_BACKEND_FAILURE_19", "", why, ""]
    _sr, pbd = lab.introduce("lvmohba", config)
    group = f"The SR is not available [opterr=no such volume group: VG_XenStorage-{SR_UUID}]"
    assert refusal(lab.x.PBD.plug, pbd) == ["SR_BACKEND_FAILURE_47", "", group, ""]


@pytest.mark.parametrize("sr_type", ["shm", "nosuch"])
def test_a_type_without_a_driver_is_unknown(lab: FileLab, sr_type: str) -> None:
    """Traces 23#24, 23#27."""
    assert refusal(lab.probe, sr_type, {}) == ["SR_UNKNOWN_DRIVER", sr_type]


@pytest.mark.parametrize("sr_type", ["iso", "udev"])
def test_iso_and_udev_cannot_be_probed(lab: FileLab, sr_type: str) -> None:
    """Traces 23#20-23."""
    assert refusal(lab.probe, sr_type, {}) == ["INTERNAL_ERROR", NO_PROBE]


@pytest.mark.parametrize("sr_type", ["iso", "udev", "file"])
def test_without_a_location_it_is_94(lab: FileLab, sr_type: str) -> None:
    """Traces 23#31, 21#6."""
    missing = ["SR_BACKEND_FAILURE_94", "", "The request is missing the location parameter", ""]
    assert refusal(lab.create, sr_type, {}) == missing


# ---- udev


def test_udev_takes_any_location_and_is_empty_where_there_are_no_devices(lab: FileLab) -> None:
    """Traces 23#32, 23#64, 23#70."""
    for location in ("/dev/xapi/nope", "/srv"):
        sr = lab.create("udev", {"location": location})
        assert lab.x.SR.get_VDIs(sr) == []
        lab.x.PBD.unplug(lab.pbd(sr))


def test_udev_shows_the_devices_below_its_location_as_they_are_plugged_in_and_out(lab: FileLab) -> None:
    """Not recorded: drv/udevSR.py; destroying one is VDI_IS_A_PHYSICAL_DEVICE (docs/background/xapi.md 2.4)."""
    lab.mounts.devices["/dev/xapi/block/sdb"] = lab.shares.new_device(GIB)
    lab.mounts.devices["/dev/sdc"] = lab.shares.new_device(GIB)
    sr = lab.create("udev", {"location": "/dev/xapi/block"}, type="block")
    (vdi,) = lab.x.SR.get_VDIs(sr)
    assert lab.x.VDI.get_location(vdi) == "/dev/xapi/block/sdb"
    assert lab.sizes(vdi) == (GIB, GIB)
    assert refusal(lab.x.VDI.destroy, vdi)[0] in ("VDI_IS_A_PHYSICAL_DEVICE", "SR_OPERATION_NOT_SUPPORTED")
    del lab.mounts.devices["/dev/xapi/block/sdb"]
    lab.x.SR.scan(sr)
    assert lab.x.SR.get_VDIs(sr) == []


# ---- iso


@pytest.mark.parametrize(
    ("config", "code", "text"),
    [
        ({"location": "/no/such", "legacy_mode": "true"}, "226", "Invalid local path"),
        ({"location": "/srv"}, "228", 'Require "-o" along with xe-mount-iso-sr'),
        (
            {"location": "10.0.0.5:/nope", "type": "nfs_iso"},
            "222",
            "Could not mount the directory specified in Device Configuration "
            "[opterr=mount failed on server `10.0.0.5` with return code 110]",
        ),
        (
            {"location": "no-colon", "type": "nfs_iso"},
            "225",
            "Incorrect Location string format. String must be in the format SERVER:PATH for NFS targets, "
            r"or \\SERVER\PATH for CIFS targets",
        ),
        ({"location": "nobody:/x", "type": "nfs_iso"}, "140", "Incorrect DNS name, unable to resolve."),
    ],
    ids=["local", "no legacy_mode", "not exported", "no server", "unknown server"],
)
def test_an_iso_library_that_is_not_there_is_refused(
    lab: FileLab, config: dict[str, str], code: str, text: str
) -> None:
    """Traces 23#37, 23#38, 23#40, 23#86; the last two are not recorded (drv/ISOSR.py)."""
    refused = [f"SR_BACKEND_FAILURE_{code}", "", text, ""]
    assert refusal(lab.create, "iso", config) == refused
    _sr, pbd = lab.introduce("iso", config)
    assert refusal(lab.x.PBD.plug, pbd) == refused


@pytest.mark.parametrize("content_type", ["iso", "user"])
def test_an_iso_library_may_have_any_content_type(lab: FileLab, content_type: str) -> None:
    """Trace 23#39."""
    sr = lab.x.SR.create(lab.host, LOCAL, "0", "isos", "", "iso", content_type, False, {})
    assert lab.x.SR.get_content_type(sr) == content_type


@pytest.mark.parametrize("config", [LOCAL, {"location": "10.0.0.5:/isos", "type": "nfs_iso"}])
def test_images_appear_with_a_scan_and_not_with_the_plug(lab: FileLab, config: dict[str, str]) -> None:
    """docs/background/xapi.md 2.4, 5.5: named after their files, read-only, with the uuid in the name if it has one."""
    local = lab.mounts.directory("/srv/isos")
    assert local is not None
    named = "33333333-0000-4000-8000-000000000003.iso"
    for directory in (local, lab.shares.nfs[0].exports["/isos"].filesystem.root):
        for name in ("tools.ISO", named, "readme.txt", "disk.img"):
            directory.add_file(name, 700)
    sr, _pbd = lab.plug("iso", config)
    assert lab.rows(sr) == {}
    lab.x.SR.scan(sr)
    rows = {row["location"]: row for row in lab.rows(sr).values()}
    assert sorted(rows) == [named, "disk.img", "tools.ISO"]
    assert rows[named]["uuid"] == named.removesuffix(".iso")
    image = rows["tools.ISO"]
    assert (image["name_label"], image["read_only"], image["virtual_size"]) == ("tools.ISO", True, "700")


# ---- smb


def test_smb_without_a_server_is_102(lab: FileLab) -> None:
    """Trace 23#25."""
    missing = ["SR_BACKEND_FAILURE_102", "", "The request is missing the server parameter", ""]
    assert refusal(lab.probe, "smb", {}) == missing


def test_smb_on_a_host_without_mount_cifs_is_111_with_return_code_2(lab: FileLab) -> None:
    """Traces 23#26, 23#81."""
    lab.mounts.lacks.add("mount.cifs")
    missing = ["SR_BACKEND_FAILURE_111", "", "SMB mount error [opterr=mount failed with return code 2]", ""]
    assert refusal(lab.probe, "smb", SMB) == missing
    _sr, pbd = lab.introduce("smb", SMB)
    assert refusal(lab.x.PBD.plug, pbd) == missing


@pytest.mark.parametrize(
    "change",
    [{"server": r"\\nobody\disks"}, {"server": r"\\files\nothing"}, {"password": "wrong"}, {"username": "x"}],
)
def test_whatever_is_wrong_with_a_share_is_111(lab: FileLab, change: dict[str, str]) -> None:
    """Not recorded: mount.cifs ends with 32 for all of these, and SM makes 110 of it (sm/core/util.py, ioretry)."""
    why = "SMB mount error [opterr=mount failed with return code 110]"
    assert refusal(lab.create, "smb", SMB | change) == ["SR_BACKEND_FAILURE_111", "", why, ""]


def test_an_smb_share_is_an_sr_by_the_directory_with_its_uuid(lab: FileLab) -> None:
    """Not recorded: drv/SMBSR.py; with another uuid nothing can be written there."""
    sr = lab.create("smb", SMB)
    vdi, sr_uuid = lab.x.VDI.get_uuid(lab.vdi(sr)), lab.x.SR.get_uuid(sr)
    assert f"<UUID>{sr_uuid}</UUID>" in lab.probe("smb", SMB)
    assert list(lab.rows(lab.forget_and_plug_again(sr, SMB))) == [vdi]
    _other, pbd = lab.introduce("smb", SMB)
    no_write = ["SR_BACKEND_FAILURE_461", "", "The file system for SR cannot be written to.", ""]
    assert refusal(lab.x.PBD.plug, pbd) == no_write


def test_the_password_of_a_share_becomes_a_secret_that_the_driver_looks_up(lab: FileLab) -> None:
    """docs/background/xapi.md 2.4, PBD.create."""
    config = lab.x.PBD.get_device_config(lab.pbd(lab.create("smb", SMB)))
    assert "password" not in config
    assert config.keys() >= {"server", "username", "password_secret"}


# ---- gluster and CephFS


@pytest.mark.parametrize(("sr_type", "config"), [("glusterfs", GLUSTER), ("cephfs", CEPH)])
def test_a_gluster_volume_or_a_cephfs_is_an_sr_by_the_directory_with_its_uuid(
    lab: FileLab, sr_type: str, config: dict[str, str]
) -> None:
    """Not recorded: GlusterFSSR.py, CephFSSR.py."""
    assert lab.probe(sr_type, config) == NOTHING_FOUND
    sr = lab.create(sr_type, config)
    vdi, sr_uuid = lab.x.VDI.get_uuid(lab.vdi(sr, MIB)), lab.x.SR.get_uuid(sr)
    assert f"<UUID>{sr_uuid}</UUID>" in lab.probe(sr_type, config)
    again = lab.forget_and_plug_again(sr, config)
    assert list(lab.rows(again)) == [vdi]
    for ref in lab.x.SR.get_VDIs(again):
        lab.x.VDI.destroy(ref)
    lab.x.PBD.unplug(lab.pbd(again))
    lab.x.SR.destroy(again)
    assert lab.probe(sr_type, config) == NOTHING_FOUND


@pytest.mark.parametrize(
    ("sr_type", "config", "number"),
    [
        ("glusterfs", {"server": "gl1:/nope"}, 1),
        ("glusterfs", {"server": "gl9:/gv0"}, 1),
        ("cephfs", CEPH | {"server": "mon9"}, 110),
        ("cephfs", CEPH | {"serverport": "1"}, 110),
        ("cephfs", CEPH | {"serverpath": "/no/such"}, 110),
    ],
)
def test_a_mount_that_fails_is_12_for_a_plug_111_for_create_and_a_crash_for_probe(
    lab: FileLab, sr_type: str, config: dict[str, str], number: int
) -> None:
    """Not recorded: the drivers use no code of the table for a plug, and do not catch a probe's exception."""
    why = f"mount failed with return code {number}"
    assert refusal(lab.probe, sr_type, config) == ["SR_BACKEND_FAILURE_1200", "", why, ""]
    kind = {"glusterfs": "GlusterFS", "cephfs": "CephFS"}[sr_type]
    created = f"{kind} mount error [opterr={why}]"
    assert refusal(lab.create, sr_type, config) == ["SR_BACKEND_FAILURE_111", "", created, ""]
    _sr, pbd = lab.introduce(sr_type, config)
    assert refusal(lab.x.PBD.plug, pbd) == ["SR_BACKEND_FAILURE_12", "", why, ""]


def test_a_gluster_volume_is_mounted_by_a_backup_server_when_the_first_is_down(lab: FileLab) -> None:
    """Not recorded: mount.glusterfs' backup-volfile-servers."""
    volume = lab.shares.gluster[0]
    volume.down.add("gl1")
    assert refusal(lab.probe, "glusterfs", GLUSTER)[0] == "SR_BACKEND_FAILURE_1200"
    with_backup = GLUSTER | {"backupservers": "gl2"}
    assert lab.probe("glusterfs", with_backup) == NOTHING_FOUND
    volume.is_started = False
    assert refusal(lab.probe, "glusterfs", with_backup)[0] == "SR_BACKEND_FAILURE_1200"


@pytest.mark.parametrize(("sr_type", "program"), [("glusterfs", "glusterfs"), ("cephfs", "ceph")])
def test_a_host_without_the_file_systems_programs_is_47(lab: FileLab, sr_type: str, program: str) -> None:
    """Not recorded: GlusterFSSR.py, CephFSSR.py, load."""
    lab.mounts.lacks.add(program)
    why = f"The SR is not available [opterr={program} is not installed]"
    assert refusal(lab.probe, sr_type, GLUSTER | CEPH) == ["SR_BACKEND_FAILURE_47", "", why, ""]
