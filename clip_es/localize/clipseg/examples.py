"""Prompts of CLIPSeg for a run: a vector for each class, from words, from example pictures, or from both.

Examples lie in a folder of their class: `dog/rex.jpg` with its mask `dog/rex.png` or `dog/rex_mask.png`, in which every
pixel that is not 0 is the object. The mask of `rex.png` is `rex_mask.png`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor

from clip_es.config.methods import ClipSegConfig
from clip_es.config.stages import ImageConfig
from clip_es.decode import PICTURES
from clip_es.encoder.capture import normalised
from clip_es.encoder.encode import Encoder
from clip_es.errors import DataError
from clip_es.images import look_at
from clip_es.localize.clipseg.prompts import VISUAL_PROMPTS, visual_prompt
from clip_es.localize.clipseg.sight import IMAGENET_MEAN, IMAGENET_STD, image_prompts, mix, text_prompts
from clip_es.masks import read_mask

_MASK = "_mask"


@dataclass(frozen=True)
class Example:
    """A picture that shows a class, and where."""

    class_id: int
    path: Path
    rgb: UInt8[np.ndarray, "h w 3"]
    mask: Bool[np.ndarray, "h w"]


def class_prompts(
    encoder: Encoder,
    words: Sequence[Sequence[str]],
    config: ClipSegConfig,
    templates: Sequence[str] | None = None,
    examples: Sequence[Example] = (),
    side: int | None = None,
) -> dict[int, Float32[Tensor, " embed"]]:
    """The vector of each class that can be asked for, not of unit length.

    `words`: what a class is called, one row each, averaged over its words and over `templates` (default: the sentence
    of the settings). With examples only their classes have a vector: the mean over them, mixed with the words by
    `config.text_share`; `side`: of the square that examples are cut to, where the decoder knows another than 352
    pixels. Raises DataError: a sentence is empty or too long, or an example's mask is empty.
    """
    shown: dict[int, list[Tensor]] = {}
    for example in examples:
        shown.setdefault(example.class_id, []).append(_vector(encoder, example, config, side))
    asked = sorted(shown) if examples else range(len(words))
    if examples and not config.text_share:
        return {k: torch.stack(shown[k]).mean(0) for k in asked}
    sentences = {k: [t.replace("{}", word) for word in words[k] for t in templates or (config.prompt,)] for k in asked}
    vectors = iter(text_prompts(encoder, [one for k in asked for one in sentences[k]]))
    texts = {k: torch.stack([next(vectors) for _ in sentences[k]]).mean(0) for k in asked}
    if not examples:
        return texts
    return {k: mix(texts[k][None], torch.stack(shown[k]).mean(0)[None], config.text_share)[0] for k in asked}


def read_examples(folder: str | Path, class_id: Callable[[str], int]) -> list[Example]:
    """The examples of a folder, class by class, in the order of their names.

    Raises DataError: no such folder, nothing in it, a folder that is no class, a picture without a mask, a mask of
    another size or without any object, or a file that cannot be read.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError("is not a folder of examples", where=root, next_step="Pass --examples with a folder.")
    found = [_example(path, class_id(path.parent.name)) for path in _pictures(root)]
    if not found:
        raise DataError(
            "holds no example",
            where=root,
            expected="CLASS/NAME.jpg and CLASS/NAME.png, its mask",
            found=f"{sum(1 for _ in root.iterdir())} entries",
        )
    return found


def digest(examples: Sequence[Example]) -> str:
    """SHA-256 over classes, pixels and masks."""
    told = hashlib.sha256()
    for one in examples:
        told.update(f"{one.class_id}|{one.rgb.shape}|".encode())
        told.update(one.rgb.tobytes())
        told.update(np.packbits(one.mask).tobytes())
    return told.hexdigest()


def _pictures(root: Path) -> Iterator[Path]:
    for inner in sorted(path for path in root.iterdir() if path.is_dir()):
        names = {path.name for path in inner.iterdir()}
        for path in sorted(inner.iterdir()):
            stem, suffix = path.stem, path.suffix.lower()
            if suffix not in PICTURES or path.name.startswith(".") or stem.endswith(_MASK):
                continue
            others = {path.with_suffix(other).name for other in PICTURES if other != ".png"}
            if suffix == ".png" and others & names:
                continue  # the mask of a picture of another kind
            yield path


def _example(path: Path, class_id: int) -> Example:
    choices = [path.with_name(f"{path.stem}{_MASK}.png"), path.with_suffix(".png")]
    mask_path = next((choice for choice in choices if choice.is_file() and choice != path), None)
    if mask_path is None:
        raise DataError(
            "this example has no mask",
            where=path,
            expected=f"{choices[0].name} beside it" + ("" if choices[1] == path else f", or {choices[1].name}"),
            next_step="Draw one: a PNG of the same size in which the object is not 0.",
        )
    rgb = look_at(path, ImageConfig()).rgb
    mask = read_mask(mask_path) != 0
    assert rgb is not None  # pixels were asked for
    if mask.shape != rgb.shape[:2]:
        raise DataError(
            "the mask of an example has another size", where=mask_path, expected=rgb.shape[:2], found=mask.shape
        )
    if not mask.any():
        raise DataError(
            "the mask of the example is empty", where=mask_path, expected="at least one pixel of the object"
        )
    return Example(class_id, path, rgb, mask)


def _vector(encoder: Encoder, example: Example, config: ClipSegConfig, side: int | None) -> Float32[Tensor, " embed"]:
    pixels = torch.from_numpy(np.ascontiguousarray(example.rgb)).movedim(-1, 0).float() / 255
    pixels = normalised(pixels[None], IMAGENET_MEAN, IMAGENET_STD)[0]
    mode = VISUAL_PROMPTS[config.visual_prompt]
    prompt = visual_prompt(pixels, torch.from_numpy(example.mask), replace(mode, side=side or mode.side))
    return image_prompts(encoder, _whole(prompt, encoder.patch)[None].to(encoder.device))[0]


def _whole(prompt: Float32[Tensor, "3 h w"], patch: int) -> Float32[Tensor, "3 ph pw"]:
    """Modes that do not cut keep the picture's size, which need not be whole patches."""
    height, width = (patch * -(-side // patch) for side in prompt.shape[1:])
    if (height, width) == tuple(prompt.shape[1:]):
        return prompt
    return F.interpolate(prompt[None], size=(height, width), mode="bilinear", align_corners=False)[0]
