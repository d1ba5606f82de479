"""The driver is held to xenvol's requirements, on a simulated pool with a share of ours behind it."""

from xenvol.simulator import Simulator
from xenvol.testing.conformance import DriverConformance

GIB = 1 << 30
SR = "5a000000-0000-4000-8000-00000000acce"
DISK = "d1500000-0000-4000-8000-000000000001"
ANOTHER_DISK = "d1500000-0000-4000-8000-000000000002"
SHARE = {"export": "//10.0.0.4/vols", "sr_uuid": SR, "username": "xen", "password": "canary-in-the-share"}


class TestSMB(DriverConformance):
    driver_volume_type = "smb"

    def arrange(self, xapi: Simulator) -> dict[str, object]:
        share = xapi.storage.shares.add_smb(
            "10.0.0.4", "vols", size=100 * GIB, credentials=("xen", "canary-in-the-share")
        )
        directory = share.filesystem.root.make_directory(SR)
        directory.add_vhd(DISK, GIB)
        directory.add_vhd(ANOTHER_DISK, GIB)
        return {**SHARE, "vdi_uuid": DISK, "size": 1}

    # The rest is optional; a test that needs it is skipped without it.

    def arrange_another(self, xapi: Simulator) -> dict[str, object]:
        return {**SHARE, "vdi_uuid": ANOTHER_DISK}

    def grow(self, xapi: Simulator) -> int:
        self.remove_volume(xapi)
        (share,) = xapi.storage.shares.smb
        share.filesystem.root.make_directory(SR).add_vhd(DISK, 2 * GIB)
        return 2 * GIB

    def remove_volume(self, xapi: Simulator) -> None:
        (share,) = xapi.storage.shares.smb
        share.filesystem.root.make_directory(SR).remove(f"{DISK}.vhd")

    def break_storage(self, xapi: Simulator) -> None:
        (share,) = xapi.storage.shares.smb
        share.is_down = True
