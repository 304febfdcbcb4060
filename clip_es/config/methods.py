"""Settings of the methods, one dataclass each; `RunConfig` holds them all and `method` says which one counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from clip_es.config.bounds import check_within
from clip_es.errors import ConfigError

Variant = Literal["gradcam", "hirescam", "layercam", "gradcam++", "xgradcam", "eigengradcam"]
LastAttention = Literal["fused", "qq", "kk", "vv", "identity", "vanilla", "proxy"]
VisualPrompt = Literal[
    "crop_blur_highlight352", "blur3_highlight01", "blur3_highlight", "blur_highlight", "highlight", "crop", "overlay"
]


@dataclass(frozen=True)
class LocalizeConfig:
    """Softmax-GradCAM: where the label is, in competition with the other labels and the background words."""

    variant: Variant = "gradcam"
    """gradcam is CLIP-ES. The others come from pytorch-grad-cam (extra `gradcam`)."""
    softmax: bool = True
    """Explain softmax scores. Off: plain logits, without competition."""
    background: bool = True
    """Let the background words compete. Off: only the labels of the picture do."""


@dataclass(frozen=True)
class CliperConfig:
    """CLIPer: early-layer fusion, and the rule that turns its maps into labels."""

    variant: Literal["v2", "v1"] = "v2"
    """v2: the code of the ICCV 2025 version. v1: that of December 2024, which spreads the other way along the
    attention and leaves the last layer out of the mean."""
    last_attention: LastAttention = "fused"
    """What stands in for the last block's attention: the fused one, or, as ablations, query-query, key-key,
    value-value, none (identity) or the block's own (vanilla); proxy: between patches that look alike to a DINO."""
    proxy_model: str = ""
    """For proxy: a local folder of a DINO in transformers' layout; published: DINO ViT-B/8."""
    fuse: bool = True
    """Read all layers. Off: only the selected one, without a mean over layers."""
    select: Literal[-1, -2] = -1
    """Whose map is spread along the attention: the last layer's or the last but one's."""
    threshold: float = 0.2
    """Share of a map's maximum below which the selected layer's patches are zeroed before spreading."""
    temperature: float = 100.0
    """Factor between a cosine and a logit; not the one CLIP learnt."""
    competitors: Literal["vocabulary", "labels"] = "vocabulary"
    """Where the labels are known: who competes with them besides the background words. All classes of the vocabulary,
    as published (there no labels are known), or only each other: on 40 drawn scenes 3 to 4 points better."""
    short_side: int | None = 336
    """The shorter side of the picture for the encoder, pixels. None: the picture's own size, in whole patches."""
    window: int | None = None
    """Side of the sliding window, pixels; averaged with the whole picture. None: the whole picture only."""
    stride: int = 112
    """Steps of the sliding window, pixels."""
    score_threshold: float = 0.45
    """Without labels: classes whose score (0..2) is not above this do not occur."""
    background_threshold: float = 0.45
    """Pixels below this in every map are background. 0: background competes as (1 - best map) squared."""
    labelled: Literal["heights", "stretched"] = "heights"
    """With labels: maps keep their heights, as without; or each is stretched to 0..1, where 0.5 is even with
    background, so that every label is found somewhere. On drawn scenes the former is far better."""
    rule: Literal["auto", "published", "early"] = "auto"
    """When scores and heights are set. published: after the refiners and at full size. early: before the refiners,
    which then change shapes alone; on drawn scenes far better behind refiners that stretch maps, such as affinity.
    auto: early behind refiners on the patch grid, else published (no refiner, diffusion, dino, CRF)."""
    own_background: bool = False
    """Pixels below the threshold are background in data sets without background too, where they then count as missed,
    as published; the presets set it. Off: every pixel there has a class."""
    normalise: bool = False
    """Stretch each map to 0..1 before it is compared with the background threshold."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("threshold", 0.0, 1.0),
            ("temperature", 1e-3, 1e4),
            ("score_threshold", 0.0, 2.0),
            ("background_threshold", 0.0, 2.0),
            ("stride", 1, 10**6),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} is out of range", expected=f"{low:g}..{high:g}", found=getattr(self, name))
        if any(side is not None and side < 1 for side in (self.short_side, self.window)):
            raise ConfigError("sides are at least one pixel", found=(self.short_side, self.window))
        if self.last_attention == "proxy" and self.window is not None:
            raise ConfigError("the proxy attention knows no windows", expected="no window", found=self.window)
        if self.variant == "v1" and self.select != -1:
            raise ConfigError("the variant v1 knows only the last layer", expected="select -1", found=self.select)


@dataclass(frozen=True)
class ClipSegConfig:
    """CLIPSeg: a trained decoder on the frozen encoder. It saw masks, so what it makes is not weakly supervised."""

    decoder: Annotated[str, tyro.conf.arg(aliases=["--decoder"])] = "scenes"
    """scenes (in the package, trained on drawn masks), or a file: the authors' .pth, the transformers port's, or one
    that `clip-es train-clipseg` wrote."""
    layers: tuple[int, ...] | None = None
    """Blocks, counted from 0, whose outputs the decoder reads. None: as the weights file says, else 3 6 9, which all
    public code loads the published files with; the paper and its training settings say 3 7 9."""
    side: int | None = None
    """The picture is resized to a square of this side, pixels. None: as the weights file says, else 352. 0: it keeps
    its shape, in whole patches."""
    prompt: str = "a photo of a {}."
    """Sentence around a class name."""
    examples: Annotated[Path | None, tyro.conf.arg(aliases=["--examples"])] = None
    """Folder of example pictures in place of words: CLASS/NAME.jpg and its mask CLASS/NAME.png or CLASS/NAME_mask.png,
    in which the object is not 0. Several of a class are averaged."""
    text_share: float = 0.0
    """With examples: how much of the prompt is text, 0..1; 0 is the examples alone."""
    visual_prompt: VisualPrompt = "crop_blur_highlight352"
    """How an example is faded and cut before CLIP sees it; the default is the best of the paper's study."""
    threshold: float = 0.3
    """Probability at which a class and background are even; published tables use 0.1 to 0.3."""
    score_threshold: float = 0.3
    """Without labels: classes whose largest probability is not above this do not occur."""

    def __post_init__(self) -> None:
        if self.side is not None and self.side < 0:
            raise ConfigError("a side is at least one pixel, or 0", found=self.side)
        if self.prompt.count("{}") != 1:
            raise ConfigError("the prompt names the class with {} exactly once", found=repr(self.prompt))
        if self.layers is not None:
            check_layers(self.layers)
        if not 0 <= self.text_share <= 1:
            raise ConfigError("text_share is a share", expected="0..1", found=self.text_share)
        if not 0 < self.threshold < 1 or not 0 <= self.score_threshold <= 1:
            raise ConfigError(
                "the thresholds of CLIPSeg are probabilities",
                expected="0..1",
                found=(self.threshold, self.score_threshold),
            )


