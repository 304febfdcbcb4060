r"""Maps of any method, as its own code saved them: a folder with a file for each picture, or for each of its classes.

| file | holds |
|---|---|
| ID.npy | a pickled dictionary of arrays or tensors (`keys` and `attn_highres` of CLIP-ES, `high_res`, `cam`, or a \
map under each class number or name), read without unpickling; or a plain array [class h w] |
| ID.npz | arrays of the same names; or `class_ids` and `refined`, as this package keeps them |
| ID.tif | one grey page for each class of the vocabulary, in its order |
| ID/CLASS.png, CLASS/ID.png | one grey picture for each class, 8 or 16 bit; also .tif and .npy [h w] |

CLASS is a name of the vocabulary or its number. Values lie in 0..1, those of pictures with whole numbers in 0..255 or
0..65535; `scale="min-max"` takes any others and stretches each map. Nothing a file contains is executed.
"""

from __future__ import annotations

import math
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image, ImageSequence

from clip_es.decode import check_area, quiet_pillow
from clip_es.errors import ClipEsError, DataError, ShapeError
from clip_es.records.dataset import ClassId
from clip_es.records.file_listing import picture_names
from clip_es.records.labels.pickled import MAPS, pickled_rows
from clip_es.scaling import min_max
from clip_es.types import ClassMaps

Scale = Literal["none", "min-max"]
"""Values as they are, which must lie in 0..1; or each map shifted and stretched to 0..1."""

SUFFIXES = (".npy", ".npz", ".tif", ".tiff", ".png")
_PICTURES = (".tif", ".tiff", ".png")
_MAPS = ("attn_highres", "high_res", "highres", "refined", "maps", "cams", "cam")
"""Names under which maps are saved, the best first: refined ones before raw ones, full size before a grid."""
_KEYS = ("keys", "class_ids", "classes")

LARGEST = 2**31
"""Bytes of one file of maps."""

_MOST_MEGAPIXELS = 400
_FIX = MAPS.instead


