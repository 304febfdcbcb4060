"""Class-aware affinity: by hand, by its invariants, and against the published code's arrays."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import CASES, RECORDED, recorded

from clip_es.config.run import AffinityConfig
from clip_es.errors import ShapeError
from clip_es.refine.affinity import attention_affinity, balance, box_mask, boxes, refine, spread, spread_together
from clip_es.refine.box_masks import box_mask_on_device
from clip_es.scaling import min_max, upsample
from clip_es.types import ClassMaps, EncodedImage, Picture

PUBLISHED = AffinityConfig(border="drop")
VOC = 0.4


@pytest.fixture(params=CASES)
def golden(request):
    """All arrays of one picture."""
    return recorded(f"{request.param}/tiny224")


def tensor(array):
    return torch.from_numpy(array)


def attention_of(patches, seed=0):
    return torch.softmax(torch.randn(patches, patches, generator=torch.Generator().manual_seed(seed)), dim=-1)


def by_matrices(maps, attention, config, threshold):
    """What `spread` computes, written with the n x n products of the paper, in float64."""
    affinity = attention.double()
    for _ in range(config.iterations):
        affinity = affinity / affinity.sum(0, keepdim=True)
        affinity = affinity / affinity.sum(1, keepdim=True)
    affinity = (affinity + affinity.T) / 2
    for _ in range(config.for_tower(None).squarings):
        affinity = affinity @ affinity
    mask = box_mask(maps, threshold, config.border)
    out = [(affinity * m.flatten()) @ one.double().flatten() for one, m in zip(maps, mask, strict=True)]
    return torch.stack(out).reshape(maps.shape)


@pytest.mark.parametrize("name", RECORDED)
def test_boxes_equal_the_published_ones(name):
    golden = recorded(name)
    ours = boxes(tensor(golden["cam"]), VOC, "drop")
    for row, found in enumerate(ours):
        theirs = {tuple(box[1:]) for box in golden["boxes"].tolist() if box[0] == row}
        assert {tuple(box) for box in found.tolist()} <= theirs, "theirs also hold boxes of holes, inside these"
    assert np.array_equal(box_mask(tensor(golden["cam"]), VOC, "drop").numpy(), golden["aff_mask"].astype(bool))


def test_balancing_equals_the_published_matrices(golden):
    attention = tensor(golden["attn_mean"])
    rows = golden.get("mat_rows", slice(None))
    name = "{}_rows" if "mat_rows" in golden else "{}"
    for rounds in (1, 2, 3):
        ours = attention_affinity(attention, rounds, symmetric=False).numpy()[rows]
        assert np.abs(ours - golden[name.format(f"sink_row{rounds}")]).max() <= 2e-6
        r, _ = balance(attention, rounds - 1)
        _, c = balance(attention, rounds)
        half = (r[:, None] * attention * (1 / (attention.T @ r))).numpy()[rows]
        assert np.abs(half - golden[name.format(f"sink_col{rounds}")]).max() <= 2e-6
        assert c.shape == r.shape
    symmetric = attention_affinity(attention)
    assert np.abs(symmetric.numpy()[rows] - golden[name.format("aff_sym")]).max() <= 2e-6
    assert np.abs((symmetric @ symmetric).numpy()[rows] - golden[name.format("aff_sq")]).max() <= 2e-6


def test_refined_maps_equal_the_published_ones(golden):
    maps = ClassMaps(tensor(golden["cam"]), tuple(golden["keys"].tolist()))
    out = spread(maps, tensor(golden["attn_mean"]), PUBLISHED, VOC)
    assert out.unscaled is not None
    assert np.abs(out.unscaled.numpy() - golden["cam_refined"]).max() <= 1e-5
    large = upsample(out, golden["label_a1"].shape).scores.numpy()
    if "refined_highres" in golden:
        assert np.abs(large - golden["refined_highres"]).max() <= 1e-5
    steps = np.abs(large.astype(np.float16).view(np.int16) - golden["attn_highres_f16"].view(np.int16).astype(int))
    assert (steps > 0).mean() < 0.01
    assert np.abs(large - golden["attn_highres_f16"].astype(np.float32)).max() <= 5e-4, "half a unit of float16"


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 6), st.integers(0, 4), st.integers(0, 3), st.integers(0, 4), st.integers(0, 10**6)
)
def test_vectors_give_what_the_matrices_give(rows, columns, classes, squarings, rounds, seed):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(classes, rows, columns, generator=generator)
    attention = attention_of(rows * columns, seed)
    config = AffinityConfig(squarings=squarings, iterations=rounds)
    out = spread(ClassMaps(maps, tuple(range(classes))), attention, config, VOC)
    assert out.unscaled is not None
    if classes:
        expected = by_matrices(maps, attention, config, VOC)
        torch.testing.assert_close(out.unscaled.double(), expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(out.scores, min_max(out.unscaled))


def test_identity_attention_changes_nothing():
    maps = torch.zeros(1, 4, 4)
    maps[0, 1:3, 1:3] = torch.tensor([[1.0, 0.8], [0.6, 0.7]])
    out = spread(ClassMaps(maps, (0,)), torch.eye(16), AffinityConfig(), VOC)
    assert out.unscaled is not None
    assert torch.equal(out.unscaled, maps)


def test_uniform_attention_spreads_the_boxed_mean_everywhere():
    maps = torch.zeros(1, 2, 2)
    maps[0, 0] = torch.tensor([1.0, 0.5])
    out = spread(ClassMaps(maps, (0,)), torch.full((4, 4), 0.25), AffinityConfig(), VOC)
    assert out.unscaled is not None
    torch.testing.assert_close(out.unscaled, torch.full((1, 2, 2), 1.5 / 4))
    assert (out.scores == 0).all(), "a constant map tells nothing"


def test_labels_do_not_disturb_each_other():
    maps = torch.rand(5, 4, 3, generator=torch.Generator().manual_seed(3))
    attention = attention_of(12)
    together = spread(ClassMaps(maps, tuple(range(5))), attention, PUBLISHED, VOC).scores
    for k in range(5):
        alone = spread(ClassMaps(maps[k : k + 1], (k,)), attention, PUBLISHED, VOC).scores[0]
        torch.testing.assert_close(together[k], alone, atol=2e-6, rtol=0)


def test_balanced_rows_sum_to_one_and_columns_nearly():
    balanced = attention_affinity(attention_of(20), 3, symmetric=False)
    torch.testing.assert_close(balanced.sum(1), torch.ones(20))
    torch.testing.assert_close(balanced.sum(0), torch.ones(20), atol=1e-2, rtol=0)
    assert torch.equal(attention_affinity(attention_of(5), 0, symmetric=False), attention_of(5))


def test_heads_are_balanced_one_by_one():
    heads = torch.stack([attention_of(6, seed) for seed in range(3)])
    for together, alone in zip(attention_affinity(heads), heads, strict=True):
        torch.testing.assert_close(together, attention_affinity(alone), atol=1e-7, rtol=1e-6)


def test_a_patch_nobody_attends_to_gives_zero_not_nan():
    attention = attention_of(4)
    attention[:, 2] = 0
    out = spread(ClassMaps(torch.rand(2, 2, 2), (0, 1)), attention, AffinityConfig(), VOC)
    assert out.scores.isfinite().all()
    healthy = attention_affinity(attention)
    assert (healthy[2, [0, 1, 3]] > 0).all(), "it still attends to others"
    assert healthy[2, 2] == 0


def test_one_patch_has_nowhere_to_spread():
    out = spread(ClassMaps(torch.ones(1, 1, 1), (0,)), torch.tensor([[0.3]]), AffinityConfig(), VOC)
    assert out.unscaled is not None
    assert out.unscaled.item() == pytest.approx(1)
    assert out.scores.item() == 0
    dropped = spread(ClassMaps(torch.ones(1, 1, 1), (0,)), torch.tensor([[0.3]]), PUBLISHED, VOC)
    assert dropped.unscaled is not None
    assert dropped.unscaled.item() == 0, "published boxes never reach the last row"


def test_boxes_of_a_map_written_out():
    maps = torch.tensor([[[0.9, 0.0, 0.0, 0.0], [0.0, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.3], [0.0, 0.0, 0.0, 1.0]]])
    assert boxes(maps, 0.4)[0].tolist() == [[0, 0, 2, 2], [3, 3, 4, 4]], "touching at a corner is touching"
    assert boxes(maps, 0.2)[0].tolist() == [[0, 0, 2, 2], [3, 2, 4, 4]]
    assert boxes(maps, 0.4, "drop")[0].tolist() == [[0, 0, 2, 2], [3, 3, 3, 3]], "cut off at the last row and column"
    assert box_mask(maps, 0.4, "drop").sum() == 4
    assert box_mask(maps, 0.4).sum() == 5


def test_a_comb_a_ring_and_a_spiral_are_one_box_each():
    comb = [[1, 0, 1, 0, 1], [1, 0, 1, 0, 1], [1, 1, 1, 1, 1]]
    ring = [[0, 1, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0]]  # its parts touch at corners alone
    spiral = [[1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]
    for shape, expected in ((comb, [0, 0, 5, 3]), (ring, [0, 0, 4, 3]), (spiral, [0, 0, 5, 5])):
        assert boxes(torch.tensor([shape]).float(), 0.4, "keep")[0].tolist() == [expected]


def test_the_threshold_is_strict_and_taken_on_truncated_levels():
    levels = torch.tensor([[[254.9, 101.9, 102.0, 0.0]]]) / 255
    assert box_mask(levels, 0.4)[0].tolist() == [[True, False, True, False]], "on above int(0.4 * 254) = 101"


def test_a_map_without_positive_values_has_no_box():
    assert boxes(torch.zeros(1, 3, 3), 0.4)[0].shape == (0, 4)
    out = spread(ClassMaps(torch.zeros(1, 3, 3), (0,)), attention_of(9), AffinityConfig(), VOC)
    assert (out.scores == 0).all()


def test_boxes_reach_the_border_unless_told_otherwise():
    everything = torch.ones(1, 3, 5)
    assert box_mask(everything, 0.4).all()
    dropped = box_mask(everything, 0.4, "drop")[0]
    assert dropped[:2, :4].all()
    assert not dropped[2].any()
    assert not dropped[:, 4].any()


def test_the_configured_threshold_goes_before_the_vocabularys():
    maps = ClassMaps(torch.tensor([[[1.0, 0.5], [0.0, 0.0]]]), (0,))
    loose = spread(maps, torch.eye(4), AffinityConfig(), 0.4)
    tight = spread(maps, torch.eye(4), AffinityConfig(box_threshold=0.6), 0.4)
    assert (loose.scores > 0).sum() == 2
    assert (tight.scores > 0).sum() == 1


def test_two_grids_are_refused():
    with pytest.raises(ShapeError, match="same grid"):
        spread(ClassMaps(torch.zeros(1, 2, 2), (0,)), torch.eye(9), AffinityConfig(), VOC)


def test_the_refiner_uses_the_attention_of_the_encoded_picture():
    picture = Picture("a", np.zeros((30, 30, 3), np.uint8), np.zeros((32, 32, 3), np.uint8), 16)
    seen = EncodedImage(torch.zeros(5, 8), attention_of(4), torch.zeros(1, 5, 5), (2, 2))
    maps = ClassMaps(torch.rand(1, 2, 2), (0,))
    assert torch.equal(
        refine(picture, seen, maps, AffinityConfig(), VOC).scores,
        spread(maps, seen.attention, AffinityConfig(), VOC).scores,
    )
    with pytest.raises(ShapeError, match="--refine affinity crf"):
        refine(picture, seen, ClassMaps(torch.rand(1, 30, 30), (0,)), AffinityConfig(), VOC)


def test_a_shallow_tower_takes_one_step_and_a_deep_one_the_published_two():
    maps, attention = torch.rand(1, 2, 3, generator=torch.Generator().manual_seed(1)), attention_of(6)
    found = ClassMaps(scores=maps, class_ids=(0,))
    unknown = spread(found, attention, AffinityConfig(), 0.0).unscaled
    shallow = spread(found, attention, AffinityConfig().for_tower(4), 0.0).unscaled
    deep = spread(found, attention, AffinityConfig().for_tower(12), 0.0).unscaled
    once = attention_affinity(attention)
    torch.testing.assert_close(shallow.flatten(), once @ maps.flatten())
    torch.testing.assert_close(deep.flatten(), once @ once @ maps.flatten())
    assert torch.equal(unknown, deep)
    assert AffinityConfig(squarings=2).for_tower(4).squarings == 2


# several pictures at once, and without leaving the device


def on_device(maps, threshold, border):
    limits = tuple(int(threshold * level) for level in range(256))
    return box_mask_on_device((maps * 255).to(torch.uint8), limits, border == "drop")


@pytest.mark.parametrize("border", ["keep", "drop"])
@given(
    size_hw=st.tuples(st.integers(1, 23), st.integers(1, 23)),
    threshold=st.sampled_from([0.0, 0.4, 0.55, 0.7, 1.0]),
    seed=st.integers(0, 10_000),
    smooth=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_boxes_found_by_products_are_those_of_the_components(border, size_hw, threshold, seed, smooth):
    maps = torch.rand(3, *size_hw, generator=torch.Generator().manual_seed(seed))
    if smooth:
        maps = torch.nn.functional.avg_pool2d(maps[None], 3, 1, 1)[0]
    maps[0, 0] = 0
    assert on_device(maps, threshold, border).equal(box_mask(maps, threshold, border))


def test_a_path_through_the_whole_grid_is_one_component():
    snake = torch.zeros(1, 15, 15)
    snake[0, ::2] = 1
    snake[0, 1::4, -1] = snake[0, 3::4, 0] = 1
    assert on_device(snake, 0.4, "keep").all()
    snake[0, 7, 0] = 0  # Cut in two: neither half reaches the row between.
    assert on_device(snake, 0.4, "keep").sum() == 14 * 15
    assert on_device(snake, 0.4, "keep").equal(box_mask(snake, 0.4, "keep"))


def test_maps_without_values_have_no_boxes_on_any_device():
    assert not on_device(torch.zeros(2, 5, 4), 0.4, "keep").any()


@pytest.mark.parametrize("config", [AffinityConfig(), PUBLISHED, AffinityConfig(iterations=0, squarings=0)])
def test_several_pictures_are_spread_as_each_alone(config):
    random = torch.Generator().manual_seed(0)
    maps = [ClassMaps(torch.rand(count, 5, 6, generator=random), tuple(range(count))) for count in (2, 1, 0, 4)]
    attention = torch.stack([attention_of(30, seed) for seed in range(4)])
    found = spread_together(maps, attention, config, VOC)
    for own, one, matrix in zip(found, maps, attention, strict=True):
        alone = spread(one, matrix, config, VOC)
        assert own.class_ids == one.class_ids
        torch.testing.assert_close(own.scores, alone.scores, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(own.unscaled, alone.unscaled, atol=1e-6, rtol=1e-5)


def test_several_pictures_of_which_none_has_a_map_stay_as_they_are():
    maps = [ClassMaps(torch.zeros(0, 2, 2), ())] * 2
    assert spread_together(maps, torch.rand(2, 4, 4), AffinityConfig(), VOC) == maps


def test_several_pictures_must_come_from_the_grid_of_their_attention():
    with pytest.raises(ShapeError, match="same grid"):
        spread_together([ClassMaps(torch.zeros(1, 2, 3), (0,))], torch.rand(1, 4, 4), AffinityConfig(), VOC)
