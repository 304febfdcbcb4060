"""The refiners, in one table: first those on the patch grid, then those on a grid of their own, then at full size.

The kinds differ in what they need. On the patch grid a refiner uses what the encoder saw; `own` ones bring a network
and a grid of their own; at full size a refiner needs the picture alone, so another process may run it.

A new refiner is one file with its settings (a frozen dataclass whose fields become flags) and one line in `REFINERS`.
Another installed package brings its own under the entry point group `clip_es.refiners`; see `clip_es.joints`. It
imports `Refiner` from here, and types from `clip_es.refine.base` and `clip_es.types`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from clip_es.errors import ConfigError
from clip_es.joints import Table
from clip_es.refine import affinity, diffusion, dino, par, segments, spectral
from clip_es.refine.affinity import AffinityConfig
from clip_es.refine.base import Ahead, FullSizeRefiner, GridRefiner, GridRefinerTogether, Kind, Surroundings
from clip_es.refine.crf import dense as crf
from clip_es.refine.crf.settings import CrfConfig
from clip_es.refine.diffusion import DiffusionConfig
from clip_es.refine.dino import DinoConfig
from clip_es.refine.par import ParConfig
from clip_es.refine.regions import refiner as regions
from clip_es.refine.regions.settings import RegionsConfig
from clip_es.refine.regions.settings import check as check_regions
from clip_es.refine.segments import SegmentsConfig
from clip_es.refine.spectral import SpectralConfig

_KINDS: tuple[Kind, ...] = ("patches", "own", "pixels")


@dataclass(frozen=True)
class Refiner:
    """A refiner and what can be said of it without making it."""

    name: str
    about: str
    """One sentence for help, errors and docs, without a full stop."""
    grid: Kind
    settings: type
    """A frozen dataclass that can be made without arguments; its fields become the flags --refine.NAME.FIELD."""
    make: Callable[[Any, Surroundings], GridRefiner | FullSizeRefiner]
    """From settings to the refiner. Raises ConfigError: an extra is missing. WeightsError: weights cannot be loaded."""
    resolve: Callable[[Any, str], Any] = lambda settings, _: settings
    """From settings and a kind of device to settings in which nothing is left to choose."""
    check: Callable[[Any], None] = lambda _: None
    """Raises ConfigError: with these settings it cannot work, for reasons that its settings alone may not know."""
    undecided_below: float | None = None
    """Where it comes last and nothing else is asked for: confidence below which a pixel is left undecided."""
    reads_file: bool = False
    """Whether it looks at the picture as `ImageConfig.crf_decoder` has decoded it."""
    off_cpu: Callable[[Any], bool] = lambda _: False
    """Whether it works on the device of the maps under these settings, so that worker processes do not help."""
    ahead: Callable[[Any, Surroundings], Ahead | None] = lambda _, around: None
    """At full size: what a network of its own does with a picture before that goes to another process; None: it needs
    none under these settings. Raises ConfigError, WeightsError."""
    together: Callable[[Any, Surroundings], GridRefinerTogether | None] = lambda _, around: None
    """On the patch grid: the same for several pictures at once; None: it takes them one by one."""
    supervision: Callable[[Any], str] = lambda _: "none"
    """What it learned from under these settings; "none" where it saw no mask."""

    @property
    def flag(self) -> str:
        """The name as an attribute."""
        return self.name.replace("-", "_")


REFINERS: Table[Refiner] = Table(
    "refiner",
    "clip_es.refiners",
    [
        Refiner(
            "affinity",
            "spreads maps along CLIP's own attention",
            "patches",
            AffinityConfig,
            affinity.make,
            together=affinity.make_together,
        ),
        Refiner("spectral", "averages maps over segments of the picture", "patches", SpectralConfig, spectral.make),
        Refiner("diffusion", "carries maps along Stable Diffusion's attention", "own", DiffusionConfig, diffusion.make),
        Refiner(
            "dino", "averages maps over patches that DINO finds similar", "own", DinoConfig, dino.make, check=dino.check
        ),
        Refiner(
            "segments",
            "lets segments of the picture vote",
            "pixels",
            SegmentsConfig,
            segments.make,
            undecided_below=0.0,
        ),
        Refiner(
            "regions",
            "lets the regions of a mask generator vote",
            "pixels",
            RegionsConfig,
            regions.make,
            check=check_regions,
            undecided_below=0.0,
            ahead=regions.ahead,
            supervision=regions.supervision,
        ),
        Refiner("crf", "lets labels follow the edges of the picture", "pixels", CrfConfig, crf.make, **crf.TRAITS),
        Refiner("par", "passes labels between similar neighbours", "pixels", ParConfig, par.make, undecided_below=0.0),
    ],
    Refiner,
)
"""The one place where a refiner's name stands."""


