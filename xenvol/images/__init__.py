"""Images in and out of any SR type: `import_image`, `fill_vdi`, `write_device`, `export_image`, `inspect_image`.

xenvol makes a disk through XenAPI alone. It fills the disk through xapi's HTTP handler, or through a block device if
this machine is a VM of the pool. So every SR type works, and xenvol needs no access to a host's file system.
`docs/images.md` says which formats are read and written.
"""

from xenvol.images.exporting import ExportedImage, export_image
from xenvol.images.image_source import FORMATS, ImageSource
from xenvol.images.importing import ImportedImage, fill_vdi, import_image, write_device
from xenvol.images.opening import ImageInfo, inspect_image
from xenvol.images.options import Environment
from xenvol.images.progress import Progress
from xenvol.images.sweeping import Leftover, find_leftovers, sweep

__all__ = [
    "FORMATS",
    "Environment",
    "ExportedImage",
    "ImageInfo",
    "ImageSource",
    "ImportedImage",
    "Leftover",
    "Progress",
    "export_image",
    "fill_vdi",
    "find_leftovers",
    "import_image",
    "inspect_image",
    "sweep",
    "write_device",
]
