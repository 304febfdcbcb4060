"""The linear path from a name to the mean feature of its class."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clip_es.errors import ShapeError
from clip_es.segmentor.zero_shot.generator import Discriminator, Generator
from clip_es.segmentor.zero_shot.names import RIDGES, ClassMoments, fit_names, visible_cells


def moments_of(features: np.ndarray, shared: np.ndarray, labels: np.ndarray, classes: int) -> ClassMoments:
    found = ClassMoments(classes, features.shape[1], shared.shape[1])
    half = len(labels) // 2
    for part in (slice(0, half), slice(half, None)):  # in two parts, as pictures come
        found.add(*(torch.from_numpy(x[part]).float() for x in (features, shared)), torch.from_numpy(labels[part]))
    return found


def test_moments_are_the_means_and_the_covariance_within_classes():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=400)
    x, y = rng.normal(size=(400, 4)) + labels[:, None], rng.normal(size=(400, 2)) - labels[:, None]
    y[:, 0] += 0.5 * x[:, 1]
    found = moments_of(x, y, labels, 4)
    means = np.stack([x[labels == k].mean(0) for k in range(3)])
    np.testing.assert_allclose(found.means[:3], means, atol=1e-5)
    assert found.means[3].tolist() == [0, 0, 0, 0]
    y_means = np.stack([y[labels == k].mean(0) for k in range(3)])
    expected = (x - means[labels]).T @ (y - y_means[labels]) / 400
    np.testing.assert_allclose(found.within, expected, atol=1e-4)


def test_names_of_the_seen_span_a_linear_world_exactly():
    # Means follow from names of two numbers, four classes are seen: the fifth is foretold.
    rng = np.random.default_rng(1)
    names, true = rng.normal(size=(5, 2)), rng.normal(size=(6, 2))
    labels = np.repeat(np.arange(4), 50)
    x = names[labels] @ true.T + 3.0
    found = fit_names(
        moments_of(x, np.zeros((200, 0)), labels, 5),
        torch.from_numpy(names).float(),
        torch.tensor([True, True, True, True, False]),
    )
    made = torch.from_numpy(names[4]).float() @ found.weight.T + found.bias
    np.testing.assert_allclose(made, names[4] @ true.T + 3.0, atol=0.1)
    assert found.error < 0.05
    assert found.offset[4].abs().max() == 0
    measured = torch.from_numpy(names[:4]).float() @ found.weight.T + found.bias + found.offset[:4]
    np.testing.assert_allclose(measured, x[::50], atol=1e-4)  # the offset is what is left


def test_in_a_shared_space_names_point_where_the_seen_ones_do_not_reach():
    # Twelve classes in 32 dimensions, of which eight are seen; means are C (w - middle) with C the covariance within.
    rng = np.random.default_rng(2)
    names = rng.normal(size=(12, 32))
    names /= np.linalg.norm(names, axis=1, keepdims=True)
    spread = rng.normal(size=(32, 32)) * np.linspace(0.2, 1, 32)
    cov = spread @ spread.T
    means = 0.7 * (names - names[:8].mean(0)) @ cov
    labels = np.repeat(np.arange(8), 400)
    y = means[labels] + rng.normal(size=(3200, 32)) @ spread.T
    known = torch.arange(12) < 8
    vectors = torch.from_numpy(names).float()
    found = fit_names(moments_of(y, y, labels, 12), vectors, known, torch.ones(32))
    blind = fit_names(moments_of(y, y[:, :0], labels, 12), vectors, known)
    made, guess = (vectors @ fit.weight.T + fit.bias for fit in (found, blind))
    middle = torch.from_numpy(means[:8].mean(0)).float()
    true = torch.from_numpy(means[8:]).float()
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(made[8:] - middle, true - middle).min() > 0.9
    assert cosine(guess[8:] - middle, true - middle).mean() < 0.6


def test_the_error_is_that_of_classes_left_out():
    # Names that say nothing of the features: what is left out cannot be foretold, so nothing is corrected.
    rng = np.random.default_rng(4)
    names, means, labels = rng.normal(size=(6, 40)), rng.normal(size=(6, 5)), np.repeat(np.arange(6), 10)
    x = means[labels]
    known = torch.ones(6, dtype=torch.bool)
    found = fit_names(moments_of(x, x[:, :0], labels, 6), torch.from_numpy(names).float(), known)
    assert found.ridge == RIDGES[-1]
    left_out = sum(((means[k] - np.delete(means, k, 0).mean(0)) ** 2).sum() for k in range(6))
    assert found.error == pytest.approx(left_out / ((means - means.mean(0)) ** 2).sum(), rel=1e-3)
    by_hand = np.stack([means[k] - np.delete(means, k, 0).mean(0) for k in range(6)])
    np.testing.assert_allclose(found.missed.numpy(), by_hand, atol=1e-3)


def test_without_a_class_that_has_a_name_there_is_nothing_to_fit():
    empty = ClassMoments(3, 4, 0)
    with pytest.raises(ShapeError, match="needs a class with a name"):
        fit_names(empty, torch.ones(3, 2), torch.tensor([True, True, False]))


def test_one_seen_class_still_gives_a_map():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20, 4))
    found = fit_names(
        moments_of(x, x, np.zeros(20, dtype=np.int64), 2), torch.eye(2, 4), torch.tensor([True, False]), torch.ones(4)
    )
    np.testing.assert_allclose(found.weight @ torch.eye(2, 4)[0] + found.bias, x.mean(0), atol=1e-5)
    assert found.weight.isfinite().all()


def test_a_generator_with_a_given_path_adds_the_name_and_is_not_trained_on_it():
    generator = Generator(2, 3, 3, (4,), (0.0,), bounded=False, names="fitted").eval()
    weight, bias = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), torch.tensor([0.0, 0.0, 5.0])
    generator.set_names(weight, bias)
    latent = torch.randn(1, 3, 2, 2)
    one, other = (
        generator(torch.cat((torch.tensor(name)[None, :, None, None].expand(1, 2, 2, 2), latent), dim=1))
        for name in ([1.0, 0.0], [0.0, 1.0])
    )
    difference = (other - one)[0, :, 0, 0]
    torch.testing.assert_close(difference, torch.tensor([-1.0, 2.0, 0.0]), atol=1e-5, rtol=0)
    assert generator.skip is not None
    assert not any(parameter.requires_grad for parameter in generator.skip.parameters())


def test_a_linear_classifier_reads_the_features_themselves():
    linear = Discriminator(3, 4, 8, linear=True).eval()
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(linear.scores(2 * x) - linear.scores(x), linear.scores(x) - linear.scores(0 * x))
    torch.testing.assert_close(linear(x)[1], linear.scores(x))


def test_visible_cells_are_those_of_the_classes_asked_for():
    features = torch.arange(8.0).reshape(1, 2, 2, 2)
    labels = torch.tensor([[[0, 255], [2, 1]]])
    cells, found = visible_cells(features, labels, [0, 2])
    assert cells.tolist() == [[0, 4], [2, 6]]
    assert found.tolist() == [0, 2]
