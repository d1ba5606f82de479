"""What the tests with a real nova share with those with a real Cinder."""

from __future__ import annotations

from tests.cinder.conftest import (
    pytest_configure as pytest_configure,
)
from tests.cinder.conftest import (
    pytest_runtest_makereport as pytest_runtest_makereport,
)
from tests.cinder.conftest import (
    pytest_sessionfinish as pytest_sessionfinish,
)
from tests.cinder.conftest import (
    pytest_unconfigure as pytest_unconfigure,
)
