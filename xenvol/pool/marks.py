"""The marks that xenvol writes on objects of xapi, so that after any crash an operator can read what xenvol did.

They are keys of other_config; of an SR, also of sm_config, the one map that `SR.introduce` sets. No mark holds a
secret.
"""

MARK = "xenvol"
"""On an SR that xenvol introduced: the SR's own uuid; earlier releases wrote an empty text. In another owner's SR: on a
VDI that xenvol introduced, and on a PBD that it created or plugged."""
CREATED = "created"
"""Value of `MARK` on a PBD that xenvol created."""
PLUGGED = "plugged"
"""Value of `MARK` on a PBD that existed unplugged, and that xenvol plugged."""
SHARED = "xenvol:shared"
"""On a VDI that xenvol made sharable: the VDI's own uuid. A copy of the VDI inherits the mark with the wrong uuid, so
the mark does not count there."""
CONNECTED = "xenvol:connected"
"""On a VDI that was connected without a VM: its own uuid, the driver_volume_type and the volume's id, separated by
spaces. A copy inherits the mark with the wrong uuid, and is not in use. Earlier releases wrote an empty text."""

TURN = "xenvol:turn"
"""On an SR, while one attempt changes it: which attempt, on which machine, since when (UTC, ISO 8601)."""
LEFT = "xenvol:left"
"""On an SR that xenvol introduced: the attachment for which it was introduced has ended, and others are left."""

VOLUME = "xenvol:volume"
"""On a VBD: the volume's id."""
DISK = "xenvol:disk"
"""On a VBD: where its disk lies, one line for each location, as the driver says (`VolumeDriver.volume_key`)."""
VDI = "xenvol:vdi"
"""On a VBD: the reference of the disk that these marks describe. A clone or a revert copies the marks to a VBD that
shows another disk, where they do not count."""
SR = "xenvol:sr"
"""On a VBD: the reference of the SR that shows its disk, in case the disk's record is dropped first."""
JOINED = "xenvol:joined"
"""On a VBD, or on a VDI that has `CONNECTED`: another attempt had introduced its SR before."""
ATTACHMENT = "xenvol:attachment"
"""On a VBD: the attachment's id."""
DRIVER = "xenvol:driver"
"""On a VBD: the driver_volume_type."""

BACKEND = "xenvol:backend"
"""On an SR: the token of its backend in the Storage Manager. The SR stays when its last volume is detached."""
FLAVOR = "xenvol:flavor"
"""On an SR that has `BACKEND`: the label of its backend's flavor, for a database that is lost."""
MANAGED = "xenvol:managed"
"""On a VDI: the id of its volume in the Storage Manager."""
CREATING = "xenvol:creating:"
"""Key of a VDI's other_config, followed by the token of a volume: the VDI was made for this volume, and no process has
confirmed it yet. On the source of a copy: a copy is being made, and inherits the mark."""
COPIED_BY = "xenvol:copied-by"
"""On a VDI that is a copy: the key of the mark by which it was made. So no other disk with that mark counts as the
copy."""

IMAGE = "xenvol:image"
"""On a VDI that an import fills, a snapshot that an export reads, and the VBD of such a transfer: the token of the
attempt, when it began (by the pool's clock; UTC, ISO 8601) and on which machine, separated by spaces. An old one is an
orphan."""
IMAGE_OF = "xenvol:image-of"
"""On a VDI that has `IMAGE`: its own uuid. A copy inherits both, with the wrong uuid, and belongs to its maker."""
EXPORTED = "xenvol:exported:"
"""Key of a VDI's other_config, followed by the token of an export, while xapi makes the snapshot, which inherits it.
The value is that of `IMAGE`. The mark says that the snapshot may belong to that export; `IMAGE_OF` says that it
does."""
FILLED = "xenvol:filled"
"""On a VDI that an import overwrites: the value of `IMAGE`. After a failure the mark stays, with ``-`` before the
machine. While it is there, the disk holds neither its old data nor the image. A copy inherits it, rightly."""
