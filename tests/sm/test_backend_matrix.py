"""Every back end does, or refuses, what docs/backends.md says: this test writes the tables of that page.

``XENVOL_WRITE_DOCS=1`` writes them anew, row by row.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from backend_lab import (
    BY_NAME,
    GIB,
    MIB,
    WORLDS,
    StorageWorld,
    arrays_of,
    manager_of,
    secrets_of,
    somebodys_sr,
)

from xenvol.errors import UnmanagedVDI, VolumeInUse, XenVolError
from xenvol.session import Session
from xenvol.simulator import Simulator
from xenvol.simulator.sm.registry import sm_record
from xenvol.sm import StorageManager
from xenvol.sm.capacity import BackendStats
from xenvol.sm.errors import BackendInUse, NoBackendFits, NoSuchStorageDriver, NotSupported
from xenvol.sm.records import Backend, Volume
from xenvol.storage import srtypes
from xenvol.storage.srtypes import sr_type_of
from xenvol.testing.residue import changes, touch_hosts
from xenvol.volumeops import VolumeOps

PAGE = Path(__file__).parents[2] / "docs" / "backends.md"
IS_WRITING = os.environ.get("XENVOL_WRITE_DOCS") == "1"
WORKS, NOTHING = "works", "–"

OF_BACKENDS = ("add", "add, SR in the pool", "add, SR on the storage", "stats", "remove", "remove, destroy")
OF_VOLUMES = (
    "create",
    "attach, detach",
    "extend",
    "extend while attached",
    "snapshot",
    "clone",
    "from snapshot",
    "delete",
    "manage",
    "unmanage",
)
OF_TYPES = ("needs", "seen by", "formats", "space", "sizes are multiples of", "largest disk")
NO_DRIVER = "netapp, equal: no driver in the pool"

THIN = {"nfs", "smb", "cephfs", "glusterfs", "moosefs", "file", "zfs", "ext", "xfs", "largeblock"}

Cells = dict[str, str]


class Table:
    """A table of the page, between two comments; the first cell of a row is its name."""

    def __init__(self, name: str, columns: tuple[str, ...], rows: list[str]) -> None:
        self.begin, self.end = f"<!-- table: {name} -->\n", "<!-- /table -->"
        self.head = f"| | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}\n"
        self.columns, self.rows = columns, rows

    def check(self, name: str, cells: Mapping[str, str]) -> None:
        """Check that the page has this row, or write it."""
        assert set(cells) == set(self.columns)
        row = f"| {name} | {' | '.join(cells[column] for column in self.columns)} |"
        if IS_WRITING:
            self._write(name, row)
        assert self.read().get(name) == row, f"{PAGE.name} is out of date: XENVOL_WRITE_DOCS=1 writes it"

    def read(self) -> dict[str, str]:
        lines = self._parts(PAGE.read_text())[1].splitlines()[2:]
        return {line.split(" | ")[0].removeprefix("| "): line for line in lines}

    def _parts(self, text: str) -> tuple[str, str, str]:
        before, begin, rest = text.partition(self.begin)
        table, end, after = rest.partition(self.end)
        assert begin, f"{PAGE.name} has no line {self.begin!r}"
        assert end, f"{PAGE.name} has no line {self.end!r}"
        return before + begin, table, end + after

    def _write(self, name: str, row: str) -> None:
        with PAGE.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # other workers write other rows
            known = {**self.read(), name: row}
            before, _, after = self._parts(file.read())
            rows = [known[each] + "\n" for each in self.rows if each in known]
            file.seek(0)
            file.truncate()
            file.write(before + self.head + "".join(rows) + after)


NAMES = [world.name for world in WORLDS]
BACKENDS = Table("backends", OF_BACKENDS, [*NAMES, NO_DRIVER])
VOLUMES = Table("volumes", OF_VOLUMES, NAMES)
TYPES = Table(
    "types",
    OF_TYPES,
    [f"`{name}`" for name in srtypes.known_types() if name not in ("dummy", "rawiscsi", "rawhba", "cslg")],
)
ALL_TABLES = (BACKENDS, VOLUMES, TYPES)


def reason(error: XenVolError) -> str:
    """Return why it was refused, as short as possible."""
    match error:
        case NotSupported():
            text = error.reason
        case NoBackendFits():
            (text,) = error.reasons.values()
        case NoSuchStorageDriver():
            text = str(error)[str(error).index("neither XCP-ng") :]
        case _:
            text = str(error)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27} ?", "", text).removeprefix("web (xvda) has it plugged, and ")
    return re.split(r"[:;]|, since|, so|, which|, and", text)[0].strip()


class Row:
    """What one back end did in the test."""

    def __init__(self) -> None:
        self.cells: Cells = {}

    @contextlib.contextmanager
    def doing(self, column: str, *refusals: type[XenVolError]) -> Iterator[None]:
        """Note that it works, or that it is refused by one of these errors."""
        try:
            yield
        except refusals as error:
            self.cells[column] = reason(error)
            return
        self.cells.setdefault(column, WORKS)

    def of(self, columns: tuple[str, ...]) -> Cells:
        return {column: self.cells.get(column, NOTHING) for column in columns}


class Trial:
    """One back end's pool and Storage Manager, and the disks as the pool has them."""

    def __init__(
        self, xapi: Simulator, session: Session, manager: StorageManager, world: StorageWorld
    ) -> None:
        self.xapi, self.session, self.manager, self.world = xapi, session, manager, world
        self.ops = VolumeOps(session)
        self.row = Row()

    def add(self, **more: str) -> Backend:
        device = None if "sr_uuid" in more else self.world.format_device
        return self.manager.add_backend(
            "gold", self.world.sr_type, {**self.world.config, **more}, format_device=device
        )

    def size_in_pool(self, volume: Volume) -> int:
        return int(self.session.call("VDI.get_virtual_size", self.vdi_of(volume)))

    def vdi_of(self, volume: Volume) -> str:
        return str(self.session.call("VDI.get_by_uuid", volume.vdi_uuid))

    def check_sizes(self, volume_id: str, asked: int) -> None:
        """Check the size in the row and in the pool, rounded as the type rounds."""
        volume = self.manager.get_volume(volume_id)
        made = self.size_in_pool(volume)
        assert (volume.size, volume.virtual_size) == (asked, made)
        assert made == sr_type_of(self.world.sr_type).rounded(asked) >= asked

    def has(self, volume_id: str) -> bool:
        return any(volume.id == volume_id for volume in self.manager.list_volumes())

    def check_agreement(self) -> None:
        assert self.manager.audit(scan=False).findings == []


