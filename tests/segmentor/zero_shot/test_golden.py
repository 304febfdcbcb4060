"""Every recorded case of the published CaGNet, with weights made by the rule of its manifest."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clip_es.metrics.zero_shot import ZeroShotMeter
from clip_es.segmentor.zero_shot import blocks, labels, losses, steps
from clip_es.segmentor.zero_shot.context import ContextualModule, kl_divergence, shrink_mask
from clip_es.segmentor.zero_shot.generator import Discriminator, Generator
from clip_es.segmentor.zero_shot.published import our_name

GOLDEN = Path(__file__).parents[2] / "golden" / "cagnet"
CASES = json.loads((GOLDEN / "manifest.json").read_text())["cases"]

CONTEXT = {
    "near": "contextual1.conv",
    "middle": "contextual2.conv",
    "far": "contextual3.conv",
    "selector": "fc_1.conv",
    "pool": "contextualpool.conv",
    "mean": "contextuallocalmu.conv",
    "log_variance": "contextuallocalsigma.conv",
}
LOSS = {"type": "CrossEntropyLoss", "avg_non_ignore": True}
GENERATOR = {**{f"layers.{i}": f"gen.mlp.{i}.conv" for i in range(5)}, "last": "gen.mlp.5"}
DISCRIMINATOR = {"shared": "dis.fc.conv", "critic": "dis.pred", "classes": "dis.cls"}


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The manifest's numbers in [-1, 1) for a name."""
    size = int(np.prod(shape))
    with np.errstate(over="ignore"):
        k = np.uint64(zlib.crc32(name.encode()))
        x = np.arange(size, dtype=np.uint64) * np.uint64(6364136223846793005)
        x = x + (k + np.uint64(1)) * np.uint64(1442695040888963407)
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            x ^= x >> np.uint64(33)
            x *= np.uint64(factor)
        x ^= x >> np.uint64(33)
    return (2 * ((x >> np.uint64(11)).astype(np.float64) / 2**53) - 1).reshape(shape)


def hashed(name: str, shape: tuple[int, ...], gain: float = 1.0, norm: bool = False) -> np.ndarray:
    """The manifest's weight rule."""
    v = uniform(name, shape)
    if name.endswith("running_var"):
        v = 1 + 0.25 * v
    elif norm and name.endswith("weight"):
        v = 0.9 + 0.1 * v
    elif len(shape) >= 2:
        v = v * np.sqrt(3 / np.prod(shape[1:])) * gain
    else:
        v = 0.1 * v
    return v.astype(np.float32)


def fill(module: nn.Module, names: dict[str, str], gain: float, prefix: str = "") -> None:
    state = module.state_dict()
    for key, value in state.items():
        place, leaf = key.rsplit(".", 1)
        state[key] = torch.from_numpy(hashed(f"{prefix}{names[place]}.{leaf}", tuple(value.shape), gain))
    module.load_state_dict(state)


def load(case: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"{case}.npz", allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files if file[name].dtype.kind != "U"}


def number(value: Tensor) -> float:
    return float(value.detach())


def scalar(case: str, name: str) -> float:
    return CASES[case]["scalars"][name]


