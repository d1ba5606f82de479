"""What xenvol writes on objects of xapi, so that anybody can read, after any crash, what is its doing.

Keys of other_config; of an SR, of sm_config, the one map that `SR.introduce` sets. A key of ours never holds a secret.
"""

MARK = "xenvol"
"""On an SR that we introduced, a VDI that we brought into somebody else's SR, a PBD there that we made or plugged."""
CREATED = "created"
"""Value of `MARK` on a PBD that we created."""
PLUGGED = "plugged"
"""Value of `MARK` on a PBD that was there, unplugged, and that we plugged."""
SHARED = "xenvol:shared"
"""On a VDI that we made sharable: its own uuid. A copy inherits the mark, and is not what we made sharable."""
CONNECTED = "xenvol:connected"
"""On a VDI that was connected without a VM: its own uuid, the driver_volume_type and the volume's id, with spaces
between. A copy inherits the mark, and is not in use. Earlier releases wrote an empty text."""

TURN = "xenvol:turn"
"""On an SR, while one attempt changes it: which attempt, on which machine, since when (UTC, ISO 8601)."""
LEFT = "xenvol:left"
"""On an SR that we introduced: the attachment for which that was done is over, and others are left."""

VOLUME = "xenvol:volume"
"""On a VBD: the volume's id."""
DISK = "xenvol:disk"
"""On a VBD: where its disk lies, as its driver tells it (`VolumeDriver.volume_key`), a line for each place."""
VDI = "xenvol:vdi"
"""On a VBD: the reference of the disk that these marks are about. A clone or a revert copies the marks to a VBD that
shows another disk, of which they say nothing."""
SR = "xenvol:sr"
"""On a VBD: the reference of the SR that shows its disk, in case that the disk's record goes first."""
JOINED = "xenvol:joined"
"""On a VBD, or on a VDI that has `CONNECTED`: its SR was there before, introduced by another attempt."""
ATTACHMENT = "xenvol:attachment"
"""On a VBD: the attachment's id."""
DRIVER = "xenvol:driver"
"""On a VBD: the driver_volume_type."""

BACKEND = "xenvol:backend"
"""On an SR: the token of the Storage Manager's backend that it is. It stays when its last volume is detached."""
MANAGED = "xenvol:managed"
"""On a VDI: the id of the Storage Manager's volume that it is."""
CREATING = "xenvol:creating:"
"""Key of a VDI's other_config, followed by the token of a volume: the VDI was made for it, and nobody has said yet
that it is the one. On the source of a copy it says that a copy is being made, which inherits it."""
COPIED_BY = "xenvol:copied-by"
"""On a VDI that is a copy: the key of the mark by which it was made, so that no other disk with that mark is."""

IMAGE = "xenvol:image"
"""On a VDI that is being filled, a snapshot that is being read, a VBD by which that is done: the token of the attempt,
when it began (UTC, ISO 8601) and on which machine, with a space between. What has it and is old is nobody's."""
IMAGE_OF = "xenvol:image-of"
"""On a VDI that has `IMAGE`: its own uuid. A copy inherits both, names another disk, and so is its maker's."""
EXPORTED = "xenvol:exported:"
"""Key of a VDI's other_config, followed by the token of an export, while a snapshot of it is made; that inherits it.
The same words. It says that the snapshot may be that export's; that it is, `IMAGE_OF` says."""
FILLED = "xenvol:filled"
"""On a VDI that was there before and that is written over: the same words. After a failure it stays, with ``-`` for the
machine: the disk holds neither what it held nor the image."""
