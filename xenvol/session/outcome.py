"""The outcome of a call: a value, a refusal or a missing answer; and whether the call may be sent again.

Only this module translates the exceptions of the client and its transport. No secret stays in them.
"""

from __future__ import annotations

import sys
import xmlrpc.client
from collections.abc import Callable, Collection, Sequence
from socket import gaierror
from typing import Any, Final
from xml.parsers.expat import ExpatError

import XenAPI

from xenvol.errors import HostNotTrusted, XapiError, XapiUnreachable, XenVolError
from xenvol.secret import Secret, cut_frames, scrub
from xenvol.session.clients import SILENCE
from xenvol.session.endpoint import NotConnected, UntrustedHost
from xenvol.session.wire import Call, mask

BUSY: Final = frozenset({"TOO_MANY_PENDING_TASKS", "HOST_STILL_BOOTING"})
"""Temporary refusals, which xapi sends before it changes anything (helpers.ml, xapi_host_helpers.ml)."""


def translated(
    name: Call, params: Sequence[Any], send: Callable[[], Any], *, hidden: Collection[Secret] = ()
) -> Any:
    """Return the value of `send`, or raise XapiError or XapiUnreachable, without the secrets of the call.

    These are the secrets among the parameters, and the `hidden` ones. Some refusals quote a value (INVALID_VALUE…), or
    a driver's command. The frames below have the secrets in the clear, so the error of a call with secrets has no such
    frames.
    """
    before = sys.exception()
    try:
        return send()
    except (XenAPI.Failure, xmlrpc.client.Fault, *SILENCE, ExpatError, xmlrpc.client.ResponseError) as raised:
        cause: BaseException = raised
    # here, after the `except`, the cause is no longer the context of the error to raise
    if secrets := mask(name, params)[1].union(hidden):
        cut_frames(cause, since=before)
        scrub(cause, secrets)
    raise _translation(name, cause) from cause


def _translation(name: Call, cause: BaseException) -> XenVolError:
    if isinstance(cause, XenAPI.Failure):
        code, *details = [str(detail) for detail in cause.details] or ["INTERNAL_ERROR"]
        return XapiError(code, details, str(name))
    if isinstance(cause, xmlrpc.client.Fault) and cause.faultCode == 401:
        # the official client turns SESSION_INVALID into this if it did not log in itself
        return XapiError("SESSION_INVALID", [], str(name))
    kind = HostNotTrusted if isinstance(cause, UntrustedHost) else XapiUnreachable
    return kind(str(name), cause)


def may_repeat(name: Call) -> Callable[[BaseException], bool]:
    """Return a function that says whether the call may be sent again after an error."""
    return lambda error: (
        is_busy(error)
        or (
            isinstance(error, XapiUnreachable)
            and not isinstance(error, HostNotTrusted)
            and (name.is_read or isinstance(error.cause, NotConnected | ConnectionRefusedError | gaierror))
        )
    )


def is_busy(error: BaseException) -> bool:
    return isinstance(error, XapiError) and error.code in BUSY
