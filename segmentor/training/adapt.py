"""From a config of mmsegmentation, ours or the user's, to the one that is run: data, loss, schedule, checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_es.errors import ConfigError
from clip_es.segmentor.training.compat import prepare
from clip_es.segmentor.training.extra_heads import add_edges, set_text_head
from clip_es.segmentor.training.settings import TrainData, TrainSettings

if TYPE_CHECKING:
    from mmengine.config import Config

CONFIGS = Path(__file__).parents[1] / "configs"
"""Configs that have a name."""

_SEGMENTORS = {"EncoderDecoder": "ConfidenceEncoderDecoder", "CascadeEncoderDecoder": "ConfidenceCascadeEncoderDecoder"}
_LOADERS = ("LoadAnnotations", "LoadPseudoMask")
_PACKERS = ("PackSegInputs", "PackPseudoMask")


def config_names() -> list[str]:
    """The configs that have a name."""
    return sorted(path.stem for path in CONFIGS.glob("[!_]*.py"))


def load_config(name: str | Path) -> Config:
    """A config by name or file. Raises ConfigError: there is none, or it cannot be read."""
    prepare()
    from mmengine.config import Config

    path = CONFIGS / f"{name}.py" if str(name) in config_names() else Path(name)
    if not path.is_file():
        close = get_close_matches(str(name), config_names(), n=1)
        raise ConfigError(
            f"there is no config {str(name)!r}",
            expected=f"{', '.join(config_names())}, or a file",
            next_step=f"Nearest: {close[0]!r}." if close else None,
        )
    try:
        return Config.fromfile(str(path))
    except Exception as error:  # A config is a program; it can fail in any way.
        raise ConfigError("the config cannot be read", where=path, found=f"{type(error).__name__}: {error}") from error


def build_config(settings: TrainSettings, data: TrainData, out: Path) -> Config:
    """The config of one training: the named one with these data, this loss, this schedule; outputs go to `out`.

    Raises ConfigError: the config cannot be trained this way; the message says what stands in the way.
    """
    cfg = load_config(settings.config)
    for key in ("model", "train_dataloader", "optim_wrapper"):
        if key not in cfg:
            raise ConfigError("is not a config for training", where=settings.config, expected=f"a part {key!r}")
    _set_model(cfg, settings, data)
    _set_data(cfg, settings, data)
    _set_schedule(cfg, settings)
    cfg.work_dir = str(out)
    cfg.load_from = None if settings.init is None else str(settings.init)
    cfg.resume = False
    cfg.launcher = settings.launcher
    cfg.randomness = {"seed": settings.seed}
    cfg.default_scope = "mmseg"
    imports = [*cfg.get("custom_imports", {}).get("imports", []), "clip_es.segmentor.register"]
    cfg.custom_imports = {"imports": list(dict.fromkeys(imports)), "allow_failed_imports": False}
    hooks = [hook for hook in cfg.get("custom_hooks", []) if hook["type"] != "SeedEachIteration"]
    cfg.custom_hooks = [*hooks, {"type": "SeedEachIteration"}]
    return cfg


def heads(cfg: Config) -> list[Any]:
    """Every decode and auxiliary head of a model's config."""
    found = [cfg.model.get("decode_head"), cfg.model.get("auxiliary_head")]
    return [head for part in found if part is not None for head in (part if isinstance(part, list) else [part])]


