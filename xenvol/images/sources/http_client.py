"""Ask a server for an image: one GET, over redirects and proxies, again and again while the server is only busy.

The one module that imports urllib3. A redirect never leads into the network of this machine: not to link-local
addresses, where clouds keep the credentials of their machines, and from another host not to this machine itself.
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import html
import http.client
import ipaddress
import logging
import random
import re
import socket
import ssl
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from xenvol.images.errors import MissingReader, SourceError, SourceUnavailable
from xenvol.images.sources.requests import Request, is_loopback
from xenvol.secret import MASK
from xenvol.session.endpoint import CONNECT_TIMEOUT, Trust

if TYPE_CHECKING:  # the extra `images` brings it
    import urllib3

MAX_REDIRECTS: Final = 5
DELAYS: Final = (0.5, 1.0, 2.0, 4.0)
"""Seconds before the second attempt, the third…; a random half of each is left out, so that clients spread."""
LONGEST_WAIT: Final = 120.0
"""Seconds. A server that asks for more time is left to the caller."""
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_BUSY: Final = (408, 425, 429, 500, 502, 503, 504)
_EXCERPT: Final = 200  # characters of a server's error text
_LOGIN: Final = (
    "give what it accepts as a token or a header (--token-file, --header-file), or a login in ~/.netrc"
)

_METADATA_NAMES: Final = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data"})
_METADATA: Final = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16")))
"""Services of clouds at addresses that are not link-local: AWS by IPv6, Alibaba, Azure."""

log = logging.getLogger(__name__)


class Broke(Exception):
    """The connection broke, or stalled, within a body; the text says how."""


class Answer:
    """The answer of a server: its head, and its body, which can be read once."""

    def __init__(self, name: str, response: urllib3.BaseHTTPResponse, silence: float) -> None:
        self.name = name
        """The URL that answered, without its secrets."""
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._silence = silence

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes; none at the end. Raises Broke."""
        import urllib3  # the extra `images` brings it

        try:
            return self._response.read(size, decode_content=False)
        except urllib3.exceptions.ReadTimeoutError as error:
            raise Broke(f"no byte came within {self._silence:g} seconds") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Broke("the connection broke") from error

    def close(self) -> None:
        self._response.close()


class Client:
    """Sends the same request, with more headers if need be. Close it at the end."""

    def __init__(
        self, request: Request, trust: Trust, *, silence: float, pause: Callable[[float], None]
    ) -> None:
        """`silence` is in seconds without a byte; `pause` waits so many seconds. Raises MissingReader."""
        try:
            import urllib3  # noqa: F401  # the extra `images` brings it
        except ImportError as error:
            package = "urllib3 (pip install 'xenvol[images]')"
            raise MissingReader(request.name, format="http", package=package) from error
        self._request = request
        self._trust = trust
        self._silence = silence
        self._stack = contextlib.ExitStack()
        self.pause = pause

    def get(self, more: Mapping[str, str] = {}, *, accepted: tuple[int, ...] = (200,)) -> Answer:
        """Return the answer with one of the `accepted` statuses; try again while the server is busy or not there.

        Raises SourceUnavailable after the last attempt, SourceError for any other answer.
        """
        for delay in (*DELAYS, None):
            try:
                return self._get(more, accepted)
            except SourceUnavailable as error:
                wait = error.retry_after or 0.0
                if delay is None or wait > LONGEST_WAIT:
                    raise
                wait = max(wait, random.uniform(delay / 2, delay))
                log.warning("%s; xenvol tries again in %.1f seconds", error, wait)
            self.pause(wait)
        raise AssertionError("the last attempt returns or raises")

    def _get(self, more: Mapping[str, str], accepted: tuple[int, ...]) -> Answer:
        self._stack.close()  # the connections of the attempt before
        request = self._request
        for _ in range(MAX_REDIRECTS + 1):
            response = self._ask(request, more)
            self._stack.callback(response.close)
            if response.status in accepted:
                return Answer(request.name, response, self._silence)
            if response.status not in _REDIRECTS:
                raise _refusal(request, response)
            location = response.headers.get("location")
            if not location:
                raise SourceError(request.name, problem="it redirects to nowhere", status=response.status)
            request = self._redirected(request, location)
            log.debug("redirected to %s", request.name)
        raise SourceError(
            request.name, problem=f"it redirected more than {MAX_REDIRECTS} times", status=response.status
        )

    def _redirected(self, request: Request, location: str) -> Request:
        target = request.redirected(location)
        host = target.url.hostname or ""
        resolves = proxy_of(target.url) is None  # else the proxy does
        may_be_here = is_loopback(self._request.url)
        if host.rstrip(".").lower() in _METADATA_NAMES or any(
            not _may_follow(address, may_be_here) for address in _addresses_of(host, resolves)
        ):
            raise SourceError(
                request.name,
                problem=f"it redirects to {target.name}, an address within the network of this machine, which xenvol "
                "does not follow; give that URL itself if you mean it",
            )
        return target

    def _ask(self, request: Request, more: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        import urllib3  # the extra `images` brings it

        # the image's length and checksum are of its unencoded bytes
        headers = {
            "User-Agent": "xenvol",
            "Accept": "application/octet-stream, */*",
            "Accept-Encoding": "identity",
            **request.headers,
            **more,
        }
        where = request.url.netloc
        try:
            with _unlogged(request.url.query):
                return self._pool(request).request(
                    "GET",
                    request.url._replace(fragment="").geturl(),
                    headers=headers,
                    preload_content=False,
                    redirect=False,
                )
        except urllib3.exceptions.SSLError as error:
            problem = (
                f"the certificate of {request.url.hostname} is not valid for it, or TLS failed: name the "
            )
            raise SourceError(
                request.name, problem=problem + "authority that signed it (ca_file, --image-ca-file)"
            ) from error
        except urllib3.exceptions.ReadTimeoutError as error:
            problem = f"{where} did not answer within {self._silence:g} seconds"
            raise SourceUnavailable(request.name, problem=problem) from error
        except (urllib3.exceptions.HTTPError, OSError, UnicodeError) as error:
            kind = SourceUnavailable if _may_pass(error) else SourceError
            raise kind(request.name, problem=f"no connection to {where} ({_cause_of(error)})") from error

    def _pool(self, request: Request) -> urllib3.PoolManager:
        import urllib3  # the extra `images` brings it

        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT, read=self._silence)
        proxy = proxy_of(request.url)
        pool: urllib3.PoolManager
        if proxy is None:
            pool = urllib3.PoolManager(
                num_pools=1, ssl_context=self._trust.context, retries=False, timeout=timeout
            )
        else:
            address, login = _split_proxy(request.name, proxy)
            pool = urllib3.ProxyManager(
                address,
                num_pools=1,
                ssl_context=self._trust.context,
                retries=False,
                timeout=timeout,
                proxy_headers=None if login is None else urllib3.make_headers(proxy_basic_auth=login),
            )
        self._stack.callback(pool.clear)
        return pool

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._stack.close()