@dataclass(frozen=True)
class MapFolder:
    """A folder of maps. Make one with `find_maps`."""

    root: Path
    files: Mapping[str, Path | Mapping[int, Path]]
    """By picture: its file, or the file of each of its classes."""
    names: tuple[str, ...]
    """Of the classes, in the order of their ids."""
    scale: Scale = "none"
    first_class: int = 0
    """The number that the first class has in the files."""

    def read(self, image_id: str) -> ClassMaps:
        """The maps of a picture, float32 in [0, 1], on whatever grid they were saved.

        A map of the background is left out, and where a file has one for every class, so are those that are nowhere
        above 0. Raises DataError: damaged, of an unknown form, a class that is not in the vocabulary, values that leave
        0..1. ShapeError: sizes that differ.
        """
        found = self.files[image_id]
        where = found if isinstance(found, Path) else self.root / image_id
        if isinstance(found, Path):
            numbers, maps = _read(found, self.names, self.first_class)
            every = numbers is None
            numbers = self._all(len(maps), found) if numbers is None else numbers
        else:
            every, numbers = False, [k + self.first_class for k in found]
            maps = [_one_map(path) for path in found.values()]
        kept = self._checked(numbers, maps, where)
        if every:
            kept = {k: one for k, one in kept.items() if one.max() > 0}
        if not kept:
            raise DataError("has no map with a value above 0", where=where, next_step="Leave the picture out.")
        return ClassMaps(torch.from_numpy(np.stack(list(kept.values()))), tuple(kept))

    def _all(self, count: int, path: Path) -> list[int]:
        classes = len(self.names) + self.first_class
        if count != classes:
            raise ShapeError(
                "without class numbers there must be a map for each class of the vocabulary",
                where=path,
                expected=f"{classes} maps",
                found=count,
                next_step=_FIX,
            )
        return list(range(classes))

    def _checked(self, numbers: Sequence[int], maps: Sequence[np.ndarray], where: Path) -> dict[int, np.ndarray]:
        if len(numbers) != len(maps) or len(set(numbers)) != len(numbers):
            raise DataError("needs one class number for each map", where=where, expected=len(maps), found=list(numbers))
        if any(one.ndim != 2 or one.shape != maps[0].shape or not one.size for one in maps):
            raise ShapeError(
                "the maps of a picture must have one size",
                where=where,
                expected="[class h w]",
                found=", ".join(sorted({str(list(one.shape)) for one in maps})),
            )
        class_ids = [number - self.first_class for number in numbers]
        wrong = [number for number, k in zip(numbers, class_ids, strict=True) if not -1 <= k < len(self.names)]
        wrong += [number for number, k in zip(numbers, class_ids, strict=True) if k == -1 and not self.first_class]
        if wrong:
            raise DataError(
                "has maps of classes that the vocabulary does not have",
                where=where,
                expected=f"numbers {self.first_class}..{len(self.names) + self.first_class - 1}",
                found=wrong[:10],
                next_step="Pass the --vocabulary of the maps, or --first-class 1 where 0 is the background.",
            )
        return {k: self._scaled(one, where) for k, one in zip(class_ids, maps, strict=True) if k >= 0}

    def _scaled(self, values: np.ndarray, where: Path) -> Float32[np.ndarray, "h w"]:
        whole = values.dtype.kind in "u"
        values = values.astype(np.float32) / (np.iinfo(values.dtype).max if whole else 1)
        low, high = float(values.min()), float(values.max())  # NaN wherever there is one
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError("has values that are not finite", where=where, next_step="Make the maps again.")
        if self.scale == "min-max":
            return min_max(torch.from_numpy(values)[None])[0].numpy()
        if low < -1e-3 or high > 1 + 1e-3:
            raise DataError(
                "has values outside 0..1",
                where=where,
                expected="maps in 0..1, at 0.5 even with the background",
                found=f"{low:g} .. {high:g}",
                next_step="Pass --scale min-max to stretch each map to 0..1.",
            )
        return values.clip(0, 1)


def find_maps(
    root: Path, names: tuple[str, ...], class_id: ClassId, scale: Scale = "none", first_class: int = 0
) -> MapFolder:
    """List the maps of a folder and its sub-folders; `a/b.npy` belongs to the picture `a__b`, that is `a/b.jpg`.

    Raises DataError: no such folder, no maps in it, or two files for one picture.
    """
    if not root.is_dir():
        raise DataError("this is not a folder of maps", where=root, next_step="Check --maps.")
    found: dict[str, Path | dict[int, Path]] = {}
    parts: dict[str, dict[int, Path]] = defaultdict(dict)
    for name in picture_names(root, SUFFIXES):
        inner = Path(name)
        image_id, k = _place(inner, class_id, len(names), first_class)
        taken = image_id in found or k in parts[image_id] or (k is None and parts[image_id])
        if taken:
            raise DataError(
                "two files hold the maps of one picture" if k is None else "two files hold the map of one class",
                where=root / name,
                found=image_id,
                next_step="Keep one of them.",
            )
        if k is None:
            found[image_id] = root / name
            del parts[image_id]
        else:
            parts[image_id][k] = root / name
    found |= {image_id: of for image_id, of in parts.items() if of}
    if not found:
        raise DataError(
            "there are no maps in this folder",
            where=root,
            expected=f"ID.npy, ID.npz, ID.tif, ID/CLASS.png or CLASS/ID.png; files with {', '.join(SUFFIXES)}",
        )
    return MapFolder(root, dict(sorted(found.items())), names, scale, first_class)


def _place(inner: Path, class_id: ClassId, classes: int, first: int) -> tuple[str, int | None]:
    """The picture of a file, and its class where it holds that of one alone."""
    folders, picture = inner.parts[:-1], inner.suffix.lower() in _PICTURES
    if folders:
        if (k := _class_of(inner.stem, class_id, classes, first, picture)) is not None:
            return "__".join(folders), k
        if (k := _class_of(folders[-1], class_id, classes, first, picture)) is not None:
            return "__".join((*folders[:-1], inner.stem)), k
    return "__".join((*folders, inner.stem)), None


