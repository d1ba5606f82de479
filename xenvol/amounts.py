"""Amounts of bytes in the units that people use."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def human_size(size: int) -> str:
    """``20 GiB``, ``1.5 GiB``, ``512 B``; with four digits."""
    return _in_unit(size, _power(size))


def exact_size(size: int) -> str:
    """``20 GiB``, ``2040 GiB``; or, if four digits do not say it all, ``20 GiB (21474836481 bytes)``."""
    for power in (_power(size), max(0, _power(size) - 1)):
        said = _in_unit(size, power)
        if float(said.partition(" ")[0]) * 1024**power == size:
            return said
    return f"{human_size(size)} ({size} bytes)"


def _in_unit(size: int, power: int) -> str:
    return f"{size / 1024**power:.4g} {_UNITS[power]}"


def _power(size: int) -> int:
    return max(0, min((size.bit_length() - 1) // 10, len(_UNITS) - 1))
