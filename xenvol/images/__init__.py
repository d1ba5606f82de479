"""Images in and out of any SR type: `import_image`, `fill_vdi`, `write_device`, `export_image`, `inspect_image`.

A disk is made through XenAPI alone and filled through xapi's own HTTP door, or through a block device where we run in
the pool; so every SR type works, and no host's file system is touched. `docs/images.md` says what is read and written.
"""

from xenvol.images.environment import Surroundings
from xenvol.images.exporting import ExportedImage, export_image
from xenvol.images.importing import ImportedImage, fill_vdi, import_image, write_device
from xenvol.images.inspecting import ImageInfo, inspect_image
from xenvol.images.opening import FORMATS, ImageSource
from xenvol.images.progress import Progress
from xenvol.images.sweeping import Leftover, find_leftovers, sweep

__all__ = [
    "FORMATS",
    "ExportedImage",
    "ImageInfo",
    "ImageSource",
    "ImportedImage",
    "Leftover",
    "Progress",
    "Surroundings",
    "export_image",
    "fill_vdi",
    "find_leftovers",
    "import_image",
    "inspect_image",
    "sweep",
    "write_device",
]
