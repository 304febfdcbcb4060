"""Train a small CLIP of the scenes from scratch, on pictures and captions alone.

    clip-es scenes train-clip --recipe plain --out runs/scenes-plain
    clip-es scenes train-clip --recipe dense --out runs/scenes-dense --trunk runs/scenes-plain/trunk.pt

Nothing but (picture, sentence) pairs reaches the model: no mask, no box, no class head. `recipe` has the settings,
`pairs` what is seen, `losses` what is asked. Every step follows from (seed, step), so a run that was stopped ends with
the weights of one that was not. Both recipes begin with the same phases, after which a run leaves trunk.pt; the other
recipe may continue from there instead of taking the same steps again.

Source: Radford et al. 2021 (loss, temperature); GroupViT, Xu et al. 2022 (nouns of captions in prompts); FILIP, Yao et
al. 2022 (best patch of a word); FLIP, Li et al. 2023 (patches dropped while training); Muon, Jordan et al. 2024.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_es.errors import WeightsError
from clip_es.scenes.draw import SceneConfig, draw_scene
from clip_es.scenes.pairs import PIXEL_MEAN, PIXEL_STD, Batch, Pool, Words, make_batch
from clip_es.scenes.recipe import Phase, TrainConfig
from clip_es.scenes.weights import save_scenes_weights

if TYPE_CHECKING:
    from torch import Tensor

    from clip_es.encoder.vit import CLIP

__all__ = ["Phase", "TrainConfig", "build", "train"]


def build(config: TrainConfig, words: Words) -> CLIP:
    """The untrained model, its weights drawn from the seed, its token embedding cut down to `words`."""
    import torch

    from clip_es.encoder.vit import CLIP, TowerSizes

    sizes = TowerSizes(
        patch=config.patch,
        width=config.width,
        layers=config.layers,
        grid=config.grid,
        embed=config.embed,
        text_width=config.text_width,
        text_layers=config.text_layers,
        vocab=len(words.rows),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = CLIP(sizes)
        torch.nn.init.normal_(model.token_embedding.weight, std=0.02)
        for name, layer in model.named_modules():
            if isinstance(layer, torch.nn.Linear) and name.endswith(("out_proj", "c_proj")):
                depth = config.layers if name.startswith("visual.") else config.text_layers
                torch.nn.init.normal_(layer.weight, std=layer.in_features**-0.5 * (2 * depth) ** -0.5)
                torch.nn.init.zeros_(layer.bias)
    model.visual.conv1.weight.data.copy_(_whitening(config))
    return model


def _whitening(config: TrainConfig) -> Tensor:
    """Patch filters [width 3 patch patch] that whiten: the leading components of drawn patches, each with unit spread.

    With random filters all tokens would tell the mean colour of their patch and little of its shape; from here the
    same accuracy takes far fewer pictures. Only pictures are used.
    """
    import torch

    side, p = 8 * config.patch, config.patch
    rng = np.random.default_rng((0x3A17E, config.seed))
    scenes = [
        draw_scene(config.seed * 1000 + 999, i, SceneConfig((side, side))).picture for i in range(config.whitening)
    ]
    mean, std = np.asarray(PIXEL_MEAN, np.float32), np.asarray(PIXEL_STD, np.float32)
    pixels = (np.stack(scenes).astype(np.float32) / 255 - mean) / std
    patches = pixels.reshape(len(scenes), 8, p, 8, p, 3).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 3 * p * p)
    # torch keeps to the threads of the run; numpy would take every core.
    seen = torch.from_numpy(patches)
    spread, components = (part.flip(-1)[..., : config.width] for part in torch.linalg.eigh(seen.T @ seen / len(seen)))
    filters = components / (spread + 0.02 * spread.mean()).sqrt()
    turn, _ = np.linalg.qr(rng.standard_normal((config.width, config.width)))
    filters = filters @ torch.from_numpy(turn).float()
    return filters.T.reshape(config.width, 3, p, p)


@dataclass
class _Run:
    """What a checkpoint holds."""

    model: CLIP
    optimisers: list[Any]
    step: int = 0


def train(
    config: TrainConfig,
    out: Path,
    *,
    stop_after: int | None = None,
    report: Callable[[int, dict[str, float]], None] | None = None,
    trunk: Path | None = None,
) -> Path:
    """Train, or go on training, in folder `out`. Returns the weights file, scenes_clip.safetensors.

    The folder holds checkpoint.pt (replaced atomically every `save_every` steps), from the first checkpoint on the
    weights so far, and trunk.pt once the phases that the recipes share are done. Calling again continues. Where `out`
    has no checkpoint, training begins from `trunk`, a checkpoint of any recipe, provided that what was done for it is
    what this config begins with. `stop_after` ends the call after that many steps, with a checkpoint. `report` is
    called with the step and its figures (loss, hit rates, rate in pictures a second).
    Raises WeightsError: the checkpoint is missing, damaged, or of another config.
    """
    import torch

    torch.set_num_threads(config.threads)
    words = Words()
    model = build(config, words).to(config.device)
    optimisers = _optimisers(config, model)
    run = _Run(model, optimisers)
    out.mkdir(parents=True, exist_ok=True)
    if (out / "checkpoint.pt").exists():
        _restore(run, config, out / "checkpoint.pt")
    elif trunk is not None:
        _restore(run, config, trunk)
    weights = out / "scenes_clip.safetensors"
    end = config.steps if stop_after is None else min(run.step + stop_after, config.steps)
    if run.step >= end:
        return weights
    pool = Pool(config, out / "pool", run.step)
    try:
        while run.step < end:
            begun = time.perf_counter()
            batch = make_batch(config, pool.shards(run.step), run.step, words)
            figures = _step(run, config, batch.to(config.device))
            figures["rate"] = len(batch.pixels) / (time.perf_counter() - begun)
            run.step += 1
            if report:
                report(run.step, figures)
            if run.step == config.trunk_steps:
                _save(run, config, out / "trunk.pt")
            if run.step % config.save_every == 0 or run.step == end:
                _save(run, config, out / "checkpoint.pt")
                save_scenes_weights(model.state_dict(), words.rows, weights)
    finally:
        pool.close()
    return weights


def _optimisers(config: TrainConfig, model: CLIP) -> list[Any]:
    """Muon for the matrices of the blocks, AdamW for the rest. Both take steps of the same root mean square."""
    import torch

    blocks = {p for name, p in model.named_parameters() if ".resblocks." in name and p.ndim == 2}
    rest = [p for p in model.parameters() if p not in blocks]
    decay = config.weight_decay
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    matrices = [p for p in model.parameters() if p in blocks]
    return [
        torch.optim.Muon(matrices, lr=config.lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), fused=True),
    ]


def _step(run: _Run, config: TrainConfig, batch: Batch) -> dict[str, float]:
    import torch

    from clip_es.scenes.losses import loss_of

    for optimiser in run.optimisers:
        for group in optimiser.param_groups:
            group["lr"] = config.lr_at(run.step)
    phase = config.phases[config.phase_at(run.step)[0]]
    with torch.autocast(config.device.split(":")[0], torch.bfloat16, enabled=config.bfloat16):
        loss, figures = loss_of(run.model, batch, phase, with_cam=run.step % 2 == 0)
    run.model.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    for optimiser in run.optimisers:
        optimiser.step()
    return figures


def _save(run: _Run, config: TrainConfig, path: Path) -> None:
    import torch

    part = path.with_name(path.name + ".part")
    state = {"step": run.step, "config": _told(config), "model": run.model.state_dict()}
    torch.save(state | {"optimisers": [optimiser.state_dict() for optimiser in run.optimisers]}, part)
    part.replace(path)


_FREE = ("recipe", "instead", "phases", "threads", "device", "draw_ahead", "save_every")
"""Settings that may differ between the parts of a run: they change the time, not the result. Phases are compared apart,
as far as they were begun."""


def _restore(run: _Run, config: TrainConfig, path: Path) -> None:
    import torch

    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises many kinds for a damaged archive
        raise WeightsError("the checkpoint cannot be read", where=path, found=error, next_step="Remove it.") from error
    then, now = _plain(state["config"]), _plain(_told(config))
    changed = [name for name in now if name not in _FREE and then.get(name) != now[name]]
    begun = _begun(then["phases"], state["step"])
    if then["phases"][:begun] != now["phases"][:begun]:
        changed.append("phases")
    if changed:
        raise WeightsError(
            "the checkpoint belongs to another config",
            where=path,
            expected={name: now[name] for name in changed},
            found={name: then.get(name) for name in changed},
            next_step="Train into another folder.",
        )
    run.model.load_state_dict(state["model"])
    for optimiser, held in zip(run.optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(held)
    run.step = state["step"]


def _told(config: TrainConfig) -> dict[str, Any]:
    """The settings and the phases, as plain values."""
    return asdict(config) | {"phases": [asdict(phase) for phase in config.phases]}


def _begun(phases: list[dict[str, Any]], step: int) -> int:
    """How many phases have seen a step after `step` steps."""
    for number, phase in enumerate(phases):
        if step <= 0:
            return number
        step -= phase["steps"]
    return len(phases)


def _plain(value: Any) -> Any:
    """Tuples as lists, all the way down, for comparison."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
