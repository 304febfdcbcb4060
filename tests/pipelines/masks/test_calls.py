"""The Python call: one picture, many of them in order, and results that say and give what they are."""

from __future__ import annotations

import copy
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import clip_es
from clip_es import FailedPicture, MaskMaker, MaskResult, read_mask, write_mask
from clip_es.errors import ConfigError, DataError, ShapeError, WeightsError
from clip_es.pipelines.masks.calls import class_ids_of
from clip_es.scenes.dataset import ScenesConfig, scene_of
from clip_es.store.disk import StoreError

SCENES = ScenesConfig(side=(64, 80))


@pytest.fixture
def unchecked(request) -> None:
    """For what annotations forbid: where they are enforced, it does not come as far as our own words."""
    if request.config.getoption("jaxtyping_packages"):
        pytest.skip("annotations are enforced")


@pytest.fixture(scope="module")
def maker() -> MaskMaker:
    return clip_es.load("scenes", device="cpu")


@pytest.fixture(scope="module")
def scenes(maker) -> list[tuple[np.ndarray, list[str]]]:
    drawn = [scene_of(SCENES, "val", number) for number in range(5)]
    return [(one.picture, names_in(one.mask, maker)) for one in drawn]


@pytest.fixture(scope="module")
def result(maker, scenes) -> MaskResult:
    return maker(*scenes[0])


def names_in(mask: np.ndarray, maker: MaskMaker) -> list[str]:
    return [maker.vocabulary.names[k - 1] for k in np.unique(mask).tolist() if 0 < k < 255]


def test_a_picture_gives_the_same_mask_in_every_form(maker, scenes, result, tmp_path):
    rgb, names = scenes[0]
    file = tmp_path / "scene.png"
    Image.fromarray(rgb).save(file)
    tensor = torch.from_numpy(rgb.copy()).permute(2, 0, 1)
    for given in (file, str(file), file.read_bytes(), io.BytesIO(file.read_bytes()), Image.fromarray(rgb), tensor):
        assert np.array_equal(maker(given, names).mask.labels, result.mask.labels)
    assert maker(file, names).image_id == "scene"


def test_many_come_back_in_their_order_whatever_their_sizes(maker, scenes):
    images, labels = zip(*scenes, strict=True)
    together = maker(list(images), list(labels))
    for one, (rgb, names) in zip(together, scenes, strict=True):
        assert np.array_equal(one.image, rgb)
        assert np.array_equal(one.mask.labels, maker(rgb, names).mask.labels)
    pairs = list(maker.stream(iter(scenes), batch_size=2))
    assert all(np.array_equal(a.mask.labels, b.mask.labels) for a, b in zip(together, pairs, strict=True))


def test_a_picture_that_fails_yields_its_error_and_the_rest_goes_on(maker, scenes, tmp_path):
    rgb, names = scenes[0]
    images = [rgb, tmp_path / "missing.png", b"no picture", rgb, rgb.astype(bool), rgb, "http://example.org/a.png"]
    labels = [names, names, names, ["zebra"], names, names, names]
    found = list(maker.stream(images, labels, batch_size=2))
    assert [one.ok for one in found] == [True, False, False, False, False, True, False]
    assert [one.stage for one in found if isinstance(one, FailedPicture)] == ["read", "read", "given", "read", "given"]
    assert found[1].image_id == "missing"
    assert "no such picture" in str(found[1].error)
    assert "'zebra' is not one of" in repr(found[3])
    with pytest.raises(DataError, match="no such picture"):
        _ = found[1].mask
    with pytest.raises(AttributeError):
        _ = found[1].unheard_of
    assert isinstance(pickle.loads(pickle.dumps(found[1])), FailedPicture)
    assert found[0].error is None


def test_a_stream_does_not_wait_for_its_end_and_remembers_nothing(maker, scenes):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield scenes[0]

    stream = maker.stream(endless(), batch_size=1)
    assert next(stream).ok
    assert taken == 1
    stream.close()


