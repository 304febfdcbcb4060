"""What stands between the browser and the page: nothing is fetched from elsewhere, nobody else's page may call it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")

POLICY = "; ".join(
    (
        "default-src 'self'",
        # Gradio makes functions of templates, and its page has scripts and styles in it.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
"""The browser itself refuses whatever is not of this server."""

HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

_ELSEWHERE = re.compile(rb"<meta\s+(?:property=\"og:|name=\"twitter:)[^>]*>")
"""Cards for social networks, which name pictures and pages elsewhere."""


class Guard:
    """ASGI middleware: one for each server."""

    def __init__(self, app: Callable[..., Awaitable[None]], local: bool = True) -> None:
        """`local`: only calls under a name of this machine are answered, so that no name on the internet can be made
        to stand for it."""
        self.app, self.local = app, local
        self.boot = secrets.token_hex(8)
        """Another one for each start, so that a page can tell."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the page answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif self.local and _host(scope) not in LOOPBACK:
            await _answer(send, 421, b"This server answers under the names of its own machine only.")
        elif scope["path"] == "/alive":
            await _answer(send, 204, b"", ((b"x-boot", self.boot.encode()), (b"cache-control", b"no-store")))
        else:
            await self.app(scope, receive, _Rewriter(send) if scope["path"] == "/" else _with_headers(send))


class _Rewriter:
    """The page itself, without what refers to elsewhere."""

    def __init__(self, send: Send) -> None:
        self.send, self.start, self.body = _with_headers(send), None, b""

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.start = message
            return
        self.body += message.get("body", b"")
        if message.get("more_body") or self.start is None:
            return
        body = _ELSEWHERE.sub(b"", self.body)
        kept = [(name, value) for name, value in self.start["headers"] if name.lower() != b"content-length"]
        self.start["headers"] = [*kept, (b"content-length", str(len(body)).encode())]
        await self.send(self.start)
        await self.send({"type": "http.response.body", "body": body})


def _with_headers(send: Send) -> Send:
    async def inner(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *HEADERS]
        await send(message)

    return inner


def _host(scope: Scope) -> str:
    """The name that the browser called, without the port."""
    host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
    return host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]


async def _answer(send: Send, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    plain = ((b"content-type", b"text/plain; charset=utf-8"),) if body else ()
    await send({"type": "http.response.start", "status": status, "headers": [*plain, *headers, *HEADERS]})
    await send({"type": "http.response.body", "body": body})
