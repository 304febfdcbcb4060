"""The DINO refiner: its weights by hand, tiny models of transformers' own classes, and its place in a run."""

import json
import pickle

import numpy as np
import pytest
import torch

from clip_es.config.run import DEFAULT, DinoConfig, RunConfig, SpectralConfig
from clip_es.errors import ConfigError, WeightsError
from clip_es.pipelines.cli import main
from clip_es.refine.dino import Dino, carry, load_dino, weights
from clip_es.refine.spectral import SpectralRefiner
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.types import ClassMaps, EncodedImage, Picture

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 32}


@pytest.fixture(scope="module", params=["vit", "dinov2"])
def folder(request, tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if request.param == "vit":
        model = transformers.ViTModel(transformers.ViTConfig(**SIZES, intermediate_size=32), add_pooling_layer=False)
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**SIZES, mlp_ratio=2))
    path = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(path)
    return path


def picture(height=40, width=56):
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Picture("one", rgb, np.ascontiguousarray(rgb[:32, :48]), 16)


def seen():
    return EncodedImage(torch.zeros(7, 4), torch.zeros(6, 6), torch.zeros(1, 7, 7), (2, 3))


def test_patches_that_look_alike_share_and_others_do_not():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    found = weights(features, DinoConfig(model="x"))
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]))


def test_weights_are_the_published_formula_by_hand():
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    mean = (3 + 2 * (0.6 + 0.8 + 0.0)) / 9
    logits = [[3 * (c - 1.2 * mean) for c in row] for row in ([1, 0.6, 0], [0.6, 1, 0.8], [0, 0.8, 1])]
    by_hand = torch.tensor([[np.exp(x) if x >= 0 else 0 for x in row] for row in logits], dtype=torch.float32)
    torch.testing.assert_close(weights(features, DinoConfig(model="x")), by_hand / by_hand.sum(1, keepdim=True))


def test_a_picture_of_one_colour_keeps_its_maps():
    """All cosines are 1, below 1.2 times their mean: nobody counts, so every patch is alone."""
    maps = torch.rand(2, 2, 3)
    torch.testing.assert_close(carry(maps, torch.ones(4, 2, 3), DinoConfig(model="x")), maps)


def test_features_are_those_of_the_model(folder):
    dino = Dino(folder, DinoConfig(model=str(folder)))
    rgb = picture(32, 32).rgb
    pixels = torch.from_numpy(rgb).movedim(-1, 0)[None].float() / 255
    pixels = (pixels - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    with torch.no_grad():
        hidden = load_dino(folder)(pixel_values=pixels).last_hidden_state[0]
    assert hidden.shape == (17, 16)  # the class token, then 4 x 4 patches
    torch.testing.assert_close(dino.features(rgb).flatten(1).T, hidden[1:], atol=1e-5, rtol=1e-4)


def test_any_size_of_picture_and_maps(folder):
    dino = Dino(folder, DinoConfig(model=str(folder)))
    maps = ClassMaps(torch.rand(2, 2, 3), (3, 1))
    refined = dino(picture(), seen(), maps)
    assert refined.scores.shape == (2, 5, 7)
    assert refined.class_ids == (3, 1)
    assert Dino(folder, DinoConfig(model=str(folder), max_patches=6)).features(picture().rgb).shape[1:] == (2, 2)
    copy = pickle.loads(pickle.dumps(dino))
    assert torch.equal(copy(picture(), seen(), maps).scores, refined.scores)


def test_its_features_can_cut_the_segments(folder):
    maps = ClassMaps(torch.rand(1, 2, 3), (0,))
    config = SpectralConfig(features=str(folder), colours="none", amount=1.0, segments=2)
    pooled = SpectralRefiner(config)(picture(), seen(), maps).scores
    assert len(pooled.unique()) == 2


def test_a_run_with_it(folder, tmp_path):
    root = make(tmp_path / "scenes", ScenesConfig(train=1, val=1, side=(64, 80)))
    flags = ["--root", str(root), "--out", str(tmp_path / "run"), "--report-pictures", "0"]
    flags += ["--refine", "affinity", "dino", "--refine.dino.model", str(folder)]
    assert main(["masks", "scenes", *flags]) == 0
    assert "dino" in json.loads((tmp_path / "run/summary.json").read_text())["seconds"]


def test_what_is_no_dino_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"--refine\.dino\.model"):
        RunConfig(refine=("dino",))
    with pytest.raises(WeightsError, match=r"no config\.json"):
        load_dino(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(WeightsError, match="model_type bert"):
        load_dino(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load_dino(tmp_path)


def test_a_missing_library_names_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ConfigError, match="extra `diffusion`"):
        load_dino(tmp_path)
    assert DEFAULT.refiners.spectral.features == "clip"
