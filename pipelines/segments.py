"""Segments of the pictures of a folder: from frozen features and colours alone, or from a mask generator.

OUT/segments.json          settings; another call with other settings is refused
OUT/regions/<id>.json      of sam, felzenszwalb and slic, as COCO RLE with quality and stability; or <id>.png, in which
                           the smallest region lies on top and 0 is in none

and of the source spectral:
OUT/regions/<id>.png       k-means regions of the eigenvectors, 0, 1, ..; palette PNG at the picture's size
OUT/sides/<id>_k0.png ...  the smaller side of each eigenvector, 0 or 255, the constant one left out (SAZS's form)
OUT/rle.json               with `rle`: the same sides as COCO's compressed RLE, by picture
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from PIL import Image
from torch import Tensor

from clip_es import rle
from clip_es.config.run import DinoConfig, ImageConfig, SpectralConfig
from clip_es.encoder import Encoder
from clip_es.errors import ClipEsError, ConfigError, DataError
from clip_es.images import read_picture
from clip_es.masks import read_mask
from clip_es.records.dataset import Problem
from clip_es.refine.base import Surroundings
from clip_es.refine.dino import Dino
from clip_es.refine.regions.settings import RegionsConfig
from clip_es.refine.regions.sources import SOURCES
from clip_es.refine.regions.vote import painted
from clip_es.refine.spectral import picture_segments
from clip_es.regions import Regions
from clip_es.store.disk import StoreError, make_folder, names_in, write_atomic
from clip_es.store.regions import read_numbers, write_parts, write_regions
from clip_es.store.tables import read_json, write_json
from clip_es.types import ClassMaps, ImageRecord, Picture

SETTINGS = "segments.json"


@dataclass(frozen=True)
class SegmentsConfig:
    """What decides the segments."""

    spectral: SpectralConfig = field(default_factory=lambda: SpectralConfig(colour_weight=1.0))
    nodes: int = 2
    """Nodes of the graph along each side of a patch: 1, one for each patch; 2 or more follow outlines more closely."""

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= 8:
            raise ConfigError("--nodes is a number of nodes along a patch", expected="1..8", found=self.nodes)


class SegmentFolder:
    """A folder of segments, written or read. Raises ConfigError: it was made with other settings."""

    def __init__(
        self, folder: Path, settings: dict | None = None, parts: tuple[str, ...] = ("regions", "sides")
    ) -> None:
        self.folder = folder
        told = folder / SETTINGS
        if settings is None:
            if not told.is_file():
                raise DataError(
                    "is no folder of segments",
                    where=folder,
                    expected=SETTINGS,
                    found="no such file" if folder.is_dir() else "no such folder",
                    next_step="Make it with `clip-es segments`.",
                )
            return
        for place in (folder, *(folder / part for part in parts)):
            make_folder(place)
            names_in(place)  # listing clears what a writer that died has left
        if told.is_file() and (there := read_json(told)) != settings:
            differ = sorted(key for key in settings if there.get(key) != settings[key])
            raise ConfigError(
                "the folder holds segments made with other settings",
                where=folder,
                expected={key: there.get(key) for key in differ},
                found={key: settings[key] for key in differ},
                next_step="Pass another --out.",
            )
        if not told.is_file():
            write_json(told, settings, durable=True)

    def has(self, image_id: str) -> bool:
        """Whether a picture is done; its regions are written last."""
        return (self.folder / "regions" / f"{image_id}.png").is_file()

    def save(self, image_id: str, regions: Int[Tensor, "h w"], sides: Bool[Tensor, "k h w"]) -> None:
        """Write one picture's; what is there after a power cut is whole. Raises StoreError."""
        for number, side in enumerate(sides.numpy()):
            content = _png(side.astype(np.uint8) * 255)
            write_atomic(self.folder / "sides" / f"{image_id}_k{number}.png", content, durable=True)
        write_parts(self.folder / "regions" / f"{image_id}.png", regions.numpy())

    def regions(self, image_id: str) -> Int[Tensor, "h w"]:
        """k-means regions at the picture's size. Raises DataError: the picture has none."""
        path = self.folder / "regions" / f"{image_id}.png"
        if not path.is_file():
            raise DataError("the picture has no segments", where=path, next_step="Call `clip-es segments` for it.")
        return torch.from_numpy(read_numbers(path))

    def sides(self, image_id: str) -> Bool[Tensor, "k h w"]:
        """Sides of the eigenvectors at the picture's size, in their order; also those of SAZS's own files."""
        paths = sorted(
            (self.folder / "sides").glob(f"{_escaped(image_id)}_k*.png"), key=lambda p: int(p.stem.rpartition("_k")[2])
        )
        if not paths:
            raise DataError("the picture has no segments", where=self.folder / "sides" / f"{image_id}_k0.png")
        found = [read_mask(path) == 255 for path in paths]
        if len({side.shape for side in found}) > 1:
            raise DataError("the sides of a picture are of several sizes", where=paths[0])
        return torch.from_numpy(np.stack(found))

    def write_rle(self, ids: Iterable[str]) -> Path:
        """All sides as COCO RLE in one file."""
        found = {}
        for image_id in ids:
            if self.has(image_id):
                sides = self.sides(image_id).numpy()
                found[image_id] = [{"size": list(side.shape), "counts": rle.encode(side)} for side in sides]
        write_json(self.folder / "rle.json", found)
        return self.folder / "rle.json"


