"""Train a segmenter with mmengine's Runner: begin or continue, survive a kill, leave one file that predicts."""

from __future__ import annotations

import io
import os
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_es.errors import ConfigError, DataError, ShapeError, WeightsError
from clip_es.segmentor.data.check import check_pairs, refuse
from clip_es.segmentor.data.pairs import find_pairs
from clip_es.segmentor.loading import ROWS, build_model
from clip_es.segmentor.training.adapt import build_config, config_names, heads, load_config
from clip_es.segmentor.training.backbone import drop_pretrained, use_pretrained
from clip_es.segmentor.training.checkpoints import read_state, reason
from clip_es.segmentor.training.compat import mmengine_types, prepare
from clip_es.segmentor.training.settings import TrainData, TrainSettings
from clip_es.store.disk import Lock, make_folder, names_in, write_atomic
from clip_es.store.tables import read_json, write_json
from clip_es.training import Stop

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.runner import Runner

__all__ = ["TrainData", "TrainResult", "TrainSettings", "build_config", "config_names", "load_config", "train"]

Tell = Callable[[int, int, "float | None", "float | None"], None]
"""Called with iteration, iterations in all, loss, and mIoU in per cent where it was just measured."""

_RECORD = "train.json"
_MAY_CHANGE = {"workers", "launcher", "val_interval", "checkpoint_interval"}
"""Settings that may differ when a training is continued."""


@dataclass(frozen=True)
class TrainResult:
    """What a training has come to."""

    model: Path
    """The bare weights: `{state_dict, meta: {dataset_meta}}`, readable with `weights_only=True`."""
    miou: float | None
    """mIoU of the last weights on the validation set, per cent; None without one."""
    iterations: int


def train(
    settings: TrainSettings,
    data: TrainData,
    out: Path,
    *,
    resume: bool = True,
    check: bool = True,
    tell: Tell | None = None,
    quiet: bool = True,
) -> TrainResult:
    """Train, or continue from the newest whole checkpoint in `out`; without `resume`, a training there is refused.

    OUT/config.py is the config as it was run, OUT/iter_N.pth mmengine's checkpoints, OUT/final.pth the
    last weights alone, OUT/train.json settings and figures, OUT/<time>/ the log and TensorBoard's events. `check`
    looks at all masks first. `quiet` keeps mmengine's log off the terminal.

    The folder becomes a training's, with train.json, at its first checkpoint; until then the same call begins anew.
    SIGINT and SIGTERM let the iteration end, write a checkpoint and raise KeyboardInterrupt.

    What is executed: the config that `settings.config` names, if it is a file of the user's, for an mmengine config is
    a Python program. Nothing else is: checkpoints that are continued from, weights to begin with (`settings.init`) and
    backbones from the network are read with `weights_only=True`, and what cannot be read so is refused.

    Raises ConfigError: settings or config cannot work, or `out` holds another training. DataError: masks that do not
    fit. WeightsError: a checkpoint or `init` cannot be used, or the backbone's weights cannot be loaded.
    """
    prepare()
    cfg = build_config(settings, data, out)
    first = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
    found = find_pairs(**data.train)
    _check_modes(settings, data, found)
    label_count = len(data.classes) + len(data.unseen)
    if check and first:
        refuse(check_pairs(found, label_count))
        if data.val:
            refuse(check_pairs(find_pairs(**data.val), label_count))
    record = _record(settings, data)
    last = _to_continue(out, record, resume, first)
    written = _plain_config(cfg)  # Names the address of the backbone, not the file it was fetched to.
    if last is not None:
        _check_checkpoint(last, data)
        cfg.load_from, cfg.resume = str(last), True
        drop_pretrained(cfg)
    else:
        use_pretrained(cfg)
        if settings.init is not None:
            cfg.load_from = str(_usable_weights(settings.init, cfg))
    make_folder(out)
    with _alone(out) if first else nullcontext(), Stop.on_signals() as stop:
        return _train(cfg, settings, data, out, record, written, first, quiet, tell, stop)


