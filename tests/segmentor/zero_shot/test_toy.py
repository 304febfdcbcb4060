"""The whole method on made-up features that follow from the classes' vectors: eight seen classes, three unseen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clip_es.errors import ConfigError, ShapeError
from clip_es.metrics.zero_shot import ZeroShotMeter, ZeroShotScores
from clip_es.segmentor.zero_shot.beginning import OldClassifier
from clip_es.segmentor.zero_shot.extension import Extension
from clip_es.segmentor.zero_shot.features import Example, Geometry
from clip_es.segmentor.zero_shot.settings import ExtendSettings, NetworkSettings, Rate, Sampler, settings_of
from clip_es.segmentor.zero_shot.steps import Weights
from clip_es.training import Plan, train

SEEN, UNSEEN, SIDE, CHANNELS, WIDTH = 8, 3, 12, 24, 12

TOY = replace(
    settings_of("default"),
    seen_steps=150,
    block_steps=40,
    unseen_steps=150,
    self_steps=20,
    again_steps=20,
    batch=4,
    crop=SIDE,
    alternate=1,
    noise="latent",
    networks=NetworkSettings(
        context_hidden=16, widths=(64,), hidden=64, classifier_dropout=0.2, names="trained", linear=False
    ),
    weights=Weights(kl=1.0, classes=1.0, content=10.0),
    unseen_rates=Rate(1e-3, 1e-3),
    seen_rate=Rate(3e-3, 3e-3, 1e-3),
)


def world(
    count: int, seed: int, gates: bool = False, space: bool = False
) -> tuple[list[Example], list[np.ndarray], torch.Tensor]:
    """Pictures of 16 patches of a class each, features A w + B z + noise; the truth; the classes' vectors.

    With `space` more channels lie in the space of the vectors: w + noise.
    """
    fixed = np.random.default_rng(0)
    vectors = fixed.normal(size=(SEEN + UNSEEN, WIDTH))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    a, b = 3 * fixed.normal(size=(CHANNELS, WIDTH)), 0.3 * fixed.normal(size=(CHANNELS, 6))
    rng = np.random.default_rng((1, seed))
    examples, truths = [], []
    for number in range(count):
        truth = np.kron(rng.integers(SEEN + UNSEEN, size=(4, 4)), np.ones((3, 3), dtype=np.int64))
        z = np.kron(rng.normal(size=(6, 4, 4)), np.ones((3, 3)))
        values = np.einsum("cw,hkw->chk", a, vectors[truth]) + np.einsum("cz,zhk->chk", b, z)
        values += 0.1 * rng.normal(size=values.shape)
        if space:
            beside = vectors[truth].transpose(2, 0, 1)
            values = np.concatenate((values, beside + 0.2 * rng.normal(size=beside.shape)))
        labels = np.where(truth < SEEN, truth, 255).astype(np.uint8)
        maps = np.stack([truth == SEEN + u for u in range(UNSEEN)]).astype(np.float16) if gates else None
        geometry = Geometry((SIDE, SIDE), (SIDE, SIDE), (SIDE, SIDE))
        examples.append(Example(f"p{number}", values.astype(np.float16), labels, geometry, maps))
        truths.append(truth)
    return examples, truths, torch.from_numpy(vectors).float()


def measure(extension: Extension, space: bool = False) -> ZeroShotScores:
    """On pictures it has not seen."""
    examples, truths, _ = world(12, 1, space=space)
    meter = ZeroShotMeter(range(1, SEEN + 1), range(SEEN + 1, SEEN + UNSEEN + 1), include_background=False)
    for example, truth in zip(examples, truths, strict=True):
        scores = extension.scores(torch.from_numpy(example.features).float()[None])[0]
        meter.update(scores.argmax(dim=0).numpy() + 1, truth + 1)
    return meter.compute()


def least_squares(examples: list[Example]) -> OldClassifier:
    """A classifier of the seen classes, such as a segmenter has: ten times what fits their one-hot labels best."""
    cells = np.concatenate([example.features.reshape(len(example.features), -1).T for example in examples])
    labels = np.concatenate([example.labels.ravel() for example in examples])
    x = np.c_[cells, np.ones(len(cells))][labels < SEEN].astype(np.float64)
    found = np.linalg.lstsq(x, np.eye(SEEN)[labels[labels < SEEN]], rcond=None)[0]
    weights = torch.from_numpy(10 * found).float()
    return OldClassifier(weights[:-1].T.contiguous(), weights[-1])


def steps(extension: Extension, start: int, end: int) -> None:
    for step in range(start, end):
        with torch.random.fork_rng():
            torch.manual_seed(step)
            extension.advance(step)


@pytest.mark.slow
def test_unseen_classes_are_found_after_they_were_only_named():
    examples, _, vectors = world(24, 0)
    extension = Extension(TOY, examples, vectors, SEEN)
    steps(extension, 0, TOY.seen_steps)
    before = measure(extension)
    assert before.unseen.miou == 0
    steps(extension, TOY.seen_steps, TOY.steps)
    after = measure(extension)
    assert after.unseen.miou > 0.5
    assert before.seen.miou - after.seen.miou < 0.05


@pytest.mark.slow
def test_in_a_shared_space_the_default_way_finds_unseen_classes():
    examples, _, vectors = world(16, 0, space=True)
    networks = NetworkSettings(context_hidden=8, widths=(32,), hidden=32)
    faster = Rate(1e-2, 3e-4, poly=True)
    chosen = replace(
        settings_of("default"),
        seen_steps=60,
        unseen_steps=120,
        unseen_rates=faster,
        batch=4,
        crop=SIDE,
        networks=networks,
    )
    extension = Extension(chosen, examples, vectors, SEEN, shared=WIDTH, old=least_squares(examples))
    steps(extension, 0, chosen.seen_steps)
    before = measure(extension, space=True)
    assert before.unseen.miou == 0
    steps(extension, chosen.seen_steps, chosen.steps)
    after = measure(extension, space=True)
    assert after.unseen.miou > 0.9
    assert after.seen.miou > 0.9
    assert before.seen.miou - after.seen.miou < 0.05
    assert 0 < float(extension.fit[1]) < 0.5  # seen classes that were left out are foretold, not perfectly
    assert float(extension.offset[SEEN:].abs().max()) == 0


def test_doubt_is_what_seen_classes_lie_beside_the_fit_and_for_unseen_cells_alone():
    examples, _, vectors = world(4, 0)
    vectors[0] = 0  # as background, which has no name and so no error
    extension = Extension(TOY, examples, vectors, SEEN)
    extension.missed[:] = torch.arange(SEEN + UNSEEN)[:, None]
    labels = torch.tensor([[[0, 1, SEEN], [SEEN + 1, SEEN + 2, SEEN], [SEEN, SEEN, SEEN]]])
    added = extension._doubt(labels)
    assert added.shape == (1, CHANNELS, 3, 3)
    assert bool((added[0, :, labels[0] < SEEN] == 0).all())
    assert set(added[0, 0][labels[0] >= SEEN].tolist()) <= set(range(1, SEEN))
    assert bool((added == added[:, :1]).all())


def test_made_cells_count_less_where_guessed_ones_stand_for_unseen_classes_too():
    examples, _, vectors = world(2, 0)
    extension = Extension(replace(TOY, self_synthetic=0.25), examples, vectors, SEEN)
    found = {}
    for phase in ("unseen", "self-training", "unseen again"):
        torch.manual_seed(3)
        found[phase] = float(extension.eval()._synthetic(0, phase).discriminator.detach())
    assert found["self-training"] == found["unseen again"] == pytest.approx(0.25 * found["unseen"], rel=1e-5)
    assert found["unseen"] > 0


def test_made_cells_weigh_an_unseen_class_like_a_seen_one():
    examples, _, vectors = world(8, 0)
    chosen = replace(TOY, weights=Weights(synthetic=None), unseen_mass=1.0)
    extension = Extension(chosen, examples, vectors, SEEN)
    # All made cells are unseen, a third of them of each class; of the labelled cells an eighth is of each.
    assert extension.balance == pytest.approx((1 / SEEN) / (1 / UNSEEN), rel=1e-3)


@pytest.mark.parametrize("way", ["default", "parity"])
def test_both_ways_take_every_kind_of_step(way: str):
    base = settings_of("parity") if way == "parity" else settings_of("default")
    examples, _, vectors = world(4, 0, gates=True)
    for sampler, kind in (("pixel", "top-p"), ("blocks", "gated"), ("empirical", "none")):
        chosen: ExtendSettings = replace(
            base,
            sampler=sampler,
            self_training=kind,
            seen_steps=2,
            block_steps=2,
            unseen_steps=4,
            self_steps=2,
            again_steps=2,
            alternate=1,
            batch=2,
            crop=SIDE,
            networks=replace(base.networks, context_hidden=8, hidden=16, widths=(16,), dropout=(0.1,)),
        )
        extension = Extension(chosen, examples, vectors, SEEN)
        selector = extension.context.selector.weight.detach().clone()
        steps(extension, 0, chosen.steps)
        moved = not torch.equal(selector, extension.context.selector.weight)
        assert moved == (way == "default")  # the published code never trains the selector


def run(out: Path, sampler: Sampler, parts: int) -> dict[str, torch.Tensor]:
    """A short training in so many steps a call; the final weights."""
    chosen = replace(
        TOY,
        sampler=sampler,
        self_training="gated",
        seen_steps=4,
        block_steps=3,
        unseen_steps=4,
        self_steps=3,
        again_steps=3,
        networks=replace(TOY.networks, context_hidden=8, hidden=16, widths=(16,)),
        batch=2,
    )
    examples, _, vectors = world(4, 0, gates=True)
    done = 0
    while done < chosen.steps:
        extension = Extension(chosen, examples, vectors, SEEN)
        done = train(extension, out, Plan(chosen.steps, 2, chosen.seed, {}), stop_after=parts)
    return extension.state_dict()["networks"]


@pytest.mark.parametrize("sampler", ["pixel", "blocks"])
def test_a_training_in_parts_ends_with_the_same_bits_whatever_phase_it_was_stopped_in(tmp_path: Path, sampler: Sampler):
    whole = run(tmp_path / "whole", sampler, 1000)
    parts = run(tmp_path / "parts", sampler, 1)  # stopped after every single step
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_class_without_a_vector_is_never_made():
    examples, _, vectors = world(4, 0)
    vectors[0] = 0
    extension = Extension(TOY, examples, vectors, SEEN)
    assert extension.drawing.prior[0] == 0
    assert float(extension.drawing.prior.sum()) == pytest.approx(1)
    vectors[SEEN] = 0
    with pytest.raises(ShapeError, match="no vector"):
        Extension(TOY, examples, vectors, SEEN)


def test_masks_without_any_seen_class_are_refused():
    examples, _, vectors = world(2, 0)
    blank = [replace(example, labels=np.full_like(example.labels, 255)) for example in examples]
    with pytest.raises(ConfigError, match="no mask holds a seen class"):
        Extension(TOY, blank, vectors, SEEN)
    with pytest.raises(ConfigError, match="localizer's maps"):
        Extension(replace(TOY, self_training="gated"), examples, vectors, SEEN)


def test_the_written_classifier_never_gives_the_extra_output():
    examples, _, vectors = world(2, 0)
    extension = Extension(TOY, examples, vectors, SEEN)
    with torch.no_grad():
        assert extension.discriminator.classes.bias is not None
        extension.discriminator.classes.bias[-1] = 1e6
    scores = extension.scores(torch.from_numpy(examples[0].features).float()[None])
    assert scores.shape[1] == SEEN + UNSEEN
    assert F.softmax(scores, dim=1).isfinite().all()
