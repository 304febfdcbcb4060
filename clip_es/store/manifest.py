"""run.yaml: what the masks of a run folder were made with and from. Its one reader and its one writer."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from clip_es.errors import ConfigError, DataError
from clip_es.safe_yaml import load_yaml
from clip_es.storage import FileNotThere, Place, address_of, place_of
from clip_es.store.disk import write_atomic

FILE = "run.yaml"
_LARGEST = 2**24
SHARDS = "shards"
"""What `form` says among the settings of a run in shards."""
_ABOUT, _DIGEST = "about", "settings_sha256"
_HEAD = "# A run of clip-es. The same call with the same settings continues it; `about` may differ.\n"

_IMPLIED = {"config.encoder.engine": '"torch"'}
"""What runs had, as JSON, from before a setting stood in run.yaml: they can still be continued."""


@dataclass(frozen=True)
class Manifest:
    """The content of a run.yaml."""

    folder: Path
    """Of the run."""
    settings: Mapping[str, Any]
    """Everything that decides the bytes of the masks; equal in every call that continues the run."""
    about: Mapping[str, Any]
    """Data set, versions, device: what may differ between calls."""

    @classmethod
    def of(cls, folder: Path, settings: Mapping[str, Any], about: Mapping[str, Any]) -> Manifest:
        """That of a run about to be made. Raises ConfigError: a setting has no form in YAML."""
        return cls(folder, plain(settings, "settings"), plain(about, _ABOUT))

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """That of a run. Raises DataError: no run folder, or its run.yaml cannot be read."""
        if address_of(folder) is not None:
            return cls._fetched(place_of(folder))
        folder = Path(folder)
        return cls._read(folder / FILE, folder)

    @classmethod
    def _fetched(cls, place: Place) -> Manifest:
        try:
            return cls.parse(place.read(FILE, limit=_LARGEST), place.at(FILE), Path(str(place)))
        except FileNotThere:
            raise DataError(
                "is not a run", where=place, expected=f"{FILE}, as `clip-es masks ... --out` makes it", found="none"
            ) from None

    @classmethod
    def read_file(cls, path: Path) -> Manifest:
        """That of a run.yaml wherever it lies, or of the run in a folder. Raises DataError."""
        return cls.read(path) if path.is_dir() else cls._read(path, path.parent)

    @classmethod
    def _read(cls, path: Path, folder: Path) -> Manifest:
        try:
            return cls.parse(path.read_bytes(), path, folder)
        except FileNotFoundError:
            raise DataError(
                "is not the folder of a run" if path.name == FILE else "there is no such file",
                where=folder if path.name == FILE else path,
                expected=f"a folder with {FILE}, as `clip-es masks ... --out` makes it",
                found=f"no {FILE}" if folder.is_dir() else "no such folder",
            ) from None
        except OSError as error:
            raise DataError("cannot be read", where=path, found=str(error).splitlines()[0][:200]) from error

    @classmethod
    def parse(cls, text: bytes, where: object, folder: Path) -> Manifest:
        """The content of a run.yaml, wherever its bytes come from. Raises DataError: it cannot be read."""
        try:
            content = load_yaml(text)
        except (yaml.YAMLError, ValueError) as error:
            mark = getattr(error, "problem_mark", None)
            at = "" if mark is None else f" line {mark.line + 1}"
            told = str(getattr(error, "problem", None) or error).splitlines()[0][:200]
            raise DataError("cannot be read", where=f"{where}{at}", found=told) from error
        if not isinstance(content, dict):
            raise DataError("is not a table of settings", where=where, found=type(content).__name__)
        about = content.get(_ABOUT)
        settings = {str(key): value for key, value in content.items() if key not in (_ABOUT, _DIGEST)}
        return cls(folder, settings, about if isinstance(about, dict) else {})

    @staticmethod
    def is_in(folder: str | Path) -> bool:
        """Whether a folder is that of a run."""
        return place_of(folder).has(FILE) if address_of(folder) is not None else (Path(folder) / FILE).is_file()

    def write(self) -> bool:
        """Write run.yaml unless there is one; returns whether it was written. Raises StoreError."""
        path = self.folder / FILE
        return not path.exists() and write_atomic(path, self.text(), durable=True, replace=False)

    @property
    def settings_sha256(self) -> str:
        """Of the settings: equal for runs whose masks have the same bytes."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def text(self) -> bytes:
        """The bytes of its run.yaml."""
        content = {**self.settings, _DIGEST: self.settings_sha256, _ABOUT: dict(self.about)}
        return (_HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)).encode()

    def differences(self, other: Manifest) -> dict[str, tuple[str, str]]:
        """Settings by dotted name that differ from those of another run, as JSON: here, there."""
        ours, theirs = _leaves(self.settings), _leaves(other.settings)
        names = dict.fromkeys((*ours, *theirs))
        return {
            name: (ours.get(name, "not set"), theirs.get(name, "not set"))
            for name in names
            if ours.get(name, _IMPLIED.get(name)) != theirs.get(name, _IMPLIED.get(name))
        }

    @property
    def sharded(self) -> bool:
        """Whether the results are in shards, and not a file each."""
        return self.settings.get("form") == SHARDS

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of their ids, without background; None where they are not told."""
        stated = self.about.get("classes")
        if isinstance(stated, list) and stated and all(isinstance(name, str) for name in stated):
            return tuple(stated)
        return None

    @property
    def vocabulary(self) -> str | None:
        """Name of the vocabulary; None where it is not told."""
        stated = self.about.get("vocabulary")
        return stated if isinstance(stated, str) else None

    @property
    def picture_folders(self) -> tuple[Path, ...]:
        """Where the pictures were, one folder or several; empty where it is not told."""
        stated = self.about.get("images")
        listed = stated if isinstance(stated, list) else [stated]
        return tuple(Path(folder) for folder in listed if isinstance(folder, str) and folder)


def plain(value: Any, where: str) -> Any:
    """The value in the types that YAML and JSON know. Raises ConfigError: it has none."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, np.generic):
        return plain(value.item(), where)
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), f"{where}.{f.name}") for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner, f"{where}[{number}]") for number, inner in enumerate(value)]
    raise ConfigError("a setting cannot be written down", where=where, found=type(value).__name__)


def _leaves(tree: Any, prefix: str = "") -> dict[str, str]:
    """Leaves by dotted name, each as JSON: 1 and 1.0 differ, and not-a-number equals itself."""
    if isinstance(tree, Mapping) and tree:
        return {k: v for key, value in tree.items() for k, v in _leaves(value, f"{prefix}.{key}".lstrip(".")).items()}
    return {prefix: json.dumps(tree, ensure_ascii=False, default=str)}