def _set_model(cfg: Config, settings: TrainSettings, data: TrainData) -> None:
    kind = cfg.model.type
    if kind not in (*_SEGMENTORS, *_SEGMENTORS.values()):
        raise ConfigError(
            f"a model of type {kind!r} cannot pass the confidence to its losses",
            where=settings.config,
            expected=" or ".join(_SEGMENTORS),
            next_step="Subclass it as clip_es.segmentor.models.heads.ConfidenceEncoderDecoder does, or choose another.",
        )
    cfg.model.type = _SEGMENTORS.get(kind, kind)
    if settings.head == "pixel-text":
        set_text_head(cfg, settings, data)
    if settings.edges:
        add_edges(cfg, settings)
    ours = 0
    for head in heads(cfg):
        if head.type == "EdgeHead":
            head.num_classes = len(data.classes)
            continue
        head.num_classes = len(data.classes)
        if head.get("out_channels") is not None:
            head.out_channels = len(data.classes)
        losses = head.get("loss_decode", {"type": "CrossEntropyLoss"})
        several = isinstance(losses, list)
        changed = [_loss(dict(loss), settings, data) for loss in (losses if several else [losses])]
        ours += sum(loss["type"] == "ConfidenceGuidedLoss" for loss in changed)
        head.loss_decode = changed if several else changed[0]
    if not ours:
        raise ConfigError(
            "no head of this config has a cross-entropy, which the confidence could guide",
            where=settings.config,
            expected='a loss_decode of type "CrossEntropyLoss" or "ConfidenceGuidedLoss"',
        )
    if settings.scratch:
        cfg.model.pretrained = None
        for part in [cfg.model, cfg.model.backbone]:
            part.pop("pretrained", None)
            if isinstance(part.get("init_cfg"), dict) and part["init_cfg"].get("type") == "Pretrained":
                part.pop("init_cfg")


def _loss(loss: dict[str, Any], settings: TrainSettings, data: TrainData) -> dict[str, Any]:
    """A cross-entropy as the confidence-guided loss of the settings; other losses stay, and see every label."""
    if loss.get("type") not in ("CrossEntropyLoss", "ConfidenceGuidedLoss") or loss.get("use_sigmoid"):
        return loss
    weights = loss.get("class_weight")
    if weights is not None and (isinstance(weights, str) or len(weights) != len(data.classes)):
        raise ConfigError(
            "class_weight of the loss does not fit the classes",
            where=settings.config,
            expected=f"{len(data.classes)} numbers",
            found=weights if isinstance(weights, str) else f"{len(weights)} numbers",
        )
    kept = {key: loss[key] for key in ("loss_weight", "loss_name", "class_weight") if key in loss}
    guided = {"mode": settings.loss, "threshold": settings.threshold, "balanced": settings.balanced}
    return {"type": "ConfidenceGuidedLoss", **guided, **kept}


def _set_data(cfg: Config, settings: TrainSettings, data: TrainData) -> None:
    meta = {"classes": data.classes}
    train = _pipeline(cfg.train_dataloader.get("dataset"), settings)
    tested = cfg.get("val_dataloader") or cfg.get("test_dataloader") or {}
    test = _pipeline(tested["dataset"], settings) if tested.get("dataset") else _PLAIN_TEST
    cfg.train_dataloader.dataset = {
        "type": "PseudoMaskDataset",
        **data.train,
        **data.labels("train"),
        "metainfo": meta,
        "pipeline": train,
    }
    if cfg.train_dataloader.get("batch_sampler") is None:
        cfg.train_dataloader.sampler = {"type": "InfiniteSampler", "shuffle": True}
    if settings.batch_size is not None:
        cfg.train_dataloader.batch_size = settings.batch_size
    cfg.test_pipeline = test
    cfg.train_pipeline = train
    cfg.pop("tta_pipeline", None)
    for part in ("val", "test"):
        if data.val is None:
            for key in (f"{part}_dataloader", f"{part}_cfg", f"{part}_evaluator"):
                cfg[key] = None
            continue
        given = cfg.get(f"{part}_dataloader") or {"batch_size": 1, "num_workers": 2}
        loader: dict[str, Any] = dict(given)
        loader["sampler"] = {"type": "DefaultSampler", "shuffle": False}
        sources = {**data.val, **data.labels("val")}
        loader["dataset"] = {"type": "PseudoMaskDataset", **sources, "metainfo": meta, "pipeline": test}
        loader["dataset"]["test_mode"] = True
        cfg[f"{part}_dataloader"] = loader
        cfg[f"{part}_cfg"] = {"type": f"{part.title()}Loop"}
        cfg[f"{part}_evaluator"] = {"type": "IoUMetric", "iou_metrics": ["mIoU"]}
    for known in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        if known is not None:
            if settings.workers is not None:
                known.num_workers = settings.workers
            known.persistent_workers = known.get("num_workers", 0) > 0


