"""`xenvol image`: each command is one call of `xenvol.images`.

URLs, and zstd before Python 3.14, need the extra `images`; the rest does not.
"""

from __future__ import annotations

from collections.abc import Mapping

import click

from xenvol.cli.group import Commands, Entry

COMMANDS: Mapping[str, Entry] = {
    name: Entry(f"xenvol.cli.image.{module}:{function}", about, "images")
    for name, module, function, about in (
        ("import", "importing", "import_", "Make a disk from an image, or write an image over a disk."),
        ("write", "importing", "write", "Write an image over a block device of this machine."),
        ("export", "exporting", "export", "Write a disk to an image."),
        ("info", "looking", "info", "Show what an image is, and whether it is complete."),
        ("sweep", "looking", "sweep_", "Show what killed transfers left, and remove it."),
    )
}


class ImageCommands(Commands):
    entries = COMMANDS
    elsewhere = {  # as qemu-img, and others, call them
        "convert": "import",
        "download": "export",
        "upload": "import",
        "check": "info",
        "inspect": "info",
    }


@click.group("image", cls=ImageCommands)
def image() -> None:
    """Make disks from images, and images from disks, on SRs of any type.

    An image is raw, VHD (with its chain), qcow2, VMDK, ISO, a tarball, or a disk of an OVA, compressed or
    not; xenvol detects the format. It comes from a file, from standard input or from an image service. xenvol checks
    it before it makes anything. The disk holds the image exactly, or there is no disk.

    \b
    Example:
      xenvol image info debian.qcow2
      xenvol image import debian.qcow2 'local storage' --name debian --json
      xenvol image export debian debian.vhd --format vhd
      xenvol image sweep
    """