def test_what_came_before_an_error_of_the_source_is_not_lost(maker, scenes):
    def broken():
        yield scenes[0]
        yield scenes[1]
        raise RuntimeError("the camera is gone")

    found = []
    stream = maker.stream(broken())
    found.append(next(stream))
    found.append(next(stream))
    with pytest.raises(RuntimeError, match="camera"):
        next(stream)
    assert [one.ok for one in found] == [True, True]


def test_an_empty_list_gives_an_empty_list(maker):
    assert maker([], []) == []
    assert list(maker.stream([])) == []


@pytest.mark.parametrize(
    ("images", "labels", "kind", "told"),
    [
        (2, ["cat", "dog"], DataError, "one list for each picture"),
        (2, "cat", DataError, "one list for each picture"),
        (2, [["cat"]], ShapeError, "2 lists of names"),
        (1, iter([["cat"], ["cat"]]), ShapeError, "1 picture and more labels"),
        (2, iter([["cat"]]), ShapeError, "more pictures than 1 labels"),
        (2, {"cat", "dog"}, DataError, "one list for each picture"),
        (2, {"cat": 1, "dog": 2}, DataError, "one list for each picture"),
    ],
)
def test_labels_that_are_not_one_list_for_each_are_refused(maker, scenes, images, labels, kind, told):
    with pytest.raises(kind, match=told):
        list(maker.stream([scenes[0][0]] * images, labels))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("labels", [3, b"cat"])
def test_labels_that_are_no_list_at_all_are_refused(maker, scenes, labels):
    with pytest.raises(DataError, match="one list for each picture"):
        maker.stream([scenes[0][0]], labels)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("form", ["array", "tensor", "pillow", "path", "name", "bytes", "file", "none"])
def test_one_picture_is_not_taken_for_many_rows_or_letters(maker, scenes, form):
    rgb = scenes[0][0]
    given = {
        "array": rgb,
        "tensor": torch.from_numpy(rgb.copy()).permute(2, 0, 1),
        "pillow": Image.fromarray(rgb),
        "path": Path("a.png"),
        "name": "a.png",
        "bytes": b"abc",
        "file": io.BytesIO(b"abc"),
        "none": None,
    }[form]
    with pytest.raises(DataError, match=r"not several pictures.*For one picture: maker\(image, labels\)"):
        maker.stream(given)


def test_pictures_by_name_have_no_order(maker, scenes):
    for call in (maker, maker.stream):
        with pytest.raises(DataError, match=r"Found dict\. Pass its values\(\)"):
            call({"a": scenes[0][0]}, [scenes[0][1]])
    assert maker({"a": scenes[0][0]}.values(), [scenes[0][1]])[0].ok


@pytest.mark.usefixtures("unchecked")
def test_a_batch_of_another_library_needs_only_its_array(maker, scenes):
    class Foreign:
        def __init__(self, array: np.ndarray) -> None:
            self.array, self.ndim = array, array.ndim

        def __array__(self, dtype=None, copy=None) -> np.ndarray:
            return self.array

    rgb, names = scenes[0]
    found = maker(Foreign(np.stack([rgb, rgb])), [names, names])
    assert [one.image_id for one in found] == ["picture-0", "picture-1"]
    assert np.array_equal(found[1].image, rgb)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("size", [0, -1, 1.5, "8", None])
def test_a_batch_is_a_whole_number_of_pictures(maker, size):
    with pytest.raises(ConfigError, match="batch_size >= 1"):
        maker.stream([], batch_size=size)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"labels": "yes"}, "unknown source of labels. Expected given, auto, none"),
        ({"labels": ["cat"]}, "the names of the classes are the vocabulary"),
        ({"config": {}}, "no settings.*Found dict"),
        ({"config": 5}, "no settings.*Found int"),
        ({"device": None}, "the device 'None' cannot be used"),
        ({"device": "gpu"}, "the device 'gpu' cannot be used"),
        ({"templates": ["a photo"]}, "exactly once"),
        ({"templates": [5]}, "exactly once"),
        ({"vocabulary": [f"thing {k}" for k in range(255)]}, "at most 254"),
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused_before_any_picture(settings, told):
    with pytest.raises(ConfigError, match=f"(?i){told}"):
        clip_es.load("scenes", **{"device": "cpu", **settings})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("weights", [None, 5, b"a.pt", {"a": torch.zeros(2)}, torch.nn.Linear(1, 1)], ids=type)
