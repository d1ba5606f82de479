"""Serve a WSGI application of OpenStack, which ships no program for it any more.

    python -m tests.nova.wsgi nova.wsgi.osapi_compute

The log starts with the address, on a free port of the loopback, before the application is loaded: so the catalogue has
it when the other services start, and a request that comes too early waits. The application reads its own
configuration, from the directory that its variable of the environment names.
"""

from __future__ import annotations

import importlib
import socketserver
import sys
from wsgiref import simple_server


class _Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True
    request_queue_size = 64


class _Handler(simple_server.WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Write nothing: the application logs its requests."""


def main(module: str) -> None:
    sys.argv[1:] = []  # nova reads its options from there
    with _Server(("127.0.0.1", 0), _Handler) as server:
        sys.stdout.write(f"{module}: http://127.0.0.1:{server.server_port}\n")
        sys.stdout.flush()
        server.set_app(importlib.import_module(module).application)
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