_PLAIN_TEST = [{"type": "LoadImageFromFile"}, {"type": "LoadPseudoMask"}, {"type": "PackPseudoMask"}]


def _pipeline(dataset: Any, settings: TrainSettings) -> list[dict[str, Any]]:
    """The pipeline of a data set, also inside wrappers, with our loader and packer."""
    while dataset is not None and dataset.get("pipeline") is None:
        dataset = dataset.get("dataset")
    steps = [dict(step) for step in dataset["pipeline"]] if dataset is not None else []
    kinds = [step["type"] for step in steps]
    if not set(kinds) & set(_LOADERS) or not set(kinds) & set(_PACKERS):
        raise ConfigError(
            "the pipeline of a data set does not read and pack labels in a way that confidence could join",
            where=settings.config,
            expected=f"{_LOADERS[0]} ... {_PACKERS[0]}",
            found=", ".join(kinds) or "no pipeline",
        )
    for step in steps:
        if step["type"] == "LoadAnnotations":
            step.clear()
            step["type"] = "LoadPseudoMask"
        elif step["type"] == "PackSegInputs":
            step["type"] = "PackPseudoMask"
    return steps


def _set_schedule(cfg: Config, settings: TrainSettings) -> None:
    train = cfg.get("train_cfg") or {}
    before = train.get("max_iters")
    steps = settings.iterations or before
    schedulers: Sequence[Any] = cfg.get("param_scheduler") or []
    schedulers = schedulers if isinstance(schedulers, (list, tuple)) else [schedulers]
    by_epoch = any(scheduler.get("by_epoch", True) for scheduler in schedulers)
    if steps is None or by_epoch or (before is None and schedulers):
        raise ConfigError(
            "the schedule of the config counts epochs",
            where=settings.config,
            expected="train_cfg with max_iters and schedulers with by_epoch=False",
            next_step="Write it in iterations; a training can then be resumed inside an epoch.",
        )
    factor = steps / (before or steps)
    cfg.param_scheduler = [_stretched(dict(scheduler), factor) for scheduler in schedulers]
    asked = settings.val_interval or max(1, round(train.get("val_interval", steps) * factor))
    cfg.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": steps, "val_interval": min(asked, steps)}
    hooks = cfg.setdefault("default_hooks", {})
    saved = dict(hooks.get("checkpoint", {}))
    interval = settings.checkpoint_interval or max(1, round(saved.get("interval", steps) * min(1, factor)))
    kept = saved.get("max_keep_ckpts", 2)
    hooks["checkpoint"] = {"type": "WholeCheckpointHook", "by_epoch": False, "interval": interval}
    hooks["checkpoint"]["max_keep_ckpts"] = kept if kept < 0 or kept > 1 else 2
    hooks.pop("visualization", None)
    cfg.log_processor = {"by_epoch": False}
    backends = [{"type": "LocalVisBackend"}, {"type": "TensorboardVisBackend"}]
    cfg.visualizer = {"type": "SegLocalVisualizer", "vis_backends": backends}
    wrapper = cfg.optim_wrapper
    if settings.lr is not None:
        wrapper.optimizer.lr = settings.lr
    if settings.amp:
        _set_mixed_precision(wrapper)


def _set_mixed_precision(wrapper: Any) -> None:
    import torch

    if torch.cuda.is_available():
        wrapper.type = "AmpOptimWrapper"
        wrapper.setdefault("loss_scale", "dynamic")
    else:
        wrapper.type = "BFloat16OptimWrapper"
        wrapper.pop("loss_scale", None)


def _stretched(scheduler: dict[str, Any], factor: float) -> dict[str, Any]:
    for key in ("begin", "end", "T_max", "total_iters", "step_size"):
        if isinstance(scheduler.get(key), int):
            scheduler[key] = round(scheduler[key] * factor)
    if isinstance(scheduler.get("end"), int):
        scheduler["end"] = max(scheduler["end"], scheduler.get("begin", 0) + 1)
    if "milestones" in scheduler:
        scheduler["milestones"] = [round(step * factor) for step in scheduler["milestones"]]
    return scheduler