def _class_of(word: str, class_id: ClassId, classes: int, first: int, numbers: bool) -> int | None:
    try:
        return class_id(word)
    except DataError:
        number = int(word) - first if numbers and word.isascii() and word.isdecimal() else -1
        return number if 0 <= number < classes else None


def _read(path: Path, names: Sequence[str], first: int) -> tuple[list[int] | None, list[np.ndarray]]:
    """Class numbers and maps of a file about one picture; None where it does not say which classes they are."""
    if path.suffix.lower() in _PICTURES:
        return None, _pages(path)
    held = _arrays(path)
    if isinstance(held, np.ndarray):
        return None, _maps(held, path)
    name = next((name for name in _MAPS if name in held), None)
    keys = next((name for name in _KEYS if name in held), None)
    if name and keys:
        return _numbers(_numeric(held[keys], path), path), _maps(held[name], path)
    if name or list(held) == ["arr_0"]:
        return None, _maps(held[name or "arr_0"], path)
    numbers = [_number(key, names, first) for key in held]
    if held and all(number is not None for number in numbers):
        return [number for number in numbers if number is not None], [_numeric(one, path) for one in held.values()]
    raise DataError(
        "has no maps under a name that is known",
        where=path,
        expected=f"{' or '.join(_KEYS)}, and {', '.join(_MAPS)}; or a map under each class number or name",
        found=", ".join(str(key)[:30] for key in list(held)[:10]) or "nothing",
        next_step=_FIX,
    )


def _number(key: object, names: Sequence[str], first: int) -> int | None:
    """The class number that a key of a dictionary stands for, which may be written out, or be the name of the class."""
    if isinstance(key, int):
        return key
    text = str(key)
    if text in names:
        return names.index(text) + first
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _maps(held: np.ndarray | DataError, path: Path) -> list[np.ndarray]:
    """Each map of an array of them; one that has no axis of classes is that of one class."""
    array = _numeric(held, path)
    if array.ndim == 4 and len(array) == 1:
        array = array[0]  # as a network gives them, a picture at a time
    if array.ndim not in (2, 3):
        raise ShapeError("is not an array of maps", where=path, expected="[class h w]", found=list(array.shape))
    return list(array if array.ndim == 3 else array[None])


def _numbers(keys: np.ndarray, path: Path) -> list[int]:
    keys = keys.reshape(-1) if keys.ndim == 0 else keys
    if keys.ndim != 1 or keys.dtype.kind not in "iuf" or not np.array_equal(keys, np.trunc(keys)):
        raise DataError("has class numbers that are no whole numbers", where=path, found=f"{keys.dtype} {keys.shape}")
    return [int(key) for key in keys]


def _arrays(path: Path) -> np.ndarray | dict[Any, np.ndarray | DataError]:
    """The array of a file, or its arrays by name or class number; an error in the place of what is none."""
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(
                "is too large for the maps of one picture", where=path, expected=f"at most {LARGEST:,} bytes"
            )
        if path.suffix.lower() == ".npz":
            return _npz(path)
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            _, _, dtype = header[version](file)
            start = file.tell()
        if dtype.hasobject:
            return _pickled(path, start)
        return _numeric(np.load(path, allow_pickle=False), path)
    except ClipEsError:
        raise
    except Exception as error:  # Damaged files make their readers raise almost anything.
        raise DataError(
            "cannot be read as maps", where=path, found=f"{type(error).__name__}: {str(error)[:100]}", next_step=_FIX
        ) from error


def _pickled(path: Path, start: int) -> dict[Any, np.ndarray | DataError]:
    return dict(pickled_rows(path, start, MAPS))  # type: ignore[arg-type]


