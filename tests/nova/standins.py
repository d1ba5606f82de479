"""Keystone and Neutron, as far as the services of a run ask them, in threads of the test's own process.

The stand-in of Keystone knows no passwords. A token is `user:project`, and every such token is valid: so a test writes
the token that it needs, and the middleware of every service asks what it means, as it would ask Keystone.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

SERVICE_PROJECT = "5e00000000000000000000000000000e"
"""The project in which the services have their users."""
SERVICE_TOKEN = f"nova:{SERVICE_PROJECT}"
REGION = "RegionOne"
_DOMAIN = {"id": "default", "name": "Default"}


@dataclass
class StandIns:
    """Where they listen, and which services Keystone's catalogue names."""

    url: str
    catalogue: dict[str, str] = field(default_factory=dict)
    """By service type, the address of the service."""

    def __post_init__(self) -> None:
        self.catalogue |= {"identity": self.keystone_url, "network": self.url}
        self.catalogue["image"] = (
            self.url
        )  # nova tells it to listeners of its notifications, and asks nothing

    @property
    def keystone_url(self) -> str:
        return f"{self.url}/v3"

    def token(self, text: str) -> dict[str, Any]:
        """What Keystone says of this token. A user of the services' project has the role `service` as well."""
        user, _, project = text.partition(":")
        roles = ["admin", "manager", "member", "reader", *(["service"] if project == SERVICE_PROJECT else [])]
        return {
            "methods": ["password"],
            "user": {"id": user, "name": user, "domain": _DOMAIN},
            "project": {"id": project, "name": project, "domain": _DOMAIN},
            "roles": [{"id": role, "name": role} for role in roles],
            "catalog": [_service(kind, url) for kind, url in self.catalogue.items()],
            "audit_ids": ["0000000000000000000000"],
            "issued_at": "2026-01-01T00:00:00.000000Z",
            "expires_at": "2126-01-01T00:00:00.000000Z",
        }


def _service(kind: str, url: str) -> dict[str, Any]:
    endpoints = [
        {
            "id": f"{kind}-{interface}",
            "interface": interface,
            "region": REGION,
            "region_id": REGION,
            "url": url,
        }
        for interface in ("public", "internal", "admin")
    ]
    return {"id": kind, "type": kind, "name": kind, "endpoints": endpoints}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stand_ins: StandIns

    def do_GET(self) -> None:
        match urlsplit(self.path).path.strip("/").split("/"):
            case ["v3"]:
                link = {"rel": "self", "href": self.stand_ins.keystone_url}
                self._json({"version": {"id": "v3.14", "status": "stable", "links": [link]}})
            case ["v3", "auth", "tokens"]:
                self._token(self.headers["X-Subject-Token"])
            case ["v2.0", collection]:
                self._json({collection.replace("-", "_"): []})
            case _:
                self._json({}, status=404)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v3/auth/tokens":
            user = asked["auth"]["identity"]["password"]["user"]["name"]
            self._token(f"{user}:{SERVICE_PROJECT}", status=201)
        else:
            self._json({}, status=404)

    def _token(self, text: str, *, status: int = 200) -> None:
        self._json({"token": self.stand_ins.token(text)}, status=status, **{"X-Subject-Token": text})

    def _json(self, value: object, *, status: int = 200, **headers: str) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, each in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **headers,
        }.items():
            self.send_header(name, each)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing: the services' own logs have their requests."""


@contextmanager
def stand_ins() -> Iterator[StandIns]:
    """Serve both on one port of the loopback."""
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        handler.stand_ins = StandIns(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield handler.stand_ins
        finally:
            server.shutdown()
            thread.join()
