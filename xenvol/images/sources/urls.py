"""Download an image from an http or https URL: its bytes, its length, its checksum."""

from __future__ import annotations

import base64
import binascii
import contextlib
import html
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from xenvol.images.errors import MissingReader, SourceError
from xenvol.images.sources.checksums import Checksum
from xenvol.images.sources.requests import Request, name_of_url
from xenvol.secret import MASK, Secret
from xenvol.session.endpoint import CONNECT_TIMEOUT, InsecureConnection, Trust

if TYPE_CHECKING:  # the extra `images` brings it
    import urllib3

SILENCE: Final = (
    60.0  # seconds without a byte; an image service may first fetch the image from its own storage
)
MAX_REDIRECTS: Final = 5
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_EXCERPT: Final = 200  # characters of a server's error text

log = logging.getLogger(__name__)


class Download:
    """The body of an answer, as a stream."""

    length: int | None
    expected: Checksum | None
    """The checksum that the image service sends, if any. `checksums.Summed` compares it."""

    def __init__(self, name: str, response: urllib3.BaseHTTPResponse, *, silence: float) -> None:
        self.name = name
        self.length = _length_of(response)
        self.expected = checksum_in(response.headers)
        self._response = response
        self._silence = silence
        self._position = 0

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes, or fewer where the body ends. Raises SourceError if it ends too early."""
        data = self._read(size)
        if len(data) < size and data:
            parts, missing = [data], size - len(data)
            while missing and (data := self._read(missing)):
                parts.append(data)
                missing -= len(data)
            data = b"".join(parts)
        return data

    def _read(self, size: int) -> bytes:
        import urllib3  # here, since the core does without it

        if size <= 0:
            return b""
        try:
            data = self._response.read(size, decode_content=False)
        except urllib3.exceptions.ReadTimeoutError as error:
            raise self._broken(f"no byte came within {self._silence:g} seconds") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._broken("the connection broke") from error
        self._position += len(data)
        if not data and self.length is not None and self._position < self.length:
            raise self._broken("the connection was closed")
        return data

    def _broken(self, how: str) -> SourceError:
        of = "" if self.length is None else f" of {self.length}"
        return SourceError(self.name, problem=f"{how} after {self._position}{of} bytes", status=200)

    def __repr__(self) -> str:
        return (
            f"<Download {self.name}: {self._position} of {'?' if self.length is None else self.length} bytes>"
        )


@contextlib.contextmanager
def open_url(
    url: str,
    *,
    headers: Mapping[str, str | Secret] = {},
    ca_file: str | None = None,
    insecure: bool = False,
    timeout: float = SILENCE,
) -> Iterator[Download]:
    """Give the body at an http or https URL as a stream. Leaving the block closes the connection.

    `ca_file` holds the certificate authorities that replace the system's. With `insecure` the host's certificate is
    not checked, so that another machine could answer and read the headers; warnings say so (InsecureConnection,
    urllib3's InsecureRequestWarning). `timeout` is in seconds without a byte.

    It follows up to 5 redirects; from https to http only if `insecure`. Headers that hold a secret (a `Secret`, or
    by their names: Authorization, X-Auth-Token…) go to the first origin alone. Proxies from the environment are not
    used. Raises SourceError, with the status if there is one; MissingReader without urllib3; ValueError for an
    unreadable ca_file, or a bad header.
    """
    try:
        import urllib3  # the extra `images` brings it
    except ImportError as error:
        package = "urllib3 (pip install 'xenvol[images]')"
        raise MissingReader(name_of_url(url), format="http", package=package) from error
    request = Request.parse(url, headers, insecure)
    trust = Trust.of(ca_file, None, insecure)
    if not request.is_private and request.secret_headers:
        risk = (
            f"{', '.join(sorted(request.secret_headers))} and the image travel to {request.name} in the clear"
        )
        warnings.warn(risk, InsecureConnection, stacklevel=3)  # the caller of the context manager
    pool = urllib3.PoolManager(
        num_pools=1,
        ssl_context=trust.context,
        retries=False,
        timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT, read=timeout),
    )
    with contextlib.ExitStack() as stack:
        stack.callback(pool.clear)
        for _ in range(MAX_REDIRECTS + 1):
            response = _ask(pool, request, timeout)
            stack.callback(response.close)
            if response.status not in _REDIRECTS:
                break
            location = response.headers.get("location")
            if not location:
                raise SourceError(request.name, problem="it redirects to nowhere", status=response.status)
            request = request.redirected(location)
            log.debug("sent on to %s", request.name)
        else:
            raise SourceError(
                request.name, problem=f"it redirected more than {MAX_REDIRECTS} times", status=response.status
            )
        if response.status != 200:
            raise SourceError(request.name, problem=_refusal(request, response), status=response.status)
        yield Download(request.name, response, silence=timeout)


def _ask(pool: urllib3.PoolManager, request: Request, timeout: float) -> urllib3.BaseHTTPResponse:
    import urllib3  # the extra `images` brings it

    # the image's length and checksum are of its unencoded bytes
    headers = {
        "User-Agent": "xenvol",
        "Accept": "application/octet-stream, */*",
        "Accept-Encoding": "identity",
    }
    try:
        with _unlogged(request.url.query):
            return pool.request(
                "GET",
                request.url._replace(fragment="").geturl(),
                headers={**headers, **request.headers},
                preload_content=False,
                redirect=False,
            )
    except urllib3.exceptions.SSLError as error:
        problem = f"the certificate of {request.url.hostname} is not valid for it, or TLS failed: name the "
        raise SourceError(request.name, problem=problem + "authority that signed it (ca_file)") from error
    except urllib3.exceptions.ReadTimeoutError as error:
        problem = f"{request.url.netloc} did not answer within {timeout:g} seconds"
        raise SourceError(request.name, problem=problem) from error
    except (urllib3.exceptions.HTTPError, OSError, UnicodeError) as error:
        raise SourceError(
            request.name, problem=f"no connection to {request.url.netloc} ({_cause_of(error)})"
        ) from error


@contextlib.contextmanager
def _unlogged(query: str) -> Iterator[None]:
    """Mask the query of the URL in urllib3's debug log."""

    def mask(record: logging.LogRecord) -> bool:
        if query and query in (text := record.getMessage()):
            record.msg, record.args = text.replace(query, MASK), ()
        return True

    theirs = logging.getLogger("urllib3.connectionpool")
    theirs.addFilter(mask)
    try:
        yield
    finally:
        theirs.removeFilter(mask)


def _cause_of(error: BaseException) -> str:
    """Return the system's reason, which urllib3 wraps."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        if isinstance(cause, TimeoutError):
            return f"no answer within {CONNECT_TIMEOUT:g} seconds"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _refusal(request: Request, response: urllib3.BaseHTTPResponse) -> str:
    import urllib3  # the extra `images` brings it

    try:
        body = response.read(4 * _EXCERPT * 4, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError):
        body = b""
    text = re.sub(r"(?is)<(style|script|head)\b.*?</\1\s*>|<[^>]*>", " ", body.decode("utf-8", "replace"))
    text = re.sub(r"[\s\x00-\x20\x7f-\x9f]+", " ", html.unescape(text)).strip()
    text = request.without_secrets(text)
    said = f"HTTP {response.status} {request.without_secrets(response.reason or '')}".rstrip()
    return f"{said}: {text[:_EXCERPT]}{'…' if len(text) > _EXCERPT else ''}" if text else said


def checksum_in(headers: Mapping[str, str]) -> Checksum | None:
    """Return the checksum in an image service's headers: MD5, in one of several spellings.

    Glance sends ``x-image-meta-checksum`` (v1, with an ETag that its dom0 plugin compared) or its digits as
    ``Content-MD5`` (v2). Other services follow RFC 1864, and send Content-MD5 in base64. An ETag without
    ``x-image-meta-`` headers is a name and not a checksum, even if it looks like one.
    """
    if headers.get("content-encoding", "identity") != "identity":
        return None  # the checksum is of the unencoded bytes
    if checksum := _md5(headers.get("x-image-meta-checksum", "")) or _md5(headers.get("content-md5", "")):
        return checksum
    if any(key.lower().startswith("x-image-meta-") for key in headers):
        return _md5(headers.get("etag", "").strip('"'))
    return None


def _md5(text: str) -> Checksum | None:
    text = text.strip()
    if re.fullmatch("[0-9a-fA-F]{32}", text):
        return Checksum("md5", text.lower())
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return Checksum("md5", digest.hex()) if len(digest) == 16 else None


def _length_of(response: urllib3.BaseHTTPResponse) -> int | None:
    if "chunked" in response.headers.get("transfer-encoding", "").lower():
        return None
    length = response.headers.get("content-length", "").strip()
    return int(length) if re.fullmatch("[0-9]{1,18}", length) else None
