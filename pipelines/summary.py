"""What `--json` prints when a command ends: one line that a script can read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clip_es.errors import ClipEsError
from clip_es.storage import address_of, place_of
from clip_es.store.tables import read_json


def one_line(
    name: str,
    command: Any,
    code: int,
    seconds: float,
    figures: Mapping[str, Any],
    error: BaseException | None = None,
) -> str:
    """`command`, `exit_code`, `seconds_in_all`; what the command says of itself, or what its `--out` holds as a
    summary; with an error its kind and fields. ASCII, which every stream takes; numbers that are none become null."""
    told: dict[str, Any] = {"command": name, "exit_code": code, "seconds_in_all": round(seconds, 3)}
    told |= _left_behind(getattr(command, "out", None)) | dict(figures)
    if error is not None:
        names = ("what", "where", "expected", "found", "next_step") if isinstance(error, ClipEsError) else ()
        told["error"] = {"kind": type(error).__name__, "message": str(error)}
        told["error"] |= {name: value for name in names if (value := getattr(error, name)) is not None}
    return json.dumps(_plain(told))


def _left_behind(out: object) -> dict[str, Any]:
    """The summary at the place of a run, or the file of figures that was asked for."""
    if not isinstance(out, Path):
        return {}
    address = address_of(out)
    told: dict[str, Any] = {"out": address or os.fspath(out)}
    try:
        if address:
            told |= json.loads(place_of(out).read("summary.json"))
        elif (file := out / "summary.json" if out.is_dir() else out).suffix == ".json" and file.is_file():
            told |= read_json(file)
    except (ClipEsError, OSError, ValueError, TypeError):
        return told
    return told


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
