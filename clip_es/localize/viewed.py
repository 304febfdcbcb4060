"""A localizer asked about several views of a picture, with its refiners on the grid; their maps become one set.

It is a localizer itself, so nothing else knows of views. A view's attention never meets another view's map: each is
located and refined by itself, brought back to the picture at full size, and added up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from clip_es.config.views import ViewsConfig
from clip_es.errors import ShapeError
from clip_es.images import shown_at
from clip_es.localize.base import Localization, Localizer, Settled
from clip_es.refine.base import GridRefiner
from clip_es.types import ClassMaps, EncodedImage, Picture
from clip_es.views import Fused, View, views


@dataclass(frozen=True)
class ViewedImage(EncodedImage):
    """All views of one picture, encoded; tokens and attention are those of the plain view."""

    parts: tuple[tuple[View, Picture, Picture, EncodedImage], ...]
    """For each view: itself, the picture at its scale, the picture as it was shown, and what the encoder saw."""


class Viewed:
    """Several views of a picture in place of one, for any `Localizer`."""

    refines_on_grid = True
    """The refiners on the grid have worked already when maps come from here."""

    def __init__(
        self,
        base: Localizer,
        config: ViewsConfig,
        refiners: Sequence[tuple[str, GridRefiner]] = (),
        max_patches: int | None = None,
    ) -> None:
        """`refiners` run in each view. `max_patches`: the most that an enlarged view has."""
        self.base, self.config, self.max_patches = base, config, max_patches
        self._refiners = [refine for _, refine in refiners]
        self.supervision, self.finds_classes = base.supervision, base.finds_classes
        self.stretches: bool = getattr(base, "stretches", False)
        self.reads = getattr(base, "reads", None)
        self.sources: Mapping[str, str] = base.sources

    def to(self, device: str) -> None:
        """Move what can be moved to another device."""
        for part in (self.base, *self._refiners):
            if move := getattr(part, "to", None):
                move(device)

    def seen_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """As the localizer has it, for the plain view."""
        return self.base.seen_hw(size_hw)

    def encode(self, pictures: Sequence[Picture]) -> list[EncodedImage]:
        """Every view of every picture once; views of one grid, such as mirrored ones, go in one batch."""
        every = list(views(self.config, pictures[0].patch)) if pictures else []
        parts: list[dict[int, tuple[View, Picture, Picture, EncodedImage]]] = [{} for _ in pictures]
        for alike in _of_one_grid(every):
            shown = [
                (rank, place, scaled, every[rank].of(scaled))
                for rank in alike
                for place, scaled in enumerate(self._scaled(picture, every[rank].scale) for picture in pictures)
            ]
            sights = self.base.encode([seen for *_, seen in shown])
            for (rank, place, scaled, seen), sight in zip(shown, sights, strict=True):
                parts[place][rank] = (every[rank], scaled, seen, sight)
        return [
            ViewedImage(
                plain.tokens,
                plain.attention,
                plain.last_attention,
                plain.grid_hw,
                tuple(found[rank] for rank in range(len(every))),
            )
            for found in parts
            for plain in [found[0][-1]]
        ]

    def locate(self, picture: Picture, seen: EncodedImage, class_ids: Sequence[int] | None) -> Localization:
        """The maps of all views as one, at the size of the picture; background likewise where the method has it.

        Without labels, the plain view says which classes there are. Raises ShapeError: the picture was not encoded
        by this; a class that the bank does not have.
        """
        fused, plain = Fused(self.config.certainty), None
        for found in self.looks(picture, seen, class_ids):
            plain = plain or found
            if not found.maps.class_ids:
                return found
            fused.add(found.maps)
        assert plain is not None  # there is always a plain view
        return replace(plain, maps=fused.value())

    def looks(self, picture: Picture, seen: EncodedImage, class_ids: Sequence[int] | None) -> Iterator[Localization]:
        """What each view finds, the plain one first, with its maps at the size of the picture.

        One without classes is the last. Raises as `locate`.
        """
        if not isinstance(seen, ViewedImage):
            raise ShapeError("views are located together", expected="what Viewed.encode gives", found=type(seen))
        for view, scaled, shown, sight in seen.parts:
            found = self.base.locate(shown, sight, class_ids)
            class_ids = found.maps.class_ids
            if not class_ids:
                yield found
                return
            maps = self._settled(shown, sight, found)
            hw = (scaled.patches.shape[0], scaled.patches.shape[1])
            rows = maps.scores if maps.background is None else torch.cat([maps.scores, maps.background[None]])
            back = view.undo(rows, hw, picture.patch, picture.size_hw)
            background = None if maps.background is None else back[-1]
            yield replace(found, maps=ClassMaps(back[: len(class_ids)], class_ids, background=background))

    def settle(self, found: Localization, maps: ClassMaps, known: bool) -> Settled:
        """By the rule of the localizer, of the mean."""
        return self.base.settle(found, maps, known)

    def _scaled(self, picture: Picture, scale: float) -> Picture:
        """The picture as the encoder sees it at another scale."""
        if scale == 1.0:
            return picture
        height, width = (max(1.0, scale * side) for side in picture.patches.shape[:2])
        return shown_at(picture, (round(height), round(width)), self.max_patches if scale > 1 else None)

    def _settled(self, shown: Picture, sight: EncodedImage, found: Localization) -> ClassMaps:
        """The maps of one view after its refiners; thresholds are set once, on the mean."""
        maps = found.maps
        for refine in self._refiners:
            maps = refine(shown, sight, maps)
        return self.base.settle(found, maps, known=True).maps


def _of_one_grid(every: Sequence[View]) -> list[list[int]]:
    """Places of the views, those together that show all pictures on the same grid."""
    groups: dict[tuple[float, bool, bool], list[int]] = {}
    for rank, view in enumerate(every):
        groups.setdefault((view.scale, view.shift[0] > 0, view.shift[1] > 0), []).append(rank)
    return list(groups.values())
