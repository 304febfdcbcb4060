"""A trained segmenter and one picture in, the probability of each label out."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from clip_es.encoder.encode import _device as pick_device
from clip_es.errors import ConfigError, DataError, WeightsError
from clip_es.segmentor.training.checkpoints import CONFIG, Checkpoint, parse_config, read_checkpoint, read_config
from clip_es.segmentor.training.compat import prepare
from clip_es.types import UNDECIDED

_AUXILIARY = "auxiliary_head."
"""Weights that only the training needs: a checkpoint may have them or not."""


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
        settings, where = _settings(read, config)
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
        own, an empty list, or a name twice; or more than 254 classes. ShapeError: text of another width.
        """
        from clip_es.segmentor.models.text_heads import PixelTextHead

        head = self.model.decode_head
        if not isinstance(head, PixelTextHead):
            raise ConfigError(
                "this model knows the classes it was trained on and no others",
                expected="a model of `clip-es train --head pixel-text`",
                found=type(head).__name__,
            )
        if len(words) >= UNDECIDED:
            raise ConfigError("an 8-bit mask holds at most 254 classes", found=len(words))
        head.text["background"] = head.text.get("background", ()) if background is None else list(background)
        head.text["templates"] = head.text.get("templates") if templates is None else list(templates)
        head.set_table(head.table_of(words), bonus)
        self.model.out_channels = head.out_channels
        self.names = head.pixel_text.names
        told = json.dumps(
            [self.source, head.text["weights"], head.text["background"], head.text["templates"], words, bonus]
        )
        self.source = hashlib.sha256(told.encode()).hexdigest()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def probabilities(
        self, rgb: UInt8[np.ndarray, "h w 3"], views: TestViews = _ONE_VIEW
    ) -> Float32[Tensor, "label h w"]:
        """Probability of each label at each pixel, on the model's device; they sum to one.

        The mean of the softmax over all views, each at the picture's size, as mmsegmentation's SegTTAModel has it.
        Differs: views are added up one by one, so memory does not grow with them, and scales multiply the size that
        the test pipeline gives, so that 1 is the plain test. The model's own `test_cfg` decides on sliding windows.
        Raises DataError: numbers that are not finite.
        """
        total: Tensor | None = None
        for scale in views.scales:
            for flip in (False, True) if views.flip else (False,):
                part = self._logits(rgb, scale, flip).float().softmax(dim=0)
                total = part if total is None else total.add_(part)
        assert total is not None
        if not bool(total.isfinite().all()):
            raise DataError(
                "the model's output is not finite",
                found=f"arithmetic in {self.dtype}",
                next_step="Pass --dtype float32 or bfloat16." if self.dtype == "float16" else None,
            )
        return total.div_(len(views.scales) * (2 if views.flip else 1))

    def _logits(self, rgb: np.ndarray, scale: float, flip: bool) -> Tensor:
        size = rgb.shape[:2]
        # mmseg's pipelines carry OpenCV's order, blue first; the data preprocessor turns it round.
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        data = self._transform(scale)({"img": bgr, "img_shape": size, "ori_shape": size, "img_path": None})
        data["data_samples"].set_metainfo({"flip": flip, "flip_direction": "horizontal" if flip else None})
        inputs = data["inputs"].flip(dims=(-1,)) if flip else data["inputs"]
        with self._arithmetic():
            (result,) = self.model.test_step({"inputs": [inputs], "data_samples": [data["data_samples"]]})
        return result.seg_logits.data

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


def build_model(settings: Mapping[str, Any], where: object) -> Any:
    """The model of a config with random weights; nothing is downloaded. Raises ConfigError: it cannot be built."""
    prepare()
    from mmengine.config import ConfigDict
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    if not isinstance(settings.get("model"), Mapping):
        raise ConfigError("the config has no model", where=where, expected="model = dict(type='EncoderDecoder', ...)")
    model = ConfigDict(settings["model"])
    model.pop("pretrained", None)
    if isinstance(model.get("backbone"), dict):
        model["backbone"]["init_cfg"] = None
    scope = settings.get("default_scope", "mmseg")
    init_default_scope(scope if isinstance(scope, str) else "mmseg")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # About losses and compiled operators, which no prediction uses.
            return MODELS.build(model)
    except Exception as error:  # A config can be wrong in any way.
        raise ConfigError(
            "the model of this config cannot be built",
            where=where,
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            next_step="Name the config the checkpoint was trained with: --config FILE.py.",
        ) from error


