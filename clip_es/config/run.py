"""Every setting of a run, once: the dataclasses become the command line, its help, and run.yaml.

Two presets: `default` keeps the method and drops the quirks of the published code that only hurt; `reference`
computes what that code computes, quirks included. README.md lists the differences.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

import tyro

from clip_es.config.methods import CliperConfig, ClipSegConfig, LocalizeConfig, MethodName, TaggingConfig, Variant
from clip_es.errors import ConfigError

__all__ = [
    "DEFAULT",
    "PRESETS",
    "REFERENCE",
    "AffinityConfig",
    "Backend",
    "ClipSegConfig",
    "CliperConfig",
    "CrfConfig",
    "DiffusionConfig",
    "DinoConfig",
    "EncoderConfig",
    "ImageConfig",
    "LocalizeConfig",
    "MaskConfig",
    "MethodName",
    "ParConfig",
    "RefinerName",
    "RunConfig",
    "SpectralConfig",
    "TaggingConfig",
    "Variant",
]

RefinerName = Literal["affinity", "spectral", "diffusion", "dino", "crf", "par"]
Backend = Literal["auto", "pydensecrf", "native", "torch"]


def _within(name: str, value: int | float, low: int | float, high: int | float, meaning: str) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} is out of range ({meaning})", expected=f"{low:g}..{high:g}", found=value)


@dataclass(frozen=True)
class ImageConfig:
    """From a file to a picture."""

    max_megapixels: float = 100.0
    """Pictures with more million pixels are refused before they are decoded."""
    exif: bool = True
    """Turn the picture as its EXIF orientation says. Off in the published code's first stage."""
    resize: Literal["rgb", "own-mode"] = "rgb"
    """Convert to RGB before resizing, or resize in the file's own mode first, as published (palettes lose by it)."""
    size_from: Literal["picture", "annotation"] = "picture"
    """Whose height and width count where they differ. Published: the annotation's."""
    crf_decoder: Literal["same", "opencv"] = "same"
    """Who decodes the picture for the CRF: the same picture, or OpenCV once more, as published."""
    max_patches: int | None = 4096
    """The encoder sees larger pictures scaled down to this many patches; masks keep the picture's size. Attention takes
    memory by the square: for ViT-B/16 2 GB at 4096 patches (1024 x 1024 pixels), 200 GB for a telephone's 12 million
    pixels. None: as published, no limit."""

    def __post_init__(self) -> None:
        if self.max_patches is not None:
            _within("max_patches", self.max_patches, 1, 2**20, "patches of a picture")
        _within("max_megapixels", self.max_megapixels, 0.001, 10_000, "million pixels, each 3 bytes several times over")


@dataclass(frozen=True)
class EncoderConfig:
    """The frozen CLIP."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of all blocks but the last. From the softmax over labels on it is always float32."""
    activation: Literal["auto", "quick_gelu", "gelu"] = "auto"
    """quick_gelu: x sigmoid(1.702 x), OpenAI's. gelu: the plain one, of most CLIPs that open_clip has trained (LAION).
    Keys do not tell it. auto: as a config.json or open_clip_config.json beside the file says, else OpenAI's."""
    half_weights: bool = True
    """Round the weights to float16 values first, as OpenAI's loader does."""
    half_positions: bool = True
    """Round the interpolated position embedding to float16 values, as the published code does."""


@dataclass(frozen=True)
class AffinityConfig:
    """Class-aware affinity: maps spread along CLIP's own attention, inside box masks."""

    layers: int = 8
    """How many of the last transformer layers are averaged; all where the tower has fewer."""
    iterations: int = 3
    """Sinkhorn rounds: columns to sum one, then rows."""
    squarings: int = 1
    """How often the symmetrised matrix is squared: the power is 2 to this number."""
    box_threshold: float | None = None
    """Share of a map's maximum above which a patch opens a box. None: the vocabulary's (VOC 0.4, COCO 0.7)."""
    border: Literal["keep", "drop"] = "keep"
    """Published boxes never reach the last row and column of the grid: `drop`. `keep` lets them."""

    def __post_init__(self) -> None:
        _within("layers", self.layers, 1, 64, "transformer layers")
        _within("iterations", self.iterations, 0, 1000, "Sinkhorn rounds")
        _within("squarings", self.squarings, 0, 6, "squarings")
        if self.box_threshold is not None:
            _within("box_threshold", self.box_threshold, 0.0, 1.0, "share of the maximum")


