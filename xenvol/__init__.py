"""Attach block storage to virtual machines on XenAPI hypervisors (XenServer, XCP-ng).

Each name is loaded when it is first used, so `import xenvol` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xenvol.session import connect as connect

    __version__: str

_HOME = {"connect": "xenvol.session"}

__all__ = ["__version__", "connect"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("xenvol")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
