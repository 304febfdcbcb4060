"""From nothing to masks with pictures of one's own: one command, at most ten lines of YAML, labels of any kind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_es.pipelines.cli import main

YAML = """\
template: a photo of a {}.
classes:
  - {name: plane, prompt: plane airplane aeroplane}
  - {name: kitty, prompt: cat kitten kitty, aliases: [cat]}
  - {name: car, prompt: car sedan automobile}
background: [sky, grass, road, sea, wall]
"""


def ten_pictures(root: Path) -> dict[str, str]:
    """Ten scenes of one or two classes below `root`, in folders named after one of them. Returns names and labels."""
    from clip_es.scenes.draw import CLASSES, SceneConfig, draw_scene

    wanted = {CLASSES.index("aeroplane"): "plane", CLASSES.index("cat"): "kitty", CLASSES.index("car"): "car"}
    labels: dict[str, str] = {}
    number = 0
    while len(labels) < 10:
        scene = draw_scene(5, number, SceneConfig((96, 128), objects=(1, 2)))
        number += 1
        if set(scene.class_ids) <= set(wanted):
            names = [wanted[k] for k in scene.class_ids]
            name = f"{names[0]}/{len(labels)}.jpg"
            (root / names[0]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene.picture).save(root / name)
            labels[name] = ";".join(names)
    return labels


def masks_of(out: Path) -> dict[str, set[int]]:
    found = {}
    for path in sorted((out / "labels").glob("*.png")):
        with Image.open(path) as png:
            found[path.stem] = set(np.unique(np.array(png)).tolist())
    return found


def test_ten_pictures_become_masks_with_one_command_and_six_lines_of_yaml(tmp_path):
    labels = ten_pictures(tmp_path / "photos")
    (tmp_path / "labels.csv").write_text("image,labels\n" + "".join(f"{k},{v}\n" for k, v in labels.items()))
    (tmp_path / "words.yaml").write_text(YAML)
    assert len(YAML.splitlines()) <= 10
    out = tmp_path / "run"
    arguments = ["--images", str(tmp_path / "photos"), "--labels", str(tmp_path / "labels.csv")]
    more = ["--vocabulary", str(tmp_path / "words.yaml"), "--weights", "scenes", "--report-pictures", "0"]
    assert main(["masks", "folder", *arguments, *more, "--out", str(out)]) == 0
    ids = {"plane": 1, "kitty": 2, "car": 3}
    allowed = {k.replace("/", "__")[:-4]: {0, *(ids[name] for name in v.split(";"))} for k, v in labels.items()}
    found = masks_of(out)
    assert found.keys() == allowed.keys()
    assert all(found[name] <= allowed[name] for name in found)
    # The model knows these drawings, so most labels are found.
    assert sum(len(values - {0}) for values in found.values()) >= 8
    assert json.loads((out / "summary.json").read_text())["images"]["done"] == 10


def test_sub_folders_and_a_plain_list_of_names_need_no_file_at_all(tmp_path):
    labels = ten_pictures(tmp_path / "photos")
    out = tmp_path / "run"
    arguments = ["--images", str(tmp_path / "photos"), "--labels", "subfolders", "--vocabulary", "plane,kitty,car"]
    assert (
        main(["masks", "folder", *arguments, "--weights", "scenes", "--report-pictures", "0", "--out", str(out)]) == 0
    )
    ids = {"plane": 1, "kitty": 2, "car": 3}
    for name, values in masks_of(out).items():
        assert values <= {0, ids[name.split("__")[0]]}
    assert len(masks_of(out)) == len(labels)


@pytest.mark.parametrize("labels", ["none.csv", "subfolder", "labels.xlsx"])
def test_a_wrong_label_file_ends_with_two_and_a_way_out(tmp_path, capsys, labels):
    (tmp_path / "photos").mkdir()
    (tmp_path / "labels.xlsx").touch()
    name = str(tmp_path / labels) if "." in labels else labels
    arguments = ["--images", str(tmp_path / "photos"), "--labels", name, "--vocabulary", "cat,dog"]
    assert main(["masks", "folder", *arguments, "--weights", "scenes", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr()
    assert ("Save it as CSV" if "xlsx" in labels else "subfolders") in said.err + said.out
