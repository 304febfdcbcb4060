"""The joint between a method and everything else: what a localizer is asked for, and what it answers.

A method is one file with one class that has these few members, and one line in `methods.py`. Reading, batching, text
bank, refiners, masks, storing, evaluation and the command line are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float32
from torch import Tensor

from clip_es.errors import ShapeError
from clip_es.regions import Instances
from clip_es.scaling import keep_heights
from clip_es.types import ClassMaps, EncodedImage, Picture, TextBank


@dataclass(frozen=True)
class Localization:
    """The maps of a picture's labels, and the numbers behind them."""

    maps: ClassMaps
    """The maps in [0, 1], on the patch grid or finer. For CLIP-ES M_c: after ReLU and two min-max scalings, so that at
    0.5 a class and background are even; for others `Settled.enlarge` sees to that."""
    scores: Float32[Tensor, " text"]
    """One number for each map, and for CLIP-ES then for each background word. CLIP-ES: what was explained, softmax
    scores of the labels, then of the background words (none where these are switched off); logits where the softmax is
    switched off, or where a label has no competitor. CLIPer: the largest value of each raw map; CLIPSeg: the largest
    probability."""
    raw: Float32[Tensor, "class gh gw"]
    """The maps before scaling: CLIP-ES before ReLU, CLIPer in 0..2, CLIPSeg logits."""
    weights: Float32[Tensor, "class dim"] | None
    """CLIP-ES: mean over patches of d score / d ln_1, one row for each label; None for the variants and for others."""
    instances: Instances | None = None
    """Single things of the classes, where the method tells them apart."""


Enlarge = Callable[[ClassMaps, tuple[int, int]], ClassMaps]
"""Maps on a grid, and a height and width, to maps of that size, in [0, 1], at 0.5 even with background. It travels to
other processes with its picture."""


@dataclass(frozen=True)
class Settled:
    """The maps of a picture once no network is needed any more."""

    found: Localization
    """What was found of the classes that stay."""
    maps: ClassMaps
    """Their maps after the refiners on a grid."""
    enlarge: Enlarge | None = None
    """How they come to full size; None: `clip_es.scaling.upsample`, by whoever needs it."""


def as_they_are(found: Localization, maps: ClassMaps, known: bool) -> Settled:
    """`Localizer.settle` of a method whose maps the refiners may stretch to [0, 1], each by itself."""
    return Settled(found, maps)


def with_heights(found: Localization, maps: ClassMaps, known: bool) -> Settled:
    """`Localizer.settle` of a method whose maps say by their height how likely a class is."""
    return Settled(found, keep_heights(found.maps, maps))


@runtime_checkable
class Localizer(Protocol):
    """A method, ready to work: it holds the frozen encoder, the text bank and its own settings.

    One whose maps are each stretched to [0, 1], so that their heights say nothing, may say so by `stretches = True`:
    a threshold can then be found for each map from its own values. One that reads what another method has seen may say
    so by `reads = EncodedImage`; two methods joined then share one pass of the encoder. One that can look at several
    pictures of one grid at once has `locate_together(seen, class_ids)`, a list of each, which a GPU is asked instead.
    """

    @property
    def supervision(self) -> str:
        """What it was trained on besides CLIP's own pairs; "none" where it saw no mask. Stated in run.yaml."""
        ...

    @property
    def finds_classes(self) -> bool:
        """Whether it can be asked without labels (`class_ids=None`)."""
        ...

    @property
    def sources(self) -> Mapping[str, str]:
        """SHA-256 of whatever its maps depend on besides encoder and text bank, by name. Goes to run.yaml."""
        ...

    def seen_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width at which the encoder is shown a picture of this size; rounded to whole patches later."""
        ...

    def encode(self, pictures: Sequence[Picture]) -> list[EncodedImage]:
        """Pictures of one grid through the frozen encoder, once, whatever is asked about them afterwards.

        What a method needs beside tokens and attention it keeps in a subclass of `EncodedImage` of its own.
        """
        ...

    def locate(self, picture: Picture, seen: EncodedImage, class_ids: Sequence[int] | None) -> Localization:
        """A map for each class, in the order of `class_ids`; None: for each class that the method may find."""
        ...

    def settle(self, found: Localization, maps: ClassMaps, known: bool) -> Settled:
        """What stays of `maps`, which the refiners on a grid have made of `found`, and how it comes to full size.

        `known`: the labels are; else the method drops the classes that do not occur. A method without a rule of its
        own has `settle = staticmethod(as_they_are)` or `staticmethod(with_heights)`.
        """
        ...


def check_known(class_ids: Sequence[int], bank: TextBank) -> tuple[int, ...]:
    """The ids as a tuple. Raises ShapeError: one that the bank does not have."""
    unknown = [k for k in class_ids if not 0 <= k < bank.class_count]
    if unknown:
        raise ShapeError(
            "these classes are not in the text bank",
            expected=f"0..{bank.class_count - 1}",
            found=unknown,
            next_step="Build the bank from the vocabulary that the labels come from.",
        )
    return tuple(class_ids)
