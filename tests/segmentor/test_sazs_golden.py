"""Every recorded case of the published SAZS, with weights made by the rule of the recording."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clip_es.segmentor.losses.edges import balanced_edge_loss, edge_attention_loss, edge_targets, joint_edge_loss
from clip_es.segmentor.losses.shape import InverseNet, InverseNetDistance, inverse_net
from clip_es.segmentor.models.dpt import Dpt, read_dpt, resize_positions
from clip_es.segmentor.models.drn import DrnPyramid, read_drn
from clip_es.segmentor.models.pixel_text import pixel_text_logits, poly_lr, resize_scores

GOLDEN = Path(__file__).parents[1] / "golden" / "sazs"
SCALARS = json.loads((GOLDEN / "scalars.json").read_text())


def load(case: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"{case}.npz", allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The recording's numbers in [-1, 1) for a name."""
    with np.errstate(over="ignore"):
        x = np.arange(int(np.prod(shape)), dtype=np.uint64) * np.uint64(6364136223846793005)
        x += (np.uint64(zlib.crc32(name.encode())) + np.uint64(1)) * np.uint64(1442695040888963407)
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            x ^= x >> np.uint64(33)
            x *= np.uint64(factor)
        x ^= x >> np.uint64(33)
    return (2 * ((x >> np.uint64(11)).astype(np.float64) / 2**53) - 1).reshape(shape)


def published_state(module: nn.Module, prefix: str = "", norm_gain: float = 1.0) -> dict[str, Tensor]:
    """A state dict with the module's own names behind `prefix`, filled by the rule."""
    norms = {name for name, part in module.named_modules() if isinstance(part, nn.BatchNorm2d)}
    strides = {name: part.stride[0] for name, part in module.named_modules() if isinstance(part, nn.ConvTranspose2d)}
    state = {}
    for key, value in module.state_dict().items():
        place, leaf = key.rsplit(".", 1)
        if leaf == "num_batches_tracked":
            continue
        v, shape = uniform(prefix + key, tuple(value.shape)), value.shape
        if leaf == "running_var":
            v = 1 + 0.25 * v
        elif leaf == "running_mean" or leaf == "bias":
            v = 0.1 * v
        elif place in norms:
            v = (0.9 + 0.1 * v) * norm_gain
        else:
            stride = strides.get(place)
            fan_in = shape[0] * shape[2] * shape[3] / stride**2 if stride else np.prod(shape[1:])
            v = v * np.sqrt(3 / fan_in)
        state[prefix + key] = torch.from_numpy(v.astype(np.float32))
    return state


@pytest.fixture(scope="module")
def recorded():
    return load("align_and_losses")


@pytest.fixture(scope="module")
def small_net():
    return inverse_net(published_state(InverseNet(12, (40, 16)), "inversenet."))


def close(found, expected, rel=1e-5):
    torch.testing.assert_close(found.detach(), expected, rtol=rel, atol=rel * max(1e-3, float(expected.abs().max())))


def test_logits_are_plain_products_of_features_and_text_rows(recorded):
    for b in range(2):
        logits = pixel_text_logits(recorded["feat"][b : b + 1], recorded["text"][b])
        close(logits[0], recorded["logits"][b])
        close(logits.log_softmax(1)[0], recorded["logp"][b])


@pytest.fixture
def terms(recorded, small_net):
    feat = recorded["feat"].clone().requires_grad_()
    edge = recorded["edge"].clone().requires_grad_()
    logp = torch.einsum("bdhw,bkd->bkhw", feat, recorded["text"]).log_softmax(1)
    target = recorded["target"].long()
    shape = InverseNetDistance(small_net, prediction="published")
    return feat, edge, joint_edge_loss(logp, target, edge, recorded["edge_gt"], shape), logp, target


def test_every_term_of_the_joint_loss_is_the_published_one(terms):
    _, _, found, *_ = terms
    names = {"segment": "seg", "edge": "bce", "attention": "edge_attention", "shape": "shape", "total": "total"}
    for ours, theirs in names.items():
        assert float(found[ours].detach()) == pytest.approx(SCALARS["align_and_losses"][theirs], rel=1e-5), ours


@pytest.mark.parametrize(
    ("term", "by_features", "by_edges"),
    [
        ("segment", "d_seg_dfeat", None),
        ("edge", None, "d_bce_dedge"),
        ("attention", "d_att_dfeat", None),
        ("total", "d_total_dfeat", "d_total_dedge"),
    ],
)
def test_gradients_are_the_published_ones(terms, recorded, term, by_features, by_edges):
    feat, edge, found, *_ = terms
    found[term].backward()
    if by_features:
        close(feat.grad, recorded[by_features], 2e-5)
    if by_edges:
        close(edge.grad, recorded[by_edges], 2e-5)


def test_the_weights_of_the_classes_are_the_published_ones(terms, recorded):
    _, edge, _, logp, target = terms
    close(edge_attention_loss(logp, target, edge)[1], recorded["att_class_weights"])


def test_the_published_shape_term_has_no_gradient_and_does_not_see_the_prediction(terms, recorded, small_net):
    _, edge, found, *_ = terms
    found["shape"].backward()
    assert float(edge.grad.abs().max()) == 0
    shape = InverseNetDistance(small_net, prediction="published")
    assert float(shape(torch.zeros_like(edge), recorded["edge_gt"])) == float(found["shape"].detach())


