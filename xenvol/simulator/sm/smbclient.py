"""A host as an SMB client: the share of a location, and whether its credentials match (sm/cifutils.py)."""

from __future__ import annotations

from xenvol.simulator.sm.base import Driver
from xenvol.simulator.sm.servers import SmbShare


def split_location(location: str) -> tuple[str, str]:
    r"""Return server and share of ``\\server\share`` or ``//server/share``, without a directory behind the share."""
    parts = [part for part in location.replace("\\", "/").split("/") if part]
    return (parts[0] if parts else "", parts[1] if len(parts) > 1 else "")


def find_share(driver: Driver, location: str, *, prefix: str) -> SmbShare | None:
    """Return the share if it exists and accepts the device_config's ``username`` and ``<prefix>password``."""
    share = driver.world.shares.smb_share(*split_location(location))
    if share is None or share.credentials in (None, _credentials(driver, prefix)):
        return share
    return None


def _credentials(driver: Driver, prefix: str) -> tuple[str, str] | None:
    """Return user and password if both are given; a domain before the user is ignored."""
    config = driver.config
    key, secret_key = f"{prefix}password", f"{prefix}password_secret"
    if "username" not in config or (key not in config and secret_key not in config):
        return None
    secret = driver.xapi.secret(config[secret_key]) if secret_key in config else config[key]
    return config["username"].rpartition("\\")[2], secret or ""