def check_layers(layers: tuple[int, ...] | list[int]) -> None:
    """Raises ConfigError: no block numbers, or not ascending."""
    if list(layers) != sorted(set(layers)) or not layers or min(layers) < 0:
        raise ConfigError("layers are block numbers from 0 on, ascending", expected="3 6 9", found=list(layers))


@dataclass(frozen=True)
class PatchTextConfig:
    """Patch-text: each patch against the words, after CLIP's last blocks were changed."""

    read: Literal["svc", "value", "kk-near", "qq", "qq+kk", "fused", "sc", "dino", "vanilla"] = "svc"
    """How patches are read. svc: self-correlation of queries, keys and values (ExCEL). value: MaskCLIP. kk-near:
    NACLIP. qq: ClearCLIP. qq+kk: SCLIP. fused: CLIPer's, last layer only. sc: SC-CLIP. dino: patches that look alike
    to a DINO (ProxyCLIP). vanilla: CLIP as it is."""
    dino_model: str = ""
    """For dino: a local folder of a DINO in transformers' layout; published: DINO ViT-B/8."""
    score: Literal["shares", "surgery"] = "shares"
    """How patches are scored. shares: each word's share, background is the rest. surgery: ExCEL's, each map stretched
    over the picture, and in the affinity the blocks that were read count with the sum over their heads; for parity."""
    blocks: int = 5
    """How many of the last blocks `svc` reads, at most all; published 5 of 12. The others read the last one."""
    shared_heads: bool = True
    """svc: every head has the sum over heads, as published. Off: each head its own."""
    competitors: Literal["vocabulary", "labels"] = "labels"
    """Where the labels are known: who competes with them besides the background words. Only each other, or all classes
    of the vocabulary, as where no labels are known: on drawn scenes masks are then 9 points worse with either CLIP."""
    scale: float | None = None
    """Factor between a cosine and a logit. None: the one the model has learnt. Published for OpenAI's weights 40 to 65,
    which make softer maps than the learnt 100."""
    short_side: int | None = None
    """The shorter side of the picture for the encoder, pixels. None: the picture's own size, in whole patches."""
    square: int | None = None
    """The picture is shown as a square of this side, pixels, whatever its shape (ExCEL: 320)."""
    with_affinity: bool = False
    """Let the refiner affinity work on these maps. It never helped: attention costs 13 points on scenes."""
    attributes: Path | None = None
    """A text file of sentences about the classes, one a line, which enrich their texts (ExCEL)."""
    score_threshold: float = 0.5
    """Without labels: classes whose largest share is not above this do not occur."""

    def __post_init__(self) -> None:
        if min(self.blocks, self.short_side or 1, self.square or 1) < 1:
            raise ConfigError("blocks and sides are at least 1", found=(self.blocks, self.short_side, self.square))
        if self.short_side is not None and self.square is not None:
            raise ConfigError("a picture has one size", expected="short_side or square", found=self.short_side)
        if self.read == "dino" and not self.dino_model:
            raise ConfigError("the reading dino needs a DINO", next_step="Pass --patch-text.dino-model FOLDER.")
        if self.score == "surgery" and self.read == "dino":
            raise ConfigError("the score surgery needs CLIP's own grid", expected="another --patch-text.read")
        if self.scale is not None and not 0 < self.scale <= 1e4:
            raise ConfigError("scale is a positive factor", expected="0..10000", found=self.scale)
        if not 0 <= self.score_threshold <= 1:
            raise ConfigError("score_threshold is a share", expected="0..1", found=self.score_threshold)


