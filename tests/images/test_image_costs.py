"""What a transfer costs in calls, beside the transfer: the same however many disks, SRs and VMs there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from imagelab import MIB, Lab, lab, pattern

from xenvol.images import export_image, fill_vdi, import_image

CALLS = {
    "import": (13, 14),
    "import, verified": (18, 19),
    "fill a disk that is there": (14, 15),
    "export": (10, 11),
    "export of a disk in use": (20, 21),
}
"""By HTTP, and by the block device; a PUT and a GET are not counted."""


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Lab]:
    with lab(tmp_path) as made:
        made.sr("nfs")
        (tmp_path / "image").write_bytes(pattern(5 * MIB))
        yield made


def operations(pool: Lab, road: str) -> dict[str, Callable[[], object]]:
    image, target, here, session = pool.root / "image", pool.root / "target", pool.on(road), pool.session
    free, used = pool.vdi("nfs"), pool.vdi("nfs")
    pool.xapi.add_vbd(pool.xapi.add_vm("web"), pool.ref(used))
    return {
        "import": lambda: import_image(session, image, pool.sr(), here=here),
        "import, verified": lambda: import_image(session, image, pool.sr(), verify=True, here=here),
        "fill a disk that is there": lambda: fill_vdi(session, image, free, here=here),
        "export": lambda: export_image(session, free, target, overwrite=True, here=here),
        "export of a disk in use": lambda: export_image(session, used, target, overwrite=True, here=here),
    }


@pytest.mark.parametrize("many", [0, 300])
@pytest.mark.parametrize("road", ["http", "block"])
def test_the_number_of_calls_does_not_grow_with_the_pool(pool: Lab, road: str, many: int) -> None:
    if many:
        pool.xapi.add_vdis(pool.xapi.add_sr("big", type="dummy"), many, "other")
        pool.xapi.add_srs(many, "sr", type="dummy")
        pool.xapi.add_vms(many, "vm")
    found = {}
    for name, run in operations(pool, road).items():
        with pool.xapi.journal.recording() as calls:
            run()
        found[name] = len([call for call in calls.methods() if not call.startswith(("PUT ", "GET "))])
    assert found == {name: by_road[road == "block"] for name, by_road in CALLS.items()}
