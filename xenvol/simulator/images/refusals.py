"""The refusals of image requests, and their text on HTML pages:

OCaml exceptions and xapi errors (trace sm/30).
"""

from __future__ import annotations

from xenvol.simulator.failure import Failure


class Unauthorised(Exception):
    """Answered with 401; a task does not learn of it."""


class Missing(Failure):
    """No row has this reference or uuid: a task gets UUID_INVALID, a page shows an exception of the database."""

    def __init__(self, cls: str, name: str) -> None:
        super().__init__("UUID_INVALID", cls, name)


class NoSuchTask(Exception):
    def __init__(self, task: str) -> None:
        super().__init__(task)
        self.task = task


class Rejected(Exception):
    """The form of the request is wrong: the task fails, and the answer is a head alone."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.failure = Failure("INTERNAL_ERROR", text)


def printed(error: Failure | NoSuchTask) -> str:
    """Return the error's text on a page of HTTP 500."""
    if isinstance(error, NoSuchTask):
        return f'Db_exn.DBCache_NotFound("missing row", "task", "{error.task}")'
    if isinstance(error, Missing):
        cls, name = error.params
        return f'Db_exn.Read_missing_uuid("{cls}", "", "{name}")'
    return f"{error.code}: [ {'; '.join(error.params)} ]"
