"""How a prompt-driven decoder does on classes it never saw masks of: the zero-shot protocol of CLIPSeg."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clip_es.encoder import Encoder
from clip_es.errors import ConfigError
from clip_es.localize.clipseg.decoder import Decoder
from clip_es.localize.clipseg.sight import Texts, block_outputs, prepare
from clip_es.masks import read_mask
from clip_es.metrics.masks import ConfusionMatrix, hiou
from clip_es.pipelines.clipseg.truth import Track, nearest, with_truth
from clip_es.records import Dataset
from clip_es.records.phrases.table import read_rgb


@dataclass(frozen=True)
class ZeroShotScores:
    """Shares in 0..1. A class that occurs nowhere counts 0, as published."""

    iou: dict[str, float]
    """Background, then each class."""
    seen: float
    """Mean over background and the seen classes."""
    unseen: float
    """Mean over the unseen classes. The published scorer hands the two lists over in the wrong order."""
    images: int

    @property
    def harmonic(self) -> float:
        """Harmonic mean of the two."""
        return hiou(self.seen, self.unseen)


@torch.no_grad()
def zero_shot(
    encoder: Encoder,
    decoder: Decoder,
    dataset: Dataset,
    names: Sequence[str],
    unseen: Collection[str],
    *,
    side: int | None = None,
    prompt: str = "{}",
    background_factor: float | None = 3.0,
    threshold: float = 0.3,
    track: Track = iter,
) -> ZeroShotScores:
    """Every class and the word background are prompts on every picture; the most probable one wins each pixel.

    Pictures and labels are stretched to a square of `side` (labels by nearest pixel). `background_factor` multiplies
    the probability of "background"; None leaves that word out, and pixels where no class is above `threshold` are
    background. Raises DataError: no picture has a mask. ConfigError: an unseen class is no class.
    Source: CLIPSeg's zero-shot evaluation. Differs: seen and unseen are not exchanged.
    """
    _check_unseen(names, unseen)
    side = side or decoder.side or 352
    vectors = Texts(encoder)(["background", *(prompt.format(name) for name in names)])
    matrix, images = ConfusionMatrix(len(names) + 1), 0
    for record in track(with_truth(dataset)):
        labels = nearest(read_mask(dataset.truth[record.image_id]), (side, side))
        pixels = prepare(read_rgb(record.path), side, encoder.patch).to(encoder.device)
        seen = block_outputs(encoder, pixels, decoder.layers)
        logits = decoder(seen, vectors, (side // encoder.patch, side // encoder.patch)).float()
        if background_factor is None:
            logits[0] = torch.logit(torch.tensor(threshold))
        found = multilabel(logits, 1.0 if background_factor is None else background_factor)
        matrix.update(found.cpu().numpy(), labels)
        images += 1
    iou = np.nan_to_num(matrix.compute().iou)
    by_name = dict(zip(("background", *names), iou.tolist(), strict=True))
    groups = [[by_name[name] for name in by_name if (name in unseen) is wanted] for wanted in (False, True)]
    return ZeroShotScores(by_name, float(np.mean(groups[0])), float(np.mean(groups[1])), images)


def multilabel(logits: Float[Tensor, "label h w"], background_factor: float = 3.0) -> Int[Tensor, "h w"]:
    """The label of each pixel, where the first map is of the prompt "background", whose probability counts threefold.

    Source: the published zero-shot evaluation, whose sums with -10 round probabilities to 1e-6. Differs: nothing.
    """
    probability = logits.sigmoid()
    return (torch.cat([background_factor * probability[:1], probability[1:]]) - 10).argmax(0)


def _check_unseen(names: Sequence[str], unseen: Collection[str]) -> None:
    wrong = [name for name in unseen if name not in names]
    if wrong or not unseen:
        raise ConfigError(
            f"{', '.join(wrong)} is no class" if wrong else "name the unseen classes",
            expected=", ".join(names),
            next_step="Name them with --unseen, separated by blanks.",
        )
