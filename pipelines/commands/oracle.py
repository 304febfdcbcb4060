"""`clip-es oracle ...`: what a run's masks would reach if spectral segments were chosen by the ground truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from clip_es.config.run import ImageConfig, SpectralConfig
from clip_es.encoder import load_encoder
from clip_es.pipelines.commands.data_source import OnSource, S, first
from clip_es.pipelines.commands.flags import DataVocabularyFlag, LimitFlag
from clip_es.pipelines.console import say, show_table, summarize, track
from clip_es.pipelines.report import Page
from clip_es.pipelines.studies.oracle import STAMP, spectral_oracle
from clip_es.store.tables import write_json


@dataclass(frozen=True, kw_only=True)
class Oracle(OnSource[S]):
    """An upper bound for a run: segments chosen with the ground truth."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run of `clip-es masks`, or of `predict --confidence`, on these pictures; its labels/ are compared."""
    weights: str = "ViT-B/16"
    """Whose patch features the segments are cut by."""
    vocabulary: DataVocabularyFlag = "voc12"
    limit: LimitFlag = None
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    out: Path | None = None
    """Also write the figures to this folder: oracle.json and oracle.html, both marked as an oracle's."""
    image: ImageConfig = field(default_factory=ImageConfig)
    spectral: SpectralConfig = field(default_factory=SpectralConfig)

    def run(self) -> int:
        """Print IoU of the masks, of the published choice and of the bound."""
        vocabulary = self.source.words(self.vocabulary)
        dataset = first(self.source.dataset(vocabulary, labelled=False), self.limit)
        names = ("background", *vocabulary.names)
        result = spectral_oracle(
            load_encoder(self.weights, device=self.device),
            dataset,
            self.run_folder / "labels",
            len(names),
            self.spectral,
            self.image,
            lambda items: track(items, "oracle", len(dataset.records)),
        )
        shares = (100 * result.iou).T.tolist()
        table = [(name, *row) for name, row in zip(names, shares, strict=True) if row[0] == row[0]]
        masks, published, bound = (100 * value for value in result.miou)
        table.append(("mIoU", masks, published, bound))
        columns = ("class", "masks", "ORACLE, published choice", "ORACLE, bound")
        show_table("IoU, per cent", columns, table)
        say(
            f"{result.images} pictures; segments took the place of {result.chosen[0]} of {result.asked} masks as "
            f"published, of {result.chosen[1]} for the bound."
        )
        say(STAMP)
        for name, reason in result.failures[:5]:
            say(f"left out {name}: {reason}")
        told = {"oracle": STAMP, "images": result.images, "miou": masks, "of": result.asked}
        told |= {"miou_published_choice": published, "segments_chosen_as_published": result.chosen[0]}
        told |= {"miou_oracle": bound, "segments_chosen": result.chosen[1]}
        summarize({**told, "left_out": len(result.failures)})
        if self.out:
            page = Page(f"Oracle: {dataset.name}", STAMP)
            figures = {"mIoU of the masks": masks, "mIoU, ORACLE, published choice": published}
            page.figures({"pictures": result.images, **figures, "mIoU, ORACLE, bound": bound})
            page.table(columns, table)
            write_json(self.out / "oracle.json", told)
            page.write(self.out / "oracle.html")
        return 1 if result.failures else 0
