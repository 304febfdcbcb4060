"""From maps to a mask, and masks to and from PNG files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from io import BufferedWriter, BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8, UInt16
from PIL import Image
from torch import Tensor

from clip_es.config.stages import MaskConfig
from clip_es.errors import DataError, ShapeError
from clip_es.images import quiet_pillow
from clip_es.scaling import upsample
from clip_es.store.shards.inner import content_of
from clip_es.types import MAX_CLASSES, UNDECIDED, UNDECIDED_WIDE, ClassMaps, PseudoMask

CRF_THRESHOLD = 0.95
"""Below this probability a pixel is left undecided, where a CRF made probabilities and nothing else was asked for."""


def decide(size_hw: tuple[int, int], maps: ClassMaps, config: MaskConfig) -> PseudoMask:
    """The strongest label of each pixel at (height, width); the first wins a tie, and background is first.

    Where no refiner knows the background, its score is (1 - best map) to the power `config.background_power`.
    Confidence is the winner's probability where a refiner gave probabilities (the CRF), otherwise the winner's share
    of the sum of all scores, background included. Pixels below the threshold become 255; `decided` keeps what they
    were. With `config.background` off only classes win, and confidence is the winner's share of their sum; a picture
    without any class stays background. Raises ShapeError: a class id that an 8-bit mask cannot hold.
    Source: CLIP-ES, `eval_cam.py` and `eval_cam_with_crf.py`. Differs: confidence without a CRF is our addition.
    """
    _check_classes(maps.class_ids)
    scores = label_scores(upsample(maps, size_hw), config.background_power, config.half)
    if maps.scores.device.type != "cpu":  # There `ClassMaps` does not look.
        _check_probabilities(scores)
    names = np.array([0, *(k + 1 for k in maps.class_ids)], dtype=np.uint8)
    if not config.background and maps.class_ids:
        names, scores = names[1:], scores[1:]
    decided = names[scores.argmax(axis=0)]
    confidence = scores.max(axis=0).astype(np.float32)
    if not config.background:
        total = scores.sum(axis=0, dtype=np.float32)
        confidence = np.divide(confidence, total, out=np.zeros_like(confidence), where=total > 0)
    elif maps.background is None:
        confidence /= scores.sum(axis=0, dtype=np.float32)
    labels = leave_open(decided, confidence, undecided_below(maps, config))
    return PseudoMask(labels=labels, confidence=confidence, class_ids=maps.class_ids, decided=decided)


def decide_together(
    probabilities: Float32[Tensor, "picture label h w"], class_ids: Sequence[tuple[int, ...]], config: MaskConfig
) -> list[PseudoMask]:
    """`decide` for the probabilities of several pictures, background first, on any device, from which is read once.

    A picture with fewer labels than the most has zeros behind them. `config.background` must be on.
    Raises ShapeError: a class id that an 8-bit mask cannot hold; probabilities outside 0..1.
    """
    _check_classes(k for ids in class_ids for k in ids)
    pictures, labels, height, width = probabilities.shape
    rows = [[0, *(k + 1 for k in ids), *[0] * (labels - 1 - len(ids))] for ids in class_ids]
    names = torch.tensor(rows, dtype=torch.uint8).to(probabilities.device)
    highest, at = probabilities.flatten(2).max(1)
    packed = torch.cat([highest.flatten().view(torch.uint8), names.gather(1, at).flatten()]).cpu().numpy()
    confidence, decided = np.split(packed, [4 * pictures * height * width])
    confidence = confidence.view(np.float32).reshape(pictures, height, width)
    _check_probabilities(confidence)
    threshold = CRF_THRESHOLD if config.threshold is None else config.threshold
    each = zip(class_ids, confidence, decided.reshape(confidence.shape), strict=True)
    return [PseudoMask(leave_open(label, sure, threshold), sure, ids, decided=label) for ids, sure, label in each]


def _check_classes(class_ids: Iterable[int]) -> None:
    largest = max(class_ids, default=0)
    if largest >= MAX_CLASSES:
        raise ShapeError("an 8-bit mask cannot hold this class", expected=f"ids 0..{MAX_CLASSES - 1}", found=largest)


def _check_probabilities(scores: np.ndarray) -> None:
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ShapeError("class maps must lie in [0, 1]", found=f"{scores.min():.6g} .. {scores.max():.6g}")


def undecided_below(maps: ClassMaps, config: MaskConfig) -> float:
    """The confidence below which a pixel is left undecided."""
    if config.threshold is not None:
        return config.threshold
    return 0.0 if maps.background is None else CRF_THRESHOLD


def leave_open(
    decided: UInt8[np.ndarray, "h w"], confidence: Float32[np.ndarray, "h w"], threshold: float
) -> UInt8[np.ndarray, "h w"]:
    """The labels with 255 where the confidence is below the threshold."""
    return np.where(confidence < threshold, np.uint8(UNDECIDED), decided)


def label_scores(maps: ClassMaps, power: float, half: bool = False) -> Float[np.ndarray, "label h w"]:
    """Background, then each class, on the CPU; what the maps know of background is kept, else (1 - best)^power.

    `half` computes and returns float16, as published; probabilities of a refiner stay float32.
    """
    scores = maps.scores.cpu().numpy()
    if maps.background is not None:
        return np.concatenate([maps.background.cpu().numpy()[None], scores])
    if half:
        scores = scores.astype(np.float16)
    background = (1 - scores.max(axis=0, keepdims=True, initial=0)) ** power
    return np.concatenate([background, scores])


def palette() -> UInt8[np.ndarray, "256 3"]:
    """The VOC colours: the bits of a label, three at a time, become the high bits of red, green and blue."""
    labels = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for place in range(8):
        for channel in range(3):
            colours[:, channel] |= (((labels >> (3 * place + channel)) & 1) << (7 - place)).astype(np.uint8)
    return colours


@cache
def _palette_bytes() -> bytes:
    return palette().tobytes()


def write_mask(
    file: str | Path | BytesIO | BufferedWriter, labels: UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"]
) -> None:
    """Save labels as a PNG of mode P with the VOC palette; 16-bit labels as 16 bits of grey.

    Raises ShapeError: these are no labels. OSError: the file cannot be written.
    """
    if labels.ndim != 2 or labels.dtype not in (np.uint8, np.uint16) or not labels.size:
        raise ShapeError(
            "a mask has one label for each pixel",
            expected="uint8 or uint16 [h w]",
            found=f"{labels.dtype} {list(labels.shape)}",
        )
    image = Image.fromarray(labels)
    if labels.dtype == np.uint8:
        image.putpalette(_palette_bytes())
    image.save(file, format="PNG")


def read_mask(path: str | Path) -> UInt8[np.ndarray, "h w"]:
    """Labels from a palette PNG or an 8-bit grey PNG.

    Raises DataError: missing, damaged, no PNG, or a kind of PNG whose pixels are not labels.
    """
    return _read_png(Path(path), "mask", _MASKS)


def read_wide_mask(path: Path) -> UInt16[np.ndarray, "h w"]:
    """Labels from a mask of any number of classes, as `predict --classes` writes them: 65535 is undecided.

    Raises DataError as `read_mask`.
    """
    labels = _read_png(path, "mask", _MASKS | {(16, 0)})
    if labels.dtype == np.uint8:
        return np.where(labels == UNDECIDED, np.uint16(UNDECIDED_WIDE), labels.astype(np.uint16))
    return labels.astype(np.uint16)


def write_confidence(file: str | Path | BytesIO | BufferedWriter, confidence: Float32[np.ndarray, "h w"]) -> None:
    """Save confidence 0..1 as an 8-bit grey PNG of round(255 * confidence)."""
    Image.fromarray(np.rint(255 * confidence).astype(np.uint8)).save(file, format="PNG")


def read_confidence(path: Path) -> Float32[np.ndarray, "h w"]:
    """Confidence 0..1, exact to half a grey level (1/510). Raises DataError as `read_mask`."""
    return _read_png(path, "confidence", {(8, 0)}) / np.float32(255)


_MASKS = {(bits, 3) for bits in (1, 2, 4, 8)} | {(8, 0)}
"""(bit depth, colour type) of the PNGs that masks of up to 254 classes are."""

_COLOUR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}


def _advice(what: str, bits: int) -> str | None:
    if what != "mask":
        return None
    if bits == 16:
        return "This command takes masks of up to 254 classes; clip_es.masks.read_wide_mask reads those of more."
    return "Save one number for each pixel: 0 background, k + 1 class k, 255 undecided."


def _read_png(path: Path, what: str, kinds: set[tuple[int, int]]) -> np.ndarray:
    """Pixels of a PNG whose (bit depth, colour type) is among `kinds`, untouched by any palette."""
    content = content_of(path)
    try:
        with quiet_pillow(), path.open("rb") if content is None else BytesIO(content) as file:
            header = file.read(26)
            if header[:8] != b"\x89PNG\r\n\x1a\n" or len(header) < 26:
                raise DataError(
                    f"a {what} must be a PNG file",
                    where=path,
                    found=f"a file that starts with {header[:8]!r}" if header else "0 bytes",
                    next_step="Other formats lose or blur labels; export it as PNG.",
                )
            if (header[24], header[25]) not in kinds:
                raise DataError(
                    f"the pixels of this PNG are not a {what}",
                    where=path,
                    expected="a palette or 8 bits of grey" if what == "mask" else "8 bits of grey",
                    found=f"{header[24]} bits, {_COLOUR_TYPES.get(header[25], 'unknown colours')}",
                    next_step=_advice(what, header[24]),
                )
            with Image.open(file, formats=["PNG"]) as image:
                return np.array(image)
    except DataError:
        raise
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise DataError(f"the {what} cannot be opened", where=path, found=error.strerror) from error
    except Exception as error:  # Damaged files make Pillow raise almost anything.
        raise DataError(f"the {what} is damaged", where=path, found=error, next_step="Write it again.") from error
