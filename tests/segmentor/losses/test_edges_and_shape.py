"""Edge targets and shape distances on maps that can be checked by hand, and against finite differences."""

import math

import pytest
import torch
from jaxtyping import TypeCheckError
from scipy.ndimage import distance_transform_edt

from clip_es.errors import ShapeError, WeightsError
from clip_es.segmentor.losses.edges import balanced_edge_loss, edge_attention_loss, edge_targets, shrink_edges
from clip_es.segmentor.losses.shape import (
    InverseNet,
    InverseNetDistance,
    MomentDistance,
    cut_tiles,
    inverse_net,
    read_inverse_net,
)


def square(side=48, top=12, left=12, size=20, dtype=torch.float32):
    edge = torch.zeros(1, 1, side, side, dtype=dtype)
    edge[..., top : top + size, left] = edge[..., top : top + size, left + size - 1] = 1
    edge[..., top, left : left + size] = edge[..., top + size - 1, left : left + size] = 1
    return edge


def logits_of(edge):
    return 16 * edge - 8


def test_a_border_between_two_halves_is_a_band_on_both_sides_and_along_the_picture():
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[..., 4:] = 1
    row = edge_targets(labels, 2, radius=1.0)[0, 0, 3]
    assert row.tolist() == [1, 0, 0, 1, 1, 0, 0, 1]
    assert edge_targets(labels, 2)[0, 0, 4].tolist() == [1, 1, 1, 1, 1, 1, 1, 1]


def test_edges_are_the_pixels_within_the_distance_transform_of_each_class():
    labels = (
        torch.randint(0, 4, (1, 3, 3), generator=torch.Generator().manual_seed(2))
        .repeat_interleave(5, 1)
        .repeat_interleave(5, 2)
    )
    labels[0, :4, :3] = 255
    expected = torch.zeros(15, 15, dtype=torch.bool)
    for value in range(4):
        inside = torch.nn.functional.pad(labels[0] == value, (1, 1, 1, 1)).numpy()
        if inside.any():
            distance = distance_transform_edt(inside) + distance_transform_edt(~inside)
            expected |= torch.from_numpy(distance[1:-1, 1:-1] <= 2)
    assert torch.equal(edge_targets(labels, 4)[0, 0] > 0, expected)


def test_255_is_no_region_but_ends_one():
    labels = torch.full((1, 5, 5), 255)
    assert edge_targets(labels, 3).sum() == 0
    labels[0, :, 3:] = 1
    assert edge_targets(labels, 3, radius=1.0)[0, 0, 2].tolist() == [0, 0, 1, 1, 1]


def test_sobel_edges_leave_the_border_of_the_picture_alone():
    labels = torch.zeros(1, 6, 6, dtype=torch.int64)
    labels[..., 3:] = 1
    assert edge_targets(labels, 2, kind="sobel")[0, 0, 2].tolist() == [0, 0, 1, 1, 0, 0]


def test_the_largest_of_a_cell_keeps_a_thin_line_and_the_nearest_loses_it():
    edges = torch.zeros(1, 1, 16, 16)
    edges[..., 3] = 1
    assert shrink_edges(edges, (2, 2))[0, 0].tolist() == [[1, 0], [1, 0]]
    assert shrink_edges(edges, (2, 2), "nearest").sum() == 0


def test_the_balanced_loss_of_even_logits_is_written_out():
    edges = torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]])
    # one edge weighs 3/4, three others 1/4 each; -log 0.5 everywhere; divided by four
    assert float(balanced_edge_loss(torch.zeros(1, 1, 1, 4), edges)) == pytest.approx(1.5 * math.log(2) / 4)
    valid = torch.tensor([[[[True, True, False, False]]]])
    assert float(balanced_edge_loss(torch.zeros(1, 1, 1, 4), edges, valid)) == pytest.approx(math.log(2) / 2)
    # The second where annotations are enforced.
    with pytest.raises((ShapeError, TypeCheckError), match=r"one grid|edges"):
        balanced_edge_loss(torch.zeros(1, 1, 2, 2), edges)


def test_attention_is_a_weighted_mean_over_sure_pixels_summed_over_pictures():
    logp = torch.tensor([0.5, 0.25, 0.25]).log()[None, :, None, None].expand(2, 3, 1, 2).contiguous()
    target = torch.tensor([[[0, 1]], [[0, 255]]])
    edges = torch.tensor([[[[1.0, 1.0]]], [[[0.5, 9.0]]]])
    loss, weights = edge_attention_loss(logp, target, edges)
    assert weights.tolist() == [1.5, 1.5, 1.0]
    assert float(loss) == pytest.approx((math.log(2) + math.log(4)) / 2), "the second picture has no sure, known pixel"


