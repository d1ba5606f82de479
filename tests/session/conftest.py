"""Fixtures for the tests of connections."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tiny_xapi import TinyXapi


@pytest.fixture
def secure_host() -> Iterator[TinyXapi]:
    with TinyXapi(tls=True, sessions={"s"}, answers={"host.get_all": ["h"]}).running() as host:
        yield host
