"""`clip-es calibrate FOLDER|RUN`: suggested settings for pictures without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from clip_es.config.methods import PatchTextConfig
from clip_es.config.presets import PATCH_TEXT_SCENES
from clip_es.config.stages import ImageConfig
from clip_es.encoder import load_encoder
from clip_es.errors import ConfigError, DataError
from clip_es.masks import read_mask
from clip_es.pipelines.commands.flags import OwnVocabularyFlag
from clip_es.pipelines.commands.given_back import last_of
from clip_es.pipelines.console import counted, say, show_table, summarize, track
from clip_es.pipelines.evaluate import masks_below
from clip_es.pipelines.studies.calibrate import Calibration, Calibrator, calibrate
from clip_es.prompts import build_bank, load_vocabulary
from clip_es.records.file_listing import picture_names
from clip_es.records.folder import image_id_of
from clip_es.store.manifest import Manifest
from clip_es.store.tables import write_json
from clip_es.types import ImageRecord

SETTINGS = {
    "tagging.threshold": "confidence from which a class is found (--labels auto)",
    "patch-text.scale": "scale of the texts in patch-text",
    "mask.calibration": "threshold of CLIP-ES's maps",
    "views.shifts": "moves by half a patch",
}
"""What is suggested, and what it is."""

ORACLE = "The column ORACLE was computed with the ground truth; nothing was suggested by it."


@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Suggest settings from unlabeled pictures alone: those under which two looks and two methods agree.

    Each value of a setting is judged by Cohen's kappa between a picture and the same mirrored or moved (stability), and
    between two methods (agreement). These are guesses: on drawn scenes docs/numbers.md says what they were worth.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER|RUN")]
    """A folder of pictures, or that of a run, whose pictures, words and weights are then taken."""
    weights: str | None = None
    """As in `clip-es masks`; None: the run's, else ViT-B/16."""
    vocabulary: OwnVocabularyFlag = None
    pictures: int = 50
    """Most pictures looked at, spread evenly over the folder."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    oracle: Path | None = None
    """Folder of ground-truth masks with the pictures' names: adds what each value would give, mIoU or F1. Suggestions
    stay as they are."""
    out: Path | None = None
    """Also write all values to this JSON file."""
    image: ImageConfig = field(default_factory=ImageConfig)
    patch_text: PatchTextConfig = field(default_factory=PatchTextConfig)

    @classmethod
    def chosen(cls, args: Sequence[str]) -> dict[str, Any]:
        """The defaults under the weights among the arguments: those of drawn scenes for CLIPs that know scenes."""
        weights = last_of("--weights", args)
        if weights is None:
            runs = [Path(word) for word in args if not word.startswith("-") and Manifest.is_in(word)]
            weights = str(Manifest.read(runs[0]).about.get("weights")) if runs else ""
        text = PATCH_TEXT_SCENES if weights.startswith("scenes") else PatchTextConfig()
        folder: Any = tyro.MISSING
        return {"default": cls(folder=folder, patch_text=text)}

    def run(self) -> int:
        """Look, print every value, and the flags that are suggested."""
        images, weights, words = self._asked()
        vocabulary = load_vocabulary(words).for_masks()
        encoder = load_encoder(weights, device=self.device)
        calibrator = Calibrator(encoder, build_bank(encoder, vocabulary), self.patch_text, vocabulary.box_threshold)
        found = calibrate(calibrator, self._records(images), self.image, self._truth(), track)
        self._tell(found)
        summarize({**record(found), "left_out": len(found.failures)})
        if self.out:
            write_json(self.out, record(found))
        return 1 if found.failures else 0

    def _asked(self) -> tuple[Path, str, str]:
        images, weights, words = self.folder, self.weights, self.vocabulary
        if Manifest.is_in(self.folder):
            about = Manifest.read(self.folder).about
            weights, words = weights or str(about["weights"]), words or str(about["vocabulary"])
            if about.get("images") is None:
                raise DataError("the run does not say where its pictures are", where=self.folder)
            images = Path(str(about["images"]))
        if words is None:
            raise ConfigError(
                "words are needed to look for", where="--vocabulary", next_step="Pass a name, a file, or cat,dog."
            )
        return images, weights or "ViT-B/16", words

    def _records(self, images: Path) -> list[ImageRecord]:
        names = sorted(picture_names(images))
        if not names:
            raise DataError("there is no picture in this folder", where=images)
        if self.pictures < 1:
            raise ConfigError("at least one picture is looked at", where="--pictures", found=self.pictures)
        places = np.unique(np.linspace(0, len(names) - 1, min(self.pictures, len(names))).round().astype(int))
        return [ImageRecord(image_id_of(names[place]), images / names[place], ()) for place in places]

    def _truth(self) -> Callable[[str], np.ndarray | None] | None:
        if self.oracle is None:
            return None
        known = masks_below(self.oracle)
        return lambda image_id: read_mask(known[image_id]) if image_id in known else None

    def _tell(self, found: Calibration) -> None:
        head = ("value", "stability", "agreement", *(("ORACLE",) if self.oracle else ()))
        for setting, about in SETTINGS.items():
            rows = [
                (one.value, one.stability, _shown(one.agreement), *((one.oracle,) if self.oracle else ()))
                for one in found.of(setting)
            ]
            show_table(f"--{setting}: {about}", head, rows)
        flags = " ".join(f"--{setting} {found.suggested(setting).value}" for setting in SETTINGS)
        say(f"{counted(found.pictures, 'picture')}. Suggested, without any label: {flags}")
        if self.oracle:
            say(ORACLE)
        for name, reason in found.failures[:5]:
            say(f"left out {name}: {reason}")


def record(found: Calibration) -> dict[str, object]:
    """For a file."""
    return {
        "pictures": found.pictures,
        "suggested": {setting: found.suggested(setting).value for setting in SETTINGS},
        "values": [
            {name: None if value != value else value for name, value in vars(one).items()} for one in found.candidates
        ],
    }


def _shown(value: float) -> object:
    return "" if value != value else value
