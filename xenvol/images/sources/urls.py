"""Download an image from an http or https URL: its bytes, its length, its checksum.

A connection that breaks is opened again, and the rest asked for, if it is certain that the rest belongs to the same
file: by its version (a strong ETag), or by a checksum that is compared at the end.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from xenvol.images.errors import SourceUnavailable
from xenvol.images.sources.checksums import Checksum
from xenvol.images.sources.http_client import DELAYS, Broke, Client
from xenvol.images.sources.requests import Request
from xenvol.secret import Secret
from xenvol.session.endpoint import InsecureConnection, Trust

SILENCE: Final = (
    60.0  # seconds without a byte; an image service may first fetch the image from its own storage
)
_STEADY: Final = 64 << 10  # bytes after which a broken connection counts as a new accident

log = logging.getLogger(__name__)


class Download:
    """The body at a URL, as a stream."""

    length: int | None
    expected: Checksum | None
    """The checksum that the image service sends, if any. `checksums.Summed` compares it."""

    def __init__(
        self,
        client: Client,
        *,
        is_guarded: bool = False,
        rate: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Send the request. `is_guarded`: the caller compares a checksum; `rate` is in bytes a second. Raises
        SourceError."""
        self._client = client
        self._answer = client.get()
        headers = self._answer.headers
        self.name = self._answer.name
        self.length = _length_of(headers)
        self.expected = checksum_in(headers)
        self.ends_by_itself = self.length is not None or _is_chunked(headers)
        """Whether an end that comes too early is noticed. Without, the end of the connection is that of the body."""
        self._tag = _strong_tag(headers)
        self._is_guarded = is_guarded or self.expected is not None
        self._rate = rate
        self._clock = clock
        self._due = clock()
        self._position = 0
        self._resumed_at = 0
        self._accidents = 0

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
        if size <= 0:
            return b""
        while True:
            try:
                data = self._answer.read(size)
                if not data and self.length is not None and self._position < self.length:
                    raise Broke("the connection was closed")
                break
            except Broke as broke:
                self._resume(broke)
        self._position += len(data)
        self._keep_to_the_rate(len(data))
        return data

    def _keep_to_the_rate(self, size: int) -> None:
        if self._rate is None:
            return
        now = self._clock()
        self._due = max(self._due, now) + size / self._rate
        if self._due > now:
            self._client.pause(self._due - now)

    def _resume(self, broke: Broke) -> None:
        """Ask for the rest. Raises SourceUnavailable if the server does not send it, or may send that of another
        file."""
        of = "" if self.length is None else f" of {self.length}"
        problem = f"{broke} after {self._position}{of} bytes"
        if not self._position or (self._tag is None and not self._is_guarded):
            why = (
                ""
                if not self._position
                else ", and it does not say which version of the file it sends (ETag)"
            )
            raise self._unavailable(problem + why) from broke
        if self._position - self._resumed_at >= _STEADY:
            self._accidents = 0
        if self._accidents == len(DELAYS):
            raise self._unavailable(f"{problem}, {self._accidents} times in a row") from broke
        self._client.pause(DELAYS[self._accidents])
        self._accidents += 1
        self._resumed_at = self._position
        log.warning("%s: %s; xenvol asks for the rest", self.name, problem)
        guard = {} if self._tag is None else {"If-Range": self._tag}
        answer = self._client.get({"Range": f"bytes={self._position}-", **guard}, accepted=(200, 206, 416))
        if answer.status != 206 or not self._is_rest(answer.headers):
            why = ", and the file has changed, or the server sends no part of it"
            raise self._unavailable(problem + why) from broke
        self._answer = answer

    def _is_rest(self, headers: Mapping[str, str]) -> bool:
        """Return whether these are the headers of the rest of the same file."""
        found = re.fullmatch(
            r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", headers.get("content-range", "").strip()
        )
        if found is None or int(found[1]) != self._position:
            return False
        if self._tag is not None and headers.get("etag", self._tag) != self._tag:
            return False
        return self.length is None or found[2] in ("*", str(self.length))

    def _unavailable(self, problem: str) -> SourceUnavailable:
        return SourceUnavailable(self.name, problem=problem, status=200)

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
    is_guarded: bool = False,
    rate: int | None = None,
    timeout: float = SILENCE,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[Download]:
    """Give the body at an http or https URL as a stream. Leaving the block closes the connection.

    `ca_file` holds the certificate authorities that replace the system's. With `insecure` the host's certificate is
    not checked, so that another machine could answer and read the headers; warnings say so (InsecureConnection,
    urllib3's InsecureRequestWarning). `is_guarded`: the caller compares a checksum of the whole. `rate` is in bytes a
    second, at most; `timeout` in seconds without a byte; `pause` waits.

    It follows up to 5 redirects; from https to http only if `insecure`, and none into the network of this machine.
    Headers that hold a secret (a `Secret`, or by their names: Authorization, X-Auth-Token…) go to the first origin
    alone. So does the login that ~/.netrc (or NETRC) has for the host, if no Authorization is given and the connection
    is private. Proxies are those of the environment. A server that is busy, or not there, is asked five times.

    Raises SourceUnavailable if the same call may succeed later; SourceError, with the status if there is one;
    MissingReader without urllib3; ValueError for an unreadable ca_file, or a bad header.
    """
    request = Request.parse(url, headers, insecure)
    trust = Trust.of(ca_file, None, insecure)
    if not request.is_private and request.secret_headers:
        risk = (
            f"{', '.join(sorted(request.secret_headers))} and the image travel to {request.name} in the clear"
        )
        warnings.warn(risk, InsecureConnection, stacklevel=3)  # the caller of the context manager
    client = Client(request.with_login(), trust, silence=timeout, pause=pause)
    with contextlib.closing(client):
        yield Download(client, is_guarded=is_guarded, rate=rate)


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


def _is_chunked(headers: Mapping[str, str]) -> bool:
    return "chunked" in headers.get("transfer-encoding", "").lower()


def _length_of(headers: Mapping[str, str]) -> int | None:
    length = headers.get("content-length", "").strip()
    return int(length) if not _is_chunked(headers) and re.fullmatch("[0-9]{1,18}", length) else None


def _strong_tag(headers: Mapping[str, str]) -> str | None:
    """Return the ETag of a server that sends parts of files; None for a weak one, which two versions may share."""
    tag = headers.get("etag", "").strip()
    is_whole = headers.get("accept-ranges", "").strip().lower() == "none"
    return tag if re.fullmatch(r'"[\x21\x23-\x7e\x80-\xff]*"', tag) and not is_whole else None
