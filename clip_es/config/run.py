"""Every setting of a run, once: the dataclasses become the command line, its help, and run.yaml.

What all methods share stands in `stages.py`, the settings of each method in `methods.py`, those of a refiner in its own
file, named sets of them all in `presets.py`; this module has the names of them all.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

import tyro

from clip_es.config.methods import CliperConfig, ClipSegConfig, LocalizeConfig, Variant
from clip_es.config.refiners import RefinerName, refiner_defaults
from clip_es.config.settings import Settings, settings_of
from clip_es.config.stages import EncoderConfig, ImageConfig, MaskConfig, TaggingConfig
from clip_es.config.views import ViewsConfig
from clip_es.errors import ConfigError
from clip_es.joints import Choice, hint
from clip_es.localize.methods import METHODS
from clip_es.refine.affinity import AffinityConfig
from clip_es.refine.crf.settings import Backend, CrfConfig
from clip_es.refine.diffusion import DiffusionConfig
from clip_es.refine.dino import DinoConfig
from clip_es.refine.par import ParConfig
from clip_es.refine.registry import REFINERS, in_order, settings_for
from clip_es.refine.spectral import SpectralConfig

__all__ = [
    "DEFAULT",
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

MethodName = Annotated[str, Choice(METHODS)]


def method_defaults() -> Settings:
    """The settings of every method there is."""
    return settings_of({row.flag: row.settings() for row in METHODS.values()})


@dataclass(frozen=True)
class RunConfig:
    """How pictures become masks."""

    method: Annotated[MethodName, tyro.conf.arg(help_behavior_hint=hint(METHODS))] = "clip-es"
    """How labels are found."""
    refine: Annotated[tuple[RefinerName, ...], tyro.conf.arg(help_behavior_hint=hint(REFINERS))] = ("affinity", "crf")
    """Refiners in the order in which they run: those on the patch grid, those with a grid of their own, those at full
    size; `--refine` alone switches all off."""
    image: ImageConfig = field(default_factory=ImageConfig)
    encoder: Annotated[EncoderConfig, tyro.conf.arg(name="")] = field(default_factory=EncoderConfig)
    tagging: TaggingConfig = field(default_factory=TaggingConfig)
    methods: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=method_defaults)
    refiners: Annotated[Settings, tyro.conf.arg(name="refine")] = field(default_factory=refiner_defaults)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    arithmetic: Literal["fast", "published"] = "fast"
    """published: the order of operations of the published code, bit for bit on a CPU; slower. On a GPU always fast."""

    def __post_init__(self) -> None:
        method = METHODS.find(self.method, "--method")
        for name in method.made_of(getattr(self.methods, method.flag)):
            METHODS.find(name, f"--{method.flag}")
        for row in (row for rows in in_order(self.refine) for row in rows):
            row.check(settings_for(self, row))
        for name in set(method.refuses(getattr(self.methods, method.flag))) & set(self.refine):
            raise ConfigError(
                f"the refiner {name} makes the maps of {self.method} worse",
                expected="--refine crf, or --refine segments crf",
                found=f"--refine {' '.join(self.refine)}",
                next_step=f"Pass --{method.flag.replace('_', '-')}.with-{name} to have it work on them all the same.",
            )
        if self.arithmetic == "published" and (self.methods.localize != LocalizeConfig() or self.method != "clip-es"):
            raise ConfigError(
                "the published arithmetic exists for the published localizer only",
                expected="--arithmetic fast, or no --localize flag and no other --method",
                found=self.methods.localize if self.method == "clip-es" else self.method,
            )
        if self.arithmetic == "published" and (self.encoder.engine == "onnx" or self.encoder.dtype in ("int8", "auto")):
            raise ConfigError(
                "the published arithmetic is that of torch",
                expected="--arithmetic fast, or --encoder.engine torch --dtype float32",
                found=f"--encoder.engine {self.encoder.engine} --dtype {self.encoder.dtype}",
            )
        if self.arithmetic == "published" and self.views.count > 1:
            raise ConfigError(
                "the published arithmetic knows one view",
                expected="--arithmetic fast",
                found=f"{self.views.count} views",
            )

    def using(self, **settings: Any) -> RunConfig:
        """A copy with other settings of methods and refiners, by the names their flags have: `using(crf=CrfConfig())`.

        Raises ConfigError: there is nothing of that name.
        """
        groups: dict[str, dict[str, Any]] = {}
        for name, value in settings.items():
            for group in ("methods", "refiners"):
                if hasattr(getattr(self, group), name):
                    groups.setdefault(group, {})[name] = value
                    break
            else:
                known = [one.name for group in (self.methods, self.refiners) for one in fields(group)]  # pyright: ignore[reportArgumentType]
                raise ConfigError("there are no such settings", expected=", ".join(known), found=name)
        changed = {group: replace(getattr(self, group), **values) for group, values in groups.items()}
        return replace(self, **changed)

    def resolved(self, device: str) -> RunConfig:
        """The settings with every choice made that depends on what is installed, on the kind of device, or on what is
        not needed. Raises ConfigError: what was asked for is not installed.
        """
        rows = [REFINERS[name] for name in self.refine]
        chosen = {row.flag: row.resolve(settings_for(self, row), device) for row in rows}
        config = replace(self, refiners=settings_of({**vars(self.refiners), **chosen}))
        last = rows[-1] if rows else METHODS[self.method]
        if config.mask.threshold is None and last.undecided_below is not None:
            config = replace(config, mask=replace(config.mask, threshold=last.undecided_below))
        if not any(row.reads_file for row in rows):
            config = replace(config, image=replace(config.image, crf_decoder="same"))
        return config

    def for_data(self, has_background: bool) -> RunConfig:
        """The settings for a data set: where it has no background, no pixel becomes background, unless the method has
        a published rule of its own for that."""
        if has_background or METHODS[self.method].decides_background(getattr(self.methods, METHODS[self.method].flag)):
            return self
        return replace(self, mask=replace(self.mask, background=False))

    def in_use(self, labels: str = "given") -> dict[str, Any]:
        """The settings that decide anything, by name: not those of other methods, nor of refiners left out, nor how
        labels are found where `labels` is not "auto"."""
        idle = {"methods", "refiners"} | ({"tagging"} if labels != "auto" else set())
        told = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in idle}
        row = METHODS[self.method]
        told[row.flag] = getattr(self.methods, row.flag)
        for part in row.made_of(told[row.flag]):
            told[METHODS[part].flag] = getattr(self.methods, METHODS[part].flag)
        rows = [REFINERS[name] for name in self.refine]
        return told | {row.flag: settings_for(self, row) for row in rows}


DEFAULT = RunConfig()

REFERENCE = replace(
    DEFAULT,
    image=ImageConfig(exif=False, resize="own-mode", size_from="annotation", crf_decoder="opencv", max_patches=None),
    mask=MaskConfig(half=True),
    arithmetic="published",
).using(
    affinity=AffinityConfig(border="drop", squarings=1), crf=CrfConfig(image="wrapped", half=True, backend="pydensecrf")
)
"""What the published code of CLIP-ES computes, quirks included; README.md lists the differences from `DEFAULT`."""
