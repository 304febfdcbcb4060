"""The dense CRF: by its invariants, and against the published code's arrays."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from recorded import GOLDEN, NEAR_THRESHOLD, RECORDED, recorded

from clip_es.config.run import REFERENCE, CrfConfig, MaskConfig
from clip_es.errors import ConfigError, DataError
from clip_es.images import read_picture
from clip_es.masks import decide, read_mask
from clip_es.refine.crf import dense
from clip_es.refine.crf.dense import crf, unary_energy, wrapped
from clip_es.types import ClassMaps, ImageRecord, Picture

PUBLISHED = REFERENCE.refiners.crf


@pytest.fixture(params=["pydensecrf", "native"])
def backend(request):
    """Each of the two that is installed."""
    pytest.importorskip({"pydensecrf": "pydensecrf.densecrf", "native": "numba"}[request.param])
    return request.param


def golden_case(name):
    pytest.importorskip("cv2")
    arrays, case = recorded(name), name.split("/")[0]
    maps = ClassMaps(torch.from_numpy(arrays["attn_highres_f16"].astype(np.float32)), tuple(arrays["keys"].tolist()))
    picture = read_picture(ImageRecord(case, GOLDEN / case / "image.jpg", maps.class_ids), 16, REFERENCE.image)
    return picture, maps, arrays


def picture_of(rgb, crf_rgb=None):
    rgb = np.ascontiguousarray(rgb, dtype=np.uint8)
    whole = np.zeros((*(-(-side // 16) * 16 for side in rgb.shape[:2]), 3), np.uint8)
    return Picture("a", rgb, whole, 16, crf_rgb)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def stacked(maps):
    assert maps.background is not None
    return torch.cat([maps.background[None], maps.scores])


@pytest.mark.parametrize("name", RECORDED)
def test_probabilities_and_masks_equal_the_published_ones(name, backend):
    picture, maps, arrays = golden_case(name)
    out = crf(picture, maps, replace(PUBLISHED, backend=backend))
    assert np.abs(stacked(out).numpy() - arrays["crf_prob"]).max() <= 1e-3
    made = decide(picture.size_hw, out, REFERENCE.mask)
    assert (made.decided != arrays["label_crf"]).sum() <= 3
    published = read_mask(GOLDEN / f"{name}_pseudo_mask.png")
    assert (made.labels != published).sum() <= NEAR_THRESHOLD[name]


@pytest.mark.parametrize("name", ["astronaut_150x131", "rocket_17x400", "chelsea_214x198"])
def test_picture_and_unary_equal_the_published_ones(name):
    picture, maps, arrays = golden_case(f"{name}/tiny224")
    assert picture.crf_rgb is not None
    assert np.array_equal(wrapped(picture.crf_rgb), arrays["crf_image_u8"])
    energy = unary_energy(maps, PUBLISHED)
    assert np.abs(energy.reshape(len(energy), -1) - arrays["crf_unary"]).max() <= 1e-3, "half a unit of float16"


def test_wrapping_is_modulo_256():
    rgb = np.array([[[122, 116, 10], [123, 117, 105], [255, 255, 255]]], dtype=np.uint8)
    assert wrapped(rgb)[0].tolist() == [[162, 0, 0], [0, 0, 0], [150, 138, 132]]


def test_unary_is_minus_log_of_scores_that_are_not_normalised():
    maps = ClassMaps(torch.tensor([[[1.0, 0.2]], [[0.0, 0.4]]]), (0, 1))
    energy = unary_energy(maps, CrfConfig())
    expected = -np.log(np.array([[1e-5, 0.6], [1.0, 0.2], [1e-5, 0.4]]))
    np.testing.assert_allclose(energy[:, 0], expected, atol=1e-6)
    squared = unary_energy(maps, CrfConfig(background_power=2.0))
    assert squared[0, 0, 1] == pytest.approx(-np.log(0.36), abs=1e-6)


def test_half_precision_is_that_of_numpys_float16():
    maps = ClassMaps(torch.tensor([[[0.3, 0.0]]]), (0,))
    energy = unary_energy(maps, CrfConfig(half=True))
    b = np.float16(1) - np.float16(0.3)
    assert energy[0, 0, 0] == np.float32(-np.log(b))
    assert energy[1, 0, 1] == np.float32(-np.log(np.float16(1e-5)))


def test_a_known_background_is_kept():
    maps = ClassMaps(torch.tensor([[[0.2]]]), (0,), background=torch.tensor([[0.5]]))
    np.testing.assert_allclose(unary_energy(maps, CrfConfig())[:, 0, 0], -np.log([0.5, 0.2]), atol=1e-6)


@pytest.mark.parametrize("labels", [1, 2, 20])
def test_probabilities_sum_to_one_and_lie_in_range(labels, backend):
    maps = ClassMaps(torch.rand(labels, 2, 3), tuple(range(labels)))
    out = crf(picture_of(noise(30, 40)), maps, CrfConfig(iterations=3, backend=backend))
    assert out.class_ids == maps.class_ids
    assert tuple(out.scores.shape) == (labels, 30, 40)
    torch.testing.assert_close(stacked(out).sum(0), torch.ones(30, 40))


def test_zero_iterations_give_the_normalised_scores(backend):
    maps = ClassMaps(torch.tensor([[[0.2]], [[0.6]]]), (0, 1))
    out = stacked(crf(picture_of(noise(1, 1)), maps, CrfConfig(iterations=0, backend=backend))).flatten()
    torch.testing.assert_close(out, torch.tensor([0.4, 0.2, 0.6]) / 1.2)


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (37, 1), (2, 2), (5, 3)])
def test_small_and_thin_pictures_work(size, backend):
    grid = tuple(-(-side // 16) for side in size)
    for config in (CrfConfig(backend=backend), replace(PUBLISHED, backend=backend)):
        out = crf(picture_of(noise(*size)), ClassMaps(torch.rand(2, *grid), (0, 1)), config)
        assert out.scores.isfinite().all()


def test_labels_follow_the_edge_of_the_picture(backend):
    rgb = np.zeros((32, 32, 3), dtype=np.uint8)
    rgb[:, 20:] = 200
    scores = torch.full((1, 32, 32), 0.35)
    scores[:, :, 12:] = 0.65  # the map reaches too far to the left
    out = crf(picture_of(rgb), ClassMaps(scores, (4,)), CrfConfig(backend=backend))
    mask = decide((32, 32), out, MaskConfig())
    assert (mask.decided[:, 20:] == 5).all()
    assert (mask.decided[:, :10] == 0).all()
    before = (scores[0].numpy() > 0.5) != (rgb[..., 0] > 0)
    after = (mask.decided == 5) != (rgb[..., 0] > 0)
    assert after.sum() < before.sum()


def test_a_uniform_picture_and_map_stay_uniform_inside(backend):
    out = crf(
        picture_of(np.full((40, 40, 3), 90)), ClassMaps(torch.full((1, 40, 40), 0.7), (0,)), CrfConfig(backend=backend)
    )
    assert (out.scores > 0.7).all(), "agreement makes sure"


def test_without_labels_everything_is_background():
    out = crf(picture_of(noise(4, 5)), ClassMaps(torch.zeros(0, 1, 1), ()), CrfConfig())
    assert out.background is not None
    assert (out.background == 1).all()
    assert tuple(out.scores.shape) == (0, 4, 5)


def test_the_same_input_gives_the_same_bytes(backend):
    picture, maps = picture_of(noise(20, 30)), ClassMaps(torch.rand(3, 2, 2), (0, 1, 2))
    assert torch.equal(
        crf(picture, maps, CrfConfig(backend=backend)).scores, crf(picture, maps, CrfConfig(backend=backend)).scores
    )


def test_the_crfs_own_reading_must_have_the_size_of_the_maps():
    picture = picture_of(noise(4, 5), crf_rgb=noise(5, 4))
    with pytest.raises(DataError, match="EXIF orientation") as caught:
        crf(picture, ClassMaps(torch.rand(1, 1, 1), (0,)), PUBLISHED)
    assert caught.value.expected == "[4, 5]"
    assert caught.value.found == "[5, 4]"


def test_the_crfs_own_reading_is_what_it_sees(backend):
    maps = ClassMaps(torch.rand(1, 20, 20, generator=torch.Generator().manual_seed(0)), (0,))
    one, other = noise(20, 20, 1) // 16, noise(20, 20, 2) // 16
    ours = crf(picture_of(one, crf_rgb=other), maps, CrfConfig(backend=backend))
    assert torch.equal(ours.scores, crf(picture_of(other), maps, CrfConfig(backend=backend)).scores)
    assert not torch.equal(ours.scores, crf(picture_of(one), maps, CrfConfig(backend=backend)).scores)


@pytest.mark.parametrize(("library", "asked"), [("pydensecrf", "pydensecrf"), ("numba", "native")])
def test_a_missing_backend_names_native_first_and_the_way_round(monkeypatch, library, asked):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        ConfigError, match=rf"{library}.*'clip-es\[native\]'.*pydensecrf: extra `crf`.*--refine affinity"
    ):
        crf(picture_of(noise(4, 4)), ClassMaps(torch.rand(1, 1, 1), (0,)), CrfConfig(backend=asked))


def test_auto_finds_a_crf_without_any_extra_and_says_so_once(monkeypatch, caplog):
    for library in ("pydensecrf", "numba"):
        monkeypatch.setitem(sys.modules, library, None)
    dense._tell_slow.cache_clear()
    picture, maps = picture_of(noise(9, 9)), ClassMaps(torch.rand(1, 1, 1), (0,))
    expected = crf(picture, maps, CrfConfig(backend="torch")).scores
    assert torch.equal(crf(picture, maps, CrfConfig(backend="auto")).scores, expected)
    assert dense.resolve_backend("auto") == "torch"
    assert [record.getMessage() for record in caplog.records] == [
        "The CRF runs in torch, which is slow on a CPU. Several times faster: pip install 'clip-es[native]'"
    ]


def test_auto_takes_the_backend_that_is_there(monkeypatch):
    pytest.importorskip("pydensecrf")
    monkeypatch.setitem(sys.modules, "numba", None)
    picture, maps = picture_of(noise(9, 9)), ClassMaps(torch.rand(1, 1, 1), (0,))
    expected = crf(picture, maps, CrfConfig(backend="pydensecrf")).scores
    assert torch.equal(crf(picture, maps, CrfConfig(backend="auto")).scores, expected)
