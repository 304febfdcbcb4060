"""Train a CLIPSeg decoder in a folder that can be killed at any moment and continued by the same call.

OUT/checkpoint.pt         all that the next step needs; replaced whole
OUT/decoder.safetensors   the weights so far, with the layers they read and the side they know
OUT/history.csv           step, loss, learning rate, seconds, and validation where there was one
OUT/run.yaml              settings, data, encoder
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from clip_es.encoder import Encoder
from clip_es.errors import ConfigError
from clip_es.localize.clipseg.decoder import Decoder
from clip_es.localize.clipseg.draws import Draws, Unit, cut_picture, prompts_of
from clip_es.localize.clipseg.scores import score_phrases
from clip_es.localize.clipseg.sight import Texts, block_outputs
from clip_es.localize.clipseg.start import start_as_clip
from clip_es.localize.clipseg.training import DecoderTraining, loss_of, new_decoder
from clip_es.localize.clipseg.weights import save_decoder
from clip_es.records.phrases.table import PhraseSet
from clip_es.store.disk import write_atomic
from clip_es.training import Plan, Report, plain, train

_FREE = ("threads", "save_every", "validate_every", "validate_on")
"""Settings that may differ between the parts of a run: they change the time, not the result."""
_SHOWN, _PHRASES = 64, 1024
"""At most so many pictures and phrases tell a start as CLIP its means and deviations."""
_COLUMNS = ("step", "loss", "lr", "seconds", "val_miou", "val_threshold", "val_ap")


def train_decoder(
    encoder: Encoder,
    data: PhraseSet,
    config: DecoderTraining,
    out: Path,
    *,
    val: PhraseSet | None = None,
    stop_after: int | None = None,
    report: Report | None = None,
    half: bool = False,
) -> Path:
    """Train, or go on training, in folder `out`. Returns the weights file.

    `val`: phrases of other pictures, scored now and then. `stop_after` ends the call after that many steps, with a
    checkpoint. `report` is called after each step with its figures. `half` stores the weights in float16.
    Raises WeightsError: the checkpoint is damaged or of another run. ConfigError: another process trains here, or
    float16 without a GPU. ClipEsError: the loss is no number. DataError: a picture or a mask cannot be read.
    """
    if config.amp == "float16" and encoder.device.type != "cuda":
        found = encoder.device.type
        raise ConfigError("float16 needs a GPU", found=found, next_step="Pass --amp bfloat16 or --amp none.")
    run = _Run(encoder, data, config, half, val)
    plan = Plan(config.steps, config.save_every, config.seed, asdict(config) | run.identity, _FREE, encoder.device)
    train(
        run,
        out,
        plan,
        batches=lambda start, end: _ahead(run.draws, config, start, end),
        stop_after=stop_after,
        report=report,
    )
    return out / "decoder.safetensors"


class _Run:
    """What a checkpoint holds, and the step that changes it."""

    def __init__(
        self, encoder: Encoder, data: PhraseSet, config: DecoderTraining, half: bool, val: PhraseSet | None
    ) -> None:
        self.encoder, self.config, self.half, self.val = encoder, config, half, val
        self.draws, self.texts = Draws(data, config), Texts(encoder)
        self.decoder: Decoder = new_decoder(encoder, config)
        if config.start == "clip":
            start_as_clip(self.decoder, encoder, *self._shown(), seed=config.seed)
        learning = [parameter for parameter in self.decoder.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(learning, lr=config.lr, weight_decay=config.weight_decay)
        self.scaler = torch.amp.GradScaler("cuda", enabled=config.amp == "float16")
        self.history: list[dict[str, int | float]] = []
        self._loss: list[float] = []
        self.identity = {"encoder": encoder.source, "data": data.fingerprint(), "data_name": data.name}

    def _shown(self) -> tuple[list[Tensor], Tensor]:
        """What a start as CLIP is measured on: some pictures and phrases, evenly spread over the data."""
        data, config, encoder = self.draws.data, self.config, self.encoder
        pictures, texts = sorted(data.by_picture), data.texts
        outputs = []
        for picture in pictures[:: -(-len(pictures) // _SHOWN)]:
            rgb = data.picture(picture)
            pixels = cut_picture(rgb, (0, 0, rgb.shape[1], rgb.shape[0]), config.side)[None].to(encoder.device)
            outputs.append(block_outputs(encoder, pixels, self.decoder.layers))
        seen = [torch.cat(layer) for layer in zip(*outputs, strict=True)]
        return seen, Texts(encoder)(config.test_prompt.format(text) for text in texts[:: -(-len(texts) // _PHRASES)])

    def advance(self, step: int, units: list[Unit]) -> dict[str, float]:
        """One optimiser step; the loss of the step and its learning rate."""
        config, encoder, device = self.config, self.encoder, self.encoder.device
        for group in self.optimiser.param_groups:
            group["lr"] = config.lr_at(step)
        self.decoder.train()
        grid = config.side // encoder.patch
        narrow = torch.float16 if config.amp == "float16" else torch.bfloat16
        with torch.autocast(device.type, narrow, enabled=config.amp != "none"):
            pixels = torch.stack([unit.pixels for unit in units]).to(device)
            seen = block_outputs(encoder, pixels, self.decoder.layers)
            prompts = prompts_of(encoder, units)
            targets = torch.cat([unit.targets for unit in units])
            loss = loss_of(self.decoder, seen, prompts, targets, (grid, grid))
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return {"loss": float(loss.detach()), "lr": config.lr_at(step)}

    def after(self, step: int, figures: dict[str, float]) -> None:
        """Validate now and then, and keep a row for the history where there is something to tell."""
        every = self.config.validate_every
        if every and self.val and (step % every == 0 or step == self.config.steps):
            figures |= self.validate(self.val)
        self._loss.append(figures["loss"])
        if "val_miou" in figures or len(self._loss) >= 50:
            mean = sum(self._loss) / len(self._loss)
            self.history.append({"step": step, **figures, "loss": mean})
            self._loss = []

    def validate(self, val: PhraseSet) -> dict[str, float]:
        """Referring figures on some phrases of other pictures, text alone."""
        count = len(val.samples)
        some = range(0, count, max(count // max(self.config.validate_on, 1), 1))[: self.config.validate_on]
        self.decoder.eval()
        scores = score_phrases(
            self.encoder,
            self.decoder,
            val,
            samples=some,
            prompt=self.config.test_prompt,
            side=self.config.side,
            texts=self.texts,
        )
        best, threshold = scores.best("miou")
        return {"val_miou": best, "val_threshold": threshold, "val_ap": scores.ap}

    def state_dict(self) -> dict[str, Any]:
        """Decoder, optimiser, loss scale, history."""
        return {
            "decoder": self.decoder.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": self.history,
            "loss": self._loss,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state."""
        self.decoder.load_state_dict(state["decoder"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.history, self._loss = state["history"], state["loss"]

    def save(self, out: Path, step: int) -> None:
        """Weights, history, settings: each whole or not at all."""
        about = {"supervision": self.draws.data.supervision, "example_side": str(self.config.example_side)}
        about |= {"steps": f"{step} of {self.config.steps}", "encoder": self.encoder.source}
        save_decoder(self.decoder, out / "decoder.safetensors", half=self.half, about=about)
        rows = [",".join(_COLUMNS), *(",".join(_cell(row, name) for name in _COLUMNS) for row in self.history)]
        write_atomic(out / "history.csv", ("\n".join(rows) + "\n").encode())
        settings = {"training": plain(asdict(self.config)), **self.identity, "weakly_supervised": False}
        write_atomic(out / "run.yaml", yaml.safe_dump(settings, sort_keys=False).encode())


@contextmanager
def _ahead(draws: Draws, config: DecoderTraining, start: int, end: int) -> Iterator[Iterator[list[Unit]]]:
    """The pictures of each step, read and cut one step ahead in threads."""
    slots = range(draws.units)
    if not config.threads:
        yield ([draws.unit(step, slot) for slot in slots] for step in range(start, end))
        return
    with ThreadPoolExecutor(config.threads) as pool:

        def order(step: int) -> list[Future[Unit]]:
            return [pool.submit(draws.unit, step, slot) for slot in slots] if step < end else []

        def batches() -> Iterator[list[Unit]]:
            waiting = order(start)
            for step in range(start, end):
                coming = order(step + 1)
                yield [future.result() for future in waiting]
                waiting = coming

        try:
            yield batches()
        finally:
            pool.shutdown(cancel_futures=True)


def _cell(row: dict[str, int | float], name: str) -> str:
    return f"{row[name]:.6g}" if name in row else ""
