"""Log in with an address and a password."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from xenvol.errors import InvalidArgument
from xenvol.secret import Secret
from xenvol.session.deadline import check_seconds
from xenvol.session.endpoint import ANSWER_TIMEOUT, CONNECT_TIMEOUT, Endpoint, Trust
from xenvol.session.pool_client import PoolClient, default_originator
from xenvol.session.session import CallRecord, Session


def connect(
    url: str | Iterable[str],
    user: str,
    password: str | Secret,
    *,
    ca_file: str | os.PathLike[str] | None = None,
    fingerprint: str | Iterable[str] | None = None,
    insecure: bool = False,
    timeout: float = ANSWER_TIMEOUT,
    connect_timeout: float = CONNECT_TIMEOUT,
    originator: str | None = None,
    failover: bool = True,
    on_call: Callable[[CallRecord], None] | None = None,
) -> Session:
    """Log in to a pool, at any of its hosts; leave the `with` block, or `close`, to log out.

    `url` is `https://host[:port]` (the scheme is optional), `unix:///socket`, or `http://` on the loopback. xenvol
    tries several in turn. The host proves its identity with a certificate that the system's authorities signed, or
    those in `ca_file`; or with one that has the SHA-256 `fingerprint`. Each host of a pool has its own fingerprint:
    pass all of them. `insecure` accepts any host, also over `http://`, and warns (InsecureConnection).

    `timeout` limits, in seconds, the wait until all of an answer is there. A call that exceeds it has no answer, and
    continues on the host. `originator` is the name by which xapi counts sessions; the default is
    "xenvol/<host name>". With `failover`, two calls after the log-in read the pool's uuid and hosts, so that the
    session survives the death of the master. Without it, the session ends with the master.

    Raises InvalidArgument, which is a ValueError, for an invalid address, trust or type, XapiError
    (SESSION_AUTHENTICATION_FAILED…) and XapiUnreachable.
    """
    if isinstance(password, str):
        password = Secret(password)
    _check_types(user=user, password=password, timeout=timeout, connect_timeout=connect_timeout)
    try:
        trust = Trust.of(None if ca_file is None else os.fspath(ca_file), fingerprint, insecure)
        endpoints = [Endpoint.parse(each, trust) for each in _listed(url)]
    except ValueError as error:
        raise InvalidArgument(str(error)) from error
    if not endpoints:
        raise InvalidArgument("no address of a xapi was given")
    for endpoint in endpoints:
        endpoint.warn_if_insecure(stacklevel=2)
    client = PoolClient(
        endpoints,
        user,
        password,
        originator=default_originator() if originator is None else originator,
        timeout=timeout,
        connect_timeout=connect_timeout,
        failover=failover,
    )
    session = Session(client, on_call=on_call, retry_for=timeout)
    try:
        session.log_in()
    except BaseException:
        session.close()
        raise
    return session


def _listed(url: object) -> list[str]:
    """Return the addresses as a list. Raises InvalidArgument if one is no str."""
    given = list(url) if isinstance(url, Iterable) and not isinstance(url, str) else [url]
    urls = [each for each in given if isinstance(each, str)]
    if len(urls) < len(given):
        kinds = ", ".join(sorted({type(each).__name__ for each in given if not isinstance(each, str)}))
        raise InvalidArgument(f"url is an address or several, each a str, not a {kinds}")
    return urls


def _check_types(*, user: object, password: object, timeout: object, connect_timeout: object) -> None:
    """Raise InvalidArgument for a wrong type. The error shows no value, since one of them is the password."""
    if not isinstance(user, str):
        raise InvalidArgument(f"user is a str, not a {type(user).__name__}")
    if not isinstance(password, Secret):
        raise InvalidArgument(f"password is a str or a Secret, not a {type(password).__name__}")
    check_seconds("timeout", timeout)
    check_seconds("connect_timeout", connect_timeout)
