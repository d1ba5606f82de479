"""A vendor's test gets a xapi by naming a fixture; a test without the fixture pays nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

HEAVY = ("XenAPI", "click", "rich", "msgspec", "stevedore", "tenacity", "xenvol.simulator", "xenvol.session")
"""Modules that must not be imported before a fixture is used."""


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import xenvol.testing.pytest_plugin;"
        f"print([m for m in {HEAVY!r} if m in sys.modules]);"
        "print(sorted(m for m in set(sys.modules) - before if not m.startswith('xenvol')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, new = done.stdout.splitlines()
    assert heavy == "[]"
    assert len(new.split(",")) <= 3, f"besides pytest, the plugin imports {new}"


def test_the_fixture_is_a_running_simulator(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import XenAPI

        def test_it(xapi):
            session = XenAPI.Session(xapi.url)
            session.login_with_password(xapi.user, xapi.password)
            assert session.xenapi.SR.get_all() == []
            session("close")()
        """
    )
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_each_test_gets_a_fresh_one(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("n", [1, 2])
        def test_it(xapi, n):
            assert xapi.db.count("SR") == 0
            xapi.add_sr("mine")
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=2)


def test_the_next_test_gets_the_same_simulator_with_nothing_of_the_last_one_in_it(
    pytester: pytest.Pytester,
) -> None:
    """A reset costs less than a start: no port, no threads."""
    pytester.makepyfile(
        """
        import XenAPI

        seen = {}

        def test_one(xapi):
            session = XenAPI.Session(xapi.url)
            session.login_with_password(xapi.user, xapi.password)
            seen.update(url=xapi.url, session=session._session, host=xapi.db.refs("host"))
            seen["client"] = session
            xapi.faults.refuse("*", "NO", every=True)
            xapi.faults.die()
            xapi.journal.listener = lambda entry: seen.setdefault("told", entry)
            xapi.xapi.clock = lambda: 0.0
            xapi.add_host()
            xapi.storage.shares.add_nfs("10.0.0.1")
            (xapi.storage.directory / "file").write_text("bytes")

        def test_two(xapi):
            assert xapi.url == seen["url"]
            assert (len(xapi.urls), len(xapi.journal), len(xapi.journal.logins)) == (1, 0, 0)
            assert xapi.db.refs("host") != seen["host"]
            assert xapi.db.refs("session") == []
            assert xapi.faults.orders == []
            assert xapi.xapi.clock() > 0
            assert xapi.storage.shares.nfs == []
            assert list(xapi.storage.directory.iterdir()) == []
            session = XenAPI.Session(xapi.url)
            session.login_with_password(xapi.user, xapi.password)
            session("close")()
            seen["client"]("close")()
            assert "told" not in seen
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=2)


@pytest.mark.parametrize("change", ["xapi.password = 'other'", "xapi.close()"])
def test_a_simulator_that_a_test_changed_for_good_is_not_handed_on(
    pytester: pytest.Pytester, change: str
) -> None:
    pytester.makepyfile(
        f"""
        import XenAPI

        def test_one(xapi):
            {change}

        def test_two(xapi):
            session = XenAPI.Session(xapi.url)
            session.login_with_password("root", "secret")
            session("close")()
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=2)


def test_the_marker_shapes_the_pool(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.xapi(hosts=3, version="25.33.1")
        def test_a_pool(xapi):
            assert (len(xapi.urls), xapi.version) == (3, "25.33.1")

        @pytest.mark.xapi(world={"hosts": [{"name": "mine"}]})
        def test_a_world(xapi):
            assert xapi.db.by_name("host", "mine")
        """
    )
    pytester.runpytest_inprocess("--strict-markers").assert_outcomes(passed=2)


def test_a_marker_with_a_positional_argument_is_refused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.xapi(3)
        def test_it(xapi): ...
        """
    )
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*the marker xapi takes keywords only*"])


def test_the_session_is_logged_in(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        def test_it(xapi, xapi_session):
            assert xapi_session.xenapi.host.get_all() == xapi.db.refs("host")

        @pytest.mark.xapi(tls=True)
        def test_over_tls(xapi, xapi_session):
            assert xapi_session.xenapi.host.get_all() == xapi.db.refs("host")
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=2)


def test_volume_ops_works_on_that_session(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_it(xapi, volume_ops):
            vm = xapi.add_vm("vm")
            assert list(volume_ops.list_volumes(vm)) == []
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=1)


def test_a_failed_test_shows_what_xapi_was_asked(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_it(xapi, xapi_session):
            xapi_session.xenapi.SR.get_all()
            xapi.faults.refuse("host.get_all", "SR_FULL")
            xapi_session.xenapi.host.get_all()
        """
    )
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*xapi calls*", "*SR.get_all() → success", "*host.get_all() → SR_FULL [[]refuse SR_FULL at *"]
    )


def test_a_passed_test_shows_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(xapi): ...")
    result = pytester.runpytest_inprocess("-rA")
    result.stdout.no_fnmatch_line("*xapi calls*")
