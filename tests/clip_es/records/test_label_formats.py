"""The table of label formats: each has a sample in the campaign of spoilt files, which its reader alone claims."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from clip_es.errors import DataError
from clip_es.prompts import load_vocabulary
from clip_es.records import folder
from clip_es.records.labels.formats import LABEL_FORMATS, formats_of, open_labels
from clip_es.records.labels.lines import Asked, LabelFiles

WORDS = load_vocabulary("voc12")


def campaign_samples() -> tuple:
    """Those of benchmarks/malformed_labels.py, which is no part of the package."""
    path = Path(__file__).parents[3] / "benchmarks" / "malformed_labels.py"
    spec = importlib.util.spec_from_file_location("malformed_labels", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.LABEL_SAMPLES


SAMPLES = campaign_samples()
EACH = [(row, k) for row in SAMPLES for k in range(len(row.contents))]


def test_every_format_is_a_row_of_the_campaign_of_spoilt_files():
    own = {name for name, row in LABEL_FORMATS.items() if row.read.__module__.startswith("clip_es.")}
    assert {row.format for row in SAMPLES} == own
    assert len({row.name for row in SAMPLES}) == len(SAMPLES)


def test_every_suffix_of_a_format_is_a_row_of_the_campaign():
    """Suffixes that are read like another one need none."""
    alike = {".tsv": ".csv", ".ndjson": ".jsonl", ".lst": ".txt", ".yml": ".yaml"}
    found = {(row.format, Path(row.file).suffix) for row in SAMPLES}
    found |= {("yolo", ".names")}  # in the archive
    wanted = {(name, suffix) for name, row in LABEL_FORMATS.items() for suffix in row.suffixes}
    assert {(name, alike.get(suffix, suffix)) for name, suffix in wanted} <= found


@pytest.fixture
def pictures(tmp_path):
    for name in sys.modules["malformed_labels"].PICTURES:
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (11, 9)).save(tmp_path / "pictures" / name)
    return tmp_path / "pictures"


def written(row, k: int, where: Path) -> Path:
    where.mkdir()
    for name, content in row.beside:
        (where / name).parent.mkdir(exist_ok=True)
        (where / name).write_bytes(content)
    (where / row.file).write_bytes(row.contents[k])
    return where / row.file


@pytest.mark.parametrize(("row", "k"), EACH, ids=lambda value: getattr(value, "name", value))
def test_a_sample_is_claimed_by_its_reader_alone_and_read_as_if_it_were_named(tmp_path, pictures, row, k):
    path = written(row, k, tmp_path / "labels")
    if path.suffix not in (".zip", ".yaml"):
        assert formats_of(LabelFiles(path), path.name) == [row.format]
    found = [
        folder(pictures, path, class_id=WORDS.class_id, class_count=20, labels_format=named)
        for named in (None, row.format)
    ]
    assert found[0].problems == ()
    assert len(found[0].records) >= 1
    assert [data.fingerprint() for data in found] == [found[0].fingerprint()] * 2


def test_a_folder_with_two_formats_is_refused_until_one_is_named(tmp_path, pictures):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.json").write_text(json.dumps({"imagePath": "a.jpg", "flags": {"cat": True}, "shapes": []}))
    (tmp_path / "labels/b.csv").write_text("image,labels\nb.png,dog\n")
    asked = Asked(WORDS.class_id, 20, tuple)
    with pytest.raises(DataError, match=r"several formats\. Found labelme in a\.json, csv in b\.csv"):
        open_labels(tmp_path / "labels", asked)
    data = folder(pictures, tmp_path / "labels", class_id=WORDS.class_id, labels_format="csv")
    assert [record.image_id for record in data.records] == ["b"]


def test_a_file_of_a_folder_that_cannot_be_read_is_a_problem_and_not_forgotten(tmp_path, pictures):
    (tmp_path / "labels").mkdir()
    whole = json.dumps({"imagePath": "a.jpg", "flags": {"cat": True}, "shapes": []})
    (tmp_path / "labels/a.json").write_text(whole)
    (tmp_path / "labels/b.json").write_text(whole[: len(whole) // 2])
    data = folder(pictures, tmp_path / "labels", class_id=WORDS.class_id)
    assert [record.image_id for record in data.records] == ["a"]
    assert ["is not a JSON file" in problem.reason for problem in data.problems] == [True]
