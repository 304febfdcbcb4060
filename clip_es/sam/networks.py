"""SAM, SAM 2 and SAM 3 through transformers: which there are, how they are loaded, how a picture is shown to them.

transformers' own image processors for SAM 2 and SAM 3 need torchvision, which this package does without; so the resize,
scale and padding are done here, with Pillow's bilinear filter, as the first SAM's processor for Pillow has it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from clip_es.errors import ClipEsError, ConfigError, WeightsError

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "sam-vit-base": "facebook/sam-vit-base",
        "sam-vit-large": "facebook/sam-vit-large",
        "sam-vit-huge": "facebook/sam-vit-huge",
        "sam2.1-tiny": "facebook/sam2.1-hiera-tiny",
        "sam2.1-small": "facebook/sam2.1-hiera-small",
        "sam2.1-base-plus": "facebook/sam2.1-hiera-base-plus",
        "sam2.1-large": "facebook/sam2.1-hiera-large",
        "sam3": "facebook/sam3",
    }
)
"""Short names and where their weights lie on the Hugging Face hub; those of sam3 must be asked for there (gated)."""

OLDEST = "5.20"
"""The oldest transformers that has all of these models as they are used here."""


@dataclass(frozen=True)
class Family:
    """A kind of network: who reads it, and how it wants its pictures."""

    reader: str
    """The class of transformers."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    padded: bool = False
    """The longer side fills the square, and the rest of it is 0. Else the picture is stretched to the square."""


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

PROMPTED: Mapping[str, Family] = MappingProxyType(
    {
        "sam": Family("SamModel", *_IMAGENET, padded=True),
        "sam2": Family("Sam2Model", *_IMAGENET),
        "sam2_video": Family("Sam2Model", *_IMAGENET),
        "sam3_tracker": Family("Sam3TrackerModel", *_HALF),
        "sam3_tracker_video": Family("Sam3TrackerModel", *_HALF),
        "sam3_video": Family("Sam3TrackerModel", *_HALF),
    }
)
"""What a config.json calls networks that answer points and boxes."""

PHRASED: Mapping[str, Family] = MappingProxyType(
    {
        "sam3": Family("Sam3Model", *_HALF),
        "sam3_video": Family("Sam3Model", *_HALF),
        "sam3_lite_text": Family("Sam3LiteTextModel", *_HALF),
    }
)
"""What a config.json calls networks that answer phrases."""


@dataclass(frozen=True)
class Shown:
    """A picture as a network sees it."""

    pixels: Float[Tensor, "1 3 side side"]
    content_hw: tuple[int, int]
    """Height and width of the picture inside the square."""


@dataclass
class Network:
    """A network that is loaded."""

    model: Any
    family: Family
    side: int
    """Of the square that it sees, pixels."""

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.model.parameters()).device

    @property
    def digest(self) -> str:
        """SHA-256 of its weights."""
        found = hashlib.sha256()
        for name, values in sorted(self.model.state_dict().items()):
            found.update(name.encode())
            found.update(values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()

    def show(self, rgb: UInt8[np.ndarray, "h w 3"]) -> Shown:
        """A picture resized to the square, scaled, and where the family wants it padded."""
        height, width = content_hw(rgb.shape[:2], self.side, self.family.padded)
        small = Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR)
        values = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
        values = (values - torch.tensor(self.family.mean)[:, None, None]) / torch.tensor(self.family.std)[:, None, None]
        square = torch.zeros(1, 3, self.side, self.side)
        square[0, :, :height, :width] = values
        return Shown(square.to(self.device, self.model.dtype), (height, width))


def content_hw(size_hw: tuple[int, ...], side: int, padded: bool) -> tuple[int, int]:
    """Height and width that a picture has in the square. Source: `ResizeLongestSide` of SAM for the padded one."""
    if not padded:
        return side, side
    scale = side / max(size_hw)
    return max(1, int(size_hw[0] * scale + 0.5)), max(1, int(size_hw[1] * scale + 0.5))


def load(
    model: str,
    kind: Literal["prompted", "phrased"],
    device: str | torch.device = "cpu",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> Network:
    """A network by short name, folder or hub id.

    Raises ConfigError: transformers is missing or too old. WeightsError: nothing there, gated, no network of this kind,
    or a file that does not fill it.
    """
    families = PROMPTED if kind == "prompted" else PHRASED
    library = transformers()
    place = NAMES.get(model, model)
    folder = Path(place).expanduser()
    local = folder.is_dir()
    where = str(folder) if local else place
    if not local and (place.count("/") != 1 or place.startswith((".", "/", "~"))):
        raise WeightsError(
            "there is no such model",
            where=model,
            expected=f"{', '.join(NAMES)}, a folder with config.json and model.safetensors, or a hub id OWNER/NAME",
            found="no such folder",
        )
    options: dict[str, Any] = {"local_files_only": True} if local else {}
    try:
        found = library.AutoConfig.from_pretrained(where, **options).model_type
        if found not in families:
            raise WeightsError(
                f"this model does not answer {'points' if kind == 'prompted' else 'phrases'}",
                where=where,
                expected=f"model_type {', '.join(families)}",
                found=f"model_type {found}",
            )
        family = families[found]
        reader = getattr(library, family.reader, None)
        if reader is None:
            raise _too_old(library, family.reader)
        loaded, told = reader.from_pretrained(
            where, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True, **options
        )
    except ClipEsError:
        raise
    except Exception as error:  # damaged files and the hub raise almost anything
        raise _unusable(where, local, error) from error
    if missing := sorted(told["missing_keys"]):
        raise WeightsError(
            "the file does not hold all weights of this model",
            where=where,
            expected=f"{family.reader} in transformers' layout",
            found=f"{len(missing)} missing, such as {missing[0]}",
        )
    side = (
        loaded.config.vision_config.image_size if kind == "phrased" else loaded.config.prompt_encoder_config.image_size
    )
    side = side if isinstance(side, int) else side[0]
    return Network(loaded.to(device).eval().requires_grad_(False), family, side)


def transformers() -> Any:
    """The library. Raises ConfigError: it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            "SAM needs transformers, of the extra `sam`", next_step="pip install 'clip-es[sam]'"
        ) from error
    return transformers


def _too_old(library: Any, reader: str) -> ConfigError:
    return ConfigError(
        f"this version of transformers has no {reader}",
        expected=f"transformers {OLDEST} or newer",
        found=getattr(library, "__version__", "an unknown version"),
        next_step="pip install -U 'clip-es[sam]'",
    )


def _unusable(where: str, local: bool, error: Exception) -> WeightsError:
    told = str(error).strip().splitlines() or [type(error).__name__]
    if "gated" in str(error).lower() or "401" in str(error):
        step = f"Ask for access at huggingface.co/{where}, then `hf auth login`, or pass a folder with the files."
    elif local:
        step = "Save it there with transformers' save_pretrained, or download the folder again."
    else:
        step = "Check the name and the network; without one, copy the folder from another machine and pass its path."
    return WeightsError("the model cannot be loaded", where=where, found=told[0][:200], next_step=step)
