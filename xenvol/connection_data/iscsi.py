"""The keys of iscsi, and the parsed volume: targets in the singular and the plural, CHAP both ways, proofs.

The keys are those that os-brick and nova read (docs/background/peers.md a.8, docs/background/requirements.md). Which of
them the storage manager takes is in docs/background/peers.md a.9.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from msgspec import Meta

from xenvol.connection_data.identity import Identity
from xenvol.connection_data.keys import CommonKeys, Uuid, read, refusal
from xenvol.connection_data.portal import Portal, parse_portal
from xenvol.secret import Secret

logger = logging.getLogger(__name__)

DRIVER = "iscsi"
_IQN = re.compile(r"(?:iqn|eui|naa)\.[^\s,]+", re.IGNORECASE)
_FLAT = 0x4000  # the kernel adds it to a LUN in flat space addressing; see addressing_mode in docs/connection_info.md

Lun = Annotated[int, Meta(ge=0)]
T = TypeVar("T")


class ISCSIConnectionData(CommonKeys, frozen=True, kw_only=True):
    """Keys of driver_volume_type iscsi."""

    target_portal: Annotated[
        str | None,
        Meta(description="host:port, [IPv6]:port, a host alone (port 3260), each with ,tpgt or not"),
    ] = None
    target_iqn: Annotated[str | None, Meta(description="the target's name: iqn.…, eui.… or naa.…")] = None
    target_lun: Annotated[
        Lun | None, Meta(description="the LUN's number, 0 or more; without it the target must have one LUN")
    ] = None
    target_portals: Annotated[
        tuple[str, ...] | None, Meta(description="a list of portals, as long as target_iqns or of one")
    ] = None
    target_iqns: Annotated[
        tuple[str, ...] | None, Meta(description="a list of IQNs, as long as target_portals or of one")
    ] = None
    target_luns: Annotated[
        tuple[Lun, ...] | None, Meta(description="a list of LUN numbers, as long as target_portals or of one")
    ] = None
    addressing_mode: Annotated[
        Literal["SAM", "transparent", "SAM2", "SAM3-flat"] | None,
        Meta(description="how the array numbers its LUNs: SAM, transparent, SAM2 or SAM3-flat"),
    ] = None
    auth_method: Annotated[str | None, Meta(description="CHAP, or none")] = None
    auth_username: Annotated[str | int | None, Meta(description="the CHAP user, with auth_password")] = None
    auth_password: Annotated[Secret | None, Meta(description="the CHAP password, with auth_username")] = None
    discovery_auth_method: Annotated[str | None, Meta(description="CHAP, or none")] = None
    discovery_auth_username: Annotated[
        str | int | None, Meta(description="the CHAP user of the discovery; SM has one for both")
    ] = None
    discovery_auth_password: Annotated[
        Secret | None, Meta(description="the CHAP password of the discovery, with discovery_auth_username")
    ] = None
    incoming_auth_username: Annotated[
        str | int | None, Meta(description="mutual CHAP: the user with which the target proves itself")
    ] = None
    incoming_auth_password: Annotated[
        Secret | None, Meta(description="mutual CHAP: the target's password, with incoming_auth_username")
    ] = None
    incoming_chapuser: Annotated[str | int | None, Meta(description="as incoming_auth_username")] = None
    incoming_chappassword: Annotated[Secret | None, Meta(description="as incoming_auth_password")] = None
    scsi_id: Annotated[
        str | None, Meta(description="the LUN's SCSI id, as udev's scsi_id; proves a disk")
    ] = None
    SCSIid: Annotated[str | None, Meta(description="as scsi_id")] = None
    scsi_wwn: Annotated[str | None, Meta(description="as scsi_id")] = None
    wwid: Annotated[str | None, Meta(description="as scsi_id")] = None
    wwn: Annotated[str | None, Meta(description="the LUN's WWN (NAA or EUI); proves a disk")] = None
    vdi_uuid: Annotated[Uuid | None, Meta(description="the uuid that the LUN's VDI must have")] = None
    multiattach: Annotated[
        bool | None, Meta(description="true or false; true: several VMs may use the LUN at once")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ISCSITarget:
    """One way to the volume."""

    host: str
    port: int
    iqn: str
    lun: int | None
    """None if the data names none: then the target must have exactly one LUN."""

    @property
    def portal(self) -> str:
        """``host:port``, an IPv6 address in brackets."""
        return str(Portal(self.host, self.port))


@dataclass(frozen=True, slots=True)
class Chap:
    username: str
    password: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class ISCSIVolume:
    """A LUN behind at least one target, the preferred one first."""

    targets: tuple[ISCSITarget, ...]
    chap: Chap | None = None
    incoming_chap: Chap | None = None
    """Mutual CHAP: how the target proves itself to the host."""
    identity: Identity = field(default_factory=Identity)
    volume_id: str | None = None
    multiattach: bool = False
    name_label: str | None = None
    name_description: str | None = None

    def proves(self, vdi_rec: Mapping[str, Any]) -> bool | None:
        """Return whether this VDI is the volume, or None if nothing proves it."""
        return self.identity.is_of(vdi_rec["uuid"], vdi_rec["sm_config"].get("SCSIid"))

    @classmethod
    def parse(cls, connection_data: Mapping[str, object]) -> "ISCSIVolume":
        """Parse the data of a connection_info. Raises InvalidConnectionInfo."""
        keys = read(ISCSIConnectionData, connection_data, driver=DRIVER)
        chap = _chap(keys)
        scsi_ids = (keys.scsi_id, keys.SCSIid, keys.scsi_wwn, keys.wwid, keys.wwn)
        return cls(
            targets=_targets(keys),
            chap=chap,
            incoming_chap=_incoming_chap(keys, chap),
            identity=Identity.of(keys, scsi_ids=scsi_ids, vdi_uuid=keys.vdi_uuid),
            volume_id=keys.service_id,
            multiattach=keys.multiattach is True,
            name_label=keys.name_label,
            name_description=keys.name_description,
        )


def _targets(keys: ISCSIConnectionData) -> tuple[ISCSITarget, ...]:
    """Return all targets in order, the singular one first, each once."""
    portals = _list("target_portal", keys.target_portals, keys.target_portal)
    iqns = _list("target_iqn", keys.target_iqns, keys.target_iqn)
    luns = keys.target_luns or (keys.target_lun,)
    count = max(len(portals), len(iqns))
    rows = list(
        zip(
            _broadcast("target_portals", portals, count),
            _broadcast("target_iqns", iqns, count),
            _broadcast("target_luns", luns, count),
            strict=True,
        )
    )
    if keys.target_portal is not None and keys.target_iqn is not None:
        rows.insert(0, (keys.target_portal, keys.target_iqn, keys.target_lun))

    targets: dict[tuple[Portal, str], int | None] = {}
    for portal_text, iqn, lun in rows:
        if not _IQN.fullmatch(iqn):
            key = "target_iqn" if iqn == keys.target_iqn else "target_iqns"
            raise refusal(key, ISCSIConnectionData, driver=DRIVER, problem=f"is {iqn!r}")
        try:
            portal = parse_portal(portal_text)
        except ValueError as error:
            key = "target_portal" if portal_text == keys.target_portal else "target_portals"
            raise refusal(key, ISCSIConnectionData, driver=DRIVER, problem=str(error)) from error
        known = targets.setdefault((portal, iqn), lun)
        if known is None:
            targets[portal, iqn] = lun
        elif lun is not None and lun != known:
            problem = f"says LUN {lun} of {iqn} at {portal}, and another key LUN {known}"
            raise refusal("target_luns", ISCSIConnectionData, driver=DRIVER, problem=problem)
    return tuple(
        ISCSITarget(host=portal.host, port=portal.port, iqn=iqn, lun=_addressed(lun, keys.addressing_mode))
        for (portal, iqn), lun in targets.items()
    )


def _list(key: str, plural: tuple[str, ...] | None, singular: str | None) -> tuple[str, ...]:
    if plural:
        return plural
    if singular is None:
        raise refusal(key, ISCSIConnectionData, driver=DRIVER)
    return (singular,)


def _broadcast(key: str, values: tuple[T, ...], count: int) -> tuple[T, ...]:
    if len(values) == 1:
        return values * count
    if len(values) != count:
        problem = f"has {len(values)} entries where there are {count} targets"
        raise refusal(key, ISCSIConnectionData, driver=DRIVER, problem=problem)
    return values


def _addressed(lun: int | None, mode: str | None) -> int | None:
    """Return the number under which the host sees the LUN, which depends on the array's addressing mode."""
    if lun is not None and (mode == "SAM3-flat" or (mode == "SAM2" and lun >= 256)):
        return lun + _FLAT
    return lun


