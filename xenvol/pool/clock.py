"""The pool's clock: the one that machines whose own clocks differ agree on."""

from __future__ import annotations

import datetime

from xenvol.pool.view import View


def pool_time(view: View) -> datetime.datetime:
    """Return the time of the pool's master, in whole seconds, in UTC. One call, two if the pool is not read yet."""
    return parse_time(view.call("host.get_servertime", view.master))


def parse_time(moment: object) -> datetime.datetime:
    """Return a date as xapi sends it, ``20261121T02:35:29Z`` or with hyphens, in whole seconds, in UTC."""
    text = str(moment).replace("-", "").removesuffix("Z").partition(".")[0]
    return datetime.datetime.strptime(text, "%Y%m%dT%H:%M:%S").replace(tzinfo=datetime.UTC)
