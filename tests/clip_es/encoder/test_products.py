"""Products in float32 by oneDNN: the numbers of torch's own, and where they are used."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from clip_es.config.run import EncoderConfig
from clip_es.encoder import CLIP, TowerSizes, build_encoder, products
from clip_es.encoder.products import plain_linear, quick_linear
from clip_es.encoder.vit import SelfAttention
from clip_es.localize.gradcam.closed_form import Question, explain

SIZES = TowerSizes(patch=8, width=128, layers=3, grid=4, embed=32, text_width=64, text_layers=1)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 48), (2, 5, 48), (3, 2, 5, 48), (0, 48)])
def test_a_product_by_onednn_is_torchs_but_for_rounding(shape, bias):
    x, weight, added = drawn(*shape), drawn(20, 48, seed=1), drawn(20, seed=2) if bias else None
    torch.testing.assert_close(quick_linear(x, weight, added), F.linear(x, weight, added), atol=1e-4, rtol=1e-5)


def test_a_transposed_weight_multiplies_the_other_way():
    x, weight = drawn(5, 20), drawn(20, 48, seed=1)
    torch.testing.assert_close(quick_linear(x, weight.T), x @ weight, atol=1e-4, rtol=1e-5)


def test_other_numbers_than_float32_are_torchs_own():
    x, weight = drawn(5, 48).double(), drawn(20, 48, seed=1).double()
    assert torch.equal(quick_linear(x, weight), F.linear(x, weight))


def test_without_onednn_torch_multiplies(monkeypatch):
    monkeypatch.setattr(products, "_one_dnn", None)
    x, weight = drawn(5, 48), drawn(20, 48, seed=1)
    assert torch.equal(quick_linear(x, weight), F.linear(x, weight))


def test_this_torch_has_the_product_of_onednn():
    """Its name stands in no documentation; without it all would be right, and slower."""
    assert not torch.backends.mkldnn.is_available() or products._one_dnn is not None


def test_the_last_block_is_explained_alike_by_both():
    torch.manual_seed(0)
    visual = CLIP(SIZES).visual.requires_grad_(False)
    tokens = drawn(13, 128)
    text = F.normalize(drawn(6, 32, seed=1), dim=-1)
    queries, keys, _ = visual.transformer.blocks[-1].attn.project(visual.transformer.blocks[-1].ln_1(tokens))
    question = Question(text, 2, scale=20.0, softmax=True)
    attention = SelfAttention.weights(queries, keys)
    quick = explain(visual, tokens, attention, question, quick_linear)
    plain = explain(visual, tokens, attention, question)
    assert float((quick.raw - plain.raw).norm() / plain.raw.norm()) < 1e-4
    torch.testing.assert_close(quick.scores, plain.scores, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "linear"),
    [({}, plain_linear), ({"dtype": "bfloat16"}, quick_linear), ({"engine": "onnx"}, quick_linear)],
)
def test_torch_in_float32_keeps_the_products_it_always_had(settings, linear):
    torch.manual_seed(0)
    encoder = build_encoder(CLIP(SIZES).state_dict(), device="cpu", config=EncoderConfig(**settings))
    assert encoder.linear is linear
