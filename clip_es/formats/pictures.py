"""The pictures beside exported masks: linked, copied, or written again where other tools would see them differently."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Literal

from PIL import Image

from clip_es.config.stages import ImageConfig
from clip_es.decode import exif_orientation, large_ones_too, opened, our_errors
from clip_es.errors import DataError, ShapeError
from clip_es.images import look_at
from clip_es.store.disk import StoreError, make_folder, write_atomic

PictureMode = Literal["link", "copy", "none"]
"""Hard links to the pictures (which take no space; copies where the disk knows none), copies, or masks alone.

Not symbolic links: tools that guard against files which point out of their folder refuse them, Datumaro for one.
"""

_PLAIN = {"JPEG": (".jpg", ".jpeg"), "MPO": (".jpg", ".jpeg"), "PNG": (".png",)}
_ANY_SIZE = ImageConfig(max_megapixels=10_000.0)
"""The run has settled how large a picture may be; its mask tells how large this one is before it is decoded."""


def place(
    picture: Path,
    target: Path,
    size_hw: tuple[int, int],
    mode: PictureMode,
    suffixes: tuple[str, ...] = (".jpg", ".jpeg", ".png"),
) -> str:
    """Put the picture of a mask at `target`, a path without suffix; returns the name with it.

    An upright 8-bit RGB or grey JPEG or PNG is linked or copied as it is. Others (turned by EXIF, CMYK, palette,
    alpha, 16 bit, WebP, TIFF) are written again as the method saw them: PNG, or JPEG of quality 95 where `suffixes`
    allows nothing else. With mode `none` only the name is told.
    Raises DataError: no usable picture. ShapeError: its size is not that of the mask. StoreError.
    """
    suffix = _plain_suffix(picture, size_hw, suffixes)
    again = ".png" if ".png" in suffixes else ".jpg"
    named = target.with_name(target.name + (suffix or again))
    if mode == "none":
        return named.name
    make_folder(target.parent)
    if suffix is None:
        write_atomic(named, _written_again(picture, again))
    elif mode == "copy" or not _link(picture, named):
        _copy(picture, named)
    return named.name


def _plain_suffix(picture: Path, size_hw: tuple[int, int], suffixes: tuple[str, ...]) -> str | None:
    """The suffix under which the file can stay as it is; None where it must be written again."""
    with our_errors(picture), large_ones_too(_ANY_SIZE), opened(picture, _ANY_SIZE) as image:
        turn = exif_orientation(image)
        found = (image.width, image.height) if turn >= 5 and image.format != "TIFF" else (image.height, image.width)
        plain = turn == 1 and image.mode in ("RGB", "L") and "transparency" not in image.info
        kinds = _PLAIN.get(image.format or "", ())
    if found != size_hw:
        raise ShapeError(
            "the picture does not have the size of its mask",
            where=picture,
            expected=f"{size_hw} (height, width)",
            found=found,
            next_step="Pass the --images the run was made with.",
        )
    own = picture.suffix.lower()
    fitting = [kind for kind in (own, *kinds) if kind in kinds and kind in suffixes]
    return fitting[0] if plain and fitting else None


def _written_again(picture: Path, suffix: str) -> bytes:
    rgb = look_at(picture, _ANY_SIZE).rgb
    if rgb is None:
        raise DataError("the picture has no pixels", where=picture)
    data = io.BytesIO()
    if suffix == ".png":
        Image.fromarray(rgb).save(data, "PNG")
    else:
        Image.fromarray(rgb).save(data, "JPEG", quality=95, subsampling=0)
    return data.getvalue()


def _link(picture: Path, named: Path) -> bool:
    """Whether a link could be made; not to another disk, nor on every file system."""
    try:
        named.unlink(missing_ok=True)
        named.hardlink_to(picture.resolve())
    except OSError:
        return False
    return True


def _copy(picture: Path, named: Path) -> None:
    part = named.with_name(f"{named.name}.part")
    try:
        with picture.open("rb") as source, part.open("wb") as target:
            shutil.copyfileobj(source, target)
        part.replace(named)
    except OSError as error:
        raise StoreError.of(named, error) from error
