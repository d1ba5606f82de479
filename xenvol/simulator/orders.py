"""One ordered fault: which calls it strikes, how often it struck, and its form as data."""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xenvol.simulator.hooks import Fate, Incoming
from xenvol.simulator.journal import is_login


@dataclass
class Order:
    """One ordered fault. The caller that ordered it can inspect or end it."""

    number: int
    kind: str
    method: str
    nth: int
    every: bool
    host: str | None
    strike: Callable[[Fate], Fate]
    detail: str = ""
    before: Callable[[], None] | None = None
    """Changes the pool just before the call is served."""
    released: threading.Event = field(default_factory=threading.Event)
    seen: int = 0
    """Matching calls since the order."""
    hits: int = 0
    """How often it struck."""

    @property
    def is_spent(self) -> bool:
        return self.hits > 0 and not self.every

    def release(self) -> None:
        """Release the calls that this order holds; later calls do not hang any more."""
        self.released.set()

    def __str__(self) -> str:
        which = f"{self.method} #{self.nth}" + (" and later" if self.every else "")
        return f"{self.kind}{' ' + self.detail if self.detail else ''} at {which}"

    def __repr__(self) -> str:
        return f"<Order {self.number}: {self}, seen {self.seen}, struck {self.hits}>"

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.number,
            "fault": self.kind,
            "method": self.method,
            "nth": self.nth,
            "every": self.every,
            "host": self.host,
            "detail": self.detail,
            "seen": self.seen,
            "hits": self.hits,
        }


def strikes(order: Order, method: str, call: Incoming) -> bool:
    """Count this call for the order, and return True if the order strikes it."""
    if order.is_spent or (order.host is not None and order.host != call.host):
        return False
    matches = not is_login(method) if order.method == "*" else fnmatch.fnmatchcase(method, order.method)
    if not matches:
        return False
    order.seen += 1
    if order.seen == order.nth or (order.every and order.seen > order.nth):
        order.hits += 1
        return True
    return False


_METHOD = (str, 'a method, "VBD.create", a pattern, "VBD.*", or "*"')
_NTH = (int, "a number from 1")
_EVERY = (bool, "true or false")
_HOST = (str, "a host's name, address, uuid or reference")
_SECONDS = (float, "seconds")
_ERROR = (list, 'the error and its parameters, ["SR_BACKEND_FAILURE_47", "", "why", ""]')
_COMMON = {"method": _METHOD, "nth": _NTH, "every": _EVERY, "host": _HOST}

_FORMS: dict[str, tuple[dict[str, tuple[type, str]], tuple[str, ...]]] = {
    "refuse": ({**_COMMON, "error": _ERROR}, ("method", "error")),
    "late_error": ({**_COMMON, "error": _ERROR}, ("method", "error")),
    "lose_answer": (_COMMON, ("method",)),
    "lose_request": (_COMMON, ("method",)),
    "delay": ({**_COMMON, "seconds": _SECONDS, "answer": _EVERY, "inside": _EVERY}, ("method", "seconds")),
    "hang": ({**_COMMON, "answer": _EVERY}, ("method",)),
    "drop_connection": (_COMMON, ()),
    "die": ({"before": _METHOD, "after": _METHOD, "nth": _NTH, "host": _HOST}, ()),
    "come_back": ({"host": _HOST}, ()),
    "expire_session": (_COMMON, ()),
    "move_master": (
        {"host": _HOST, "before": _METHOD, "nth": _NTH, "keep_sessions": _EVERY},
        ("host",),
    ),
}
"""The faults that can be ordered as data: their keys, what each key accepts, and which are required."""

KINDS: Sequence[str] = tuple(_FORMS)
WITH_ERROR = ("refuse", "late_error")
"""The faults that answer with an error named in the order."""


def checked(spec: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the kind and the keys of an order given as a map; ValueError names the wrong key."""
    options = dict(spec)
    kind = options.pop("fault", None)
    if kind not in _FORMS:
        raise ValueError(f"fault: {kind!r} is not one of {', '.join(KINDS)}")
    keys, required = _FORMS[kind]
    for key, value in options.items():
        if key not in keys:
            raise ValueError(f"{key}: the fault {kind} has the keys {', '.join(keys)}")
        accepted, text = keys[key]
        if accepted is float and isinstance(value, int) and not isinstance(value, bool):
            continue
        right = isinstance(value, accepted) and (accepted is bool or not isinstance(value, bool))
        if not right or (key == "error" and not (value and all(isinstance(p, str) for p in value))):
            raise ValueError(f"{key}: {value!r} given, the fault {kind} expects {text}")
    for key in required:
        if key not in options:
            raise ValueError(f"{key}: missing; the fault {kind} expects {keys[key][1]}")
    return kind, options
