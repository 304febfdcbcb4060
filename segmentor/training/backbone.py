"""Backbones that a config names by an address: fetched before anything is written, checked, and never executed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_es.errors import WeightsError
from clip_es.segmentor.training.checkpoints import reason

if TYPE_CHECKING:
    from mmengine.config import Config

_HASH = re.compile(r"-([0-9a-f]{8,64})\.")
"""OpenMMLab's files carry the beginning of their SHA-256 in their name."""


def use_pretrained(cfg: Config) -> None:
    """Put a verified local file in the place of each address of the model.

    Raises WeightsError: no connection, a wrong hash, or a file that is more than tensors. Nothing is written but the
    file in torch's cache.
    """
    for part, key in _addresses(cfg.model):
        part[key] = str(fetch(part[key]))


def drop_pretrained(cfg: Config) -> None:
    """A training that continues has its weights: ask for none."""
    for part, key in list(_addresses(cfg.model)):
        part[key] = None
        if key == "checkpoint" and part.get("type") == "Pretrained":
            part.clear()
    _drop_empty(cfg.model)


def fetch(address: str) -> Path:
    """The file of an address, from torch's cache or the network. Raises WeightsError."""
    import torch

    url = _url(address)
    if url is None:
        path = Path(address).expanduser()
        if not path.is_file():
            raise WeightsError("there are no such weights for the backbone", where=path, found="no file")
        return _read(path)
    target = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    begins = _HASH.search(target.name)
    sha256 = f", SHA-256 {begins[1]}..." if begins else ""
    if not target.is_file():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(target), begins[1] if begins else None)
        except Exception as error:  # urllib, sockets, proxies and a wrong hash raise many kinds.
            raise WeightsError(
                "the weights of the backbone cannot be downloaded",
                where=url,
                found=getattr(error, "reason", None) or error,
                next_step=f"Check the network and run the same command again. Or fetch {url} elsewhere and put it at "
                f"{target}{sha256}. --config scenes_small needs no download; --scratch begins with random weights.",
            ) from None
    if begins and not (found := _sha256(target)).startswith(begins[1]):
        raise WeightsError(
            "this file is not the published one",
            where=target,
            expected=f"SHA-256 {begins[1]}...",
            found=found,
            next_step="Delete it and run the same command again.",
        )
    return _read(target)


def _read(path: Path) -> Path:
    """The path, once it has shown to be weights alone: mmengine would unpickle what is not."""
    import torch

    from clip_es.segmentor.training.compat import mmengine_types

    try:
        with torch.serialization.safe_globals(mmengine_types()):
            torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            "cannot be read as weights alone",
            where=path,
            expected="a file of tensors",
            found=f"{type(error).__name__}: {reason(error)}",
            next_step="Save its state_dict alone.",
        ) from error
    return path


def _addresses(part: Any) -> Iterator[tuple[Any, str]]:
    """Places in a model's config that name weights: `pretrained`, and `checkpoint` of an init_cfg."""
    if isinstance(part, dict):
        for key in ("pretrained", "checkpoint"):
            if isinstance(part.get(key), str) and (key == "pretrained" or part.get("type") == "Pretrained"):
                yield part, key
        for value in part.values():
            yield from _addresses(value)
    elif isinstance(part, (list, tuple)):
        for value in part:
            yield from _addresses(value)


def _drop_empty(part: Any) -> None:
    if isinstance(part, dict):
        for key in [key for key, value in part.items() if key == "init_cfg" and value == {}]:
            part[key] = None
        for value in part.values():
            _drop_empty(value)


def _url(address: str) -> str | None:
    """Where an address leads: OpenMMLab's short names are looked up in mmengine's table. None: a file."""
    if address.startswith(("http://", "https://")):
        return address
    for prefix in ("open-mmlab://", "openmmlab://"):
        if address.startswith(prefix):
            from mmengine.runner.checkpoint import get_external_models

            known = get_external_models().get(address.removeprefix(prefix))
            if known is None:
                raise WeightsError("OpenMMLab has no weights of this name", where=address)
            return known if known.startswith("http") else None
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