def _chap(keys: ISCSIConnectionData) -> Chap | None:
    """Return the one CHAP pair that the storage manager uses, for discovery and login, or None."""
    login = _pair(keys, "auth_username", "auth_password", method="auth_method")
    discovery = _pair(
        keys, "discovery_auth_username", "discovery_auth_password", method="discovery_auth_method"
    )
    if login is not None and discovery is not None and login != discovery:
        logger.warning(
            "connection_info for driver 'iscsi': discovery_auth_username and discovery_auth_password ignored: "
            "the storage manager discovers with the CHAP user of the login, and these differ"
        )
    return discovery if login is None else login


def _incoming_chap(keys: ISCSIConnectionData, chap: Chap | None) -> Chap | None:
    incoming = _pair(keys, "incoming_auth_username", "incoming_auth_password") or _pair(
        keys, "incoming_chapuser", "incoming_chappassword"
    )
    if incoming is not None and chap is None:
        raise refusal(
            "auth_username",
            ISCSIConnectionData,
            driver=DRIVER,
            problem="is missing, and mutual CHAP needs it",
        )
    return incoming


def _pair(keys: ISCSIConnectionData, user: str, password: str, *, method: str | None = None) -> Chap | None:
    """Return user and password, or None. Refuses one without the other, and a method other than CHAP."""
    is_required = False
    if method is not None:
        given = getattr(keys, method) or "none"
        if given.lower() not in ("chap", "none"):
            raise refusal(method, ISCSIConnectionData, driver=DRIVER, problem=f"is {given!r}")
        is_required = given.lower() == "chap"
    username, secret = getattr(keys, user), getattr(keys, password)
    for key, value, other in ((user, username, secret), (password, secret, username)):
        if value is None and (is_required or other is not None):
            raise refusal(key, ISCSIConnectionData, driver=DRIVER)
    return None if username is None else Chap(str(username), secret)
