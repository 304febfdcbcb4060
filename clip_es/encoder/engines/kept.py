"""Graphs on disk: written whole, with their hash beside them, and looked through before they are run.

An ONNX file holds no code, but it can name other files to read weights from, and operators that are none of ours. What
does not match its hash, or is not exactly such a graph as we write, counts as missing and is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from clip_es.encoder.engines.graph import OPERATORS, TOKENS
from clip_es.store.disk import StoreError, make_folder, write_atomic

_LARGEST = 2**31
"""Bytes of an ONNX file at most."""


def write_graph(path: Path, data: bytes, difference: float) -> None:
    """Keep a graph; `difference`: how far it was from torch. A folder that cannot be written keeps none."""
    told = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "difference_from_torch": difference}
    with suppress(StoreError):
        make_folder(path.parent)
        write_atomic(path, data)
        write_atomic(_beside(path), (json.dumps(told, indent=2) + "\n").encode())


def read_graph(path: Path, outputs: Sequence[str]) -> bytes | None:
    """A graph that was kept, or None where there is none that may be run."""
    try:
        told = json.loads(_beside(path).read_bytes()[:10_000])
        if not isinstance(told, dict) or path.stat().st_size != told.get("bytes") or told["bytes"] > _LARGEST:
            return None
        data = path.read_bytes()
    except (OSError, ValueError, RecursionError):
        return None
    whole = hashlib.sha256(data).hexdigest() == told.get("sha256")
    return data if whole and trouble(data, outputs) is None else None


def trouble(data: bytes, outputs: Sequence[str]) -> str | None:
    """Why a file is no graph of ours, in words; None where it is one."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf raises what it likes over damaged bytes
        return f"it cannot be read: {type(error).__name__}"
    graph = model.graph
    if model.functions or graph.sparse_initializer or len(model.training_info):
        return "it has functions, sparse weights or steps of training"
    tensors = [*graph.initializer, *(item.t for node in graph.node for item in node.attribute if item.HasField("t"))]
    if any(uses_external_data(tensor) for tensor in tensors):
        return "it names another file for its weights"
    if any(item.HasField("g") or item.graphs or item.tensors for node in graph.node for item in node.attribute):
        return "it has graphs within"
    for node in graph.node:
        if ("" if node.domain == "ai.onnx" else node.domain, node.op_type) not in OPERATORS:
            return f"it has the operator {node.domain or 'ai.onnx'}.{node.op_type}"
    if [one.name for one in graph.input] != [TOKENS] or {one.name for one in graph.output} != set(outputs):
        return "its inputs or outputs are others"
    return None


def _beside(path: Path) -> Path:
    return path.with_suffix(".json")
