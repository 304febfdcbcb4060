"""Places: a folder, memory, and a server that answers as S3 does; the same verbs and the same errors."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_es.errors import ConfigError, DataError
from clip_es.storage import Folder, Place, Remote, Stored, address_of, place_and_name, place_of

pytestmark = pytest.mark.filterwarnings("ignore")  # of the server's own code


@pytest.fixture(params=["folder", "memory", "s3"])
def place(request, tmp_path) -> Iterator[Place]:
    if request.param == "folder":
        yield place_of(tmp_path / "place")
        return
    pytest.importorskip("pyarrow")
    if request.param == "memory":
        yield Remote(f"memory://{tmp_path.name}")
        return
    yield place_of(f"{request.getfixturevalue('bucket')}/{tmp_path.name}")


def test_what_is_written_is_read_listed_and_removed(place):
    assert list(place.files()) == []
    assert not place.has("a/b.bin")
    assert place.write("a/b.bin", b"0123456789")
    assert place.write("c.bin", b"")
    assert list(place.files()) == [Stored("a/b.bin", 10), Stored("c.bin", 0)]
    assert list(place.files("a")) == [Stored("a/b.bin", 10)]
    assert place.read("a/b.bin") == b"0123456789"
    assert place.read("a/b.bin", 2, 3) == b"234"
    assert place.read("c.bin") == b""
    assert not place.write("a/b.bin", b"other", replace=False)
    assert place.write("a/b.bin", b"other")
    with place.opened("a/b.bin") as file:
        file.seek(3)
        assert file.read(1) == b"e"
    place.remove("a/b.bin")
    place.remove("a/b.bin")
    assert [file.name for file in place.files()] == ["c.bin"]


def test_what_is_missing_too_short_or_too_large_is_a_data_error(place):
    place.write("a.bin", b"0123456789")
    for read in (lambda: place.read("b.bin"), lambda: place.size("b.bin"), lambda: place.opened("b.bin")):
        with pytest.raises(DataError, match="no such file"):
            read()
    with pytest.raises(DataError, match="ends too early"):
        place.read("a.bin", 8, 3)
    with pytest.raises(DataError, match="too large"):
        place.read("a.bin", limit=9)


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../../b", "", "a\0b", "C:/x", "..\\..\\a/../b"])
def test_no_name_leads_out_of_a_place(tmp_path, name):
    for place in (Folder(tmp_path / "in"), Remote("s3://bucket/in")):
        with pytest.raises(DataError, match="leads out"):
            place.read(name)
        with pytest.raises(DataError, match="leads out"):
            place.write(name, b"x")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("s3://bucket/a", "s3://bucket/a"),
        ("s3://bucket/a/", "s3://bucket/a"),
        (Path("s3://bucket/a"), "s3://bucket/a"),
        ("gs://b/c.tar", "gs://b/c.tar"),
        ("s3", None),
        ("s3:", None),
        ("c:/pictures", None),
        ("/data/s3://x", None),
        ("file:///x", None),
    ],
)
def test_an_address_is_told_from_a_path(text, address):
    assert address_of(text) == address


def test_a_single_file_has_a_place_and_a_name():
    assert place_and_name("s3://bucket/a/b.tar") == (Remote("s3://bucket/a"), "b.tar")
    assert place_and_name("a/b.tar") == (Folder(Path("a")), "b.tar")


def test_a_scheme_without_its_library_says_which():
    pytest.importorskip("pyarrow")
    with pytest.raises(ConfigError, match="oss://"):
        place_of("oss://bucket/x").read("a")


def test_a_bucket_that_is_not_there_is_told(bucket):
    nowhere = place_of(f"{bucket}-not/x")
    with pytest.raises(DataError):
        nowhere.read("a")
    from clip_es.store.disk import StoreError

    with pytest.raises(StoreError, match="credentials"):
        nowhere.write("a", b"x")


def _read(place: Place, answers) -> None:
    answers.put(place.read("a.bin"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="data loaders fork on Unix")
def test_a_process_that_was_forked_connects_anew(bucket, tmp_path):
    place = place_of(f"{bucket}/{tmp_path.name}")
    place.write("a.bin", b"data")
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=_read, args=(place, answers))
    process.start()
    assert answers.get(timeout=300) == b"data"
    process.join()
