"""The only place that makes XenAPI calls: log in, follow the master, retry reads, tell a refusal from a missing answer.

`connect` returns a `Session` that owns its log-in; `Session(anything_with_xenapi)` uses a log-in of the caller.

| module | what it does |
| --- | --- |
| `session` | check each call, send it, retry it if that is safe, translate its errors, report it |
| `outcome` | turn an answer into a value or an error; say which calls may be sent again |
| `login` | log in with an address and a password |
| `pool_client` | hold one log-in for all threads, follow the master, renew the session |
| `foreign` | call over a connection that the caller logged in, one thread at a time |
| `clients` | give each thread of each process a connection of its own |
| `forks` | give a forked child new connections and locks |
| `transport` | send a request once, and limit the wait for its answer |
| `endpoint` | the address of a xapi, and the proof of its identity |
| `wire` | how xapi wants a call written, and which parts may be logged |
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