@dataclass(frozen=True)
class CrfConfig:
    """Dense conditional random field with a Gaussian and a bilateral term."""

    iterations: int = 10
    """Mean-field iterations."""
    gaussian_sigma: float = 1.0
    """Spatial reach of the smoothness term, pixels."""
    gaussian_weight: float = 3.0
    """Potts weight of the smoothness term."""
    bilateral_sigma: float = 67.0
    """Spatial reach of the appearance term, pixels."""
    bilateral_colour: float = 3.0
    """Colour reach of the appearance term, grey levels."""
    bilateral_weight: float = 4.0
    """Potts weight of the appearance term."""
    background_power: float = 1.0
    """The background score is (1 - best map) to this power."""
    image: Literal["rgb", "wrapped"] = "rgb"
    """`wrapped` repeats the published picture: mean-subtracted BGR whose negative values wrap modulo 256."""
    half: bool = False
    """Maps, background score and logarithm in float16, as published."""
    backend: Backend = "auto"
    """pydensecrf (extra `crf`, as published), or the same in numba (extra `native`), about 2 to 3 times faster, which
    agrees to 1e-3; or in torch on the device of the maps, for a GPU. `auto`: torch for maps on a GPU, else native where
    it is installed, else pydensecrf."""

    def __post_init__(self) -> None:
        _within("iterations", self.iterations, 0, 1000, "mean-field iterations")
        for name in ("gaussian_weight", "bilateral_weight"):
            _within(name, getattr(self, name), 0, 1e6, "Potts weight")
        for name in ("gaussian_sigma", "bilateral_sigma", "bilateral_colour"):
            _within(name, getattr(self, name), 1e-3, 1e6, "standard deviation")
        _within("background_power", self.background_power, 0.01, 100, "exponent")


@dataclass(frozen=True)
class ParConfig:
    """Pixel-adaptive refinement: each pixel takes over the labels of neighbours that look like it."""

    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24)
    """Distances of the eight neighbours of each ring, pixels."""
    iterations: int = 10
    """How often labels are passed on."""
    colour: float = 0.3
    """Colour reach, in standard deviations of the neighbours' colours."""
    position_weight: float = 0.01
    """What nearness alone counts, beside 1 for colour."""
    background_power: float = 1.0
    """The background score is (1 - best map) to this power."""

    def __post_init__(self) -> None:
        if not self.dilations:
            raise ConfigError("PAR needs neighbours", expected="at least one dilation", found=self.dilations)
        for dilation in self.dilations:
            _within("dilations", dilation, 1, 1024, "pixels")
        _within("iterations", self.iterations, 0, 1000, "rounds")
        _within("colour", self.colour, 1e-3, 1e3, "standard deviations")
        _within("position_weight", self.position_weight, 0, 1e3, "weight")
        _within("background_power", self.background_power, 0.01, 100, "exponent")


@dataclass(frozen=True)
class SpectralConfig:
    """Segments of one picture from its patch features and colours, and the maps averaged over them."""

    features: str = "clip"
    """Whose patch features: clip, or a local folder of a DINO in transformers' layout, as the published work has it."""
    eigenvectors: int = 5
    """How many are used, the constant one not counted."""
    segments: int | None = 16
    """Into how many parts k-means divides the picture. None: as many as the largest gap between eigenvalues tells."""
    amount: float = 0.5
    """How much of a segment's mean a patch takes: 0 changes nothing, 1 makes maps constant on each segment."""
    colours: Literal["hsv", "rgb", "none"] = "rgb"
    """Who else is a neighbour. hsv: the nearest in hue, saturation, value and place, the closer the stronger, as in the
    paper. rgb: the nearest in colour and place, counted, as in the public deep-spectral code. none: features alone."""
    colour_weight: float = 1.0
    """Weight of the colour neighbours against the features, whose own weights are 0..1; published: 10."""
    neighbours: int = 20
    """Nearest neighbours of a patch in the hsv graph, itself included. The rgb graph has its own, 20 and 10."""
    rule: Literal["pool", "threshold"] = "pool"
    """pool: means over k-means segments. threshold: as published, the positive side of an eigenvector, or the other,
    takes the place of a map that it covers well enough; for comparison."""
    overlap: float = 0.5
    """Intersection over union above which that happens."""
    seed: int = 0
    """Of the k-means starts."""

    def __post_init__(self) -> None:
        _within("eigenvectors", self.eigenvectors, 1, 100, "eigenvectors")
        if self.segments is not None:
            _within("segments", self.segments, 1, 10_000, "segments")
        _within("amount", self.amount, 0, 1, "share of the segment's mean")
        _within("colour_weight", self.colour_weight, 0, 1e6, "weight")
        _within("neighbours", self.neighbours, 1, 10_000, "nearest patches")
        _within("overlap", self.overlap, 0, 1, "intersection over union")


