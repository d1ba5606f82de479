"""The pool itself: who speaks for it."""

from __future__ import annotations

import pytest
import XenAPI
from vmkit import Client

from xenvol.simulator import Simulator


@pytest.mark.xapi(hosts=2)
def test_a_pool_that_has_a_new_master_is_asked_there(xapi: Simulator) -> None:
    with Client(xapi) as client:
        pool = client("pool.get_all")[0]
        old = client("pool.get_master", pool)
        new = next(host for host in client("host.get_all") if host != old)
        address = client("host.get_address", new)
        assert client("pool.is_slave", new) is True
        client("pool.designate_new_master", new)
        with pytest.raises(XenAPI.Failure) as caught:
            client("pool.get_all")
        assert caught.value.details == ["HOST_IS_SLAVE", address]
        xapi.move_master(old)
        assert client("pool.get_master", pool) == old
