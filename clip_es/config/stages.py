"""Settings of what every method shares: the picture, the encoder, the labels CLIP finds, and the mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from clip_es.config.bounds import check_within
from clip_es.errors import ConfigError

Engine = Literal["auto", "torch", "onnx"]
"""What computes the blocks of the encoder before the last one."""
DType = Literal["auto", "float32", "bfloat16", "int8"]
"""In which arithmetic."""

LabelSource = Literal["given", "auto", "none"]
"""Where the classes of a picture come from: its data set, CLIP's own reading of the picture, or the method itself."""


@dataclass(frozen=True)
class ImageConfig:
    """From a file to a picture."""

    max_megapixels: float = 100.0
    """Pictures with more than this many million pixels are refused before they are decoded."""
    exif: bool = True
    """Turn the picture as its EXIF orientation says. Off in the published code's first stage."""
    resize: Literal["rgb", "own-mode"] = "rgb"
    """Convert to RGB before resizing, or resize in the file's own mode first, as published (which degrades palette
    pictures)."""
    size_from: Literal["picture", "annotation"] = "picture"
    """Whose height and width count where they differ. Published: the annotation's."""
    crf_decoder: Literal["same", "opencv"] = "same"
    """Who decodes the picture for the CRF: the same picture, or OpenCV once more, as published."""
    max_patches: int | None = 4096
    """The encoder sees larger pictures scaled down to this many patches; masks keep the picture's size. The memory of
    attention grows with the square of their number: for ViT-B/16 2 GB at 4096 patches (1024 x 1024 pixels), 200 GB for
    a phone's 12 million pixels. None: as published, no limit."""

    def __post_init__(self) -> None:
        if self.max_patches is not None:
            check_within("max_patches", self.max_patches, 1, 2**20, "patches of a picture")
        check_within(
            "max_megapixels", self.max_megapixels, 0.001, 10_000, "million pixels, 3 bytes each several times over"
        )


@dataclass(frozen=True)
class EncoderConfig:
    """The frozen CLIP."""

    engine: Annotated[Engine, tyro.conf.arg(name="encoder.engine")] = "auto"
    """What computes the blocks before the last: torch, or onnx, ONNX Runtime on a CPU (extra `onnx`), with graphs that
    are made once and kept. auto: torch, and onnx where int8 needs it."""
    dtype: DType = "float32"
    """Arithmetic of all blocks but the last. From the softmax over labels on it is always float32. bfloat16, int8: two
    and three to four times faster where the processor has instructions for them; int8 needs the engine onnx. auto: the
    fastest that it has. `clip-es agree` says what that changes in your pictures."""
    activation: Literal["auto", "quick_gelu", "gelu"] = "auto"
    """quick_gelu: x sigmoid(1.702 x), OpenAI's. gelu: the plain one, of most CLIPs that open_clip has trained (LAION).
    The keys of a file do not show which. auto: as a config.json or open_clip_config.json beside the file says, else
    OpenAI's."""
    half_weights: bool = True
    """Round the weights to float16 values first, as OpenAI's loader does."""
    half_positions: bool = True
    """Round the interpolated position embedding to float16 values, as the published code does."""


@dataclass(frozen=True)
class TaggingConfig:
    """`--labels auto`: which classes of the vocabulary CLIP itself sees in a picture."""

    threshold: float = 0.5
    """Confidence from which a class counts as present. Higher: fewer wrong labels, and more missed ones."""
    mix: Literal["identity", "attention"] = "identity"
    """How patches leave the last block: each alone, as TagCLIP, for a CLIP whose last attention blurs what is where; or
    mixed by that attention."""
    refine: bool = True
    """Carry the patch scores along the attention of the layers, weak entries dropped."""
    reidentify: bool = True
    """Look at the region of each likely class once more, as a picture of its own."""
    peak: int = 4
    """The score of a class is the mean over this many of its best patches; TagCLIP takes the best one."""
    candidate: float = 0.1
    """Share of the best class's local score from which a class is looked at once more; the others count half."""
    context: int = 2
    """Patches of surroundings around a region."""
    zoom: float = 2.0
    """A region is enlarged at most this many times; a small one gets more surroundings."""
    centre: float = 0.17
    """Score at which the confidence is one half."""
    steepness: float = 1.8
    """How fast the confidence rises there: factor on the logit of the score. Both chosen on drawn scenes."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("threshold", 0.0, 1.0),
            ("peak", 1, 10_000),
            ("candidate", 0.0, 1.0),
            ("context", 0, 1000),
            ("zoom", 1.0, 100.0),
            ("centre", 1e-6, 1 - 1e-6),
            ("steepness", 1e-3, 1e3),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} is out of range", expected=f"{low:g}..{high:g}", found=getattr(self, name))


@dataclass(frozen=True)
class MaskConfig:
    """From maps to a mask."""

    threshold: float | None = None
    """Pixels less confident than this become 255. None: 0.95 where a CRF made probabilities, else 0."""
    background_power: float = 1.0
    """Without a CRF: the background score is (1 - best map) to this power. 1 equals a threshold of 0.5 on the maps,
    2 one of 0.38, 3 one of 0.32."""
    background: bool = True
    """Let background win pixels. Off for data sets in which every pixel has a class; they switch it off themselves."""
    half: bool = False
    """Compare the scores in float16, as published."""
    calibration: Literal["fixed", "otsu"] = "fixed"
    """Where a map and background are even. fixed: at the same value for every map, as published. otsu: at Otsu's
    threshold of each map; only for methods whose maps are each stretched to 0..1, such as clip-es."""

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_within("threshold", self.threshold, 0.0, 1.0, "confidence")
        check_within("background_power", self.background_power, 0.01, 100, "exponent")
