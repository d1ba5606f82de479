"""The address of a xapi, the proof of its identity, and connections that require this proof.

Without `insecure`, xenvol sends the password only to a host that has proved its identity, and never unencrypted over a
network. With `insecure`, it warns.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import re
import selectors
import socket
import ssl
import urllib.parse
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

CONNECT_TIMEOUT: Final = 10.0  # seconds, TCP and TLS handshake each: three lost SYNs on Linux take 7
ANSWER_TIMEOUT: Final = 360.0  # seconds; xapi waits 300 for a guest to take a disk (xapi_globs.ml)


class NotConnected(OSError):
    """There was no connection, so xenvol sent nothing, and the host did nothing."""

    was_sent = False
    """Read by `xenvol.errors.XapiUnreachable`."""


class UntrustedHost(NotConnected):
    """The host that answers did not prove its identity. A retry does not help."""


class InsecureConnection(UserWarning):
    """A machine between here and the host can read the password, or answer in the host's place."""


@dataclass(frozen=True)
class Trust:
    """How a host proves its identity.

    With a certificate that a known authority signed (those of the system, or those in `ca_file`), with a
    certificate that has one of these SHA-256 `fingerprints`, or, if `insecure`, not at all.
    """

    ca_file: str | None = None
    fingerprints: frozenset[str] = frozenset()
    insecure: bool = False

    @classmethod
    def of(cls, ca_file: str | None, fingerprint: str | Iterable[str] | None, insecure: bool) -> Trust:
        if (ca_file is not None) + (fingerprint is not None) + insecure > 1:
            raise ValueError("`ca_file`, `fingerprint` and `insecure=True` exclude each other: choose one")
        if fingerprint is None:
            fingerprints: frozenset[str] = frozenset()
        else:
            given = [fingerprint] if isinstance(fingerprint, str) else fingerprint
            fingerprints = frozenset(map(_normal_fingerprint, given))
        trust = cls(ca_file, fingerprints, insecure)
        if ca_file is not None:
            try:
                _ = trust.context  # report an unreadable CA file now, not during an attach
            except OSError as error:
                raise ValueError(
                    f"`ca_file` {ca_file!r} holds no certificates that can be read: {error}"
                ) from error
        return trust

    @cached_property
    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.insecure or self.fingerprints:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE  # `check` compares a pinned certificate after the handshake
        return context

    def check(self, certificate: bytes, host: str) -> None:
        """Raise UntrustedHost if fingerprints are pinned, and this DER `certificate` has none of them."""
        seen = hashlib.sha256(certificate).hexdigest()
        if self.fingerprints and seen not in self.fingerprints:
            raise UntrustedHost(
                f"the certificate of {host} has the SHA-256 fingerprint {seen}, which is not the pinned one; "
                "if the host got a new certificate, check the fingerprint on the host and pin that one"
            )


def _normal_fingerprint(text: str) -> str:
    digits = text.rpartition("=")[2].removeprefix("sha256:").replace(":", "").replace(" ", "").lower()
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise ValueError(
            f"{text!r} is not a SHA-256 fingerprint: 64 hexadecimal digits, with or without colons"
        )
    return digits


