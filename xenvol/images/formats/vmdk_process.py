"""Unpack a VMDK with qemu-img, which may read one file and write one disk of a given size.

qemu-img is the best kept reader of VMDKs. It runs in its own process with limits, every distribution has it, and
only a caller with VMDKs needs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from xenvol.images.errors import InvalidImage, NoRoomToStage
from xenvol.images.sources.staging import Staging

FORMAT: Final = "vmdk"
"""Also qemu-img's name for it."""

_POLL: Final = 0.1  # seconds; a cancel is noticed within this time
_MEMORY: Final = 4 << 30  # bytes of address space; qemu-img takes about 1 GiB, and touches little of it
_CPU: Final = 60  # seconds, and one more for each 16 MiB; qemu-img unpacks ten times as fast
# Sets the limits before qemu-img starts, and has it killed with this process. preexec_fn may hang with threads.
_LAUNCHER: Final = """
import ctypes, os, resource, sys
parent, file_size, memory, cpu = map(int, sys.argv[1:5])
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != parent:
    sys.exit(1)
for limit, value in (("FSIZE", file_size), ("AS", memory), ("CPU", cpu), ("CORE", 0)):
    kind = getattr(resource, "RLIMIT_" + limit)
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
os.execv(sys.argv[5], sys.argv[5:])
"""


def unfold(
    source: Path,
    target: Path,
    *,
    program: str,
    name: str,
    size: int,
    staging: Staging,
    tick: Callable[[int], None],
) -> None:
    """Have `program`, a qemu-img, write the disk of `size` bytes into `target`, an empty file in `staging`.

    `tick` gets the bytes written, and is called several times a second; an error from it ends the process. The
    caller removes the target. Raises InvalidImage, NoRoomToStage.
    """
    # "backing": null, so that qemu-img opens no parent that the image names
    opened = {
        "driver": FORMAT,
        "file": {"driver": "file", "filename": os.fspath(source.absolute())},
        "backing": None,
    }
    command = [program, "convert", "-O", "raw", f"json:{json.dumps(opened)}", str(target.absolute())]
    limits = [str(number) for number in (os.getpid(), size, _MEMORY, _CPU + (size >> 24))]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, *limits, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env={"LC_ALL": "C", "PATH": os.defpath},
        )
        try:
            _wait(process, target, tick)
        finally:
            process.kill()  # does nothing if it has ended
            process.wait()
        if process.returncode != 0:
            raise _failure(name, staging, size, process.returncode, said)
    written = target.stat().st_size
    if written != size:
        problem = f"its disk has {written} bytes, and its header says {size}"
        raise InvalidImage(name, format=FORMAT, problem=problem, offset=0x0C)


def _wait(process: subprocess.Popen[bytes], target: Path, tick: Callable[[int], None]) -> None:
    written = 0
    while process.returncode is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL)
        now = target.stat().st_blocks * 512
        tick(max(0, now - written))
        written = max(written, now)


def _failure(name: str, staging: Staging, size: int, code: int, said: IO[bytes]) -> Exception:
    said.seek(max(0, said.seek(0, os.SEEK_END) - 4096))
    text = said.read().decode("utf-8", "replace").strip()
    if "No space left" in text or "quota" in text.lower():
        return NoRoomToStage(
            str(staging.directory), needed=size, free=staging.room(), reason=f"{name} must be unpacked"
        )
    last = text.splitlines()[-1] if text else f"it ended with {code}"
    return InvalidImage(
        name, format=FORMAT, problem=f"qemu-img cannot read it ({last.removeprefix('qemu-img: ')[-300:]})"
    )
