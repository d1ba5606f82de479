"""A nova in this process, whose compute service runs `xenvol.Driver` on a simulated pool.

nova's CinderFixture stands for Cinder. It asks a `Lab` for the connection_infos of its volumes.
"""

from __future__ import annotations

import copy
import sys
import uuid
import warnings
from pathlib import Path
from typing import Any

from nova.tests.functional import integrated_helpers
from nova.virt.xenvol import config as config  # registers the options
from sqlalchemy import exc

from tests.scenarios import SCENARIOS, Scenario, changes, touch_hosts
from xenvol.simulator import Simulator

PASTE = Path(sys.prefix, "etc", "nova", "api-paste.ini")
ROOT = str(uuid.UUID(int=1))
"""The volume that a server boots from: a LUN of a target that no scenario has."""


class Lab(integrated_helpers._IntegratedTestBase):
    """One server boots from a volume; another volume is of the kind that `scenario` has."""

    ADMIN_API = True
    microversion = "2.90"
    scenario: Scenario = SCENARIOS[0]

    def setUp(self) -> None:
        self.xapi = Simulator()
        self.xapi.start()
        self.addCleanup(self.xapi.close)
        self.connection_infos: dict[str, dict[str, Any]] = {}
        super().setUp()
        self.cinder._find_connection_info = self.connection_info

    def _setup_services(self) -> None:
        warnings.filterwarnings("ignore", category=exc.SADeprecationWarning)
        self.flags(api_paste_config=str(PASTE), group="wsgi")
        self.flags(compute_driver="xenvol.Driver")
        self.flags(
            url=[self.xapi.url],
            password_file=str(self.password_file()),
            insecure=True,
            host="host1",
            platform={"sim-pv": "true"},
            group="xenvol",
        )
        super()._setup_services()

    def password_file(self) -> Path:
        import tempfile

        path = Path(tempfile.mkdtemp()) / "password"
        path.write_text(self.xapi.password)
        return path

    def connection_info(self, volume_id: str, attachment_id: str) -> dict[str, Any]:
        info = copy.deepcopy(self.connection_infos[volume_id])
        info["data"] |= {"volume_id": volume_id, "attachment_id": attachment_id}
        return info
