"""A policy only orders: each backend once, always alike, and as its name says.

The packages in tests/plugins/policy are installed as by pip: a directory on sys.path with a dist-info in it.
"""

from __future__ import annotations

import dataclasses
import math
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sm.conftest import NFS, NFS_SMALL, log_in
from tests.sm.values import GIB, REQUESTS, SOME_BACKENDS, a_backend, a_request
from xenvol.simulator import Simulator
from xenvol.sm import Database, StorageManager
from xenvol.sm.errors import NoBackendFits
from xenvol.sm.placement import Request
from xenvol.sm.policies import (
    InvalidPolicy,
    Policy,
    PolicyLoadFailed,
    UnknownPolicy,
    get_policy,
    installed_policies,
)
from xenvol.sm.records import Backend
from xenvol.sm.tables import backends

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "tests" / "plugins" / "policy"
BUILT_IN = ["first_fit", "most_free", "round_robin", "weighted"]
POLICIES = {name: get_policy(name) for name in BUILT_IN}

every_policy = pytest.mark.parametrize("name", BUILT_IN)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(*names: str) -> None:
        for name in names:
            monkeypatch.syspath_prepend(PLUGINS / name)

    return install


def ordered(name: str, backends: Sequence[Backend], request: Request) -> list[Backend]:
    return list(POLICIES[name].order(backends, request))


class TestEveryPolicy:
    @every_policy
    @given(backends=SOME_BACKENDS, request=REQUESTS)
    def test_gives_each_candidate_once(self, name: str, backends: list[Backend], request: Request) -> None:
        by_id = sorted(backends, key=lambda backend: backend.id)
        assert sorted(ordered(name, backends, request), key=lambda backend: backend.id) == by_id

    @every_policy
    @given(backends=SOME_BACKENDS, request=REQUESTS, random=st.randoms(use_true_random=False))
    def test_gives_the_same_order_whoever_asks(
        self, name: str, backends: list[Backend], request: Request, random: Random
    ) -> None:
        """The order of the candidates does not matter: two services must choose alike."""
        shuffled = list(backends)
        random.shuffle(shuffled)
        assert ordered(name, shuffled, request) == ordered(name, backends, request)

    @every_policy
    @given(backends=SOME_BACKENDS, request=REQUESTS)
    def test_changes_nothing_of_what_it_is_given(
        self, name: str, backends: list[Backend], request: Request
    ) -> None:
        before = list(backends)
        ordered(name, backends, request)
        assert backends == before


class TestOrder:
    @given(backends=SOME_BACKENDS, request=REQUESTS)
    def test_of_first_fit_is_that_of_registration(self, backends: list[Backend], request: Request) -> None:
        ids = [backend.id for backend in ordered("first_fit", backends, request)]
        assert ids == sorted(ids)

    @given(backends=SOME_BACKENDS, request=REQUESTS)
    def test_of_most_free_begins_with_most_room(self, backends: list[Backend], request: Request) -> None:
        """Of several with equal room, the one that was registered first comes first."""
        keys = [(-backend.free, backend.id) for backend in ordered("most_free", backends, request)]
        assert keys == sorted(keys)

    @given(backends=SOME_BACKENDS, request=REQUESTS)
    def test_of_round_robin_begins_with_the_longest_ago(
        self, backends: list[Backend], request: Request
    ) -> None:
        keys = [(backend.placed_at, backend.id) for backend in ordered("round_robin", backends, request)]
        assert keys == sorted(keys)


