"""With any set of backends, a volume is placed only where it has room, the features it needs, and no rule against
it.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.sm.values import (
    ALL_FEATURES,
    BACKENDS,
    GIB,
    LIKELY_BACKENDS,
    REQUESTS,
    SIZES,
    a_backend,
    a_flavor,
    a_request,
)
from xenvol.sm.errors import InvalidSetting
from xenvol.sm.placement import FEATURES, Request, cost, obstacle, placeable
from xenvol.sm.records import Backend
from xenvol.storage.srtypes import VHD_MAX, known_types, sr_type_of

MIB = 1 << 20
BYTES = st.integers(0, 1 << 62)
PERCENTAGES = st.integers(0, 99)
FACTORS = st.floats(0.01, 1000)
TYPES = st.sampled_from([*known_types(), "vendors-own"])


class TestObstacle:
    @given(
        LIKELY_BACKENDS, st.integers(1, 1 << 42), st.sampled_from([(), ("snapshot",), ("resize", "clone")])
    )
    def test_what_has_none_has_room_features_and_no_limit_in_the_way(
        self, backend: Backend, size: int, needs: tuple[str, ...]
    ) -> None:
        request = a_request(size, needs=needs)
        assume(obstacle(backend, request) is None)
        assert backend.state == "ready"
        assert backend.problem is None
        assert not backend.type.luns
        assert {"VDI_CREATE", *(FEATURES[need] for need in needs)} <= set(backend.features.split())
        assert backend.type.max_size is None or size <= backend.type.max_size
        assert backend.free >= cost(backend, size) >= size

    @given(BACKENDS, REQUESTS)
    def test_what_has_one_says_which(self, backend: Backend, request: Request) -> None:
        """Each reason is true of the backend, and a backend with an obstacle has a reason."""
        wanted = {FEATURES[need] for need in request.needs}
        limit = backend.type.max_size
        true_of_it = {
            "hands out an existing LUN": backend.type.luns,
            "not made yet": backend.state == "new",
            "out of order: its SR is plugged on no host": backend.problem is not None,
            "makes no disks": not backend.has("VDI_CREATE"),
            "cannot": not all(map(backend.has, wanted)),
            f"has at most {limit} bytes": limit is not None and request.size > limit,
            " free": cost(backend, request.size) > backend.free,
        }
        reason = obstacle(backend, request)
        assert (reason is not None) == any(true_of_it.values())
        assert reason is None or any(is_true and words in reason for words, is_true in true_of_it.items())

    @pytest.mark.parametrize("sr_type", ["iscsi", "rawiscsi", "hba", "rawhba"])
    def test_a_backend_of_luns_never_takes_a_new_volume(self, sr_type: str) -> None:
        """VDI.create would hand out an existing LUN with its data."""
        reason = obstacle(a_backend(sr_type=sr_type), a_request())
        assert reason is not None
        assert "hands out an existing LUN with its data" in reason
        assert "manage its VDI" in reason

    @pytest.mark.parametrize(
        ("what_is_wrong", "reason"),
        [
            ({"state": "new", "sr_uuid": None}, "its SR is not made yet"),
            ({"problem": "its SR is plugged on no host"}, "is out of order: its SR is plugged on no host"),
            ({"features": "VDI_SNAPSHOT"}, "its storage driver, nfs, makes no disks"),
        ],
    )
    def test_one_that_is_not_in_order_says_why(self, what_is_wrong: dict[str, Any], reason: str) -> None:
        """Even if it has much room."""
        assert obstacle(a_backend(**what_is_wrong), a_request()) == reason

    @pytest.mark.parametrize("need", sorted(FEATURES))
    def test_a_wanted_feature_that_is_missing_is_named(self, need: str) -> None:
        features = ALL_FEATURES.replace(FEATURES[need], "VDI_DELETE")
        request = a_request(needs=(need,))
        assert obstacle(a_backend(features=features), request) == f"its storage driver, nfs, cannot {need}"
        assert obstacle(a_backend(), request) is None
        assert obstacle(a_backend(features=features), a_request()) is None

    @pytest.mark.parametrize(
        ("sr_type", "can"), [("nfs", set()), ("lvm", {"resize", "resize_online"}), ("LVHD", {"resize"})]
    )
    def test_raw_disks_can_less_than_their_driver_says(self, sr_type: str, can: set[str]) -> None:
        raw = a_backend(sr_type=sr_type, config_params="location=/a type=raw")
        cannot = {need for need in FEATURES if obstacle(raw, a_request(needs=(need,))) is not None}
        assert cannot.isdisjoint(can)
        assert {"snapshot", "clone"} <= cannot
        assert obstacle(raw, a_request(needs=("snapshot",))) == "its raw disks cannot snapshot"
        assert obstacle(raw, a_request()) is None

    def test_the_limit_of_the_type_is_the_last_size_that_it_takes(self) -> None:
        backend = a_backend(free=1 << 50)
        assert obstacle(backend, a_request(VHD_MAX)) is None
        assert obstacle(backend, a_request(VHD_MAX + 1)) == "a disk of type nfs has at most 2040 GiB"
        assert obstacle(a_backend(sr_type="netapp", free=1 << 50), a_request(VHD_MAX + 1)) is None

    def test_the_last_byte_that_is_free_is_given(self) -> None:
        backend = a_backend(free=10 * MIB)
        assert obstacle(backend, a_request(10 * MIB)) is None
        reason = obstacle(backend, a_request(10 * MIB + 1))
        assert reason == "has 10 MiB free, and the volume takes 12 MiB"

    def test_one_that_has_given_too_much_says_by_which_rules(self) -> None:
        """Its free room is below zero: the reserve was raised, or other tools filled it."""
        reason = obstacle(a_backend(free=-GIB), a_request())
        assert reason is not None
        assert reason.startswith("has 0 B free, by its flavor's reserve and over-subscription")


class TestCost:
    @given(TYPES, SIZES, SIZES, st.booleans())
    def test_is_never_less_than_was_asked_for_and_grows_with_it(
        self, sr_type: str, size: int, more: int, is_thin: bool
    ) -> None:
        backend = a_backend(sr_type=sr_type, features="THIN_PROVISIONING" if is_thin else "")
        assert size <= cost(backend, size) <= cost(backend, size + more)

    @given(TYPES, SIZES)
    def test_is_what_is_stored_of_a_thick_disk_and_what_is_promised_of_a_thin_one(
        self, sr_type: str, size: int
    ) -> None:
        kind = sr_type_of(sr_type)
        assert cost(a_backend(sr_type=sr_type, features="THIN_PROVISIONING"), size) == kind.rounded(size)
        thick = a_backend(sr_type=sr_type, features="", config_params="")
        if not thick.is_thin:
            assert cost(thick, size) == kind.taken(size) >= kind.rounded(size)


class TestPlaceable:
    @given(BYTES, BYTES, BYTES, BYTES, st.booleans())
    def test_is_never_more_than_there_is(
        self, size: int, used: int, allocated: int, promised: int, is_thin: bool
    ) -> None:
        """At factor 1 and without a reserve, to the byte, also for petabytes."""
        given = placeable(
            a_flavor(),
            is_thin=is_thin,
            physical_size=size,
            physical_utilisation=used,
            virtual_allocation=allocated,
            promised=promised,
        )
        there_is = min(size - used, size - allocated) if is_thin else size - used
        assert given == there_is - promised

    @given(BYTES, BYTES, BYTES, PERCENTAGES, FACTORS, st.booleans())
    def test_leaves_the_reserve_and_promises_no_more_than_the_factor(
        self, size: int, used: int, allocated: int, reserved: int, factor: float, is_thin: bool
    ) -> None:
        given = placeable(
            a_flavor(reserved_percentage=reserved, over_subscription=factor),
            is_thin=is_thin,
            physical_size=size,
            physical_utilisation=used,
            virtual_allocation=allocated,
        )
        if not is_thin:
            assert (used + given) * 100 <= size * (100 - reserved)
            return
        numerator, denominator = factor.as_integer_ratio()
        assert (allocated + given) * 100 * denominator <= size * (100 - reserved) * numerator
        assert given * 100 * denominator <= (size * (100 - reserved) - used * 100) * numerator

    @given(BYTES, BYTES, BYTES, PERCENTAGES, PERCENTAGES, FACTORS, FACTORS, st.booleans())
    def test_shrinks_with_the_reserve_and_grows_with_the_factor(
        self,
        size: int,
        used: int,
        allocated: int,
        reserved: int,
        other_reserved: int,
        factor: float,
        other_factor: float,
        is_thin: bool,
    ) -> None:
        """If there is any free space to multiply."""
        assume(used <= size * (100 - max(reserved, other_reserved)) // 100)

        def given(reserved: int, factor: float) -> int:
            return placeable(
                a_flavor(reserved_percentage=reserved, over_subscription=factor),
                is_thin=is_thin,
                physical_size=size,
                physical_utilisation=used,
                virtual_allocation=allocated,
            )

        less, more = sorted([reserved, other_reserved])
        assert given(more, factor) <= given(less, factor)
        smaller, larger = sorted([factor, other_factor])
        assert given(reserved, smaller) <= given(reserved, larger)
        if not is_thin:
            assert given(reserved, smaller) == given(reserved, larger)

    @given(BYTES, BYTES, BYTES, PERCENTAGES, FACTORS, st.booleans(), st.lists(SIZES, max_size=3))
    def test_loses_what_is_promised_to_the_byte(
        self,
        size: int,
        used: int,
        allocated: int,
        reserved: int,
        factor: float,
        is_thin: bool,
        costs: list[int],
    ) -> None:
        """So the row, which counts down volume by volume, agrees with a new computation."""

        def given(promised: int) -> int:
            return placeable(
                a_flavor(reserved_percentage=reserved, over_subscription=factor),
                is_thin=is_thin,
                physical_size=size,
                physical_utilisation=used,
                virtual_allocation=allocated,
                promised=promised,
            )

        assert given(sum(costs)) == given(0) - sum(costs)

    @given(
        st.sampled_from(["nfs", "lvm", "netapp", "vendors-own"]),
        st.booleans(),
        st.integers(GIB, 1 << 45),
        PERCENTAGES,
        FACTORS,
        st.lists(st.integers(1, 1 << 42), max_size=20),
    )
    def test_a_backend_that_is_filled_by_it_keeps_its_flavors_rules(
        self, sr_type: str, is_thin: bool, size: int, reserved: int, factor: float, asked: list[int]
    ) -> None:
        """Thick disks are stored in full, thin ones stay empty; the pool shows each before the next comes."""
        flavor = a_flavor(reserved_percentage=reserved, over_subscription=factor)
        features = f"VDI_CREATE{' THIN_PROVISIONING' if is_thin else ''}"
        kind = sr_type_of(sr_type)
        used = allocated = 0
        for wanted in asked:
            free = placeable(
                flavor,
                is_thin=is_thin,
                physical_size=size,
                physical_utilisation=used,
                virtual_allocation=allocated,
            )
            backend = a_backend(sr_type=sr_type, features=features, free=free)
            if obstacle(backend, a_request(wanted)) is None:
                allocated += kind.rounded(wanted)
                used += 0 if is_thin else kind.taken(wanted)
            assert used * 100 <= size * (100 - reserved)
            assert not is_thin or allocated <= size * (100 - reserved) / 100 * factor + 1


class TestRequest:
    @pytest.mark.parametrize("size", [0, -1, -GIB])
    def test_of_no_bytes_is_refused(self, size: int) -> None:
        with pytest.raises(InvalidSetting, match="size"):
            a_request(size)

    def test_for_what_no_driver_can_lists_what_one_may_need(self) -> None:
        with pytest.raises(InvalidSetting) as caught:
            a_request(needs=("snapshot", "teleport"))
        assert str(caught.value) == (
            "feature 'teleport' is not allowed; accepted: snapshot, clone, resize, resize_online"
        )
