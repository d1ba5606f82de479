"""Sizes on a command line: in GiB, or with a unit that has one meaning."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import click

_UNITS = {"": 30, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_SIZE = re.compile(r"(\d{1,30}(?:\.\d{1,30})?) ?(?:(b)|([kmgtp])(?:ib)?)?", re.ASCII | re.IGNORECASE)
_LARGEST = (1 << 63) - 1  # bytes that fit into a database's column


def read_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Parse a number of GiB, or of the unit that follows it. Returns bytes, rounded up."""
    if value is None:
        return None
    found = _SIZE.fullmatch(value)
    if found is None:
        problem = f"{value!r} is no size: write 10 (GiB), 10GiB, 512MiB, 1.5TiB or 4096B"
        raise click.BadParameter(problem, ctx, param)
    number, is_bytes, unit = found.groups()
    size = math.ceil(Fraction(number) * (1 << _UNITS[(is_bytes or unit or "").lower()]))
    if not 0 < size <= _LARGEST:
        raise click.BadParameter(
            f"{value!r} is no size of a disk: it must be above 0 and below 8 EiB", ctx, param
        )
    return size
