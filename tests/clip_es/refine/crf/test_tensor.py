"""The CRF in torch: the lattice by what must hold, the whole against the other backends, on the CPU."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from clip_es.config.run import CrfConfig
from clip_es.errors import ConfigError
from clip_es.refine.crf import tensor as torch_crf
from clip_es.refine.crf.dense import crf, crf_together, mean_field, resolve_backend, unary_energy, wrapped
from clip_es.refine.crf.simplices import find_simplices
from clip_es.types import ClassMaps, Picture

GOLDEN = Path(__file__).parents[3] / "golden/clip-es"
TORCH = CrfConfig(backend="torch")


def photograph(name="astronaut_150x131"):
    with Image.open(GOLDEN / name / "image.jpg") as image:
        return np.array(image.convert("RGB"))


def energies(labels, height, width, seed=0):
    """Coarse blobs, as maps are, and a little noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((labels, -(-height // 16), -(-width // 16))) ** 3
    fine = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
    return -np.log(np.clip(fine + 0.05 * rng.random(fine.shape), 1e-5, 1)).astype(np.float32)


def agree(pixels, energy, config, other):
    ours = mean_field(pixels, energy, config)
    theirs = mean_field(pixels, energy, replace(config, backend=other))
    assert np.abs(ours - theirs).max() <= 1e-3, "measured: 2e-4"
    assert (ours.argmax(0) == theirs.argmax(0)).mean() >= 0.999, "measured: all"


@pytest.mark.parametrize("other", ["native", "pydensecrf"])
@pytest.mark.parametrize("labels", [2, 3, 21])
def test_it_agrees_with_the_other_backends(labels, other):
    pytest.importorskip({"native": "numba", "pydensecrf": "pydensecrf.densecrf"}[other])
    for pixels in (photograph(), wrapped(photograph())[:97], photograph("rocket_17x400")):
        agree(pixels, energies(labels, *pixels.shape[:2], seed=labels), TORCH, other)


def test_points_on_a_border_fall_into_the_simplex_of_the_others():
    pytest.importorskip("numba")
    # Here rounding the scale at another place moves a probability by 0.03.
    pixels = np.array(Image.fromarray(data.coffee()).resize((500, 375)))
    agree(pixels, energies(2, 375, 500), TORCH, "native")


@pytest.mark.parametrize(
    "change",
    [
        {"iterations": 0},
        {"iterations": 1},
        {"gaussian_sigma": 3.0, "bilateral_sigma": 20.0, "bilateral_colour": 13.0},
        {"gaussian_weight": 0.0},
        {"bilateral_weight": 0.0},
    ],
)
def test_it_agrees_for_other_settings(change):
    pytest.importorskip("numba")
    pixels = photograph()
    agree(pixels, energies(3, *pixels.shape[:2]), replace(TORCH, **change), "native")


def test_weights_of_a_simplex_sum_to_one_before_they_are_normalised():
    points = torch.rand(500, 5, generator=torch.manual_seed(0)) * 80
    _, rank, weights = find_simplices(points)
    torch.testing.assert_close(weights.sum(1), torch.ones(500))
    assert weights.min() >= -1e-5
    assert (rank.sort(1).values == torch.arange(6)).all()


def lattice(points, weight):
    return torch_crf.lattice(points[None], points.amax(0).tolist(), weight)


def test_points_in_one_place_are_one_simplex_and_share_alike():
    term = lattice(torch.full((4, 2), 5.0), 1.0)
    assert (term.corners.unflatten(0, (4, 3)) == term.corners[:3]).all()
    taken = torch_crf.pass_through(torch.tensor([[1.0], [0.0], [0.0], [0.0]]), term)
    torch.testing.assert_close(taken, torch.full((4, 1), 1 / 4))


def test_far_points_share_nothing():
    term = lattice(torch.tensor([[0.0, 0.0], [100.0, 100.0], [0.0, 0.0], [200.0, 0.0]]), 2.0)
    taken = torch_crf.pass_through(torch.tensor([[1.0], [4.0], [1.0], [3.0]]), term)
    torch.testing.assert_close(taken, torch.tensor([[2.0], [8.0], [2.0], [6.0]]))


def test_points_that_fill_up_to_four_weigh_nothing():
    term = lattice(torch.tensor([[3.0, 0.0]]), 1.0)
    taken = torch_crf.pass_through(torch.tensor([[2.0], [7.0], [7.0], [7.0]]), term)
    torch.testing.assert_close(taken, torch.tensor([[2.0], [0.0], [0.0], [0.0]]))


def test_neighbours_lie_on_both_sides():
    term = lattice(torch.rand(64, 2, generator=torch.manual_seed(0)) * 9, 1.0)
    nobody = len(term.starts) - 1
    for axis in term.near:
        own, after, before = axis.unflatten(0, (-1, 3)).T.long()
        assert (own == torch.arange(nobody + 1)).all()
        vertices = own[:-1][after[:-1] < nobody]
        assert (before[after[vertices]] == vertices).all()
        assert after[-1] == before[-1] == nobody


@pytest.mark.parametrize("size_hw", [(48, 60), (31, 41)])  # The second is no multiple of four pixels.
def test_pictures_that_go_together_have_the_bytes_of_each_alone(size_hw):
    height, width = size_hw
    pixels = np.stack([picture[:height, :width] for picture in (photograph(), data.coffee(), data.chelsea())])
    energy = np.stack([energies(3, height, width, seed) for seed in range(3)])
    together = torch_crf.mean_field(torch.from_numpy(pixels), torch.from_numpy(energy), TORCH)
    for own, picture, alone in zip(together, pixels, energy, strict=True):
        assert np.array_equal(own.numpy(), mean_field(picture, alone, TORCH))


def test_pictures_of_one_size_with_different_labels_go_together():
    kinds = {"astronaut": (3,), "coffee": (0, 7, 2), "chelsea": (5, 1)}
    pictures = [
        Picture(name, getattr(data, name)()[:40, :50].copy(), np.zeros((16, 16, 3), np.uint8), 16) for name in kinds
    ]
    random = torch.manual_seed(0)
    maps = [ClassMaps(torch.rand(len(ids), 3, 4, generator=random), ids) for ids in kinds.values()]
    together = crf_together(pictures, maps, TORCH)
    assert tuple(together.shape) == (3, 4, 40, 50)
    for own, picture, one in zip(together, pictures, maps, strict=True):
        alone = crf(picture, one, TORCH)
        torch.testing.assert_close(own[: 1 + len(one.class_ids)], torch.cat([alone.background[None], alone.scores]))
        assert not own[1 + len(one.class_ids) :].any()


def test_more_pixels_than_fit_one_lattice_take_several(monkeypatch):
    pixels, energy = torch.from_numpy(photograph()[:24, :20]).repeat(3, 1, 1, 1), torch.rand(3, 2, 24, 20)
    whole = torch_crf.mean_field(pixels, energy, TORCH)
    monkeypatch.setattr(torch_crf, "_MOST_PIXELS", 2 * 24 * 20)
    assert torch_crf.mean_field(pixels, energy, TORCH).equal(whole)


def test_two_calls_give_the_same_bytes():
    pixels = photograph()
    energy = energies(4, *pixels.shape[:2])
    assert np.array_equal(mean_field(pixels, energy, TORCH), mean_field(pixels, energy, TORCH))


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_energies_are_those_of_the_other_backends(half, known):
    scores = torch.rand(3, 9, 7, generator=torch.manual_seed(0))
    maps = ClassMaps(scores, (0, 4, 2), background=torch.rand(9, 7) if known else None)
    config = replace(TORCH, half=half, background_power=2.0)
    np.testing.assert_allclose(
        torch_crf.unary_energy(maps, config), unary_energy(maps, config), atol=0.02 if half else 1e-5
    )


def test_maps_from_the_grid_become_probabilities_of_the_pictures_size():
    rgb = photograph()[:40, :50]
    picture = Picture("p", rgb, np.zeros((16, 16, 3), np.uint8), 16)
    found = crf(picture, ClassMaps(torch.rand(2, 3, 4), (0, 1)), TORCH)
    assert found.background is not None
    torch.testing.assert_close(found.scores.sum(0) + found.background, torch.ones(40, 50))


def test_auto_stays_where_the_maps_are():
    assert resolve_backend("auto", "cuda") == "torch"
    assert resolve_backend("torch") == "torch"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_agrees_with_the_cpu():
    rgb = photograph()
    picture = Picture("p", rgb, np.zeros((16, 16, 3), np.uint8), 16)
    maps = ClassMaps(torch.rand(3, 10, 9, generator=torch.manual_seed(0)), (0, 1, 2))
    there = crf(picture, replace(maps, scores=maps.scores.cuda()), CrfConfig())
    here = crf(picture, maps, TORCH)
    assert there.scores.device.type == "cuda"
    torch.testing.assert_close(there.scores.cpu(), here.scores, atol=1e-3, rtol=0)


def test_standard_deviations_too_small_for_the_lattice_are_refused():
    with pytest.raises(ConfigError, match="too small"):
        mean_field(photograph(), energies(2, 150, 131), replace(TORCH, bilateral_sigma=1e-3, bilateral_colour=1e-3))
