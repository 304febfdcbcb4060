"""The methods, in one table, and how each is made ready.

A new one is one file with a class that has the members of `base.Localizer`, its settings, and a line in `METHODS`.
Another installed package brings its own under the entry point group `clip_es.localizers`; see `clip_es.joints`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clip_es import published
from clip_es.config.methods import CliperConfig, ClipSegConfig, JointConfig, LocalizeConfig, PatchTextConfig, Sam3Config
from clip_es.config.views import ViewsConfig
from clip_es.encoder import Encoder
from clip_es.errors import ConfigError, WeightsError
from clip_es.joints import Table
from clip_es.localize.base import Localizer
from clip_es.localize.cliper.localizer import Cliper
from clip_es.localize.clipseg.examples import class_prompts, digest, read_examples
from clip_es.localize.clipseg.localizer import ClipSeg
from clip_es.localize.clipseg.weights import load_decoder
from clip_es.localize.gradcam.localizer import ClipEs
from clip_es.localize.joint import Joint
from clip_es.localize.patchtext.localizer import PatchText
from clip_es.localize.sam3 import Sam3
from clip_es.localize.viewed import Viewed
from clip_es.refine.base import GridRefiner
from clip_es.types import TextBank


@dataclass(frozen=True)
class Parts:
    """What every method is made of."""

    encoder: Encoder
    bank: TextBank
    settings: Any
    """The method's own settings."""
    words: Sequence[Sequence[str]]
    """What each class is called; several words of a class are averaged."""
    templates: Sequence[str] | None = None
    """Sentences the user asked for in place of the method's own; the bank is made with them already."""
    class_id: Callable[[str], int] | None = None
    """From a class name to its 0-based id; raises DataError."""
    labelled: bool = True
    """Whether the labels of a picture will be known."""
    exact: bool = False
    """Whether the order of operations of the published code is wanted."""
    attention_layers: int = 8
    """Over how many of the last layers the attention for the affinity is averaged."""
    on_patches: bool = False
    """Whether the maps are wanted on the patch grid, for a refiner that works there."""
    views: ViewsConfig = ViewsConfig()  # noqa: RUF009 -- frozen
    refiners: Sequence[tuple[str, GridRefiner]] = ()
    """Those on the grid, for methods that refine each view, or each of their parts, by itself."""
    others: Any = None
    """The settings of all methods, as attributes, for a method made of others."""
    max_patches: int | None = None
    """The most patches that the encoder is shown."""


@dataclass(frozen=True)
class Method:
    """A method and what can be said of it without making it."""

    name: str
    about: str
    """One sentence for help, errors and docs, without a full stop."""
    settings: type
    """A frozen dataclass that can be made without arguments; its fields become flags."""
    make: Callable[[Parts], Localizer]
    """Raises ConfigError, WeightsError, DataError: what it needs cannot be loaded."""
    finds_classes: bool = False
    """Whether it works without labels."""
    decides_background: Callable[[Any], bool] = lambda _: False
    """Whether, under these settings, its own rule says which pixels are background, in any data set."""
    prefix: str = ""
    """Of its flags, where that is not its name."""
    paper: str = ""
    """What its authors call it, where that is not its name."""
    made_of: Callable[[Any], tuple[str, ...]] = lambda _: ()
    """The other methods that it is made of under these settings; it then cares for views and refiners on the grid
    itself."""
    refuses: Callable[[Any], tuple[str, ...]] = lambda _: ()
    """Refiners that, under these settings, are known to make its maps worse."""
    undecided_below: float | None = None
    """Where no refiner follows and nothing else is asked for: confidence below which a pixel is left undecided."""

    @property
    def flag(self) -> str:
        """What its settings are called: --FLAG.FIELD."""
        return self.prefix or self.name.replace("-", "_")

    @property
    def title(self) -> str:
        """For headings."""
        return self.paper or self.name


def build_localizer(name: str, parts: Parts) -> Localizer:
    """The localizer of a name, ready to work. Raises ConfigError, WeightsError, DataError."""
    method = METHODS.find(name, "--method")
    if not parts.labelled and not method.finds_classes:
        raise ConfigError(
            f"the method {name} explains labels, so it cannot work without any",
            found="--labels none",
            next_step="Pass --labels auto to have them found first, or --method cliper, which finds them itself.",
        )
    made = method.make(parts)
    if method.made_of(parts.settings) or parts.views.count == 1:
        return made
    return Viewed(made, parts.views, parts.refiners, parts.max_patches)


def weakly_supervised(localizer: Localizer) -> bool:
    """Whether masks made with it rest on CLIP, and labels at most: no mask was seen in any training."""
    return localizer.supervision == "none"


def _clip_es(parts: Parts) -> Localizer:
    kind = published.PublishedClipEs if parts.exact else ClipEs
    return kind(parts.encoder, parts.bank, parts.settings, parts.attention_layers)


