"""Whether a state dict is what a module wants: the same keys, the same shapes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def misfits(state: Mapping[str, Tensor], module: nn.Module, most: int = 4) -> str:
    """What of a state dict does not fit the module, in words; empty where all does.

    Keys that are missing come first, then unknown ones, then wrong shapes; after `most` only their number is told.
    """
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    wrong = [f"no '{key}'" for key in wanted if key not in state]
    wrong += [f"unknown '{key}'" for key in state if key not in wanted]
    wrong += [
        f"'{key}' of shape {list(state[key].shape)} instead of {list(shape)}"
        for key, shape in wanted.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    return ", ".join(wrong[:most]) + (f" and {len(wrong) - most} more" if len(wrong) > most else "")
