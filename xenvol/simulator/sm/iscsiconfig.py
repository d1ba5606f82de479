"""The checks of an iSCSI device_config before any contact with a portal; each refusal has its own number.

The checks have SM's order: if the target is missing, a wrong port is not reported (trace sm/20a#7-26).
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
    """A checked device_config; ``iqn`` may still be empty."""

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
    """Check and return the configuration; ``address`` and ``iqn`` take precedence over its own values."""
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
    """Return user and password, or None; half of a pair counts as none (trace sm/20d#107)."""
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