def test_the_mended_shape_term_is_the_recorded_one_with_its_gradient(recorded, small_net):
    edge = recorded["edge"].clone().requires_grad_()
    shape = InverseNetDistance(small_net)
    close(shape.coefficients(edge, recorded["edge_gt"]), recorded["fixed_coeffs"])
    value = shape(edge, recorded["edge_gt"])
    assert float(value.detach()) == pytest.approx(SCALARS["align_and_losses"]["shape_fixed_sigmoid"], rel=1e-5)
    value.backward()
    close(edge.grad, recorded["d_fixed_dedge"], 2e-5)


@pytest.mark.slow
def test_the_full_inverse_network_gives_the_recorded_numbers():
    arrays, scalars = load("inverse_net_full"), SCALARS["inverse_net_full"]
    net = inverse_net(published_state(InverseNet(), "inversenet."))
    for prediction, coefficients, value in (
        ("published", "coeffs_ref", "shape_ref"),
        ("sigmoid", "coeffs_sigmoid", "shape_sigmoid"),
    ):
        shape = InverseNetDistance(net, prediction=prediction)
        close(shape.coefficients(arrays["edge_logit"], arrays["edge_gt"]), arrays[coefficients], 1e-4)
        assert float(shape(arrays["edge_logit"], arrays["edge_gt"])) == pytest.approx(scalars[value], rel=1e-4)


def test_edge_targets_are_the_published_ones():
    arrays = load("edge_ground_truth")
    for mask, expected, classes in (("mask_a", "edge_a", 20), ("mask_b", "edge_b", 20), ("mask_a", "edge_a_n80", 80)):
        found = edge_targets(arrays[mask][None].long(), classes)
        assert torch.equal(found[0, 0].to(torch.uint8), arrays[expected])


def test_levels_paths_and_positions_of_the_dpt_are_the_recorded_ones():
    arrays = load("dpt")
    model = Dpt(24, (8, 16, 32, 32), 20).eval()
    read_dpt(model, published_state(model))
    with torch.no_grad():
        levels = model.levels([arrays[f"tok{i}"] for i in range(1, 5)], (4, 6))
        paths = model.fuse(levels)
    for number in range(1, 5):
        close(levels[number - 1], arrays[f"level{number}"], 1e-4)
        close(paths[number - 1], arrays[f"path{number}"], 1e-4)
    edge = nn.Module()
    edge.edgeocr_cls_head = nn.Conv2d(16, 1, 1)
    edge.load_state_dict(published_state(edge))
    close(edge.edgeocr_cls_head(levels[1]), arrays["edge"], 1e-4)
    close(resize_positions(arrays["pos_embed_in"], (4, 6)), arrays["pos_embed_4x6"], 1e-4)


@pytest.mark.parametrize("name", ["drn_d_22", pytest.param("drn_d_105", marks=pytest.mark.slow)])
def test_trunk_and_pyramid_of_the_drn_are_the_recorded_ones(name):
    arrays, scalars = load(f"drn_ppm_{name}"), SCALARS[f"drn_ppm_{name}"]
    model = DrnPyramid(name).eval()
    read_drn(model, published_state(model, norm_gain=0.6))
    trunk = [value.numel() for key, value in model.named_parameters() if key.startswith("base.")]
    assert sum(trunk) == scalars["base_params"]
    edge = nn.Module()
    edge.edgeocr_cls_head = nn.Conv2d(512, 1, 1)
    edge.load_state_dict(published_state(edge))
    with torch.no_grad():
        base, features = model.base(arrays["image"]), model(arrays["image"])
        close(edge.edgeocr_cls_head(features), arrays["edge"], 1e-3)
    close(base[:, :16], arrays["base_head"], 1e-3)
    close(base.mean((2, 3)), arrays["base_mean"], 1e-3)
    close(features[:, :32], arrays["feature_head"], 1e-3)
    close(features.mean((2, 3)), arrays["feature_mean"], 1e-3)


def test_scores_are_resized_as_pillow_does_it():
    arrays = load("resize_logits")
    assert float((resize_scores(arrays["x"], (30, 40)) - arrays["y"]).abs().max()) < 2e-6


def test_the_rate_falls_by_epochs_as_published():
    expected = load("lr_schedule")["lr"]
    assert [poly_lr(1e-3, epoch, 20) for epoch in range(20)] == pytest.approx(expected.tolist(), rel=1e-6)


def test_edges_all_or_nothing_and_pictures_without_a_sure_edge_give_zero_and_not_nan():
    logits = torch.randn(2, 1, 4, 4)
    for value in (0.0, 1.0):
        assert float(balanced_edge_loss(logits, torch.full_like(logits, value))) == 0
    logp = torch.randn(2, 3, 4, 4).log_softmax(1)
    target = torch.randint(0, 3, (2, 4, 4))
    loss, weights = edge_attention_loss(logp, target, torch.zeros(2, 1, 4, 4))
    assert (float(loss), weights.tolist()) == (0.0, [1.0, 1.0, 1.0])
