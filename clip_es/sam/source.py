"""SAM as a source of regions: a network, and the folder where its regions are found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from clip_es.errors import ClipEsError
from clip_es.regions import Regions
from clip_es.sam.masks import Prompt, grid_masks, prompted_masks, prompts_of
from clip_es.sam.networks import Network, load
from clip_es.sam.settings import SamConfig
from clip_es.store.disk import names_in
from clip_es.store.regions import read_regions, read_tree, write_regions
from clip_es.types import ClassMaps, Picture

_NO_MATTER = ("points_at_once",)
"""Settings that do not decide which regions there are."""


class SamRegions:
    """Regions of pictures from a SAM. Those that the folder holds already are read; others are made and kept there.

    A kept file counts where it was made with the same weights and settings from the same pixels and prompts.
    """

    def __init__(self, config: SamConfig, folder: Path | None = None, device: str | torch.device = "cpu") -> None:
        """Raises ConfigError: transformers is missing or too old. WeightsError: the model cannot be loaded."""
        self.config, self.folder, self._device = config, folder, device
        if folder is not None:
            names_in(folder)  # removes what a killed run has left half written
        self._network: Network | None = load(config.model, "prompted", device, config.dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None}

    @property
    def network(self) -> Network:
        """The network; a copy in another process loads it there."""
        if self._network is None:
            self._network = load(self.config.model, "prompted", self._device, self.config.dtype)
        return self._network

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the weights and of all settings that matter."""
        told = {name: value for name, value in asdict(self.config).items() if name not in (*_NO_MATTER, "model")}
        return hashlib.sha256((self.network.digest + json.dumps(told, sort_keys=True)).encode()).hexdigest()

    def to(self, device: str | torch.device) -> None:
        """Use the network on another device."""
        self._device = device
        self.network.model.to(device)

    def __call__(self, picture: Picture, maps: Callable[[], ClassMaps]) -> Regions:
        """The regions of a picture, found again or made. Raises StoreError: they cannot be kept."""
        prompts = prompts_of(maps(), self.config) if self.config.prompts == "maps" else None
        if self.folder is None:
            return self.made(picture, prompts)
        path, key = self.folder / f"{picture.image_id}.json", self._key(picture, prompts)
        if (found := _kept(path, key, picture.size_hw)) is not None:
            return found
        regions = self.made(picture, prompts)
        write_regions(path, regions, {"made_from": key})
        return regions

    def made(self, picture: Picture, prompts: list[Prompt] | None) -> Regions:
        """The regions that the network sees: of a grid of points, or of these prompts."""
        if prompts is None:
            return grid_masks(self.network, picture.rgb, self.config)
        return prompted_masks(self.network, picture.rgb, prompts, self.config)

    def _key(self, picture: Picture, prompts: list[Prompt] | None) -> str:
        """What the regions of a picture are made from."""
        found = hashlib.sha256(self.digest.encode())
        found.update(picture.rgb.tobytes())
        found.update(repr((picture.size_hw, prompts)).encode())
        return found.hexdigest()


def _kept(path: Path, key: str, size_hw: tuple[int, int]) -> Regions | None:
    """Regions that were made from the same; None where there are none, or their file is damaged."""
    if not path.is_file():
        return None
    try:
        tree = read_tree(path)
        same = isinstance(tree, dict) and tree.get("made_from") == key
        return read_regions(path, size_hw) if same else None
    except ClipEsError:
        return None
