"""Pictures in tars, in Parquet and on object storage: found, labelled, fetched, and never trusted."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_es.config.run import DEFAULT
from clip_es.errors import DataError
from clip_es.images import read_picture
from clip_es.prompts import load_vocabulary
from clip_es.records import folder, shards
from clip_es.records.stored.shards import expanded
from clip_es.storage import place_of

VOCABULARY = load_vocabulary("cat,dog,car")


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((20, 30, 3), number, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def read(*files: object, **options):
    return shards([str(file) for file in files], class_id=VOCABULARY.class_id, class_count=3, **options)


def seen(dataset) -> list[tuple[str, tuple[int, ...], int]]:
    """Id, classes, and the colour of each picture."""
    return [
        (record.image_id, record.class_ids, int(read_picture(record, 16, DEFAULT.image).rgb[0, 0, 0]))
        for record in dataset.records
    ]


def test_a_tar_gives_its_pictures_and_labels(tmp_path):
    members = {
        "./a/000.json": json.dumps({"labels": ["cat", "dog"], "caption": "x"}).encode(),
        "./a/000.png": picture(1),
        "./a/000.txt": b"a caption",
        "b.PNG": picture(2),
        "b.cls": b"2",
        "note": b"no picture",
        "c.seg.json": b"{}",
    }
    found = read(tar_of(tmp_path / "t-0.tar", members))
    assert seen(found) == [("t-0__a__000", (0, 1), 1), ("t-0__b", (2,), 2)]
    assert found.problems == ()
    record = found.records[0]
    assert record.path == tmp_path / "t-0.tar/a__000.png"
    assert read(tmp_path / "t-0.tar", labelled=False).records[0].class_ids == ()


def test_several_tars_are_named_by_numbers_or_a_star(tmp_path):
    for number in (8, 9, 10):
        tar_of(tmp_path / f"t-{number:02}.tar", {"a.png": picture(number), "a.cls": b"0"})
    by_number = read(f"{tmp_path}/t-{{08..10}}.tar")
    assert seen(by_number) == [(f"t-{number:02}__a", (0,), number) for number in (8, 9, 10)]
    assert list(read(f"{tmp_path}/t-*.tar").records) == list(by_number.records)
    assert expanded(["s3://b/x-{1..2}-{0..1}.tar"]) == [f"s3://b/x-{i}-{j}.tar" for i in (1, 2) for j in (0, 1)]
    for bad in ("t.tar.gz", "t.pkl", f"{tmp_path}/none-*.tar", "t-{0..99999}.tar"):
        with pytest.raises(DataError):
            expanded([bad])


def test_what_is_wrong_with_one_picture_or_one_tar_costs_nothing_else(tmp_path):
    good = {"a.png": picture(1), "a.cls": b"0"}
    tar_of(
        tmp_path / "t-0.tar",
        {
            **good,
            "b.png": picture(2),
            "b.json": b"{",
            "c.png": picture(3),
            "c.json": b'{"label": "unicorn"}',
            "d.png": picture(4),
            "e.png": picture(5),
            "e.json": b'{"label": 7}',
            "f\nx.png": picture(6),
            "f\nx.cls": b"1",
            "g.png": b"not a picture",
            "g.cls": b"1",
        },
    )
    cut = tar_of(tmp_path / "t-1.tar", {**good, "h.png": picture(7) + bytes(4000), "h.cls": b"1"})
    cut.write_bytes(cut.read_bytes()[:2500])
    tar_of(tmp_path / "t-2.tar", good)
    found = read(f"{tmp_path}/t-{{0..2}}.tar")
    assert [record.image_id for record in found.records] == ["t-0__a", "t-0__g", "t-1__a", "t-2__a"]
    reasons = {problem.image_id: problem.reason for problem in found.problems}
    assert set(reasons) == {"t-0__b", "t-0__c", "t-0__d", "t-0__e", "t-0__f x", "t-1"} or len(reasons) == 6
    assert "tar" in reasons["t-1"]
    assert "unicorn" in reasons["t-0__c"]
    assert "lists no object" in reasons["t-0__d"]
    with pytest.raises(DataError, match="not a picture"):
        read_picture(found.records[1], 16, DEFAULT.image)


def test_pickles_and_links_in_a_tar_are_left_alone(tmp_path):
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind, link in (("a.png", tarfile.SYMTYPE, "/etc/passwd"), ("b.png", tarfile.LNKTYPE, "../x")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            archive.addfile(member)
        for name, data in (
            ("../../c.png", picture(3)),
            ("../../c.cls", b"1"),
            ("d.pkl", b"cos\nsystem\n(S'touch escaped'\ntR."),
            ("d.pyd", b"\x80\x04."),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    found = read(path)
    assert [(record.image_id, record.class_ids) for record in found.records] == [("t__..__..__c", (1,))]
    assert not Path("escaped").exists()


def test_parquet_gives_its_pictures_and_labels(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def table(file: str, **columns) -> Path:
        parquet.write_table(pyarrow.table(columns), tmp_path / file, row_group_size=2)
        return tmp_path / file

    plain = table("p.parquet", jpg=[picture(n) for n in range(5)], label=[0, 1, 2, 1, 0], name=list("abcde"))
    assert seen(read(plain)) == [(f"p__{n}", (k,), n) for n, k in enumerate((0, 1, 2, 1, 0))]
    pairs = [{"bytes": picture(n), "path": f"../{n}.png"} for n in range(3)]
    hub = table("h.parquet", image=pairs, objects=[{"category": ["cat"]}, {"category": ["dog", "cat"]}, None])
    found = read(hub)
    assert seen(found) == [("h__0", (0,), 0), ("h__1", (1, 0), 1)]
    assert [problem.image_id for problem in found.problems] == ["h__2"]
    declared = {"info": {"features": {"label": {"feature": {"names": ["dog", "cat"], "_type": "ClassLabel"}}}}}
    columns = pyarrow.table({"image": pairs, "label": [[0], [1, 0], [2]]})
    about = {b"huggingface": json.dumps(declared).encode()}
    parquet.write_table(columns.replace_schema_metadata(about), tmp_path / "d.parquet")
    named = read(tmp_path / "d.parquet")  # The vocabulary has cat before dog.
    assert seen(named) == [("d__0", (1,), 0), ("d__1", (0, 1), 1)]
    assert "Expected 0..1" in named.problems[0].reason
    two = table("two.parquet", a=[b""], b=[b""], label=[0])
    with pytest.raises(DataError, match="--image-field"):
        read(two)
    with pytest.raises(DataError, match="no such column"):
        read(plain, image_field="picture")
    strange = table("s.parquet", label=["cat"], image=[3.5])
    with pytest.raises(DataError, match="not clear which column"):
        read(strange)
    (tmp_path / "cut.parquet").write_bytes(plain.read_bytes()[:-9])
    with pytest.raises(DataError, match="no Parquet"):
        read(tmp_path / "cut.parquet")


def test_our_own_shards_are_read_as_pictures(tmp_path):
    from made_up_shards import make_shards, records_in

    make_shards(tmp_path / "out", records_in(tmp_path / "in", 3, draw=True), pictures=True)
    vocabulary = load_vocabulary("cat,traffic light,dog")
    found = shards([f"{tmp_path}/out/shards/*.tar"], class_id=vocabulary.class_id, class_count=3)
    assert [record.class_ids for record in found.records] == [(0, 1), (1, 2), (2, 0)]
    assert [int(read_picture(record, 16, DEFAULT.image).rgb[0, 0, 0]) for record in found.records] == [0, 1, 2]


@pytest.mark.filterwarnings("ignore")  # of the server's own code
def test_pictures_on_object_storage_are_those_of_a_folder(bucket, tmp_path):
    place = place_of(f"{bucket}/pictures")
    for number, name in enumerate(("cat/a.png", "dog/b.png", "c.txt", ".hidden/d.png")):
        place.write(name, picture(number))
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture(number))
    (tmp_path / "labels.csv").write_text("image,labels\ncat/a.png,cat;dog\ndog__b,dog\nnone.png,cat\n../x.png,cat\n")
    for labels in ("subfolders", "auto", str(tmp_path / "labels.csv")):
        here = folder(tmp_path, labels, class_id=VOCABULARY.class_id)
        there = folder(str(place), labels, class_id=VOCABULARY.class_id)
        assert seen(there) == seen(here)
        assert [one.image_id for one in there.problems] == [one.image_id for one in here.problems]
    assert len(here.records) == 2


@pytest.mark.filterwarnings("ignore")  # of the server's own code
def test_tars_on_object_storage_are_those_of_a_disk(bucket, tmp_path):
    path = tar_of(tmp_path / "t-0.tar", {"a.png": picture(1), "a.cls": b"0", "b.png": picture(2), "b.cls": b"2"})
    place_of(f"{bucket}/tars").write("t-0.tar", path.read_bytes())
    assert seen(read(f"{bucket}/tars/t-*.tar")) == seen(read(path))
    with pytest.raises(DataError, match="no such file"):
        read(f"{bucket}/tars/t-1.tar")