@pytest.fixture
def trial(xapi: Simulator, xapi_session: Session, tmp_path: Path, world: StorageWorld) -> Trial:
    world.arrange(xapi)
    xapi.add_vm("web")
    touch_hosts(xapi)
    return Trial(xapi, xapi_session, manager_of(xapi_session, tmp_path), world)


@pytest.mark.xapi(hosts=2)
@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_every_back_end_does_what_the_page_says(trial: Trial, world: StorageWorld) -> None:
    """From its registration to its removal; at the end, pool and storage are as before."""
    xapi, manager, row = trial.xapi, trial.manager, trial.row
    before, arrays, secrets = xapi.snapshot(), arrays_of(xapi), secrets_of(xapi)
    with row.doing("add"):
        backend = trial.add()
    work_on_volumes(trial)
    with row.doing("stats"):
        (stats,) = manager.stats()
        check_stats(trial, stats, volumes=1)
    vdi_uuid = str(manager.get_volume("v").vdi_uuid)
    with pytest.raises(BackendInUse):
        manager.remove_backend(backend.id)
    with row.doing("unmanage"):
        manager.unmanage_volume("v")
    with row.doing("remove"):
        manager.remove_backend(backend.id)
    check_only_data_stays(changes(before, xapi.snapshot()), backend, world)
    assert secrets_of(xapi) == secrets
    with row.doing("add, SR on the storage"):
        again = trial.add(sr_uuid=str(backend.sr_uuid))
    assert again.sr_uuid == backend.sr_uuid
    adopt_again(trial, vdi_uuid)
    trial.check_agreement()
    with row.doing("remove, destroy", NotSupported):
        manager.remove_backend(again.id, destroy=True)
    if world.luns:
        manager.remove_backend(again.id)
    assert changes(before, xapi.snapshot()) == []
    assert arrays_of(xapi) == arrays
    assert secrets_of(xapi) == secrets
    with row.doing("add, SR in the pool"):
        work_in_somebodys_sr(trial)
    BACKENDS.check(world.name, row.of(OF_BACKENDS))
    VOLUMES.check(world.name, row.of(OF_VOLUMES))


