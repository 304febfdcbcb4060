"""`make test` enforces every shape annotation; this file fails if that run checks nothing."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from clip_es.scaling import min_max


def test_a_wrong_shape_is_refused_by_its_annotation(request):
    if not request.config.getoption("jaxtyping_packages"):
        pytest.skip("only with --jaxtyping-packages=clip_es,enforced.checked")
    with pytest.raises(TypeCheckError, match="min_max"):
        min_max(torch.zeros(4, 4))
