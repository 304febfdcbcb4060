"""Sharpness by hand: the worked example of the paper's definition, a closed form, and every open point as an option."""

from __future__ import annotations

import math

import pytest
import torch

from clip_es.errors import ConfigError, ShapeError
from clip_es.prompts.sharpness import SharpnessConfig, several_labels, sharpness, sharpness_terms


def scored(*rows: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and classes whose softmax scores at scale 1 are the rows: classes are axes, pictures their logits."""
    return torch.tensor(rows).log().float(), torch.eye(len(rows[0]))


def test_the_worked_example_gives_a_tenth():
    images, classes = scored([0.6, 0.2, 0.2])
    assert sharpness(images, [[0, 1]], classes, 1.0) == pytest.approx(0.1, abs=1e-7)


def test_sample_variance_doubles_the_term_of_two_labels():
    images, classes = scored([0.6, 0.2, 0.2])
    found = sharpness(images, [[0, 1]], classes, 1.0, SharpnessConfig(variance="sample"))
    assert found == pytest.approx(0.2, abs=1e-7)


def test_two_labels_and_no_other_class_have_a_closed_form():
    # Scores sigma(d) and 1 - sigma(d): mean 1/2, variance (tanh(d/2)/2)^2, so the term is tanh(d/2)^2 / 2.
    classes = torch.eye(2)
    for cosines in ([0.31, 0.27], [0.2, 0.2], [0.9, -0.1]):
        d = 100 * (cosines[0] - cosines[1])
        found = sharpness(torch.tensor([cosines]), [[0, 1]], classes, 100.0)
        assert found == pytest.approx(math.tanh(d / 2) ** 2 / 2, abs=1e-5)


def test_three_labels_by_hand():
    # Scores .5 .3 .1 (.1 elsewhere): mean .3, squares .04 0 .04, population variance .08/3.
    images, classes = scored([0.5, 0.3, 0.1, 0.1])
    assert sharpness(images, [[0, 1, 2]], classes, 1.0) == pytest.approx(0.08 / 3 / 0.3, abs=1e-7)


def test_equal_scores_are_perfectly_blunt():
    images, classes = scored([0.25, 0.25, 0.5])
    assert sharpness(images, [[0, 1]], classes, 1.0) == pytest.approx(0, abs=1e-12)


def test_softmax_over_labels_and_background_leaves_other_classes_out():
    # Among .6 .2 and a background word of score .2 nothing changes; the class in third place no longer counts.
    images, classes = scored([0.6, 0.2, 0.7])
    words = torch.tensor([[math.log(0.2), 0.0, 0.0]]) / images[0, 0]
    config = SharpnessConfig(softmax="labels+background")
    assert sharpness(images, [[0, 1]], classes, 1.0, config, words) == pytest.approx(0.1, abs=1e-6)
    # And without any background word the two labels share all the mass: .75 and .25.
    assert sharpness(images, [[0, 1]], classes, 1.0, config) == pytest.approx(0.0625 / 0.5, abs=1e-6)


def test_background_words_do_not_count_where_all_classes_compete():
    images, classes = scored([0.6, 0.2, 0.2])
    words = torch.ones(4, 3)
    assert sharpness(images, [[0, 1]], classes, 1.0, None, words) == pytest.approx(0.1, abs=1e-7)


def test_the_mean_is_over_pictures_with_several_labels_alone():
    images, classes = scored([0.6, 0.2, 0.2], [0.9, 0.05, 0.05], [0.2, 0.2, 0.6])
    assert sharpness(images, [[0, 1], [0], [0, 1]], classes, 1.0) == pytest.approx(0.05, abs=1e-7)
    assert sharpness_terms(images, [[0, 1], [0], [0, 1]], classes, 1.0).tolist() == pytest.approx([0.1, 0, 0], abs=1e-7)


def test_labels_without_any_mass_give_zero_and_no_nan():
    images = torch.tensor([[-1.0, -1.0, 1.0]])
    assert sharpness(images, [[0, 1]], torch.eye(3), 5000.0) == 0


def test_many_pictures_go_through_in_parts(monkeypatch):
    images = torch.nn.functional.normalize(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    classes = torch.nn.functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    labels = [[i % 6, (i + 1 + i % 3) % 6] for i in range(50)]
    whole = sharpness_terms(images, labels, classes, 20.0)
    monkeypatch.setattr("clip_es.prompts.sharpness._AT_ONCE", 7)
    assert torch.equal(sharpness_terms(images, labels, classes, 20.0), whole)


@pytest.mark.parametrize("count", [2, 1000])
def test_two_and_a_thousand_classes(count):
    images = torch.nn.functional.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    classes = torch.nn.functional.normalize(torch.randn(count, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    assert 0 <= sharpness(images, [[0, 1]] * 5, classes, 100.0) <= 0.5


def test_one_label_everywhere_is_refused():
    with pytest.raises(ConfigError, match=r"no picture here has two. Found 3 pictures"):
        several_labels([[0], [1], [2, 2]])


def test_labels_and_images_must_agree_in_number():
    with pytest.raises(ShapeError, match="one label list for each image"):
        sharpness(torch.eye(2), [[0, 1]], torch.eye(2), 1.0)


def test_the_definition_is_told_in_words():
    assert str(SharpnessConfig()).startswith("population variance, softmax over all classes, mean over the pictures")
