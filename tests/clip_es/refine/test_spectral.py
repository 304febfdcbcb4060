"""The spectral refiner: closed forms, invariants, and the recorded graphs, eigenvectors and segments."""

from pathlib import Path

import numpy as np
import pytest
import torch

from clip_es.errors import ConfigError, ShapeError
from clip_es.pipelines.studies.oracle import counts_of, published
from clip_es.refine.graph import (
    adaptive_count,
    affinity,
    eigenvectors,
    feature_affinity,
    grid_picture,
    hsv_neighbours,
    hsv_places,
    rgb_neighbours,
)
from clip_es.refine.pool import averaged
from clip_es.refine.spectral import SpectralConfig, k_means, overlaps, refine, replace_by_sides, spectral
from clip_es.types import ClassMaps, EncodedImage, Picture

GOLDEN = Path(__file__).parents[2] / "golden/sazs/spectral.npz"
# From the recording's notes: how single eigenvectors' positive sides overlap with its prediction and its truth.
SEGMENT_ON_PREDICTION = [0.270373312152502, 0.24310293681400177, 0.25721739130434784, 0.017054487642722937, 0.04502841]
COMPLEMENT_ON_PREDICTION = [0.009336767546683838, 0.016909029421711193, 0.03143059920916557, 0.1922015183, 0.1717018547]
SEGMENT_ON_TRUTH = [0.3017686648927845, 0.31355676328502413, 0.30968077723802917, 0.04133050247699929, 0.0522203947]
PREDICTION_ON_TRUTH = 0.6323283082077052


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return {key: arrays[key] for key in arrays.files}


def one_hot(labels):
    return labels[None] == torch.arange(4)[:, None]


def graph(golden, name):
    weights = golden["W_feat"].astype(np.float64)
    return weights + (10.0 * golden[f"W_{name[:-2]}"] if name != "feat" else 0.0)


# ---------------------------------------------------------------- the recorded case


def test_the_three_graphs_are_the_recorded_ones(golden):
    small = grid_picture(golden["image"], (12, 18))
    np.testing.assert_allclose(small, golden["image_small"], atol=1e-6)
    np.testing.assert_allclose(feature_affinity(golden["features"]), golden["W_feat"], atol=1e-6)
    np.testing.assert_allclose(hsv_places(small), golden["psi_hsv"], atol=1e-6)
    np.testing.assert_allclose(hsv_neighbours(small), golden["W_hsv"], atol=1e-6)
    # Ties between equally near patches fall otherwise in another nearest-neighbour search: 16 entries, as recorded.
    assert (rgb_neighbours(small) != golden["W_rgb"]).sum() <= 16


@pytest.mark.parametrize("name", ["feat", "rgb10", "hsv10"])
def test_eigenvectors_are_the_recorded_ones(golden, name):
    weights = graph(golden, name)
    values, vectors = eigenvectors(weights, 7)
    np.testing.assert_allclose(values, golden[f"eval_{name}"], atol=1e-5)
    degrees, theirs = weights.sum(1), golden[f"evec_{name}"]
    np.testing.assert_allclose(degrees, golden[f"deg_{name}"], atol=1e-3)
    cosines = ((vectors * degrees) * theirs).sum(1)
    assert (np.abs(cosines) > 1 - 1e-6).all()
    assert (cosines[1:] > 0).all()  # the sign rule; the constant vector has no smaller side


def test_segments_are_the_positive_sides(golden):
    _, vectors = eigenvectors(graph(golden, "rgb10"), 7)
    sides = np.kron((vectors[1:6] > 0).reshape(5, 12, 18), np.ones((1, 8, 8))) > 0
    recorded = np.unpackbits(golden["seg_rgb10"], axis=1)[:, : 96 * 144].reshape(5, 96, 144) > 0
    np.testing.assert_array_equal(sides, recorded)


def test_k_means_recovers_the_regions_that_thresholds_miss(golden):
    _, vectors = eigenvectors(graph(golden, "rgb10"), 7)
    parts = torch.from_numpy(k_means(vectors[1:6].T, 4))
    blocks = golden["label"].reshape(12, 8, 18, 8).swapaxes(1, 2).reshape(216, 64)
    truth = torch.tensor([np.bincount(block).argmax() for block in blocks])
    theirs = torch.from_numpy(golden["kmeans_rgb10"].astype(int)).flatten()
    for other, least in ((theirs, 1.0), (truth, 0.97)):
        assert (overlaps(one_hot(other), one_hot(parts)).amax(1) >= least).all()
    sides = torch.from_numpy(vectors[1:6] > 0)
    assert (overlaps(one_hot(truth), sides).amax(1) < 0.7).all()


