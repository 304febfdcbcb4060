"""A Ray cluster: joined and left, and what its machines can do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from clip_es.errors import ConfigError
from clip_es.pipelines.masks.maker import MaskMaker


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray, connected; disconnected afterwards unless the caller was connected before."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            "a Ray cluster needs ray, which is not installed", next_step="pip install 'clip-es[ray]'"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            "no Ray cluster answers",
            where=address,
            found=error,
            next_step="Start one with `ray start --head`, or leave the address out for this machine alone.",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def workers(ray: Any, maker: MaskMaker, device: str, gpus: float | None) -> tuple[str, float]:
    """Where the workers compute, and the share of a GPU that each takes."""
    there = ray.cluster_resources().get("GPU", 0)
    if device == "auto":
        device = "cuda" if there and not maker.exact else "cpu"
    share = gpus if gpus is not None else 1.0 if device.startswith("cuda") else 0.0
    if share > there:
        raise ConfigError(
            "no machine of the cluster has the GPU that was asked for",
            expected=f"{share:g} GPU for each worker",
            found=f"{there:g} in all of the cluster",
            next_step="Pass --device cpu, or add a machine with a GPU.",
        )
    if device != "cpu" and maker.exact:
        raise ConfigError(
            "the published arithmetic is that of a CPU",
            expected="--device cpu, or --arithmetic fast",
            found=f"--device {device}",
        )
    return device, share
