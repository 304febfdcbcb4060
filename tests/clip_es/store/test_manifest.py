"""run.yaml has one reader: what it holds, in whatever form earlier versions wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from clip_es.errors import ConfigError, DataError
from clip_es.store.manifest import Manifest


def written(folder: Path, **about: object) -> Manifest:
    (folder / "run.yaml").write_text(yaml.safe_dump({"method": "x", "about": about}))
    return Manifest.read(folder)


def test_what_is_written_is_read_back(tmp_path):
    made = Manifest.of(tmp_path, {"a": 1, "b": {"c": (0.5, None)}}, {"classes": ["cat"], "images": Path("/p")})
    assert made.write()
    assert not made.write()
    assert Manifest.read(tmp_path) == made
    assert (made.classes, made.picture_folders) == (("cat",), (Path("/p"),))


@pytest.mark.parametrize(
    ("images", "folders"), [("a", ("a",)), (["a", "b"], ("a", "b")), (None, ()), ([1], ()), ("", ())]
)
def test_one_folder_of_pictures_and_several_are_both_fine(tmp_path, images, folders):
    assert written(tmp_path, images=images).picture_folders == tuple(map(Path, folders))


@pytest.mark.parametrize("classes", [None, [], "cat", ["cat", 7]])
def test_classes_that_are_no_names_are_not_known(tmp_path, classes):
    assert written(tmp_path, classes=classes).classes is None


def test_settings_differ_by_their_dotted_names(tmp_path):
    one = Manifest.of(tmp_path, {"a": {"b": 1, "c": 2}, "d": float("nan")}, {"version": 1})
    other = Manifest.of(tmp_path, {"a": {"b": 1.0, "c": 2}, "d": float("nan"), "e": "x"}, {"version": 2})
    assert one.differences(other) == {"a.b": ("1", "1.0"), "e": ("not set", '"x"')}


def test_a_setting_that_has_no_form_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"settings\.a\[1\]: a setting cannot be written down"):
        Manifest.of(tmp_path, {"a": [1, object()]}, {})


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "is not the folder of a run.* Found no run.yaml"), ("[1]", "is not a table"), ("a: [", "cannot be read")],
)
def test_no_run_and_a_damaged_one_are_told_apart(tmp_path, content, says):
    if content is not None:
        (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(DataError, match=says):
        Manifest.read(tmp_path)
