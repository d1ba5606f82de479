"""The one place that makes XenAPI calls: log in, follow the master, retry reads, tell a no from a silence.

`connect` gives a `Session` that owns its log-in; `Session(anything_with_xenapi)` uses somebody else's.

| module | its law |
| --- | --- |
| `session` | every call is checked, sent, retried if it may be, translated and reported in one place |
| `pool` | logged in once for all threads; the master followed, the session renewed |
| `transport` | a request is sent once, to a host that proved who it is, and no wait is without end |
| `login` | from an address and a password to a session that is logged in |
| `wire` | how xapi wants a call written, and what of it may be seen |
"""

from xenvol.session.login import connect
from xenvol.session.session import FORBIDDEN_TO_DRIVERS, CallRecord, Session
from xenvol.session.transport import Endpoint, InsecureConnection, Trust

__all__ = [
    "FORBIDDEN_TO_DRIVERS",
    "CallRecord",
    "Endpoint",
    "InsecureConnection",
    "Session",
    "Trust",
    "connect",
]
