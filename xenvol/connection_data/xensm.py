"""The keys of xensm, and the parsed volume: any SR by its uuid, how to introduce it, and a VDI in it.

nova-volume's XenSM and cinder's XenAPINFS sent this form (docs/background/peers.md a.8, e.2). ``introduce_sr_keys``
names those keys of the data that describe the SR: its type, and its device_config.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from xenvol.connection_data.frozen import FrozenMap, freeze_map
from xenvol.connection_data.identity import Identity
from xenvol.connection_data.keys import CommonKeys, Uuid, read, refusal
from xenvol.secret import Secret

DRIVER = "xensm"
_NOT_DEVICE_CONFIG = frozenset({"sr_type", "name_label", "name_description", "content_type"})
_SM_CONFIG = frozenset({"nosubdir"})  # the storage manager reads it from the SR's sm_config only

Lun = Annotated[int, Meta(ge=0)]


class XenSMConnectionData(CommonKeys, frozen=True, kw_only=True):
    """Keys of driver_volume_type xensm. introduce_sr_keys may name further ones."""

    sr_uuid: Annotated[str | None, Meta(description="the uuid of the SR")] = None
    vdi_uuid: Annotated[Uuid | None, Meta(description="the uuid of the VDI in that SR")] = None
    target_lun: Annotated[
        Lun | None, Meta(description="the LUN's number, 0 or more, if the SR has a VDI per LUN")
    ] = None
    sr_type: Annotated[
        str | None, Meta(description="the SR's type, such as nfs; needed if the SR is not introduced yet")
    ] = None
    content_type: Annotated[str | None, Meta(description="the SR's content type: user, or iso")] = None
    introduce_sr_keys: Annotated[
        tuple[str, ...] | None,
        Meta(description="the names of the keys that make the SR: sr_type and its device_config"),
    ] = None
    multiattach: Annotated[
        bool | None, Meta(description="true or false; true: several VMs may use the LUN at once")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class XenSMVolume:
    """A VDI of an SR that the pool has, or that can be introduced."""

    sr_uuid: str
    vdi_uuid: str | None = None
    target_lun: int | None = None
    """Without `vdi_uuid` and `target_lun` the SR must have exactly one VDI."""
    sr_type: str | None = None
    """None if the data has none: then the pool must have the SR."""
    content_type: str | None = None
    device_config: Mapping[str, str | Secret] = field(default_factory=dict)
    """The device_config for PBD.create. A `Secret` must travel as a xapi secret."""
    sm_config: Mapping[str, str] = field(default_factory=dict)
    """The sm_config for SR.introduce."""
    identity: Identity = field(default_factory=Identity)
    volume_id: str | None = None
    multiattach: bool = False
    name_label: str | None = None
    name_description: str | None = None

    @classmethod
    def parse(cls, connection_data: Mapping[str, object]) -> "XenSMVolume":
        """Parse the data of a connection_info. Raises InvalidConnectionInfo."""
        data = freeze_map(connection_data)
        listed = _listed_keys(data)
        keys = read(
            XenSMConnectionData, FrozenMap({k: v for k, v in data.items() if k not in listed}), driver=DRIVER
        )
        if not keys.sr_uuid:
            raise refusal("sr_uuid", XenSMConnectionData, driver=DRIVER)
        made_of = {key: _value(data, key) for key in listed}
        return cls(
            sr_uuid=keys.sr_uuid.lower(),
            vdi_uuid=None if keys.vdi_uuid is None else keys.vdi_uuid.lower(),
            target_lun=keys.target_lun,
            sr_type=None if keys.sr_type is None else keys.sr_type.lower(),
            content_type=keys.content_type,
            device_config=FrozenMap({key: value for key, value in made_of.items() if key not in _SM_CONFIG}),
            sm_config=FrozenMap({key: str(value) for key, value in made_of.items() if key in _SM_CONFIG}),
            identity=Identity.of(keys, vdi_uuid=keys.vdi_uuid),
            volume_id=keys.service_id,
            multiattach=keys.multiattach is True,
            name_label=keys.name_label,
            name_description=keys.name_description,
        )


def _listed_keys(data: Mapping[str, object]) -> tuple[str, ...]:
    """Return the keys that become device_config or sm_config."""
    listed = data.get("introduce_sr_keys")
    if listed is None:
        return ()
    if not isinstance(listed, tuple) or not all(isinstance(key, str) for key in listed):
        raise refusal(
            "introduce_sr_keys", XenSMConnectionData, driver=DRIVER, problem="is not a list of names"
        )
    return tuple(key for key in dict.fromkeys(listed) if key not in _NOT_DEVICE_CONFIG)


def _value(data: Mapping[str, object], key: str) -> str | Secret:
    value = data.get(key)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str | Secret):
        return value
    problem = f"names {key!r}, which is {'missing' if value is None else f'a {type(value).__name__}'}"
    raise refusal("introduce_sr_keys", XenSMConnectionData, driver=DRIVER, problem=problem)
