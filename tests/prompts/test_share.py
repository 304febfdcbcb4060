"""The share that labels hold against background words, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from clip_es.errors import ConfigError, ShapeError
from clip_es.prompts.share import label_share, label_share_terms


def scored(*rows: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and words whose softmax scores at scale 1 are the rows: words are axes, pictures their logits."""
    return torch.tensor(rows).log().float(), torch.eye(len(rows[0]))


def test_other_classes_do_not_count():
    # Labels 0.3 and 0.1 against a word of 0.2: 0.4 of 0.6; the class of 0.4 that is no label is left out.
    images, words = scored([0.3, 0.1, 0.4, 0.2])
    assert label_share(images, [[0, 1]], words[:3], words[3:], 1.0) == pytest.approx(2 / 3, abs=1e-6)


def test_the_mean_is_over_pictures_with_a_label():
    images, words = scored([0.5, 0.5], [0.2, 0.8], [0.9, 0.1])
    assert label_share(images, [[0], [0], []], words[:1], words[1:], 1.0) == pytest.approx(0.35, abs=1e-6)
    found = label_share_terms(images, [[0], [0], []], words[:1], words[1:], 1.0)
    assert found.tolist() == pytest.approx([0.5, 0.2, 0.0], abs=1e-6)


def test_scale_sharpens_the_competition():
    images, words = torch.tensor([[0.3, 0.2]]), torch.eye(2)
    found = label_share(images, [[0]], words[:1], words[1:], 10.0)
    assert found == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-6)


def test_many_pictures_go_through_in_parts(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    images, words = torch.randn(50, 8, generator=generator), torch.randn(9, 8, generator=generator)
    labels = [[i % 6, (i + 1) % 6] for i in range(50)]
    whole = label_share_terms(images, labels, words[:6], words[6:], 2.0)
    assert bool(((whole > 0) & (whole < 1)).all())
    monkeypatch.setattr("clip_es.prompts.share._AT_ONCE", 7)
    torch.testing.assert_close(label_share_terms(images, labels, words[:6], words[6:], 2.0), whole)


def test_nothing_to_compare_is_refused():
    words = torch.eye(2)
    with pytest.raises(ConfigError, match="the vocabulary has none"):
        label_share(words, [[0], [1]], words, words[:0], 1.0)
    with pytest.raises(ConfigError, match="no picture has a label"):
        label_share(words, [[], []], words, words, 1.0)
    with pytest.raises(ShapeError, match="one label list for each image"):
        label_share_terms(words, [[0]], words, words, 1.0)
