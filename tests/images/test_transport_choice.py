"""Which transport is chosen, and why the others are not; and the pool for the tests of all transports."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import XenAPI

import xenvol
from xenvol.images.disk_image import DiskImage, Piece
from xenvol.images.errors import NoTransport
from xenvol.images.transports import Timeouts, Transport, choose_transport, find_own_vm
from xenvol.images.transports.block import BlockTransport
from xenvol.images.transports.choice import own_uuid
from xenvol.images.transports.http import HTTPTransport
from xenvol.pool.transfer_mark import Attempt
from xenvol.pool.view import View
from xenvol.session import Endpoint, Session
from xenvol.session.refs import SRRef, VBDRef, VDIRef
from xenvol.simulator import Simulator
from xenvol.simulator.rulebook import Call
from xenvol.simulator.rules import datapath
from xenvol.storage.srtypes import begins_blank

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SIZE = 8 * MIB
HURRY = Timeouts(head=5, stall=5, finish=5, settle=2, device=1)
"""So that a test that waits in vain fails soon."""


class Pool:
    """A simulated pool with an SR that every host has, one that only the last has, and our session in it."""

    def __init__(self, xapi: Simulator, home: Path, **trust: Any) -> None:
        self.xapi = xapi
        self.home = home
        self.trust = trust
        self.filesystem = xapi.storage.shares.add_nfs("10.0.0.2").export("/vols", size=1 << 44).filesystem
        with xapi.xapi.lock:
            nfs = {"server": "10.0.0.2", "serverpath": "/vols"}
            self.sr = SRRef(xapi.add_sr("store", type="nfs", device_config=nfs, create=True))
        self.session = xenvol.connect(xapi.url, xapi.user, xapi.password, **trust)
        self.view = View.of(Session(self.session, sleep=lambda seconds: None))
        self.attempt = Attempt.begin(self.view)
        self.tasks = set(xapi.db.refs("task"))

    def vdi(self, size: int = SIZE, sr: str | None = None, **values: Any) -> VDIRef:
        with self.xapi.xapi.lock:
            return VDIRef(self.xapi.add_vdi(sr or self.sr, "disk", size=size, **values))

    def local_sr(self, host: int = -1) -> SRRef:
        """One that only this host has."""
        xapi = self.xapi
        with xapi.xapi.lock:
            ref = xapi.db.refs("host")[host]
            name = xapi.db.get("host", ref, "hostname")
            xapi.storage.host(name).mounts.make_directory("/srv/images", size=1 << 40)
            config = {"location": "/srv/images"}
            return SRRef(xapi.add_sr("local", type="file", device_config=config, hosts=[ref], shared=False))

    def file(self, vdi: str) -> Path:
        """The sparse file behind the disk."""
        with self.xapi.xapi.lock:
            db = self.xapi.db
            pbds = [db.row("PBD", pbd) for pbd in db.children(db.row("VDI", vdi)["SR"], "PBDs")]
            host = pbds[-1]["host"]
            return datapath.content(Call(self.xapi.xapi, "test", "", "", host), host, vdi)

    def bytes_of(self, vdi: str) -> bytes:
        return self.file(vdi).read_bytes()

    def root(self, vm: str | None = None) -> Path:
        """Where a machine's own files lie: of the master's control domain, or of a guest."""
        db = self.xapi.db
        root = self.home / (vm or "root")
        uuid = db.row("VM", vm or db.row("host", self.xapi.xapi.master)["control_domain"])["uuid"]
        files = (
            {"etc/xensource-inventory": f"A='b'\nCONTROL_DOMAIN_UUID='{uuid}'\nINSTALLATION_UUID='x'\n"}
            if vm is None
            else {"sys/hypervisor/uuid": f"{uuid}\n", "sys/hypervisor/type": "xen\n"}
        )
        return write_files(root, files)

    def choose(self, sr: str | None = None, **options: Any) -> Transport:
        options = {"timeouts": HURRY, "dev": self.xapi.dev, "root": self.home / "nowhere", **options}
        options["wanted"] = options.pop("road", "auto")
        return choose_transport(self.view, SRRef(sr or self.sr), self.attempt, **options)

    def http(self, sr: str | None = None, **options: Any) -> HTTPTransport:
        road = self.choose(sr, road="http", **options)
        assert isinstance(road, HTTPTransport)
        return road

    def block(self, **options: Any) -> BlockTransport:
        road = self.choose(road="block", root=self.root(), **options)
        assert isinstance(road, BlockTransport)
        return road

    def residue(self) -> list[str]:
        """Tasks and VBDs that were not there in the beginning."""
        with self.xapi.xapi.lock:
            db = self.xapi.db
            tasks = [db.row("task", ref) for ref in db.refs("task") if ref not in self.tasks]
            vbds = [db.row("VBD", ref) for ref in db.refs("VBD")]
        return [f"task {t['name_label']} {t['status']}" for t in tasks] + [
            f"VBD {v['device']} {v['currently_attached']}" for v in vbds
        ]

    def vbds(self) -> list[VBDRef]:
        return [VBDRef(ref) for ref in self.xapi.db.refs("VBD")]


@contextmanager
def pool_in(home: Path, **options: Any) -> Iterator[Pool]:
    with Simulator(**options) as xapi:
        trust: dict[str, Any] = {"ca_file": xapi.ca_file} if xapi.tls else {}
        made = Pool(xapi, home, **trust)
        with made.session:
            yield made


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    with pool_in(tmp_path) as made:
        yield made


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Pool]:
    """A pool of two."""
    with pool_in(tmp_path, hosts=2) as made:
        yield made


def write_files(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def assembled(disk: DiskImage) -> bytes:
    """The disk as its pieces tell it; they must not overlap, and lie in it."""
    data = bytearray(disk.virtual_size)
    covered: list[tuple[int, int]] = []
    for offset, piece in disk.pieces():
        assert offset + len(piece) <= disk.virtual_size
        data[offset : offset + len(piece)] = piece
        covered.append((offset, offset + len(piece)))
    covered.sort()
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(covered))
    return bytes(data)


def read(road: Transport, vdi: VDIRef) -> bytes:
    with road.contents(vdi) as disk:
        return assembled(disk)


def pieces_of(data: bytes, *offsets: int, size: int = MIB) -> list[Piece]:
    """Those at these places of the disk that `data` is."""
    return [Piece(offset, data[offset : offset + size]) for offset in offsets]


# ---- the choice


def reasons(pool: Pool, sr: str | None = None, **options: Any) -> dict[str, str]:
    with pytest.raises(NoTransport) as caught:
        pool.choose(sr, **options)
    assert "no transport reaches SR" in str(caught.value)
    return caught.value.reasons


class TestAuto:
    def test_is_the_block_device_in_a_control_domain(self, pool: Pool) -> None:
        with pool.xapi.journal.recording() as calls:
            assert isinstance(pool.choose(root=pool.root()), BlockTransport)
        assert len(calls) <= 3

    def test_is_the_block_device_in_a_guest_of_a_host_that_has_the_sr(self, pool: Pool) -> None:
        guest = pool.xapi.add_vm("us")
        with pool.xapi.journal.recording() as calls:
            assert isinstance(pool.choose(root=pool.root(guest)), BlockTransport)
        assert len(calls) <= 4

    def test_is_http_from_anywhere_else(self, pool: Pool) -> None:
        with pool.xapi.journal.recording() as calls:
            assert isinstance(pool.choose(), HTTPTransport)
        assert calls.methods() == ["SR.get_record", "event.from"]

    def test_is_http_where_our_own_host_does_not_have_the_sr(self, hosts: Pool) -> None:
        assert isinstance(hosts.choose(hosts.local_sr(), root=hosts.root()), HTTPTransport)

    def test_is_http_for_who_has_no_right_to_devices(self, pool: Pool) -> None:
        assert isinstance(pool.choose(root=pool.root(), dev=pool.home / "none"), HTTPTransport)

    def test_is_http_in_a_guest_that_takes_no_disks(self, pool: Pool) -> None:
        guest = pool.xapi.add_vm("us", kind="hvm", pv_drivers=False)
        assert isinstance(pool.choose(root=pool.root(guest)), HTTPTransport)
        assert "Xen guest drivers" in reasons(pool, root=pool.root(guest), road="block")["block"]


class TestRefusal:
    def test_names_both_roads_where_the_sr_is_plugged_nowhere(self, pool: Pool) -> None:
        (pbd,) = pool.xapi.db.children(pool.sr, "PBDs")
        pool.view.call("PBD.unplug", pbd)
        found = reasons(pool, root=pool.root())
        assert list(found) == ["block", "http"]
        assert all("plugged on no host" in reason for reason in found.values())

    def test_makes_nothing_and_only_reads(self, pool: Pool) -> None:
        (pbd,) = pool.xapi.db.children(pool.sr, "PBDs")
        pool.view.call("PBD.unplug", pbd)
        before = pool.xapi.snapshot()
        with pool.xapi.journal.recording() as calls:
            reasons(pool)
        assert all(".get_" in call or call == "event.from" for call in calls.methods())
        assert before.difference(pool.xapi.snapshot()) == []

    @pytest.mark.parametrize("sr_type", ["iscsi", "hba"])
    def test_of_a_lun_is_about_the_control_domain_on_both_roads(self, pool: Pool, sr_type: str) -> None:
        with pool.xapi.xapi.lock:
            pool.xapi.db.set("SR", pool.sr, type=sr_type)
        found = reasons(pool, root=pool.root())
        assert list(found) == ["block", "http"]
        assert all(f"type {sr_type} cannot be plugged into a control domain" in r for r in found.values())
        assert isinstance(pool.choose(root=pool.root(pool.xapi.add_vm("us"))), BlockTransport)

    def test_of_block_elsewhere_says_that_this_is_no_vm_of_the_pool(self, pool: Pool) -> None:
        assert reasons(pool, road="block") == {"block": "this machine is no VM of the pool"}

    def test_of_block_on_another_host_names_the_vm(self, hosts: Pool) -> None:
        found = reasons(hosts, hosts.local_sr(), root=hosts.root(), road="block")
        assert "is not plugged on the host of VM" in found["block"]

    def test_of_a_session_without_an_address_names_the_remedy(self, pool: Pool) -> None:
        theirs = XenAPI.Session(pool.xapi.url)
        theirs.login_with_password(pool.xapi.user, pool.xapi.password, "1.0", "test")
        pool.view = View.of(theirs)
        assert "use xenvol.connect, or give endpoint" in reasons(pool)["http"]
        vdi, data = pool.vdi(), os.urandom(SIZE)
        road = pool.http(endpoint=Endpoint.parse(pool.xapi.url))
        road.fill(vdi, pieces_of(data, 0, size=SIZE))
        assert read(road, vdi) == data
        theirs("close")()


class TestOwnVM:
    def test_is_told_by_the_inventory_of_a_control_domain(self, pool: Pool) -> None:
        vm = find_own_vm(pool.view, root=pool.root())
        assert vm is not None
        assert pool.view.record("VM", vm.ref)["is_control_domain"]

    def test_is_told_by_the_kernel_of_a_guest(self, pool: Pool) -> None:
        guest = pool.xapi.add_vm("us")
        vm = find_own_vm(pool.view, root=pool.root(guest))
        assert vm is not None
        assert vm.ref == guest

    @pytest.mark.parametrize(
        "files",
        [
            {},
            {"sys/hypervisor/uuid": "00000000-0000-0000-0000-000000000000\n"},
            {"sys/hypervisor/uuid": "nonsense\n"},
            {"sys/hypervisor/uuid": "11111111-2222-3333-4444-555555555555", "sys/hypervisor/type": "kvm"},
            {"etc/xensource-inventory": "CONTROL_DOMAIN_UUID='------------------------------------'\n"},
            {"etc/xensource-inventory": "CONTROL_DOMAIN_UUID=\n"},
        ],
    )
    def test_is_none_where_nothing_says_so_and_nobody_is_asked(
        self, pool: Pool, tmp_path: Path, files: dict[str, str]
    ) -> None:
        root = write_files(tmp_path / "other", files)
        assert own_uuid(root) is None
        with pool.xapi.journal.recording() as calls:
            assert find_own_vm(pool.view, root=root) is None
        assert len(calls) == 0

    def test_is_none_where_the_pool_knows_no_such_vm_or_it_does_not_run(
        self, pool: Pool, tmp_path: Path
    ) -> None:
        stranger = {"sys/hypervisor/uuid": "11111111-2222-3333-4444-555555555555"}
        assert find_own_vm(pool.view, root=write_files(tmp_path / "other", stranger)) is None
        halted = pool.xapi.add_vm("us", power_state="Halted")
        assert find_own_vm(pool.view, root=pool.root(halted)) is None


@pytest.mark.parametrize(
    ("sr_type", "sr_config", "vdi_config", "expected"),
    [
        ("nfs", {}, {}, True),
        ("nfs", {}, {"type": "raw"}, True),
        ("ext", {}, {}, True),
        ("lvm", {"use_vhd": "true"}, {}, True),
        ("lvm", {"use_vhd": "true"}, {"type": "raw"}, False),
        ("lvm", {"use_vhd": "false"}, {}, False),
        ("lvm", {}, {}, False),
        ("lvmoiscsi", {"use_vhd": "true"}, {"type": "raw"}, False),
        ("lvmohba", {"use_vhd": "true"}, {"vdi_type": "vhd"}, True),
        ("LVMoHBA", {}, {}, False),
        ("equal", {"allocation": "THICK"}, {}, False),
        ("equal", {"allocation": "thin"}, {}, True),
        ("cslg", {}, {}, False),
        ("iscsi", {}, {}, False),
        ("hba", {}, {}, False),
        ("rawhba", {}, {}, False),
        ("somebodys", {}, {}, True),
    ],
)
def test_a_new_disk_begins_blank_but_on_the_types_that_xapi_writes_zeros_for(
    sr_type: str, sr_config: dict[str, str], vdi_config: dict[str, str], expected: bool
) -> None:
    """As must_write_zeroes_into_new_vdi of sm_fs_ops.ml has it, and no LUN does."""
    assert begins_blank({"type": sr_type, "sm_config": sr_config}, vdi_config) is expected
