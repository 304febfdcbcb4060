"""Affinity from what patches say: the divergence, and what carrying must and must not change."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.spatial.distance
import torch

from clip_es.errors import ShapeError
from clip_es.refine.words import carry, jensen_shannon
from clip_es.types import ClassMaps


def test_the_divergence_is_scipys_squared_distance():
    shares = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(9), 70).astype(np.float32))
    found = jensen_shannon(shares)
    expected = scipy.spatial.distance.cdist(shares.double(), shares.double(), "jensenshannon") ** 2
    np.testing.assert_allclose(found, np.nan_to_num(expected), atol=2e-6)
    assert torch.equal(found.diagonal() < 1e-6, torch.ones(70, dtype=torch.bool))
    torch.testing.assert_close(found, found.T, atol=1e-6, rtol=0)
    apart = jensen_shannon(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert apart[0, 1] == pytest.approx(np.log(2), abs=1e-6)


def test_patches_that_say_different_things_keep_their_values():
    torch.manual_seed(0)
    maps = ClassMaps(torch.rand(2, 2, 2), (0, 5))
    alone = carry(maps, torch.full((4, 4), 0.25), torch.eye(4), temperature=1e-3)
    torch.testing.assert_close(alone.unscaled, maps.scores, atol=1e-5, rtol=0)


def test_patches_that_say_the_same_share_their_values():
    maps = ClassMaps(torch.tensor([[[1.0, 0.0, 0.2]]]), (0,))
    shares = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    carried = carry(maps, torch.full((3, 3), 1 / 3), shares, temperature=1e-3).unscaled
    assert carried is not None
    assert carried[0, 0].tolist() == pytest.approx([0.5, 0.5, 0.2], abs=1e-5)


def test_a_picture_of_many_patches_is_as_one_of_few_rows_at_a_time():
    torch.manual_seed(0)
    shares = torch.rand(150, 7).softmax(-1)
    whole = jensen_shannon(shares)
    torch.testing.assert_close(
        whole[70:80], jensen_shannon(torch.cat([shares[70:80], shares]))[:10, 10:], atol=1e-6, rtol=0
    )


def test_another_grid_is_refused():
    maps = ClassMaps(torch.rand(1, 2, 2), (0,))
    with pytest.raises(ShapeError, match="same grid"):
        carry(maps, torch.rand(4, 4), torch.rand(5, 3))
