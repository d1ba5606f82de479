"""A nova in this process, whose compute service runs `xenvol.Driver` on a simulated pool.

nova's CinderFixture stands for Cinder. It asks a `Lab` for the connection_infos of its volumes.
"""

from __future__ import annotations

import copy
import logging
import sys
import uuid
import warnings
from pathlib import Path
from typing import Any

import fixtures
import sqlalchemy.exc
from nova import test
from nova.tests.functional import integrated_helpers
from nova.virt.xenvol import config as config  # registers the options

from tests.scenarios import GIB, scsi_id, touch_hosts
from xenvol.simulator import Simulator

# it logs after a test, when nova's fixture does not capture any more
logging.getLogger("nova.thread_pool_factory").setLevel(logging.WARNING)

PASTE = Path(sys.prefix, "etc", "nova", "api-paste.ini")
ROOT = str(uuid.UUID(int=1))
"""A LUN of a target of its own, from which servers boot."""
ROOT_INFO = {
    "driver_volume_type": "iscsi",
    "data": {
        "target_portal": "10.0.0.9:3260",
        "target_iqn": "iqn.2010-10.org.openstack:root",
        "target_lun": 0,
    },
}


class Pool(test.NoDBTestCase):
    """A simulated pool, and the options with which the driver finds it."""

    hosts = 1

    def setUp(self) -> None:
        self.xapi = Simulator(hosts=self.hosts)
        self.xapi.start()
        self.addCleanup(self.xapi.close)
        san, data = self.xapi.storage.san, ROOT_INFO["data"]
        san.add_target(data["target_iqn"], data["target_portal"])
        san.add_lun(data["target_iqn"], 0, GIB, scsi_id=scsi_id(900))
        touch_hosts(self.xapi)
        super().setUp()

    def configure(self, host: str) -> None:
        """The driver that starts next is for this host."""
        password_file = Path(self.useFixture(fixtures.TempDir()).path, "password")
        password_file.write_text(self.xapi.password)
        self.flags(url=[self.xapi.url], password_file=str(password_file), insecure=True, group="xenvol")
        self.flags(host=host, platform={"sim-pv": "true"}, group="xenvol")

    def disks_of(self, server_id: str) -> dict[str, bool]:
        """The positions of the server's disks, and whether they are plugged."""
        return {row["userdevice"]: row["currently_attached"] for row in self._vbds_of(server_id)}

    def size_of(self, server_id: str, userdevice: str) -> int:
        """The bytes of the disk at that position, as xapi knows them."""
        (vdi,) = [row["VDI"] for row in self._vbds_of(server_id) if row["userdevice"] == userdevice]
        return int(self.xapi.db.row("VDI", vdi)["virtual_size"])

    def _vbds_of(self, server_id: str) -> list[dict[str, Any]]:
        db = self.xapi.db
        (vm,) = db.by_name("VM", server_id)
        return [db.row("VBD", vbd) for vbd in db.children(vm, "VBDs")]


class Lab(Pool, integrated_helpers._IntegratedTestBase):
    """A nova with one nova-compute, for the one host of the pool."""

    USES_DB = True
    ADMIN_API = True
    microversion = "2.90"

    def setUp(self) -> None:
        self.connection_infos: dict[str, dict[str, Any]] = {ROOT: ROOT_INFO}
        super().setUp()
        self.cinder._find_connection_info = self._connection_info

    def _setup_services(self) -> None:
        warnings.filterwarnings("ignore", category=sqlalchemy.exc.SADeprecationWarning)  # else HTTP 500
        self.flags(api_paste_config=str(PASTE), group="wsgi")
        self.flags(compute_driver="xenvol.Driver")
        self.configure("host1")
        super()._setup_services()

    def _connection_info(self, volume_id: str, attachment_id: str) -> dict[str, Any]:
        info = copy.deepcopy(self.connection_infos[volume_id])
        info["data"] |= {"volume_id": volume_id, "attachment_id": attachment_id}
        return info

    # ---- what a user does

    def boot(self, *volume_ids: str, expected_state: str = "ACTIVE", **wishes: Any) -> dict[str, Any]:
        """Return a server that booted from the first volume and has the others."""
        server = self._build_server(networks="none") | wishes
        del server["imageRef"]
        server["block_device_mapping_v2"] = [
            {
                "source_type": "volume",
                "destination_type": "volume",
                "uuid": volume_id,
                "boot_index": number or 0,
            }
            for number, volume_id in enumerate(volume_ids)
        ]
        made = self.api.post_server({"server": server})
        return self._wait_for_state_change(made, expected_state)

    def attach(self, server: dict[str, Any], volume_id: str) -> None:
        self.api.post_server_volume(server["id"], {"volumeAttachment": {"volumeId": volume_id}})

    def detach(self, server: dict[str, Any], volume_id: str) -> None:
        self.api.delete_server_volume(server["id"], volume_id)

    def fault_of(self, server: dict[str, Any]) -> str:
        return str(self._show_server(server)["fault"]["message"])

    def volumes_of(self, server: dict[str, Any]) -> set[str]:
        """What nova's API lists."""
        return {each["volumeId"] for each in self.api.get_server_volumes(server["id"])}

    def extended(self, server: dict[str, Any], volume_id: str) -> None:
        """What Cinder tells nova once it has extended a volume."""
        event = {"name": "volume-extended", "server_uuid": server["id"], "tag": volume_id}
        self.api.api_post("/os-server-external-events", {"events": [event]})

    def add_suspend_sr(self) -> None:
        """Where the pool keeps the memory of suspended VMs."""
        config = {"server": "10.0.0.8", "serverpath": "/suspended"}
        self.xapi.storage.shares.add_nfs(config["server"]).export(config["serverpath"], size=100 * GIB)
        sr = self.xapi.add_sr("suspended", type="nfs", device_config=config, create=True)
        with self.xapi.xapi.lock:
            self.xapi.db.set("pool", self.xapi.db.refs("pool")[0], suspend_image_SR=sr)
