"""Dense conditional random field: labels follow the edges of the picture.

Two Potts terms between all pairs of pixels: near pixels agree (Gaussian), near pixels of like colour agree (bilateral).
The mean-field rounds are done by pydensecrf, `native` or `tensor`; all filter with the permutohedral lattice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec
from logging import getLogger
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from clip_es.collector import collector_paused
from clip_es.errors import ConfigError, DataError
from clip_es.masks import label_scores
from clip_es.refine.base import Surroundings
from clip_es.refine.crf.settings import Backend, CrfConfig
from clip_es.scaling import resized, upsample
from clip_es.types import ClassMaps, Picture

CHANNEL_MEANS = np.array([104.008, 116.669, 122.675], dtype=np.float32)
"""Blue, green, red: what the published code takes from the picture before the CRF sees it."""


def crf(picture: Picture, maps: ClassMaps, config: CrfConfig) -> ClassMaps:
    """Probabilities of each label and of background at full size, on the CPU; with the torch backend, on the maps'
    device.

    Maps of another size, such as the patch grid, are brought to that of the picture first. Returns `scores` and
    `background` in [0, 1], which sum to one at every pixel. Raises ConfigError: the backend is not installed.
    Raises DataError: the CRF's own reading of the file has another size than the maps.
    Source: CLIP-ES, `eval_cam_with_crf.py`, after Krähenbühl & Koltun (2011). Differs by default: the picture is RGB
    as it is, and maps, background score and logarithm stay float32.
    """
    pixels = _pixels(picture)
    if config.image == "wrapped":
        pixels = wrapped(pixels)
    device = maps.scores.device
    if not maps.class_ids:  # Background alone: there is nothing to decide.
        probabilities = torch.ones((1, *picture.size_hw))
    elif resolve_backend(config.backend, device.type) == "torch":
        from clip_es.refine.crf import tensor as torch_crf

        energy = torch_crf.unary_energy(upsample(maps, picture.size_hw), config)
        probabilities = torch_crf.mean_field(torch.from_numpy(pixels).to(device), energy, config).clamp_(0, 1)
    else:
        energy = unary_energy(upsample(maps, picture.size_hw), config)
        probabilities = torch.from_numpy(mean_field(pixels, energy, config)).clamp_(0, 1)
    return ClassMaps(scores=probabilities[1:], class_ids=maps.class_ids, background=probabilities[0])


def crf_together(
    pictures: Sequence[Picture], maps: Sequence[ClassMaps], config: CrfConfig
) -> Float32[Tensor, "picture label h w"]:
    """`crf` in torch for several pictures of one size at once, on the maps' device; the maps know no background yet.

    Background first, then the labels of each picture in their order; pictures with fewer labels than the most have
    zeros behind. Raises as `crf`.
    """
    counts, size_hw = [len(one.class_ids) for one in maps], pictures[0].size_hw
    scores = torch.cat([one.scores for one in maps])
    pixels = np.stack([_pixels(picture) for picture in pictures])
    if config.image == "wrapped":
        pixels = np.stack([wrapped(one) for one in pixels])
    most, device = max(counts), scores.device
    places = torch.tensor([most * picture + k for picture, count in enumerate(counts) for k in range(count)])
    full = scores.new_zeros(most * len(counts), *size_hw)
    full.index_copy_(0, places.to(device), resized(scores, size_hw))
    missing = torch.tensor([[k > count for k in range(most + 1)] for count in counts])
    from clip_es.refine.crf import tensor as torch_crf

    energy = torch_crf.class_energy(full.unflatten(0, (len(counts), most)), config)
    energy = energy.masked_fill(missing.to(device)[:, :, None, None], torch.inf)
    return torch_crf.mean_field(torch.from_numpy(pixels).to(device), energy, config).clamp_(0, 1)


def unary_energy(maps: ClassMaps, config: CrfConfig) -> Float32[np.ndarray, "label h w"]:
    """-log of background and label scores, background first; the scores are clipped to 1e-5..1 and not normalised."""
    scores = label_scores(maps, config.background_power, config.half)
    return -np.log(np.clip(scores, 1e-5, 1)).astype(np.float32)


def wrapped(rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture as the published CRF sees it: BGR minus the channel means, truncated, negative values modulo 256.

    A dark pixel becomes a bright one: blue 10 becomes 162. The wrap is written out, because a plain cast of a negative
    number is undefined in C and gives 0 on ARM.
    """
    return np.trunc(rgb[..., ::-1] - CHANNEL_MEANS).astype(np.int16).astype(np.uint8)


