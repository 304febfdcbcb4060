"""Where regions come from, in one table.

Another installed package brings its own under the entry point group `clip_es.regions`; see `clip_es.joints`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_es.joints import Table
from clip_es.refine.base import Surroundings
from clip_es.refine.regions import superpixels
from clip_es.regions import Regions
from clip_es.store.regions import regions_of
from clip_es.types import ClassMaps, Picture

Find = Callable[[Picture, Callable[[], ClassMaps]], Regions]
"""The regions of a picture; its maps at full size can be asked for."""


@dataclass(frozen=True)
class RegionSource:
    """A maker of regions."""

    name: str
    about: str
    """One sentence for help, errors and docs, without a full stop."""
    read: Callable[[Picture, Any], Regions] | None = None
    """From a picture and `RegionsConfig`, in any process; None: it needs a network, see `network`."""
    network: Callable[[Any, Surroundings], Find] | None = None
    """From `RegionsConfig` to the network, ready to work; it stays in the process that has the encoder.

    Raises ConfigError: an extra is missing. WeightsError: weights cannot be loaded.
    """
    supervision: str = "none"
    """What it learned from; "none" where it learned nothing."""

    @property
    def votes(self) -> bool:
        """Whether `--refine regions` can ask it; others write files for it."""
        return self.read is not None or self.network is not None


def _folder(picture: Picture, config: Any) -> Regions:
    return regions_of(Path(config.folder), picture.image_id, picture.size_hw)


def _felzenszwalb(picture: Picture, config: Any) -> Regions:
    return superpixels.joined(superpixels.felzenszwalb_parts(picture.rgb, config.superpixels))


def _slic(picture: Picture, config: Any) -> Regions:
    return superpixels.joined(superpixels.slic_parts(picture.rgb, config.superpixels))


def _sam(config: Any, around: Surroundings) -> Find:
    from clip_es.sam.source import SamRegions

    return SamRegions(config.sam, config.folder or around.cache, around.device)


SOURCES: Table[RegionSource] = Table(
    "source of regions",
    "clip_es.regions",
    [
        RegionSource(
            "folder", "files of any mask generator", read=_folder, supervision="whatever made the regions in the folder"
        ),
        RegionSource("sam", "SAM, SAM 2 or SAM 3", network=_sam, supervision="masks without classes (SA-1B)"),
        RegionSource("felzenszwalb", "superpixels of like colour", read=_felzenszwalb),
        RegionSource("slic", "superpixels of like size", read=_slic),
        RegionSource("spectral", "k-means on the eigenvectors of CLIP's patches, as files of `clip-es segments` alone"),
    ],
    RegionSource,
)
"""The one place where a source's name stands."""
