"""Blobs: small files beside the database.

Their bytes travel over HTTP, which the simulator does not serve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenvol.simulator.rulebook import rule

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call

_DEFAULT_TYPE = "application/octet-stream"


@rule("blob.create")
def blob_create(call: Call, mime_type: str, public: bool) -> str:
    return call.db.create("blob", mime_type=mime_type or _DEFAULT_TYPE, public=public)


@rule("blob.destroy")
def blob_destroy(call: Call, blob: str) -> None:
    call.db.delete("blob", blob)


@rule("crashdump.destroy")
def crashdump_destroy(call: Call, crashdump: str) -> None:
    call.db.delete("crashdump", crashdump)


@rule("console.create")
def console_create(call: Call, record: dict[str, dict[str, str]]) -> str:
    return call.db.create("console", other_config=record["other_config"])


@rule("console.destroy")
def console_destroy(call: Call, console: str) -> None:
    call.db.delete("console", console)
