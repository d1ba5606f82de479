"""What a door refuses with, and how its pages print it: OCaml's exceptions among xapi's errors (trace sm/30)."""

from __future__ import annotations

from xenvol.simulator.failure import Failure


class Unauthorised(Exception):
    """401; no task hears of it."""


class Missing(Failure):
    """A reference or uuid that no row has: UUID_INVALID to a task, an exception of the database on a page."""

    def __init__(self, cls: str, name: str) -> None:
        super().__init__("UUID_INVALID", cls, name)


class NoSuchTask(Exception):
    def __init__(self, task: str) -> None:
        super().__init__(task)
        self.task = task


class Rejected(Exception):
    """Refused by its form: the task fails, and the answer is a head alone."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.failure = Failure("INTERNAL_ERROR", text)


def printed(error: Failure | NoSuchTask) -> str:
    """As a page of HTTP 500 says it."""
    if isinstance(error, NoSuchTask):
        return f'Db_exn.DBCache_NotFound("missing row", "task", "{error.task}")'
    if isinstance(error, Missing):
        cls, name = error.params
        return f'Db_exn.Read_missing_uuid("{cls}", "", "{name}")'
    return f"{error.code}: [ {'; '.join(error.params)} ]"
