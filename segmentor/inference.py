"""A trained segmenter and one picture in, the probability of each label out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from clip_es.encoder.encode import find_device as pick_device
from clip_es.errors import ConfigError, DataError, WeightsError
from clip_es.segmentor.loading import build_model, load_weights, settings_of
from clip_es.segmentor.models.pixel_text import NOWHERE, ROWS_AT_ONCE
from clip_es.segmentor.training.checkpoints import read_checkpoint
from clip_es.segmentor.training.compat import prepare
from clip_es.types import MAX_CLASSES, MAX_WIDE_CLASSES, UNDECIDED


@dataclass(frozen=True)
class TestViews:
    """In how many ways a picture is looked at; the softmax of all of them is averaged."""

    __test__ = False  # pytest takes classes of such names for tests.

    scales: tuple[float, ...] = (1.0,)
    """Factors on the size the model sees in its own test."""
    flip: bool = False
    """Look at each scale mirrored as well."""

    def __post_init__(self) -> None:
        if not self.scales or not all(0.05 <= scale <= 16 for scale in self.scales):
            raise ConfigError("scales are factors on a picture's size", expected="0.05..16", found=self.scales)
        if len(set(self.scales)) < len(self.scales):
            raise ConfigError("a scale is given twice", found=self.scales)


_ONE_VIEW = TestViews()


class Segmenter:
    """An mmsegmentation model ready to look at pictures. Labels are numbered as in its training."""

    def __init__(
        self,
        model: torch.nn.Module,
        pipeline: Sequence[Mapping[str, Any]] = (),
        classes: Sequence[str] | None = None,
        *,
        source: str = "",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        """`pipeline` is the test pipeline of its config, of which resizing and the like are kept.

        `source` is a hash of the weights. Raises WeightsError: one output channel, or more than an 8-bit mask holds.
        """
        self.model: Any = model.eval()
        self.dtype = dtype
        self.source = source
        self.settings: Mapping[str, Any] = {}
        """The config it was loaded with."""
        self.config_source = ""
        """Hash of the config's model and pipeline, where it was loaded from one."""
        count = int(self.model.out_channels)
        if not 2 <= count <= UNDECIDED:
            raise WeightsError("an 8-bit mask needs a model of 2 to 255 labels", found=f"{count} output channels")
        self.names = tuple(classes) if classes and len(classes) == count else tuple(f"label {k}" for k in range(count))
        self._steps = [dict(step) for step in pipeline if not _only_loads(str(step.get("type", "")))]
        self._transforms: dict[float, Any] = {}

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        config: str | Path | None = None,
        *,
        device: str = "auto",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> Segmenter:
        """Build the model of a config and give it the weights of a checkpoint.

        `config`: an mmengine config file, which is run as such; None: config.py beside the checkpoint, or the text in
        it, read as literals. Raises WeightsError: checkpoint missing, damaged, of another architecture or number of
        classes. ConfigError: no config, an unusable one, mmsegmentation missing, no such device.
        """
        prepare()
        chosen = pick_device(device)
        read = read_checkpoint(checkpoint)
        settings, where = settings_of(read, config)
        model = build_model(settings, where)
        load_weights(model, read)
        pipeline = settings.get("test_pipeline") or _pipeline_of_loader(settings)
        made = cls(model.to(chosen), pipeline, read.classes, source=read.sha256, dtype=dtype)
        plain = json.dumps([settings["model"], pipeline], sort_keys=True, default=str)
        made.settings = settings
        made.config_source = hashlib.sha256(plain.encode()).hexdigest()
        return made

    def set_classes(
        self,
        words: Sequence[Sequence[str]],
        background: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        bonus: float = 0.0,
    ) -> None:
        """Ask for other classes, each given as its name and synonyms; the weights stay as they are.

        `bonus` is added to the logits of classes that were not trained on, which otherwise lose to those that were.

        `background` words and `templates` None: those of the training. Raises ConfigError: the model has classes of its
        own, an empty list, a name twice or one that the tokenizer cannot read, or more classes than a 16-bit mask
        holds. ShapeError: text of another width.
        """
        head = self._text_head()
        if len(words) > MAX_WIDE_CLASSES:
            raise ConfigError(f"a mask holds at most {MAX_WIDE_CLASSES} classes", found=len(words))
        head.text["background"] = head.text.get("background", ()) if background is None else list(background)
        head.text["templates"] = head.text.get("templates") if templates is None else list(templates)
        head.set_table(head.table_of(words), bonus)
        head.text["words"] = [list(row) for row in words]
        self.model.out_channels = head.out_channels
        self.names = head.pixel_text.names
        told = json.dumps(
            [self.source, head.text["weights"], head.text["background"], head.text["templates"], words, bonus]
        )
        self.source = hashlib.sha256(told.encode()).hexdigest()

    def text_facts(self) -> dict[str, Any] | None:
        """What a pixel-text model was asked, and which of it the training had masks of; None for another model.

        For every result: figures depend on the words as much as on the weights.
        """
        from clip_es.segmentor.models.text_heads import PixelTextHead

        head = self.model.decode_head
        if not isinstance(head, PixelTextHead):
            return None
        trained = head.pixel_text.trained
        return {
            "text_of": head.text["weights"],
            "templates": list(head.text.get("templates") or ()),
            "background_words": list(head.text.get("background") or ()),
            "trained_classes": sorted(trained - {"background"}),
            "unseen_classes": [name for name in self.names if name not in trained],
            "held_out_in_training": list(head.text.get("unseen") or ()),
            "held_out_in_training_pictures": head.text.get("pictures_with_unseen", "not known"),
            "unseen_bonus": head.pixel_text.bonus,
            "clip_read_the_names": "very likely: nothing keeps the names of classes out of the captions CLIP was "
            "trained on",
        }

    @property
    def words(self) -> tuple[tuple[str, ...], ...]:
        """Name and synonyms of each class a pixel-text model is asked for, without background. Raises ConfigError."""
        return tuple(tuple(row) for row in self._text_head().text["words"])

    def _text_head(self) -> Any:
        from clip_es.segmentor.models.text_heads import PixelTextHead

        head = self.model.decode_head
        if not isinstance(head, PixelTextHead):
            raise ConfigError(
                "this model knows the classes it was trained on and no others",
                expected="a model of `clip-es train --head pixel-text`",
                found=type(head).__name__,
            )
        return head

    @property
    def wide(self) -> bool:
        """Whether there are more classes than an 8-bit mask holds; `labels` is then the way to ask."""
        return len(self.names) > MAX_CLASSES + 1

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def probabilities(
        self, rgb: UInt8[np.ndarray, "h w 3"], views: TestViews = _ONE_VIEW, background: bool = True
    ) -> Float32[Tensor, "label h w"]:
        """Probability of each label at each pixel, on the model's device; they sum to one.

        Without `background` that of label 0 is 0, and the others are what they are among themselves.

        The mean of the softmax over all views, each at the picture's size, as mmsegmentation's SegTTAModel has it.
        Differs: views are added up one by one, so memory does not grow with them, and scales multiply the size that
        the test pipeline gives, so that 1 is the plain test. The model's own `test_cfg` decides on sliding windows.
        Raises DataError: numbers that are not finite.
        """
        total: Tensor | None = None
        for scale in views.scales:
            for flip in (False, True) if views.flip else (False,):
                logits = self._logits(rgb, scale, flip).float()
                if not background:
                    logits = torch.cat([torch.full_like(logits[:1], NOWHERE), logits[1:]])
                part = logits.softmax(dim=0)
                total = part if total is None else total.add_(part)
        assert total is not None
        self._check_finite(total)
        return total.div_(len(views.scales) * (2 if views.flip else 1))

    @torch.no_grad()
    def labels(
        self, rgb: UInt8[np.ndarray, "h w 3"], rows_at_once: int = ROWS_AT_ONCE, background: bool = True
    ) -> tuple[Int64[Tensor, "h w"], Float32[Tensor, "h w"]]:
        """The likeliest label of each pixel and its probability, for any number of classes of a pixel-text model.

        What `probabilities` gives with one view, but text rows go through in blocks, so memory does not grow with
        their number. Raises ConfigError: another kind of model, or one that is tested in sliding windows. DataError:
        numbers that are not finite.
        """
        head, model = self._text_head(), self.model
        if model.test_cfg.get("mode", "whole") != "whole":
            raise ConfigError(
                "so many classes are asked for on whole pictures only",
                expected="test_cfg = dict(mode='whole') in the model's config",
                found=model.test_cfg.get("mode"),
                next_step="Ask for 254 classes or fewer, or pass a config with that mode: --config FILE.py.",
            )
        prepared, sample = self._prepared(rgb, 1.0, False)
        data = model.data_preprocessor({"inputs": [prepared], "data_samples": [sample]}, False)
        samples = data["data_samples"]

        def resize(logits: Tensor) -> Tensor:
            # mmseg makes a single channel a probability; two it leaves alone.
            count = logits.shape[1]
            logits = torch.cat([logits, logits], dim=1) if count == 1 else logits
            full = head.predict_by_feat(logits, [sample.metainfo for sample in samples])
            return model.postprocess_result(full, samples)[0].seg_logits.data[None, :count].float()

        with self._arithmetic():
            maps = head.maps(model.extract_feat(data["inputs"]))
            found, sure = head.pixel_text.stream(maps, resize, rows_at_once, background)
        self._check_finite(sure)
        return found[0], sure[0]

    def _check_finite(self, values: Tensor) -> None:
        if not bool(values.isfinite().all()):
            raise DataError(
                "the model's output is not finite",
                found=f"arithmetic in {self.dtype}",
                next_step="Pass --dtype float32 or bfloat16." if self.dtype == "float16" else None,
            )

    def _logits(self, rgb: np.ndarray, scale: float, flip: bool) -> Tensor:
        inputs, sample = self._prepared(rgb, scale, flip)
        with self._arithmetic():
            (result,) = self.model.test_step({"inputs": [inputs], "data_samples": [sample]})
        return result.seg_logits.data

    def _prepared(self, rgb: np.ndarray, scale: float, flip: bool) -> tuple[Tensor, Any]:
        """A picture through the test pipeline: pixels, and what mmseg notes about them."""
        size = rgb.shape[:2]
        # mmseg's pipelines carry OpenCV's order, blue first; the data preprocessor turns it round.
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        data = self._transform(scale)({"img": bgr, "img_shape": size, "ori_shape": size, "img_path": None})
        data["data_samples"].set_metainfo({"flip": flip, "flip_direction": "horizontal" if flip else None})
        return (data["inputs"].flip(dims=(-1,)) if flip else data["inputs"]), data["data_samples"]

    def _arithmetic(self):
        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.dtype))

    def _transform(self, scale: float) -> Any:
        if scale not in self._transforms:
            from mmengine.dataset import Compose
            from mmseg.registry import TRANSFORMS

            meta = ("img_path", "ori_shape", "img_shape", "pad_shape", "scale_factor", "flip", "flip_direction")
            steps = [*scaled(self._steps, scale), {"type": "PackSegInputs", "meta_keys": meta}]
            self._transforms[scale] = Compose([TRANSFORMS.build(step) for step in steps])
        return self._transforms[scale]


