"""A pool's state without the names that xapi draws at random, so that the results of two runs can be compared.

Two runs of the same work give the same rows under different references and uuids. Here a row is a line of
text, and a reference is replaced by the class and name of its target. The uuids of SRs and VDIs stay, because
drivers derive them from the disks. Those of PBDs, VBDs, secrets and other new rows are random, and are left
out.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from xenvol.simulator.snapshot import VOLATILE, Snapshot

IGNORED = {
    **VOLATILE,
    "*.allowed_operations": "xapi recomputes it now and then",
    "VM.other_config.storage_driver_domain": "xapi's note on a control domain: the SR that was plugged last",
    "VM.domid": "counts the domains of a host",
    "VM_metrics": "clocks",
    "VM_guest_metrics": "clocks",
    "VBD_metrics": "a row for each VBD",
    "VM.last_boot*": "a record of the last start",
    "*.metrics": "leads to a row of clocks",
    "*.guest_metrics": "leads to a row of clocks",
    "SR.other_config.dirty": "xapi's note that a scan is due",
    "*.other_config.xenvol:joined": "which of two attempts introduced an SR that both use",
    "SR.other_config.xenvol:left": "that the one that did is over",
}
"""What is left out, and why: patterns of ``class``, ``class.field`` and ``class.field.key``."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAMED_BY_CONTENT = ("SR", "VDI")
_NAMELESS = ("PBD", "VBD", "secret")
"""Classes whose rows are compared by what they link, not by uuid."""

Likeness = Counter[str]
"""One line for each row and each leaf of the storage that has changed; equal if two states are alike."""


def differences(expected: Likeness, found: Likeness) -> list[str]:
    """Return the lines that only one of the two has."""
    missing = [f"missing: {line}" for line in (expected - found).elements()]
    return missing + [f"there:   {line}" for line in (found - expected).elements()]


class Changes:
    """The changes of a pool since `start`, in the same words for all runs with the same result."""

    def __init__(self, start: Snapshot, *, ignore: Iterable[str] = ()) -> None:
        self._start = start
        self._ignored = (*IGNORED, *ignore)
        named = {cls: rows for cls, rows in start.objects.items() if cls not in _NAMELESS}
        self._known = frozenset(_UUID.findall(f"{named} {start.storage}"))
        self._before = _Writer(start, self._known, self._ignored)
        self._leaves = Counter(self._before.leaves("storage", start.storage))

    def until(self, snapshot: Snapshot) -> Likeness:
        """Return a line for each part of the state that differs from the start."""
        writer = _Writer(snapshot, self._known, self._ignored)
        before, after = Counter(self._leaves), Counter(writer.leaves("storage", snapshot.storage))
        for cls in {**self._start.objects, **snapshot.objects}:
            if not writer.is_ignored(cls):
                old, new = self._start.objects.get(cls, {}), snapshot.objects.get(cls, {})
                before.update(self._before.line(cls, ref, r) for ref, r in old.items() if r != new.get(ref))
                after.update(writer.line(cls, ref, r) for ref, r in new.items() if r != old.get(ref))
        # a row that was made again as it had been is no change
        gone = (f"no longer {line}" for line in (before - after).elements())
        return Likeness([*(after - before).elements(), *gone])


class _Writer:
    """Writes the rows of one snapshot as lines."""

    def __init__(self, snapshot: Snapshot, known: Collection[str], ignored: Iterable[str]) -> None:
        self.is_ignored = functools.cache(
            lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in ignored)
        )
        self._known = {
            *known,
            *(row["uuid"] for cls in _NAMED_BY_CONTENT for row in snapshot.objects.get(cls, {}).values()),
        }
        self.labels = {
            ref: self._label(cls, row) for cls, rows in snapshot.objects.items() for ref, row in rows.items()
        }

    def _label(self, cls: str, row: Mapping[str, Any]) -> str:
        name = row.get("name_label") or row.get("uuid", "")
        return f"{cls} {self._masked(name)}".rstrip()

    def line(self, cls: str, ref: str, row: Mapping[str, Any]) -> str:
        return f"{self.labels[ref]}: {', '.join(self._fields(cls, row))}"

    def _fields(self, cls: str, row: Mapping[str, Any]) -> Iterator[str]:
        for field, value in sorted(row.items()):
            where = f"{cls}.{field}"
            if self.is_ignored(where):
                continue
            if isinstance(value, dict):
                value = {key: each for key, each in value.items() if not self.is_ignored(f"{where}.{key}")}
            if value not in ("", [], {}, "OpaqueRef:NULL"):
                yield f"{field}={self._text(value)}"

    def leaves(self, path: str, tree: Any) -> Iterator[str]:
        if self.is_ignored(path):
            return
        if isinstance(tree, Mapping):
            for key in sorted(tree):
                yield from self.leaves(f"{path}.{self._text(key)}", tree[key])
        else:
            yield f"{path}: {self._text(tree)}"

    def _text(self, value: Any) -> str:
        if isinstance(value, Mapping):
            items = sorted(f"{self._text(key)}: {self._text(item)}" for key, item in value.items())
            return f"{{{', '.join(items)}}}"
        if isinstance(value, list):
            return f"[{', '.join(sorted(map(self._text, value)))}]"
        if not isinstance(value, str):
            return str(value)
        if value in self.labels:
            return f"<{self.labels[value]}>"
        if value.startswith("OpaqueRef:"):
            return "<gone>"
        return self._masked(value)

    def _masked(self, text: str) -> str:
        return _UUID.sub(lambda uuid: uuid[0] if uuid[0] in self._known else "…", text)
