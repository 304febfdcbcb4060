"""What training-free CLIPer says of a picture, asked for the classes of a pixel-text model, by the same CLIP.

A head that was trained on masks of some classes knows outlines better and has been taught to answer with those
classes; the frozen CLIP knows all alike. The mean of both is better than either on classes without masks.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from clip_es.config.methods import CliperConfig
from clip_es.config.presets import CLIPER_SCENES
from clip_es.config.run import DEFAULT
from clip_es.encoder import load_encoder
from clip_es.errors import ConfigError, ShapeError
from clip_es.masks import label_scores
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.masks.method import masks
from clip_es.pipelines.parallel.executor import Executor
from clip_es.prompts.vocabulary import ClassEntry, Vocabulary
from clip_es.scaling import upsample
from clip_es.segmentor.inference import Segmenter
from clip_es.types import ImageRecord

SCENES = replace(CLIPER_SCENES, temperature=50.0, score_threshold=0.5, background_threshold=0.5)
"""CLIPer for the CLIPs of drawn scenes without labels: with 32 classes that compete, maps are lower than with the few
labels of a picture. Chosen on 30 scenes of seed 78: 37.5 mIoU, where the settings for 12 classes made 9.7."""


class TrainingFree:
    """Probabilities of the classes of a pixel-text model without its weights."""

    def __init__(self, maker: MaskMaker) -> None:
        self.maker = maker

    @classmethod
    def beside(cls, segmenter: Segmenter) -> TrainingFree:
        """For the classes, words and templates a model is asked for now. Raises ConfigError: it has no text."""
        facts = segmenter.text_facts()
        if facts is None:
            raise ConfigError(
                "a model of fixed classes has no words that CLIP could be asked for",
                expected="a model of `clip-es train --head pixel-text`",
                next_step="Leave --training-free out.",
            )
        entries = tuple(ClassEntry(row[0], synonyms=tuple(row[1:])) for row in segmenter.words)
        templates = tuple(facts["templates"]) or ("a photo of a {}.",)
        vocabulary = Vocabulary("asked", entries, tuple(facts["background_words"]), templates)
        weights = facts["text_of"]
        # Heights of maps depend on how sharp a CLIP is; the small ones of drawn scenes have settings of their own.
        cliper = SCENES if str(weights).startswith("scenes") else CliperConfig()
        config = replace(DEFAULT, method="cliper", refine=()).using(cliper=cliper)
        encoder = load_encoder(weights, device=str(segmenter.device))
        return cls(MaskMaker(encoder, vocabulary, config=config, labels="none"))

    def __call__(self, record: ImageRecord) -> Float32[Tensor, "label h w"]:
        """Probabilities at the picture's size, background first, on the CPU; classes that are not found have 0."""
        ((_, result),) = masks([record], self.maker, Executor())
        maps = upsample(result.maps, result.mask.labels.shape)
        scores = torch.from_numpy(np.asarray(label_scores(maps, self.maker.config.mask.background_power), np.float32))
        found = torch.zeros(len(self.maker.vocabulary.classes) + 1, *scores.shape[1:])
        found[[0, *(k + 1 for k in maps.class_ids)]] = scores
        return found / found.sum(0).clamp(min=1e-12)


def mixed(
    probabilities: Float32[Tensor, "label h w"], others: Float32[Tensor, "other oh ow"], amount: float
) -> Float32[Tensor, "label h w"]:
    """(1 - amount) p + amount q; 0 gives `probabilities` itself. Raises ShapeError: other classes or another size."""
    if probabilities.shape != others.shape:
        raise ShapeError(
            "two answers must be for the same classes and of one size",
            expected=list(probabilities.shape),
            found=list(others.shape),
        )
    return probabilities if amount == 0 else (1 - amount) * probabilities + amount * others.to(probabilities)
