"""Episodes: a picture, one of its classes, and a binary mask; and which pictures of a fold may be trained on.

Source: SAZS's released protocol. Its leaks can be switched off: pixels of held-out classes are trained as "others"
there (`held_out_are="others"`), undecided ones too (`unknown_are="others"`), and pictures
with held-out classes are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, UInt8

from clip_es.errors import ClipEsError, DataError
from clip_es.metrics.zero_shot import EpisodeMeter, IgnorePolicy
from clip_es.records.folds import Episode, Fold
from clip_es.types import UNDECIDED

Outside = Literal["others", "ignore"]


@dataclass(frozen=True)
class Protocol:
    """What a figure of episodes depends on; stamped into every result."""

    benchmark: str
    fold: int
    test_classes: tuple[int, ...]
    prompts: tuple[str, ...]
    """Rows that a pixel is compared with, `{}` for the class."""
    ignore_policy: IgnorePolicy
    episodes: int
    selection: str = "none: the last weights of the training"
    """What chose the model."""
    checkpoint_sha256: str = ""
    text_of: str = ""
    """The CLIP whose text the pixels are compared with."""
    trained_classes: tuple[str, ...] = ()
    """Classes the training had masks of."""
    leaked_classes: tuple[str, ...] = ()
    """Test classes among them: the model has seen what it is tested on."""
    held_out_in_training_pictures: str = "not known"
    """What became of pictures with test classes: drop, ignore (their pixels) or keep, which teaches what these
    classes are not."""
    clip_read_the_names: str = "not known"
    """Whether the captions of CLIP's own training named the test classes."""
    fusion: str = "none"
    """How segments joined in; never the ground truth here."""


def episode_target(
    labels: UInt8[np.ndarray, "h w"],
    value: int,
    *,
    held_out: Collection[int] = (),
    held_out_are: Outside = "ignore",
    unknown_are: Outside = "ignore",
) -> UInt8[np.ndarray, "h w"]:
    """1 where the class is, 0 for others, 255 where nothing is learnt. `held_out`: mask values of the test classes.

    As released: `held_out_are="others"` and `unknown_are="others"`, so that held-out objects and undecided pixels teach
    what the class is not.
    """
    target = (labels == value).astype(np.uint8)
    if unknown_are == "ignore":
        target[labels == UNDECIDED] = UNDECIDED
    if held_out_are == "ignore":
        target[np.isin(labels, sorted(held_out))] = UNDECIDED
    return target


def training_episodes(
    episodes: Iterable[Episode], which: Fold, classes_of: Mapping[str, Collection[int]], *, drop_held_out: bool = True
) -> list[Episode]:
    """Episodes of the fold's seen classes; with `drop_held_out` only of pictures without any test class.

    `classes_of`: the classes of each picture, 0-based. Raises DataError: a picture is not among them.
    """
    found = []
    for episode in episodes:
        if episode.image_id not in classes_of:
            raise DataError("the classes of this picture are not known", where=episode.image_id)
        leaks = drop_held_out and set(classes_of[episode.image_id]) & set(which.test)
        if episode.class_id in which.train and not leaks:
            found.append(episode)
    return found


def evaluate_episodes(
    episodes: Sequence[Episode],
    which: Fold,
    predict: Callable[[Episode], Bool[np.ndarray, "h w"]],
    truth: Callable[[Episode], UInt8[np.ndarray, "h w"]],
    protocol: Protocol,
    done: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """mIoU over the fold's classes, FB-IoU, IoU by class (per cent), what failed, and the protocol.

    Raises DataError: no episode could be evaluated.
    """
    meter = EpisodeMeter(which.test, protocol.ignore_policy)
    failures: list[tuple[str, str]] = []
    for episode in episodes:
        try:
            meter.update(episode.class_id, predict(episode), truth(episode), episode.class_id + 1)
        except ClipEsError as error:
            failures.append((episode.image_id, str(error)))
        done()
    if not meter.episodes:
        raise DataError(
            "no episode could be evaluated",
            expected="a list of pairs and their pictures",
            found=failures[0][1] if failures else "no episode",
        )
    return {
        "miou": 100 * meter.miou,
        "fb_iou": 100 * meter.fb_iou,
        "iou": {str(k): float(100 * value) for k, value in zip(which.test, meter.iou(), strict=True)},
        "episodes": meter.episodes,
        "failures": failures,
        "protocol": asdict(protocol),
    }