def test_the_same_outline_is_near_and_the_distance_grows_as_it_moves():
    distance = MomentDistance((1, 1))
    lengths = [float(distance(logits_of(square(top=12 + by)), square())) for by in (0, 2, 4, 8)]
    assert lengths == sorted(lengths)
    assert lengths[0] < 0.3 * lengths[-1]


def test_moments_tell_shift_and_size_of_a_tile():
    distance = MomentDistance((1, 1), floor=0.0)
    drawn = square(40, 10, 10, 16)
    sure = 400 * square(40, 14, 10, 16) - 200  # sigmoid of it is the map itself
    assert distance.coefficients(sure, drawn)[0].tolist() == pytest.approx([4 / 20, 0, 0, 0], abs=1e-4)
    grown = 400 * square(40, 6, 6, 24) - 200
    assert distance.coefficients(grown, drawn)[0, 2:].tolist() == pytest.approx(2 * [math.log(23.6 / 15.6)], abs=0.02)


def test_no_edge_in_the_target_is_no_distance_and_no_gradient_trouble():
    logits = torch.randn(1, 1, 12, 12, requires_grad=True)
    MomentDistance()(logits, torch.zeros(1, 1, 12, 12)).backward()
    assert float(logits.grad.abs().max()) == 0


def tiny_net():
    torch.manual_seed(3)
    return InverseNet(6, (12, 8)).double()


@pytest.mark.parametrize("distance", [MomentDistance((1, 2)).double(), InverseNetDistance(tiny_net())])
def test_the_gradient_of_the_mended_shape_loss_is_that_of_finite_differences(distance):
    torch.manual_seed(0)
    logits = torch.randn(2, 1, 9, 12, dtype=torch.float64, requires_grad=True)
    edges = (torch.rand(2, 1, 9, 12) > 0.7).double()
    assert torch.autograd.gradcheck(lambda x: distance(x, edges), (logits,), eps=1e-6, atol=1e-5)
    distance(logits, edges).backward()
    assert float(logits.grad.abs().max()) > 1e-6


def test_the_published_shape_loss_says_the_same_of_everything():
    distance = InverseNetDistance(tiny_net(), prediction="published")
    edges = square(12, 2, 2, 6, torch.float64)
    one, other = torch.randn(1, 1, 12, 12, dtype=torch.float64), torch.zeros(1, 1, 12, 12, dtype=torch.float64)
    assert float(distance(one, edges)) == float(distance(other, edges))


def test_tiles_go_row_by_row_with_the_batch_fastest():
    maps = torch.arange(2 * 18.0).reshape(2, 1, 3, 6).repeat_interleave(4, 2).repeat_interleave(4, 3)
    tiles = cut_tiles(maps, 4)
    assert tiles.shape == (36, 16)
    assert tiles[:4, 5].tolist() == [0, 18, 1, 19]


def test_descending_on_the_distance_moves_an_outline_to_its_place():
    logits = logits_of(square(top=6)).requires_grad_()
    distance = MomentDistance((1, 1))
    before = float(distance(logits, square(top=14)).detach())
    optimiser = torch.optim.Adam([logits], lr=0.3)
    for _ in range(40):
        optimiser.zero_grad()
        loss = distance(logits, square(top=14))
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.2 * before


def test_weights_of_another_layout_are_refused(tmp_path):
    state = {f"inversenet.{key}": value for key, value in InverseNet(6, (12, 8)).state_dict().items()}
    torch.save(state, tmp_path / "net.pth")
    assert read_inverse_net(tmp_path / "net.pth").side == 6
    first = {"fc.0.weight": torch.zeros(3, 3)}
    flat = {**state, "inversenet.fc.0.weight": torch.zeros(3)}
    five = {**state, "inversenet.fc.4.weight": torch.zeros(5, 8)}
    short = {**state, "inversenet.fc.0.bias": torch.zeros(5)}
    for wrong in ({}, first, flat, five, short):
        with pytest.raises(WeightsError, match="no inverse-transform network"):
            inverse_net(wrong)
    (tmp_path / "net.pth").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="weights alone"):
        read_inverse_net(tmp_path / "net.pth")