def test_overlaps_and_the_published_choice_are_the_recorded_ones(golden):
    sides = torch.from_numpy(np.unpackbits(golden["seg_rgb10"], axis=1)[:, : 96 * 144].reshape(5, 96, 144) > 0)
    prediction, truth = torch.from_numpy(golden["pred"] == 1), torch.from_numpy(golden["gt"] == 1)
    flat = sides.flatten(1)
    np.testing.assert_allclose(overlaps(prediction.flatten()[None], flat)[0], SEGMENT_ON_PREDICTION, atol=1e-6)
    np.testing.assert_allclose(overlaps(prediction.flatten()[None], ~flat)[0], COMPLEMENT_ON_PREDICTION, atol=1e-6)
    np.testing.assert_allclose(overlaps(truth.flatten()[None], flat)[0], SEGMENT_ON_TRUTH, atol=1e-6)
    assert float(overlaps(truth.flatten()[None], prediction.flatten()[None])) == pytest.approx(PREDICTION_ON_TRUTH)
    for mask, chosen in ((prediction, 0), (~truth, 2)):
        candidates = torch.cat([mask[None], sides]).flatten(1)
        assert published(counts_of(candidates, truth.flatten())[None]).tolist() == [chosen]


# ---------------------------------------------------------------- closed forms


def test_two_cliques_apart_have_two_zeros_and_a_piecewise_constant_vector():
    weights = np.kron(np.eye(2), np.ones((4, 4)))
    values, vectors = eigenvectors(weights, 3)
    np.testing.assert_allclose(values, [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(vectors[:2].reshape(2, 2, 4).std(2), 0, atol=1e-12)


@pytest.mark.parametrize("n", [12, 200])
def test_a_path_has_the_eigenvalues_of_a_string(n):
    weights = np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1)
    values, _ = eigenvectors(weights, 5, degrees=False)
    np.testing.assert_allclose(values, 2 - 2 * np.cos(np.pi * np.arange(5) / n), atol=1e-9)


@pytest.mark.parametrize("n", [10, 100])
def test_a_complete_graph_has_one_other_eigenvalue(n):
    values, _ = eigenvectors(np.ones((n, n)) - np.eye(n), 4)
    np.testing.assert_allclose(values, [0, *[n / (n - 1)] * 3], atol=1e-9)


def test_weights_may_be_scaled_and_nodes_renamed(golden):
    weights = graph(golden, "rgb10")
    values, vectors = eigenvectors(weights, 6)
    scaled, same = eigenvectors(7 * weights, 6)
    np.testing.assert_allclose(scaled, values, atol=1e-9)
    np.testing.assert_allclose(np.abs(same * np.sqrt(7)), np.abs(vectors), atol=1e-7)
    names = np.random.default_rng(0).permutation(len(weights))
    _, renamed = eigenvectors(weights[np.ix_(names, names)], 6)
    np.testing.assert_allclose(np.abs(renamed[1:]), np.abs(vectors[1:, names]), atol=1e-7)


def test_lanczos_and_the_dense_solver_agree(golden):
    weights = graph(golden, "hsv10")
    values, vectors = eigenvectors(weights, 6)
    dense_values, dense = eigenvectors(weights, 80)
    np.testing.assert_allclose(values, dense_values[:6], atol=1e-8)
    np.testing.assert_allclose(np.abs(vectors), np.abs(dense[:6]), atol=1e-6)


def test_the_largest_gap_counts_the_segments():
    assert adaptive_count(np.array([0.0, 0.5, 0.51, 0.52, 0.9, 0.91])) == 4
    assert adaptive_count(np.array([0.0, 0.1])) == 2


# ---------------------------------------------------------------- pooling


def test_pooling_between_nothing_and_the_vote_of_a_segment():
    scores = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])
    segments = torch.tensor([[0, 0], [3, 3]])
    assert averaged(scores, segments, 0.0) is scores
    assert torch.equal(averaged(scores, segments, 1.0), torch.full((1, 2, 2), 0.5))
    assert torch.equal(averaged(scores, segments, 0.5), torch.tensor([[[0.75, 0.25], [0.5, 0.5]]]))


def test_a_perfect_partition_with_the_majority_right_votes_the_truth():
    truth = torch.tensor([[0, 0, 0], [1, 1, 1]])
    scores = torch.tensor([[[0.9, 0.8, 0.2], [0.1, 0.9, 0.2]], [[0.1, 0.2, 0.8], [0.9, 0.1, 0.8]]])
    assert torch.equal(averaged(scores, truth, 1.0).argmax(0), truth)


