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
from jaxtyping import Float32
from torch import Tensor, nn

from clip_es.errors import ConfigError, ShapeError, WeightsError
from clip_es.segmentor.inference import Segmenter
from clip_es.store.disk import make_folder, write_atomic

OPSET = 18
TOLERANCE = 1e-3
"""Largest difference of a probability that counts as rounding."""

Way = Literal["auto", "torch.export", "tracing"]
"""Which of torch's exporters: torch.export follows sizes through reshapes, tracing is quicker and the older one."""

INPUT, OUTPUT = "image", "logits"


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


class Exportable(nn.Module):
    """From pixels to logits, with what the data preprocessor does on the way: colours, normalisation, padding."""

    mean: Tensor
    std: Tensor

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        from mmengine.model import revert_sync_batchnorm

        self.segmentor: Any = revert_sync_batchnorm(segmenter.model)
        before = self.segmentor.data_preprocessor
        # mmseg reads blue first, so it is a model that turns the channels that wants red first.
        self.red_first = bool(before._channel_conversion)
        self.register_buffer("mean", before.mean.clone() if before._enable_normalize else torch.zeros(3, 1, 1))
        self.register_buffer("std", before.std.clone() if before._enable_normalize else torch.ones(3, 1, 1))
        padding = before.test_cfg or {}
        self.divisor = int(padding.get("size_divisor") or 1)
        self.pad_value = float(before.pad_val)
        if padding.get("size"):
            raise ConfigError(
                "the model pads every picture to one size, which is no part of the ONNX graph",
                found=f"test_cfg of the data preprocessor: {dict(padding)}",
                next_step="Replace size by size_divisor there, and pass that config with --config.",
            )

    def forward(self, image: Float32[Tensor, "n 3 h w"]) -> Float32[Tensor, "n label h w"]:
        """RGB, 0..255, in; logits out."""
        colours = image if self.red_first else image.flip(dims=(1,))
        pixels = (colours - self.mean) / self.std
        height, width = image.shape[2], image.shape[3]
        if self.divisor > 1:
            lacking = (0, -width % self.divisor, 0, -height % self.divisor)
            pixels = nn.functional.pad(pixels, lacking, value=self.pad_value)
        logits = self.segmentor.encode_decode(pixels, [{"img_shape": pixels.shape[2:]}])
        return logits[..., :height, :width]


@torch.no_grad()
def _as_in_a_test(segmentor: Any, image: Float32[Tensor, "n 3 h w"]) -> Float32[Tensor, "n label h w"]:
    """What mmsegmentation itself makes of whole pictures: its preprocessor, its model, its cut."""
    from mmseg.structures import SegDataSample

    blue_first = [picture.flip(dims=(0,)).to(torch.uint8) for picture in image]
    samples = [SegDataSample(metainfo={"ori_shape": tuple(image.shape[2:])}) for _ in blue_first]
    data = segmentor.data_preprocessor({"inputs": blue_first, "data_samples": samples})
    logits = segmentor.encode_decode(data["inputs"], [{"img_shape": data["inputs"].shape[2:]}])
    results = segmentor.postprocess_result(logits, data["data_samples"])
    return torch.stack([result.seg_logits.data for result in results])


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
    module = Exportable(segmenter).cpu().eval()
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


def _export(module: nn.Module, file: Path, size_hw: tuple[int, int], axes: tuple[int, ...], opset: int) -> None:
    """By torch.export, which follows sizes through reshapes as well."""
    dynamic = torch.export.Dim.DYNAMIC
    # A batch of one would be taken for a constant; so would sizes at which a model does something of its own, such as
    # leaving its position embedding as it is, and those that are equal.
    height, width = (size_hw[0] + 32, size_hw[1] + 64) if 2 in axes else size_hw
    torch.onnx.export(
        module,
        (_picture((2 if axes else 1, 3, height, width)),),
        str(file),
        input_names=[INPUT],
        output_names=[OUTPUT],
        opset_version=opset,
        dynamo=True,
        external_data=False,
        verbose=False,
        dynamic_shapes={"image": dict.fromkeys(axes, dynamic)} if axes else None,
    )


def _trace(module: nn.Module, file: Path, size_hw: tuple[int, int], axes: tuple[int, ...], opset: int) -> None:
    """By tracing, which takes what it cannot follow for a constant; `_compare` finds that."""
    free = {axis: "n3hw"[axis] for axis in axes}
    torch.onnx.export(
        module,
        (_picture((1, 3, *size_hw)),),
        str(file),
        input_names=[INPUT],
        output_names=[OUTPUT],
        opset_version=opset,
        dynamo=False,
        dynamic_axes={INPUT: free, OUTPUT: free} if axes else None,
    )


_WAYS = {"torch.export": _export, "tracing": _trace}


def _compare(module: nn.Module, onnxruntime: Any, data: bytes, shapes: list[tuple[int, ...]]) -> tuple[float, float]:
    """Largest difference of a probability, and the share of pixels with another label, over all shapes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # What does not run raises; the log would only repeat it.
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    worst, other, pixels = 0.0, 0, 0
    for shape in shapes:
        image = _picture(shape)
        ours = _as_in_a_test(module.segmentor, image)
        (theirs,) = session.run([OUTPUT], {INPUT: image.numpy()})
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
    shapes = [(1, 3, height, width)]
    if axes:
        shapes.append((3, 3, height, width))
    if 2 in axes:
        shapes += [(1, 3, height + 37, max(33, width * 3 // 4)), (2, 3, max(32, height // 2), width)]
    return shapes


def _picture(shape: tuple[int, ...]) -> Float32[Tensor, "n 3 h w"]:
    """Colours that differ from place to place, smooth as in a picture; the same each time."""
    coarse = torch.rand((*shape[:2], 9, 9), generator=torch.Generator().manual_seed(0))
    return (255 * nn.functional.interpolate(coarse, shape[2:], mode="bilinear", align_corners=True)).round()


def _facts(segmenter: Segmenter) -> dict[str, str]:
    return {
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
