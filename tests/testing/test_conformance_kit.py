"""The conformance kit finds what is wrong: a driver that breaks a requirement fails that one, and no other.

Each class of tests/plugins/nonconforming differs from the example driver in one respect.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.test_examples import ACME, install

pytest_plugins = ["pytester"]

PLUGINS = Path(__file__).parent.parent / "plugins"

KIT = """
import importlib.util

spec = importlib.util.spec_from_file_location("acme_tests", {path!r})
acme_tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(acme_tests)

class TestIt(acme_tests.TestSMB):
    driver_volume_type = {name!r}
"""

CONNECT_REFUSED = "test_a_refused_call_of_connect_is_rolled_back"
CONNECT_LOST = "test_a_lost_call_of_connect_is_completed_by_the_same_call_again"
CONNECT_KILLED = "test_a_connect_that_was_killed_is_completed_by_the_same_call_again"
KILLED_THEN_DISCONNECT = "test_a_connect_that_was_killed_is_cleaned_up_by_a_disconnect"
DISCONNECT_REFUSED = "test_a_refused_call_of_disconnect_is_completed_by_the_same_call_again"
DISCONNECT_LOST = "test_a_lost_call_of_disconnect_is_completed_by_the_same_call_again"
WHOLE_ROAD = "test_a_vm_on_a_slave_gets_the_disk_and_gives_it_back"
ANOTHER_VOLUME = "test_disconnect_spares_another_volume_of_the_same_storage"
SR_BEFORE = "test_an_sr_that_was_there_before_stays"
IN_USE = "test_disconnect_spares_a_volume_that_a_vm_uses"
MISSING_KEY = "test_a_missing_key_is_named"
NO_DATA = "test_no_data_at_all_is_refused"
ANY_MAPPING = "test_the_connection_data_may_be_any_mapping"
UNREACHABLE = "test_storage_that_does_not_answer_leaves_nothing"
NOT_THERE = "test_a_volume_that_is_not_there_is_not_found"
VANISHED = "test_a_volume_that_vanished_is_disconnected_all_the_same"
OTHER_SIZE = "test_a_disk_of_another_size_than_the_one_described_is_not_connected"
SECRETS = "test_no_secret_is_seen_anywhere"
GREW = "test_a_volume_that_grew_is_seen"
ROLLBACK_OF_SUCCESS = "test_rollback_of_a_success_leaves_the_pool_as_it_was"
OWN_ROLLBACK = "test_rollback_takes_back_only_what_its_own_object_did"
FORBIDDEN = "test_a_call_that_is_forbidden_is_not_swallowed"
CONNECT_AGAIN = "test_connect_again_finds_what_is_connected"
ON_HOSTS = "test_connect_shows_the_volume_on_the_hosts_that_it_is_told"
KEY = "test_the_volume_key_comes_from_the_data_alone"
OTHER_KEY = "test_the_volume_key_of_another_volume_is_another"
NEVER_CONNECTED = "test_disconnect_of_what_was_never_connected_is_quiet"

BROKEN: dict[str, tuple[str, str, set[str]]] = {
    # driver: the requirement that it breaks, words of the message, what else cannot be met then
    "CallsInItsConstructor": ("test_making_a_driver_makes_no_call", "__init__ called pool.get_all", set()),
    "ChangesTheData": (
        "test_the_connection_data_stays_as_it_was",
        "ChangesTheData.connect_volume changed seen in its connection_data",
        {ANY_MAPPING, WHOLE_ROAD, ANOTHER_VOLUME, SECRETS},
    ),
    "CopiesTheData": (
        ANY_MAPPING,
        "dict(connection_data) where a dict",
        {WHOLE_ROAD, ANOTHER_VOLUME, SECRETS},
    ),
    "TellsVolumesByTheirPassword": (KEY, "told one volume by several keys", {SECRETS}),
    "TellsVolumesByTheirShare": (OTHER_KEY, "told two volumes by one key", set()),
    "CreatesADisk": ("test_nothing_is_called_that_a_driver_may_not", "called VDI.create, which", set()),
    "GoesOnWhenForbidden": (FORBIDDEN, "PBD.create: VolumeNotFound", set()),
    "LooksUpKeysBlindly": (MISSING_KEY, "key 'export' was missing, and connect_volume raised Key", {NO_DATA}),
    "BlamesAnotherKey": (MISSING_KEY, "'sr_uuid' was missing, and connect_volume blames another", set()),
    "ChecksItsKeysTooLate": (MISSING_KEY, "called SR.introduce, SR.forget before it said so", {NO_DATA}),
    "DoesNotLookAtTheSize": (OTHER_SIZE, "connection_data said 12345 bytes, and connect_volume succ", set()),
    "KnowsOnlyTheMaster": (
        "test_connect_shows_the_volume_on_every_host",
        "is not plugged on host2, host3",
        {ON_HOSTS, WHOLE_ROAD},
    ),
    "IntroducesItAgain": (
        CONNECT_AGAIN,
        "called again, with the volume connected, and raised VolumeNotFound",
        {CONNECT_LOST, CONNECT_KILLED, SR_BEFORE, ANOTHER_VOLUME, ON_HOSTS, OWN_ROLLBACK},
    ),
    "DisconnectsOnlyWhatHasNoDisks": (
        "test_disconnect_leaves_nothing",
        'SR "ACME //10.0.0.4/vols" (5a000000-0000-4000-8000-00000000acce) is new',
        {
            "test_disconnect_again_is_quiet",
            *(CONNECT_REFUSED, CONNECT_LOST, CONNECT_KILLED, KILLED_THEN_DISCONNECT),
            *(DISCONNECT_REFUSED, DISCONNECT_LOST, VANISHED, IN_USE, ANOTHER_VOLUME, WHOLE_ROAD, GREW),
        },
    ),
    "WantsItConnected": (
        NEVER_CONNECTED,
        "disconnect_volume was called without a connect, and raised VolumeNotFound",
        {
            "test_disconnect_again_is_quiet",
            *(KILLED_THEN_DISCONNECT, DISCONNECT_REFUSED, DISCONNECT_LOST),
        },
    ),
    "LeaksWhenThePlugFails": (CONNECT_REFUSED, "PBD.plug: XapiError", {UNREACHABLE}),
    "RecordsNothing": (ROLLBACK_OF_SUCCESS, "after connect_volume and a rollback, the pool is not", set()),
    "RollsBackByDisconnecting": (OWN_ROLLBACK, "PBD", set()),
    "RaisesInRollback": (
        ROLLBACK_OF_SUCCESS,
        "connect_volume had succeeded, and a rollback was called, and raised ValueError",
        {
            *(CONNECT_REFUSED, CONNECT_LOST, CONNECT_KILLED, KILLED_THEN_DISCONNECT),
            *(UNREACHABLE, NOT_THERE, OTHER_SIZE, FORBIDDEN, SECRETS),
        },
    ),
    "HidesRefusals": (CONNECT_REFUSED, "that hides what xapi said", set()),
    "HidesSilence": (CONNECT_LOST, "that hides that nobody knows", {CONNECT_KILLED}),
    "IgnoresRefusalsOfForget": (DISCONNECT_REFUSED, "SR.forget: it succeeded, and left something", set()),
    "LeavesTheSecretOfADeadAttempt": (KILLED_THEN_DISCONNECT, "secret", {CONNECT_KILLED}),
    "TriesAnySRType": (
        "test_an_sr_type_that_no_host_offers_is_refused_before_anything_is_made",
        "no host offers SRs of type smb, and connect_volume raised XapiError",
        set(),
    ),
    "ForgetsAnybodysSR": (SR_BEFORE, 'SR "an operator\'s"', set()),
    "TakesWhatVMsUse": (IN_USE, "uses the volume", {ANOTHER_VOLUME}),
    "WritesThePasswordIntoSMConfig": (SECRETS, "SR.sm_config: {'smb': '<the secret>'", set()),
    "ShowsThePasswordInItsRepr": (SECRETS, "is in the driver's repr", set()),
    "WalksThroughAllSRs": (
        "test_the_calls_are_as_many_whatever_else_is_in_the_pool",
        "SR.get_record",
        set(),
    ),
    "SeesNoGrowth": (GREW, "the volume has 2147483648 bytes, and extend_volume returned 1073741824", set()),
    "NamesNoVolume": (NOT_THERE, "connect_volume raised RuntimeError", set()),
}

Failures = dict[str, str]
"""Name of a test, without its parameters, to what it said."""


@pytest.fixture
def run(
    pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, Failures]]:
    """Run the example's tests on another driver; how many passed, and what the others said."""
    for path in [*install(ACME, tmp_path / "site"), str(PLUGINS / "nonconforming")]:
        monkeypatch.syspath_prepend(path)

    def run(driver: str, *arguments: str) -> tuple[int, Failures]:
        path = str(ACME / "tests" / "test_conformance.py")
        pytester.makepyfile(KIT.format(path=path, name=driver.lower()))
        passed, _, failed = pytester.inline_run("-p", "no:cacheprovider", *arguments).listoutcomes()
        said = {report.nodeid.split("::")[-1].split("[")[0]: report.longreprtext for report in failed}
        assert all(report.when == "call" for report in failed), said
        return len(passed), said

    return run


