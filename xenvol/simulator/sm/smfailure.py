"""A storage driver's refusal, which xapi's side turns into SR_BACKEND_FAILURE_<n> (docs/background/xapi.md 2.1)."""

from __future__ import annotations

from xenvol.simulator.sm.errorcodes import reason


class SMFailure(Exception):
    """A fault number of XE_SR_ERRORCODES, ``opterr`` and the driver's output (XML or "").

    ``text`` replaces the whole reason if a driver does not use the table's (trace sm/22#14).
    """

    def __init__(
        self, number: int, opterr: str | None = None, output: str = "", *, text: str | None = None
    ) -> None:
        super().__init__(number, opterr, output, text)
        self.number = number
        self.opterr = opterr
        self.output = output
        self.text = text

    @property
    def reason(self) -> str:
        """The description of the code, with ``[opterr=...]`` if the driver gave more."""
        return reason(self.number, self.opterr) if self.text is None else self.text
