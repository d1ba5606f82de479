"""A test that needs a program, a server, a module or root skips without it, and says so in one line of one form.

Under CI a skipped test fails the run (`pytest_sessionfinish`), so nothing stays untested there.
"""

from __future__ import annotations

import importlib
import os
import shutil
from types import ModuleType
from typing import Final, NoReturn

import pytest

DEBIAN: Final = {
    "genisoimage": "genisoimage",
    "gzip": "gzip",
    "losetup": "mount",
    "make": "make",
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
    "rabbitmqctl": "rabbitmq-server",
    "tar": "tar",
    "zstd": "zstd",
}
"""The package of Debian that brings a program."""
SBIN: Final = ["/usr/sbin", "/sbin"]
"""Where Debian keeps programs for administrators. Other users do not have these on their PATH."""


def program(name: str, *others: str) -> str:
    """Return the path of this program, or of the first of the others that is installed."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *SBIN])
    for each in (name, *others):
        if found := shutil.which(each, path=path):
            return found
    instead = f" (or {' or '.join(others)})" if others else ""
    raise _skipped(f"{name}{instead}, which is not installed; on Debian: apt-get install {DEBIAN[name]}")


def module(name: str, package: str) -> ModuleType:
    """Return this module of an optional package of Python."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise _skipped(f"the module {name}, which is not installed; pip install {package}") from None


def root(purpose: str) -> None:
    """Skip if another user than root runs the tests."""
    if os.geteuid() != 0:
        raise _skipped(f"root, {purpose}; the user's id is {os.geteuid()}")


def no_server(kind: str, *, where: str, reason: object, variable: str) -> NoReturn:
    """Skip, since no server of this kind answers; the reason's first line is shown."""
    first_line = str(reason).strip().partition("\n")[0]
    raise _skipped(f"{kind}, and none answers at {where} ({first_line}); {variable} names another one")


def _skipped(what: str) -> BaseException:
    exception: BaseException = pytest.skip.Exception(f"needs {what}", allow_module_level=True)
    return exception


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a run under CI in which a test was skipped: CI installs all that the tests need."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped") and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