def _npz(path: Path) -> dict[Any, np.ndarray | DataError]:
    with zipfile.ZipFile(path) as archive:
        if sum(info.file_size for info in archive.infolist()) > LARGEST:
            raise DataError("unpacks to too many bytes", where=path, expected=f"at most {LARGEST:,}")
    with np.load(path, allow_pickle=False) as held:
        wanted = [name for name in held.files if name in (*_MAPS, *_KEYS)] or held.files[:256]
        arrays = {name: _numeric(held[name], path) for name in wanted}
    return {int(k) if k.isascii() and k.isdecimal() else k: array for k, array in arrays.items()}


def _numeric(array: np.ndarray | DataError, path: Path) -> np.ndarray:
    if isinstance(array, DataError):
        raise array
    if array.dtype.kind not in "iufb":
        raise DataError("has values that are no numbers", where=path, found=array.dtype, next_step=_FIX)
    return array


def _one_map(path: Path) -> np.ndarray:
    """The map of one class."""
    if path.suffix.lower() in _PICTURES:
        pages = _pages(path)
        if len(pages) > 1:
            raise DataError("has several pages for one class", where=path, found=len(pages))
        return pages[0]
    held = _arrays(path)
    if isinstance(held, np.ndarray):
        return held
    raise DataError("holds a dictionary in place of one map", where=path, expected="an array [h w]")


def _pages(path: Path) -> list[np.ndarray]:
    """The pages of a grey picture, each uint8, uint16 or of floating point."""
    try:
        with quiet_pillow(), path.open("rb") as file, Image.open(file, formats=["PNG", "TIFF"]) as image:
            pages = []
            for page in ImageSequence.Iterator(image):
                check_area(path, "the map", page.height, page.width, _MOST_MEGAPIXELS)
                pages.append(_grey(page, path))
                if len(pages) > 1024:
                    raise DataError("has too many pages", where=path, expected="at most 1024")
            return pages
    except ClipEsError:
        raise
    except Exception as error:  # as above
        if path.suffix.lower() in (".tif", ".tiff") and (found := _tiff(path)):
            return found
        raise DataError(
            "cannot be read as grey pictures",
            where=path,
            expected="pages of 8 or 16 bits of grey or of float32, one for each class, as PNG and TIFF have them",
            found=f"{type(error).__name__}: {str(error)[:100]}",
            next_step=_FIX,
        ) from error


def _tiff(path: Path) -> list[np.ndarray]:
    """The pages of a TIFF that Pillow does not read: doubles, or bands as scientific tools write them; else none."""
    import tifffile  # comes with scikit-image

    pages: list[np.ndarray] = []
    try:
        with tifffile.TiffFile(path) as file:
            for part in file.series:
                height, width = part.sizes["height"], part.sizes["width"]
                check_area(path, "the map", height, width, _MOST_MEGAPIXELS)
                if part.nbytes > LARGEST or len(pages) > 1024:
                    raise DataError("has too many pages", where=path, expected=f"at most 1024, and {LARGEST:,} bytes")
                values = part.asarray()
                values = np.moveaxis(values, -1, 0) if part.axes.endswith("YXS") else values
                pages += list(values.reshape(-1, height, width))
    except ClipEsError:
        raise
    except Exception:  # as above; the first reader's reason is told
        return []
    return pages


def _grey(page: Image.Image, path: Path) -> np.ndarray:
    """The values of a page; of one that is saved in colours, those of any of its channels, where they are equal."""
    if page.mode.startswith("I"):
        return np.array(page).astype(np.uint16)
    if page.mode in ("L", "F", "1"):
        return np.array(page.convert("L") if page.mode == "1" else page)
    colours = np.array(page.convert("RGBA"))
    if (colours[..., :3] != colours[..., :1]).any() or (colours[..., 3] != 255).any():
        raise DataError(
            "a heat map must be grey",
            where=path,
            expected="8 or 16 bits of grey, or floating point",
            found=f"mode {page.mode}",
            next_step="Save the values themselves, not their colours.",
        )
    return colours[..., 0].copy()
