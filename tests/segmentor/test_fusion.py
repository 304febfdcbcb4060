"""Segments join a prediction without ground truth: exact limits."""

import pytest
import torch

from clip_es.errors import ShapeError
from clip_es.pipelines.studies.oracle import counts_of, published
from clip_es.segmentor.fusion import nearest_side, nearest_sides, vote


@pytest.fixture
def shares():
    return torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(0)).softmax(0)


def test_nothing_of_the_segments_gives_the_prediction_itself(shares):
    assert torch.equal(vote(shares, torch.zeros(6, 8, dtype=torch.int64), 0.0), shares)


def test_all_of_the_segments_gives_each_its_mean(shares):
    segments = (torch.arange(48).reshape(6, 8) % 8 >= 4).long()
    voted = vote(shares, segments, 1.0)
    torch.testing.assert_close(voted[:, 0, 0], shares[:, :, :4].mean((1, 2)))
    torch.testing.assert_close(voted.sum(0), torch.ones(6, 8))


def test_a_perfect_partition_and_a_right_majority_give_the_truth():
    truth = torch.zeros(6, 8, dtype=torch.int64)
    truth[:, 4:] = 1
    shares = torch.nn.functional.one_hot(truth, 2).permute(2, 0, 1).float()
    shares[:, 0, 0], shares[:, 5, 7] = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    assert torch.equal(vote(shares, truth, 1.0).argmax(0), truth)


def test_the_nearest_side_or_its_complement_replaces_a_mask_only_where_it_overlaps_enough():
    prediction = torch.zeros(6, 8, dtype=torch.bool)
    prediction[:, :4] = True
    prediction[0, 0] = False
    side = torch.zeros(1, 6, 8, dtype=torch.bool)
    side[0, :, 4:] = True
    assert torch.equal(nearest_side(prediction, side), ~side[0])
    assert torch.equal(nearest_side(prediction, side, least=0.99), prediction)
    assert torch.equal(nearest_side(prediction, side, least=1.1), prediction)
    assert torch.equal(nearest_side(prediction, side[:0]), prediction)


def test_the_published_choice_by_ground_truth_is_never_below_the_prediction():
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        truth, *candidates = torch.rand(7, 48, generator=generator) > 0.5
        counts = counts_of(torch.stack(candidates), truth)
        shares = counts[0] / counts[1]
        assert shares[published(counts[None])[0]] >= shares[0]


def test_segments_of_another_size_are_refused(shares):
    with pytest.raises(ShapeError, match=r"of one size. Expected 6 x 8. Found 8 x 6"):
        vote(shares, torch.zeros(8, 6, dtype=torch.int64), 0.5)


def test_each_class_takes_the_side_nearest_to_its_mask_and_shares_still_sum_to_one():
    """Classes 1 (left) and 2 (right), each with a pixel off the sides' common border."""
    truth = torch.ones(6, 8, dtype=torch.int64)
    truth[:, 4:] = 2
    labels = truth.clone()
    labels[0, 3], labels[5, 4], labels[2, 0] = 2, 1, 0
    shares = torch.nn.functional.one_hot(labels, 3).permute(2, 0, 1) * 0.7 + 0.1
    fused = nearest_sides(shares, (truth == 2)[None])
    assert torch.equal(fused.argmax(0), truth)
    torch.testing.assert_close(fused.sum(0), torch.ones(6, 8))
    torch.testing.assert_close(fused.amax(0), torch.full((6, 8), 0.8))
    assert torch.equal(nearest_sides(shares, (truth == 2)[None], least=0.99), shares)
    with pytest.raises(ShapeError, match="of one size"):
        nearest_sides(shares, torch.zeros(1, 8, 6, dtype=torch.bool))


def test_what_no_class_takes_becomes_background():
    shares = torch.full((2, 4, 8), 0.5)
    shares[1, :, :4], shares[1, 0, 7] = 0.75, 0.75
    shares[0] = 1 - shares[1]
    side = torch.zeros(1, 4, 8, dtype=torch.bool)
    side[0, :, :4] = True
    fused = nearest_sides(shares, side)
    assert torch.equal(fused.argmax(0) == 1, side[0])
    assert fused[:, 0, 7].tolist() == [0.75, 0.25]