def work_on_volumes(trial: Trial) -> None:
    """Do everything that can be done with a volume ``v``, which stays."""
    manager, row = trial.manager, trial.row
    with row.doing("create", NoBackendFits):
        manager.create_volume("v", "gold", GIB + 1)
        trial.check_sizes("v", GIB + 1)
    if trial.world.luns:
        manage_a_lun(trial)
    volume = manager.get_volume("v")
    info = manager.initialize_connection("v")
    with row.doing("attach, detach"):
        attachment = trial.ops.attach_volume(info, "web")
        assert (attachment.vdi_uuid, attachment.virtual_size) == (volume.vdi_uuid, volume.virtual_size)
        assert (attachment.is_plugged, attachment.volume_id) == (True, "v")
        with row.doing("extend while attached", NotSupported):
            manager.extend_volume("v", volume.size + GIB)
        with pytest.raises((VolumeInUse, NotSupported)):
            manager.delete_volume("v")
        trial.ops.detach_volume(info, "web")
        assert len(trial.xapi.db.refs("SR")) == 1
        assert trial.xapi.db.get("VDI", trial.vdi_of(volume), "VBDs") == []
    larger = volume.size + GIB
    with row.doing("extend", NotSupported):
        manager.extend_volume("v", larger)
        trial.check_sizes("v", larger)
    with row.doing("snapshot", NotSupported):
        manager.create_snapshot("s", "v")
        trial.check_sizes("s", larger)
    with row.doing("clone", NotSupported):
        manager.clone_volume("c", "v")
        trial.check_sizes("c", larger)
    if row.cells["snapshot"] == WORKS:
        with row.doing("from snapshot", NotSupported):
            manager.clone_volume("f", "s", size=3 * GIB)
            trial.check_sizes("f", 3 * GIB)
    trial.check_agreement()
    with row.doing("delete", NotSupported):
        copies = [copy for copy in ("f", "c", "s") if trial.has(copy)]
        for copy in [*copies, *(["v"] if trial.world.luns else [])]:
            vdi_uuid = manager.get_volume(copy).vdi_uuid
            manager.delete_volume(copy)
            assert trial.session.find("VDI", {"uuid": str(vdi_uuid)}) == {}


def manage_a_lun(trial: Trial) -> None:
    """Make a LUN a volume: at once, or after the pool's administrator has adopted it."""
    (lun,) = [vdi for vdi in trial.session.call("VDI.get_all_records").values() if is_the_lun(trial, vdi)]
    try:
        trial.manager.manage_volume("v", lun["uuid"])
    except UnmanagedVDI as error:
        trial.row.cells["manage"] = f"{reason(error)}; once it is, works"
        record: dict[str, Any] = {"name_label": "", "name_description": "", "SR": lun["SR"], "type": "user"}
        sizes = {"virtual_size": int(lun["virtual_size"]), "sharable": False, "read_only": False}
        trial.session.call("VDI.create", {**record, **sizes, "other_config": {}})
        trial.manager.manage_volume("v", lun["uuid"])


def is_the_lun(trial: Trial, vdi: Mapping[str, Any]) -> bool:
    return vdi["sm_config"].get("SCSIid") in trial.world.luns


def adopt_again(trial: Trial, vdi_uuid: str) -> None:
    """Manage the disk of the volume again, and erase it if it can be erased."""
    with trial.row.doing("manage"):
        if trial.world.luns:
            manage_a_lun(trial)
        else:
            trial.manager.manage_volume("v", vdi_uuid)
    volume = trial.manager.get_volume("v")
    assert (volume.vdi_uuid, volume.size) == (vdi_uuid, trial.size_in_pool(volume))
    if trial.world.luns:
        trial.manager.unmanage_volume("v")
    else:
        trial.manager.delete_volume("v")