class TestWeighted:
    BACKENDS = [
        a_backend(1, weight=1.0, free=100 * GIB),
        a_backend(2, weight=2.0, free=100 * GIB),
        a_backend(3, weight=1.0, free=300 * GIB),
        a_backend(4, weight=0.5, free=40 * GIB),
        a_backend(5, weight=0.0, free=900 * GIB),
    ]
    VOLUMES = [f"volume-{number}" for number in range(5_000)]

    def firsts(self, backends: Sequence[Backend]) -> dict[str, int]:
        policy = POLICIES["weighted"]
        return {volume: policy.order(backends, a_request(volume_id=volume))[0].id for volume in self.VOLUMES}

    def test_gives_each_backend_as_many_as_its_weight_times_its_room(self) -> None:
        """Within five standard deviations, for a fixed set of ids."""
        counts = Counter(self.firsts(self.BACKENDS).values())
        total = sum(backend.weight * backend.free for backend in self.BACKENDS)
        for backend in self.BACKENDS:
            share = backend.weight * backend.free / total
            mean = share * len(self.VOLUMES)
            assert abs(counts[backend.id] - mean) <= 5 * math.sqrt(mean * (1 - share))

    def test_gives_nothing_to_a_weight_of_nothing_while_there_is_another(self) -> None:
        """It comes last, so it is used when all others are full or refuse."""
        policy = POLICIES["weighted"]
        for volume in self.VOLUMES[:1000]:
            assert policy.order(self.BACKENDS, a_request(volume_id=volume))[-1].id == 5
        assert policy.order(self.BACKENDS[-1:], a_request()) == self.BACKENDS[-1:]

    @pytest.mark.parametrize("change", [{"weight": 3.0}, {"free": 250 * GIB}])
    def test_takes_no_volume_from_a_backend_that_gains(self, change: dict[str, float]) -> None:
        """Volumes move only to the backend that gained, and not among the others."""
        before = self.firsts(self.BACKENDS)
        gaining = dataclasses.replace(self.BACKENDS[0], **change)
        after = self.firsts([gaining, *self.BACKENDS[1:]])
        moved = {volume for volume in self.VOLUMES if before[volume] != after[volume]}
        assert moved
        assert {after[volume] for volume in moved} == {gaining.id}

    @given(backends=SOME_BACKENDS, request=REQUESTS, gain=st.floats(1, 1000))
    def test_never_puts_behind_a_backend_that_gains(
        self, backends: list[Backend], request: Request, gain: float
    ) -> None:
        before = [backend.id for backend in ordered("weighted", backends, request)]
        for number, backend in enumerate(backends):
            gaining = dataclasses.replace(backend, weight=backend.weight * gain)
            changed = [*backends[:number], gaining, *backends[number + 1 :]]
            after = [each.id for each in ordered("weighted", changed, request)]
            assert after.index(backend.id) <= before.index(backend.id)
            assert [each for each in after if each != backend.id] == [
                each for each in before if each != backend.id
            ]

    def test_orders_the_rest_by_the_same_odds(self) -> None:
        """If the first refuses, the second is drawn from the rest, and is not always the same."""
        policy = POLICIES["weighted"]
        counts: Counter[int] = Counter()
        for volume in self.VOLUMES:
            first, second, *_ = policy.order(self.BACKENDS, a_request(volume_id=volume))
            if first.id == 3:
                counts[second.id] += 1
        assert counts[2] / counts[1] == pytest.approx(2, rel=0.2)


