"""A new classifier begins with the answers of the old one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from clip_es.segmentor.zero_shot.beginning import OldClassifier
from clip_es.segmentor.zero_shot.context import ContextualModule
from clip_es.segmentor.zero_shot.extension import Extension
from clip_es.segmentor.zero_shot.features import Example, Geometry
from clip_es.segmentor.zero_shot.settings import NetworkSettings, settings_of

SEEN, UNSEEN, OWN, BESIDE = 4, 2, 5, 3
"""The old classifier reads the first 5 of 8 channels."""


def examples() -> list[Example]:
    rng = np.random.default_rng(5)
    geometry = Geometry((6, 6), (6, 6), (6, 6))
    return [
        Example(
            f"p{k}",
            (2 + 3 * rng.normal(size=(OWN + BESIDE, 6, 6))).astype(np.float16),
            rng.integers(SEEN, size=(6, 6)).astype(np.uint8),
            geometry,
        )
        for k in range(3)
    ]


def layer() -> nn.Conv2d:
    torch.manual_seed(2)
    return nn.Conv2d(OWN, SEEN, 1)


@pytest.mark.parametrize(("context", "patch"), [(True, False), (False, False), (True, True)])
def test_the_first_scores_are_those_of_the_segmenter_and_no_unseen_class_is_given(context: bool, patch: bool):
    networks = NetworkSettings(context_hidden=4, widths=(8,), hidden=8, context=context, patch=patch)
    vectors = torch.randn(SEEN + UNSEEN, 6)
    vectors[0] = 0  # background has no name
    old = layer()
    known = OldClassifier.of(old, SEEN)
    extension = Extension(replace(settings_of("default"), networks=networks), examples(), vectors, SEEN, old=known)
    features = torch.from_numpy(examples()[1].features).float()[None]
    scores = extension.scores(features)
    torch.testing.assert_close(scores[:, :SEEN], old(features[:, :OWN]).detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores[:, SEEN], scores[:, 1:SEEN].mean(dim=1), atol=1e-4, rtol=1e-4)
    assert int(scores.argmax(dim=1).max()) < SEEN


def test_one_output_for_two_classes_is_no_beginning():
    assert OldClassifier.of(nn.Conv2d(OWN, 1, 1), 2) is None
    without = OldClassifier.of(nn.Conv2d(OWN, SEEN, 1, bias=False), SEEN)
    assert without is not None
    assert without.bias.tolist() == [0.0] * SEEN


def test_a_neutral_module_gives_a_multiple_of_its_input_and_no_divergence():
    module = ContextualModule(3, 4, kernel=1)
    factor = module.begin_neutral()
    features = torch.randn(2, 3, 5, 5)
    seen = module(features)
    torch.testing.assert_close(seen.features, factor * features)
    assert float(seen.mean.abs().max().detach()) == float(seen.log_variance.abs().max().detach()) == 0
    assert ContextualModule(3, 4, enabled=False).begin_neutral() == 1
