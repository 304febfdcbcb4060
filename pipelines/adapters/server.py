"""A small HTTP server for JSON requests: it answers what its routes answer, and tells every error as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import urlsplit

from clip_es.errors import ClipEsError

LARGEST_REQUEST = 2**28
"""Bytes: a picture of 190 MB as base64."""

Route = Callable[[dict[str, Any]], dict[str, Any]]
"""From the object a request holds, empty for GET, to that of the answer. Raises ClipEsError: told as status 400."""


def server(routes: Mapping[str, Route], host: str = "127.0.0.1", port: int = 9090) -> ThreadingHTTPServer:
    """A server that is bound and does not yet answer: call `serve_forever`, and `shutdown` from another thread.

    Raises OSError: the address is taken.
    """

    handler = type("Handler", (_Handler,), {"table": dict(routes)})
    made = ThreadingHTTPServer((host, port), handler)
    made.daemon_threads = True
    return made


class _Handler(BaseHTTPRequestHandler):
    table: ClassVar[Mapping[str, Route]] = {}
    timeout = 60
    """Seconds that a client may be silent."""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer("GET", {})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or int(length) > LARGEST_REQUEST:
            self.close_connection = True
            return self._send(413, {"error": f"a request needs a Content-Length of at most {LARGEST_REQUEST} bytes"})
        try:
            asked = json.loads(self.rfile.read(int(length)) or b"{}")
        except (ValueError, RecursionError) as error:
            return self._send(400, {"error": f"the request is not JSON: {str(error)[:100]}"})
        if not isinstance(asked, dict):
            return self._send(400, {"error": "the request is not a JSON object"})
        return self._answer("POST", asked)

    def _answer(self, method: str, asked: dict[str, Any]) -> None:
        path = urlsplit(self.path).path
        route = self.table.get(f"{method} {path.rstrip('/') or '/'}")
        if route is None:
            return self._send(404, {"error": f"there is no {method} {path[:80]}"})
        try:
            return self._send(200, route(asked))
        except ClipEsError as error:
            return self._send(400, {"error": str(error)})
        except Exception as error:  # One request must not end the others; the tool shows what it is told.
            return self._send(500, {"error": f"{type(error).__name__}: {str(error)[:200]}"})

    def _send(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        with suppress(ConnectionError):  # Who asked may be gone by now.
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """One line for each request is more than a terminal wants."""
