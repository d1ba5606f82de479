"""Flavors and backends as values, for functions that decide without a database."""

from __future__ import annotations

import datetime
import itertools
from typing import Any

from hypothesis import strategies as st

from xenvol.sm.placement import FEATURES, Request
from xenvol.sm.records import Backend, Flavor
from xenvol.storage.srtypes import known_types

GIB = 1 << 30
THEN = datetime.datetime(2026, 1, 1)
DISKS = "VDI_CREATE VDI_DELETE"
ALL_FEATURES = " ".join([DISKS, *FEATURES.values()])


def a_flavor(**changes: Any) -> Flavor:
    values = {
        "id": 1,
        "label": "gold",
        "description": "",
        "policy": "first_fit",
        "over_subscription": 1.0,
        "reserved_percentage": 0,
    }
    return Flavor(**{**values, **changes})


def a_backend(backend_id: int = 1, **changes: Any) -> Backend:
    """Return a thin backend with 100 GiB free, and no problem."""
    values = {
        "id": backend_id,
        "flavor_id": 1,
        "sr_uuid": f"5a000000-0000-4000-8000-{backend_id:012d}",
        "sr_type": "nfs",
        "config_params": "server=10.0.0.2 serverpath=/vols",
        "token": f"token-{backend_id}",
        "origin": "created",
        "host_uuid": None,
        "state": "ready",
        "features": f"{ALL_FEATURES} THIN_PROVISIONING",
        "physical_size": 100 * GIB,
        "physical_utilisation": 0,
        "virtual_allocation": 0,
        "free": 100 * GIB,
        "weight": 1.0,
        "placed_at": 0,
        "stats_at": THEN,
        "problem": None,
        "created_at": THEN,
    }
    return Backend(**{**values, **changes})


def a_request(size: int = GIB, *, volume_id: str = "volume", needs: tuple[str, ...] = ()) -> Request:
    return Request(volume_id=volume_id, size=size, needs=frozenset(needs))


SIZES = st.integers(1, 1 << 50)
ROOM = st.integers(-(1 << 45), 1 << 50)
_SOME_FEATURES = ("VDI_CREATE", "THIN_PROVISIONING", *FEATURES.values())
FEATURE_TEXTS = st.sampled_from(
    [
        " ".join(chosen)
        for count in range(len(_SOME_FEATURES) + 1)
        for chosen in itertools.combinations(_SOME_FEATURES, count)
    ]
)
"""Every subset of features: drawing one of all costs a tenth of drawing a list."""
BACKENDS = st.builds(
    a_backend,
    st.integers(1, 50),
    sr_type=st.sampled_from([*known_types(), "lvhdoiscsi", "vendors-own"]),
    config_params=st.sampled_from(["server=a", "type=raw", "allocation=thin", "allocation=thick type=vhd"]),
    state=st.sampled_from(["new", "ready", "ready", "ready"]),
    features=FEATURE_TEXTS,
    free=ROOM,
    weight=st.floats(0, 1000),
    placed_at=st.integers(0, 5),
    problem=st.sampled_from([None, None, None, "its SR is plugged on no host"]),
)
LIKELY_BACKENDS = st.builds(
    a_backend,
    st.integers(1, 50),
    sr_type=st.sampled_from(["nfs", "lvm", "lvmoiscsi", "netapp", "vendors-own"]),
    config_params=st.sampled_from(["server=a", "type=raw", "allocation=thin"]),
    features=st.sampled_from([ALL_FEATURES, f"{ALL_FEATURES} THIN_PROVISIONING", DISKS]),
    free=st.integers(1 << 40, 1 << 50),
)
SOME_BACKENDS = st.lists(BACKENDS, unique_by=lambda backend: backend.id, max_size=12)
REQUESTS = st.builds(
    a_request,
    SIZES,
    volume_id=st.text(min_size=1, max_size=8),
    needs=st.lists(st.sampled_from(sorted(FEATURES)), unique=True).map(tuple),
)
