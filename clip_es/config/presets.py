"""Named settings: the house's own, CLIP-ES's published code, and CLIPer's published table."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clip_es.config.run import DEFAULT, PRESETS, CliperConfig, RunConfig
from clip_es.errors import ConfigError, nearest

_BACKBONES = {"b16": ("B/16", "ViT-B/16"), "l14": ("L/14", "ViT-L/14")}
_SLIDING = "-sliding"


CLIPER_SCENES = CliperConfig(short_side=192, temperature=30.0, score_threshold=1.0, background_threshold=0.7)
"""For drawn scenes and their small CLIP, chosen on 60 scenes that no figure uses."""


@dataclass(frozen=True)
class Preset:
    """Defaults of a run's flags."""

    config: RunConfig
    template: str | None = None
    """Packaged list of sentences; None: the vocabulary's own."""
    weights: str | None = None
    """None: the command's own."""


def find_preset(name: str) -> Preset:
    """The preset of a name. Raises ConfigError: there is none."""
    if name in PRESETS:
        return Preset(PRESETS[name])
    if name == "cliper-scenes":
        return Preset(replace(DEFAULT, method="cliper", refine=()).using(cliper=CLIPER_SCENES))
    from clip_es.localize.cliper import TEMPLATES, cliper_preset

    data, backbone = name.removesuffix(_SLIDING).removeprefix("cliper-").rsplit("-", 1) if "-" in name else (name, "")
    known = [f"cliper-{data}-{short}" for short, (size, _) in _BACKBONES.items() for data, s in TEMPLATES if s == size]
    if name.removesuffix(_SLIDING) not in known:
        raise ConfigError(
            "there is no such preset",
            where="--preset",
            expected=f"one of {', '.join(PRESETS)}, or {known[0]} and its like",
            found=repr(name),
            next_step=nearest(name, [*PRESETS, "cliper-scenes", *known, *(f"{one}{_SLIDING}" for one in known)])
            or None,
        )
    size, weights = _BACKBONES[backbone]
    settings = cliper_preset(data, size, sliding=name.endswith(_SLIDING))  # pyright: ignore[reportArgumentType]
    return Preset(replace(DEFAULT, method="cliper", refine=()).using(cliper=settings), TEMPLATES[data, size], weights)