def work_in_somebodys_sr(trial: Trial) -> None:
    """Use an SR of the pool, and leave it as it was."""
    sr_uuid = somebodys_sr(trial.xapi, trial.world)
    before = trial.xapi.snapshot()
    backend = trial.manager.add_backend("gold", trial.world.sr_type, {"sr_uuid": sr_uuid})
    if not trial.world.luns:
        trial.manager.create_volume("w", "gold", GIB)
        trial.check_sizes("w", GIB)
        trial.manager.delete_volume("w")
    trial.check_agreement()
    trial.manager.remove_backend(backend.id)
    assert changes(before, trial.xapi.snapshot()) == []


def check_stats(trial: Trial, stats: BackendStats, *, volumes: int) -> None:
    (sr,) = trial.xapi.db.refs("SR")
    in_pool = trial.xapi.db.row("SR", sr)
    assert (stats.volumes, stats.flavor.label, stats.backend.problem) == (volumes, "gold", None)
    assert stats.backend.physical_size == in_pool["physical_size"]
    assert stats.backend.physical_utilisation == in_pool["physical_utilisation"]
    assert stats.backend.features.split() == sorted(sm_record(trial.world.sr_type)["features"])
    assert stats.as_dict()["thin"] is is_thin(in_pool["type"])


def is_thin(sr_type: str) -> bool:
    """Return True for disks that are files; a disk on LVM is thick by default."""
    return sr_type_of(sr_type).name in THIN


def check_only_data_stays(left: list[str], backend: Backend, world: StorageWorld) -> None:
    """Check that a forgotten SR leaves only its directory or its volume group."""
    for line in left:
        assert line.startswith(("storage.servers.", "storage.luns.", "storage.hosts.host1.devices.")), line
        assert str(backend.sr_uuid) in line, line


@pytest.mark.xapi(world={"hosts": [{"name": "host1"}], "pool": {"sm_types": ["nfs"]}})
@pytest.mark.parametrize("name", ["netapp", "equal"])
def test_a_pool_without_the_driver_says_so(
    xapi: Simulator, xapi_session: Session, tmp_path: Path, name: str
) -> None:
    world, row = BY_NAME[name], Row()
    world.arrange(xapi)
    with row.doing("add", NoSuchStorageDriver):
        manager_of(xapi_session, tmp_path).add_backend("gold", world.sr_type, world.config)
    BACKENDS.check(NO_DRIVER, row.of(OF_BACKENDS))


@pytest.mark.parametrize("name", [row.strip("`") for row in TYPES.rows])
def test_the_page_tells_what_is_known_of_a_type(name: str) -> None:
    kind = sr_type_of(name)
    row: dict[str, Any] = {
        **dict.fromkeys(Backend.__dataclass_fields__),
        "sr_type": name,
        "config_params": "",
    }
    assert Backend(**row).is_thin_with(" ".join(sm_record(name)["features"])) is is_thin(name)
    unit = next((unit for unit in (2 * MIB, MIB) if kind.rounded(1) == unit), None)
    needs = [f"`{key}`" + (" (listed)" if key in kind.listed else "") for key in kind.required]
    cells = {
        "needs": ", ".join(needs) or "nothing",
        "seen by": "every host" if kind.is_shared else "one host",
        "formats": "nothing" if kind.formats is None else f"`{kind.formats}`",
        "space": "the array's" if kind.luns else "thin" if is_thin(name) else "thick",
        "sizes are multiples of": "the LUN's"
        if kind.luns
        else "1 byte"
        if unit is None
        else f"{unit // MIB} MiB",
        "largest disk": "the storage's" if kind.max_size is None else f"{kind.max_size // GIB:,} GiB",
    }
    TYPES.check(f"`{name}`", cells)


@pytest.mark.parametrize("table", ALL_TABLES, ids=lambda table: table.begin.strip())
def test_the_page_has_a_row_for_each_back_end_and_no_other(table: Table) -> None:
    if IS_WRITING:
        pytest.skip("the rows are being written")
    assert list(table.read()) == table.rows
