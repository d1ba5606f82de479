"""Prove that a disk is the requested volume, before it is plugged.

A SCSI id is a proof by itself. A size proves only where no SCSI id does: xapi may show the size from before the volume
grew, and an array may round it up within the GiB (docs/background/recordings.md, findings 2 and 7 (storage)).
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from xenvol.connection_data.keys import CommonKeys
from xenvol.errors import WrongVolume

logger = logging.getLogger(__name__)

GIB = 1024**3
_PREFIXES = ("scsi-", "wwn-", "naa.", "eui.", "t10.", "0x")
_TYPE_DIGITS = "01238"  # udev's scsi_id puts one before an identifier for its type; 3 is NAA


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a connection_info says about its disk: its places and its proofs, or neither."""

    places: frozenset[str] = frozenset()
    """Where the disk is. A LUN that several targets show has several places."""
    scsi_ids: tuple[str, ...] = ()
    vdi_uuid: str | None = None
    size_bytes: int | None = None
    size_gib: int | None = None

    @classmethod
    def of(
        cls, keys: CommonKeys, *, scsi_ids: Iterable[str | None] = (), vdi_uuid: str | None = None
    ) -> "Identity":
        """Return the proofs among the keys. Several spellings of one SCSI id count once."""
        given = dict.fromkeys(_bare(scsi_id) for scsi_id in scsi_ids if scsi_id)
        return cls(
            scsi_ids=tuple(given),
            vdi_uuid=None if vdi_uuid is None else vdi_uuid.lower(),
            size_bytes=keys.size_bytes,
            size_gib=keys.volume_size if keys.size is None else keys.size,
        )

    @property
    def key(self) -> str:
        """All places, a line each, sorted: the same for the same disk, in any order of the data."""
        return "\n".join(sorted(self.places))

    def is_at(self, key: str) -> bool:
        """Return whether a disk that is marked with this key is at one of the places."""
        return not self.places.isdisjoint(key.split("\n"))

    def is_of(self, vdi_uuid: str, scsi_id: str | None) -> bool | None:
        """Return whether a disk is this volume by uuid or SCSI id, or None if neither proves it."""
        if self.vdi_uuid is not None:
            return vdi_uuid.lower() == self.vdi_uuid
        if self.scsi_ids and scsi_id:
            return all(_is_same(expected, _bare(scsi_id)) for expected in self.scsi_ids)
        return None

    def check(
        self,
        *,
        vdi_uuid: str | None = None,
        scsi_id: str | None = None,
        size: int | None = None,
        may_lag: bool = False,
    ) -> None:
        """Raise WrongVolume if the VDI is provably another disk (`scsi_id` of its sm_config, `size` in bytes).

        None on either side proves nothing. If `may_lag`, xapi may show the size from before the volume grew: then a
        smaller size is only logged.
        """
        if self.vdi_uuid is not None and vdi_uuid is not None and vdi_uuid.lower() != self.vdi_uuid:
            raise WrongVolume(f"VDI {self.vdi_uuid}", found=f"VDI {vdi_uuid}")
        if self.scsi_ids and scsi_id:
            for expected in self.scsi_ids:
                if not _is_same(expected, _bare(scsi_id)):
                    raise WrongVolume(f"SCSI id {expected}", found=f"SCSI id {scsi_id}")
            return
        if size is None:
            return
        expected_size = self.size_bytes or (self.size_gib or 0) * GIB
        if may_lag and size < expected_size:
            logger.warning("VDI %s shows %d bytes, from before it grew to %d", vdi_uuid, size, expected_size)
            return
        if self.size_bytes is not None and size != self.size_bytes:
            raise WrongVolume(f"{self.size_bytes} bytes", found=f"{size} bytes")
        if self.size_bytes is None and self.size_gib is not None and size // GIB != self.size_gib:
            raise WrongVolume(f"{self.size_gib} GiB", found=f"{size} bytes, which is {size / GIB:.2f} GiB")


def _bare(scsi_id: str) -> str:
    text = scsi_id.strip().lower()
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    return text.replace(":", "")  # arrays and switches print 60:01:40:5…


def _is_same(one: str, other: str) -> bool:
    """Return whether two SCSI ids are equal but for the type digit, which udev writes and an array does not."""
    shorter, longer = sorted((one, other), key=len)
    return one == other or (longer[0] in _TYPE_DIGITS and longer[1:] == shorter)
