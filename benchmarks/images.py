"""How fast images go in, beside the usual tools on the same machine: prints ratios. Run it by hand.

    python benchmarks/images.py [--size 2] [--rounds 5] [--staging DIRECTORY]

Two raw images of `--size` GiB are made, one full of random bytes and one a tenth of which is data, and from them VHDs
and a tarball. Each comparison runs both sides by turns, `--rounds` times, in one simulated pool that runs in a process
of its own; what counts is the ratio of the medians, theirs / ours: 1.25 is a quarter faster than they. xapi's door is
the simulator's for both, and so are the device files. A whole import is timed, from the first call to the last; of the
tools only the copying, since they make no disk.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import xenvol
from xenvol.images import Environment, import_image
from xenvol.session import Session
from xenvol.simulator import Simulator

MIB, GIB = 1 << 20, 1 << 30
GOAL, GOAL_OF_TARBALLS = 0.9, 1 / 1.1


def serve(pipe: multiprocessing.connection.Connection) -> None:
    """The pool, until the pipe says something."""
    with Simulator() as xapi:
        xapi.storage.shares.add_nfs("10.0.0.2").export("/vols", size=1 << 44)
        config = {"server": "10.0.0.2", "serverpath": "/vols"}
        sr = xapi.add_sr("store", type="nfs", device_config=config, create=True)
        vms = [xapi.db.row("VM", ref) for ref in xapi.db.refs("VM")]
        (control_domain,) = [vm["uuid"] for vm in vms if vm["is_control_domain"]]
        pipe.send((xapi.url, sr, control_domain, str(xapi.dev)))
        pipe.recv()


@dataclass(frozen=True)
class Pool:
    url: str
    session: Session
    sr: str
    dev: Path
    here: Environment

    def vdi(self, size: int) -> str:
        record = {
            "name_label": "for a tool",
            "name_description": "",
            "SR": self.sr,
            "virtual_size": size,
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": {},
            "xenstore_data": {},
            "sm_config": {},
            "tags": [],
        }
        return str(self.session.call("VDI.create", record))

    @contextlib.contextmanager
    def plugged(self, vdi: str) -> Iterator[Path]:
        """The disk's device file."""
        (vm,) = [r for r, vm in self.session.call("VM.get_all_records").items() if vm["is_control_domain"]]
        vbd = self.session.call(
            "VBD.create",
            {
                "VM": vm,
                "VDI": vdi,
                "userdevice": "autodetect",
                "bootable": False,
                "mode": "RW",
                "type": "Disk",
                "unpluggable": True,
                "empty": False,
                "other_config": {},
                "qos_algorithm_type": "",
                "qos_algorithm_params": {},
            },
        )
        self.session.call("VBD.plug", vbd)
        try:
            yield self.dev / self.session.call("VBD.get_device", vbd)
        finally:
            self.session.call("VBD.unplug", vbd)
            self.session.call("VBD.destroy", vbd)


@contextlib.contextmanager
def pool(place: Path) -> Iterator[Pool]:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
    process.start()
    url, sr, control_domain, dev = ours.recv()
    sysfs = place / "root/sys/hypervisor"
    sysfs.mkdir(parents=True)
    (sysfs / "uuid").write_text(control_domain)
    try:
        with xenvol.connect(url, "root", "secret") as session:
            yield Pool(url, session, sr, Path(dev), Environment(root=place / "root", dev=Path(dev)))
    finally:
        ours.send("stop")
        process.join()


class Images:
    """The files."""

    def __init__(self, place: Path, size: int) -> None:
        self.size = size
        self.full, self.sparse = place / "full.raw", place / "sparse.raw"
        chance = random.Random(1)
        with self.full.open("wb") as full, self.sparse.open("wb") as sparse:
            for start in range(0, size, MIB):
                data = chance.randbytes(MIB)
                full.write(data)
                if chance.random() < 0.1:
                    sparse.seek(start)
                    sparse.write(data)
            sparse.truncate(size)
        self.vhd = {
            "full": self._vhd(self.full, place / "full.vhd"),
            "sparse": self._vhd(self.sparse, place / "sparse.vhd"),
        }
        self.qcow2 = place / "sparse.qcow2"
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.sparse, self.qcow2)
        (place / "0.vhd").hardlink_to(self.vhd["sparse"])
        self.tarball = place / "sparse.tar.gz"
        run("tar", "-C", place, "-czf", self.tarball, "0.vhd")
        os.sync()

    def _vhd(self, raw: Path, vhd: Path) -> Path:
        options = "subformat=dynamic,force_size=on"
        run("qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", options, raw, vhd)
        return vhd


def run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)


@dataclass(frozen=True)
class Comparison:
    what: str
    ours: Callable[[], object]
    tool: str
    theirs: Callable[[], object]
    goal: float | None = GOAL


