"""What the caller or the operator can do about a refusal by xapi, by its code. Other codes explain themselves.

The numbers after ``SR_BACKEND_FAILURE_`` are those of the storage manager's list. The causes were seen
(docs/background/recordings.md, iSCSI errors; recordings.md, file and nfs) or read (docs/background/xapi.md 2, 5.3).
"""

from typing import Literal, NamedTuple

Kind = Literal["retry", "request", "operator"]
"""Who can act on it: "retry": the same call a little later; "request": the caller; "operator": of hosts and storage."""


class Remedy(NamedTuple):
    kind: Kind
    text: str


_STORAGE: dict[int, Remedy] = {
    19: Remedy("operator", "the device does not exist on that host: check the path or the HBA"),
    40: Remedy(
        "operator",
        "one file or LUN breaks the scan of the whole SR: a *.vhd or *.raw whose name is not a uuid, or a "
        "LUN whose VDI is already in another SR of this pool; remove it, or use that other SR",
    ),
    44: Remedy("operator", "the SR is full, or it makes no disks (an SR with a VDI per LUN)"),
    46: Remedy(
        "operator",
        "the disk is gone from the storage, or another host still holds it; check that it exists, and "
        "where it is attached",
    ),
    47: Remedy(
        "operator",
        "the storage behind the SR is not there: a lost iSCSI session, an unmounted export, or no such "
        "volume group; unplug the PBD and plug it again once the storage is back",
    ),
    52: Remedy("operator", "the logical volume cannot be activated: the device holds no SR with this uuid"),
    61: Remedy("operator", "the directory is missing or is not empty"),
    66: Remedy("request", "ask for a disk of type vhd or raw"),
    67: Remedy(
        "retry", "the LUN's device did not appear in time; check that the LUN is mapped to this initiator"
    ),
    68: Remedy(
        "operator",
        "the target refused the login: check that it admits the initiator IQN of the host, and the CHAP "
        "user and password; a portal that offers no target at all answers like this too",
    ),
    70: Remedy(
        "operator",
        "the initiator IQN of the host was changed while targets are attached: set it back, or detach "
        "them first",
    ),
    72: Remedy(
        "operator",
        "the server does not speak this NFS version, or its rpcbind does not answer: check nfsversion and "
        "the firewall",
    ),
    73: Remedy(
        "operator",
        "the export cannot be mounted: check that the server exports this path to the host, that the "
        "directory named like the SR's uuid exists in it, and the mount options",
    ),
    74: Remedy("operator", "the mount point is busy or not empty on the host"),
    78: Remedy(
        "operator", "the disk could not be written: the file system behind the SR is full or read-only"
    ),
    79: Remedy("request", "ask for 2 MiB to 2040 GiB; a disk never shrinks"),
    83: Remedy("request", "the portal does not offer this IQN: check target_iqn and target_portal"),
    90: Remedy("request", "device_config needs the key device"),
    94: Remedy("request", "device_config needs the key location"),
    95: Remedy("request", "device_config needs the key target, the address of the iSCSI portal"),
    96: Remedy("request", "device_config needs the key targetIQN, as the target spells it"),
    97: Remedy("operator", "the host has no initiator IQN: set one with host.set_iscsi_iqn"),
    99: Remedy("operator", "a shared LVM SR lives on exactly one LUN"),
    101: Remedy("request", "device_config needs the key serverpath, the exported directory"),
    102: Remedy("request", "device_config needs the key server"),
    107: Remedy(
        "request", "no LUN with this SCSI id is mapped to the host: check SCSIid and the mapping on the array"
    ),
    108: Remedy(
        "operator", "no NFS service answers at this address: check server and the firewall (port 2049)"
    ),
    109: Remedy(
        "operator", "the disk has 30 snapshots on top of each other: delete some, and let them coalesce"
    ),
    110: Remedy("operator", "the storage could not resize the disk"),
    111: Remedy("operator", "the share cannot be mounted: check server, username and password"),
    140: Remedy("request", "the host cannot resolve this name: check it, and the DNS of the host"),
    141: Remedy(
        "operator", "nothing answers at this portal: check address, port, and the storage network of the host"
    ),
    142: Remedy("request", "the port of an iSCSI portal is a number from 1 to 65535"),
    181: Remedy("operator", "the metadata of the SR is damaged or read-only"),
    200: Remedy("operator", "the storage answered with an I/O error"),
    202: Remedy(
        "operator",
        "the storage driver failed; when its text has Uniqueness_constraint_violation, another SR of this "
        "pool already holds this target: a pool can hold a target once, so use that SR",
    ),
    222: Remedy("operator", "the ISO library cannot be mounted: check location, and the access rights"),
    447: Remedy("request", "a name or description has a character that XML cannot carry"),
    453: Remedy("operator", "the disk process (tapdisk) of the host failed"),
    454: Remedy("operator", "this host is not licensed for SMB SRs"),
    461: Remedy("operator", "the file system behind the SR is read-only"),
    1200: Remedy(
        "operator",
        "the storage driver of the host crashed on this; for an NFS SR, an nfsversion other than 3 or 4.x "
        "does that",
    ),
}

