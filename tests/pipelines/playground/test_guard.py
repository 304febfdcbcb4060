"""The page names nothing elsewhere, and answers under this machine's names only."""

from __future__ import annotations

import asyncio

import pytest

from clip_es.pipelines.playground.guard import Guard

PAGE = b'<head><meta\n property="og:url"\n content="https://gradio.app/" /><meta name="viewport" content="x"></head>'


async def _page(scope, receive, send):
    headers = [(b"content-type", b"text/html"), (b"content-length", str(len(PAGE)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": PAGE[:30], "more_body": True})
    await send({"type": "http.response.body", "body": PAGE[30:]})


def get(guard, path="/", host="127.0.0.1:7860"):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "headers": [(b"host", host.encode())]}
    asyncio.run(guard(scope, None, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(one.get("body", b"") for one in sent[1:])


def test_what_refers_to_elsewhere_is_taken_out():
    status, headers, body = get(Guard(_page))
    assert status == 200
    assert body == b'<head><meta name="viewport" content="x"></head>'
    assert headers[b"content-length"] == str(len(body)).encode()
    assert b"default-src 'self'" in headers[b"content-security-policy"]


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:1", "localhost", "[::1]:7860"])
def test_names_of_this_machine_are_answered(host):
    assert get(Guard(_page), host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:7860", "", "192.168.0.9:7860"])
def test_other_names_are_not(host):
    assert get(Guard(_page), host=host)[0] == 421
    assert get(Guard(_page, local=False), host=host)[0] == 200


def test_each_start_can_be_told_from_the_one_before():
    one, other = Guard(_page), Guard(_page)
    assert get(one, "/alive")[1][b"x-boot"] == get(one, "/alive")[1][b"x-boot"] != get(other, "/alive")[1][b"x-boot"]
