"""The CRF in numba against pydensecrf, and what only it can get wrong."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_es.config.run import CrfConfig
from clip_es.errors import ConfigError
from clip_es.refine.crf.dense import mean_field, wrapped

pytest.importorskip("numba")

GOLDEN = Path(__file__).parents[3] / "golden/clip-es"
NATIVE = CrfConfig(backend="native")


def photograph(name="astronaut_150x131"):
    with Image.open(GOLDEN / name / "image.jpg") as image:
        return np.array(image.convert("RGB"))


def energies(labels, height, width, seed=0):
    """Coarse blobs, as maps are, and a little noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((labels, -(-height // 16), -(-width // 16))) ** 3
    fine = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
    return -np.log(np.clip(fine + 0.05 * rng.random(fine.shape), 1e-5, 1)).astype(np.float32)


@pytest.mark.parametrize("labels", [2, 3, 4, 5, 8, 21])
def test_it_agrees_with_pydensecrf(labels):
    pytest.importorskip("pydensecrf.densecrf")
    for pixels in (photograph(), wrapped(photograph()), photograph("rocket_17x400")):
        energy = energies(labels, *pixels.shape[:2], seed=labels)
        ours = mean_field(pixels, energy, NATIVE)
        theirs = mean_field(pixels, energy, CrfConfig(backend="pydensecrf"))
        assert np.abs(ours - theirs).max() <= 1e-3, "measured: 1e-4"
        assert np.abs(ours - theirs).mean() <= 1e-5, "measured: 1e-7"
        assert (ours.argmax(0) == theirs.argmax(0)).mean() >= 0.999, "measured: all"


@pytest.mark.parametrize(
    "config",
    [
        replace(NATIVE, iterations=1),
        replace(NATIVE, gaussian_sigma=3.0, bilateral_sigma=20.0, bilateral_colour=13.0),
        replace(NATIVE, gaussian_weight=0.0),
        replace(NATIVE, bilateral_weight=0.0),
        replace(NATIVE, gaussian_weight=60.0, bilateral_weight=100.0),
    ],
)
def test_it_agrees_with_pydensecrf_for_other_settings(config):
    pytest.importorskip("pydensecrf.densecrf")
    pixels = photograph()
    energy = energies(3, *pixels.shape[:2])
    ours = mean_field(pixels, energy, config)
    theirs = mean_field(pixels, energy, replace(config, backend="pydensecrf"))
    assert np.isfinite(ours).all()
    assert (ours.argmax(0) == theirs.argmax(0)).mean() >= 0.999


def test_probabilities_sum_to_one():
    pixels = photograph()
    found = mean_field(pixels, energies(5, *pixels.shape[:2]), NATIVE)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    assert found.min() >= 0


def test_extreme_energies_stay_finite():
    energy = np.zeros((3, 20, 20), np.float32)
    energy[0], energy[1, :10] = 1e4, -1e4
    found = mean_field(photograph()[:20, :20], energy, NATIVE)
    assert np.isfinite(found).all()
    assert (found[1, :10] > 0.999).all()


def test_the_kept_lattice_of_one_size_does_not_leak_into_another():
    pixels = photograph()
    sizes = [(40, 50), (50, 40), (40, 50), (33, 50)]
    first = [mean_field(pixels[:h, :w], energies(2, h, w), NATIVE) for h, w in sizes]
    assert np.array_equal(first[0], first[2])
    again = [mean_field(pixels[:h, :w], energies(2, h, w), NATIVE) for h, w in reversed(sizes)]
    assert all(np.array_equal(a, b) for a, b in zip(first, reversed(again), strict=True))


def test_standard_deviations_too_small_for_the_lattice_are_refused():
    with pytest.raises(ConfigError, match="too small"):
        mean_field(photograph(), energies(2, 150, 131), replace(NATIVE, bilateral_sigma=1e-3, bilateral_colour=1e-3))
