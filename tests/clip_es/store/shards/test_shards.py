"""Results in shards: whole or absent, equal whoever made them and however often, and never trusted when read."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from made_up_shards import CLASSES, SETTINGS, make_shards, mask_of, records_in, write_unit

from clip_es.errors import ConfigError, DataError
from clip_es.masks import read_confidence, read_mask
from clip_es.storage import place_of
from clip_es.store.disk import StoreError
from clip_es.store.failures import read_failures
from clip_es.store.finished import in_shards, labels_in_shards
from clip_es.store.shards import manifest, tars
from clip_es.store.shards.forms import FORMS
from clip_es.store.shards.manifest import Entry
from clip_es.store.shards.store import ShardStore
from clip_es.store.shards.upkeep import check_entry, left_over, merge, read_rows, recover, take_back

BOTH = pytest.mark.parametrize("form", FORMS)


def found(out: Path) -> list[Entry]:
    entries = list(manifest.entries(place_of(out)))[::-1]
    assert all(isinstance(entry, Entry) for entry in entries)
    return [entry for entry in entries if isinstance(entry, Entry)]


def rows_of(out: Path) -> dict[str, dict[str, bytes]]:
    return {row.image_id: dict(row.files) for entry in found(out) for row in read_rows(place_of(out), entry)}


def tree(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@BOTH
def test_what_was_saved_is_in_the_shards(tmp_path, form):
    records = records_in(tmp_path / "in", 10)
    assert make_shards(tmp_path / "out", records, form) == 3
    entries = found(tmp_path / "out")
    assert [entry.ids for entry in entries] == [tuple(r.image_id for r in records[a : a + 4]) for a in (0, 4, 8)]
    for entry in entries:
        for number, row in enumerate(read_rows(place_of(tmp_path / "out"), entry)):
            record = next(r for r in records if r.image_id == row.image_id)
            wanted = mask_of(record)
            assert row.classes == tuple(CLASSES[k] for k in record.class_ids)
            assert row.size_hw == (24, 32)
            for part, array in (("mask.png", wanted.labels), ("labels.png", wanted.decided)):
                assert np.array_equal(read_mask(entry.inner(place_of(tmp_path / "out"), number, part)), array)
            sure = read_confidence(entry.inner(place_of(tmp_path / "out"), number, "confidence.png"))
            assert np.allclose(sure, wanted.confidence, atol=1 / 510)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["images"] == {"done": 10, "failed": 0, "skipped": 0}
    assert summary["shards"] == {"shards": 3, "rows": 10, "bytes": sum(entry.bytes for entry in entries)}


@BOTH
def test_a_run_that_was_stopped_makes_the_shards_it_would_have_made(tmp_path, form):
    records = records_in(tmp_path / "in", 10)
    make_shards(tmp_path / "once", records, form)
    assert make_shards(tmp_path / "often", records, form, stop_after=1) == 1
    assert make_shards(tmp_path / "often", records, form, stop_after=1) == 1
    assert make_shards(tmp_path / "often", records, form) == 1
    once, often = tree(tmp_path / "once"), tree(tmp_path / "often")
    assert once.pop("summary.json") != often.pop("summary.json"), "the seconds, and what was skipped"
    assert once == often


def test_finished_units_are_not_done_again_and_a_shard_without_its_entry_does_not_count(tmp_path):
    records = records_in(tmp_path / "in", 8)
    make_shards(tmp_path / "out", records)
    assert make_shards(tmp_path / "out", records) == 0
    first = found(tmp_path / "out")[0]
    (tmp_path / "out" / first.path).unlink()  # as if killed between the shard and its entry
    assert [entry.name for entry in found(tmp_path / "out")] != [first.name]
    assert make_shards(tmp_path / "out", records) == 1
    assert found(tmp_path / "out")[0] == first


def test_failed_pictures_are_told_and_tried_again(tmp_path):
    records = records_in(tmp_path / "in", 6)
    make_shards(tmp_path / "out", records, bad=("p.001", "p.004", "p.005"))
    failed = read_failures(tmp_path / "out/failures.csv")
    assert [(one.image_id, one.stage, one.reason) for one in failed] == [
        (name, "read", "no picture") for name in ("p.001", "p.004", "p.005")
    ]
    assert [(entry.file == "", len(entry.ids)) for entry in found(tmp_path / "out")] == [(False, 3), (True, 0)]
    assert make_shards(tmp_path / "out", records, bad=("p.005",)) == 2
    assert [one.image_id for one in read_failures(tmp_path / "out/failures.csv")] == ["p.005"]
    assert sorted(rows_of(tmp_path / "out")) == [f"p.{number:03}" for number in range(5)]


def test_pictures_that_are_added_later_become_shards_of_their_own(tmp_path):
    records = records_in(tmp_path / "in", 10)
    make_shards(tmp_path / "out", records[:6])
    before = {entry.name for entry in found(tmp_path / "out")}
    assert make_shards(tmp_path / "out", records) == 2
    assert before < {entry.name for entry in found(tmp_path / "out")}
    assert sorted(rows_of(tmp_path / "out")) == [record.image_id for record in records]


def test_other_settings_are_refused_by_name(tmp_path):
    make_shards(tmp_path / "out", records_in(tmp_path / "in", 2))
    with pytest.raises(ConfigError, match="a run with other settings"):
        ShardStore.open(tmp_path / "out", {"made": "otherwise"}, classes=CLASSES, form="webdataset")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"not a run.*thesis\.txt"):
        ShardStore.open(tmp_path / "other", SETTINGS, classes=CLASSES, form="webdataset")
    with ShardStore.open(tmp_path / "new", SETTINGS, classes=CLASSES, form="webdataset"):
        with pytest.raises(ConfigError, match="another run is writing"):
            ShardStore.open(tmp_path / "new", SETTINGS, classes=CLASSES, form="webdataset")
        ShardStore.open(tmp_path / "new", SETTINGS, classes=CLASSES, form="webdataset", shard=(1, 2)).close()


def test_a_shard_says_nothing_of_who_made_it_and_when(tmp_path):
    make_shards(tmp_path / "out", records_in(tmp_path / "in", 2))
    with tarfile.open(tmp_path / "out" / found(tmp_path / "out")[0].file) as archive:
        members = archive.getmembers()
    assert {(one.mtime, one.uid, one.gid, one.uname, one.gname) for one in members} == {(0, 0, 0, "", "")}
    assert [one.name for one in members[:4]] == [
        f"p%2E000.{part}" for part in ("json", "mask.png", "labels.png", "confidence.png")
    ]


@pytest.mark.filterwarnings("ignore")  # of the library's own code
def test_webdataset_reads_what_we_write(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    records = records_in(tmp_path / "in", 5)
    make_shards(tmp_path / "out", records)
    shards = [str(tmp_path / "out" / entry.file) for entry in found(tmp_path / "out")]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [json.loads(one["json"])["image_id"] for one in samples] == [record.image_id for record in records]
    assert {one["__key__"] for one in samples} == {record.image_id.replace(".", "%2E") for record in records}
    assert samples[0]["mask.png"] == rows_of(tmp_path / "out")["p.000"]["mask.png"]


def test_pandas_and_datasets_users_find_columns_with_names(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    make_shards(tmp_path / "out", records_in(tmp_path / "in", 3), "parquet")
    table = parquet.read_table(tmp_path / "out" / found(tmp_path / "out")[0].file)
    assert table.column("image_id").to_pylist() == ["p.000", "p.001", "p.002"]
    assert table.column("classes").to_pylist()[0] == ["cat", "traffic light"]
    assert table.column("mask_png").to_pylist()[0][:8] == b"\x89PNG\r\n\x1a\n"
    assert len(set(table.column("settings_sha256").to_pylist())) == 1


@BOTH
def test_shards_carry_pictures_where_asked_for(tmp_path, form):
    records = records_in(tmp_path / "in", 3, draw=True)
    make_shards(tmp_path / "out", records, form, pictures=True)
    (entry,) = found(tmp_path / "out")
    assert entry.pictures
    rows = read_rows(place_of(tmp_path / "out"), entry)
    assert [row.picture for row in rows] == [record.path.read_bytes() for record in records]


@BOTH
def test_a_merge_keeps_every_row_and_leaves_nothing_behind(tmp_path, form):
    records = records_in(tmp_path / "in", 10)
    make_shards(tmp_path / "out", records, form, bad=("p.009",))
    before, place = rows_of(tmp_path / "out"), place_of(tmp_path / "out")
    (joined,) = merge(place, found(tmp_path / "out"), 100, 10**9)
    assert joined.name.startswith("merged-000001-")
    assert len(joined.replaces) == 3
    assert rows_of(tmp_path / "out") == before
    assert [one.image_id for one in joined.failures] == ["p.009"]
    assert left_over(place) == []
    assert list(merge(place, found(tmp_path / "out"), 100, 10**9)) == []
    assert make_shards(tmp_path / "out", records, form) == 1, "the failure alone is left"
    list(merge(place, found(tmp_path / "out"), 100, 10**9))
    assert sorted(rows_of(tmp_path / "out")) == [record.image_id for record in records]


def test_a_merge_that_is_killed_counts_no_picture_twice(tmp_path, monkeypatch):
    records = records_in(tmp_path / "in", 8)
    make_shards(tmp_path / "out", records)
    place, before = place_of(tmp_path / "out"), rows_of(tmp_path / "out")

    def no(self, name):
        raise StoreError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(type(place), "remove", no)
        with pytest.raises(StoreError):
            list(merge(place, found(tmp_path / "out"), 100, 10**9))
    assert len(found(tmp_path / "out")) == 1, "those that it replaces do not count"
    assert rows_of(tmp_path / "out") == before
    assert len(left_over(place)) == 4
    for file in left_over(place):
        assert recover(place, file, set(before)) is None
        place.remove(file.name)
    assert rows_of(tmp_path / "out") == before


@BOTH
@pytest.mark.parametrize("spoil", ["missing", "torn", "bit"])
def test_a_damaged_shard_is_found_taken_back_and_made_again(tmp_path, form, spoil):
    records, out = records_in(tmp_path / "in", 8), tmp_path / "out"
    make_shards(out, records, form)
    before, bad = tree(out), found(out)[1]
    path, place = out / bad.file, place_of(out)
    data = path.read_bytes()
    match spoil:
        case "missing":
            path.unlink()
        case "torn":
            path.write_bytes(data[:-700])
        case "bit":
            path.write_bytes(data[:900] + bytes([data[900] ^ 1]) + data[901:])
    errors = [check_entry(place, entry) for entry in found(out)]
    assert errors[0] is None
    assert isinstance(errors[1], DataError)
    assert bad.file in str(errors[1])
    assert take_back(place, bad) == 1
    assert make_shards(out, records, form) == 1
    after = tree(out)
    assert {name: data for name, data in after.items() if name != "summary.json"} == {
        name: data for name, data in before.items() if name != "summary.json"
    }


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[1]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"version": 2}',
    ],
)
def test_a_damaged_entry_costs_nothing_but_its_unit(tmp_path, text):
    records, out = records_in(tmp_path / "in", 8), tmp_path / "out"
    make_shards(out, records)
    before, bad = rows_of(out), found(out)[0]
    (out / bad.path).write_bytes(text)
    errors = [one for one in manifest.entries(place_of(out)) if isinstance(one, DataError)]
    assert [error.where for error in errors] == [str(out / bad.path)]
    assert make_shards(out, records) == 1
    assert rows_of(out) == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("file", "shards/../../escaped.tar"),
        ("file", "/etc/passwd"),
        ("file", "shards/000000-00000000-00000000.pkl"),
        ("form", "pickle"),
        ("ids", ["p.000"]),
        ("ids", [1, 2, 3, 4]),
        ("ends", [5, 4, 3, 2]),
        ("ends", [2**50] * 4),
        ("bytes", -1),
        ("sha256", "x"),
        ("name", "000000-ffffffff"),
        ("replaces", ["../x"]),
        ("failures", [{"image_id": 1}]),
        ("pictures", "yes"),
        ("more", 1),
    ],
)
def test_an_entry_that_says_what_cannot_be_is_refused(tmp_path, key, value):
    make_shards(tmp_path / "out", records_in(tmp_path / "in", 4))
    entry = found(tmp_path / "out")[0]
    told = json.loads((tmp_path / "out" / entry.path).read_text())
    (tmp_path / "out" / entry.path).write_text(json.dumps({**told, key: value}))
    (one,) = manifest.entries(place_of(tmp_path / "out"))
    assert isinstance(one, DataError)
    assert "shards verify --repair" in str(one)


def test_a_whole_shard_whose_entry_is_lost_gets_it_back(tmp_path):
    records, out = records_in(tmp_path / "in", 8), tmp_path / "out"
    make_shards(out, records)
    before, place = found(out), place_of(out)
    (out / before[0].path).write_text("{")
    (one,) = [one for one in manifest.entries(place) if isinstance(one, DataError)]
    take_back(place, one)
    (spare,) = left_over(place)
    assert recover(place, spare, set(before[1].ids)) == before[0]
    assert found(out) == before


def tar_of(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = (len(data) if kind == tarfile.REGTYPE else 0), kind, link
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def test_a_tar_with_other_things_is_refused_or_they_are_left_out():
    about = {"image_id": "a", "height": 1, "width": 1, "class_ids": [], "classes": [], "settings_sha256": "0" * 64}
    parts = [(f"a.{part}", b"x") for part in ("mask.png", "labels.png", "confidence.png")]
    sound = [("a.json", json.dumps(about).encode()), *parts]
    assert [row.image_id for row in tars.decode(tar_of(*sound), "t")] == ["a"]
    outside = [(f"../../{name}", data) for name, data in sound]
    assert [row.image_id for row in tars.decode(tar_of(*outside), "t")] == ["a"], "a name only ever names a part"
    for bad in (
        [*sound, ("a.pkl", b"cos\nsystem\n(S'true'\ntR.")],
        [*sound, ("a.mask.png", b"again")],
        sound[:-1],
        sound[1:],
        [("a.json", b"[1]"), *parts],
        [("a.json", json.dumps({**about, "image_id": "../b"}).encode()), *parts],
        [("a.json", json.dumps({**about, "class_ids": [1, 1], "classes": ["x", "x"]}).encode()), *parts],
        [("a.json", json.dumps({**about, "height": "1"}).encode()), *parts],
    ):
        with pytest.raises(DataError):
            list(tars.decode(tar_of(*bad), "t"))
    assert list(tars.decode(tar_of(("a.mask.png", b""), kind=tarfile.SYMTYPE, link="/etc/passwd"), "t")) == []


def test_a_tar_that_is_cut_off_or_damaged_or_lies_about_sizes_is_refused():
    sound = tar_of(("a.json", b"{}" * 400), ("a.mask.png", b"x" * 700))
    for cut in (0, 100, 511, 600, 1300, 1540, 2100):
        with pytest.raises(DataError):
            list(tars.members(io.BytesIO(sound[:cut]), cut, "t"))
    damaged = bytearray(sound)
    damaged[1536 + 20] ^= 1  # in the second header, whose checksum then is wrong
    with pytest.raises(DataError, match="no sound tar"):
        list(tars.members(io.BytesIO(bytes(damaged)), len(damaged), "t"))
    header = tarfile.TarInfo("a.json")
    header.size = 2**40
    with pytest.raises(DataError, match="cut off"):
        list(tars.members(io.BytesIO(header.tobuf() + bytes(1024)), 1536, "t"))
    header.size, header.type = 2**30, tarfile.XHDTYPE
    with pytest.raises(DataError, match="header of the tar is too large"):
        list(tars.members(io.BytesIO(header.tobuf() + bytes(1024)), 1536, "t"))
    header.size, header.type = -512, tarfile.REGTYPE
    with pytest.raises(DataError, match="backwards"):
        list(tars.members(io.BytesIO(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024)), 1536, "t"))


def test_parquet_with_other_columns_is_refused_with_their_names(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pyarrow.table({"image_id": [1], "mask_png": ["x"]}), file)
    with pytest.raises(DataError, match=r"image_id int64; height missing"):
        list(FORMS["parquet"].decode(file.getvalue(), "t"))
    with pytest.raises(DataError, match="no Parquet"):
        list(FORMS["parquet"].decode(file.getvalue()[:-9], "t"))


def test_without_pyarrow_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"clip-es\[storage\]"):
        make_shards(tmp_path / "out", records_in(tmp_path / "in", 1), "parquet")
    with pytest.raises(ConfigError, match=r"clip-es\[storage\]"):
        place_of("s3://bucket/never-connected").read("x")


def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path, monkeypatch):
    records = records_in(tmp_path / "in", 8)
    with ShardStore.open(tmp_path / "out", SETTINGS, classes=CLASSES, form="webdataset") as store:
        first, second = store.units(records, 4)
        write_unit(store, first)
        monkeypatch.setattr("clip_es.store.disk.os.write", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(StoreError, match="free some space"):
            write_unit(store, second)
    monkeypatch.undo()
    assert make_shards(tmp_path / "out", records) == 1
    assert len(rows_of(tmp_path / "out")) == 8


@BOTH
def test_labels_come_out_of_shards_one_file_at_a_time_and_a_damaged_shard_is_named_by_its_pictures(tmp_path, form):
    records = records_in(tmp_path / "in", 8)
    make_shards(tmp_path / "out", records, form)
    place = place_of(tmp_path / "out")
    sorted((tmp_path / "out" / "shards").iterdir())[1].write_bytes(b"")
    wanted = [records[number].image_id for number in (0, 2, 5)] + ["unknown"]
    read, refused = {}, []
    for image_id, path in labels_in_shards(place, wanted):
        try:
            read[image_id] = read_mask(path)
        except DataError:
            refused.append(image_id)
    assert {name: labels.tolist() for name, labels in read.items()} == {
        record.image_id: mask_of(record).decided.tolist() for record in (records[0], records[2])
    }
    assert refused == [records[5].image_id]
    found = in_shards(place, wanted)
    assert sorted(found) == sorted(wanted[:3])
    assert np.array_equal(read_mask(found[wanted[0]].mask), mask_of(records[0]).labels)
