"""Check a driver class when it is loaded, not when a VM waits for its disk.

The check is structural: a class needs the methods with their parameters, and need not be a `VolumeDriver`. A problem
names the method's signature, and what to change it to.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, cast

_METHODS = ("connect_volume", "disconnect_volume", "rollback")
_OPTIONAL = ("extend_volume", "volume_key")


def find_problem(driver_class: object) -> str | None:
    """Return how the class breaks the contract and what to change, or None."""
    if not inspect.isclass(driver_class):
        kind = type(driver_class).__name__
        return f"the entry point is a {kind}, not a class: make it name the driver's class"
    return _problem_of_class(cast(Any, driver_class))  # mypy doubts that a class has a hash


@functools.lru_cache(maxsize=64)  # every operation asks about the same few classes
def _problem_of_class(driver_class: type) -> str | None:
    left = sorted(getattr(driver_class, "__abstractmethods__", ()))
    if left:
        return f"{driver_class.__qualname__} leaves {', '.join(left)} abstract: implement it"
    for name in (*_METHODS, *_OPTIONAL):
        if name in _OPTIONAL and not hasattr(driver_class, name):
            continue
        if problem := _problem_of_method(driver_class, name):
            return f"{driver_class.__qualname__} {problem}"
    if problem := _problem_of_constructor(driver_class):
        return f"{driver_class.__qualname__} {problem}"
    return None


def _problem_of_method(driver_class: type, name: str) -> str | None:
    wanted = f"def {name}(self, connection_data)"
    raw = inspect.getattr_static(driver_class, name, None)
    if raw is None:
        return f"has no method {name}: add {wanted}"
    bound = isinstance(raw, staticmethod | classmethod)
    method = getattr(driver_class, name)
    if not callable(method):
        return f"has a {name} that cannot be called: make it {wanted}"
    if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
        return f"has a {name} that is async: make it {wanted}"
    if inspect.isgeneratorfunction(method):
        return f"has a {name} that yields: make it {wanted}, and let it return"
    signature = _signature(method)
    if signature is None:
        return f"has a {name} whose signature cannot be read: make it {wanted}"
    if not _takes(signature, *([] if bound else ["self"]), "connection_data"):
        return f"has {name}{signature}, which cannot be called with connection_data alone: make it {wanted}"
    return None


def _problem_of_constructor(driver_class: type) -> str | None:
    wanted = "def __init__(self, session, *, hosts=None)"
    signature = _signature(driver_class)
    if signature is None:
        return f"has a constructor whose signature cannot be read: make it {wanted}"
    if not (_takes(signature, "session") and _takes(signature, "session", hosts=())):
        return (
            f"is made as {driver_class.__name__}{signature}, not with a session and hosts: make it {wanted}"
        )
    return None


def _signature(of: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(of)
    except (TypeError, ValueError):  # what inspect raises for a callable in C without a text signature
        return None


def _takes(signature: inspect.Signature, *args: object, **kwargs: object) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True
