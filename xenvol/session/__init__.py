"""The one place that makes XenAPI calls: log in, follow the master, retry reads, tell a no from a silence.

`connect` gives a `Session` that owns its log-in; `Session(anything_with_xenapi)` uses somebody else's.

| module | its law |
| --- | --- |
| `session` | every call is checked, sent, retried if it may be, translated and reported in one place |
| `outcome` | what came of a call: a value, a no or a silence; and whether it may be sent again |
| `login` | from an address and a password to a session that is logged in |
| `pool` | logged in once for all threads; the master followed, the session renewed |
| `foreign` | somebody else's connection serves one thread at a time |
| `clients` | a connection belongs to one thread of one process |
| `forks` | a forked child begins with new connections and locks |
| `transport` | a request is sent once, and its answer is not waited for without end |
| `endpoint` | where a xapi listens, and how it proves to be the one that is meant |
| `wire` | how xapi wants a call written, and what of it may be seen |
"""

from xenvol.session.endpoint import Endpoint, InsecureConnection, Trust
from xenvol.session.login import connect
from xenvol.session.session import FORBIDDEN_TO_DRIVERS, CallRecord, Session

__all__ = [
    "FORBIDDEN_TO_DRIVERS",
    "CallRecord",
    "Endpoint",
    "InsecureConnection",
    "Session",
    "Trust",
    "connect",
]