def in_order(names: Sequence[str]) -> tuple[list[Refiner], list[Refiner]]:
    """The refiners before full size, and those at full size. Raises ConfigError: unknown, or not in their order."""
    rows = [REFINERS.find(name, "--refine") for name in names]
    ranks = [_KINDS.index(row.grid) for row in rows]
    if ranks != sorted(ranks):
        own = ", ".join(row.name for row in REFINERS.values() if row.grid == "own")
        raise ConfigError(
            f"refiners on the patch grid come before those at full size, and those with a grid of their own ({own}) "
            "between them",
            expected=" ".join(row.name for _, row in sorted(zip(ranks, rows, strict=True), key=lambda pair: pair[0])),
            found=" ".join(names),
            next_step="Change the order of --refine.",
        )
    late = ranks.count(_KINDS.index("pixels"))
    return rows[: len(rows) - late], rows[len(rows) - late :]


@runtime_checkable
class Chain(Protocol):
    """The part of the settings of a run that is about refiners."""

    @property
    def refine(self) -> tuple[str, ...]:
        """Names, in the order in which they run."""
        ...

    @property
    def refiners(self) -> Any:
        """The settings of each, as attributes."""
        ...


def on_patches(chain: Chain) -> bool:
    """Whether any of these refiners works on the patch grid."""
    return any(REFINERS.find(name, "--refine").grid == "patches" for name in chain.refine)


def on_grid(chain: Chain, around: Surroundings) -> list[tuple[str, GridRefiner]]:
    """Names and functions of the refiners before full size.

    Raises ConfigError: an extra is missing. WeightsError: the weights that a refiner needs cannot be loaded.
    """
    return [(row.name, row.make(settings_for(chain, row), around)) for row in in_order(chain.refine)[0]]  # pyright: ignore[reportReturnType]


def on_grid_together(chain: Chain, around: Surroundings) -> list[tuple[str, GridRefinerTogether | None]]:
    """Names and functions for several pictures of the refiners before full size; None where one has no such way."""
    return [(row.name, row.together(settings_for(chain, row), around)) for row in in_order(chain.refine)[0]]


def at_full_size(chain: Chain) -> list[tuple[str, FullSizeRefiner]]:
    """Names and functions of the refiners at full size."""
    rows = in_order(chain.refine)[1]
    return [(row.name, row.make(settings_for(chain, row), Surroundings())) for row in rows]  # pyright: ignore[reportReturnType]


def looks_ahead(chain: Chain, around: Surroundings) -> list[tuple[str, Ahead]]:
    """Names and functions of the networks that refiners at full size need.

    Raises ConfigError: an extra is missing. WeightsError: weights cannot be loaded.
    """
    found = [(row.name, row.ahead(settings_for(chain, row), around)) for row in in_order(chain.refine)[1]]
    return [(name, look) for name, look in found if look is not None]


def supervision(chain: Chain) -> str:
    """What the refiners learned from besides; "none" where none of them saw a mask."""
    rows = [row for rows in in_order(chain.refine) for row in rows]
    told = dict.fromkeys(row.supervision(settings_for(chain, row)) for row in rows)
    return "; ".join(one for one in told if one != "none") or "none"


def workers_help(chain: Chain) -> bool:
    """Whether there is a refiner at full size that works on the CPU, so that another process may run it."""
    return any(not row.off_cpu(settings_for(chain, row)) for row in in_order(chain.refine)[1])


def settings_for(chain: Chain, row: Refiner) -> Any:
    """The settings of a refiner; its defaults where it was registered after the settings were made."""
    return getattr(chain.refiners, row.flag, None) or row.settings()
