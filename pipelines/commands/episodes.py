"""`clip-es evaluate-episodes`: the few-shot folds, a class at a time, as SAZS and LSeg are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from clip_es.config.run import ImageConfig
from clip_es.errors import DataError
from clip_es.images import look_at
from clip_es.masks import read_mask
from clip_es.metrics.zero_shot import IgnorePolicy
from clip_es.pipelines.console import bar, say
from clip_es.prompts import load_vocabulary
from clip_es.records.folds import Benchmark, Episode, Fold, cycle, draw_episodes, fold, fold_lists, read_pairs
from clip_es.segmentor.data.episodes import Protocol, evaluate_episodes
from clip_es.segmentor.inference import Segmenter
from clip_es.store.tables import write_json

_FINAL = "final.pth"
"""What `clip-es train` leaves behind: the last weights, chosen by nothing."""


@dataclass(frozen=True, kw_only=True)
class EvaluateEpisodes:
    """Evaluate a model of `train --head pixel-text` on a fold of PASCAL-5i or COCO-20i, one class at a time.

    The model is told which class is there and separates it from "others". This is not generalised zero-shot; its
    figures cannot be compared with those of `evaluate-zero-shot`. What they depend on is written beside them.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """final.pth of the training."""
    images: Path
    """Folder of the pictures, <id>.jpg or .png."""
    truth: Path
    """Folder of the ground-truth masks, <id>.png, 0 background, k + 1 class k."""
    out: Path
    """File of the figures and the protocol (JSON)."""
    benchmark: Benchmark = "pascal"
    """pascal: 20 classes, folds of five in a row. coco: 80 classes, every fourth."""
    fold: int = 0
    """0..3; its test classes are evaluated."""
    lists: Path | None = None
    """Folder of lists of the published form (val/fold0.txt, ...), or one such list. None: every class of every mask."""
    episodes: int = 1000
    """How many, in the order of the list and from its beginning again (pascal), or drawn with --seed (coco)."""
    seed: int = 0
    """Of the draws."""
    ignore_policy: IgnorePolicy = "drop"
    """What a prediction on 255 is. count: a false positive, as SAZS has it. drop: nothing, as PFENet and HSNet do."""
    others: str = "others"
    """What everything else is called."""
    names: Literal["spaced", "joined"] = "spaced"
    """joined: without spaces, such as `firehydrant`, as LSeg's lists have them; CLIP reads those worse."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""

    def run(self) -> int:
        """Predict each episode, print the figures, write the file."""
        which = fold(self.benchmark, self.fold)
        words = load_vocabulary("voc12" if self.benchmark == "pascal" else "coco14").names
        words = tuple(name.replace(" ", "") for name in words) if self.names == "joined" else words
        episodes = self._episodes(which)
        segmenter = Segmenter.load(self.checkpoint, device=self.device)
        asked: list[int] = []

        def predict(episode: Episode) -> np.ndarray:
            if asked != [episode.class_id]:
                segmenter.set_classes([(words[episode.class_id],)], (self.others,), ("{}",))
                asked[:] = [episode.class_id]
            path = next((p for s in (".jpg", ".png") if (p := self.images / f"{episode.image_id}{s}").is_file()), None)
            if path is None:
                raise DataError("there is no such picture", where=self.images / f"{episode.image_id}.jpg")
            rgb = look_at(path, ImageConfig()).rgb
            assert rgb is not None
            return segmenter.probabilities(rgb).argmax(0).cpu().numpy() == 1

        read = cache(lambda image_id: read_mask(self.truth / f"{image_id}.png"))
        protocol = self._protocol(segmenter, which, [words[k] for k in which.test], len(episodes))
        with bar("episodes", len(episodes)) as progress:
            found = evaluate_episodes(
                sorted(episodes, key=lambda episode: episode.class_id),
                which,
                predict,
                lambda episode: read(episode.image_id),
                protocol,
                lambda: progress.advance(progress.task_ids[0]),
            )
        write_json(self.out, found)
        say(f"Fold {self.fold} of {self.benchmark}: mIoU {found['miou']:.2f}, FB-IoU {found['fb_iou']:.2f}")
        say(
            f"{found['episodes']} episodes, {len(found['failures'])} failed, ignored pixels: {self.ignore_policy}. "
            f"Figures and protocol: {self.out}"
        )
        return 1 if found["failures"] else 0

    def _protocol(self, segmenter: Segmenter, which: Fold, tested: Sequence[str], count: int) -> Protocol:
        """What the figures depend on, as far as the checkpoint tells. Raises ConfigError: a model of fixed classes."""
        source = segmenter.source
        segmenter.set_classes([(tested[0],)], (self.others,), ("{}",))  # Says so where it cannot be asked.
        facts = segmenter.text_facts() or {}
        trained = tuple(facts["trained_classes"])
        plain = {_plain(name) for name in trained}
        leaked = tuple(name for name in tested if _plain(name) in plain)
        if leaked:
            say(f"The training had masks of {', '.join(leaked)}: these are no zero-shot figures, and OUT says so.")
        last = self.checkpoint.name == _FINAL
        return Protocol(
            self.benchmark,
            self.fold,
            which.test,
            (self.others, "{}"),
            self.ignore_policy,
            count,
            selection=f"none: {_FINAL} holds the last weights of the training" if last else f"not known: no {_FINAL}",
            checkpoint_sha256=source,
            text_of=str(facts["text_of"]),
            trained_classes=trained,
            leaked_classes=leaked,
            held_out_in_training_pictures=_held_out(facts, tested),
            clip_read_the_names=facts["clip_read_the_names"],
        )

    def _episodes(self, which: Fold) -> list[Episode]:
        if self.lists is not None and self.lists.is_dir():
            listed = fold_lists(self.lists, which, "val")
        elif self.lists is not None:
            listed = [e for e in read_pairs(self.lists, self.benchmark) if e.class_id in which.test]
        else:
            listed = []
            for path in sorted(self.truth.glob("*.png")):
                there = np.unique(read_mask(path))
                listed += [Episode(path.stem, k) for k in which.test if k + 1 in there]
        if self.benchmark == "pascal":
            return cycle(listed, self.episodes)
        pictures = {k: [e.image_id for e in listed if e.class_id == k] for k in which.test}
        return draw_episodes(pictures, self.episodes, self.seed)


def _held_out(facts: Mapping[str, Any], tested: Sequence[str]) -> str:
    """What became of training pictures with test classes, where the training was told of all of these."""
    told = {_plain(name) for name in facts["held_out_in_training"]}
    return str(facts["held_out_in_training_pictures"]) if {_plain(name) for name in tested} <= told else "not known"


def _plain(name: str) -> str:
    """A name without blanks and capitals, as lists of folds spell them in several ways."""
    return "".join(name.casefold().split())
