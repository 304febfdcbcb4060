"""`clip-es agree`: what a quicker encoder changes in the user's own pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from clip_es.config.presets import find_preset
from clip_es.config.run import DEFAULT, RunConfig
from clip_es.config.stages import EncoderConfig
from clip_es.encoder import load_encoder
from clip_es.errors import ConfigError
from clip_es.pipelines.agree import Agreement, compare, exact_encoder, is_exact
from clip_es.pipelines.commands.data_source import required
from clip_es.pipelines.commands.flags import DataVocabularyFlag, WeightsFlag
from clip_es.pipelines.commands.given_back import last_of
from clip_es.pipelines.commands.sources import FolderSource
from clip_es.pipelines.console import say, show_table, summarize, track
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.masks.report import evenly
from clip_es.records import OnBadLabel
from clip_es.store.tables import write_json

_QUICK = EncoderConfig(dtype="auto")


def _quick() -> RunConfig:
    return replace(DEFAULT, encoder=_QUICK)


@dataclass(frozen=True, kw_only=True)
class Agree:
    """Make the masks of some of your pictures twice, as `--dtype` and `--encoder.engine` say and in torch's float32,
    and say what differs: pixels, classes found, maps.

    Run it before you rely on a quicker encoder: how much a CLIP bears depends on its weights and on your pictures.
    Other flags are those of `clip-es masks folder`.
    """

    source: Annotated[FolderSource, tyro.conf.arg(name="")]
    weights: WeightsFlag = "ViT-B/16"
    vocabulary: DataVocabularyFlag = None
    preset: str = "default"
    """Sets the defaults of the other flags, as in `clip-es masks`."""
    pictures: int = 32
    """Most pictures that are compared, spread evenly over the folder."""
    on_bad_label: OnBadLabel = "fail"
    """What happens with a picture that has an unknown label: it is left out, or only that label is (skip)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    least: float | None = None
    """The exit code is 1 where less than this share of the pixels keep their label, 0..1; for scripts."""
    out: Path | None = None
    """Also write the figures to this JSON file."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=_quick)

    @classmethod
    def chosen(cls, args: Sequence[str]) -> dict[str, Any]:
        """The defaults under the `--preset` among the arguments. Raises ConfigError: there is no such preset."""
        name = last_of("--preset", args)
        if name is None:
            return {}
        preset = find_preset(name)
        config = replace(preset.config, encoder=replace(preset.config.encoder, dtype="auto"))
        default = cls(source=FolderSource(**required(FolderSource)), preset=name, config=config)
        default = replace(default, weights=preset.weights or default.weights)
        return {"default": replace(default, vocabulary=preset.vocabulary or default.vocabulary)}

    def run(self) -> int:
        """Compare, print the figures; 1 where pictures failed or fewer pixels agree than asked for."""
        if self.pictures < 1:
            raise ConfigError("at least one picture is compared", where="--pictures", found=self.pictures)
        vocabulary = self.source.words(self.vocabulary).for_masks()
        labels = self.source.label_source
        dataset = self.source.dataset(vocabulary, self.on_bad_label, labelled=labels == "given")
        encoder = load_encoder(self.weights, device=self.device, config=self.config.encoder)
        if is_exact(encoder):
            raise ConfigError(
                "torch in float32 is what others are compared with",
                expected="--dtype int8, bfloat16 or auto, or --encoder.engine onnx",
                found=encoder.chosen,
            )
        say(f"Encoder: {encoder.chosen}")
        maker = MaskMaker(encoder, vocabulary, config=self.config, labels=labels)
        exact = replace(self.config, encoder=replace(self.config.encoder, engine="torch", dtype="float32"))
        slow = MaskMaker(exact_encoder(encoder, self.weights), vocabulary, maker.bank, exact, labels=labels)
        records = evenly(dataset.records, self.pictures)
        found = compare(maker, slow, track(records, "compared", len(records)))
        self._tell(found)
        few = self.least is not None and found.equal_pixels < self.least
        if few:
            say(f"Fewer pixels agree than --least {self.least} asks for.")
        return 1 if found.failures or few else 0

    def _tell(self, found: Agreement) -> None:
        show_table(f"{found.how}, compared with float32 by torch", ("", ""), found.rows)
        worst = sorted(found.classes, key=lambda one: one[1])[:5]
        show_table("Classes that changed most", ("class", "IoU"), [(name, 100 * iou) for name, iou in worst])
        for name, reason in found.failures[:5]:
            say(f"left out {name}: {reason}")
        figures = {**asdict(found), "classes": dict(found.classes)}
        summarize(figures)
        if self.out:
            write_json(self.out, figures)
            say(f"All figures: {self.out}")
