"""A small HTTP server for JSON requests: it answers what its routes answer, and tells every error as JSON."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from clip_es.errors import ClipEsError
from clip_es.pipelines.playground.guard import LOOPBACK
from clip_es.records.text_files import printable

LARGEST_REQUEST = 2**28
"""Bytes: a picture of 190 MB as base64."""

Route = Callable[[dict[str, Any]], dict[str, Any]]
"""From the object a request holds, empty for GET, to that of the answer. Raises ClipEsError: told as status 400."""


def server(
    routes: Mapping[str, Route],
    host: str = "127.0.0.1",
    port: int = 9090,
    tell: Callable[[str], object] = lambda _: None,
) -> ThreadingHTTPServer:
    """A server that is bound and does not yet answer: call `serve_forever`, and `shutdown` from another thread.

    `tell`: what becomes of a line about a request that is refused or fails. Raises OSError: the address is taken.
    """
    local = host in LOOPBACK
    handler = type("Handler", (_Handler,), {"table": dict(routes), "tell": staticmethod(tell), "local": local})
    return (_Server6 if ":" in host else _Server)((host, port), handler)


class _Server(ThreadingHTTPServer):
    """Closing it waits for the requests that are being answered: what computes while Python ends would abort it."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._ended = threading.Condition()
        self._answering = 0
        super().__init__(address, handler)  # Closes what it cannot bind.

    @contextmanager
    def answering(self) -> Iterator[None]:
        """While a request is answered."""
        with self._ended:
            self._answering += 1
        try:
            yield
        finally:
            with self._ended:
                self._answering -= 1
                self._ended.notify_all()

    def server_close(self) -> None:
        super().server_close()
        with self._ended:
            self._ended.wait_for(lambda: not self._answering)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asked may hang up in the midst of it; anything else is told as every fault is."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    table: ClassVar[Mapping[str, Route]] = {}
    tell: ClassVar[staticmethod[[str], object]] = staticmethod(lambda _: None)
    local: ClassVar[bool] = True
    """Only calls under a name of this machine are answered, and none of a web page: tools have no Origin."""
    timeout = 60
    """Seconds that a client may be silent."""
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # Python's 0.9 would answer without a status.

    def do_GET(self) -> None:
        self._answer("GET", {})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or len(length) > 12 or int(length) > LARGEST_REQUEST:
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
        if self.local and (self._host() not in LOOPBACK or "Origin" in self.headers):
            return self._send(421, {"error": "this server answers programs of its own machine only"})
        path = self.path.partition("?")[0]
        route = self.table.get(f"{method} {path.rstrip('/') or '/'}")
        if route is None:
            return self._send(404, {"error": f"there is no {method} {path[:80]}"})
        try:
            with self.server.answering():  # type: ignore[attr-defined]
                answer = route(asked)
            return self._send(200, answer)
        except ClipEsError as error:
            return self._send(400, {"error": str(error)})
        except Exception as error:  # One request must not end the others; the tool shows what it is told.
            return self._send(500, {"error": f"{type(error).__name__}: {str(error)[:200]}"})

    def _host(self) -> str:
        name, _, port = self.headers.get("Host", "").rpartition(":")
        return (name if name and port.isdigit() else self.headers.get("Host", "")).strip("[]")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What Python's server says of a request that is none, as JSON."""
        self.close_connection = True
        self._send(code, {"error": message or "this is no request"})

    def _send(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        if status >= 400:
            asked = printable(getattr(self, "requestline", ""), 100)
            self.tell(f"{asked}: {status} {printable(str(content.get('error')), 500)}")
        with suppress(OSError):  # Who asked may be gone by now.
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """A line for each request that went well is more than a terminal wants."""