def test_weights_that_are_no_name_are_refused_by_their_type(weights):
    with pytest.raises(WeightsError, match=f"Found {type(weights).__name__}"):
        clip_es.load(weights, ["cat"], device="cpu")


def test_templates_come_from_a_file_by_its_path_too(tmp_path):
    (tmp_path / "mine.txt").write_text("a sketch of a {}.\n")
    by_path, by_name, in_words = (
        clip_es.load("scenes", ["cat"], templates=one, device="cpu").bank.source
        for one in (tmp_path / "mine.txt", str(tmp_path / "mine.txt"), "a sketch of a {}.")
    )
    assert by_path == by_name == in_words


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (["zebra"], "not one of the"),
        ([["cat"]], r"\['cat'\] \(list\)"),
        ([3], r"3 \(int\). Class 3 is"),
        ([None], "NoneType"),
        (7, "a list of names"),
        ([{}], "dict"),
        ([True], "bool"),
    ],
)
def test_labels_that_are_no_names_are_refused_in_words(maker, labels, told):
    with pytest.raises(DataError, match=told):
        class_ids_of(labels, maker.vocabulary)


def test_a_single_name_needs_no_list_and_a_name_twice_counts_once(maker):
    words = maker.vocabulary
    assert class_ids_of("cat", words) == class_ids_of(["cat", "cat"], words) == (words.class_id("cat"),)
    assert class_ids_of({"cat", "car"}, words) == tuple(sorted((words.class_id("cat"), words.class_id("car"))))


def test_no_label_at_all_is_an_error_of_that_picture_alone(maker, scenes):
    with pytest.raises(DataError, match="no label"):
        maker(scenes[0][0], [])
    with pytest.raises(ConfigError, match='labels="auto"'):
        maker(scenes[0][0])
    failed, done = maker([scenes[0][0], scenes[1][0]], [None, scenes[1][1]])
    assert isinstance(failed.error, ConfigError)
    assert done.ok


def test_labels_are_found_by_a_maker_that_was_made_so(maker, scenes):
    with pytest.raises(ConfigError, match=r'load\(..., labels="auto"\)'):
        maker(scenes[0][0], "auto")


def test_labels_can_be_found(scenes):
    result = clip_es.load("scenes", labels="auto", device="cpu")(scenes[0][0])
    assert result.refined.found_labels is not None
    assert result.names == result.refined.found_labels.names


def test_the_maker_takes_words_and_settings_in_every_form():
    maker = clip_es.load("scenes", ["cat", "dog"], config="reference", templates="origami", device="cpu")
    assert maker.vocabulary.names == ("cat", "dog")
    assert maker.config.arithmetic == "published"
    assert "2 classes" in repr(maker)
    assert clip_es.load("scenes", {0: "cat", 1: "dog"}, device="cpu").vocabulary.names == ("cat", "dog")
    with pytest.raises(ConfigError, match="no such preset"):
        clip_es.load("scenes", config="fastest")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "mps:7"])
def test_a_maker_is_not_moved_where_nothing_computes(maker, scenes, device):
    with pytest.raises(ConfigError, match=f"the device '{device}' cannot be used"):
        maker.to(device)
    assert maker.to("cpu")(*scenes[0]).ok


def test_a_maker_is_made_of_an_encoder_and_words(maker):
    assert MaskMaker(maker.encoder, ["cat", "dog"]).vocabulary.names == ("cat", "dog")
    assert MaskMaker(maker.encoder, "voc12").vocabulary.name == "voc12"


