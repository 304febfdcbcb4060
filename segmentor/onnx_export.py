"""A trained segmenter as one ONNX file, compared with PyTorch before it is saved under its name."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from clip_es.errors import ConfigError, ShapeError, WeightsError
from clip_es.segmentor.exportable import Exportable, exportable
from clip_es.segmentor.inference import Segmenter
from clip_es.store.disk import make_folder, write_atomic

OPSET = 18
TOLERANCE = 1e-3
"""Largest difference of a probability that counts as rounding."""

Way = Literal["auto", "torch.export", "tracing"]
"""Which of torch's exporters: torch.export follows sizes through reshapes, tracing is quicker and the older one."""

INPUT, TEXT, OUTPUT = "image", "text", "logits"


@dataclass(frozen=True)
class Exported:
    """What was written, and how well it agrees."""

    path: Path
    opset: int
    way: str
    """Which exporter made it: torch.export, or the older tracing."""
    free: str
    """Which of batch, height and width are free; the others are those it was exported with."""
    checked: tuple[tuple[int, ...], ...]
    """Shapes [n 3 h w] at which it was compared with PyTorch."""
    difference: float
    """Largest difference of a probability."""
    other_labels: float
    """Share of the pixels that got another label, 0..1."""
    failures: tuple[str, ...] = ()
    """Ways that were tried before, and what became of them."""


_FREE = {"batch and size": (0, 2, 3), "batch": (0,), "nothing": ()}
"""What can be left free -> axes of [n 3 h w]."""


def export_onnx(
    segmenter: Segmenter,
    out: str | Path,
    *,
    size_hw: tuple[int, int] = (512, 512),
    fixed: bool = False,
    way: Way = "auto",
    opset: int = OPSET,
    tolerance: int | float = TOLERANCE,
) -> Exported:
    """Write the model with input `image` float32 [n 3 h w], RGB 0..255, and output `logits` float32 [n label h w].

    A pixel-text model has a second input, `text` float32 [class word dim], see `TextExportable`: any classes can be
    asked for with one file. How many classes and words there are is always free. `save_text_rows` writes such arrays.
    Normalisation is part of the graph; resizing, sliding windows, views and CRF are not. Batch and size are free where
    the architecture lets them be, unless `fixed`. With `way` auto both are tried until one agrees with PyTorch at
    several sizes. The names of the labels lie in the metadata under `classes`, a JSON list.
    Raises ConfigError: a library is missing. ShapeError: an impossible size. WeightsError: no way gives a file that
    agrees within `tolerance`, a probability; nothing is written then.
    """
    onnx, onnxruntime = _libraries()
    if min(size_hw) < 32:
        raise ShapeError("the model needs a picture to be traced with", expected="at least 32 x 32", found=size_hw)
    out = Path(out)
    make_folder(out.parent)
    failures: list[str] = []
    device = segmenter.device
    module = exportable(segmenter).cpu().eval()
    try:
        ways = list(_WAYS) if way == "auto" else [way]
        for free, tried in product(["nothing"] if fixed else _FREE, ways):
            axes = _FREE[free]
            with TemporaryDirectory() as folder, _quiet():
                file = Path(folder) / "model.onnx"
                try:
                    _WAYS[tried](module, file, size_hw, axes, opset)
                    graph = onnx.load(str(file))
                    for key, value in _facts(segmenter).items():
                        graph.metadata_props.add(key=key, value=value)
                    onnx.checker.check_model(graph, full_check=True)
                    data = graph.SerializeToString()
                    shapes = _shapes(size_hw, axes)
                    worst, other = _compare(module, onnxruntime, data, shapes)
                except Exception as error:  # An exporter that does not know an architecture fails in any way.
                    failures.append(
                        f"{tried}, free {free}: {type(error).__name__}: {(str(error) or '-').splitlines()[0][:200]}"
                    )
                    continue
            if not worst <= tolerance:
                failures.append(f"{tried}, free {free}: probabilities differ by {worst:.2g}")
                continue
            write_atomic(out, data, durable=True)
            used = next(entry.version for entry in graph.opset_import if entry.domain in {"", "ai.onnx"})
            return Exported(out, used, tried, free, tuple(shapes), worst, other, tuple(failures))
    finally:
        segmenter.model.to(device)
    raise WeightsError(
        "no exporter gives an ONNX model that agrees with PyTorch",
        where=out,
        expected=f"probabilities within {tolerance:g}",
        found="; ".join(failures),
        next_step="Try another --size or --opset, or a newer torch and onnxscript; --tolerance says which difference "
        "is accepted.",
    )


