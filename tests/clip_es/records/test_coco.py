"""COCO's instances files: 90 raw ids to 80 contiguous ones, crowds, tiny objects, and masks made of the annotations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_es.errors import DataError
from clip_es.pipelines.commands.sources import Coco14Source, Coco17Source
from clip_es.pipelines.commands.truth import AnnotatedCoco14, Truth
from clip_es.prompts import load_vocabulary
from clip_es.records import Dataset, coco_instances
from clip_es.records.coco.file import _uncompressed, paint, read_coco_file
from clip_es.records.coco.instances import masks_of

WORDS = load_vocabulary("coco14")


def small(root: Path, annotations: list, images: list | None = None, categories: list | None = None) -> Path:
    """Two pictures of 4 x 6 pixels, 1.jpg and 2.jpg, of which the first has the annotations."""
    (root / "train2014").mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    for name in ("1.jpg", "2.jpg"):
        (root / "train2014" / name).touch()
    known = [{"id": i, "file_name": f"{i}.jpg", "height": 4, "width": 6} for i in (1, 2)]
    content = {
        "images": known if images is None else images,
        "annotations": annotations,
        "categories": categories or [{"id": 18, "name": "dog"}, {"id": 90, "name": "toothbrush"}],
    }
    (root / "annotations/instances_train2014.json").write_text(json.dumps(content))
    return root


def thing(number: int, box: tuple[int, int, int, int], category: int = 18, image: int = 1, **more) -> dict:
    x0, y0, x1, y1 = box
    outline = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    area = (x1 - x0) * (y1 - y0)
    entry = {"id": number, "image_id": image, "category_id": category, "area": area, "segmentation": outline}
    return {**entry, "iscrowd": 0, **more}


def read(root: Path, **options) -> Dataset:
    return coco_instances(root, class_id=WORDS.class_id, **options)


def reasons(data: Dataset) -> list[str]:
    return [problem.reason for problem in data.problems]


def test_the_90_raw_ids_become_the_80_of_the_vocabulary(tmp_path, made_up_coco):
    made = made_up_coco(tmp_path, 160)
    file = read_coco_file(made.annotations)
    values = masks_of(file, WORDS.class_id)
    # In the order of the raw ids the vocabulary's ids are 0..79 without a gap.
    assert [values[raw] for raw in sorted(values)] == list(range(1, 81))
    assert (values[1], values[13], values[44], values[90]) == (1, 12, 40, 80)
    data = read(tmp_path)
    assert {r.image_id: r.class_ids for r in data.records} == {k: ids for k, ids in made.labels.items() if ids}
    assert {k for record in data.records for k in record.class_ids} == set(range(80))
    assert data.problems == ()
    assert data.notes == ("16 pictures left out: no object.",)
    assert data.records[0].size_hw == made.truth[data.records[0].image_id].shape


def test_2017_is_read_as_2014_is(tmp_path, made_up_coco):
    made = made_up_coco(tmp_path, 12, year=2017, part="val")
    data = Coco17Source(root=tmp_path, split="val").dataset(WORDS)
    assert [r.image_id for r in data.records][:2] == ["000000000001", "000000000002"]
    assert [r.class_ids for r in data.records] == [ids for ids in made.labels.values() if ids]


def test_without_labels_every_picture_comes(tmp_path, made_up_coco):
    made_up_coco(tmp_path, 12)
    data = read(tmp_path, labelled=False)
    assert [r.class_ids for r in data.records] == [()] * 12
    assert data.notes == ()


def test_crowds_and_tiny_objects_are_labels_unless_dropped(tmp_path):
    crowd = thing(1, (0, 0, 6, 4), category=90, iscrowd=1, segmentation={"size": [4, 6], "counts": [0, 24]})
    small(tmp_path, [crowd, thing(2, (0, 0, 2, 2))])
    assert read(tmp_path).records[0].class_ids == (79, 16)
    assert read(tmp_path, crowd="drop").records[0].class_ids == (16,)
    assert read(tmp_path, min_area=4).records[0].class_ids == (79, 16)
    assert read(tmp_path, min_area=5).records[0].class_ids == (79,)
    none = read(tmp_path, crowd="drop", min_area=5)
    assert (len(none.records), none.problems) == (0, ())
    assert "only objects that --crowd and --min-area drop" in none.notes[0] + none.notes[1]


def test_the_list_counts_where_there_is_one_and_the_annotations_where_they_are_named(tmp_path, made_up_coco):
    made = made_up_coco(tmp_path, 3)
    (tmp_path / "train.txt").write_text("COCO_train2014_000000000001 5\n")
    assert [r.class_ids for r in Coco14Source(root=tmp_path).dataset(WORDS).records] == [(5,)]
    for named in (made.annotations, Path("instances_train2014.json")):
        assert len(Coco14Source(root=tmp_path, annotations=named).dataset(WORDS).records) == 3
    with pytest.raises(DataError, match="does not exist"):
        Coco14Source(root=tmp_path, annotations=Path("other.json")).dataset(WORDS)
    (tmp_path / "train.txt").unlink()
    assert len(Coco14Source(root=tmp_path).dataset(WORDS).records) == 3


def test_a_list_cannot_drop_crowds(tmp_path, made_up_coco):
    made_up_coco(tmp_path, 1)
    (tmp_path / "train.txt").write_text("COCO_train2014_000000000001 5\n")
    with pytest.raises(Exception, match="Pass --annotations"):
        Coco14Source(root=tmp_path, crowd="drop").dataset(WORDS)


def test_masks_of_the_annotations_are_those_painted_by_hand(tmp_path, made_up_coco):
    made = made_up_coco(tmp_path, 60)
    assert Truth.of(AnnotatedCoco14(root=tmp_path), out=tmp_path / "truth").run() == 0
    for image_id, wanted in made.truth.items():
        with Image.open(tmp_path / "truth" / f"{image_id}.png") as png:
            assert png.mode == "P"
            assert np.array_equal(np.array(png), wanted), image_id
    data = read(tmp_path, truth=tmp_path / "truth")
    assert set(data.truth) == {r.image_id for r in data.records}
    assert np.array_equal(data.read_truth(data.records[5].image_id), made.truth[data.records[5].image_id])


def test_where_objects_overlap_the_smaller_or_the_later_is_seen(tmp_path):
    # 4 x 6: a dog on all columns but the last, then a toothbrush on the left half; the crowd fills the rest.
    crowd = thing(3, (0, 0, 6, 4), iscrowd=1, segmentation={"size": [4, 6], "counts": [0, 24]})
    small(tmp_path, [thing(1, (0, 0, 3, 4), category=90), thing(2, (0, 0, 5, 4)), crowd])
    file = read_coco_file(tmp_path / "annotations/instances_train2014.json")
    image, values = file.images[0], masks_of(file, WORDS.class_id)
    assert paint(file, image, values)[0].tolist() == [80, 80, 80, 17, 17, 255]
    assert paint(file, image, values, overlap="later")[0].tolist() == [17, 17, 17, 17, 17, 255]
    assert paint(file, image, values, overlap="later", crowd="class")[0].tolist() == [17] * 6
    assert paint(file, image, values, min_area=13)[0].tolist() == [255, 255, 255, 17, 17, 255]
    assert paint(file, image, {18: 7})[0].tolist() == [7, 7, 7, 7, 7, 255]


def test_compressed_run_lengths_are_those_of_pycocotools(tmp_path):
    from pycocotools import mask as tools

    pixels = np.random.default_rng(0).random((40, 60)) < 0.3
    packed = tools.encode(np.asfortranarray(pixels.astype(np.uint8)))
    text = packed["counts"].decode()
    counts = _uncompressed(text, 2400)
    assert counts is not None
    assert sum(counts) == 2400
    assert np.array_equal(np.repeat(np.arange(len(counts)) % 2, counts).reshape(60, 40).T, pixels)
    image = {"id": 1, "file_name": "1.jpg", "height": 40, "width": 60}
    small(tmp_path, [thing(1, (0, 0, 1, 1), segmentation={"size": [40, 60], "counts": text})], [image])
    file = read_coco_file(tmp_path / "annotations/instances_train2014.json")
    assert np.array_equal(paint(file, file.images[0], {18: 1}), pixels)


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        "x",
        [[0, 0, 1, 1]],
        [[0, 0, 1, 0, 1]],
        [[0, 0, 1, 0, 1, float("nan")]],
        [[0, 0, 1, 0, 1, 1e9]],
        [["0", 0, 1, 0, 1, 1]],
        {"size": [4, 6], "counts": [0, 25]},
        {"size": [4, 6], "counts": [0, -1, 25]},
        {"size": [6, 4], "counts": [0, 24]},
        {"size": [4, 6], "counts": "\x00\x01"},
        {"size": [4, 6], "counts": "PPYo0000000000000000000000000000"},
        {"size": [4, 6], "counts": "oooooooooooooooooooooooooooooooo"},
        {"size": [4, 6]},
        {"size": [4, 6], "counts": [10**30]},
    ],
)
def test_a_damaged_segmentation_costs_one_mask(tmp_path, segmentation):
    second = thing(2, (0, 0, 6, 4), image=2)
    small(tmp_path, [thing(1, (0, 0, 1, 1), segmentation=segmentation), second])
    assert Truth.of(AnnotatedCoco14(root=tmp_path), out=tmp_path / "truth").run() == 1
    assert [path.name for path in (tmp_path / "truth").glob("*.png")] == ["2.png"]
    assert "annotation 1 has no usable segmentation" in (tmp_path / "truth/failures.csv").read_text()


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (7, "annotations[1] lacks the whole numbers"),
        ({"id": 2, "image_id": 1}, "annotations[1] lacks the whole numbers"),
        ({**thing(1, (0, 0, 1, 1))}, "which an earlier one has"),
        ({**thing(2, (0, 0, 1, 1)), "image_id": 99}, "the image_id 99, which the file does not list"),
        ({**thing(2, (0, 0, 1, 1)), "category_id": 7}, "the category_id 7, which the file does not list"),
        ({**thing(2, (0, 0, 1, 1)), "id": True}, "lacks the whole numbers"),
        ({**thing(2, (0, 0, 1, 1)), "image_id": [1]}, "lacks the whole numbers"),
    ],
)
def test_a_bad_annotation_is_a_problem_and_the_others_are_read(tmp_path, entry, says):
    small(tmp_path, [thing(1, (0, 0, 2, 2)), entry])
    data = read(tmp_path)
    assert [r.image_id for r in data.records] == ["1"]
    assert says in reasons(data)[0]


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ({"id": 3, "file_name": "../../etc/passwd"}, "without '..'"),
        ({"id": 3, "file_name": "/etc/passwd"}, "without '..'"),
        ({"id": 3, "file_name": 5}, "has no file_name"),
        ({"id": 3}, "has no file_name"),
        ({"id": 3, "file_name": "3.jpg"}, "which is not there"),
        ({"id": 3, "file_name": "1.jpg"}, "listed twice"),
        ({"id": 1, "file_name": "3.jpg"}, "which an earlier one has"),
        ({"id": 3, "file_name": "a\x00.jpg"}, "names the picture"),
        ("x", "lacks the whole numbers id"),
    ],
)
def test_a_bad_picture_is_a_problem_and_the_others_are_read(tmp_path, image, says):
    first = {"id": 1, "file_name": "1.jpg", "height": 4, "width": 6}
    small(tmp_path, [thing(1, (0, 0, 2, 2)), thing(2, (0, 0, 2, 2), image=3)], [first, image])
    data = read(tmp_path)
    assert [r.image_id for r in data.records] == ["1"]
    assert any(says in reason for reason in reasons(data)), reasons(data)


def test_a_category_that_the_vocabulary_does_not_know_fails_its_pictures_or_is_skipped(tmp_path):
    small(tmp_path, [thing(1, (0, 0, 2, 2), 5), thing(2, (0, 0, 2, 2))], categories=[
        {"id": 18, "name": "dog"}, {"id": 5, "name": "unicorn"}])  # fmt: skip
    assert "'unicorn' is not one of the 80 names" in reasons(read(tmp_path))[0]
    skipped = read(tmp_path, on_bad_label="skip")
    assert (skipped.records[0].class_ids, dict(skipped.left_out)) == ((16,), {"unicorn": 1})


def test_area_is_only_asked_for_where_it_is_needed(tmp_path):
    small(tmp_path, [thing(1, (0, 0, 2, 2), area=None)])
    assert len(read(tmp_path).records) == 1
    assert "states no area" in reasons(read(tmp_path, min_area=1))[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "has no list 'images' and 'annotations' and 'categories'"),
        (b'{"images": [], "annotations": {}, "categories": []}', "has no list 'annotations'"),
        (b'{"images": [], "annotations": [], "categories": []}', "lists no picture"),
        (b'{"images": [], "annotations": [], "categories": [{"id": "x", "name": "dog"}]}', "without an id and a name"),
        (b'{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', "once"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content, says):
    small(tmp_path, [])
    (tmp_path / "annotations/instances_train2014.json").write_bytes(content)
    with pytest.raises(DataError, match=says):
        read(tmp_path)


def test_a_missing_file_says_which(tmp_path):
    with pytest.raises(DataError, match=r"instances_val2014\.json: is not there"):
        read(small(tmp_path, []), split="val")


def by_hand(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int) -> float:
    """mIoU of (prediction, truth) over the classes that are true somewhere, counted pixel by pixel."""
    counts = np.zeros((classes, classes + 1), int)
    for prediction, truth in pairs:
        for p, t in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True):
            if t < classes:
                counts[t, min(p, classes)] += 1
    ious = []
    for k in range(classes):
        if counts[k].sum():
            ious.append(counts[k, k] / (counts[k].sum() + counts[:, k].sum() - counts[k, k]))
    return 100 * sum(ious) / len(ious)


def run_coco(root: Path, made, workers: int = 0) -> tuple[float, float]:
    """Truth, masks and evaluation as a user runs them. Returns mIoU as the run has it, and by hand."""
    from clip_es.pipelines.cli import main

    truth, out = root / "truth", root / "run"
    assert main(["truth", "coco14", "--root", str(made.root), "--out", str(truth)]) == 0
    options = ["--root", str(made.root), "--truth", str(truth), "--out", str(out), "--weights", "scenes"]
    code = main(["masks", "coco14", *options, "--report-pictures", "0", "--workers", str(workers)])
    assert code == 0
    labels = out / "labels"
    arguments = [str(labels), "--truth", str(truth), "--vocabulary", "coco14"]
    assert main(["evaluate", *arguments, "--out", str(root / "scores.json")]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert json.loads((root / "scores.json").read_text())["miou"] == pytest.approx(summary["miou"], abs=1e-9)
    pairs = []
    for path in sorted(labels.glob("*.png")):
        with Image.open(path) as png:
            pairs.append((np.array(png), made.truth[path.stem]))
    assert len(pairs) == sum(map(bool, made.labels.values()))
    return summary["miou"], by_hand(pairs, 81)


def test_a_small_coco_goes_through_masks_and_evaluate_and_the_miou_is_that_counted_by_hand(tmp_path, made_up_coco):
    found, wanted = run_coco(tmp_path, made_up_coco(tmp_path / "coco", 30))
    assert found == pytest.approx(wanted, abs=1e-9)
    assert found > 1


@pytest.mark.slow
def test_a_hundred_pictures_of_coco_go_through_and_the_miou_is_that_counted_by_hand(tmp_path, made_up_coco):
    found, wanted = run_coco(tmp_path, made_up_coco(tmp_path / "coco", 120))
    assert found == pytest.approx(wanted, abs=1e-9)
