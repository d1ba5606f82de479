"""A test's markers are added to those of its class and its module."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]


def test_markers_add_up_and_the_closest_wins(pytester: pytest.Pytester) -> None:
    """A conformance test that needs three hosts gets them in the release that its class uses."""
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.xapi(version="25.33.1", hosts=2)

        class TestIt:
            pytestmark = pytest.mark.xapi(tls=True)

            @pytest.mark.xapi(hosts=3)
            def test_more(self, xapi):
                assert (xapi.version, len(xapi.urls), xapi.tls) == ("25.33.1", 3, True)

            def test_as_asked(self, xapi):
                assert (xapi.version, len(xapi.urls), xapi.tls) == ("25.33.1", 2, True)
        """
    )
    pytester.runpytest_inprocess("--strict-markers").assert_outcomes(passed=2)
