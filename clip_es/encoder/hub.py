"""Weights in folders as the hub keeps them, and by their name there: `openai/clip-vit-base-patch16`.

A snapshot folder holds a weights file and, beside it, a config.json or open_clip_config.json. By name it is fetched by
huggingface_hub (extra `hub`), which keeps it in its own cache and honours HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE and
HF_TOKEN; what the cache has is taken from there, without a connection. Nothing of it is executed.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

from clip_es.encoder.download import OFFICIAL
from clip_es.errors import ClipEsError, ConfigError, WeightsError, nearest

FILES = (
    *("model.safetensors", "model.safetensors.index.json", "open_clip_model.safetensors"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json", "open_clip_pytorch_model.bin"),
)
"""Names of weights files, those that cannot hold a program first."""

DESCRIPTIONS = ("open_clip_config.json", "config.json")
INDEX = ".index.json"
"""How the list of the parts of one model ends."""

_NAME = re.compile(r"(?:hf-hub:)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
_LARGEST_INDEX = 2**24


def hub_name(weights: str | Path) -> tuple[str, str | None] | None:
    """Name and revision of `owner/name`, `owner/name@revision` or `hf-hub:owner/name`; None for anything else, what
    exists on disk and misspelt official names included."""
    if not isinstance(weights, str) or Path(weights).expanduser().exists():
        return None
    found = _NAME.fullmatch(weights)
    if not found or weights.upper().startswith(("VIT-", "RN")) or nearest(weights, OFFICIAL):
        return None
    return found[1], found[2]


def weights_file(folder: Path) -> Path:
    """The weights file of a snapshot folder. Raises WeightsError: it has none, or several of another name."""
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pt", ".pth"))
    if len(others) == 1:
        return others[0]
    raise WeightsError(
        "this folder has no weights file" if not others else "this folder has several weights files",
        where=folder,
        expected=f"one of {', '.join(FILES)}",
        found=", ".join(path.name for path in (others or sorted(folder.iterdir()))[:10]) or "nothing",
        next_step="Name the file itself." if others else _which(folder),
    )


def _which(folder: Path) -> str:
    """What to name in place of a folder without weights, which may be that of a model in the hub's cache."""
    for file in FILES:
        if found := sorted(folder.glob(f"snapshots/*/{file}")):
            return f"Name {found[0].parent}."
    return "Name the folder of a snapshot, or a weights file."


def parts(index: Path) -> list[Path]:
    """The files that an index lists. Raises WeightsError: it is damaged, or names a file elsewhere."""
    try:
        if index.stat().st_size > _LARGEST_INDEX:
            raise ValueError("it is too large")
        named = json.loads(index.read_bytes())["weight_map"].values()
        names = sorted(set(named))
        if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise ValueError("it names a file outside the folder")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError("the list of the parts cannot be used", where=index, found=error) from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise WeightsError("parts of the weights are missing", where=index, found=f"no {', '.join(missing[:5])}")
    return [index.parent / name for name in names]


def fetched(name: str, revision: str | None = None) -> Path:
    """The weights file of a model on the hub, in the hub's own cache, with its description beside it.

    Raises ConfigError: huggingface_hub is not installed. WeightsError: no such model, no access, no connection.
    """
    try:
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise ConfigError(
            f"weights from the hub ({name}) need huggingface_hub",
            next_step="pip install 'clip-es[hub]', or name a file or a snapshot folder.",
        ) from error

    def one(file: str, kept: bool = False) -> Path | None:
        """Where a file lies, fetched unless it must be `kept` already; None: it is not there."""
        try:
            return Path(hf_hub_download(name, file, revision=revision, local_files_only=kept))
        except LocalEntryNotFoundError:
            if kept or offline:
                return None
            raise  # no connection: every further file would wait for one as long
        except EntryNotFoundError:
            return None

    offline = constants.HF_HUB_OFFLINE
    try:
        if found := next((path for file in FILES if (path := one(file, kept=True)) and _whole(path)), None):
            return found
        found = next((path for file in FILES if (path := one(file))), None)
        if found is None:
            raise WeightsError(
                f"there are no weights of {name} in the cache or on the hub",
                where=constants.HF_HUB_CACHE,
                expected=f"one of {', '.join(FILES)}",
                found="the hub is switched off (HF_HUB_OFFLINE)" if offline else None,
                next_step="Check the name and the network, or fetch the model elsewhere and name its folder.",
            )
        for file in DESCRIPTIONS:
            with suppress(LocalEntryNotFoundError):
                one(file)
        if found.name.endswith(INDEX):
            for part in sorted(set(json.loads(found.read_bytes())["weight_map"].values())):
                one(part)
    except ClipEsError:
        raise
    except Exception as error:  # the hub's client and what it connects with have many kinds
        raise WeightsError(
            f"the weights {name} cannot be fetched from the hub",
            found=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
            next_step="Check the name, the network and HF_TOKEN, or fetch it elsewhere and name its folder.",
        ) from error
    return found


def _whole(file: Path) -> bool:
    """Whether a snapshot has what it needs: a description, without which heads are guessed, and all its parts."""
    described = any((file.parent / name).is_file() for name in DESCRIPTIONS)
    try:
        return described and (not file.name.endswith(INDEX) or bool(parts(file)))
    except WeightsError:
        return False