def mean_field(
    pixels: UInt8[np.ndarray, "h w 3"], energy: Float32[np.ndarray, "label h w"], config: CrfConfig
) -> Float32[np.ndarray, "label h w"]:
    """Label probabilities after `config.iterations` rounds. Raises ConfigError: the backend is not installed."""
    backend = resolve_backend(config.backend)
    if backend == "pydensecrf":
        return _pydensecrf(pixels, energy, config)
    if backend == "torch":
        from clip_es.refine.crf import tensor as torch_crf

        return torch_crf.mean_field(torch.from_numpy(pixels), torch.from_numpy(energy), config).numpy()
    return _native().mean_field(pixels, energy, config)


@cache
def _native() -> ModuleType:
    """The compiled CRF; imported once, since numba's import makes a great many objects that stay."""
    with collector_paused():
        from clip_es.refine.crf import native

        return native


def make(config: CrfConfig, _: Surroundings) -> partial[ClassMaps]:
    """The refiner of the table."""
    return partial(crf, config=config)


def resolved(config: CrfConfig, device: str) -> CrfConfig:
    """The settings with the engine chosen. Raises ConfigError: the one asked for is not installed."""
    return replace(config, backend=resolve_backend(config.backend, device))


def on_device(config: CrfConfig) -> bool:
    """Whether the engine works on the device of the maps."""
    return config.backend == "torch"


TRAITS: dict[str, Any] = {"resolve": resolved, "off_cpu": on_device, "reads_file": True}
"""What sets the CRF apart in the table of refiners."""


def resolve_backend(name: Backend, device: str = "cpu") -> Literal["pydensecrf", "native", "torch"]:
    """What `auto` means for maps on a kind of device: torch on a GPU, else native where numba is installed, else
    pydensecrf where that is, else torch on the CPU, with one line on standard error that says so.

    Raises ConfigError: what was asked for by its name is missing.
    """
    if name == "torch" or (name == "auto" and device != "cpu"):
        return "torch"
    for backend, library in _LIBRARIES.items():
        if name in (backend, "auto") and find_spec(library):
            return backend
    if name != "auto":
        raise ConfigError(
            f"the dense CRF needs {_LIBRARIES[name]}, which is not installed",
            where=f"--refine.crf.backend {name}",
            next_step="pip install 'clip-es[native]' and leave the flag out (pydensecrf: extra `crf`, Python below "
            "3.13 and a C++ compiler; torch needs nothing more and is slow on a CPU), or run without a CRF: "
            "--refine affinity.",
        )
    _tell_slow()
    return "torch"


_LIBRARIES: dict[Literal["native", "pydensecrf"], str] = {"native": "numba", "pydensecrf": "pydensecrf"}
"""What the engines besides torch need, in the order in which `auto` looks for them."""


@cache
def _tell_slow() -> None:
    """Once in a process."""
    getLogger("clip_es").warning(
        "The CRF runs in torch, which is slow on a CPU. Several times faster: pip install 'clip-es[native]'"
    )


def _pydensecrf(
    pixels: UInt8[np.ndarray, "h w 3"], energy: Float32[np.ndarray, "label h w"], config: CrfConfig
) -> Float32[np.ndarray, "label h w"]:
    from pydensecrf.densecrf import DenseCRF2D

    labels, height, width = energy.shape
    field = DenseCRF2D(width, height, labels)
    field.setUnaryEnergy(np.ascontiguousarray(energy.reshape(labels, -1)))
    field.addPairwiseGaussian(sxy=config.gaussian_sigma, compat=config.gaussian_weight)
    field.addPairwiseBilateral(
        sxy=config.bilateral_sigma,
        srgb=config.bilateral_colour,
        rgbim=np.ascontiguousarray(pixels),
        compat=config.bilateral_weight,
    )
    return np.array(field.inference(config.iterations), dtype=np.float32).reshape(energy.shape)


def _pixels(picture: Picture) -> UInt8[np.ndarray, "h w 3"]:
    if picture.crf_rgb is None:
        return picture.rgb
    if picture.crf_rgb.shape != picture.rgb.shape:
        raise DataError(
            "OpenCV reads this picture at another size than the maps have, so the published CRF cannot run: either "
            "the annotation states another size than the file has, or only OpenCV applied its EXIF orientation",
            where=picture.image_id,
            expected=list(picture.size_hw),
            found=list(picture.crf_rgb.shape[:2]),
            next_step="Pass --preset default, or --image.crf-decoder same.",
        )
    return picture.crf_rgb