def test_a_side_replaces_a_map_it_covers_and_no_other():
    maps = torch.tensor([[[0.9, 0.8, 0.7], [0.0, 0.0, 0.1]], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    side = torch.tensor([[[False, False, False], [True, True, True]]])
    out = replace_by_sides(maps, side, 0.6)
    assert torch.equal(out[0], torch.tensor([[1.0, 1, 1], [0, 0, 0]]))  # the complement of the side
    assert torch.equal(out[1], maps[1])
    assert torch.equal(replace_by_sides(maps[1:], side, 1.0), maps[1:])


# ---------------------------------------------------------------- the refiner


def halves():
    """Left half red, right half blue, in 4 x 6 patches of 8 pixels, with noise in the map."""
    rgb = np.zeros((32, 48, 3), np.uint8)
    rgb[:, :24, 0], rgb[:, 24:, 2] = 200, 200
    side = (torch.arange(6) < 3).float().expand(4, 6)
    features = torch.stack([side.flatten(), 1 - side.flatten()], 1) + 0.01
    noise = 0.3 * torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    return Picture("halves", rgb, rgb, 8), features, ClassMaps((0.5 * side + noise)[None].clamp(0, 1), (7,)), side


@pytest.mark.parametrize("colours", ["hsv", "rgb", "none"])
def test_a_noisy_map_becomes_constant_on_each_half(colours):
    picture, features, maps, side = halves()
    config = SpectralConfig(eigenvectors=1, segments=2, amount=1.0, colours=colours, neighbours=6)
    out = spectral(picture, features, maps, config)
    assert out.class_ids == (7,)
    for half in (0.0, 1.0):
        inside = out.scores[0][side == half]
        torch.testing.assert_close(inside, maps.scores[0][side == half].mean().expand_as(inside))


def test_thresholds_replace_the_map_by_the_half():
    picture, features, maps, side = halves()
    out = spectral(picture, features, maps, SpectralConfig(rule="threshold", colours="none"))
    assert torch.equal(out.scores[0], side)


def test_the_same_seed_gives_the_same_bytes():
    picture, features, maps, _ = halves()
    config = SpectralConfig(segments=5)
    assert torch.equal(*(spectral(picture, features, maps, config).scores for _ in range(2)))
    points = np.random.default_rng(0).random((50, 3))
    np.testing.assert_array_equal(k_means(points, 6, 1), k_means(points, 6, 1))


def test_the_encoder_s_own_tokens_are_the_features():
    picture, features, maps, _ = halves()
    seen = EncodedImage(torch.cat([torch.ones(1, 2), features]), torch.eye(24), torch.zeros(1, 25, 25), (4, 6))
    config = SpectralConfig(segments=2)
    assert torch.equal(refine(picture, seen, maps, config).scores, spectral(picture, features, maps, config).scores)


def test_odd_pictures_pass():
    picture, features, maps, _ = halves()
    no_class = ClassMaps(torch.zeros(0, 4, 6), ())
    assert spectral(picture, features, no_class, SpectralConfig()) is no_class
    one = Picture("one", picture.rgb[:8, :8], picture.patches[:8, :8], 8)
    alone = ClassMaps(torch.ones(1, 1, 1), (0,))
    assert spectral(one, features[:1], alone, SpectralConfig()) is alone
    two = Picture("two", picture.rgb[:8, :16], picture.patches[:8, :16], 8)
    out = spectral(two, features[:2], ClassMaps(torch.ones(1, 1, 2), (0,)), SpectralConfig())
    assert torch.equal(out.scores, torch.ones(1, 1, 2))
    flat = spectral(picture, torch.zeros(24, 2), maps, SpectralConfig(colours="none"))  # no edge at all
    assert flat.scores.isfinite().all()


def test_bad_input_is_named():
    picture, features, maps, _ = halves()
    with pytest.raises(ShapeError, match="patch grid"):
        spectral(picture, features[:-1], maps, SpectralConfig())
    with pytest.raises(ConfigError, match="amount"):
        SpectralConfig(amount=1.5)
    with pytest.raises(ConfigError, match="segment"):
        SpectralConfig(segments=0)


def test_weights_are_symmetric_and_not_negative():
    picture, features, _, _ = halves()
    for colours in ("hsv", "rgb", "none"):
        weights = affinity(features.numpy(), grid_picture(picture.patches, (4, 6)), colours)
        assert (weights >= 0).all()
        np.testing.assert_array_equal(weights, weights.T)
