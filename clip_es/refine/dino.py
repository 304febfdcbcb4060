"""Maps carried between patches that look alike to a DINO: the refiner that needs no diffusion model.

A picture's patch features from the last layer, their cosines sharpened into weights, one product with the maps. The
same features can stand in for CLIP's in the spectral refiner.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from torch import Tensor

from clip_es.config.bounds import check_within
from clip_es.encoder.capture import normalised
from clip_es.errors import ConfigError, WeightsError
from clip_es.refine.base import Surroundings
from clip_es.scaling import min_max
from clip_es.types import ClassMaps, EncodedImage, Picture


@dataclass(frozen=True)
class DinoConfig:
    """Maps carried between patches that look alike to a DINO (extra `diffusion`, for transformers)."""

    model: str = ""
    """A local folder of a DINO or DINOv2 in transformers' layout."""
    sharpness: float = 3.0
    """Factor on the cosines before the softmax."""
    offset: float = 1.2
    """Pairs whose cosine is below this many times the mean cosine do not count."""
    positions: Literal["size", "factor"] = "size"
    """How positions are brought to another grid. size: to its rows and columns, as transformers does. factor: by
    (rows + 0.1) / trained rows, as DINO's own code does."""
    max_patches: int = 4096
    """Larger pictures are scaled down to this many patches."""

    def __post_init__(self) -> None:
        check_within("sharpness", self.sharpness, 0, 1e3, "factor")
        check_within("offset", self.offset, -100, 100, "times the mean cosine")
        check_within("max_patches", self.max_patches, 1, 2**20, "patches")


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

