"""The built-in drivers are held to the kit that a stranger's driver is held to, by the tests that a stranger writes."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from tests.scenarios import (
    CHAP,
    GIB,
    IQN,
    NFS_XENSM,
    PORTAL,
    SR_UUID,
    VDI_UUID,
    arrange_gluster,
    arrange_nfs,
    arrange_target,
    iscsi_data,
)
from xenvol.simulator import Simulator
from xenvol.testing.conformance import DriverConformance
from xenvol.testing.conformance.connecting import Connecting
from xenvol.testing.conformance.failing import Failing
from xenvol.testing.conformance.secrets import Secrets

ANOTHER_UUID = "d1500000-0000-4000-8000-000000000002"


class _ISCSI:
    driver_volume_type = "iscsi"
    optional_keys = ("target_lun",)

    def arrange(self, xapi: Simulator) -> dict[str, Any]:
        arrange_target(xapi)
        return iscsi_data(0)

    def arrange_another(self, xapi: Simulator) -> dict[str, Any]:
        return iscsi_data(1)

    def grow(self, xapi: Simulator) -> int:
        return xapi.storage.san.resize_lun(IQN, 0, 2 * GIB).size

    def remove_volume(self, xapi: Simulator) -> None:
        xapi.storage.san.remove_lun(IQN, 0)

    def break_storage(self, xapi: Simulator) -> None:
        xapi.storage.san.unreachable(PORTAL)


class TestISCSI(_ISCSI, DriverConformance):
    test_no_secret_is_seen_anywhere = None  # because nothing secret is sent


class _CHAP(_ISCSI):
    def arrange(self, xapi: Simulator) -> dict[str, Any]:
        arrange_target(xapi, chap=CHAP)
        return iscsi_data(0, auth_method="CHAP", auth_username=CHAP[0], auth_password=CHAP[1])

    def arrange_another(self, xapi: Simulator) -> dict[str, Any]:
        return iscsi_data(1, auth_method="CHAP", auth_username=CHAP[0], auth_password=CHAP[1])


class TestISCSIWithCHAP(_CHAP, Connecting, Failing, Secrets):
    """What a password varies: the calls, so what can fail and what is left, and what may be seen."""


@pytest.mark.slow
@pytest.mark.xapi(version="25.33.1")
class TestISCSIOnANewerXapi(_CHAP, Connecting, Failing, Secrets):
    """What another xapi varies: its answers. The other classes run on 24.16.0."""


class TestNFS(DriverConformance):
    driver_volume_type = "nfs"
    test_no_secret_is_seen_anywhere = None  # because nothing secret is sent

    def arrange(self, xapi: Simulator) -> dict[str, Any]:
        arrange_nfs(xapi)
        return {"volume_id": "volume-nfs", "export": "10.0.0.2:/export/vols", "name": f"{VDI_UUID}.vhd"}

    def arrange_another(self, xapi: Simulator) -> dict[str, Any]:
        self.directory(xapi).add_vhd(ANOTHER_UUID, GIB)
        return {"volume_id": "another", "export": "10.0.0.2:/export/vols", "name": f"{ANOTHER_UUID}.vhd"}

    def grow(self, xapi: Simulator) -> int:
        self.remove_volume(xapi)
        return self.directory(xapi).add_vhd(VDI_UUID, 2 * GIB).virtual_size

    def remove_volume(self, xapi: Simulator) -> None:
        self.directory(xapi).remove(f"{VDI_UUID}.vhd")

    def break_storage(self, xapi: Simulator) -> None:
        server = xapi.storage.shares.nfs_server("10.0.0.2")
        assert server is not None
        server.is_listening = False

    def directory(self, xapi: Simulator) -> Any:
        server = xapi.storage.shares.nfs_server("10.0.0.2")
        assert server is not None
        return server.exports["/export/vols"].filesystem.root


class TestXenSM(TestNFS):
    """The NFS form, which is the one that cinder sent."""

    driver_volume_type = "xensm"
    optional_keys = ("introduce_sr_keys", "vdi_uuid")

    def arrange(self, xapi: Simulator) -> dict[str, Any]:
        arrange_nfs(xapi)
        self.directory(xapi).add_vhd(ANOTHER_UUID, GIB)
        return dict(NFS_XENSM["data"])

    def arrange_another(self, xapi: Simulator) -> dict[str, Any]:
        return {**NFS_XENSM["data"], "volume_id": "another", "vdi_uuid": ANOTHER_UUID}

    def directory(self, xapi: Simulator) -> Any:
        return super().directory(xapi).directory(SR_UUID)


class TestXenSMWithAPassword(Connecting, Failing, Secrets):
    """Any SR type will do, and the password of any is a secret: what that varies, as with CHAP."""

    driver_volume_type = "xensm"
    optional_keys = ("introduce_sr_keys", "vdi_uuid")
    data: ClassVar[dict[str, Any]] = {
        "sr_uuid": SR_UUID,
        "vdi_uuid": VDI_UUID,
        "sr_type": "smb",
        "server": "//10.0.0.4/vols",
        "username": CHAP[0],
        "password": CHAP[1],
        "introduce_sr_keys": ["server", "username", "password"],
    }

    def arrange(self, xapi: Simulator) -> dict[str, Any]:
        share = xapi.storage.shares.add_smb("10.0.0.4", "vols", size=100 * GIB, credentials=CHAP)
        directory = share.filesystem.root.make_directory(SR_UUID)
        directory.add_vhd(VDI_UUID, GIB)
        directory.add_vhd(ANOTHER_UUID, GIB)
        return self.data

    def arrange_another(self, xapi: Simulator) -> dict[str, Any]:
        return {**self.data, "vdi_uuid": ANOTHER_UUID}

    def grow(self, xapi: Simulator) -> int:
        self.remove_volume(xapi)
        (share,) = xapi.storage.shares.smb
        return share.filesystem.root.make_directory(SR_UUID).add_vhd(VDI_UUID, 2 * GIB).virtual_size

    def remove_volume(self, xapi: Simulator) -> None:
        (share,) = xapi.storage.shares.smb
        share.filesystem.root.make_directory(SR_UUID).remove(f"{VDI_UUID}.vhd")

    def break_storage(self, xapi: Simulator) -> None:
        (share,) = xapi.storage.shares.smb
        share.is_down = True


class TestGluster(DriverConformance):
    driver_volume_type = "gluster"
    test_no_secret_is_seen_anywhere = None  # because nothing secret is sent

    def arrange(self, xapi: Simulator) -> dict[str, Any]:
        arrange_gluster(xapi)
        return {
            "volume_id": "volume-gluster",
            "export": "10.0.0.3:/vols",
            "name": f"{SR_UUID}/{VDI_UUID}.vhd",
        }

    def arrange_another(self, xapi: Simulator) -> dict[str, Any]:
        self.directory(xapi).add_vhd(ANOTHER_UUID, GIB)
        return {
            "volume_id": "another",
            "export": "10.0.0.3:/vols",
            "name": f"{SR_UUID}/{ANOTHER_UUID}.vhd",
        }

    def grow(self, xapi: Simulator) -> int:
        self.remove_volume(xapi)
        return self.directory(xapi).add_vhd(VDI_UUID, 2 * GIB).virtual_size

    def remove_volume(self, xapi: Simulator) -> None:
        self.directory(xapi).remove(f"{VDI_UUID}.vhd")

    def break_storage(self, xapi: Simulator) -> None:
        volume = xapi.storage.shares.gluster_volume("10.0.0.3", "vols")
        assert volume is not None
        volume.down.add("10.0.0.3")

    def directory(self, xapi: Simulator) -> Any:
        volume = xapi.storage.shares.gluster_volume("10.0.0.3", "vols")
        assert volume is not None
        return volume.filesystem.root.directory(SR_UUID)