@dataclass(frozen=True)
class Endpoint:
    """The address of a xapi: `https://host[:port]`, `http://` on the loopback, `unix:///path/to/socket`."""

    scheme: str
    host: str  # for unix, the path of the socket
    port: int
    trust: Trust = field(default=Trust(), repr=False)

    @classmethod
    def parse(cls, url: str, trust: Trust = Trust()) -> Endpoint:
        """Return the endpoint of a URL. Raises ValueError if it is none, or if it would send a password in the
        clear."""
        parts = urllib.parse.urlsplit(url if "://" in url else f"https://{url}")
        if parts.scheme == "unix":
            return cls("unix", parts.path, 0, trust)
        if "@" in parts.netloc:
            raise ValueError("a URL with a user or a password in it ends up in logs: pass them as arguments")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"{url!r} is no address of a xapi: https://host, http://localhost:port, unix:///socket"
            )
        if parts.path.strip("/") not in ("", "RPC2") or parts.query or parts.fragment:
            raise ValueError(f"{url!r} has a path: the address of a xapi ends after the host or the port")
        endpoint = cls(
            parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80), trust
        )
        if not (endpoint.is_private or trust.insecure):
            raise ValueError(f"{url} would send the password in the clear: use https, or say `insecure=True`")
        return endpoint

    @property
    def is_private(self) -> bool:
        """Whether no machine between here and the host can read the calls."""
        if self.scheme != "http" or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False  # a name, and the resolver that turns it into an address is not trusted

    def warn_if_insecure(self, *, stacklevel: int) -> None:
        if not self.is_private:
            risk = f"the password and all data travel to {self} in the clear"
        elif self.scheme == "https" and self.trust.insecure:
            risk = f"the certificate of {self} is not checked: another machine may answer in its place"
        else:
            return
        warnings.warn(risk, InsecureConnection, stacklevel=stacklevel + 1)

    def at(self, address: str) -> Endpoint:
        """Return the same service at `address`, as xapi writes it: a bare IP address, or a name; a port may follow.

        Raises NotConnected if that address would get the password in the clear.
        """
        host, port = _split_address(address)
        if self.scheme == "unix":
            moved = Endpoint("https", host, port or 443, self.trust)
        else:
            moved = replace(self, host=host, port=port or self.port)
        if not (moved.is_private or self.trust.insecure):
            raise NotConnected(
                f"{self} names {moved} as the master, which would get the password in the clear"
            )
        return moved

    def open(
        self, *, timeout: float = ANSWER_TIMEOUT, connect_timeout: float = CONNECT_TIMEOUT
    ) -> http.client.HTTPConnection:
        """Return a connection that connects at its first request, which may raise NotConnected."""
        return Connection(self, timeout=timeout, connect_timeout=connect_timeout)

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == (443 if self.scheme == "https" else 80) else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


def _split_address(address: str) -> tuple[str, int | None]:
    try:
        return str(ipaddress.ip_address(address)), None
    except ValueError:
        pass  # not bare
    try:
        parts = urllib.parse.urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise NotConnected(f"{address!r} is no address of a host")
    return host, port


class Connection(http.client.HTTPConnection):
    """HTTP over TCP, TLS or a Unix socket, with one timeout for connecting and another for each later wait."""

    def __init__(self, endpoint: Endpoint, *, timeout: float, connect_timeout: float) -> None:
        name = "localhost" if endpoint.scheme == "unix" else endpoint.host
        super().__init__(name, endpoint.port or None, timeout=connect_timeout)
        self.default_port = 443 if endpoint.scheme == "https" else 80  # left out of the Host header
        self.answer_timeout = timeout
        self._endpoint = endpoint

    def connect(self) -> None:
        try:
            self._connect()
        except NotConnected:
            self.close()
            raise
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise UntrustedHost(
                f"the certificate of {self._endpoint} does not prove its identity ({error.verify_message}); "
                "name the authority that signed it (`ca_file`), or pin its SHA-256 fingerprint (`fingerprint`)"
            ) from error
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that IDNA cannot spell
            self.close()
            raise NotConnected(f"cannot connect to {self._endpoint}: {error}") from error
        self.set_answer_timeout(self.answer_timeout)

    def _connect(self) -> None:
        if self._endpoint.scheme == "unix":
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._endpoint.host)
            return
        super().connect()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._endpoint.scheme == "https":
            trust = self._endpoint.trust
            secured = trust.context.wrap_socket(self.sock, server_hostname=self._endpoint.host)
            self.sock = secured
            trust.check(secured.getpeercert(binary_form=True) or b"", str(self._endpoint))

    def set_answer_timeout(self, seconds: float) -> None:
        self.answer_timeout = seconds
        if self.sock is not None:
            self.sock.settimeout(seconds)

    def is_stale(self) -> bool:
        """Whether the host closed the idle connection, or sent data that no request asked for."""
        if self.sock is None:
            return False
        with selectors.DefaultSelector() as selector:
            selector.register(self.sock, selectors.EVENT_READ)
            return bool(selector.select(timeout=0))
