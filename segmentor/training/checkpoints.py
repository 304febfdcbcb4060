"""A trained model's files, read without running anything they contain.

A checkpoint gives its tensors and the names of its classes. Whatever else is pickled in it (optimizer, logs, hooks'
messages) becomes an inert placeholder, so a training checkpoint of mmengine is as safe to read as a bare one.
A config is Python text; one that lies beside a checkpoint or in it is read as literals and never run.
"""

from __future__ import annotations

import ast
import hashlib
import pickle
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip_es.errors import ConfigError, WeightsError

CONFIG = "config.py"
"""What the config beside a checkpoint is called."""

_LARGEST_CONFIG = 2**22


@dataclass(frozen=True)
class Checkpoint:
    """What is used of a checkpoint file."""

    path: Path
    state: Mapping[str, Tensor]
    classes: tuple[str, ...] | None
    """Names of the labels as the training knew them, 0 first; None where the file does not say."""
    config: str | None
    """The config's text, where the file carries it, as those of mmengine do."""
    sha256: str
    """Of the file."""


class _Kind(type):
    """The type of the placeholder, which torch asks for before it lets a state be set."""


class _Inert(metaclass=_Kind):
    """Stands for whatever a checkpoint holds beside tensors and plain values.

    Made, called, or asked for an attribute by a pickle, it gives itself; given a state, it forgets it.
    """

    def __new__(cls, *_: object, **__: object) -> Any:
        return cls

    @staticmethod
    def __setstate__(state: object) -> None:
        pass


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read `{state_dict, meta}` as mmengine writes it, or a bare state dict, with `weights_only=True`.

    Raises WeightsError: the file is missing, damaged, or no checkpoint.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(
            "there is no such checkpoint",
            where=path,
            expected="a file such as final.pth or iter_20000.pth",
            found="a folder" if path.is_dir() else "nothing",
        )
    content = _tensors_and_plain_values(path)
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(
            "this is not a checkpoint of a model",
            where=path,
            expected="a state dict, alone or under 'state_dict'",
            found=f"keys {', '.join(map(str, list(content)[:8]))}"
            if isinstance(content, dict)
            else type(content).__name__,
        )
    meta = content.get("meta") if "state_dict" in content else None
    meta = meta if isinstance(meta, dict) else {}
    trained_on = meta.get("dataset_meta")
    classes = (trained_on if isinstance(trained_on, dict) else {}).get("classes", meta.get("CLASSES"))
    named = isinstance(classes, (list, tuple)) and all(isinstance(name, str) for name in classes)
    config = meta.get("cfg")
    with path.open("rb") as file:
        digest = _digest(file)
    return Checkpoint(
        path,
        {str(key).removeprefix("module."): value for key, value in state.items()},
        tuple(classes) if named and classes else None,
        config if isinstance(config, str) else None,
        digest,
    )


def read_state(path: str | Path) -> dict[str, Tensor]:
    """A bare state dict, alone or under `state_dict`, from a file that holds tensors alone, with `weights_only=True`.

    Raises WeightsError: no such file, damaged, more than tensors and plain values, or no state dict.
    """
    path = Path(path).expanduser()
    expected = "a file of tensors: final.pth of a training, or {'state_dict': ...}"
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise WeightsError("there is no such file of weights", where=path, expected=expected, found=found)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # Damaged files make torch raise almost anything.
        raise WeightsError(
            "cannot be read as weights alone",
            where=path,
            expected=expected,
            found=f"{type(error).__name__}: {reason(error)}",
            next_step="Copy it again if it is damaged; if it holds more than weights, save its state_dict alone.",
        ) from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(
            "holds no state dict", where=path, expected="names and tensors", found=type(content).__name__
        )
    return {str(key): value for key, value in state.items()}


def _tensors_and_plain_values(path: Path) -> Any:
    try:
        others = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # An old format, or damaged: the reading itself says which.
        others = []
    stand_ins: list[Any] = [(_Inert, name) for name in others] + [
        (_Kind, "clip_es.segmentor.training.checkpoints._Kind")
    ]
    inert = torch.serialization.safe_globals(stand_ins) if others else nullcontext()
    try:
        with inert:
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            "the checkpoint holds objects that are not read",
            where=path,
            expected="tensors, numbers, text, and what can be left out",
            found=reason(error),
            next_step="Save a file with {'state_dict': model.state_dict()} alone.",
        ) from error
    except Exception as error:  # Damaged files make torch raise almost anything.
        raise WeightsError(
            "the checkpoint is damaged or no file of torch",
            where=path,
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            next_step="Copy it again, or take another checkpoint.",
        ) from error


def reason(error: Exception) -> str:
    """The sentence of torch's long message that says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    sentences = [line for line in lines if line.startswith(("Trying", "Unsupported", "Can only"))] or lines[-1:]
    return sentences[0][:300] if sentences else type(error).__name__


def read_config(path: str | Path) -> dict[str, Any]:
    """A config file as literals: `name = value`, values of constants, lists, dicts and `dict(...)`. Nothing is run.

    Raises ConfigError: missing, too large, or more than literals.
    """
    path = Path(path).expanduser()
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_CONFIG + 1)
    except OSError as error:
        raise ConfigError("the config cannot be read", where=path, found=error.strerror) from error
    if len(text) > _LARGEST_CONFIG:
        raise ConfigError("this is too large for a config", where=path, expected=f"at most {_LARGEST_CONFIG} bytes")
    return parse_config(text, path)


def parse_config(text: str | bytes, where: object) -> dict[str, Any]:
    """The same from text. Raises ConfigError."""
    try:
        values: dict[str, Any] = {}
        for statement in ast.parse(text).body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                continue  # A docstring.
            if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
                raise _NotLiteral(statement)
            values[statement.targets[0].id] = _literal(statement.value)
    except _NotLiteral as error:
        node = error.args[0]
        raise ConfigError(
            "this config is a program, and a config found with a checkpoint is not run",
            where=f"{where}, line {node.lineno}",
            expected="name = value, with values of constants, lists, dicts and dict(...)",
            found=ast.unparse(node)[:80],
            next_step="If you trust it, pass it with --config: then it runs as any mmengine config.",
        ) from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError("this is not a config", where=where, found=str(error).splitlines()[0]) from error
    for key in ("model", "test_pipeline"):
        _refuse_imports(values.get(key), where)
    return values


class _NotLiteral(Exception):
    pass


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        if any(keyword.arg is None for keyword in node.keywords) or len(node.args) > 1:
            raise _NotLiteral(node)
        first = _literal(node.args[0]) if node.args else {}
        return {**first, **{str(k.arg): _literal(k.value) for k in node.keywords}}
    if isinstance(node, (ast.List, ast.Tuple)):
        items = [_literal(item) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    if isinstance(node, ast.Dict):
        if None in node.keys:
            raise _NotLiteral(node)
        return {_literal(k): _literal(v) for k, v in zip(node.keys, node.values, strict=True) if k}
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise _NotLiteral(node) from None


def _refuse_imports(value: Any, where: object) -> None:
    """mmengine imports and calls whatever a dotted `type` names, so only torch's layers may be named like that."""
    if isinstance(value, dict):
        kind = value.get("type")
        if isinstance(kind, str) and "." in kind and not kind.startswith("torch.nn."):
            raise ConfigError(
                "this config names a part by its place in a package, which mmengine would import and call",
                where=where,
                found=repr(kind),
                next_step="If you trust it, pass it with --config.",
            )
        for inner in value.values():
            _refuse_imports(inner, where)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _refuse_imports(inner, where)


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(2**20):
        digest.update(block)
    return digest.hexdigest()
