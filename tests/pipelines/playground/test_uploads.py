"""What visitors bring is bounded, and read by the same readers as a run's pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from clip_es.config.stages import ImageConfig
from clip_es.errors import DataError
from clip_es.pipelines.playground import uploads as module
from clip_es.pipelines.playground.uploads import Uploads

SMALL = replace(ImageConfig(), max_megapixels=0.01)


def test_a_picture_is_known_by_its_content(tmp_path):
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    box = Uploads(tmp_path / "box", SMALL)
    first = box.take(tmp_path / "a.png")
    assert box.take(tmp_path / "b.png").key == first.key
    assert first.size_hw == (20, 30)
    assert box.get(first.key) == first
    assert len(list((tmp_path / "box").iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [("text", "not a picture"), ("large", "too many pixels"), ("torn", "damaged"), ("empty", "empty")],
)
def test_what_is_no_usable_picture_is_refused_and_not_kept(tmp_path, name, message):
    path = tmp_path / f"{name}.png"
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3)).astype(np.uint8)
    if name == "text":
        path.write_text("not a picture at all")
    elif name == "large":
        Image.new("1", (200, 200)).save(path)
    elif name == "torn":
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:-4000])
    else:
        path.touch()
    box = Uploads(tmp_path / "box", SMALL)
    with pytest.raises(DataError, match=message) as caught:
        box.take(path)
    assert caught.value.where == path.name  # and not where this machine keeps it
    assert list((tmp_path / "box").iterdir()) == []


def test_a_file_above_the_bound_is_not_read_to_its_end(tmp_path):
    (tmp_path / "large.jpg").write_bytes(bytes(3000))
    with pytest.raises(DataError, match="too large for the playground"):
        Uploads(tmp_path / "box", SMALL, max_bytes=2000).take(tmp_path / "large.jpg")


def test_of_an_animation_the_first_frame_counts_and_that_is_known(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert Uploads(tmp_path / "box", SMALL).take(tmp_path / "a.gif").more_frames


def test_the_oldest_file_goes_when_there_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_KEPT", 2)
    box, keys = Uploads(tmp_path / "box", SMALL), []
    for value in range(3):
        Image.new("RGB", (4, 4), (value, 0, 0)).save(tmp_path / "a.png")
        keys.append(box.take(tmp_path / "a.png").key)
    with pytest.raises(DataError, match=r"not here any more.*labels and settings stay"):
        box.get(keys[0])
    assert box.get(keys[2]).key == keys[2]
    assert len(list((tmp_path / "box").iterdir())) == 2


def test_a_hostile_name_gives_a_plain_id(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    photo = Uploads(tmp_path / "box", SMALL).take(tmp_path / "a.png", "../<img src=x onerror=alert(1)>;.png")
    assert photo.image_id == "_img src_x onerror_alert_1___"
    assert photo.path.parent == tmp_path / "box"