def _train(
    cfg: Config,
    settings: TrainSettings,
    data: TrainData,
    out: Path,
    record: dict[str, Any],
    written: str,
    first: bool,
    quiet: bool,
    tell: Tell | None,
    stop: Stop,
) -> TrainResult:
    if first:
        write_atomic(out / "config.py", written.encode())
    began = time.monotonic()
    # mmengine keeps loggers and visualizers by name; a second training of this process is to have its own.
    cfg.experiment_name = f"{out.name}-{time.monotonic_ns()}"
    runner = _runner(cfg, settings, quiet)
    miou = _Last(tell)
    from clip_es.segmentor.training.hooks import ClaimHook, ProgressHook, StopHook

    runner.register_hook(ProgressHook(miou), priority="LOW")
    runner.register_hook(StopHook(stop), priority="LOWEST")
    if first:
        runner.register_hook(ClaimHook(lambda: _write_record(out, record)), priority="LOW")
    runner.train()
    if miou.value is None and data.val is not None:
        miou.value = float(runner.val()["mIoU"])  # Killed between the last checkpoint and its validation.
    result = TrainResult(out / "final.pth", miou.value, runner.iter)
    if first:
        _export(runner, result.model)
        figures = {"miou": miou.value, "iterations": runner.iter, "seconds": time.monotonic() - began, "done": True}
        _write_record(out, {**record, **figures})
    return result


class _Last:
    """Passes progress on and keeps the last mIoU."""

    def __init__(self, tell: Tell | None) -> None:
        self.value: float | None = None
        self._tell = tell

    def __call__(self, iteration: int, total: int, loss: float | None, miou: float | None) -> None:
        self.value = miou if miou is not None else self.value
        if self._tell:
            self._tell(iteration, total, loss, miou)


def newest_checkpoint(out: Path) -> Path | None:
    """The newest iter_N.pth that can be read to its end; damaged ones are passed over."""
    numbered = [(int(n), path) for path in out.glob("iter_*.pth") if (n := path.stem.removeprefix("iter_")).isdigit()]
    return next((path for _, path in sorted(numbered, reverse=True) if _is_whole(path)), None)