def test_a_result_is_saved_as_the_mask_that_it_is(result, tmp_path):
    where = result.save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(where), result.mask.labels)
    assert np.array_equal(read_mask(str(where)), result.mask.labels)
    assert np.array_equal(np.asarray(result.to_pil()), result.mask.labels)
    assert read_mask(result.save(str(tmp_path / "new" / "folder" / "mask.PNG"))).shape == result.mask.labels.shape
    for name in ("mask.jpg", "mask.npy", "mask", ".png"):
        with pytest.raises(ConfigError, match="saved as PNG"):
            result.save(tmp_path / name)
    (tmp_path / "taken").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        result.save(tmp_path / "taken" / "mask.png")


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_mask_is_not_written(tmp_path):
    for labels in (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4)), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ShapeError, match="one label for each pixel"):
            write_mask(tmp_path / "mask.png", labels)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("target", [io.BytesIO(), None, b"mask.png", 5], ids=type)
def test_a_result_is_saved_under_a_path(result, target):
    with pytest.raises(ConfigError, match=r"saved under a path.*to_pil\(\)\.save"):
        result.save(target)


def test_a_result_is_equal_to_itself_alone_and_may_be_a_key(result):
    other = pickle.loads(pickle.dumps(result))
    assert np.array_equal(other.mask.labels, result.mask.labels)
    assert result == result
    assert result != other
    assert len({result, other, result.mask, other.mask, result.maps, result.refined.picture}) == 6
    assert copy.copy(result).mask is result.mask
    assert np.array_equal(copy.deepcopy(result).image, result.image)


def test_shares_sum_to_one_and_are_told(result, scenes):
    assert sum(result.shares.values()) == pytest.approx(1)
    assert result.names == tuple(scenes[0][1])
    labels = result.mask.labels
    assert result.shares["background"] == pytest.approx((labels == 0).mean())
    assert f"{result.shares['background']:.1%}" in repr(result)
    assert f"{labels.shape[1]} x {labels.shape[0]}" in repr(result)


def test_the_plot_is_the_overlay_above_a_legend(result):
    sheet = result.plot()
    height, width = result.mask.labels.shape
    assert sheet.height > height
    left = (sheet.width - width) // 2
    assert np.array_equal(np.asarray(sheet)[:height, left : left + width], result.overlay)
    assert Image.open(io.BytesIO(result._repr_png_())).size == sheet.size


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_coco_tells_every_pixel_of_every_class(result):
    pytest.importorskip("pycocotools")
    from pycocotools import mask as api

    told = json.loads(json.dumps(result.to_coco(image_number=7, file_name="a.jpg")))
    height, width = result.mask.labels.shape
    assert told["images"] == [{"id": 7, "file_name": "a.jpg", "height": height, "width": width}]
    painted = np.zeros_like(result.mask.labels)
    for row in told["annotations"]:
        inside = api.decode({**row["segmentation"], "counts": row["segmentation"]["counts"].encode()}).astype(bool)
        painted[inside] = row["category_id"]
        assert row["area"] == inside.sum()
    assert np.array_equal(painted, result.mask.labels)
    assert [row["name"] for row in told["categories"]][: len(result.vocabulary)] == list(result.vocabulary)


def test_supervision_has_a_detection_for_each_class_that_has_pixels(result):
    pytest.importorskip("supervision")
    found = result.to_supervision()
    labels = result.mask.labels
    assert len(found) == len([k for k in result.mask.class_ids if (labels == k + 1).any()])
    assert found.mask is not None
    for mask, k, name, box in zip(found.mask, found.class_id, found.data["class_name"], found.xyxy, strict=True):
        assert np.array_equal(mask, labels == k + 1)
        assert name == result.vocabulary[k]
        y, x = np.nonzero(mask)
        assert box.tolist() == [x.min(), y.min(), x.max(), y.max()]