def test_the_contextual_module_is_the_published_one():
    case = load("contextual_module")
    width = case["c1"].shape[1]
    module = ContextualModule(12, 256, selector="relu-sigmoid", free_variance=False, bounded=True)
    fill(module, CONTEXT, 1.6, "scale.")
    h = case["h"].requires_grad_(True)
    near = torch.relu(module.near(torch.sigmoid(h)))
    torch.testing.assert_close(near[:, :width], case["c1"], atol=1e-6, rtol=1e-5)
    got = module(h, case["eps"])
    torch.testing.assert_close(module.pooled(h), case["pool"], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(got.mean, case["mu"], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(got.log_variance, case["logvar"], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(got.latent, case["z_train"], atol=3e-6, rtol=1e-5)
    torch.testing.assert_close(got.features, case["X_train"], atol=1e-6, rtol=1e-5)
    plain = module(h)
    torch.testing.assert_close(plain.latent, case["z_eval"], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(plain.features, case["X_eval"], atol=1e-6, rtol=1e-5)
    assert number(got.log_variance.min()) == 0
    visible = shrink_mask(case["mask"], (9, 11))
    kl = kl_divergence(got.mean, got.log_variance, visible)
    assert number(kl) == pytest.approx(scalar("contextual_module", "kld_train"), abs=1e-6)
    assert number(kl_divergence(got.mean, got.log_variance, torch.zeros_like(visible))) == 0
    (100 * kl + (case["probe"] * got.features).sum()).backward()
    assert h.grad is not None
    torch.testing.assert_close(h.grad, case["grad_h"], atol=1e-5, rtol=1e-4)


def generator_and_discriminator(gain: float = 1.4) -> tuple[Generator, Discriminator]:
    generator = Generator(12, 12, 12)
    discriminator = Discriminator(12, 8, 20)
    fill(generator, GENERATOR, gain)
    fill(discriminator, DISCRIMINATOR, gain)
    return generator.eval(), discriminator.eval()


def test_generator_and_discriminator_are_the_published_ones():
    case = load("generator_discriminator")
    generator, discriminator = generator_and_discriminator()
    fake = generator(case["sample"])
    torch.testing.assert_close(fake, case["fake"], atol=1e-6, rtol=1e-5)
    score, classes = discriminator(case["fake"])
    torch.testing.assert_close(score, case["score"][:, 0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(classes, case["cls"], atol=1e-5, rtol=1e-5)


def test_every_loss_is_the_published_one():
    case = load("losses")
    _, discriminator = generator_and_discriminator()
    gt, fake, real = case["gt"], case["pred"].requires_grad_(True), case["target"]
    visible = case["mask"]
    assert bool(((gt != 255) == visible).all())
    assert number(losses.content("l1", fake, real, gt)) == pytest.approx(scalar("losses", "content_l1"), abs=1e-6)
    assert number(losses.content("mse", fake, real, gt)) == pytest.approx(scalar("losses", "content_mse"), abs=1e-6)
    mmd = losses.content("mmd-runs", fake, real, gt)
    assert number(mmd) == pytest.approx(scalar("losses", "mmd_runs"), abs=2e-6)
    (gradient,) = torch.autograd.grad(mmd, fake)
    torch.testing.assert_close(gradient, case["grad_mmd"], atol=1e-6, rtol=1e-3)
    runs = losses.label_runs(gt[visible])
    assert [[int(gt[visible][run[0]]), len(run)] for run in runs] == case["runs"].tolist()
    assert number(losses.content("mmd-runs", real, real, gt)) == 0
    scores, _ = discriminator(fake)
    real_scores, _ = discriminator(real)
    for kind, name in (("l1", "lsgan"), ("gan", "gan")):
        game = losses.adversarial(kind, real_scores, scores, visible)
        assert number(game.critic_real) == pytest.approx(scalar("losses", f"{name}_D_real"), abs=1e-6)
        assert number(game.critic_fake) == pytest.approx(scalar("losses", f"{name}_D_fake"), abs=1e-6)
        assert number(game.critic) == pytest.approx(scalar("losses", f"{name}_D"), abs=1e-6)
        assert number(game.generator) == pytest.approx(scalar("losses", f"{name}_G"), abs=1e-6)
    game = losses.adversarial("wgan", real_scores, scores, visible)
    assert number(game.generator) == pytest.approx(scalar("losses", "wgangp_G"), abs=1e-6)
    penalty = losses.gradient_penalty(
        lambda features: discriminator(features)[0], real, fake.detach(), visible, case["gp_alpha"]
    )
    assert number(penalty) == pytest.approx(scalar("losses", "wgangp_gp"), abs=2e-5)
    assert number(game.critic + penalty) == pytest.approx(scalar("losses", "wgangp_D"), abs=2e-5)
    _, classes = discriminator(real)
    assert number(losses.classification(classes, gt)) == pytest.approx(scalar("losses", "cls_ce"), abs=2e-6)


def test_labels_shrink_as_with_opencv():
    case = load("resize_labels")
    out = labels.resize_labels(case["gt"].numpy(), (13, 13))
    assert (out == case["out"].numpy()).all()


def test_pseudo_labels_are_the_published_ones():
    case = load("self_training")
    scores = case["scores"].permute(0, 3, 1, 2)
    for top_p in (1, 3, 8):
        made = labels.top_p_labels(case["gt"], scores, range(5, 7), top_p)
        assert (made == case[f"top{top_p}"]).all()
    assert not (case["top8"] == 255).any()


def test_metrics_are_the_published_ones():
    case = load("metrics")
    seen, unseen = range(1, 6), range(6, 8)
    for key, name in (("pred", "scores"), ("pred_no_unseen", "scores_no_unseen")):
        meter = ZeroShotMeter(seen, unseen, include_background=False)
        for prediction, truth in zip(case[key].numpy(), case["label"].numpy(), strict=True):
            meter.update(prediction + 1, np.where(truth == 255, 255, truth + 1))
        got, wanted = meter.compute(), scalar("metrics", name)
        for group, label in (("all", ""), ("seen", " Seen"), ("unseen", " Unseen"), ("harmonic", " Harmonic")):
            figures = getattr(got, group)
            assert figures.miou == pytest.approx(wanted[f"Mean IoU{label}"], abs=1e-12)
            assert figures.mean_accuracy == pytest.approx(wanted[f"Mean Acc{label}"], abs=1e-12)
            assert figures.pixel_accuracy == pytest.approx(wanted[f"Overall Acc{label}"], abs=1e-12)
            assert figures.frequency_weighted_iou == pytest.approx(wanted[f"FreqW Acc{label}"], abs=1e-12)
        if key == "pred":
            np.testing.assert_allclose(got.iou[1:8], case["class_iou"].numpy(), atol=1e-12)


def pixelcnn_weights(model: blocks.PixelCNN) -> None:
    state = model.state_dict()
    for key, value in state.items():
        place, _, leaf = key.rpartition(".")
        kind, _, number = place.partition(".")
        if key.endswith("num_batches_tracked"):
            continue
        name = {
            "convolutions": f"net.conv{int(number or 0) + 1}.0.{leaf}",
            "norms": f"net.conv{int(number or 0) + 1}.1.{leaf}",
            "conditions": f"net.b{int(leaf) + 1 if leaf.isdigit() else ''}",
            "last": f"net.conv9.{leaf}",
        }[kind or place]
        assert our_name(name) == f"pixelcnn.{key}" or leaf in ("running_mean", "running_var") or kind == "norms"
        state[key] = torch.from_numpy(hashed(name, tuple(value.shape), 1.3, norm=kind == "norms"))
    model.load_state_dict(state)


@pytest.mark.parametrize(("depth", "layers", "size"), [("k7x8", 8, 7), ("k3x3", 3, 3), ("k3x5", 5, 3)])
def test_the_pixelcnn_is_the_published_one(depth: str, layers: int, size: int):
    case = load("pixelcnn")
    table = torch.from_numpy(hashed("pc_emb", (7, 600)))
    table = table / table.norm(dim=1, keepdim=True)
    model = blocks.PixelCNN(table, layers, size).eval()
    assert sum(p.numel() for p in model.parameters()) == scalar("pixelcnn", depth)["params"]
    pixelcnn_weights(model)
    own = model.condition(case["labels"], "own-label")
    told = table[case["condition"]].permute(0, 3, 1, 2)
    for name, condition in (("own_label", own), ("shared_condition", told), ("unconditional", None)):
        got = model(case["labels"], condition)
        torch.testing.assert_close(got, case[f"{depth}_logits_{name}"], atol=2e-5, rtol=1e-4)


def test_blocks_are_filled_and_accepted_as_published():
    case = load("patch_blocks")
    assert (blocks.fill_holes(case["blocks"]) == case["filled"]).all()
    kept = blocks.accepted(case["samples"].long(), range(5, 7), 7, 3)
    assert kept.nonzero()[:, 0].tolist() == case["kept"].tolist()


def test_blocks_are_laid_out_as_published():
    case = load("patch_tiling")
    assert (blocks.lay_out(case["blocks"]) == case["label_map"]).all()
    assert blocks.centres(12).tolist() == case["centres"].tolist()


def test_the_synthetic_step_is_the_published_one():
    case = load("finetune_step2")
    prior = labels.class_prior(5, 2, extra_weight=9)
    np.testing.assert_allclose(prior, case["prior"].numpy(), atol=1e-15)
    drawn = np.random.RandomState(11).choice(7, size=(2, 9, 9), p=prior)
    assert (torch.from_numpy(drawn) == case["sampled"]).all()
    torch.manual_seed(3)
    assert (torch.randn(2, 12, 9, 9) == case["noise"]).all()
    generator, discriminator = generator_and_discriminator()
    vectors = load("train_step1")["emb"]
    weights = steps.Weights(synthetic=0.125, synthetic_generator=1.0)
    sample = steps.with_names(case["sampled"], case["noise"], vectors)
    torch.testing.assert_close(generator(sample), case["fake"], atol=1e-6, rtol=1e-5)
    step = steps.synthetic_step(case["sampled"], case["noise"], generator, discriminator, vectors, weights)
    assert number(step.discriminator) == pytest.approx(scalar("finetune_step2", "D"), abs=1e-6)
    assert step.generator is not None
    assert number(step.generator) == pytest.approx(scalar("finetune_step2", "G"), abs=1e-5)
    assert step.backbone is None


def deeplab() -> tuple[nn.Module, nn.Module, ContextualModule]:
    """One bottleneck for each stage, as recorded: trunk, ASPP head, contextual module."""
    from clip_es.segmentor.training.compat import prepare

    prepare()
    from clip_es.segmentor.zero_shot.heads import AsppSumHead, CeilResNet

    trunk = CeilResNet(
        101,
        (1, 1, 1, 1),
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        norm_cfg={"type": "BN", "requires_grad": False},
        norm_eval=True,
        style="caffe",
    )
    head = AsppSumHead(in_channels=2048, in_index=3, channels=12, num_classes=7, loss_decode=LOSS)
    context = ContextualModule(12, selector="relu-sigmoid", free_variance=False, bounded=True)
    fill(context, CONTEXT, 1.2, "scale.")
    fill_trunk(trunk, head)
    trunk.eval()
    head.eval()
    return trunk, head, context


def fill_trunk(trunk: nn.Module, head: nn.Module) -> None:
    state = {f"backbone.{name}": value for name, value in trunk.state_dict().items()}
    state |= {f"decode_head.{name}": value for name, value in head.state_dict().items() if name.startswith("branch")}
    units = {1: "reduce", 2: "conv3x3", 3: "increase"}
    for name in list(state):
        if name.endswith("num_batches_tracked"):
            continue
        parts = name.split(".")
        norm = parts[-2].startswith("bn") or (parts[-2] == "1" and "downsample" in name)
        kind, leaf = ("bn" if norm else "conv"), parts[-1]
        if parts[0] == "decode_head":
            theirs = f"scale.aspp.stages.c{parts[2]}.{leaf}"
        elif parts[1] in ("conv1", "bn1"):
            theirs = f"scale.layer1.conv1.{kind}.{leaf}"
        else:
            unit = "proj" if "downsample" in name else units[int(parts[3][-1])]
            theirs = f"scale.layer{int(parts[1][-1]) + 1}.block{int(parts[2]) + 1}.{unit}.{kind}.{leaf}"
        assert our_name(f"back.{theirs}") == name
        state[name] = torch.from_numpy(hashed(theirs, tuple(state[name].shape), 1.2, norm=norm))
    trunk.load_state_dict({k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone")})
    missing = head.load_state_dict(
        {k.removeprefix("decode_head."): v for k, v in state.items() if k.startswith("decode")}, strict=False
    )
    assert not missing.unexpected_keys


@pytest.fixture(scope="module")
def tiny() -> tuple[nn.Module, nn.Module, ContextualModule]:
    return deeplab()


def test_deeplab_v2_is_the_published_one(tiny):
    trunk, head, context = tiny
    case, wanted = load("deeplabv2_tiny"), CASES["deeplabv2_tiny"]["scalars"]

    def extend(pixels: Tensor, noise: Tensor | None = None):
        return context(head.features(trunk(pixels)), noise)

    with torch.no_grad():
        maps = trunk(case["image"])
        assert [list(part.shape) for part in maps] == wanted["shapes"][1:5]
        features = head.features(maps)
        torch.testing.assert_close(features, case["aspp"], atol=2e-5, rtol=1e-4)
        first, others = steps.several_scales(extend, case["image"], torch.zeros(1, 65, 81, dtype=torch.long))
        torch.testing.assert_close(first.features, case["X"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(first.latent, case["z"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(others[-1][0], case["X_max"], atol=1e-5, rtol=1e-4)
    shapes = [list(part.shape) for part in (first.features, *(part for part, _ in others))]
    assert shapes == wanted["train_list_shapes"]
    kl = kl_divergence(first.mean, first.log_variance, torch.ones(1, 9, 11, dtype=torch.bool))
    assert number(kl) == pytest.approx(wanted["kld"], abs=1e-6)


def test_the_training_step_is_the_published_one(tiny):
    trunk, head, context = tiny
    case, wanted = load("train_step1"), CASES["train_step1"]["scalars"]
    generator, discriminator = generator_and_discriminator()

    def extend(pixels: Tensor):
        features = head.features(trunk(pixels))
        h, w = features.shape[-2:]
        noise = torch.from_numpy(1.7 * uniform(f"step_eps_{h}x{w}", tuple(features.shape))).float()
        return context(features, noise)

    parts = [*trunk.parameters(), *head.branches.parameters(), *context.parameters()]
    for parameter in parts:
        parameter.requires_grad_(True)
    first, others = steps.several_scales(extend, case["image"], case["gt"])
    on_grid = steps.shrink(case["gt"], (9, 9))
    assert (on_grid == case["gt_resized"]).all()
    torch.testing.assert_close(first.latent, case["z"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(first.features, case["X"], atol=1e-5, rtol=1e-4)
    step = steps.training_step(
        first,
        on_grid,
        generator,
        discriminator,
        case["emb"],
        steps.Weights(real=0.75, fake=0.25),
        adversary="l1",
        content_kind="mmd-runs",
        others=others,
    )
    got = {name: number(value) for name, value in step.figures.items()}
    theirs = {
        "kl": wanted["losses"]["B_KLD"] / 100,
        "real": wanted["losses"]["cls_real"],
        "fake": wanted["losses"]["cls_fake"],
        "critic_real": wanted["losses"]["D_real"],
        "critic_fake": wanted["losses"]["D_fake"],
        "adversary": wanted["losses"]["G_GAN"],
        "content": wanted["losses"]["G_Content"] / 50,
    }
    assert got == pytest.approx(theirs, abs=2e-5)
    assert number(step.discriminator) == pytest.approx(wanted["losses"]["D"], abs=5e-5)
    assert step.backbone is not None
    assert step.generator is not None
    assert number(step.backbone) == pytest.approx(wanted["losses"]["B"], abs=2e-4)
    assert number(step.generator) == pytest.approx(wanted["losses"]["G"], abs=1e-3)
    groups = [list(discriminator.parameters()), parts, list(generator.parameters())]
    for name, gradients in zip(("dis", "back", "gen"), step.gradients(groups), strict=True):
        squares = sum(float(gradient.square().sum()) for gradient in gradients if gradient is not None)
        assert squares**0.5 == pytest.approx(wanted["grad_norms"][name], rel=1e-5)