def _is_whole(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _check_modes(settings: TrainSettings, data: TrainData, found: list) -> None:
    if settings.loss != "plain" and any(pair.confidence is None for pair in found):
        raise ConfigError(
            f"the {settings.loss} loss needs the confidence of the masks",
            where=data.masks,
            expected="the folder of a run, with run.yaml, labels and confidence",
            found="a folder of masks alone",
            next_step="Pass --loss plain.",
        )


def _record(settings: TrainSettings, data: TrainData) -> dict[str, Any]:
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()}
    return {
        "settings": plain,
        "data": {"train": {**data.train, **data.labels("train")}, "val": data.val, "classes": list(data.classes)},
    }


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Raises ConfigError: another process trains in this folder."""
    lock = Lock.take(out, "train")
    if lock is None:
        raise ConfigError("another process trains in this folder", where=out, found=Lock.holder(out, "train"))
    with lock:
        yield


def _to_continue(out: Path, record: dict[str, Any], resume: bool, first: bool) -> Path | None:
    """The checkpoint to continue from; None for a new training. Raises ConfigError."""
    if not first or not out.is_dir():
        return newest_checkpoint(out) if resume else None
    there = names_in(out)  # Also sweeps what a killed writer left.
    if _RECORD not in there:
        if "run.yaml" in there:
            raise ConfigError("the folder holds masks", where=out, next_step="Pass an --out of its own.")
        return newest_checkpoint(out) if resume else None
    if not resume:
        raise ConfigError(
            "the folder holds a training",
            where=out,
            next_step="Leave --no-resume out to continue it, or pass another --out.",
        )
    try:
        old = read_json(out / _RECORD)
        before, now = _compared(old), _compared(record)
        differ = [key for key in now if key not in _MAY_CHANGE and before.get(key) != now[key]]
        differ += [] if old["data"]["classes"] == record["data"]["classes"] else ["classes"]
    except (DataError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError("cannot be read", where=out / _RECORD, found=error, next_step="Pass another --out.") from None
    if differ:
        raise ConfigError(
            "the folder holds a training with other settings",
            where=out,
            expected=", ".join(f"{key} = {before.get(key, 'not set')}" for key in differ),
            found=", ".join(f"{key} = {now.get(key, 'other classes')}" for key in differ),
            next_step="Pass the settings of its train.json, or another --out.",
        )
    return newest_checkpoint(out)


def _compared(record: dict[str, Any]) -> dict[str, Any]:
    """What a training that is continued must have in common with its record."""
    return {**record["settings"], "pictures_with_unseen": record["data"]["train"].get("pictures_with_unseen")}


def _check_checkpoint(path: Path, data: TrainData) -> None:
    """Whether a checkpoint is tensors and plain values and of these classes; mmengine, left to itself, would unpickle
    what is not. Raises WeightsError: it holds more. ShapeError: it knows other classes than the data.
    """
    import torch

    try:
        with torch.serialization.safe_globals(mmengine_types()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            "the checkpoint cannot be continued from without executing what it contains, which is never done",
            where=path,
            expected="a checkpoint as `clip-es train` writes it",
            found=f"{type(error).__name__}: {reason(error)}",
            next_step="Remove it to continue from an older one.",
        ) from error
    meta = content.get("meta") or {} if isinstance(content, dict) else {}
    known = (meta.get("dataset_meta") or {}).get("classes")
    if known is not None and tuple(known) != data.classes:
        raise ShapeError(
            "the checkpoint was trained on other classes",
            where=path,
            expected=f"{len(data.classes)}: {', '.join(data.classes[:5])}, ...",
            found=f"{len(known)}: {', '.join(list(known)[:5])}, ...",
            next_step="Train in another --out.",
        )


def _usable_weights(path: Path, cfg: Config) -> Path:
    """Weights to begin with, read without executing anything. Returns the file mmengine is to load.

    Raises WeightsError: no bare state_dict, or none of its weights fits the model. ShapeError: its classifier is for
    another number of classes, or its text of another width.
    """
    state = {key.removeprefix("module."): value for key, value in read_state(path).items()}
    wanted = heads(cfg)[0].num_classes
    for name in ("decode_head.conv_seg.weight", "decode_head.branches.0.weight"):
        if name in state and state[name].shape[0] != wanted:
            raise ShapeError(
                "the weights are for another number of classes",
                where=path,
                expected=f"{wanted}, background counted",
                found=int(state[name].shape[0]),
                next_step="Pass the vocabulary of these weights, or leave the classifier out of the file.",
            )
    own = build_model(cfg.to_dict(), "the config").state_dict()
    if ROWS in own and ROWS in state and own[ROWS].shape[1:] != state[ROWS].shape[1:]:
        raise ShapeError(
            "the weights were compared with text of another width",
            where=path,
            expected=f"{own[ROWS].shape[1]} numbers in {ROWS}",
            found=list(state[ROWS].shape[1:]),
            next_step="Name the CLIP they were trained with (--text-weights), or begin without --init.",
        )
    if not any(key in own and own[key].shape == value.shape for key, value in state.items()):
        key = next(iter(own))
        other = next(((name, value) for name, value in state.items()), None)
        raise WeightsError(
            "none of these weights fits the model of the config",
            where=path,
            expected=f"{len(own)} weights such as {key} {list(own[key].shape)}",
            found="none" if other is None else f"{len(state)} such as {other[0]} {list(other[1].shape)}",
            next_step="Name weights of this architecture, or begin without --init.",
        )
    return path


def _plain_config(cfg: Config) -> str:
    """The config's text, without what is of this call and not of the model."""
    from mmengine.config import Config

    return Config({**cfg.to_dict(), "load_from": None, "resume": False}).pretty_text


def _runner(cfg: Config, settings: TrainSettings, quiet: bool) -> Runner:
    import torch

    from clip_es.segmentor.training.hooks import QuietRunner, WholeRunner

    if settings.launcher != "none" and not torch.cuda.is_available():
        # mmengine's launchers ask for CUDA. A process group that is there is taken as it is, so make one for CPUs.
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        cfg.model_wrapper_cfg = {"type": "MMDistributedDataParallel", "device_ids": None, "broadcast_buffers": False}
    return (QuietRunner if quiet else WholeRunner).from_cfg(cfg)


def _export(runner: Runner, path: Path) -> None:
    """The weights alone, on the CPU, with what predicting needs to know: names and colours of the classes."""
    import torch
    from mmengine.model import is_model_wrapper

    model: Any = runner.model.module if is_model_wrapper(runner.model) else runner.model
    meta = getattr(runner.train_dataloader.dataset, "metainfo")  # noqa: B009 (torch's Dataset declares none)
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    known = {"classes": tuple(meta["classes"]), "palette": [list(map(int, colour)) for colour in meta["palette"]]}
    file = io.BytesIO()
    torch.save({"state_dict": state, "meta": {"dataset_meta": known}}, file)
    write_atomic(path, file.getvalue(), durable=True)


def _write_record(out: Path, record: dict[str, Any]) -> None:
    write_json(out / _RECORD, record)
