"""From `worst` through Label Studio and back: its export with a brush stroke, a polygon and an untouched task."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

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
