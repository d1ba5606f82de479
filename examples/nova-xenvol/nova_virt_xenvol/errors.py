"""xenvol's errors become nova's, with their text, so that the server's fault shows the cause and the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nova import exception
from oslo_log import log as logging

from xenvol.errors import XapiUnreachable, XenVolError

LOG = logging.getLogger(__name__)


@contextmanager
def translated(kind: Any = exception.NovaException, **facts: object) -> Iterator[None]:
    """Raise `kind`, an exception of nova's with these facts and a `reason`, in place of an error of xenvol."""
    try:
        yield
    except XapiUnreachable as error:
        raise exception.HypervisorUnavailable(str(error)) from error
    except XenVolError as error:
        if kind is exception.NovaException:
            raise kind(str(error)) from error
        raise kind(reason=str(error), **facts) from error


@contextmanager
def logged(what: str, instance: Any) -> Iterator[None]:
    """Log any error of a step that takes something back, since the first error is the one to raise."""
    try:
        yield
    except Exception:
        LOG.exception("%s failed", what, instance=instance)
