"""From maps to labels, by hand; and masks as files."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from recorded import GOLDEN, RECORDED, recorded

from clip_es.config.run import MaskConfig
from clip_es.errors import DataError, ShapeError
from clip_es.masks import (
    decide,
    label_scores,
    palette,
    read_confidence,
    read_mask,
    write_confidence,
    write_mask,
)
from clip_es.types import ClassMaps


def maps_of(*rows, class_ids=(0,), background=None):
    """Maps one pixel high, one row of numbers for each class."""
    return ClassMaps(
        torch.tensor([[row] for row in rows]), class_ids, None if background is None else torch.tensor([background])
    )


def labels(maps, **config):
    return decide(tuple(maps.scores.shape[1:]), maps, MaskConfig(**config))


def test_the_strongest_label_wins_and_background_wins_ties():
    maps = maps_of([0.6, 0.5, 0.4, 0.1], [0.2, 0.1, 0.7, 0.7], class_ids=(7, 2))
    made = labels(maps)
    assert made.labels.tolist() == [[8, 0, 3, 3]]
    assert made.confidence[0].tolist() == pytest.approx([0.6 / 1.2, 0.5 / 1.1, 0.7 / 1.4, 0.7 / 1.1])


def test_between_classes_the_first_listed_wins_a_tie():
    assert labels(maps_of([0.75], [0.75], class_ids=(9, 3))).labels.tolist() == [[10]]


@pytest.mark.parametrize(("power", "limit"), [(1.0, 0.5), (2.0, 0.3820), (3.0, 0.3177), (4.0, 0.2755)])
def test_a_power_of_the_background_is_a_threshold_on_the_maps(power, limit):
    made = labels(maps_of([limit - 0.001, limit + 0.001]), background_power=power)
    assert made.labels.tolist() == [[0, 1]]


def test_where_every_pixel_has_a_class_background_wins_none():
    maps = maps_of([0.6, 0.2, 0.0], [0.2, 0.1, 0.0], class_ids=(7, 2))
    made = labels(maps, background=False)
    assert made.labels.tolist() == [[8, 8, 8]]
    assert made.confidence[0].tolist() == pytest.approx([0.75, 2 / 3, 0])
    sure = labels(maps_of([0.04, 0.29], [0.01, 0.01], class_ids=(7, 2), background=[0.95, 0.7]), background=False)
    assert sure.decided.tolist() == [[8, 8]]
    assert sure.labels.tolist() == [[255, 8]]


def test_a_picture_without_any_class_stays_background():
    empty = ClassMaps(torch.zeros(0, 1, 2), ())
    assert labels(empty, background=False).labels.tolist() == [[0, 0]]


def test_probabilities_of_a_refiner_are_taken_as_they_are():
    maps = maps_of([0.04, 0.97, 0.5], background=[0.96, 0.03, 0.5])
    made = labels(maps)
    assert made.labels.tolist() == [[0, 1, 255]]
    assert made.decided.tolist() == [[0, 1, 0]]
    assert made.confidence[0].tolist() == pytest.approx([0.96, 0.97, 0.5])


def test_exactly_the_threshold_is_sure_enough():
    maps = maps_of([0.75, 0.74], background=[0.25, 0.26])
    assert labels(maps, threshold=0.75).labels.tolist() == [[1, 255]]


def test_without_a_crf_nothing_is_undecided_unless_asked_for():
    maps = maps_of([0.51, 0.9])
    assert labels(maps).labels.tolist() == [[1, 1]]
    assert labels(maps, threshold=0.6).labels.tolist() == [[255, 1]]
    assert labels(maps, threshold=0.6).decided.tolist() == [[1, 1]]


def test_labels_come_from_the_image_alone():
    maps = ClassMaps(torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0)), (19, 4, 11))
    made = decide((50, 60), maps, MaskConfig(threshold=0.4))
    assert set(np.unique(made.labels)) <= {0, 20, 5, 12, 255}
    assert made.labels.shape == made.confidence.shape == made.decided.shape == (50, 60)
    assert 0 <= made.confidence.min() <= made.confidence.max() <= 1


def test_without_labels_everything_is_background_for_sure():
    made = decide((3, 4), ClassMaps(torch.zeros(0, 1, 1), ()), MaskConfig())
    assert (made.labels == 0).all()
    assert (made.confidence == 1).all()


def test_half_precision_compares_what_was_saved():
    maps = maps_of([0.50001])
    assert labels(maps).labels.item() == 1
    assert labels(maps, half=True).labels.item() == 0, "0.50001 is 0.5 in float16, and background wins the tie"
    assert label_scores(maps, 1.0, half=True).dtype == np.float16
    known = maps_of([0.50001], background=[0.49999])
    assert label_scores(known, 1.0, half=True).dtype == np.float32, "probabilities stay as they are"


def test_a_class_that_an_8_bit_mask_cannot_hold_is_refused():
    with pytest.raises(ShapeError, match="8-bit"):
        labels(maps_of([0.9], class_ids=(254,)))
    assert labels(maps_of([0.9], class_ids=(253,))).labels.item() == 254


@pytest.mark.parametrize("name", RECORDED)
def test_labels_without_a_crf_equal_the_published_ones(name):
    arrays = recorded(name)
    maps = ClassMaps(torch.from_numpy(arrays["attn_highres_f16"].astype(np.float32)), tuple(arrays["keys"].tolist()))
    for power in (1.0, 2.0):
        made = labels(maps, half=True, background_power=power)
        assert np.array_equal(made.labels, arrays[f"label_a{power:.0f}"])
        if f"bg_score_a{power:.0f}_f16" in arrays:
            background = label_scores(maps, power, half=True)[:1]
            assert np.array_equal(background, arrays[f"bg_score_a{power:.0f}_f16"])


def test_the_palette_is_vocs():
    colours = palette()
    assert colours[:4].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert colours[15].tolist() == [192, 128, 128]
    assert colours[20].tolist() == [0, 64, 128]
    assert colours[255].tolist() == [224, 224, 192]
    assert len({tuple(c) for c in colours.tolist()}) == 256


def test_a_mask_comes_back_as_it_was_written(tmp_path):
    written = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_mask(tmp_path / "a.png", written)
    assert np.array_equal(read_mask(tmp_path / "a.png"), written)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        stored = image.getpalette()
    assert stored is not None
    assert stored == palette().flatten().tolist()


def test_a_mask_can_be_written_to_an_open_file(tmp_path):
    file = io.BytesIO()
    write_mask(file, np.full((1, 1), 255, np.uint8))
    (tmp_path / "a.png").write_bytes(file.getvalue())
    assert read_mask(tmp_path / "a.png").tolist() == [[255]]


def test_grey_and_small_palette_masks_are_read(tmp_path):
    values = np.array([[0, 1, 3]], dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "grey.png")
    image = Image.fromarray(values)
    image.putpalette([0, 0, 0, 9, 9, 9, 5, 5, 5, 7, 7, 7])
    image.save(tmp_path / "small.png", bits=2)
    assert read_mask(tmp_path / "grey.png").tolist() == values.tolist()
    assert read_mask(tmp_path / "small.png").tolist() == values.tolist()


def test_published_ground_truth_is_read():
    truth = read_mask(GOLDEN / "astronaut_150x131/gt.png")
    assert truth.shape == (150, 131)
    assert 255 in truth


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1"])
def test_pictures_that_are_no_masks_are_refused_with_advice(tmp_path, mode):
    Image.new(mode, (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="one number for each pixel") as caught:
        read_mask(tmp_path / "a.png")
    assert caught.value.expected == "a palette or 8 bits of grey"


def test_a_mask_of_16_bits_is_refused_where_8_are_taken(tmp_path):
    Image.new("I;16", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="Found 16 bits, grey"):
        read_mask(tmp_path / "a.png")


def test_bad_mask_files_are_refused(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(DataError, match="cannot be opened"):
        read_mask(path)
    with pytest.raises(DataError, match="cannot be opened"):
        read_mask(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="0 bytes"):
        read_mask(path)
    Image.new("RGB", (4, 4)).save(path, format="JPEG")
    with pytest.raises(DataError, match="must be a PNG"):
        read_mask(path)
    write_mask(path, np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(DataError, match="damaged"):
        read_mask(path)


def test_confidence_is_kept_to_half_a_grey_level(tmp_path):
    confidence = np.linspace(0, 1, 1000, dtype=np.float32).reshape(10, 100)
    write_confidence(tmp_path / "c.png", confidence)
    read = read_confidence(tmp_path / "c.png")
    assert read.dtype == np.float32
    assert np.abs(read - confidence).max() <= 1 / 510 + 1e-6
    assert read[0, 0] == 0
    assert read[-1, -1] == 1


def test_a_mask_is_no_confidence(tmp_path):
    write_mask(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="not a confidence"):
        read_confidence(tmp_path / "a.png")