KINDS: Mapping[str, str] = MappingProxyType(
    {"vit": "ViTModel", "dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}
)
"""What a folder's config.json calls its model, and the class that reads it."""


class Dino:
    """A DINO from a local folder. A copy in another process fetches it there, when it is first needed."""

    def __init__(self, folder: str | Path, config: DinoConfig, device: str | torch.device = "cpu") -> None:
        """Raises ConfigError: transformers is not installed. WeightsError: the folder is no DINO."""
        self.folder, self.config, self.device = str(folder), config, device
        self._model: Any = load_dino(self.folder, device)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None}

    def to(self, device: str | torch.device) -> None:
        """Use the network on another device."""
        if torch.device(device) != torch.device(self.device):
            self.device, self._model = device, None

    @torch.no_grad()
    def features(self, rgb: UInt8[np.ndarray, "h w 3"]) -> Float32[Tensor, "dim gh gw"]:
        """Features of each patch of a picture, not of unit length.

        Sides are cut down to whole patches by resizing; larger pictures than `max_patches` are scaled down before.
        """
        model = self._model = self._model or load_dino(self.folder, self.device)
        patch = model.config.patch_size
        rows, columns = (max(1, length // patch) for length in rgb.shape[:2])
        if rows * columns > self.config.max_patches:
            shrink = math.sqrt(self.config.max_patches / (rows * columns))
            rows, columns = max(1, int(rows * shrink)), max(1, int(columns * shrink))
        pixels = torch.from_numpy(np.ascontiguousarray(rgb)).to(self.device).movedim(-1, 0)[None].float() / 255
        pixels = F.interpolate(pixels, (rows * patch, columns * patch), mode="bilinear", align_corners=False)
        return self.features_of(pixels[0])

    @torch.no_grad()
    def features_of(self, pixels: Float32[Tensor, "3 h w"]) -> Float32[Tensor, "dim gh gw"]:
        """The same of a picture in 0..1; sides are cut down to whole patches by resizing, whatever their number."""
        model = self._model = self._model or load_dino(self.folder, self.device)
        patch = model.config.patch_size
        rows, columns = (max(1, length // patch) for length in pixels.shape[1:])
        size = (rows * patch, columns * patch)
        resized = F.interpolate(pixels[None].to(self.device), size, mode="bilinear", align_corners=False)
        asked = {"interpolate_pos_encoding": True} if model.config.model_type == "vit" else {}
        with positions_by_factor(model) if self.config.positions == "factor" else nullcontext():
            hidden = model(pixel_values=normalised(resized, IMAGENET_MEAN, IMAGENET_STD), **asked).last_hidden_state[0]
        return hidden[-rows * columns :].T.unflatten(1, (rows, columns)).float()

    def __call__(self, picture: Picture, seen: EncodedImage, maps: ClassMaps) -> ClassMaps:
        """`carry` as a refiner: for maps of any size; the result has the grid of the features and spans [0, 1]."""
        if not maps.class_ids:
            return maps
        carried = carry(maps.scores.to(self.device), self.features(picture.rgb), self.config)
        return ClassMaps(min_max(carried).to(maps.scores.device), maps.class_ids, unscaled=carried)


def make(config: DinoConfig, around: Surroundings) -> Dino:
    """The refiner of the table. Raises ConfigError, WeightsError: the network cannot be loaded."""
    return Dino(config.model, config, around.device)


@contextmanager
def positions_by_factor(model: Any) -> Iterator[None]:
    """Inside it, a DINO brings its positions to another grid as its authors' code does.

    The table is scaled by (rows + 0.1) / trained rows; the samples so lie a little off those that the target size
    gives. Source: `interpolate_pos_encoding` of facebookresearch/dino and dinov2. Differs: nothing.
    """
    embeddings, patch = model.embeddings, model.config.patch_size

    def interpolate(tokens: Tensor, height: int, width: int) -> Tensor:
        table = embeddings.position_embeddings
        side = round((table.shape[1] - 1) ** 0.5)
        rows, columns = height // patch, width // patch
        if (rows, columns) == (side, side):
            return table
        square = table[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        factors = ((rows + 0.1) / side, (columns + 0.1) / side)
        spread = F.interpolate(square, scale_factor=factors, mode="bicubic")
        return torch.cat([table[:, :1], spread.flatten(2).transpose(1, 2)], dim=1)

    embeddings.interpolate_pos_encoding = interpolate
    try:
        yield
    finally:
        del embeddings.interpolate_pos_encoding


def check(config: DinoConfig) -> None:
    """Raises ConfigError: no model is named."""
    if not config.model:
        raise ConfigError("the dino refiner needs a model", next_step="Pass --refine.dino.model FOLDER.")


def carry(
    maps: Float32[Tensor, "class h w"], features: Float32[Tensor, "dim gh gw"], config: DinoConfig
) -> Float32[Tensor, "class gh gw"]:
    """Maps, resized to the grid of the features, averaged over patches that look alike.

    Source: CLIPer (ICCV 2025), whose code has this of ProxyCLIP. Differs: a patch that is like none keeps its value.
    """
    grid_hw = (features.shape[1], features.shape[2])
    values = F.interpolate(maps[None], size=grid_hw, mode="bilinear", align_corners=False)[0].flatten(1)
    return (weights(features.flatten(1).T, config) @ values.T).T.unflatten(1, grid_hw)


def weights(features: Float32[Tensor, "patch dim"], config: DinoConfig) -> Float32[Tensor, "patch patch"]:
    """Rows that sum to one: softmax of `sharpness` (cosine - `offset` times the mean cosine), negatives left out."""
    rows = F.normalize(features, dim=-1)
    cosine = rows @ rows.T
    logits = config.sharpness * (cosine - config.offset * cosine.mean())
    kept = logits >= 0
    alone = ~kept.any(1)
    kept[alone, alone.nonzero()[:, 0]] = True
    return torch.where(kept, logits, float("-inf")).softmax(-1)


def load_dino(folder: str | Path, device: str | torch.device = "cpu") -> Any:
    """A DINO or DINOv2 in transformers' layout, from a local folder, in float32.

    Raises ConfigError: transformers is not installed. WeightsError: no such folder, or no DINO in it.
    """
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            "DINO features need transformers, of the extra `diffusion`", next_step="pip install 'clip-es[diffusion]'"
        ) from error
    expected = "a folder with config.json and model.safetensors of a DINO or DINOv2 in transformers' layout"
    if not (Path(folder) / "config.json").is_file():
        raise WeightsError("this is not the folder of a DINO", where=folder, expected=expected, found="no config.json")
    try:
        kind = transformers.AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        if kind not in KINDS:
            raise WeightsError(
                "this model is not a DINO", where=folder, expected=", ".join(KINDS), found=f"model_type {kind}"
            )
        options = {"add_pooling_layer": False} if kind == "vit" else {}
        model = getattr(transformers, KINDS[kind]).from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(
            "the DINO cannot be loaded", where=folder, expected=expected, found=str(error).splitlines()[0]
        ) from error
    return model.to(device).eval().requires_grad_(False)
