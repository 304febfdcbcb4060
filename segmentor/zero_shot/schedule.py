"""Learning rates and groups of parameters as published."""

from __future__ import annotations

from collections.abc import Iterable


def poly(iteration: int, base: float, total: int, power: float = 0.9, every: int = 10) -> float:
    """base * (1 - iteration / total)^power, refreshed every `every` iterations and never at the last one."""
    refreshed = iteration - iteration % every
    if refreshed >= total:
        refreshed = total - every
    return base * (1 - refreshed / total) ** power


def stepped(iteration: int, start: int, step: int, factor: float) -> float:
    """1 before `start`, then `factor` to the power of the steps begun since."""
    return 1.0 if iteration < start or step < 1 else factor ** ((iteration - start) // step + 1)


def groups(names: Iterable[str]) -> dict[str, list[str]]:
    """Published tensors of the trunk, ASPP and context by the factor of their rate.

    By fragments of their names, as the code chooses them; the selector has none of them and is never trained, nor is
    any batch-norm.
    """
    found: dict[str, list[str]] = {"1x": [], "5x": [], "10x": [], "20x": [], "never": []}
    for name in names:
        if ".bn." in name:
            key = "never"
        elif "layer" in name:
            key = "1x"
        elif "contextual" in name:
            key = "5x"
        elif "aspp" in name:
            key = "20x" if name.endswith("bias") else "10x"
        else:
            key = "never"
        found[key].append(name)
    return found
