"""What a storage driver may read and change in the pool: `XapiPort` over the database, for one SR on one host.

A real driver calls xapi with a session of its own. These methods do the same writes with the same refusals
(xapi_vdi.ml, introduce_dbonly). A refusal is an `XapiRefusal`, which is an error inside the driver.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xenvol.simulator.failure import NULL
from xenvol.simulator.rules import sr_hosts
from xenvol.simulator.rules.operations import update_allowed_operations
from xenvol.simulator.sm.base import DuplicateVDI, VDIInfo, XapiRefusal

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call

UUID = re.compile("-".join(f"[0-9a-f]{{{n}}}" for n in (8, 4, 4, 4, 12)), re.IGNORECASE)
"""What xapi accepts as a uuid; text after it is ignored."""

_AS_THEY_ARE = ("virtual_size", "physical_utilisation", "managed", "read_only")
_WHEN_GIVEN = ("sharable", "name_label", "name_description", "type", "is_a_snapshot")


@dataclass(frozen=True, slots=True)
class Port:
    call: Call
    sr: str | None
    """None while probing, because there is no row yet."""
    host: str

    def vdis(self) -> list[dict[str, Any]]:
        db = self.call.db
        refs = db.children(self.sr, "VDIs") if self.sr else []
        return [{**db.record("VDI", ref), "ref": ref} for ref in refs]

    def vdi(self, uuid: str) -> dict[str, Any] | None:
        ref = self.call.db.by_uuid("VDI", uuid)
        return None if ref is None else {**self.call.db.record("VDI", ref), "ref": ref}

    def introduce(self, info: VDIInfo) -> None:
        assert self.sr is not None, "a probe introduces nothing"
        db = self.call.db
        if find_by_location(self.call, self.sr, info.location) is not None:
            raise XapiRefusal("LOCATION_NOT_UNIQUE", self.sr, info.location)
        if UUID.match(info.uuid) is None:
            raise XapiRefusal("UUID_INVALID", "VDI", info.uuid)
        if db.by_uuid("VDI", info.uuid) is not None:
            raise DuplicateVDI(info.uuid)
        values = {"type": "user", "on_boot": "persist", **self._values(info)}
        ref = db.create("VDI", uuid=info.uuid, location=info.location, SR=self.sr, **values)
        update_allowed_operations(self.call.xapi, "VDI", ref)

    def update(self, info: VDIInfo) -> None:
        ref = self.call.db.by_uuid("VDI", info.uuid)
        if ref is None:
            raise XapiRefusal("UUID_INVALID", "VDI", info.uuid)
        self.call.db.set("VDI", ref, **self._values(info))

    def forget(self, uuid: str) -> None:
        if (ref := self.call.db.by_uuid("VDI", uuid)) is not None:
            self.call.db.delete("VDI", ref)

    def set_sr(self, **fields: Any) -> None:
        if self.sr is not None:
            self.call.db.set("SR", self.sr, **fields)

    def sr_other_config(self, add: Mapping[str, str], remove: Iterable[str] = ()) -> None:
        if self.sr is not None:
            self._change_map("SR", self.sr, "other_config", add, remove)

    def pbd_other_config(self, add: Mapping[str, str], remove: Iterable[str] = ()) -> None:
        if self.sr is not None:
            pbd = sr_hosts.pbd_of(self.call.db, self.sr, self.host)
            self._change_map("PBD", pbd, "other_config", add, remove)

    def pbd_device_config(self, add: Mapping[str, str]) -> None:
        if self.sr is not None:
            pbd = sr_hosts.pbd_of(self.call.db, self.sr, self.host)
            self._change_map("PBD", pbd, "device_config", add)

    def other_srs(self, sr_type: str | None = None) -> list[dict[str, Any]]:
        db = self.call.db
        refs = [ref for ref in db.refs("SR") if ref != self.sr]
        return [db.record("SR", ref) for ref in refs if sr_type in (None, db.row("SR", ref)["type"])]

    def host_pbds(self) -> list[dict[str, Any]]:
        db = self.call.db
        records = [db.record("PBD", pbd) for pbd in db.children(self.host, "PBDs")]
        return [record for record in records if record["SR"] != self.sr]

    def secret(self, uuid: str) -> str | None:
        ref = self.call.db.by_uuid("secret", uuid)
        return None if ref is None else str(self.call.db.row("secret", ref)["value"])

    def message(self, name: str, priority: int, body: str) -> None:
        db = self.call.db
        obj_uuid = db.row("SR", self.sr)["uuid"] if self.sr else ""
        now = self.call.xapi.now()
        db.create(
            "message", name=name, priority=priority, cls="SR", obj_uuid=obj_uuid, timestamp=now, body=body
        )

    def sleep(self, seconds: float) -> None:
        if self.call.xapi.storage_delays:
            self.call.sleep(seconds * self.call.xapi.storage_delays)

    def delay(self, seconds: float) -> None:
        self.call.sleep(seconds)

    def _values(self, info: VDIInfo) -> dict[str, Any]:
        values = {name: getattr(info, name) for name in _AS_THEY_ARE}
        values |= {name: value for name in _WHEN_GIVEN if (value := getattr(info, name)) is not None}
        if info.sm_config is not None:
            values["sm_config"] = dict(info.sm_config)
        if info.snapshot_of is not None:
            values["snapshot_of"] = self.call.db.by_uuid("VDI", info.snapshot_of) or NULL
        return values

    def _change_map(
        self, cls: str, ref: str, field: str, add: Mapping[str, str], remove: Iterable[str] = ()
    ) -> None:
        gone = set(remove)
        kept = {key: value for key, value in self.call.db.get(cls, ref, field).items() if key not in gone}
        self.call.db.set(cls, ref, **{field: {**kept, **add}})


def find_by_location(call: Call, sr: str, location: str) -> str | None:
    """Return the first VDI of the SR at that location, or None."""
    db = call.db
    return next(
        (vdi for vdi in db.by_location(location) if db.row("VDI", vdi)["SR"] == sr),
        None,
    )