def segment(
    records: Iterable[ImageRecord],
    encoder: Encoder,
    out: SegmentFolder,
    config: SegmentsConfig,
    done: Callable[[], object] = lambda: None,
) -> list[Problem]:
    """Segments of all pictures that have none yet. Returns those that failed. Raises StoreError."""
    dino = None
    if config.spectral.features != "clip":
        dino = Dino(config.spectral.features, DinoConfig(), encoder.device)
    image, problems = ImageConfig(), []
    for record in records:
        try:
            if not out.has(record.image_id):
                out.save(record.image_id, *segments_of(record, encoder, dino, config, image))
        except StoreError:
            raise
        except ClipEsError as error:
            problems.append(Problem.of(record.image_id, error, "segments"))
        done()
    return problems


def find_regions(
    records: Iterable[ImageRecord],
    find: Callable[[Picture], Regions],
    out: SegmentFolder,
    export: Literal["png", "rle"],
    done: Callable[[], object] = lambda: None,
) -> list[Problem]:
    """Regions of all pictures that have none yet, in OUT/regions. Returns those that failed. Raises StoreError."""
    problems = []
    for record in records:
        path = region_file(out.folder, record.image_id, export)
        try:
            if not path.is_file():
                _write_regions(path, find(read_picture(record, _ONE_PATCH, ImageConfig(), lambda _: (1, 1))), export)
        except StoreError:
            raise
        except ClipEsError as error:
            problems.append(Problem.of(record.image_id, error, "segments"))
        done()
    return problems


_ONE_PATCH = 16
"""Side of the encoder's copy of a picture, where no encoder looks at it."""


def region_file(folder: Path, image_id: str, export: Literal["png", "rle"]) -> Path:
    """Where the regions of a picture lie."""
    return folder / "regions" / f"{image_id}.{'json' if export == 'rle' else 'png'}"


def _write_regions(path: Path, regions: Regions, export: Literal["png", "rle"]) -> None:
    if export == "rle":
        write_regions(path, regions)
        return
    top = painted(regions, regions.quality, "area")
    covered = bool((top >= 0).all())
    write_parts(path, top if covered else top + 1)


def finder(config: RegionsConfig, device: str) -> Callable[[Picture], Regions]:
    """What makes the regions of a picture from itself alone. Raises ConfigError, WeightsError: it cannot be loaded."""
    row = SOURCES.find(config.source, "--source")
    if row.read is not None:
        return lambda picture: row.read(picture, config)  # pyright: ignore[reportOptionalCall]
    if config.sam.prompts != "grid" or row.network is None:
        raise ConfigError(
            "there are no maps here that prompts could come from",
            expected="--sam.prompts grid",
            found=config.sam.prompts,
        )
    find = row.network(config, Surroundings(device=device))
    return lambda picture: find(picture, _no_maps)


def _no_maps() -> ClassMaps:
    raise ConfigError("a source of regions wants maps, and there are none here")


def segments_of(
    record: ImageRecord, encoder: Encoder, dino: Dino | None, config: SegmentsConfig, image: ImageConfig
) -> tuple[Int[Tensor, "h w"], Bool[Tensor, "k h w"]]:
    """Regions and sides of one picture at its own size, enlarged by nearest neighbour."""
    picture = read_picture(record, encoder.patch, image)
    rows, columns = picture.grid_hw
    if dino is None:
        (seen,) = encoder.encode([picture.patches])
        features = seen.tokens[1:].T.unflatten(1, (rows, columns))
    else:
        features = dino.features(picture.rgb)
    grid = (rows * config.nodes, columns * config.nodes)
    regions, sides = picture_segments(picture.patches, features, config.spectral, grid)
    return enlarge(regions[None], picture.size_hw)[0], enlarge(sides, picture.size_hw)


def enlarge(maps: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Nearest neighbour, half-pixel centres."""
    rows, columns = (
        ((torch.arange(size) + 0.5) * count / size).long() for size, count in zip(size_hw, maps.shape[1:], strict=True)
    )
    return maps[:, rows][:, :, columns]


def settings_of(config: SegmentsConfig, encoder: Encoder) -> dict:
    """What another call must have in common."""
    return {"spectral": asdict(config.spectral), "nodes": config.nodes, "encoder": encoder.source}


def _png(grey: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG")
    return file.getvalue()


def _escaped(image_id: str) -> str:
    import glob

    return glob.escape(image_id)