def scaled(steps: Sequence[Mapping[str, Any]], scale: int | float) -> list[dict[str, Any]]:
    """Pipeline steps with the resizing multiplied by a factor; a resize is put first where there is none."""
    if scale == 1:
        return [dict(step) for step in steps]
    result, found = [], False
    for step in map(dict, steps):
        if step.get("type") == "Resize" and not found:
            found = True
            if step.get("scale") is not None:
                sides = step["scale"] if isinstance(step["scale"], (list, tuple)) else (step["scale"],) * 2
                step["scale"] = tuple(int(side * scale + 0.5) for side in sides)
            else:
                factor = step.get("scale_factor") or 1.0
                factors = factor if isinstance(factor, (list, tuple)) else (factor,)
                step["scale_factor"] = factors[0] * scale if len(factors) == 1 else tuple(f * scale for f in factors)
        result.append(step)
    return result if found else [{"type": "Resize", "scale_factor": scale, "keep_ratio": True}, *result]


def _pipeline_of_loader(settings: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    loader = settings.get("test_dataloader") or {}
    return (loader.get("dataset") or {}).get("pipeline") or ()


def _only_loads(kind: str) -> bool:
    """Steps that read files, look for truth, pack, or change pictures at random."""
    return kind.startswith(("Load", "Pack", "Random", "PhotoMetric", "TestTimeAug"))
