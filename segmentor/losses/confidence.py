"""The loss that trusts a mask only where the mask is sure of itself."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from clip_es.errors import ConfigError, DataError, ShapeError
from clip_es.masks import CRF_THRESHOLD
from clip_es.types import UNDECIDED

LossMode = Literal["hard", "soft", "plain"]
"""hard: pixels less sure than a threshold are left out, the others count alike (the paper's). soft: each pixel counts
as much as the mask is sure of it. plain: all count alike."""


def confidence_loss(
    logits: Float[Tensor, "batch class h w"],
    labels: Int[Tensor, "batch label_h label_w"],
    confidence: Float[Tensor, "batch confidence_h confidence_w"] | None = None,
    *,
    mode: LossMode | str = "hard",
    threshold: int | float = CRF_THRESHOLD,
    balanced: bool = False,
    pixel_weight: Float[Tensor, "batch label_h label_w"] | None = None,
    class_weight: Float[Tensor, "class"] | None = None,
    ignore_index: int | None = UNDECIDED,
) -> Float[Tensor, ""]:
    """Cross-entropy averaged over the pixels, each with its weight w: sum(w * CE) / sum(w).

    Logits, labels and confidence are of one size; confidence is within 0..1 and may be left out in mode plain.
    `balanced` takes that average over the pixels of background and over those of all classes apart, and then the mean
    of the two (or the one that is there), so that a large background cannot drown the objects. Without any weight the
    loss is 0, and so is its gradient. In a distributed run sum(w) is that of all processes, so that two processes give
    the gradients of one with both batches.

    Raises ShapeError: labels or confidence of another size. DataError: a label that is neither a class nor
    `ignore_index`. ConfigError: hard or soft without confidence, or an unknown mode.
    Source: CLIP-ES (CVPR 2023), confidence-guided loss: hard, with mu = 0.95. Differs: soft and balanced are additions;
    balanced is the balanced seeding loss of DSRG (CVPR 2018).
    """
    _check(logits, labels, confidence, mode)
    valid = torch.ones_like(labels, dtype=torch.bool) if ignore_index is None else labels != ignore_index
    wrong = valid & ((labels < 0) | (labels >= logits.shape[1]))
    if not logits.is_cuda and bool(wrong.any()):  # On a GPU the question would stop the stream at every step.
        raise DataError(
            "a label is not one of the classes",
            expected=f"0..{logits.shape[1] - 1}, or {ignore_index} for undecided",
            found=int(labels[wrong][0]),
            next_step="clip-es check names the masks with such labels.",
        )
    target = torch.where(valid, labels, 0).long()
    loss = F.cross_entropy(logits, target, weight=class_weight, reduction="none")
    weight = valid.to(loss.dtype)
    if confidence is not None and mode == "hard":
        weight = weight * (confidence >= threshold)
    elif confidence is not None and mode == "soft":
        weight = weight * confidence.to(loss.dtype)
    if pixel_weight is not None:
        weight = weight * pixel_weight.to(loss.dtype)
    if not balanced:
        # Class weights count in the mean as they do in torch's own.
        share = weight if class_weight is None else weight * class_weight[target]
        return _mean((loss * weight).sum(), share.sum())
    ground = (target == 0).to(loss.dtype)
    parts = [weight * ground, weight * (1 - ground)]
    sums = [_over_processes(part.sum()) for part in parts]
    there = sum((total > 0).to(loss.dtype) for total in sums)
    means = [_ratio((loss * part).sum(), total) for part, total in zip(parts, sums, strict=True)]
    return (means[0] + means[1]) / torch.as_tensor(there).clamp(min=1)


class ConfidenceGuidedLoss(nn.Module):
    """`confidence_loss` as a loss of mmsegmentation: `loss_decode=dict(type="ConfidenceGuidedLoss", mode="soft")`.

    Heads hand their losses logits and labels alone, so the confidence comes from the model around them:
    `type="ConfidenceEncoderDecoder"` in place of `EncoderDecoder` sets `confidence` for the time of each step.
    """

    def __init__(
        self,
        mode: LossMode | str = "hard",
        threshold: int | float = CRF_THRESHOLD,
        balanced: bool = False,
        class_weight: list[float] | None = None,
        loss_weight: int | float = 1.0,
        loss_name: str = "loss_cgl",
    ) -> None:
        super().__init__()
        if mode not in get_args(LossMode) or not 0 <= threshold <= 1:
            raise ConfigError(
                "no such confidence-guided loss",
                expected=f"mode {' | '.join(get_args(LossMode))}, threshold within 0..1",
                found=f"{mode}, {threshold}",
            )
        self.mode = mode
        self.threshold = threshold
        self.balanced = balanced
        self.class_weight = class_weight
        self.loss_weight = loss_weight
        self._loss_name = loss_name
        self.confidence: Tensor | None = None
        """[batch h w] in 0..1, of the batch whose loss comes next."""

    @property
    def loss_name(self) -> str:
        """Its name in the log; what starts with `loss_` enters the sum."""
        return self._loss_name

    def forward(
        self,
        cls_score: Float[Tensor, "batch class h w"],
        label: Int[Tensor, "batch label_h label_w"],
        weight: Float[Tensor, "batch label_h label_w"] | None = None,
        avg_factor: object = None,
        reduction_override: object = None,
        ignore_index: int | None = UNDECIDED,
        **_: object,
    ) -> Float[Tensor, ""]:
        """The loss of a batch, in the form heads call it. Raises as `confidence_loss`; ConfigError: no mean asked."""
        if avg_factor is not None or reduction_override not in (None, "mean"):
            raise ConfigError("ConfidenceGuidedLoss takes its own mean", found=f"{avg_factor}, {reduction_override}")
        confidence = self.confidence
        if confidence is not None and confidence.shape[1:] != label.shape[1:]:
            # A head that computes its loss on a smaller label map than the data set's.
            confidence = F.interpolate(confidence[:, None], size=tuple(label.shape[1:]), mode="nearest")[:, 0]
        # Under mixed precision logits are half; the exponentials of a loss are not to be.
        logits = cls_score.float() if cls_score.dtype in (torch.float16, torch.bfloat16) else cls_score
        loss = confidence_loss(
            logits,
            label,
            confidence,
            mode=self.mode,
            threshold=self.threshold,
            balanced=self.balanced,
            pixel_weight=weight,
            class_weight=None if self.class_weight is None else logits.new_tensor(self.class_weight),
            ignore_index=ignore_index,
        )
        return self.loss_weight * loss


def _check(logits: Tensor, labels: Tensor, confidence: Tensor | None, mode: str) -> None:
    if mode not in get_args(LossMode):
        raise ConfigError("no such loss", expected=" | ".join(get_args(LossMode)), found=mode)
    if confidence is None and mode != "plain":
        raise ConfigError(
            f"the {mode} loss needs the confidence of every pixel",
            expected='a model of type "ConfidenceEncoderDecoder" and a pipeline with "LoadPseudoMask" and'
            ' "PackPseudoMask"',
            found="no confidence",
            next_step='Use them, or mode="plain".',
        )
    size = (logits.shape[0], *logits.shape[2:])
    for name, array in (("labels", labels), ("confidence", confidence)):
        if array is not None and tuple(array.shape) != size:
            raise ShapeError(f"{name} of another size than the logits", expected=size, found=tuple(array.shape))


def _over_processes(total: Tensor) -> Tensor:
    """The mean over all processes, so that the mean of their gradients is the gradient over all pixels."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return total
    total = total.detach().clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def _mean(weighted: Tensor, total: Tensor) -> Tensor:
    return _ratio(weighted, _over_processes(total))


def _ratio(weighted: Tensor, total: Tensor) -> Tensor:
    """weighted / total, and 0 with a gradient of 0 where the total is 0: `weighted` is a sum of zeros then."""
    return weighted / torch.where(total > 0, total, torch.ones_like(total))
