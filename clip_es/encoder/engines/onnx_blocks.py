"""The early blocks by ONNX Runtime on a CPU: graphs of our tower, made once, compared with torch, kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from clip_es.encoder.download import cache_folder
from clip_es.encoder.engines.base import Passed, Wanted
from clip_es.encoder.engines.graph import IR, OPSET, TOKENS, Arithmetic, graph_bytes, output_names
from clip_es.encoder.engines.kept import read_graph, write_graph
from clip_es.encoder.engines.torch_blocks import TorchBlocks
from clip_es.encoder.vit import VisionTower
from clip_es.errors import WeightsError

_WRITTEN = 2
"""Raised when `graph.py` writes other nodes for the same blocks."""

TOLERANCE: dict[Arithmetic, float] = {"float32": 1e-3, "int8": 0.2}
"""How far tokens and attention may be from torch's in float32: the norm of the difference over theirs."""

_CHECKED = ((3, 5), (11, 4))
"""Grids at which a new graph is compared with torch."""


class OnnxBlocks:
    """The engine `onnx`: one picture at a time, with as many threads as torch has."""

    def __init__(self, visual: VisionTower, arithmetic: Arithmetic, told: Sequence[object], folder: Path | None = None):
        """`told`: whatever the graph depends on besides what is wanted of it, such as the hash of the weights.
        `folder`: where graphs are kept; None: in the cache folder.
        """
        self.arithmetic: Arithmetic = arithmetic
        self.visual, self.told, self.folder = visual, tuple(told), folder
        self._sessions: dict[Wanted, tuple[int, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # A session does not travel; another process makes its own.
        return {**self.__dict__, "_sessions": {}}

    def passed(self, tokens: Float32[Tensor, "b token dim"], wanted: Wanted) -> Passed:
        """As `Engine.passed`. Raises WeightsError: a new graph does not agree with torch. ConfigError: the tower is
        too large for one."""
        wanted = replace(wanted, explicit=False)
        if not wanted.blocks:
            return TorchBlocks(self.visual).passed(tokens, wanted)
        session = self._session(wanted)
        names = list(dict.fromkeys(output_names(wanted)))
        rows = [dict(zip(names, session.run(names, {TOKENS: row.numpy()}), strict=True)) for row in tokens]

        def joined(name: str) -> Tensor:
            parts = [torch.from_numpy(row[name]) for row in rows]
            return parts[0][None] if len(parts) == 1 else torch.stack(parts)

        patches = tokens.shape[1] - 1
        return Passed(
            joined(f"output.{wanted.blocks - 1}"),
            joined("attention") if wanted.averaged else tokens.new_zeros(len(tokens), patches, patches),
            joined("last_attention") if wanted.last else None,
            tuple(joined(f"input.{index}") for index in range(wanted.blocks)) if wanted.inputs else (),
            joined("total") if wanted.total else None,
            tuple(joined(f"output.{index}") for index in wanted.outputs),
        )

    def _session(self, wanted: Wanted) -> Any:
        """One that answers; one that answers more is not made twice."""
        threads = torch.get_num_threads()
        for have, (with_threads, session) in self._sessions.items():
            if with_threads == threads and _covers(have, wanted):
                return session
        self._sessions[wanted] = threads, self._made(wanted, threads)
        return self._sessions[wanted][1]

    def _made(self, wanted: Wanted, threads: int) -> Any:
        from clip_es.encoder.engines.processor import eight_bit_sums

        reduced = self.arithmetic == "int8" and not eight_bit_sums()
        by = [version("onnxruntime"), OPSET, IR, _WRITTEN]
        told = json.dumps([*self.told, self.arithmetic, reduced, asdict(wanted), by], default=str)
        path = (self.folder or cache_folder() / "graphs") / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.onnx"
        names = list(dict.fromkeys(output_names(wanted)))
        if data := read_graph(path, names):
            return session_of(data, threads)
        with torch.no_grad(), _quiet():
            data = graph_bytes(self.visual, wanted, self.arithmetic, reduced=reduced)
            session = session_of(data, threads)
            difference = self._difference(wanted, session)
        if not difference <= TOLERANCE[self.arithmetic]:
            raise WeightsError(
                f"in {self.arithmetic} ONNX Runtime does not compute what torch does with these weights",
                expected=f"tokens and attention within {TOLERANCE[self.arithmetic]:g} of torch's float32",
                found=f"{difference:.3g}",
                next_step="Pass --encoder.engine torch, with --dtype bfloat16 or float32.",
            )
        write_graph(path, data, difference)
        return session

    def _difference(self, wanted: Wanted, session: Any) -> float:
        """The largest relative difference from torch of anything that is wanted, on drawn noise of several shapes."""
        worst = 0.0
        random = torch.Generator().manual_seed(0)
        names = list(dict.fromkeys(output_names(wanted)))
        for grid_hw in _CHECKED:
            sides = [side * self.visual.patch for side in grid_hw]
            pixels = torch.randn(1, 3, *sides, generator=random)
            tokens = self.visual.embed(pixels, self.visual.positions(grid_hw)).float()
            ours = dict(zip(names, session.run(names, {TOKENS: tokens[0].numpy()}), strict=True))
            for name, exact in _by_name(TorchBlocks(self.visual).passed(tokens, wanted), wanted).items():
                other = torch.from_numpy(np.asarray(ours[name]))
                worst = max(worst, float((other - exact).norm() / exact.norm().clamp(min=1e-12)))
        return worst


def _by_name(passed: Passed, wanted: Wanted) -> dict[str, Tensor]:
    """What one picture came to, by the names of a graph's outputs."""
    found = {f"output.{wanted.blocks - 1}": passed.tokens}
    found |= {f"output.{index}": one for index, one in zip(wanted.outputs, passed.outputs, strict=True)}
    found |= {f"input.{index}": one for index, one in enumerate(passed.inputs)}
    rest = {"last_attention": passed.last_attention, "total": passed.total}
    if wanted.averaged:
        rest["attention"] = passed.attention
    return {name: one[0] for name, one in {**found, **rest}.items() if one is not None}


def _covers(have: Wanted, wanted: Wanted) -> bool:
    """Whether one graph answers what another is asked for."""
    return (
        have.blocks == wanted.blocks
        and wanted.averaged in (0, have.averaged)
        and have.last >= wanted.last
        and have.inputs >= wanted.inputs
        and have.total >= wanted.total
        and set(have.outputs) >= set(wanted.outputs)
    )


def session_of(data: bytes, threads: int) -> Any:
    """A graph, ready to run on the CPU. Its threads sleep while they wait: torch has threads of its own."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer recommends steps that our graphs do not need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