def proxy_of(url: urllib.parse.SplitResult) -> str | None:
    """Return the proxy that the environment names for this URL (https_proxy, all_proxy, no_proxy…), or None.

    This machine itself is asked without a proxy.
    """
    proxies = urllib.request.getproxies_environment()
    bypass = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed lacks it
    if is_loopback(url) or bypass(url.netloc, proxies):
        return None
    return proxies.get(url.scheme) or proxies.get("all")


def _split_proxy(image: str, proxy: str) -> tuple[str, str | None]:
    """Return the proxy's URL without its login, and the login. Raises SourceError, which does not show it."""
    parts = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    login, _, address = parts.netloc.rpartition("@")
    if parts.scheme not in ("http", "https") or not address:
        raise SourceError(
            image,
            problem=f"the environment names a proxy of the kind {parts.scheme!r}, and xenvol uses http and https "
            "proxies: set https_proxy or http_proxy to one, or no_proxy to this host",
        )
    return f"{parts.scheme}://{address}", urllib.parse.unquote(login) if login else None


def _addresses_of(host: str, resolves: bool) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Yield the addresses of a host: the one that it is, or, if `resolves`, those to which its name leads."""
    found = [host]
    if resolves:
        with contextlib.suppress(OSError, UnicodeError):  # the connection tells why
            found = [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    for text in found:
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(text.partition("%")[0])
            yield getattr(address, "ipv4_mapped", None) or address


def _may_follow(address: ipaddress.IPv4Address | ipaddress.IPv6Address, may_be_here: bool) -> bool:
    if address.is_link_local or address in _METADATA:
        return False
    return may_be_here or not (address.is_loopback or address.is_unspecified)


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


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, and what urllib3 has wrapped in it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _may_pass(error: BaseException) -> bool:
    """Return whether another attempt can help: not where a name does not exist, or no HTTP is spoken."""
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return cause.errno == socket.EAI_AGAIN
        if isinstance(cause, ssl.SSLError):
            return False
        if isinstance(cause, http.client.HTTPException) and not isinstance(cause, OSError):
            return isinstance(cause, http.client.IncompleteRead)
    return any(isinstance(cause, OSError) for cause in _causes(error))


def _cause_of(error: BaseException) -> str:
    """Return the system's reason, which urllib3 wraps."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        if isinstance(cause, TimeoutError):
            return f"no answer within {CONNECT_TIMEOUT:g} seconds"
    return type(error).__name__


def _refusal(request: Request, response: urllib3.BaseHTTPResponse) -> SourceError:
    """Return the error for an answer that is no image."""
    said = f"HTTP {response.status} {request.without_secrets(response.reason or '')}".rstrip()
    if text := _excerpt(request, response):
        said = f"{said}: {text}"
    if response.status in _BUSY:
        wait = _seconds_in(response.headers.get("retry-after", ""))
        return SourceUnavailable(request.name, problem=said, status=response.status, retry_after=wait)
    remedy = f"; {_LOGIN}" if response.status in (401, 403) else ""
    return SourceError(request.name, problem=said + remedy, status=response.status)


def _excerpt(request: Request, response: urllib3.BaseHTTPResponse) -> str:
    """Return the beginning of what the server says, clean and without secrets."""
    import urllib3  # the extra `images` brings it

    try:
        body = response.read(4 * _EXCERPT * 4, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError):
        body = b""
    text = re.sub(r"(?is)<(style|script|head)\b.*?</\1\s*>|<[^>]*>", " ", body.decode("utf-8", "replace"))
    text = re.sub(r"[\s\x00-\x20\x7f-\x9f]+", " ", html.unescape(text)).strip()
    text = request.without_secrets(text)
    return f"{text[:_EXCERPT]}…" if len(text) > _EXCERPT else text


def _seconds_in(text: str) -> float | None:
    """Return the seconds of a Retry-After header, which is a number or a date; None if it is neither."""
    if re.fullmatch("[0-9]{1,9}", text.strip()):
        return float(text)
    with contextlib.suppress(ValueError, TypeError):
        then = email.utils.parsedate_to_datetime(text)
        if then.tzinfo is not None:
            return max(0.0, (then - datetime.datetime.now(datetime.UTC)).total_seconds())
    return None