@dataclass(frozen=True)
class DiffusionConfig:
    """Maps carried along Stable Diffusion's self-attention (extra `diffusion`)."""

    model: str = "stabilityai/stable-diffusion-2-1-base"
    """A folder in the diffusers layout, or a hub name. The 2.1-base weights have left that hub name; mirrors exist, and
    1.5 and 1.4 work too."""
    threshold: float = 0.1
    """Entries of an attention below this share of their column's maximum are dropped."""
    mode: Literal["chain", "mean", "single"] = "chain"
    """The product of all heads; their average; or one head alone."""
    single: int = 1
    """Which head, for `single`."""
    timestep: int = 45
    """Index into the scheduler's 50 steps at which the picture is noised."""
    side: int = 512
    """The picture is stretched to a square of this side, pixels; a multiple of 8."""
    seed: int = 0
    """Of the noise; the published code draws it anew each time."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1 or not 0 <= self.timestep < 50 or self.side < 8 or self.side % 8:
            raise ConfigError(
                "these settings of the diffusion refiner cannot work",
                expected="threshold 0..1, timestep 0..49, side a multiple of 8",
                found=(self.threshold, self.timestep, self.side),
            )


@dataclass(frozen=True)
class DinoConfig:
    """Maps carried between patches that look alike to a DINO (extra `diffusion`, for transformers)."""

    model: str = ""
    """A local folder of a DINO or DINOv2 in transformers' layout."""
    sharpness: float = 3.0
    """Factor on the cosines before the softmax."""
    offset: float = 1.2
    """Pairs whose cosine is below this many times the mean cosine do not count."""
    max_patches: int = 4096
    """Larger pictures are scaled down to this many patches."""

    def __post_init__(self) -> None:
        _within("sharpness", self.sharpness, 0, 1e3, "factor")
        _within("offset", self.offset, -100, 100, "times the mean cosine")
        _within("max_patches", self.max_patches, 1, 2**20, "patches")


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

    def __post_init__(self) -> None:
        if self.threshold is not None:
            _within("threshold", self.threshold, 0.0, 1.0, "confidence")
        _within("background_power", self.background_power, 0.01, 100, "exponent")


@dataclass(frozen=True)
class RunConfig:
    """How pictures become masks."""

    method: MethodName = "clip-es"
    """How labels are found. clip-es: Softmax-GradCAM. cliper: patches of all layers against the words; works without
    labels too. clipseg: a decoder that was trained on masks."""
    refine: tuple[RefinerName, ...] = ("affinity", "crf")
    """Refiners in the order in which they run: those on the patch grid, diffusion or dino, those at full size;
    `--refine` alone switches all off."""
    image: ImageConfig = field(default_factory=ImageConfig)
    encoder: Annotated[EncoderConfig, tyro.conf.arg(name="")] = field(default_factory=EncoderConfig)
    localize: LocalizeConfig = field(default_factory=LocalizeConfig)
    tagging: TaggingConfig = field(default_factory=TaggingConfig)
    cliper: CliperConfig = field(default_factory=CliperConfig)
    clipseg: ClipSegConfig = field(default_factory=ClipSegConfig)
    affinity: Annotated[AffinityConfig, tyro.conf.arg(name="refine.affinity")] = field(default_factory=AffinityConfig)
    crf: Annotated[CrfConfig, tyro.conf.arg(name="refine.crf")] = field(default_factory=CrfConfig)
    spectral: Annotated[SpectralConfig, tyro.conf.arg(name="refine.spectral")] = field(default_factory=SpectralConfig)
    diffusion: Annotated[DiffusionConfig, tyro.conf.arg(name="refine.diffusion")] = field(
        default_factory=DiffusionConfig
    )
    dino: Annotated[DinoConfig, tyro.conf.arg(name="refine.dino")] = field(default_factory=DinoConfig)
    par: Annotated[ParConfig, tyro.conf.arg(name="refine.par")] = field(default_factory=ParConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    arithmetic: Literal["fast", "published"] = "fast"
    """published: the order of operations of the published code, for its very bits on a CPU; slower. A GPU is fast."""

    def __post_init__(self) -> None:
        if "dino" in self.refine and not self.dino.model:
            raise ConfigError("the dino refiner needs a model", next_step="Pass --refine.dino.model FOLDER.")
        if self.arithmetic == "published" and (self.localize != LocalizeConfig() or self.method != "clip-es"):
            raise ConfigError(
                "the published arithmetic exists for the published localizer only",
                expected="--arithmetic fast, or no --localize flag and no other --method",
                found=self.localize if self.method == "clip-es" else self.method,
            )

    def in_use(self, labels: str = "given") -> dict[str, Any]:
        """The settings that decide anything, by field: not those of other methods, nor of refiners left out, nor how
        labels are found where `labels` is not "auto"."""
        methods = {"clip-es": "localize", "cliper": "cliper", "clipseg": "clipseg"}
        refiners = {"affinity", "spectral", "diffusion", "dino", "crf", "par"}
        idle = {name for method, name in methods.items() if method != self.method} | (refiners - set(self.refine))
        idle |= {"tagging"} - ({"tagging"} if labels == "auto" else set())
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in idle}


DEFAULT = RunConfig()

REFERENCE = replace(
    DEFAULT,
    image=ImageConfig(exif=False, resize="own-mode", size_from="annotation", crf_decoder="opencv", max_patches=None),
    affinity=AffinityConfig(border="drop"),
    crf=CrfConfig(image="wrapped", half=True, backend="pydensecrf"),
    mask=MaskConfig(half=True),
    arithmetic="published",
)

PRESETS: dict[str, RunConfig] = {"default": DEFAULT, "reference": REFERENCE}
