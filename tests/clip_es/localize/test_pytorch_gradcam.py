"""pytorch-grad-cam: the independent oracle of our GradCAM, and the source of its variants."""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import sys
import types
import warnings

import numpy as np
import pytest
import torch

from clip_es.config.run import LocalizeConfig
from clip_es.encoder import CLIP, Encoder, TowerSizes, build_encoder
from clip_es.errors import ConfigError
from clip_es.localize import localize
from clip_es.localize.gradcam.closed_form import Tail
from clip_es.localize.gradcam.localizer import _question
from clip_es.types import EncodedImage, TextBank

VARIANTS = ["hirescam", "layercam", "gradcam++", "xgradcam", "eigengradcam"]
LABELS = (2, 0)


@pytest.fixture(scope="module")
def library() -> types.ModuleType:
    """pytorch_grad_cam, imported beside a stand-in for the few torchvision names it looks up and we never call.

    The stand-in is gone again after the import: transformers, for one, would take it for the real thing.
    """
    if importlib.util.find_spec("torchvision"):
        return importlib.import_module("pytorch_grad_cam")
    names = {
        "torchvision": (),
        "torchvision.ops": ("box_iou",),
        "torchvision.transforms": ("Compose", "Normalize", "ToTensor"),
        "torchvision.transforms.functional": ("resize",),
    }
    for name, attributes in names.items():
        sys.modules[name] = types.ModuleType(name)
        for attribute in attributes:
            setattr(sys.modules[name], attribute, None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("pytorch_grad_cam")
    finally:
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def scene() -> tuple[Encoder, EncodedImage, TextBank]:
    torch.manual_seed(5)
    encoder = build_encoder(CLIP(TowerSizes(8, 128, 3, 4, 16, 32, 1, vocab=49408)).state_dict(), device="cpu")
    pixels = np.random.default_rng(1).integers(0, 256, (40, 24, 3), dtype=np.uint8)
    vectors = torch.nn.functional.normalize(torch.randn(7, 16), dim=-1)
    return encoder, encoder.encode([pixels])[0], TextBank(tuple("abcdefg"), vectors, 4, "seeded")


@pytest.mark.parametrize("softmax", [True, False])
def test_gradcam_of_the_library_is_ours(softmax, scene, library):
    encoder, seen, bank = scene
    config = LocalizeConfig(softmax=softmax)
    ours = localize(encoder, seen, bank, LABELS, config)

    # The library on its own terms: a model from tokens to scores, ln_1 as target layer, one target after the other.
    tail = Tail(encoder.model.visual, seen.tokens[None], _question(encoder, bank, LABELS, config))
    tail.requires_grad_(True)
    try:
        with library.GradCAM(
            tail, [tail.block.ln_1], reshape_transform=lambda y: y[:, 1:].mT.reshape(1, -1, 5, 3)
        ) as cam:
            cam.get_target_width_height = lambda _: (3, 5)
            for index in range(2):
                target = library.utils.model_targets.ClassifierOutputTarget(index)
                theirs = torch.from_numpy(cam(seen.tokens[None].clone().requires_grad_(), [target]))[0]
                torch.testing.assert_close(ours.maps.scores[index], theirs, rtol=0, atol=1e-5)
                weights = cam.activations_and_grads.gradients[0].mean((2, 3))[0]
                torch.testing.assert_close(ours.weights[index], weights, rtol=1e-4, atol=1e-8)
    finally:
        tail.requires_grad_(False)


def field(scene: tuple[Encoder, EncodedImage, TextBank]) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient [label patch channel] and activation [patch channel] at ln_1, by plain autograd."""
    encoder, seen, bank = scene
    tail = Tail(encoder.model.visual, seen.tokens[None], _question(encoder, bank, LABELS, LocalizeConfig()))
    y = tail.block.ln_1(seen.tokens[None]).detach().requires_grad_()
    scores = tail.after(y)[0]
    gradients = [torch.autograd.grad(scores[k], y, retain_graph=True)[0][0, 1:] for k in range(2)]
    return torch.stack(gradients), y.detach()[0, 1:]


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_give_maps_of_their_own(variant, scene, library):
    found = localize(*scene, LABELS, LocalizeConfig(variant=variant))
    assert found.maps.scores.shape == (2, 5, 3)
    assert found.weights is None
    gradcam = localize(*scene, LABELS)
    torch.testing.assert_close(found.scores, gradcam.scores, rtol=0, atol=1e-6)
    assert not torch.allclose(found.maps.scores, gradcam.maps.scores, atol=1e-3)


def test_variants_are_their_formulas(scene, library):
    gradient, y = field(scene)

    def raw(variant: str) -> torch.Tensor:
        return localize(*scene, LABELS, LocalizeConfig(variant=variant)).raw.flatten(1)

    def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))

    close(raw("hirescam"), (gradient * y).sum(-1))
    close(raw("layercam"), (gradient.clamp(min=0) * y).sum(-1))
    close(raw("xgradcam"), ((gradient * y / (y.sum(0) + 1e-7)).sum(1)[:, None] * y).sum(-1))


def test_the_librarys_gradcam_through_our_adapter_is_the_closed_form(scene, library):
    from clip_es.localize.gradcam.variants import explain_variant

    encoder, seen, bank = scene
    answer = explain_variant("gradcam", encoder.model.visual, seen, _question(encoder, bank, LABELS, LocalizeConfig()))
    ours = localize(*scene, LABELS).raw.flatten(1)
    torch.testing.assert_close(ours, answer.raw, rtol=0, atol=1e-5 * float(ours.abs().max()))


def test_a_variant_without_labels_is_no_map(scene, library):
    assert localize(*scene, (), LocalizeConfig(variant="hirescam")).maps.scores.shape == (0, 5, 3)


def test_the_stand_in_is_gone_after_the_import(library):
    assert library.__name__ in sys.modules
    stand_ins = [name for name, module in sys.modules.items() if name.startswith("torchvision") and not module.__spec__]
    assert stand_ins == []


def test_a_missing_library_names_the_extra(scene, monkeypatch):
    plain = builtins.__import__

    def without(name: str, *rest, **more):
        if name.startswith("pytorch_grad_cam"):
            raise ModuleNotFoundError("No module named 'torchvision'")
        return plain(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"torchvision.*clip-es\[gradcam\]"):
        localize(*scene, LABELS, LocalizeConfig(variant="layercam"))
