"""The two ways in which xapi does not give a result: it refuses, or it answers nothing that a client can read."""

NULL = "OpaqueRef:NULL"


class Failure(Exception):
    """A refusal: the ErrorDescription that the client receives, code first."""

    def __init__(self, code: str, *params: str) -> None:
        super().__init__(code, *params)
        self.code = code
        self.params = params

    @property
    def description(self) -> list[str]:
        return [self.code, *self.params]


def internal_error(text: str) -> Failure:
    """What an exception that xapi does not translate looks like on the wire."""
    return Failure("INTERNAL_ERROR", text)


class Garbage(Exception):
    """The request cannot be parsed: real xapi answers HTTP 500 with a page of HTML (facts/truth.md)."""
