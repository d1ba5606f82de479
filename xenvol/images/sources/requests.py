"""Send a secret only to the host that it is meant for.

xenvol sends a header with a secret to the first origin alone, and only over a private connection. No name, error,
log or repr shows such a header, nor the query of a URL, since the query of a signed URL is the secret.
"""

from __future__ import annotations

import base64
import ipaddress
import logging
import netrc
import os
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from xenvol.images.errors import SourceError
from xenvol.secret import MASK, Secret, is_secret_key, masked

log = logging.getLogger(__name__)

_SECRET_HEADERS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclass(frozen=True)
class Request:
    """The URL, the headers, and how private the connection is."""

    url: urllib.parse.SplitResult = field(repr=False)
    name: str
    headers: Mapping[str, str] = field(repr=False)
    secret_headers: frozenset[str] = field(repr=False)  # names of the headers that hold secrets
    is_insecure: bool

    @classmethod
    def parse(cls, url: str, headers: Mapping[str, str | Secret], is_insecure: bool) -> Request:
        """Return the request. Raises SourceError for a URL that is not one, or a secret over an open connection."""
        plain = {
            key: value.reveal() if isinstance(value, Secret) else value for key, value in headers.items()
        }
        secret = frozenset(
            key
            for key, value in headers.items()
            if isinstance(value, Secret) or key.lower() in _SECRET_HEADERS or is_secret_key(key)
        )
        for key, value in plain.items():
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", key) or re.search(
                r"[\0-\x08\x0a-\x1f\x7f]", value
            ):
                raise ValueError(f"{key!r} is not a valid header, or its value has an invalid character")
        parts = _split(url, name=name_of_url(url))
        request = cls(parts, name_of_url(url), plain, secret, is_insecure)
        request.check_wire()
        return request

    @property
    def is_private(self) -> bool:
        """Return whether the connection cannot be read on its way."""
        return self.url.scheme == "https" or is_loopback(self.url)

    def with_login(self) -> Request:
        """Return the request with the login of ~/.netrc, if it has no Authorization and the connection is private."""
        has_login = any(key.lower() == "authorization" for key in self.headers)
        if has_login or not self.is_private or (login := _login_of(self.url.hostname or "")) is None:
            return self
        value = "Basic " + base64.b64encode(login.encode()).decode()
        return Request(
            self.url,
            self.name,
            {**self.headers, "Authorization": value},
            self.secret_headers | {"Authorization"},
            self.is_insecure,
        )

    def check_wire(self) -> None:
        if self.secret_headers and not (self.is_private or self.is_insecure):
            named = ", ".join(sorted(self.secret_headers))
            raise SourceError(
                self.name,
                problem=f"{named} would be sent in the clear: use https, or give insecure=True (--image-insecure)",
            )

    def redirected(self, location: str) -> Request:
        """Return the request for a redirect, without the secrets if the origin differs. Raises SourceError."""
        try:
            url = urllib.parse.urljoin(self.url.geturl(), location)
        except ValueError:
            raise SourceError(self.name, problem="it redirects to an invalid URL") from None
        name = name_of_url(url)
        parts = _split(url, name=self.name)
        if (self.url.scheme, parts.scheme) == ("https", "http") and not self.is_insecure:
            raise SourceError(
                self.name,
                problem=f"it redirects to {name}, and over http the image could be changed on its way",
            )
        if _origin(parts) == _origin(self.url):
            return Request(parts, name, self.headers, self.secret_headers, self.is_insecure)
        kept = {key: value for key, value in self.headers.items() if key not in self.secret_headers}
        return Request(parts, name, kept, frozenset(), self.is_insecure)

    def without_secrets(self, text: str) -> str:
        """Return a server's text without the secrets that it repeats."""
        for key in self.secret_headers:
            for word in {self.headers[key], *self.headers[key].split()}:
                if len(word) > 3:  # shorter words are parts of ordinary text
                    text = text.replace(word, MASK)
        if self.url.query:
            text = text.replace(self.url.query, MASK)
        return masked(text)


def _split(url: str, *, name: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SourceError(name, problem="it is not a URL") from error
    if "@" in parts.netloc:
        raise SourceError(
            name,
            problem="a URL with a user or a password in it ends up in logs: give them as an Authorization header",
        )
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not parts.netloc.isprintable()
        or port == 0
    ):
        raise SourceError(name, problem="it is not an http or https URL of a host")
    return parts


def name_of_url(url: str) -> str:
    """Return the URL without its secrets, and without characters that could garble a terminal."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return "a URL"
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{'?…' if parts.query else ''}"
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in shown
    )


def is_of_same_origin(url: str, other: str) -> bool:
    """Return whether two valid URLs have the same scheme, host and port."""
    return _origin(urllib.parse.urlsplit(url)) == _origin(urllib.parse.urlsplit(other))


def _origin(parts: urllib.parse.SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _login_of(host: str) -> str | None:
    """Return ``user:password`` of the entry for this very host in ~/.netrc, or in the file that NETRC names."""
    path = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        entry = netrc.netrc(path).hosts.get(host)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, netrc.NetrcParseError) as error:
        line = f", line {error.lineno}, is not valid" if isinstance(error, netrc.NetrcParseError) else ""
        log.warning(
            "%s%s: no login of it is used (%s)", path, line, type(error).__name__
        )  # a text may quote it
        return None
    if entry is None or entry[2] is None:
        return None
    user, _, password = entry
    return f"{user}:{password}"


def is_loopback(parts: urllib.parse.SplitResult) -> bool:
    """Return whether the URL is one of this machine, as it is spelled."""
    try:
        return parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False  # a name: it may resolve to any address
