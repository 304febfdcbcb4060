"""Pooled features: computed once for each picture and weights, and never stale."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clip_es.config.run import EncoderConfig, ImageConfig
from clip_es.encoder import CLIP, Encoder, TowerSizes, build_encoder
from clip_es.errors import DataError
from clip_es.images import read_picture
from clip_es.localize import pooled_embedding
from clip_es.pipelines.sweep.features import FeatureCache, digest, pooled_features
from clip_es.pipelines.sweep.sweep import quiet
from clip_es.types import ImageRecord

SIZES = TowerSizes(patch=16, width=64, layers=2, grid=4, embed=32, text_width=64, text_layers=1)


def tiny(seed: int = 0, config: EncoderConfig | None = None) -> Encoder:
    torch.manual_seed(seed)
    return build_encoder(CLIP(SIZES).state_dict(), device="cpu", config=config or EncoderConfig())


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return tiny()


@pytest.fixture
def record(tmp_path: Path) -> ImageRecord:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)).save(path)
    return ImageRecord("a", path, (0, 1))


def test_a_feature_is_the_pooled_embedding(encoder, record, tmp_path):
    vector, new = FeatureCache(encoder, ImageConfig(), tmp_path / "cache")(record)
    picture = read_picture(record, 16, ImageConfig())
    assert new
    assert torch.allclose(vector, pooled_embedding(encoder, encoder.encode([picture.patches])[0]), atol=1e-6)
    assert float(vector.norm()) == pytest.approx(1, abs=1e-5)


def test_a_second_call_reads_what_the_first_wrote(encoder, record, tmp_path, monkeypatch):
    first, _ = FeatureCache(encoder, ImageConfig(), tmp_path / "cache")(record)
    monkeypatch.setattr(Encoder, "encode", lambda *_: pytest.fail("encoded again"))
    second, new = FeatureCache(encoder, ImageConfig(), tmp_path / "cache")(record)
    assert not new
    assert torch.equal(first, second)


def test_the_name_and_place_of_a_picture_do_not_matter(encoder, record, tmp_path):
    cache = FeatureCache(encoder, ImageConfig(), tmp_path / "cache")
    cache(record)
    moved = tmp_path / "elsewhere.png"
    shutil.copy(record.path, moved)
    assert not cache(ImageRecord("b", moved, (2,)))[1]


def test_a_changed_picture_is_computed_again(encoder, record, tmp_path):
    cache = FeatureCache(encoder, ImageConfig(), tmp_path / "cache")
    cache(record)
    Image.new("RGB", (56, 40), "red").save(record.path)
    assert cache(record)[1]


@pytest.mark.parametrize("what", ["weights", "precision", "image settings"])
def test_other_weights_and_settings_have_features_of_their_own(encoder, record, tmp_path, what):
    FeatureCache(encoder, ImageConfig(), tmp_path / "cache")(record)
    other = {"weights": tiny(1), "precision": tiny(0, EncoderConfig(half_weights=False))}.get(what, encoder)
    config = ImageConfig(exif=False) if what == "image settings" else ImageConfig()
    assert FeatureCache(other, config, tmp_path / "cache")(record)[1]


def test_the_stated_size_counts_where_it_decides(encoder, record, tmp_path):
    cache = FeatureCache(encoder, ImageConfig(size_from="annotation"), tmp_path / "cache")
    cache(replace(record, size_hw=(40, 56)))
    assert cache(replace(record, size_hw=(64, 64)))[1]
    assert not cache(replace(record, size_hw=(40, 56)))[1]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 torn", b"\x93NUMPY"])
def test_a_damaged_file_is_computed_again(encoder, record, tmp_path, damage):
    cache = FeatureCache(encoder, ImageConfig(), tmp_path / "cache")
    whole, _ = cache(record)
    (file,) = cache.saved.folder.iterdir()
    file.write_bytes(damage)
    again, new = cache(record)
    assert new
    assert torch.equal(again, whole)


def test_an_unreadable_picture_is_reported_and_the_others_go_on(encoder, record, tmp_path):
    torn = tmp_path / "torn.jpg"
    torn.write_bytes(b"\xff\xd8\xff\xe0 torn")
    gone = ImageRecord("gone", tmp_path / "gone.jpg", (0, 1))
    cache = FeatureCache(encoder, ImageConfig(), tmp_path / "cache")
    found = pooled_features([ImageRecord("torn", torn, (0, 1)), record, gone], cache, quiet)
    assert [kept.image_id for kept in found.records] == ["a"]
    assert [(p.image_id, p.stage) for p in found.problems] == [("torn", "features"), ("gone", "features")]
    with pytest.raises(DataError, match="none of the pictures can be read"):
        pooled_features([gone], cache, quiet)


def test_digests_do_not_run_into_one_another():
    assert digest(b"ab", b"c") != digest(b"a", b"bc")
