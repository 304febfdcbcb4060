"""How a segmenter is trained and on what: the settings that `clip-es train` has as flags."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clip_es.errors import ConfigError
from clip_es.masks import CRF_THRESHOLD
from clip_es.segmentor.data.unseen import WithUnseen
from clip_es.segmentor.losses.confidence import LossMode


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a segmenter is trained. None: as the config says."""

    config: str = "deeplabv2_r101_voc"
    """deeplabv2_r101_voc, deeplabv2_r101_coco, deeplabv3plus_r50_voc, segformer_b2_voc, scenes_small, or a file."""
    loss: LossMode = "hard"
    """hard: pixels below --threshold are left out (the paper's); soft: weighted by their confidence; plain."""
    threshold: float = CRF_THRESHOLD
    """Confidence below which the hard loss leaves a pixel out, 0..1."""
    balanced: bool = False
    """Average over background and over objects apart, and count both alike."""
    head: Literal["config", "pixel-text"] = "config"
    """config: the decode head of the config. pixel-text: pixels are compared with the words of the classes, so that
    `predict --classes` can ask for others."""
    text_weights: str | None = None
    """CLIP whose text the pixel-text head is compared with. None: the backbone's own, or ViT-B/16 where it has none."""
    edges: bool = False
    """Learn outlines as well, from the masks: an auxiliary head on the backbone's finest map."""
    shape_net: Path | None = None
    """Network of `clip-es train-shape-net`, or the public one, for the shape part of --edges. None: no network."""
    iterations: int | None = None
    """Steps in all; the schedule of the learning rate is stretched to it."""
    batch_size: int | None = None
    """Pictures of a step, for each process."""
    lr: float | None = None
    """Learning rate."""
    workers: int | None = None
    """Processes that read pictures, for each training process; 0: none."""
    init: Path | None = None
    """Weights to begin with: a final.pth or another bare state_dict, such as a segmenter trained on COCO."""
    scratch: bool = False
    """Begin with random weights in place of the backbone that the config names by its address."""
    seed: int = 0
    """Of weights, order and augmentation."""
    amp: bool = False
    """Mixed precision: float16 on a GPU, bfloat16 on a CPU (worth it on processors with AVX512_BF16 or AMX)."""
    val_interval: int | None = None
    """Iterations between two validations."""
    checkpoint_interval: int | None = None
    """Iterations between two checkpoints."""
    launcher: Literal["none", "pytorch", "slurm", "mpi"] = "none"
    """Who started the processes: pytorch for torchrun, slurm for srun, none for a single one."""

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "val_interval", "checkpoint_interval"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1", found=value)
        if self.shape_net is not None and not self.edges:
            raise ConfigError("--shape-net is a part of --edges", next_step="Pass --edges as well.")
        if not 0 <= self.threshold <= 1:
            raise ConfigError("--threshold is a confidence", expected="0..1", found=self.threshold)


@dataclass(frozen=True, kw_only=True)
class TrainData:
    """What a segmenter is trained on and measured with; the fields are those of PseudoMaskDataset."""

    classes: tuple[str, ...]
    """Names, background first."""
    run: Path | None = None
    masks: Path | None = None
    images: Path | None = None
    list_file: Path | None = None
    words: tuple[tuple[str, ...], ...] = ()
    """What each class but background is called, for a pixel-text head; empty: its name alone."""
    background_words: tuple[str, ...] = ()
    """What background is called there."""
    templates: tuple[str, ...] = ()
    """Sentences with {} for the word."""
    unseen: tuple[tuple[str, int], ...] = ()
    """Name and mask value of classes that the masks hold and the model is not trained on; `classes` are the others."""
    pictures_with_unseen: WithUnseen = "drop"
    """What becomes of pictures that hold one of those."""
    val_masks: Path | None = None
    val_images: Path | None = None
    val_list_file: Path | None = None

    @property
    def train(self) -> dict[str, Any]:
        """Arguments of the training set."""
        return _texts(run=self.run, masks=self.masks, images=self.images, list_file=self.list_file)

    def labels(self, part: Literal["train", "val"]) -> dict[str, Any]:
        """Arguments of a data set whose masks hold unseen classes too; a validation never looks at their pixels."""
        if not self.unseen:
            return {}
        pictures = self.pictures_with_unseen if part == "train" else "ignore"
        return {"unseen": [value for _, value in self.unseen], "pictures_with_unseen": pictures}

    @property
    def val(self) -> dict[str, Any] | None:
        """Arguments of the validation set; None where there is none."""
        if self.val_masks is None:
            return None
        return _texts(masks=self.val_masks, images=self.val_images, list_file=self.val_list_file)


def class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Class names with background in front."""
    return ("background", *names)


def _texts(**paths: Path | None) -> dict[str, str]:
    return {name: str(path) for name, path in paths.items() if path is not None}
