"""Pictures of Label Studio's tasks: found below a folder, or fetched over loopback from what answers as it does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from clip_es.errors import ConfigError, DataError
from clip_es.pipelines.adapters.pictures import LabelStudio, Pictures
from clip_es.records.elsewhere import uploaded_as, uploaded_name

PERSONAL, LEGACY, ACCESS = "head.body.sign", "0123456789abcdef", "an.access.token"


class Answers(BaseHTTPRequestHandler):
    """As Label Studio 1.23 answers: pictures for who may see them, access for a personal token, and a redirect."""

    seen: list[tuple[str, str | None]]

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, None))
        fine = self.path == "/api/token/refresh" and asked == {"refresh": PERSONAL}
        self._say(200 if fine else 401, json.dumps({"access": ACCESS} if fine else {}).encode())

    def do_GET(self) -> None:
        told = self.headers.get("Authorization")
        self.seen.append((self.path, told))
        if "location=" in self.path:
            self.send_response(303)
            self.send_header("Location", self.path.partition("location=")[2])
            self.send_header("Content-Length", "0")
            return self.end_headers()
        fine = told in (f"Bearer {ACCESS}", f"Token {LEGACY}")
        return self._say(200 if fine else 401, b"the picture" if fine else b"{}")

    def _say(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None: ...


def serving(seen: list) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Answers,), {"seen": seen})) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{made.server_address[1]}"
        made.shutdown()
        thread.join()


@pytest.fixture
def seen() -> list[tuple[str, str | None]]:
    return []


@pytest.fixture
def host(seen) -> Iterator[str]:
    yield from serving(seen)


@pytest.fixture
def other() -> Iterator[tuple[str, list]]:
    """Another server, and what it was asked."""
    asked: list = []
    for address in serving(asked):
        yield address, asked


@pytest.mark.parametrize(("token", "said"), [(PERSONAL, f"Bearer {ACCESS}"), (LEGACY, f"Token {LEGACY}")])
def test_a_personal_token_is_exchanged_once_and_a_legacy_one_sent_as_it_is(token, said, host, seen):
    label_studio = LabelStudio(host, token)
    for number in (1, 2):
        assert label_studio.fetch(f"/data/upload/1/{number}.jpg") == b"the picture"
    exchanged = [("/api/token/refresh", None)] if token == PERSONAL else []
    assert seen == [*exchanged, ("/data/upload/1/1.jpg", said), ("/data/upload/1/2.jpg", said)]


@pytest.mark.parametrize("token", [None, "", "an.old.one", "wrong"])
def test_who_may_not_see_the_picture_is_told_what_to_set(token, host):
    with pytest.raises(DataError, match=r"does not give the picture.*LABEL_STUDIO_API_KEY"):
        LabelStudio(host, token).fetch("/data/upload/1/a.jpg")


def test_a_redirect_is_followed_within_the_host_and_nowhere_else(host, seen, other):
    address, asked = other
    label_studio = LabelStudio(host, LEGACY)
    assert label_studio.fetch(f"/a?location={host}/b.jpg") == b"the picture"
    assert [path for path, _ in seen][1:] == ["/b.jpg"]
    for target in (f"{address}/b.jpg", "ftp://127.0.0.1/a", "//elsewhere.invalid/a", "https://127.0.0.1/a"):
        with pytest.raises(DataError, match=r"does not give the picture.*Switch off pre-signed URLs"):
            label_studio.fetch(f"/a?location={target}")
    with pytest.raises(DataError, match="does not give the picture"):
        label_studio.fetch("/a?location=file:///etc/passwd")
    assert asked == []


@pytest.mark.parametrize(
    "stated",
    ["http://elsewhere.invalid/a.jpg", "file:///etc/passwd", "s3://bucket/a.jpg", "//[", "http://127.0.0.1@x/"],
)
def test_nobody_but_label_studio_is_asked(stated, host, seen):
    with pytest.raises(DataError, match="with somebody else"):
        LabelStudio(host, LEGACY).fetch(stated)
    assert seen == []


@pytest.mark.parametrize(
    "host", ["localhost:8080", "ftp://localhost", "http://", "http://[", "http://a:0", "http://a:b"]
)
def test_a_host_that_is_no_address_is_refused_at_the_start(host):
    with pytest.raises(ConfigError, match="is not where Label Studio runs"):
        Pictures(host=host)


def test_a_label_studio_that_is_not_there_is_told(tmp_path):
    with pytest.raises(DataError, match="Is it running at"):
        LabelStudio("http://127.0.0.1:9", LEGACY).fetch("/data/a.jpg")


# What Label Studio 1.23.2 answered when files of these names were uploaded.
UPLOADED = {
    "with space.jpg": "/data/upload/3/a6b6b152-with_space.jpg",
    "ünïcode 日本.jpg": "/data/upload/3/dce7efbe-%C3%BCn%C3%AFcode_%E6%97%A5%E6%9C%AC.jpg",
    "sub/inner.jpg": "/data/upload/3/0dada5e7-inner.jpg",
}


def test_an_uploaded_picture_is_found_by_the_name_it_was_given(tmp_path):
    for name, address in UPLOADED.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        assert uploaded_name(address) == uploaded_as(name)
        assert Pictures(tmp_path)(address) == tmp_path / name
    (tmp_path / "inner.jpg").touch()
    with pytest.raises(DataError, match="so may several be"):
        Pictures(tmp_path)(UPLOADED["sub/inner.jpg"])
    assert Pictures(tmp_path)("/data/local-files/?d=photos/sub/inner.jpg") == tmp_path / "sub/inner.jpg"


def test_what_was_uploaded_is_fetched_rather_than_guessed(host, tmp_path):
    (tmp_path / "inner.jpg").touch()
    pictures = Pictures(tmp_path, host, PERSONAL)
    assert pictures(UPLOADED["sub/inner.jpg"]) == b"the picture"
    assert pictures("/data/local-files/?d=inner.jpg") == tmp_path / "inner.jpg"


@pytest.mark.parametrize(
    "stated",
    [
        "/data/local-files/?d=../secret.jpg",
        "/data/local-files/?d=..%2F..%2Fsecret.jpg",
        "/data/local-files/?d=%252e%252e/secret.jpg",
        "../secret.jpg",
        "..\\secret.jpg",
        "/secret.jpg/..",
        "file:///secret.jpg",
        "secret.jpg\0.jpg",
        "/data/upload/1/00000000-..%2Fsecret.jpg",
        "C:\\secret.jpg",
        "notes.txt",
    ],
)
def test_no_name_leads_out_of_the_folder(stated, tmp_path):
    (tmp_path / "secret.jpg").touch()
    images = tmp_path / "images"
    images.mkdir()
    (images / "notes.txt").touch()
    with pytest.raises(DataError, match="is not below the folder of the pictures"):
        Pictures(images)(stated)