class TestForeignPolicy:
    def test_is_found_like_ours(self, install: Callable[..., None]) -> None:
        assert installed_policies() == BUILT_IN
        install("acme")
        assert installed_policies() == sorted([*BUILT_IN, "newest_first"])
        policy: Policy = get_policy("newest_first")
        assert policy.order_by == "id"
        candidates = [a_backend(number) for number in (1, 2, 3)]
        assert policy.order(candidates, a_request()) == candidates[::-1]
        assert repr(policy) == "<policy 'newest_first' of package Acme.Policies>"

    def test_that_is_not_installed_is_refused_with_what_is(self, install: Callable[..., None]) -> None:
        install("acme")
        with pytest.raises(UnknownPolicy) as caught:
            get_policy("oldest_first")
        assert caught.value.name == "oldest_first"
        assert caught.value.installed == sorted([*BUILT_IN, "newest_first"])
        assert "installed: first_fit, most_free, newest_first, round_robin, weighted" in str(caught.value)

    def test_of_a_name_that_two_packages_claim_is_refused_with_both(
        self, install: Callable[..., None]
    ) -> None:
        """xenvol does not guess, and imports neither."""
        install("rival")
        with pytest.raises(InvalidPolicy) as caught:
            get_policy("first_fit")
        assert caught.value.package == "rival-policies, xenvol"
        assert "rival_policies" not in sys.modules
        assert get_policy("most_free")

    @pytest.mark.parametrize(
        ("name", "cause", "words"),
        [
            ("needs_a_library", ImportError, "a_library_that_nobody_has"),
            ("exits_when_imported", SystemExit, "no licence"),
            ("has_no_such_class", AttributeError, "Policy"),
        ],
    )
    def test_that_cannot_be_imported_names_its_package(
        self, name: str, cause: type[BaseException], words: str, install: Callable[..., None]
    ) -> None:
        install("faulty")
        with pytest.raises(PolicyLoadFailed) as caught:
            get_policy(name)
        assert caught.value.package == "faulty-policies"
        assert isinstance(caught.value.__cause__, cause)
        assert words in str(caught.value)
        assert "repair or uninstall it" in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("not_a_class", "the entry point is a Sound, not a class"),
            ("needs_arguments", "make it work without arguments"),
            ("reads_in_no_order", "order_by must be one of 'id', 'free', 'placed_at'"),
            ("says_no_order", "order_by must be one of"),
            ("orders_nothing", "has no method order(self, candidates, request)"),
            ("wants_one", "has order(candidates): make it order(self, candidates, request)"),
        ],
    )
    def test_that_breaks_the_contract_is_refused_when_it_is_asked_for(
        self, name: str, words: str, install: Callable[..., None]
    ) -> None:
        install("faulty")
        with pytest.raises(InvalidPolicy) as caught:
            get_policy(name)
        assert caught.value.name == name
        assert caught.value.package == "faulty-policies"
        assert words in caught.value.problem

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("leaves_out", "left out backend 1:"),
            ("returns_twice", "returned backend 1 more than once:"),
            ("returns_a_stranger", "which is no candidate"),
            ("changes_one", "which is no candidate"),
            ("returns_ids", "returned 1, which is no candidate"),
            ("returns_nothing", "raised TypeError"),
            ("raises", "raised AttributeError"),
            ("exits", "raised SystemExit: no licence"),
            ("sorts_in_place", "raised AttributeError"),
        ],
    )
    def test_that_gives_a_wrong_order_is_refused_when_it_does(
        self, name: str, words: str, install: Callable[..., None]
    ) -> None:
        install("faulty")
        policy = get_policy(name)
        with pytest.raises(InvalidPolicy) as caught:
            policy.order([a_backend(1), a_backend(2)], a_request())
        assert caught.value.package == "faulty-policies"
        assert words in caught.value.problem

    @pytest.mark.parametrize("name", ["leaves_out", "returns_twice", "raises", "returns_nothing"])
    def test_is_not_asked_to_order_nothing(self, name: str, install: Callable[..., None]) -> None:
        """A policy need not handle an empty list."""
        install("faulty")
        assert list(get_policy(name).order([], a_request())) == []

    def test_of_the_guide_places_as_the_guide_says(
        self, manager: StorageManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The blocks of docs/placement.md, as a package."""
        guide = (ROOT / "docs" / "placement.md").read_text()
        (module,) = re.findall(r"^```python\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
        (entry_point,) = re.findall(r"^```toml\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
        ((group, names),) = tomllib.loads(entry_point)["project"]["entry-points"].items()
        assert len(module.splitlines()) <= 20
        site = tmp_path / "site"
        information = site / "acme_guide-1.dist-info"
        information.mkdir(parents=True)
        (site / "acme_policies.py").write_text(module)
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-guide\nVersion: 1\n")
        lines = [f"[{group}]", *(f"{name} = {value}" for name, value in names.items())]
        (information / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, "acme_policies", raising=False)
        try:
            manager.create_flavor("silver", "", policy="by_size", over_subscription=10)
            small = manager.add_backend("silver", "nfs", NFS_SMALL)
            large = manager.add_backend("silver", "nfs", NFS)
            assert manager.create_volume("a", "silver", GIB).backend_id == small.id
            assert manager.create_volume("b", "silver", 200 * GIB).backend_id == large.id
        finally:
            sys.modules.pop("acme_policies", None)


EXPORTS = {f"/v{number}": 10 * number * GIB for number in range(1, 6)}


@pytest.fixture
def five(xapi: Simulator) -> Simulator:
    """A pool that reaches five exports, of 10 to 50 GiB."""
    server = xapi.storage.shares.add_nfs("10.0.0.2")
    for path, size in EXPORTS.items():
        server.export(path, size=size)
    return xapi


@pytest.fixture
def services(five: Simulator, database: Database) -> Iterator[Callable[[str], list[StorageManager]]]:
    """Two services with one database, and five backends of weights 1 to 5 under a flavor of that policy."""
    other = Database(database.url)
    session = log_in(five)

    def make(policy: str) -> list[StorageManager]:
        managers = [StorageManager(session, each) for each in (database, other)]
        managers[0].create_flavor("gold", "", policy=policy)
        for number, path in enumerate(EXPORTS, 1):
            config = {"server": "10.0.0.2", "serverpath": path}
            managers[0].add_backend("gold", "nfs", config, weight=float(number))
        return managers

    yield make
    session.close()
    other.close()


def fill(managers: Sequence[StorageManager], size: int, count: int) -> list[int]:
    """The backends that volumes went to, made by each service in turn."""
    return [
        managers[number % len(managers)].create_volume(f"volume-{number}", "gold", size).backend_id
        for number in range(count)
    ]


class TestFilling:
    """Two services fill five backends: each policy keeps to its rule, from the first volume to the last."""

    SIZE = 5 * GIB - (2 << 20)

    def test_by_first_fit_goes_from_one_to_the_next(
        self, services: Callable[..., list[StorageManager]]
    ) -> None:
        managers = services("first_fit")
        where = fill(managers, self.SIZE, 30)
        assert where == sorted(where)
        assert Counter(where) == {number: 2 * number for number in range(1, 6)}
        with pytest.raises(NoBackendFits) as caught:
            managers[1].create_volume("one-too-many", "gold", self.SIZE)
        assert list(caught.value.reasons) == [1, 2, 3, 4, 5]
        assert all(" free" in reason for reason in caught.value.reasons.values())

    def test_by_most_free_evens_out(self, services: Callable[..., list[StorageManager]]) -> None:
        managers = services("most_free")
        where = fill(managers, 2 * GIB, 50)
        assert where[:5] == [5] * 5
        assert set(where[:11]) == {4, 5}
        left = [backend.free for backend in managers[0].list_backends()]
        assert max(left) - min(left) <= 2 * GIB

    def test_by_round_robin_visits_each_in_turn(self, services: Callable[..., list[StorageManager]]) -> None:
        """Both services count, and full backends are passed over."""
        where = fill(services("round_robin"), self.SIZE, 22)
        assert where[:10] == [1, 2, 3, 4, 5] * 2
        assert where[10:18] == [2, 3, 4, 5] * 2
        assert where[18:] == [3, 4, 5, 3]

    def test_by_weight_is_what_the_policy_says_of_values(
        self, services: Callable[..., list[StorageManager]]
    ) -> None:
        managers = services("weighted")
        where = []
        for number in range(30):
            request = a_request(GIB, volume_id=f"volume-{number}")
            expected = ordered("weighted", managers[0].list_backends(), request)[0].id
            assert managers[number % 2].create_volume(request.volume_id, "gold", GIB).backend_id == expected
            where.append(expected)
        assert Counter(where)[5] > Counter(where)[1]
        assert len(set(where)) >= 4

    def test_by_a_strangers_policy_is_as_it_says(
        self, services: Callable[..., list[StorageManager]], install: Callable[..., None]
    ) -> None:
        install("acme")
        where = fill(services("newest_first"), self.SIZE, 30)
        assert where == sorted(where, reverse=True)
        assert Counter(where) == {number: 2 * number for number in range(1, 6)}

    @pytest.mark.parametrize("name", ["leaves_out", "returns_a_stranger", "raises"])
    def test_by_a_faulty_policy_is_an_error_and_leaves_nothing(
        self,
        name: str,
        services: Callable[..., list[StorageManager]],
        install: Callable[..., None],
        five: Simulator,
    ) -> None:
        """The error names the policy's package, and the same id works as soon as the policy does."""
        install("faulty")
        managers = services(name)
        before = five.snapshot()
        with pytest.raises(InvalidPolicy, match="faulty-policies"):
            managers[0].create_volume("volume", "gold", GIB)
        assert before.difference(five.snapshot()) == []
        assert managers[0].list_volumes() == []

    def test_by_a_policy_that_fails_at_the_second_try_leaves_no_row(
        self,
        services: Callable[[str], list[StorageManager]],
        install: Callable[..., None],
        five: Simulator,
        database: Database,
    ) -> None:
        """By then one backend has refused, and the row names it; another has room after all."""
        install("faulty")
        managers = services("minds_the_first")
        with database.transaction() as connection:
            connection.execute(backends.update().where(backends.c.id == 4).values(free=0))
        five.faults.refuse("VDI.create", "SR_BACKEND_FAILURE_78", "", "VDI Creation failed", "")
        with pytest.raises(InvalidPolicy, match="faulty-policies"):
            managers[0].create_volume("volume", "gold", 35 * GIB)
        assert managers[0].list_volumes() == []


class TestFlavor:
    def test_with_a_policy_that_cannot_be_is_not_made(
        self, manager: StorageManager, install: Callable[..., None]
    ) -> None:
        install("faulty")
        for name, refusal in (
            ("nobodys", UnknownPolicy),
            ("needs_a_library", PolicyLoadFailed),
            ("says_no_order", InvalidPolicy),
        ):
            with pytest.raises(refusal):
                manager.create_flavor("silver", "", policy=name)
        assert [flavor.label for flavor in manager.list_flavors()] == ["gold"]