@pytest.mark.parametrize("driver", BROKEN)
def test_a_driver_that_breaks_a_requirement_is_told_which_and_how(
    driver: str, run: Callable[..., tuple[int, Failures]]
) -> None:
    requirement, words, _ = BROKEN[driver]
    _, failures = run(driver, "-k", requirement)
    assert words in failures[requirement]
    assert "canary-in-the-share" not in failures[requirement]


@pytest.mark.slow
@pytest.mark.parametrize("driver", BROKEN)
def test_a_driver_that_breaks_a_requirement_meets_all_others(
    driver: str, run: Callable[..., tuple[int, Failures]]
) -> None:
    """But for those that cannot be met without it."""
    requirement, _, consequences = BROKEN[driver]
    _, failures = run(driver)
    assert set(failures) == {requirement, *consequences}


@pytest.mark.slow
def test_a_driver_need_not_inherit_anything(run: Callable[..., tuple[int, Failures]]) -> None:
    """Nor have what is optional: a volume's key, how a volume grows, a table of its keys."""
    passed, failures = run("InheritsNothing")
    assert not failures
    assert passed >= 36


@pytest.mark.slow
def test_every_requirement_is_broken_by_some_driver(run: Callable[..., tuple[int, Failures]]) -> None:
    """So each has been seen to fail, but for those that are here with the reason."""
    passed, failures = run("Conforming")
    assert not failures
    assert passed >= 35
    broken = {name for requirement, _, others in BROKEN.values() for name in (requirement, *others)}
    from xenvol.testing.conformance import DriverConformance

    requirements = {name for name in dir(DriverConformance) if name.startswith("test_")}
    assert broken <= requirements
    assert requirements - broken == {
        "test_the_driver_is_found_by_its_name",  # the registry's own tests break it in every way
        "test_a_value_of_the_wrong_type_is_named",
    }