def _cliper(parts: Parts) -> Localizer:
    layers, follows = parts.attention_layers, parts.on_patches
    return Cliper(parts.encoder, parts.bank, parts.settings, layers, on_patches=follows)


def _patch_text(parts: Parts) -> Localizer:
    return PatchText(parts.encoder, parts.bank, parts.settings, parts.attention_layers)


def _joint(parts: Parts) -> Localizer:
    config: JointConfig = parts.settings
    halves: list[Localizer] = []
    for name in (config.first, config.second):
        row = METHODS.find(name, "--joint")
        half = row.make(replace(parts, settings=getattr(parts.others, row.flag)))
        refiners = parts.refiners if getattr(half, "stretches", False) else ()
        halves.append(Viewed(half, parts.views, refiners, parts.max_patches))
    return Joint(
        *halves,
        weights=config.weights,
        calibration=config.calibration,
        max_patches=parts.max_patches,
        certainty=parts.views.certainty,
    )


def _sam3(parts: Parts) -> Localizer:
    from clip_es.sam.networks import load

    config: Sam3Config = parts.settings
    if parts.views.count > 1:
        raise ConfigError(
            "SAM 3 is shown the picture itself, not CLIP's copy that views move",
            expected="--method sam3 without --views",
            found=f"{parts.views.count} views",
        )
    network = load(config.model, "phrased", parts.encoder.device, config.dtype)
    return Sam3(parts.encoder, parts.bank, network, config, parts.words, parts.on_patches)


def _clipseg(parts: Parts) -> Localizer:
    config: ClipSegConfig = parts.settings
    path = decoder_path(config.decoder)
    decoder = load_decoder(path, config.layers).to(parts.encoder.device)
    sources, examples = {"decoder": hashlib.sha256(path.read_bytes()).hexdigest()}, []
    if config.examples is not None:
        if parts.class_id is None:
            raise ConfigError("examples need a vocabulary that knows the names of their folders", where=config.examples)
        examples = read_examples(config.examples, parts.class_id)
        sources["examples"] = digest(examples)
    told = decoder.about.get("example_side", "")
    side = int(told) if told.isdecimal() else None
    prompts = class_prompts(parts.encoder, parts.words, config, parts.templates, examples, side)
    return ClipSeg(
        parts.encoder,
        decoder,
        prompts,
        config,
        on_grid=parts.on_patches,
        layers=parts.attention_layers,
        sources=sources,
        supervision=decoder.about.get("supervision", "masks (PhraseCut)"),
    )


def decoder_path(name: str) -> Path:
    """The file of a decoder by its name, `scenes`, or by its path. Raises WeightsError: the package ships none."""
    if name != "scenes":
        return Path(name).expanduser()
    from clip_es.scenes.weights import shipped_decoder_path

    if not shipped_decoder_path().is_file():
        raise WeightsError(
            "this copy of the package ships no decoder",
            expected="scenes_clipseg.safetensors beside the scenes CLIP",
            next_step="Train one with `clip-es train-clipseg`, or pass --decoder FILE.",
        )
    return shipped_decoder_path()


METHODS: Table[Method] = Table(
    "method",
    "clip_es.localizers",
    [
        Method(
            "clip-es",
            "Softmax-GradCAM, where the given labels are",
            LocalizeConfig,
            _clip_es,
            prefix="localize",
            paper="CLIP-ES",
        ),
        Method(
            "cliper",
            "patches of all layers against the words, with labels or without",
            CliperConfig,
            _cliper,
            finds_classes=True,
            decides_background=lambda settings: settings.own_background,
            paper="CLIPer",
        ),
        Method(
            "clipseg",
            "a decoder that was trained on masks, prompted with words or examples",
            ClipSegConfig,
            _clipseg,
            finds_classes=True,
            paper="CLIPSeg",
        ),
        Method(
            "patch-text",
            "patches compared with the words after changing the last blocks, with labels or without",
            PatchTextConfig,
            _patch_text,
            finds_classes=True,
            undecided_below=0.0,
            refuses=lambda settings: () if settings.with_affinity or settings.score == "surgery" else ("affinity",),
        ),
        Method(
            "sam3",
            "SAM 3, which was trained on masks, asked with the labels and background words as phrases",
            Sam3Config,
            _sam3,
            finds_classes=True,
            paper="SAM 3",
            undecided_below=0.0,
        ),
        Method(
            "joint",
            "two methods at once, patch-text and clip-es unless others are named",
            JointConfig,
            _joint,
            finds_classes=True,
            undecided_below=0.0,
            made_of=lambda settings: (settings.first, settings.second),
        ),
    ],
    Method,
)
"""The one place where a method's name stands."""
