"""A host as an SMB client: which share a location means, and whether its credentials open it (sm/cifutils.py)."""

from __future__ import annotations

from xenvol.simulator.sm.base import Driver
from xenvol.simulator.sm.servers import SmbShare


def split_location(location: str) -> tuple[str, str]:
    r"""Server and share of ``\\server\share`` or ``//server/share``; a directory behind the share does not count."""
    parts = [part for part in location.replace("\\", "/").split("/") if part]
    return (parts[0] if parts else "", parts[1] if len(parts) > 1 else "")


def find_share(driver: Driver, location: str, *, prefix: str) -> SmbShare | None:
    """The share, if it is there and takes the device_config's ``username`` and ``<prefix>password``."""
    share = driver.world.shares.smb_share(*split_location(location))
    if share is None or share.credentials in (None, _credentials(driver, prefix)):
        return share
    return None


def _credentials(driver: Driver, prefix: str) -> tuple[str, str] | None:
    """Both must be given; a domain in front of the user is the server's business."""
    config = driver.config
    key, secret_key = f"{prefix}password", f"{prefix}password_secret"
    if "username" not in config or (key not in config and secret_key not in config):
        return None
    secret = driver.xapi.secret(config[secret_key]) if secret_key in config else config[key]
    return config["username"].rpartition("\\")[2], secret or ""
