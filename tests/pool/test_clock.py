"""Tests of xenvol.pool.clock: the time of the pool, not of this machine."""

from __future__ import annotations

import datetime

import pytest

from xenvol.pool.clock import parse_time, pool_time
from xenvol.pool.view import View
from xenvol.session import Session
from xenvol.simulator import Simulator


@pytest.mark.parametrize("text", ["20261121T02:35:29Z", "2026-11-21T02:35:29Z", "20261121T02:35:29.750Z"])
def test_a_date_is_read_as_either_release_writes_it(text: str) -> None:
    assert parse_time(text) == datetime.datetime(2026, 11, 21, 2, 35, 29, tzinfo=datetime.UTC)


def test_what_is_no_date_is_an_error() -> None:
    with pytest.raises(ValueError, match="yesterday"):
        parse_time("yesterday")


def test_the_time_is_that_of_the_master(xapi: Simulator, xapi_session: Session) -> None:
    view = View(Session(xapi_session))
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    assert before <= pool_time(view) <= datetime.datetime.now(datetime.UTC)
    assert xapi.journal.methods()[-1] == "host.get_servertime"
