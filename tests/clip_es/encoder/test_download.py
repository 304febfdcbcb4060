"""Fetching official weights, against a server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_es.encoder import download as module
from clip_es.encoder.download import OFFICIAL, Published, cache_folder, download
from clip_es.encoder.tokenize import _candidates
from clip_es.encoder.weights import load_weights
from clip_es.errors import WeightsError

CONTENT = bytes(range(256)) * 20_000
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT at every path; understands Range unless told otherwise; may hang up early."""

    ranges_understood = True
    hang_up_after: int | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges_understood else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:][: self.server.hang_up_after])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        publish(monkeypatch, f"http://127.0.0.1:{running.server_port}/clip/ViT-B-16.pt", SHA)
        yield running
        running.shutdown()
        thread.join()


def publish(monkeypatch: pytest.MonkeyPatch, url: str, sha256: str) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(OFFICIAL, "ViT-B/16", Published(url, sha256))


def test_a_file_is_fetched_once(server, tmp_path):
    file = download("ViT-B/16", tmp_path)
    assert file == tmp_path / "ViT-B-16.pt"
    assert file.read_bytes() == CONTENT
    assert download("ViT-B/16", tmp_path) == file
    assert server.asked == [None]
    assert not (tmp_path / "ViT-B-16.pt.part").exists()


def test_a_broken_download_continues_where_it_stopped(server, tmp_path):
    server.hang_up_after = 1_000_000
    with pytest.raises(WeightsError, match=r"ended after 1000000 of 5120000 bytes.*continues where it stopped"):
        download("ViT-B/16", tmp_path)
    server.hang_up_after = None
    assert download("ViT-B/16", tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000000-"]


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.ranges_understood = False
    (tmp_path / "ViT-B-16.pt.part").write_bytes(CONTENT[:777])
    assert download("ViT-B/16", tmp_path).read_bytes() == CONTENT


def test_a_complete_part_only_needs_its_name(server, tmp_path):
    (tmp_path / "ViT-B-16.pt.part").write_bytes(CONTENT)
    assert download("ViT-B/16", tmp_path).read_bytes() == CONTENT


def test_a_wrong_hash_leaves_nothing_behind(server, tmp_path, monkeypatch):
    publish(monkeypatch, OFFICIAL["ViT-B/16"].url, "0" * 64)
    with pytest.raises(WeightsError, match="not the published file") as caught:
        download("ViT-B/16", tmp_path)
    assert caught.value.found == SHA
    assert "0" * 64 in str(caught.value.expected)
    assert {file.name for file in tmp_path.iterdir()} <= {"ViT-B-16.pt.lock"}


def test_a_damaged_part_does_not_stay_in_the_way(server, tmp_path):
    (tmp_path / "ViT-B-16.pt.part").write_bytes(b"x" * 777)
    with pytest.raises(WeightsError, match="was deleted"):
        download("ViT-B/16", tmp_path)
    assert download("ViT-B/16", tmp_path).read_bytes() == CONTENT


def test_a_file_put_there_by_hand_is_checked_too(server, tmp_path):
    (tmp_path / "ViT-B-16.pt").write_bytes(CONTENT)
    assert download("ViT-B/16", tmp_path).read_bytes() == CONTENT
    (tmp_path / "ViT-B-16.pt").write_bytes(b"something else")
    with pytest.raises(WeightsError, match="Delete it"):
        download("ViT-B/16", tmp_path)
    assert server.asked == []


def test_without_a_network_the_error_says_which_file_from_where_and_where_to_put_it(tmp_path, monkeypatch):
    url = "http://127.0.0.1:1/clip/ViT-B-16.pt"
    publish(monkeypatch, url, SHA)
    monkeypatch.setenv("CLIP_ES_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="refused") as caught:
        load_weights("ViT-B/16")
    for part in ("ViT-B/16", url, SHA, str(tmp_path / "ViT-B-16.pt")):
        assert part in str(caught.value)


def test_a_missing_file_on_the_server_is_no_stack_trace(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.send_error(404))
    with pytest.raises(WeightsError, match="Not Found"):
        download("ViT-B/16", tmp_path)


def test_a_cache_that_cannot_be_written_names_the_setting(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="CLIP_ES_CACHE"):
        download("ViT-B/16", tmp_path / "file" / "cache")


def test_two_processes_share_one_download(server, tmp_path):
    threads = [threading.Thread(target=download, args=("ViT-B/16", tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "ViT-B-16.pt").read_bytes() == CONTENT
    assert server.asked == [None]


def test_the_cache_folder_follows_the_platform(monkeypatch):
    monkeypatch.setenv("CLIP_ES_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")
    monkeypatch.delenv("CLIP_ES_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setattr(module.sys, "platform", "linux")
    assert cache_folder() == Path("/x/clip-es")
    monkeypatch.setattr(module.sys, "platform", "darwin")
    assert cache_folder().parts[-3:] == ("Library", "Caches", "clip-es")
    monkeypatch.setattr(module.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert cache_folder() == Path("/local/clip-es")


def test_addresses_and_hashes_are_those_openai_publishes():
    table = next(_candidates()).with_name("clip.py").read_text()
    for name, published in OFFICIAL.items():
        assert f'"{name}": "{published.url}"' in table
        assert published.url.split("/")[-2] == published.sha256