class Bench:
    def __init__(self, pool: Pool, images: Images) -> None:
        self.pool = pool
        self.images = images

    def xenvol(self, image: Path, road: str) -> Callable[[], object]:
        def run_it() -> None:
            made = import_image(
                self.pool.session,
                image,
                self.pool.sr,
                road=road,  # type: ignore[arg-type]  # a test passes what its parameters say
                here=self.pool.here,
            )
            self.made.append(made.vdi_ref)

        return run_it

    made: list[str] = []

    def curl(self, image: Path) -> Callable[[], object]:
        def run_it() -> None:
            vdi = self.pool.vdi(self.images.size)
            self.made.append(vdi)
            query = f"session_id={self.pool.session.handle}&vdi={vdi}"
            run("curl", "-sS", "-T", image, f"{self.pool.url}/import_raw_vdi?{query}")

        return run_it

    def on_device(self, *command: str | Path) -> Callable[[], object]:
        """`{}` is the device."""

        def run_it() -> None:
            vdi = self.pool.vdi(self.images.size)
            self.made.append(vdi)
            with self.pool.plugged(vdi) as device:
                run(*(str(word).format(device) for word in command))

        return run_it

    def dd(self, image: Path) -> Callable[[], object]:
        return self.on_device("dd", "status=none", f"if={image}", "of={}", "bs=1M", "conv=notrunc,fsync")

    def qemu_img(self, image: Path, format: str) -> Callable[[], object]:
        """Onto a disk that reads as zeros, flushed, as ours is."""
        return self.on_device(
            "qemu-img",
            "convert",
            "-n",
            "--target-is-zero",
            "-t",
            "writeback",
            "-f",
            format,
            "-O",
            "raw",
            image,
            "{}",
        )

    def untar(self) -> None:
        """`tar -x` into a pipe, whose end somebody reads."""
        command = f"tar -xzOf {self.images.tarball} | cat > /dev/null"
        subprocess.run(["sh", "-c", command], check=True)

    def comparisons(self) -> list[Comparison]:
        images = self.images
        vhd_full, vhd_sparse = images.vhd["full"], images.vhd["sparse"]
        return [
            Comparison(
                "raw, full, http", self.xenvol(images.full, "http"), "curl -T", self.curl(images.full)
            ),
            Comparison(
                "raw, sparse, http", self.xenvol(images.sparse, "http"), "curl -T", self.curl(images.sparse)
            ),
            Comparison(
                "VHD, full, http", self.xenvol(vhd_full, "http"), "curl -T, raw", self.curl(images.full)
            ),
            Comparison(
                "VHD, sparse, http", self.xenvol(vhd_sparse, "http"), "curl -T, raw", self.curl(images.sparse)
            ),
            Comparison("raw, full, block", self.xenvol(images.full, "block"), "dd", self.dd(images.full)),
            Comparison(
                "raw, full, block",
                self.xenvol(images.full, "block"),
                "qemu-img",
                self.qemu_img(images.full, "raw"),
            ),
            Comparison(
                "raw, sparse, block",
                self.xenvol(images.sparse, "block"),
                "qemu-img",
                self.qemu_img(images.sparse, "raw"),
            ),
            Comparison(
                "raw, sparse, block", self.xenvol(images.sparse, "block"), "dd", self.dd(images.sparse)
            ),
            Comparison(
                "VHD, full, block", self.xenvol(vhd_full, "block"), "qemu-img", self.qemu_img(vhd_full, "vpc")
            ),
            Comparison(
                "VHD, sparse, block",
                self.xenvol(vhd_sparse, "block"),
                "qemu-img",
                self.qemu_img(vhd_sparse, "vpc"),
            ),
            Comparison(
                "qcow2, sparse, block",
                self.xenvol(images.qcow2, "block"),
                "qemu-img",
                self.qemu_img(images.qcow2, "qcow2"),
            ),
            Comparison(
                "tarball, gzip, http",
                self.xenvol(images.tarball, "http"),
                "tar -x",
                self.untar,
                GOAL_OF_TARBALLS,
            ),
            Comparison(
                "tarball, gzip, block",
                self.xenvol(images.tarball, "block"),
                "tar -x",
                self.untar,
                GOAL_OF_TARBALLS,
            ),
        ]

    def timed(self, work: Callable[[], object]) -> float:
        start = time.monotonic()
        work()
        seconds = time.monotonic() - start
        for vdi in self.made:
            self.pool.session.call("VDI.destroy", vdi)
        self.made.clear()
        os.sync()  # what one has not written yet is not the other's to write
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=float, default=2, help="GiB of each disk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--staging", help="where the images are made", default=None)
    parser.add_argument("--only", default="", help="comparisons whose names have this in them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.staging) as directory:
        place = Path(directory)
        images = Images(place, int(options.size * GIB) // MIB * MIB)
        with pool(place) as made:
            bench = Bench(made, images)
            print(
                f"disks of {images.size / GIB:g} GiB, {options.rounds} rounds; theirs / ours, least and most by round"
            )
            print(
                f"{'what':<24}{'beside':<16}{'ours s':>8}{'theirs s':>10}{'ratio':>8}{'least':>8}{'most':>8}{'goal':>8}"
            )
            for each in bench.comparisons():
                if options.only not in f"{each.what} {each.tool}":
                    continue
                pairs = [(bench.timed(each.ours), bench.timed(each.theirs)) for _ in range(options.rounds)]
                ours, theirs = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
                ratios = [their / our for our, their in pairs]
                verdict = (
                    ""
                    if each.goal is None
                    else f"{each.goal:.2f} {'' if theirs / ours >= each.goal else 'missed'}"
                )
                print(
                    f"{each.what:<24}{each.tool:<16}{ours:>8.2f}{theirs:>10.2f}{theirs / ours:>8.2f}"
                    f"{min(ratios):>8.2f}{max(ratios):>8.2f}   {verdict}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
