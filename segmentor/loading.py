"""From a config and a checkpoint to a model of mmsegmentation with all of its weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clip_es.errors import ConfigError, WeightsError
from clip_es.segmentor.training.checkpoints import CONFIG, Checkpoint, parse_config, read_config
from clip_es.segmentor.training.compat import prepare

_AUXILIARY = "auxiliary_head."
"""Weights that only the training needs: a checkpoint may have them or not."""
_PUBLIC = ("DrnBackbone", "DptBackbone")
"""Backbones that begin a training with public weights; a checkpoint holds theirs, and the file may be elsewhere."""
ROWS = "decode_head.pixel_text.rows"
"""Of a pixel-text model."""


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
        if model["backbone"].get("type") in _PUBLIC:
            model["backbone"]["weights"] = None
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
    if ROWS in differ and own[ROWS].shape[1:] != given[ROWS].shape[1:]:
        raise WeightsError(
            "the checkpoint has text rows of another width than the CLIP of its config",
            where=checkpoint.path,
            expected=f"{own[ROWS].shape[1]} numbers in {ROWS}",
            found=given[ROWS].shape[1],
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


def settings_of(checkpoint: Checkpoint, config: str | Path | None) -> tuple[Mapping[str, Any], object]:
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
