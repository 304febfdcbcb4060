"""Two methods at once: the mean of what both say about each pixel.

Two readings that err differently, such as the gradient of the whole picture's score and the words of single patches,
gain by their mean more than either does by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch
from jaxtyping import Float32
from torch import Tensor

from clip_es.calibration import enlarged
from clip_es.errors import ShapeError
from clip_es.images import shown_at
from clip_es.localize.base import Localization, Localizer, as_they_are
from clip_es.localize.viewed import Viewed
from clip_es.scaling import upsample
from clip_es.types import ClassMaps, EncodedImage, Picture
from clip_es.views import Fused


@dataclass(frozen=True)
class JointImage(EncodedImage):
    """A picture as both methods have seen it; tokens and attention are the second's."""

    halves: tuple[tuple[Picture, EncodedImage], tuple[Picture, EncodedImage]]


class Joint:
    """Two localizers as one.

    The maps are shares: with the background they sum to one at every pixel, unless views count for some labels more
    than for others.
    """

    refines_on_grid = True
    """The refiners on the grid have worked already when maps come from here."""

    settle = staticmethod(as_they_are)

    def __init__(
        self,
        first: Localizer,
        second: Localizer,
        weights: Literal["mean", "entropy"] = "mean",
        calibration: Literal["fixed", "otsu"] = "otsu",
        max_patches: int | None = None,
        certainty: float = 0.0,
    ) -> None:
        """`first` finds the classes where none are given. `calibration`: of the maps of a method without heights.

        Halves that are asked about several views are joined view by view; `certainty` is what one counts by (`Fused`).
        """
        self.first, self.second = first, second
        self.weights, self.calibration = weights, calibration
        self.max_patches, self.certainty = max_patches, certainty
        self.finds_classes = first.finds_classes
        told = dict.fromkeys(one.supervision for one in (first, second) if one.supervision != "none")
        self.supervision = "; ".join(told) or "none"
        self.sources: Mapping[str, str] = {
            f"{place}.{name}": value
            for place, one in (("first", first), ("second", second))
            for name, value in one.sources.items()
        }

    def to(self, device: str) -> None:
        """Move what can be moved to another device."""
        for part in (self.first, self.second):
            if move := getattr(part, "to", None):
                move(device)

    def seen_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """As the second method has it; the first is shown its own copy where that differs."""
        return self.second.seen_hw(size_hw)

    def encode(self, pictures: Sequence[Picture]) -> list[EncodedImage]:
        """Each picture once for both methods where they look at one size and one reads what the other has seen, which
        is half the work; else once for each, at the size each wants."""
        firsts = [self._for_first(picture) for picture in pictures]
        if source := self._shared(firsts, pictures):
            both = source.encode(pictures)
            pairs = list(zip(both, both, strict=True))
        else:
            # Copies of different sizes may have different grids although the pictures' grids are alike.
            alike = len({picture.grid_hw for picture in firsts}) <= 1
            one = self.first.encode(firsts) if alike else [self.first.encode([picture])[0] for picture in firsts]
            pairs = list(zip(one, self.second.encode(pictures), strict=True))
        return [
            JointImage(b.tokens, b.attention, b.last_attention, b.grid_hw, ((shown, a), (picture, b)))
            for picture, shown, (a, b) in zip(pictures, firsts, pairs, strict=True)
        ]

    def _shared(self, firsts: Sequence[Picture], pictures: Sequence[Picture]) -> Localizer | None:
        """Whose encoding serves both methods, if any."""
        if any(one is not other for one, other in zip(firsts, pictures, strict=True)):
            return None
        # What reads any encoded picture is content with what the other has kept besides.
        reads = [getattr(half, "reads", None) for half in (self.first, self.second)]
        if reads[1] is EncodedImage:
            return self.first
        return self.second if reads[0] is EncodedImage else None

    def _for_first(self, picture: Picture) -> Picture:
        wanted = self.first.seen_hw(picture.size_hw)
        if wanted == self.second.seen_hw(picture.size_hw):
            return picture
        shown = shown_at(picture, wanted, self.max_patches)
        return picture if shown.grid_hw == picture.grid_hw else shown

    @torch.no_grad()
    def locate(self, picture: Picture, seen: EncodedImage, class_ids: Sequence[int] | None) -> Localization:
        """The shares of each label at every pixel of the picture, background included.

        Raises ShapeError: the picture was not encoded by this; a class that the bank does not have. ConfigError: no
        labels are given, and the first method cannot find any.
        """
        if not isinstance(seen, JointImage):
            raise ShapeError("two methods look at a picture", expected="what Joint.encode gives", found=type(seen))
        (shown, sight), (other_shown, other) = seen.halves
        ones = _looks(self.first, shown, sight, class_ids)
        plain = next(ones)
        ids = plain.maps.class_ids
        if not ids:
            return plain
        fused = Fused(self.certainty)
        twos = _looks(self.second, other_shown, other, ids)
        for one, two in zip(chain([plain], ones), twos, strict=True):
            shares = self._mean(self._shares(self.first, one, picture), self._shares(self.second, two, picture))
            fused.add(ClassMaps(shares[1:].clamp(0, 1), ids, background=shares[0].clamp(0, 1)))
        return Localization(fused.value(), plain.scores, plain.raw, None)

    def _shares(self, half: Localizer, found: Localization, picture: Picture) -> Float32[Tensor, "label h w"]:
        """Background, then each label: shares that sum to one at every pixel."""
        settled = half.settle(found, found.maps, known=True)
        enlarge = settled.enlarge or upsample
        if self.calibration == "otsu" and getattr(half, "stretches", False):
            enlarge = enlarged
        maps = enlarge(settled.maps, picture.size_hw)
        background = maps.background if maps.background is not None else 1 - maps.scores.amax(0)
        shares = torch.cat([background[None], maps.scores])
        return shares / shares.sum(0).clamp(min=torch.finfo(shares.dtype).tiny)

    def _mean(
        self, one: Float32[Tensor, "label h w"], two: Float32[Tensor, "label h w"]
    ) -> Float32[Tensor, "label h w"]:
        if self.weights == "mean":
            return (one + two) / 2
        sure = [1 - _entropy(shares) / math.log(len(shares)) for shares in (one, two)]
        total = (sure[0] + sure[1]).clamp(min=1e-6)
        return (sure[0] * one + sure[1] * two) / total


def _looks(
    half: Localizer, picture: Picture, seen: EncodedImage, class_ids: Sequence[int] | None
) -> Iterator[Localization]:
    """What a method finds in each view of a picture; in the picture itself where it is not asked about views."""
    if isinstance(half, Viewed):
        return half.looks(picture, seen, class_ids)
    return iter([half.locate(picture, seen, class_ids)])


def _entropy(shares: Float32[Tensor, "label h w"]) -> Float32[Tensor, "h w"]:
    """In nats."""
    return -(shares * shares.clamp(min=1e-12).log()).sum(0)
