"""One test for each sentence at the head of clip_es/types.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clip_es.config.run import DEFAULT, MaskConfig
from clip_es.encoder import CLIP, Encoder, TowerSizes, build_encoder
from clip_es.errors import DataError, ShapeError
from clip_es.images import buckets, read_picture
from clip_es.localize import localize
from clip_es.masks import decide, palette, read_mask, read_wide_mask, write_mask
from clip_es.refine.affinity import box_mask, boxes
from clip_es.types import (
    UNDECIDED,
    UNDECIDED_WIDE,
    ClassMaps,
    EncodedImage,
    ImageRecord,
    Picture,
    PseudoMask,
    TextBank,
)

TALL = (48, 16)
"""Height and width in pixels: three patches of 16, one above the other."""


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    sizes = TowerSizes(
        patch=16, width=64, layers=2, grid=3, embed=16, text_width=64, text_layers=1, context=16, vocab=64
    )
    return build_encoder(CLIP(sizes).state_dict(), device="cpu")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(tmp_path: Path, pixels: np.ndarray) -> ImageRecord:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return ImageRecord("a", tmp_path / "a.png", (0,))


def test_sizes_are_height_then_width(tmp_path, encoder):
    picture = read_picture(saved(tmp_path, noise(*TALL)), 16, DEFAULT.image)
    assert picture.size_hw == TALL
    assert picture.grid_hw == (3, 1)
    assert encoder.encode([picture.patches])[0].grid_hw == (3, 1)
    maps = ClassMaps(torch.rand(1, 3, 1), (0,))
    assert decide(TALL, maps, MaskConfig()).labels.shape == TALL


def test_pictures_are_rgb_uint8(tmp_path):
    red = np.zeros((*TALL, 3), dtype=np.uint8)
    red[..., 0] = 200
    picture = read_picture(saved(tmp_path, red), 16, DEFAULT.image)
    assert picture.rgb.dtype == picture.patches.dtype == np.uint8
    assert np.array_equal(picture.rgb, red)
    with pytest.raises((ShapeError, TypeError), match="rgb"):  # TypeError in the run that checks every annotation.
        Picture("a", red.astype(np.float32), red, 16)


def test_boxes_are_x0_y0_x1_y1_with_the_end_excluded():
    patches = torch.zeros(1, 4, 5)
    patches[0, 1:3, 2:5] = 1  # Rows 1 and 2, columns 2 to 4.
    (found,) = boxes(patches, 0.4)
    assert found.tolist() == [[2, 1, 5, 3]]
    assert torch.equal(box_mask(patches, 0.4), patches.bool())


def test_a_patch_grid_is_row_major(encoder):
    # One patch changes; without attention between them only its own token would. Here it changes most.
    plain, changed = noise(32, 48), noise(32, 48)
    changed[16:32, 0:16] = 255 - changed[16:32, 0:16]  # Second row, first column: index 1 * 3 + 0.
    before, after = (encoder.encode([picture])[0].tokens[1:] for picture in (plain, changed))
    assert int((after - before).norm(dim=1).argmax()) == 3


def test_the_class_token_is_row_0(encoder):
    seen = encoder.encode([noise(32, 48)])[0]
    assert len(seen.tokens) == 1 + 6
    assert tuple(seen.attention.shape) == (6, 6)
    assert tuple(seen.last_attention.shape[-2:]) == (7, 7)
    # It alone does not move with the picture's content before the first block.
    embed = encoder.model.visual.embed
    first, second = (
        embed(torch.from_numpy(noise(32, 48, seed)).permute(2, 0, 1)[None] / 255, encoder.positions((2, 3)))[0]
        for seed in (1, 2)
    )
    same = torch.isclose(first, second).all(dim=1).tolist()
    assert same == [True] + [False] * 6


def test_class_ids_are_0_based_and_unique():
    assert ImageRecord("a", Path("a.jpg"), (0, 19)).class_ids == (0, 19)
    for wrong in ((-1,), (3, 3)):
        with pytest.raises(DataError, match="unique and not negative"):
            ImageRecord("a", Path("a.jpg"), wrong)


def test_in_a_mask_0_is_background_k_plus_1_is_class_k_and_255_is_undecided(tmp_path):
    # Class 4 is sure on the left, nothing is on the right, and in the middle it is a draw that stays open.
    maps = ClassMaps(torch.tensor([[[0.9, 0.55, 0.0]]]), (4,))
    mask = decide((1, 3), maps, MaskConfig(threshold=0.8))
    assert mask.labels.tolist() == [[5, 255, 0]]
    assert mask.decided.tolist() == [[5, 5, 0]]
    write_mask(tmp_path / "a.png", mask.labels)
    assert read_mask(tmp_path / "a.png").tolist() == [[5, UNDECIDED, 0]]
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        assert image.convert("RGB").getpixel((0, 0)) == tuple(palette()[5])


def test_a_mask_of_more_than_254_classes_is_uint16_where_65535_is_undecided(tmp_path):
    decided = np.array([[0, 300, 10_000]], dtype=np.uint16)
    labels = np.array([[0, UNDECIDED_WIDE, 10_000]], dtype=np.uint16)
    mask = PseudoMask(labels, np.ones((1, 3), dtype=np.float32), tuple(range(10_000)), decided)
    write_mask(tmp_path / "m.png", mask.labels)
    assert read_wide_mask(tmp_path / "m.png").tolist() == [[0, 65535, 10_000]]
    with pytest.raises(DataError, match=r"Found 16 bits, grey. This command takes masks of up to 254 classes"):
        read_mask(tmp_path / "m.png")
    write_mask(tmp_path / "narrow.png", np.array([[3, 255]], dtype=np.uint8))
    assert read_wide_mask(tmp_path / "narrow.png").tolist() == [[3, 65535]]
    with pytest.raises(ShapeError, match="only the labels of its picture"):
        PseudoMask(labels, np.ones((1, 3), dtype=np.float32), (299,), decided)


def test_in_a_mask_only_the_labels_of_the_picture_occur():
    labels = np.array([[0, 3]], dtype=np.uint8)
    with pytest.raises(ShapeError, match="only the labels"):
        PseudoMask(labels, np.ones((1, 2), dtype=np.float32), (1,), labels)


def test_a_batch_is_a_list_of_pictures_of_one_grid_size(encoder):
    pictures = [Picture(str(n), noise(*size), noise(*size), 16) for n, size in enumerate([(16, 32), TALL, (16, 32)])]
    assert [[p.image_id for p in batch] for batch in buckets(pictures, 2)] == [["0", "2"], ["1"]]
    with pytest.raises(ShapeError):
        encoder.encode([picture.patches for picture in pictures])


def test_a_batch_of_one_gives_the_same_bytes_as_a_batch_of_many(encoder):
    many = [noise(32, 48, seed) for seed in range(5)]
    together = encoder.encode(many)
    alone = [encoder.encode([picture])[0] for picture in many]
    bank = TextBank(("a", "b", "c"), torch.eye(16)[:3].contiguous(), 2, "test")

    def everything(seen: EncodedImage) -> list[bytes]:
        found = localize(encoder, seen, bank, (0, 1), DEFAULT.methods.localize)
        arrays = (seen.tokens, seen.attention, seen.last_attention, found.maps.scores)
        return [array.numpy().tobytes() for array in arrays]

    for one, other in zip(together, alone, strict=True):
        assert everything(one) == everything(other)
