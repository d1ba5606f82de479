"""Parse numbers as OCaml does, with its errors: xapi passes texts to it unchecked (trace 06#105..135)."""

from __future__ import annotations

import re

from xenvol.simulator.failure import Failure, internal_error


def failure(text: str) -> Failure:
    """Return the error of ``failwith text`` on the wire."""
    return internal_error(f'Failure("{text}")')


_OCAML_INT = re.compile(
    r"([+-]?)(?:0[xX]([0-9a-fA-F][0-9a-fA-F_]*)|0[oO]([0-7][0-7_]*)|0[bB]([01][01_]*)|"
    r"(0[uU])?([0-9][0-9_]*))"
)
_BASES = {2: 16, 3: 8, 4: 2}


def ocaml_int64(text: str) -> int:
    """Parse as ``Int64.of_string``: decimal within 64 bits; 0x, 0o, 0b and 0u may use all 64 as unsigned."""
    found = _OCAML_INT.fullmatch(text)
    if found is None:
        raise failure("Int64.of_string")
    sign = -1 if found[1] == "-" else 1
    for group, base in _BASES.items():
        if found[group] is not None:
            return _wrapped(sign, int(found[group].replace("_", ""), base))
    magnitude = int(found[6].replace("_", ""))
    if found[5] is not None:
        return _wrapped(sign, magnitude)
    if not -(2**63) <= sign * magnitude < 2**63:
        raise failure("Int64.of_string")
    return sign * magnitude


def _wrapped(sign: int, magnitude: int) -> int:
    if magnitude >= 2**64:
        raise failure("Int64.of_string")
    return (sign * magnitude + 2**63) % 2**64 - 2**63


_FLOAT = re.compile(r"[+-]?(?:\d[\d_]*\.?[\d_]*(?:[eE][+-]?\d[\d_]*)?|nan|inf(?:inity)?)", re.IGNORECASE)


def ocaml_float(text: str) -> float:
    """Parse as ``float_of_string``."""
    if _FLOAT.fullmatch(text) is None:
        raise failure("float_of_string")
    return float(text.replace("_", ""))
