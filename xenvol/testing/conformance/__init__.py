"""The requirements on every driver, as tests that a driver's author subclasses: `DriverConformance`.

    class TestAcme(DriverConformance):
        driver_volume_type = "acme"

        def arrange(self, xapi):
            xapi.storage.shares.add_smb("10.0.0.4", "vols", size=2**40)...
            return {"export": "//10.0.0.4/vols", ...}

Each test is a requirement and runs against a xapi simulator over the wire. A failure says what is wrong and
what to change. docs/drivers.md has the list. A test that needs a further method of the subclass is skipped
without it, and the reason says what to add (`xenvol.testing.conformance.kit`).
"""

from xenvol.testing.conformance.bench import Bench
from xenvol.testing.conformance.connecting import Connecting
from xenvol.testing.conformance.contract import Contract
from xenvol.testing.conformance.cost import Cost
from xenvol.testing.conformance.failing import Failing
from xenvol.testing.conformance.kit import Kit
from xenvol.testing.conformance.requests import Requests
from xenvol.testing.conformance.secrets import Secrets
from xenvol.testing.conformance.sparing import Sparing


class DriverConformance(Contract, Requests, Connecting, Sparing, Failing, Secrets, Cost):
    """All requirements; subclass it, name the driver and arrange its storage."""


__all__ = ["Bench", "DriverConformance", "Kit"]