_XAPI: dict[str, Remedy] = {
    "CANNOT_CONTACT_HOST": Remedy("retry", "the pool master does not reach that host"),
    "DEVICE_ALREADY_EXISTS": Remedy("request", "the VM has a disk in this position: choose another"),
    "DEVICE_DETACH_REJECTED": Remedy(
        "retry", "the guest still uses the disk: unmount it in the guest, then detach"
    ),
    "DEVICE_DETACH_TIMEOUT": Remedy(
        "retry", "the guest did not release the disk in time: unmount it in the guest"
    ),
    "DISK_VBD_MUST_BE_READWRITE_FOR_HVM": Remedy("request", "an HVM guest takes no read-only disk"),
    "HANDLE_INVALID": Remedy("retry", "the object is gone: another process has removed it"),
    "HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED": Remedy("operator", "a VM that HA protects needs this SR"),
    "HA_IS_ENABLED": Remedy("operator", "HA keeps its statefile on this SR"),
    "HOST_IS_SLAVE": Remedy(
        "retry", "this host is not the pool's master: connect to the address that it names"
    ),
    "HOST_OFFLINE": Remedy("operator", "start the host, or forget it"),
    "HOST_STILL_BOOTING": Remedy("retry", "the host is starting"),
    "INVALID_DEVICE": Remedy("request", "a disk's position is a number from 0 to 254"),
    "LOCATION_NOT_UNIQUE": Remedy("request", "the SR has another VDI at this location"),
    "MESSAGE_METHOD_UNKNOWN": Remedy("operator", "this xapi is too old, or the address is not of a xapi"),
    "MESSAGE_REMOVED": Remedy("operator", "this xapi no longer has the call"),
    "NO_HOSTS_AVAILABLE": Remedy("operator", "no host can run the VM: check that its SRs are plugged on one"),
    "OTHER_OPERATION_IN_PROGRESS": Remedy("retry", "the object is busy with another operation"),
    "PBD_EXISTS": Remedy("retry", "another process has connected this host to the SR"),
    "PERMISSION_DENIED": Remedy("operator", "only xapi itself may make this call"),
    "RBAC_PERMISSION_DENIED": Remedy("operator", "give the user the role pool-operator"),
    "SESSION_AUTHENTICATION_FAILED": Remedy("request", "check user and password"),
    "SESSION_INVALID": Remedy("retry", "the session has expired: log in again"),
    "SR_DEVICE_IN_USE": Remedy("operator", "another SR already uses this device or target: use that SR"),
    "SR_HAS_NO_PBDS": Remedy(
        "operator",
        "the SR is plugged on no host that could do this: plug its PBD, that of the pool master first",
    ),
    "SR_HAS_PBD": Remedy("operator", "a host still has this SR plugged: unplug its PBDs first"),
    "SR_NOT_SHARABLE": Remedy("operator", "the SR is local and is plugged on another host"),
    "SR_UNKNOWN_DRIVER": Remedy(
        "operator", "the host has no storage driver of this type; see host and SR.get_supported_types"
    ),
    "SR_UUID_EXISTS": Remedy("retry", "another process has introduced the same SR: use that"),
    "TOO_MANY_PENDING_TASKS": Remedy("retry", "xapi is overloaded"),
    "UUID_INVALID": Remedy("request", "no object has this uuid"),
    "VBD_NOT_UNPLUGGABLE": Remedy(
        "request", "the disk was created as not unpluggable: shut the VM down to detach it"
    ),
    "VDI_IN_USE": Remedy(
        "operator", "a VM has the disk attached: detach it there first, or make the VDI sharable"
    ),
    "VDI_NOT_MANAGED": Remedy(
        "operator", "xapi gives this disk to no VM: it is the base of other disks, or was not adopted"
    ),
    "VDI_READONLY": Remedy("request", "the disk is read-only: attach it with access_mode ro"),
    "VM_BAD_POWER_STATE": Remedy("request", "the VM is not in the power state that this call needs"),
    "VM_MISSING_PV_DRIVERS": Remedy(
        "operator", "install the Xen guest drivers in the VM, or shut it down to attach"
    ),
    "VM_REQUIRES_SR": Remedy("operator", "the host lacks an SR that the VM needs: plug its PBD there"),
}

_SM = "SR_BACKEND_FAILURE"
_UNKNOWN_STORAGE = Remedy("operator", "see /var/log/SMlog of the host")


def find_remedy(code: str) -> Remedy | None:
    """Return the remedy for a code of xapi, or None. An unknown storage failure gets the path of the log."""
    if not code.startswith(_SM):
        return _XAPI.get(code)
    number = code.removeprefix(_SM + "_")
    return _STORAGE.get(int(number), _UNKNOWN_STORAGE) if number.isdecimal() else _UNKNOWN_STORAGE
