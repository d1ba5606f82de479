"""What came of a call: a value, a no or a silence; and whether it may be sent again.

The one place where the exceptions of the client and of its transport become ours, once, with no secret in them.
"""

from __future__ import annotations

import xmlrpc.client
from collections.abc import Callable, Collection, Sequence
from socket import gaierror
from typing import Any, Final
from xml.parsers.expat import ExpatError

import XenAPI

from xenvol.errors import XapiError, XapiUnreachable, XenVolError
from xenvol.secret import MASK
from xenvol.session.clients import SILENCE
from xenvol.session.endpoint import NotConnected, UntrustedHost
from xenvol.session.wire import Call, mask

BUSY: Final = frozenset({"TOO_MANY_PENDING_TASKS", "HOST_STILL_BOOTING"})
"""Refusals that pass by themselves, raised before anything is done (helpers.ml, xapi_host_helpers.ml)."""


def translated(
    name: Call, params: Sequence[Any], send: Callable[[], Any], *, hidden: Collection[str] = ()
) -> Any:
    """Its value, or one of our errors, with none of the `hidden` texts in it."""
    error: XenVolError
    cause: BaseException
    try:
        return send()
    except XenAPI.Failure as failure:
        error, cause = _refusal(name, params, failure, hidden)
    except xmlrpc.client.Fault as fault:
        cause = fault
        if fault.faultCode == 401:  # the official client's SESSION_INVALID, when it did not log in itself
            error = XapiError("SESSION_INVALID", [], str(name))
        else:
            error = XapiUnreachable(str(name), fault)
    except (*SILENCE, ExpatError, xmlrpc.client.ResponseError) as silence:
        error, cause = XapiUnreachable(str(name), silence), silence
    raise error from cause  # out here, where what was caught is no longer its context: it may quote a secret


def _refusal(
    name: Call, params: Sequence[Any], failure: XenAPI.Failure, hidden: Collection[str]
) -> tuple[XapiError, BaseException]:
    """xapi's no, verbatim but for secrets: some errors quote a value (INVALID_VALUE…), or a driver's command."""
    _, secrets = mask(name, params)
    secrets |= frozenset(hidden)
    details = [str(detail) for detail in failure.details] or ["INTERNAL_ERROR"]
    clean = [details[0], *(_without(secrets, detail) for detail in details[1:])]
    cause = failure if clean == details else XenAPI.Failure(clean)
    return XapiError(clean[0], clean[1:], str(name)), cause


def _without(secrets: Collection[str], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def may_repeat(name: Call) -> Callable[[BaseException], bool]:
    return lambda error: (
        is_busy(error)
        or (
            isinstance(error, XapiUnreachable)
            and not isinstance(error.cause, UntrustedHost)
            and (name.is_read or isinstance(error.cause, NotConnected | ConnectionRefusedError | gaierror))
        )
    )


def is_busy(error: BaseException) -> bool:
    return isinstance(error, XapiError) and error.code in BUSY
