"""Train a small CLIP of the scenes from scratch, on pictures and captions alone.

    clip-es scenes train-clip --recipe plain --out runs/scenes-plain
    clip-es scenes train-clip --recipe dense --out runs/scenes-dense --trunk runs/scenes-plain/trunk.pt

Nothing but (picture, sentence) pairs reaches the model: no mask, no box, no class head. `recipe` has the settings,
`pairs` what is seen, `losses` what is asked. Every step follows from (seed, step), so a run that was stopped ends with
the weights of one that was not. Dense goes on where plain ends: a run leaves trunk.pt there, and dense may begin with
it instead of taking the same steps again.

Source: Radford et al. 2021 (loss, temperature); GroupViT, Xu et al. 2022 (nouns of captions in prompts); FILIP, Yao et
al. 2022 (best patch of a word); FLIP, Li et al. 2023 (patches dropped while training); Muon, Jordan et al. 2024.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_es.errors import WeightsError
from clip_es.scenes.draw import SceneConfig, draw_scene
from clip_es.scenes.pairs import PIXEL_MEAN, PIXEL_STD, Batch, Pool, Words, make_batch
from clip_es.scenes.recipe import Phase, TrainConfig
from clip_es.scenes.weights import save_scenes_weights
from clip_es.store.disk import write_atomic
from clip_es.training import CHECKPOINT, Plan, Report, plain
from clip_es.training import train as run_loop

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


class _Training:
    """The model and its optimisers, as the loop of `clip_es.training` wants them."""

    def __init__(self, config: TrainConfig, words: Words) -> None:
        self.config, self.words = config, words
        self.model = build(config, words).to(config.device)
        self.optimisers = _optimisers(config, self.model)

    def advance(self, step: int, batch: Batch) -> dict[str, float]:
        import torch

        from clip_es.scenes.losses import loss_of

        config = self.config
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = config.lr_at(step)
        phase = config.phases[config.phase_at(step)[0]]
        with torch.autocast(config.device.split(":")[0], torch.bfloat16, enabled=config.bfloat16):
            loss, figures = loss_of(self.model, batch, phase, with_cam=step % 2 == 0)
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        return figures

    def after(self, step: int, figures: dict[str, float]) -> None:
        """Nothing is validated: what is reported are the figures of the step."""

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises WeightsError: what was done for this state is not what this config begins with."""
        then, now = plain(state["config"]["phases"]), _told(self.config)["phases"]
        begun = _begun(then, state["step"])
        if then[:begun] != now[:begun]:
            raise WeightsError(
                "the checkpoint belongs to a training with other phases",
                where=f"after step {state['step']}",
                expected=now[:begun],
                found=then[:begun],
                next_step="Train into another folder.",
            )
        self.model.load_state_dict(state["model"])
        for optimiser, held in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(held)

    def save(self, out: Path, step: int) -> None:
        if step == self.config.trunk_steps:
            write_atomic(out / "trunk.pt", (out / CHECKPOINT).read_bytes(), durable=True)
        save_scenes_weights(self.model.state_dict(), self.words.rows, out / "scenes_clip.safetensors")

    @contextmanager
    def batches(self, out: Path, start: int, end: int) -> Iterator[Iterator[Batch]]:
        """Those of the steps from `start` to before `end`."""
        if start == end:
            yield iter(())
            return
        config, pool = self.config, Pool(self.config, out / "pool", start)
        try:
            yield (
                make_batch(config, pool.shards(step), step, self.words).to(config.device) for step in range(start, end)
            )
        finally:
            pool.close()


def train(
    config: TrainConfig,
    out: Path,
    *,
    stop_after: int | None = None,
    report: Report | None = None,
    trunk: Path | None = None,
) -> Path:
    """Train, or go on training, in folder `out`. Returns the weights file, scenes_clip.safetensors.

    The folder holds checkpoint.pt (replaced whole every `save_every` steps), from the first checkpoint on the weights
    so far, and trunk.pt once the phases that the recipes share are done. Calling again continues. Where `out` has no
    checkpoint, training begins from `trunk`, a checkpoint of any recipe, provided that what was done for it is what
    this config begins with. `stop_after` ends the call after that many steps. `report` is called with the step and its
    figures (loss, hit rates, seconds so far).
    Raises WeightsError: the checkpoint is missing, damaged, or of another config. ConfigError: another process trains.
    """
    import torch

    torch.set_num_threads(config.threads)
    training = _Training(config, Words())
    plan = Plan(
        config.steps,
        config.save_every,
        config.seed,
        _told(config),
        free=_FREE,
        device=config.device,
        save_at=(config.trunk_steps,),
    )
    run_loop(
        training,
        out,
        plan,
        batches=lambda start, end: training.batches(out, start, end),
        stop_after=stop_after,
        report=report,
        begin_from=trunk,
    )
    return out / "scenes_clip.safetensors"


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


_FREE = ("recipe", "instead", "phases", "threads", "device", "draw_ahead", "save_every")
"""Settings that may differ between the parts of a run: they change the time, not the result. Phases are compared apart,
as far as they were begun."""


def _told(config: TrainConfig) -> dict[str, Any]:
    """The settings and the phases, as plain values."""
    return plain(asdict(config) | {"phases": [asdict(phase) for phase in config.phases]})


def _begun(phases: list[dict[str, Any]], step: int) -> int:
    """How many phases have seen a step after `step` steps."""
    for number, phase in enumerate(phases):
        if step <= 0:
            return number
        step -= phase["steps"]
    return len(phases)
