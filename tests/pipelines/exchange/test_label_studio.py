"""From `worst` through Label Studio and back: its export with a brush stroke, a polygon and an untouched task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from clip_es.file_source import Source
from clip_es.formats import FORMATS, Names, brush
from clip_es.formats.label_studio import region
from clip_es.masks import read_mask
from clip_es.pipelines.cli import main


def exported_by_label_studio(tasks: Path, stroke: np.ndarray) -> list[dict]:
    """What "Export, JSON" gives after somebody took the predictions over and drew into the first picture."""
    sdk = pytest.importorskip("label_studio_sdk.converter.brush", exc_type=ImportError)
    done = json.loads(tasks.read_text())
    for number, task in enumerate(done, start=1):
        result = task.pop("predictions")[0]["result"]
        task |= {"id": number, "annotations": [{"id": number, "result": result, "was_cancelled": False}]}
    height, width = stroke.shape
    size = {"original_width": width, "original_height": height, "image_rotation": 0}
    shared = {"from_name": "label", "to_name": "image", **size}
    drawn = {"format": "rle", "rle": sdk.mask2rle((255 * stroke).astype(np.uint8)), "brushlabels": ["dog"]}
    corners = {"points": [[0, 0], [50, 0], [0, 50]], "polygonlabels": ["cat"], "closed": True}
    done[0]["annotations"][0]["result"] += [
        {"id": "a", "type": "polygonlabels", "value": corners, **shared},
        {"id": "b", "type": "brushlabels", "value": drawn, **shared},
    ]
    done[1]["annotations"].insert(0, {"id": 99, "result": [], "was_cancelled": True})
    return done


def test_what_was_mended_in_label_studio_overrides_and_the_rest_stays(made_up_run, tmp_path, capsys):
    made = made_up_run(tmp_path)
    out = tmp_path / "mend"
    assert main(["worst", str(made.run), "--format", "label-studio", "--count", "3", "--out", str(out)]) == 0
    first, *others = [task["data"]["image_id"] for task in json.loads((out / "tasks.json").read_text())]
    before = {image_id: read_mask(made.run / f"labels/{image_id}.png") for image_id in (first, *others)}
    stroke = np.zeros(before[first].shape, dtype=bool)
    stroke[3:9, 4:12] = True
    (tmp_path / "export.json").write_text(json.dumps(exported_by_label_studio(out / "tasks.json", stroke)))
    capsys.readouterr()
    call = ["import", str(made.run), "--format", "label-studio", "--labels", "decided"]
    assert main([*call, "--from", str(tmp_path / "export.json")]) == 0
    assert "1 pictures edited" in capsys.readouterr().out
    after = {image_id: read_mask(made.run / f"labels/{image_id}.png") for image_id in before}
    assert (after[first][stroke] == 3).all()
    assert after[first][1, 1] == 1
    assert all(np.array_equal(after[image_id], before[image_id]) for image_id in others)


RECORDED = Path(__file__).parents[2] / "golden/label-studio/export.json"
"""What Label Studio 1.23.2 exported of the five tasks of `worst` over `made_up_run(count=5)`, all of them, after its
brush was used in a browser: 004 submitted as it was; in 000 the region `cat`, which comes first, drawn over
`traffic light` and `dog`, and `dog` erased where it was not; in 001 a new region `traffic light`; two never opened."""


def test_what_label_studio_itself_exported_changes_what_was_drawn_and_nothing_else(made_up_run, tmp_path, capsys):
    made = made_up_run(tmp_path, 5)
    before = {image_id: read_mask(made.run / f"labels/{image_id}.png") for image_id in made.masks}
    assert main(["worst", str(made.run), "--format", "label-studio", "--count", "5", "--out", str(tmp_path / "w")]) == 0
    capsys.readouterr()
    call = ["import", str(made.run), "--format", "label-studio", "--labels", "decided", "--from", str(RECORDED)]
    assert main(call) == 0
    assert "2 pictures edited (53 pixels differ from RUN/labels), 1 unchanged, 0 refused" in capsys.readouterr().out
    drawn = {"000.plain": (1, 32), "001.plain": (2, 21)}
    for image_id, labels in before.items():
        after = read_mask(made.run / f"labels/{image_id}.png")
        label, pixels = drawn.get(image_id, (0, 0))
        assert ((after != labels) == (after == label) & (labels != label) & (pixels > 0)).all()
        assert int((after != labels).sum()) == pixels
    (task,) = [one for one in json.loads(RECORDED.read_text()) if one["data"]["image_id"] == "000.plain"]
    regions = {one["value"]["brushlabels"][0]: one for one in task["annotations"][0]["result"]}
    cat = brush.decode(regions["cat"]["value"]["rle"], before["000.plain"].shape)
    assert cat[read_mask(made.run / "labels/000.plain.png") == 1].all()
    lights = brush.decode(regions["traffic light"]["value"]["rle"], cat.shape)
    assert (cat & lights).sum() > 0  # Label Studio leaves the regions beneath as they are.
    assert main(call) == 0
    assert "0 pictures edited" in capsys.readouterr().out


def test_tasks_that_nobody_has_annotated_are_passed_over_and_an_export_of_such_alone_is_told(
    made_up_run, tmp_path, capsys
):
    made = made_up_run(tmp_path, 5)
    tasks = json.loads(RECORDED.read_text())
    for task in tasks:
        for annotation in task["annotations"]:
            annotation["was_cancelled"] = True
    export = tmp_path / "export.json"
    export.write_text(json.dumps(tasks))
    call = ["import", str(made.run), "--format", "label-studio", "--labels", "decided", "--from", str(export)]
    assert main(call) != 0
    assert "nobody has annotated any of its tasks" in " ".join(capsys.readouterr().err.split())
    chosen = json.loads(json.dumps(tasks[1]["annotations"][0])) | {"was_cancelled": False}
    tasks[1]["annotations"] = [chosen | {"ground_truth": True}, chosen | {"result": []}]
    export.write_text(json.dumps(tasks))
    assert main(call) == 0
    assert "1 pictures edited (32 pixels" in capsys.readouterr().out  # Ground truth before what came later.


def test_of_two_regions_the_one_drawn_anew_lies_on_top(tmp_path):
    names, size = Names(("cat", "dog")), (1, 6)

    def one(name: str, mask: list[int], origin: str = "", at: str = "new") -> dict:
        made = region(np.array([mask], dtype=bool), name, "label", "image")
        return made | {"id": at, **({"origin": origin} if origin else {})}

    cat, dog = [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0]
    predicted = [one("cat", cat, at="c"), one("dog", dog, at="d")]

    def labels(*results: dict, prediction: object = predicted) -> list[int]:
        annotation = {"result": results, "prediction": {"result": prediction}}
        (tmp_path / "tasks.json").write_text(json.dumps([{"data": {"image": "a.png"}, "annotations": [annotation]}]))
        with Source(tmp_path / "tasks.json") as source:
            (incoming,) = FORMATS["label-studio"].read(source, names)
            return incoming.read(size)[0].tolist()

    wide = one("cat", [1, 1, 1, 0, 0, 1], "prediction-changed", "c")
    assert labels(wide, one("dog", dog, "prediction", "d")) == [1, 1, 1, 2, 0, 1]
    assert labels(wide, one("dog", dog, "prediction-changed", "d")) == [1, 1, 1, 2, 0, 1]
    assert labels(one("dog", dog, "prediction", "d"), wide) == [1, 1, 1, 2, 0, 1]
    # A new region of the old label is drawn on purpose, over one that was extended.
    assert labels(wide, one("dog", dog, "manual")) == [1, 1, 2, 2, 0, 1]
    # Two that are both new: the later one.
    assert labels(one("dog", [1, 0, 0, 0, 1, 0], "manual"), one("cat", [0, 0, 0, 0, 1, 0], "manual")) == [
        2,
        0,
        0,
        0,
        1,
        0,
    ]
    # A region that was given another label.
    assert labels(one("dog", cat, "prediction-changed", "c")) == [2, 2, 0, 0, 0, 0]
    # Where nothing says what had been predicted, untouched regions are beneath, and later ones on top.
    assert labels(wide, one("dog", dog, "prediction", "d"), prediction=None) == [1, 1, 1, 2, 0, 1]
    assert labels(wide, one("dog", dog), prediction=None) == [1, 1, 2, 2, 0, 1]


def test_an_export_without_its_mark_is_compared_with_what_left_the_run(made_up_run, tmp_path, capsys):
    made = made_up_run(tmp_path, 5)
    worst = ["worst", str(made.run), "--format", "label-studio", "--count", "5", "--out", str(tmp_path / "w")]
    assert main(worst) == 0  # Exports the decided labels; what Label Studio gives back has no mark that says so.
    call = ["import", str(made.run), "--format", "label-studio", "--from", str(RECORDED)]
    capsys.readouterr()
    assert main(call) == 0
    assert "2 pictures edited (53 pixels differ from RUN/labels), 1 unchanged" in capsys.readouterr().out
    assert main(["export", str(made.run), "--format", "voc", "--out", str(tmp_path / "voc")]) == 0
    capsys.readouterr()
    assert main(call) != 0
    assert "does not say which labels of the run it began as" in " ".join(capsys.readouterr().err.split())
    assert main([*call, "--labels", "decided"]) == 0
    assert "0 pictures edited" in capsys.readouterr().out


def test_a_zip_is_read_with_its_mark_and_under_its_own_format_alone(made_up_run, tmp_path, capsys):
    made = made_up_run(tmp_path, 5)
    out = tmp_path / "w"
    assert main(["worst", str(made.run), "--format", "x-anylabeling", "--count", "5", "--out", str(out)]) == 0
    assert main(["export", str(made.run), "--format", "voc", "--out", str(tmp_path / "voc")]) == 0
    shutil.make_archive(str(tmp_path / "back"), "zip", out)
    for source in (out, tmp_path / "back.zip"):
        capsys.readouterr()
        call = ["import", str(made.run), "--from", str(source), "--format"]
        assert main([*call, "x-anylabeling"]) == 0
        assert "0 pictures edited (0 pixels differ from RUN/labels), 5 unchanged" in capsys.readouterr().out
        assert main([*call, "labelme"]) != 0  # It fills polygons in another way, so borders would differ.
        assert "was exported as x-anylabeling, not labelme" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("address", "image_id"),
    [
        ("/data/local-files/?d=images/with%20space%20%2520.jpg", "with space %20"),
        ("/data/upload/3/a6b6b152-plain.jpg", "plain"),
        ("s3://bucket/photos/dots.v1.2.jpg", "dots.v1.2"),
        ("photos/deadbeef-cat.jpg", "deadbeef-cat"),
    ],
)
def test_a_task_without_our_id_is_known_by_its_address(tmp_path, address, image_id):
    (tmp_path / "tasks.json").write_text(json.dumps([{"data": {"image": address}, "annotations": [{"result": []}]}]))
    with Source(tmp_path / "tasks.json") as source:
        assert [one.image_id for one in FORMATS["label-studio"].read(source, Names(("cat",)))] == [image_id]
