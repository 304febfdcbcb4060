"""Example pictures as prompts: what is not the object is darkened, blurred and cut away before CLIP sees it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from clip_es.errors import ConfigError, DataError, ShapeError

_BLUR_SIDE = 15
"""Side of the Gaussian kernel, pixels, whatever its sigma."""


@dataclass(frozen=True)
class VisualPromptConfig:
    """How an example picture and its mask become a prompt; the default is the paper's best mix."""

    background: float = 0.1
    """Factor on what is outside the mask. Pictures are normalised, so 0 is the data set's mean colour, not black."""
    blur: float = 3.0
    """Sigma of the Gaussian on what is outside the mask, pixels; 0 leaves it sharp."""
    context: float | None = 0.1
    """The picture is cut to the mask's box, widened on each side by this share of its length. None: nothing is cut."""
    side: int = 352
    """Side of the cut square, pixels."""
    foreground: float = 1.0
    """Factor on what is inside the mask."""
    offset: float = 0.0
    """Added in the end; some published modes subtract 0.01."""

    def __post_init__(self) -> None:
        if self.blur < 0 or self.side < 1 or (self.context is not None and self.context < 0):
            raise ConfigError("blur and context are not negative, side is at least one pixel", found=self)


VISUAL_PROMPTS: dict[str, VisualPromptConfig] = {
    "crop_blur_highlight352": VisualPromptConfig(),
    "blur3_highlight01": VisualPromptConfig(blur=3.0, background=0.1, context=None, offset=-0.01),
    "blur3_highlight": VisualPromptConfig(blur=3.0, background=0.5, context=None, offset=-0.01),
    "blur_highlight": VisualPromptConfig(blur=1.0, background=0.5, context=None, offset=-0.01),
    "highlight": VisualPromptConfig(blur=0.0, background=0.15, context=None),
    "crop": VisualPromptConfig(blur=1.0, background=1.0, context=0.1),
    "overlay": VisualPromptConfig(blur=0.0, background=0.0, context=None),
}
"""The published modes by their names; the first is the best of the paper's study."""


def visual_prompt(
    picture: Float[Tensor, "3 h w"], mask: Bool[Tensor, "mh mw"], config: VisualPromptConfig | None = None
) -> Float[Tensor, "3 ph pw"]:
    """An example, normalised as `prepare` does, with what is outside its mask faded, and cut to the object.

    Raises ShapeError: another size of mask. DataError: the mask is empty.
    Source: CLIPSeg (CVPR 2022), visual prompt engineering, and its published code. Differs: nothing.
    """
    config = config or VisualPromptConfig()
    if mask.shape != picture.shape[1:]:
        raise ShapeError(
            "an example needs a mask of its own size", expected=list(picture.shape[1:]), found=list(mask.shape)
        )
    if not bool(mask.any()):
        raise DataError(
            "the mask of the example is empty",
            expected="at least one pixel of the object",
            next_step="Pass an example that shows it.",
        )
    inside = mask.to(picture.dtype)
    behind = gaussian_blur(picture, config.blur) if config.blur else picture
    mixed = config.foreground * picture * inside + config.background * behind * (1 - inside) + config.offset
    return mixed if config.context is None else crop_to(mixed, context_box(mask, config.context), config.side)


def context_box(mask: Bool[Tensor, "h w"], context: float) -> tuple[int, int, int, int]:
    """Box x0 y0 x1 y1 of a mask, each side moved out by `context` times the box's length, end excluded.

    Differs: x is clipped at the picture's width; the published code takes its height, the same for squares.
    """
    ends = []
    for on in (mask.any(0), mask.any(1)):
        where = on.nonzero()[:, 0]
        low, high = int(where[0]), int(where[-1]) + 1
        widen = context * (high - low)
        ends.append((max(0, int(low - widen)), min(len(on), int(high + widen))))
    (x0, x1), (y0, y1) = ends
    return x0, y0, x1, y1


def crop_to(picture: Float[Tensor, "3 h w"], box: tuple[int, int, int, int], side: int) -> Float[Tensor, "3 s s"]:
    """The box cut out, centred in a square of zeros, resized to the side (nearest)."""
    x0, y0, x1, y1 = box
    cut = picture[:, y0:y1, x0:x1]
    height, width = cut.shape[1:]
    longest = max(height, width)
    square = cut.new_zeros(3, longest, longest)
    top, left = (longest - height) // 2, (longest - width) // 2
    square[:, top : top + height, left : left + width] = cut
    return F.interpolate(square[None], size=(side, side), mode="nearest")[0]


def gaussian_blur(picture: Float[Tensor, "3 h w"], sigma: float) -> Float[Tensor, "3 h w"]:
    """A Gaussian of 15 x 15 pixels; the border is mirrored without repeating the edge, as OpenCV's default has it."""
    reach = _BLUR_SIDE // 2
    line = torch.exp(-((torch.arange(_BLUR_SIDE, dtype=torch.float64) - reach) ** 2) / (2 * sigma**2))
    line = (line / line.sum()).to(picture)
    rows, columns = (_mirrored(length, reach, picture.device) for length in picture.shape[1:])
    tall = picture[:, rows].unfold(1, _BLUR_SIDE, 1) @ line
    return tall[:, :, columns].unfold(2, _BLUR_SIDE, 1) @ line


def find_crop(
    mask: Bool[Tensor, "h w"],
    generator: torch.Generator | None = None,
    *,
    tries: int = 50,
    least: float = 0.05,
) -> tuple[tuple[int, int, int, int], bool]:
    """A random square x0 y0 x1 y1, as large as fits, with enough of the object; and whether none was found.

    The first place is taken whose foreground is more than `least` of the *whole* picture's area; after `tries` places
    the best one seen. Source: CLIPSeg's published code for training pictures. Differs: nothing.
    """
    height, width = mask.shape
    side, enough = min(height, width), least * mask.numel()
    best, most = (0, 0, side, side), -1.0
    for _ in range(tries):
        y = int(torch.randint(0, height - side + 1, (1,), generator=generator))
        x = int(torch.randint(0, width - side + 1, (1,), generator=generator))
        on = float(mask[y : y + side, x : x + side].sum())
        if on > most:
            best, most = (x, y, x + side, y + side), on
        if on > enough:
            return (x, y, x + side, y + side), False
    return best, True


def _mirrored(length: int, reach: int, device: torch.device) -> Tensor:
    """Indices -reach .. length + reach - 1 folded back into 0 .. length - 1; right for any length."""
    period = max(2 * (length - 1), 1)
    index = torch.arange(-reach, length + reach, device=device) % period
    return torch.minimum(index, period - index) if length > 1 else torch.zeros_like(index)
