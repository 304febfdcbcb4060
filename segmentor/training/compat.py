"""What stands between this package and mmsegmentation; nothing else of it is patched, wrapped or replaced.

Two things, both done by `prepare()`:

* Checkpoints. mmengine reads its checkpoints with `weights_only=True` and a list of types it trusts. float32 of numpy
  is missing in the list of 0.10.12, and IoUMetric writes such numbers: a checkpoint with an mIoU in it is refused and
  then read again as an ordinary pickle, with a warning. The missing type is added here. Upstream's mmengine (0.10.7)
  has no list at all, so there the whole list is added.
* Registration of our parts: a config names them, and `custom_imports = dict(imports=["clip_es.segmentor.register"])`
  makes them known to mmsegmentation's own tools as well.

The first can be dropped once mmengine's `get_torch_safe_globals()` names `type(np.dtype("f4"))`;
`tests/segmentor/data/test_data.py` fails on that day.
"""

from __future__ import annotations

import warnings
from contextlib import redirect_stdout
from functools import cache
from importlib import import_module
from typing import Any

from clip_es.errors import ConfigError


@cache
def prepare() -> None:
    """Import mmsegmentation, trust the types its checkpoints need, register our parts. Again is free.

    Raises ConfigError: mmsegmentation is missing or cannot be imported.
    """
    try:
        with warnings.catch_warnings(), redirect_stdout(None):
            # mmcv says that its compiled operators are missing, mmseg prints what else it could use; the parts that
            # need either say so themselves.
            warnings.simplefilter("ignore")
            import mmcv  # noqa: F401
            import mmengine  # noqa: F401
            import mmseg.datasets
            import mmseg.engine
            import mmseg.evaluation
            import mmseg.models
            import mmseg.visualization  # noqa: F401
    except (ImportError, RuntimeError, AssertionError) as error:
        # mmseg asserts on the versions of mmcv and mmengine it finds.
        raise ConfigError(
            "training and predicting need mmsegmentation",
            expected="the packages of the extra `segmentor`",
            found=f"{type(error).__name__}: {error}",
            next_step="Run: pip install 'clip-es[segmentor]' (or install mmcv, mmengine and mmsegmentation yourself).",
        ) from error
    _trust()
    _register()


def trusted() -> list[Any]:
    """Types to trust from now on: what checkpoints hold and mmengine itself does not trust while it reads them.

    mmengine's own list has `getattr`, which makes a "safe" read a weak one; it is in force only inside its reads.
    """
    import numpy as np

    float32 = type(np.dtype("f4"))
    known = _known_to_mmengine()
    return [float32] if known is not None and float32 not in known else [] if known is not None else _all_types()


def mmengine_types() -> list[Any]:
    """Every type that a checkpoint of mmengine may hold, to read one with `weights_only=True` outside mmengine."""
    return _known_to_mmengine() or _all_types()


def _known_to_mmengine() -> list[Any] | None:
    """mmengine's own list; None of upstream's mmengine, which has none, so that every read needs all of it."""
    try:
        from mmengine.runner.checkpoint import get_torch_safe_globals
    except ImportError:
        return None
    return list(get_torch_safe_globals())


def _all_types() -> list[Any]:
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer

    core = import_module("numpy._core.multiarray" if hasattr(np, "_core") else "numpy.core.multiarray")
    kinds = [type(np.dtype(name)) for name in ("f8", "i8", "u4", "f4")]
    return [HistoryBuffer, np.ndarray, np.dtype, core._reconstruct, core.scalar, getattr, *kinds]


def _trust() -> None:
    import torch

    if hasattr(torch.serialization, "add_safe_globals"):  # torch 2.4 has it; mmengine asks for it from 2.6 on.
        torch.serialization.add_safe_globals(trusted())


def _register() -> None:
    from mmengine.fileio import register_backend
    from mmseg.registry import DATASETS, HOOKS, MODELS, OPTIM_WRAPPERS, TRANSFORMS

    from clip_es.segmentor.data import dataset
    from clip_es.segmentor.losses.confidence import ConfidenceGuidedLoss
    from clip_es.segmentor.models import clip_backbone, heads, published, text_heads
    from clip_es.segmentor.training import hooks
    from clip_es.segmentor.zero_shot import heads as zero_shot

    for registry, parts in (
        (MODELS, (ConfidenceGuidedLoss, heads.DeepLabV2Head, heads.ConfidenceEncoderDecoder)),
        (MODELS, (heads.ConfidenceCascadeEncoderDecoder, clip_backbone.FrozenClip, clip_backbone.WithClip)),
        (MODELS, (text_heads.PixelTextHead, text_heads.EdgeHead, published.DrnBackbone, published.DptBackbone)),
        (MODELS, (zero_shot.CeilResNet, zero_shot.AsppSumHead, zero_shot.ZeroShotHead)),
        (DATASETS, (dataset.PseudoMaskDataset,)),
        (TRANSFORMS, (dataset.LoadPseudoMask, dataset.PackPseudoMask)),
        (OPTIM_WRAPPERS, (hooks.BFloat16OptimWrapper,)),
        (HOOKS, (hooks.WholeCheckpointHook, hooks.SeedEachIteration)),
    ):
        for part in parts:
            registry.register_module(module=part, force=True)
    register_backend("whole-file", hooks.WholeFileBackend, force=True)
    register_backend("shard", dataset.ShardBackend, force=True, prefixes="shard")
