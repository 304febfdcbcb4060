"""What the labels of a mask are called in other tools, and which numbers they have there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from clip_es.errors import ConfigError, DataError, nearest
from clip_es.masks import palette
from clip_es.types import MAX_CLASSES, UNDECIDED

BACKGROUND = "background"
UNDECIDED_NAME = "undecided"
IGNORE = "__ignore__"
"""What labelme calls undecided; its own converters write 255 for it."""

BACKGROUND_CATEGORY = 256
UNDECIDED_CATEGORY = 255
"""COCO category ids beyond those of any class: classes have 1..254."""

_SPECIAL = {BACKGROUND: 0, "_background_": 0, UNDECIDED_NAME: UNDECIDED, IGNORE: UNDECIDED, "ignored": UNDECIDED}
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Names:
    """The classes of a run in the order of their ids, and their COCO category ids.

    Raises ConfigError: too many, a name twice or reserved, category ids that do not fit.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...] = ()
    """One for each class, 1..254; 1, 2, 3, ... where none are given."""

    def __post_init__(self) -> None:
        if not self.category_ids:
            object.__setattr__(self, "category_ids", tuple(range(1, len(self.classes) + 1)))
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise ConfigError("a mask holds 1 to 254 classes", found=len(self.classes))
        for name in self.classes:
            if name.lower() in _SPECIAL or not name.strip() or _CONTROL.search(name):
                raise ConfigError(
                    f"a class cannot be called {name!r} in an export",
                    expected=f"any printable name but {', '.join(_SPECIAL)}",
                    next_step="Rename the class in the vocabulary and pass it as --vocabulary FILE.",
                )
        if len(set(self.classes)) != len(self.classes):
            raise ConfigError("two classes have one name", found=self.classes)
        ids = self.category_ids
        if len(ids) != len(self.classes) or len(set(ids)) != len(ids) or not all(1 <= i < 255 for i in ids):
            raise ConfigError("each class needs its own category id, 1..254", found=ids)

    def label(self, name: str) -> int:
        """The mask value of a name, spelt as here or in other letter case: 0, k + 1 or 255.

        Raises DataError: no label is called so.
        """
        plain = name.strip()
        if plain in self.classes:
            return self.classes.index(plain) + 1
        lower = plain.lower()
        loose = [k for k, known in enumerate(self.classes) if known.lower() == lower]
        if len(loose) == 1:
            return loose[0] + 1
        if lower in _SPECIAL:
            return _SPECIAL[lower]
        raise DataError(
            f"the label {name[:80]!r} is not one of this run",
            expected=f"{', '.join(self.classes[:20])}{', ...' if len(self.classes) > 20 else ''}, "
            f"{BACKGROUND} or {UNDECIDED_NAME}",
            next_step=nearest(plain[:80], self.classes) or "Rename it in the file, or leave the picture out.",
        )

    def name(self, label: int) -> str:
        """The name of a mask value."""
        return {0: BACKGROUND, UNDECIDED: UNDECIDED_NAME}.get(label) or self.classes[label - 1]

    def category(self, label: int) -> int:
        """The COCO category id of a mask value."""
        return {0: BACKGROUND_CATEGORY, UNDECIDED: UNDECIDED_CATEGORY}.get(label) or self.category_ids[label - 1]

    def colour(self, label: int) -> tuple[int, int, int]:
        """Red, green and blue of a mask value in the VOC palette."""
        red, green, blue = palette()[label].tolist()
        return red, green, blue

    def refuse_in_names(self, letters: str, tool: str) -> None:
        """Raises ConfigError: a class name holds one of the letters, which `tool` separates its columns by."""
        wrong = [name for name in self.classes if any(letter in name for letter in letters)]
        if wrong:
            raise ConfigError(
                f"{tool} separates its columns by {' and '.join(map(repr, letters))}, so no name may hold that",
                found=", ".join(wrong),
                next_step="Rename the class in the vocabulary and pass it as --vocabulary FILE.",
            )


def coco_category_ids(classes: Sequence[str], coco: Sequence[str]) -> tuple[int, ...]:
    """The ids 1..90 of COCO's own files where the classes are COCO's 80 in their order, otherwise none.

    Source: COCO 2014 and 2017, `instances_*.json`: ten of the ninety numbers were never used.
    """
    unused = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    return tuple(i for i in range(1, 91) if i not in unused) if tuple(classes) == tuple(coco) else ()
