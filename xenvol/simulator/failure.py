"""The two ways in which a call gets no result: xapi refuses it, or answers with nothing that a client can read."""

NULL = "OpaqueRef:NULL"


class Failure(Exception):
    """A refusal by xapi: the ErrorDescription that the client receives, code first."""

    def __init__(self, code: str, *params: str) -> None:
        super().__init__(code, *params)
        self.code = code
        self.params = params

    @property
    def description(self) -> list[str]:
        return [self.code, *self.params]


def internal_error(text: str) -> Failure:
    """Return the failure with which xapi answers an exception that it does not translate."""
    return Failure("INTERNAL_ERROR", text)


class Garbage(Exception):
    """The request cannot be parsed: a real xapi answers HTTP 500 with an HTML page (docs/background/recordings.md)."""
