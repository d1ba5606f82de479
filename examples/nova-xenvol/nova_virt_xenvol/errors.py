"""xenvol's errors become nova's, with their text, so that the server's fault shows the cause and the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nova import exception

from xenvol.errors import XapiUnreachable, XenVolError


@contextmanager
def translated(
    kind: type[exception.NovaException] = exception.NovaException, **facts: object
) -> Iterator[None]:
    """Raise `kind`, with these facts and a `reason`, for an error of xenvol."""
    try:
        yield
    except XapiUnreachable as error:
        raise exception.HypervisorUnavailable(str(error)) from error
    except XenVolError as error:
        if kind is exception.NovaException:
            raise kind(str(error)) from error
        raise kind(reason=str(error), **facts) from error