def load_weights(model: Any, checkpoint: Checkpoint) -> None:
    """Give a model the weights of a checkpoint, all of them.

    Raises WeightsError: what differs, by name and shape; or weights that are not finite.
    """
    own = model.state_dict()
    given = {key: value for key, value in checkpoint.state.items() if key in own or not key.startswith(_AUXILIARY)}
    differ = [key for key, value in given.items() if key in own and value.shape != own[key].shape]
    missing = [key for key in own if key not in given and not key.startswith(_AUXILIARY)]
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    extra = [key for key in given if key not in own]
    if missing or extra:
        raise WeightsError(
            "the checkpoint is of another architecture than the config",
            where=checkpoint.path,
            expected=f"{len(own)} weights; {len(missing)} are missing{_some(missing)}",
            found=f"{len(extra)} that the config's model does not have{_some(extra)}",
            next_step="Name the config the checkpoint was trained with: --config FILE.py.",
        )
    if differ:
        key = next((key for key in differ if _by_class(key)), differ[0])
        # Only the layers that have one channel for each class differ, and all of them in the number of classes.
        classes = all(given[k].shape[1:] == own[k].shape[1:] and _by_class(k) for k in differ)
        raise WeightsError(
            "the checkpoint has another number of classes than the config"
            if classes
            else "the checkpoint is of another architecture than the config: weights differ in shape",
            where=checkpoint.path,
            expected=f"{own[key].shape[0]} classes in {key}" if classes else f"{key} {list(own[key].shape)}",
            found=f"{given[key].shape[0]}" if classes else f"{list(given[key].shape)}, and {len(differ) - 1} more",
            next_step="Name the config the checkpoint was trained with: --config FILE.py.",
        )
    for key, value in given.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise WeightsError(
                "the weights are not finite: the training has diverged",
                where=checkpoint.path,
                found=f"NaN or infinity in {key}",
                next_step="Take an earlier checkpoint, or train again with a lower learning rate.",
            )
    model.load_state_dict(given, strict=False)


def _by_class(key: str) -> bool:
    return "head." in key


def _some(keys: Sequence[str]) -> str:
    return f" ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})" if keys else ""


def _settings(checkpoint: Checkpoint, config: str | Path | None) -> tuple[Mapping[str, Any], object]:
    if config is not None:
        from mmengine.config import Config

        if not Path(config).is_file():
            raise ConfigError("there is no such config", where=config, expected="an mmengine config file")
        try:
            return Config.fromfile(str(config)).to_dict(), config
        except Exception as error:  # It is a program.
            found = f"{type(error).__name__}: {error}"
            raise ConfigError("the config cannot be run", where=config, found=found) from error
    beside = checkpoint.path.with_name(CONFIG)
    if beside.is_file():
        return read_config(beside), beside
    if checkpoint.config:
        where = f"the config in {checkpoint.path}"
        return parse_config(checkpoint.config, where), where
    raise ConfigError(
        "nothing says which model this checkpoint belongs to",
        where=checkpoint.path,
        expected=f"{CONFIG} beside it, or the config's text in it",
        next_step="Pass --config FILE.py.",
    )


def _pipeline_of_loader(settings: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    loader = settings.get("test_dataloader") or {}
    return (loader.get("dataset") or {}).get("pipeline") or ()


def _only_loads(kind: str) -> bool:
    """Steps that read files, look for truth, pack, or change pictures at random."""
    return kind.startswith(("Load", "Pack", "Random", "PhotoMetric", "TestTimeAug"))
