"""`clip-es export-onnx`: a trained segmenter for those who do not have this package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from clip_es.pipelines.commands.predict import ask
from clip_es.pipelines.console import say, summarize
from clip_es.segmentor.exportable import save_text_rows
from clip_es.segmentor.inference import Segmenter
from clip_es.segmentor.onnx_export import OPSET, TOLERANCE, Way, export_onnx


@dataclass(frozen=True, kw_only=True)
class ExportOnnx:
    """Write a trained segmenter as ONNX: `image` float32 [n 3 h w], RGB 0..255, to `logits` [n label h w].

    A model of `train --head pixel-text` gets a second input, `text` float32 [class word dim], so that one file answers
    for any classes; the rows of those asked for here are written beside it as OUT.text.npz.
    Normalisation is part of the file; resizing, sliding windows and the CRF are not. The file is run with onnxruntime
    and compared with PyTorch before it is saved under its name; if they differ, nothing is written: exit code 2.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """final.pth of a training, or any checkpoint of mmengine or mmsegmentation."""
    out: Path
    """The file to write."""
    config: Path | None = None
    """Config of the model, an mmengine file, which is executed. None: config.py beside the checkpoint, never run."""
    size: tuple[int, int] = (512, 512)
    """Height and width the model is traced with; the only ones it then takes where sizes cannot be free."""
    fixed: bool = False
    """Fix batch and size, which some runtimes need."""
    way: Way = "auto"
    """Which of torch's exporters: torch.export follows sizes through reshapes, tracing is quicker and the older one.
    auto: the first of them that agrees with PyTorch, with free sizes if possible."""
    opset: int = OPSET
    """Version of ONNX's operators."""
    tolerance: float = TOLERANCE
    """Largest difference of a probability that counts as rounding."""

    classes: str | None = None
    """Whose text rows OUT.text.npz gets, as --classes of `predict`. None: those of the training."""
    template: tuple[str, ...] = ()
    """Sentences with {} for the class, in place of the training's or the vocabulary's."""
    background: str | None = None
    """What counts as background, words separated by commas. None: the training's or the vocabulary's."""
    text_only: bool = False
    """Write OUT.text.npz alone, for a file that is there already."""

    def run(self) -> int:
        """Export, compare, say how well they agree."""
        segmenter = Segmenter.load(self.checkpoint, self.config, device="cpu")
        asked = ask(segmenter, self.classes, self.background, self.template)
        if self.text_only or asked:
            rows = self.out.with_name(f"{self.out.name}.text.npz")
            classes, words, width = save_text_rows(segmenter, rows)
            say(f"{rows}: text rows of {classes} classes with background, up to {words} words each, {width} numbers")
        if self.text_only:
            return 0
        made = export_onnx(
            segmenter,
            self.out,
            size_hw=self.size,
            fixed=self.fixed,
            way=self.way,
            opset=self.opset,
            tolerance=self.tolerance,
        )
        summarize({"opset": made.opset, "difference": made.difference, "other_labels": made.other_labels})
        shapes = ", ".join(" x ".join(map(str, shape)) for shape in made.checked)
        say(f"{made.path}: opset {made.opset}, by {made.way}, {len(segmenter.names)} labels, free: {made.free}")
        say(
            f"Compared with PyTorch at {shapes}: probabilities differ by at most {made.difference:.2g}, "
            f"{100 * made.other_labels:.3f} % of the pixels have another label"
        )
        if made.failures:
            say(f"Not taken: {'; '.join(made.failures)}")
        return 0