def _export(module: Exportable, file: Path, size_hw: tuple[int, int], axes: tuple[int, ...], opset: int) -> None:
    """By torch.export, which follows sizes through reshapes as well."""
    dynamic = torch.export.Dim.DYNAMIC
    # A batch of one would be taken for a constant; so would sizes at which a model does something of its own, such as
    # leaving its position embedding as it is, and those that are equal.
    height, width = (size_hw[0] + 32, size_hw[1] + 64) if 2 in axes else size_hw
    inputs = module.inputs((2 if axes else 1, 3, height, width))
    free = {INPUT: dict.fromkeys(axes, dynamic), TEXT: dict.fromkeys((0, 1), dynamic)}
    torch.onnx.export(
        module,
        inputs,
        str(file),
        input_names=[INPUT, TEXT][: len(inputs)],
        output_names=[OUTPUT],
        opset_version=opset,
        dynamo=True,
        external_data=False,
        verbose=False,
        dynamic_shapes=dict(list(free.items())[: len(inputs)]) if axes or len(inputs) > 1 else None,
    )


def _trace(module: Exportable, file: Path, size_hw: tuple[int, int], axes: tuple[int, ...], opset: int) -> None:
    """By tracing, which takes what it cannot follow for a constant; `_compare` finds that."""
    inputs = module.inputs((1, 3, *size_hw))
    seen = {axis: "n3hw"[axis] for axis in axes}
    free = {INPUT: seen, OUTPUT: seen}
    if len(inputs) > 1:
        free = {INPUT: seen, TEXT: {0: "class", 1: "word"}, OUTPUT: {1: "class", **seen}}
    torch.onnx.export(
        module,
        inputs,
        str(file),
        input_names=[INPUT, TEXT][: len(inputs)],
        output_names=[OUTPUT],
        opset_version=opset,
        dynamo=False,
        dynamic_axes={name: named for name, named in free.items() if named} or None,
    )


_WAYS = {"torch.export": _export, "tracing": _trace}


def _compare(module: Exportable, onnxruntime: Any, data: bytes, shapes: list[tuple[int, ...]]) -> tuple[float, float]:
    """Largest difference of a probability, and the share of pixels with another label, over all shapes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # What does not run raises; the log would only repeat it.
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    worst, other, pixels = 0.0, 0, 0
    for shape in shapes:
        inputs = module.inputs(shape)
        ours = module.as_in_a_test(*inputs)
        given = {name: value.numpy() for name, value in zip((INPUT, TEXT), inputs, strict=False)}
        (theirs,) = session.run([OUTPUT], given)
        theirs = torch.from_numpy(theirs)
        if theirs.shape != ours.shape:
            raise ShapeError("the sizes differ", expected=list(ours.shape), found=list(theirs.shape))
        worst = max(worst, float((ours.softmax(1) - theirs.softmax(1)).abs().max()))
        other += int((ours.argmax(1) != theirs.argmax(1)).sum())
        pixels += ours[:, 0].numel()
    return worst, other / pixels


def _shapes(size_hw: tuple[int, int], axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """What is compared: the traced size, where batches are free several, where sizes are free an odd one too."""
    height, width = size_hw
    shapes: list[tuple[int, ...]] = [(1, 3, height, width)]
    if axes:
        shapes.append((3, 3, height, width))
    if 2 in axes:
        shapes += [(1, 3, height + 37, max(33, width * 3 // 4)), (2, 3, max(32, height // 2), width)]
    return shapes


def _facts(segmenter: Segmenter) -> dict[str, str]:
    facts = segmenter.text_facts()
    text = {
        "text": "float32 [class word dim], background first; a class answers with its best word",
        "text_facts": json.dumps(facts, ensure_ascii=False),
    }
    return {
        **({} if facts is None else text),
        "classes": json.dumps(segmenter.names, ensure_ascii=False),
        "input": "float32 [n 3 h w], RGB, 0..255; normalisation is part of the graph",
        "output": "logits float32 [n label h w]",
        "weights_sha256": segmenter.source,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn at length about what `_compare` then measures."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _libraries() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "writing ONNX needs onnx, onnxruntime and onnxscript",
            found=str(error),
            next_step="Run: pip install 'clip-es[onnx]'",
        ) from error
    return onnx, onnxruntime
