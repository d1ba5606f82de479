"""What SM demands of an iSCSI device_config before it contacts anybody; each refusal has a number of its own.

The order of the checks is SM's: who leaves out the target is not told that the port is wrong (trace sm/20a#7-26).
"""

from __future__ import annotations

from dataclasses import dataclass

from xenvol.simulator.sm.base import Request, SMFailure
from xenvol.simulator.sm.san import ISCSI_PORT, Credentials, portal_key

NO_SECRET = 20
NO_TARGET = 95
NO_INITIATOR_IQN = 97
DNS = 140
PORT = 142


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """What device_config says, checked; ``iqn`` may still be empty."""

    address: str
    port: int
    iqn: str
    initiator: str
    chap: Credentials | None
    incoming: Credentials | None
    is_multihomed: bool
    scsi_id: str | None

    @property
    def portal(self) -> str:
        return portal_key(self.address, self.port)


def read(request: Request, address: str = "", iqn: str = "") -> TargetConfig:
    """``address`` and ``iqn`` take precedence over the configuration's own."""
    config = request.device_config
    if not config.get("target"):
        raise SMFailure(NO_TARGET)
    initiator = config.get("localIQN", request.host.iscsi_iqn)
    if not initiator:
        raise SMFailure(NO_INITIATOR_IQN)
    resolved = request.world.san.resolve(address or config["target"].split(",")[0])
    if resolved is None:
        raise SMFailure(DNS)
    chap = _credentials(request, "chapuser", "chappassword")
    incoming = _credentials(request, "incoming_chapuser", "incoming_chappassword")
    port = _port(config.get("port", ""))
    multihomed = config.get("multihomed", request.host.other_config.get("multipathing"))
    return TargetConfig(
        resolved,
        port,
        iqn or config.get("targetIQN", ""),
        initiator,
        chap,
        incoming if chap else None,  # SM sets it only together with the other
        multihomed == "true",
        config.get("SCSIid"),
    )


def _credentials(request: Request, user: str, password: str) -> Credentials | None:
    """User and password, where both are given: half of a pair counts as none (trace sm/20d#107)."""
    config = request.device_config
    secret_uuid = config.get(f"{password}_secret")
    if user not in config or (secret_uuid is None and password not in config):
        return None
    value = config.get(password) if secret_uuid is None else request.xapi.secret(secret_uuid)
    if value is None:
        raise SMFailure(NO_SECRET, f"Unable to look up secret [{secret_uuid}]")
    return (config[user], value) if config[user] and value else None


def _port(text: str) -> int:
    if not text:
        return ISCSI_PORT
    try:
        port = int(text)
    except ValueError:
        raise SMFailure(PORT) from None
    if not 0 < port < 65536:
        raise SMFailure(PORT)
    return port