@dataclass(frozen=True)
class JointConfig:
    """Two methods at once: the mean of what both say about each pixel."""

    first: str = "patch-text"
    """Says which classes there are where no labels are given."""
    second: str = "clip-es"
    """The refiners on the patch grid work on the maps of methods whose maps are stretched, such as this one."""
    weights: Literal["mean", "entropy"] = "mean"
    """How the two are joined. entropy: the surer one counts more at each pixel; it was no better in trials."""
    calibration: Literal["fixed", "otsu"] = "otsu"
    """Where a map of a method whose maps are stretched is even with background, as --mask.calibration."""

    def __post_init__(self) -> None:
        if self.first == self.second or "joint" in (self.first, self.second):
            raise ConfigError(
                "two different methods are joined",
                expected="such as patch-text and clip-es",
                found=(self.first, self.second),
            )


@dataclass(frozen=True)
class Sam3Config:
    """SAM 3 asked with the picture's labels (extra `sam`). It saw masks, so what it makes is not weakly supervised."""

    model: str = "sam3"
    """sam3 (gated), a folder in transformers' layout, or the id of one on the Hugging Face hub."""
    maps: Literal["semantic", "instances"] = "semantic"
    """semantic: SAM 3's own map of a phrase. instances: the union of the things it finds, by score."""
    background: bool = True
    """Let the background words compete. Off: only the labels of the picture do, and none of them."""
    weigh: Literal["background", "all", "none"] = "background"
    """Whose claims are weighted by how likely the phrase is in the picture at all: the background words', which may
    well be absent; the labels' too; or nobody's."""
    phrase: str = "{}"
    """What is asked about a name."""
    presence: float = 0.5
    """Where labels are found and not given: classes whose presence is not above this do not occur. SAM 3: .5."""
    instance_score: float = 0.3
    """Things whose score is not above this do not count. transformers: .3; SAM 3's own code: .5."""
    mask_threshold: float = 0.5
    """Probability from which a pixel belongs to a thing. transformers: .5."""
    phrases_at_once: int = 4
    """Phrases that go through the decoder together; more are faster on a GPU and need more memory."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network."""

    def __post_init__(self) -> None:
        if self.phrase.count("{}") != 1:
            raise ConfigError("the phrase names the class with {} exactly once", found=repr(self.phrase))
        for name in ("presence", "instance_score", "mask_threshold"):
            check_within(name, getattr(self, name), 0, 1, "share")
        check_within("phrases_at_once", self.phrases_at_once, 1, 4096, "phrases")
