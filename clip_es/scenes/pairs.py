"""What the scenes CLIP learns from: pictures with sentences, drawn ahead in shards, mixed anew for every step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_es.scenes.captions import Told, all_words, caption, prompt, told
from clip_es.scenes.draw import SceneConfig, draw_scene
from clip_es.scenes.recipe import TrainConfig
from clip_es.scenes.world import BACKGROUNDS, COLOURS, CONDITIONS

if TYPE_CHECKING:
    from torch import Tensor

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""CLIP's mean of red, green and blue, 0..1."""
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's standard deviations."""

_MARGIN = 16
"""Pool pictures are this much larger than training crops, so objects meet the patch grid in every phase."""
_NOBODY = 255
"""Fills the object columns of a shard where a scene has fewer objects."""


@dataclass(frozen=True)
class Shard:
    """Pictures with what their captions may say."""

    pictures: np.ndarray
    """uint8 [n h w 3]."""
    objects: np.ndarray
    """uint8 [n most 3]: class, colour and whether it touches the frame, of each object; 255 where there is none."""
    shares: np.ndarray
    """float16 [n most]: the share of the picture that each object covers."""
    backgrounds: np.ndarray
    """bool [n word]: which of BACKGROUNDS are visible."""
    conditions: np.ndarray
    """uint8 [n]: which of CONDITIONS holds, 255 for none."""


def draw_shard(config: TrainConfig, phase_number: int, number: int) -> Shard:
    """Draw shard `number` of a phase. The same arguments give the same bytes."""
    phase = config.phases[phase_number]
    side = phase.size + _MARGIN
    look = SceneConfig((side, side), phase.objects, phase.scale, extremes=phase.extremes)
    pictures = np.empty((config.shard, side, side, 3), np.uint8)
    objects = np.full((config.shard, phase.objects[1], 3), _NOBODY, np.uint8)
    shares = np.zeros(objects.shape[:2], np.float16)
    backgrounds = np.zeros((config.shard, len(BACKGROUNDS)), bool)
    conditions = np.full(config.shard, _NOBODY, np.uint8)
    names = list(COLOURS)
    for row in range(config.shard):
        scene = draw_scene(config.seed * 1000 + phase_number, number * config.shard + row, look)
        pictures[row] = scene.picture
        for column, thing in enumerate(told(scene)):
            objects[row, column] = thing.class_id, names.index(thing.colour), thing.cut
            shares[row, column] = thing.share
        for word in scene.backgrounds:
            backgrounds[row, BACKGROUNDS.index(word)] = True
        if scene.condition:
            conditions[row] = CONDITIONS.index(scene.condition)
    return Shard(pictures, objects, shares, backgrounds, conditions)


def _shard_number(config: TrainConfig, phase_number: int, into: int) -> int:
    """The newest shard that step `into` of a phase may use."""
    return into * config.phases[phase_number].batch // (config.shard * config.reuse)


def _all_shards(config: TrainConfig, step: int) -> Iterator[tuple[int, int]]:
    """The (phase, shard) pairs that steps from `step` on use, in order of first use."""
    first, into = config.phase_at(step)
    for number in range(first, len(config.phases)):
        last = _shard_number(config, number, config.phases[number].steps - 1)
        start = max(_shard_number(config, number, into) - config.window + 1, 0) if number == first else 0
        yield from ((number, shard) for shard in range(start, last + 1))


class Pool:
    """The shards a step may use, drawn by a second process or here."""

    def __init__(self, config: TrainConfig, folder: Path, step: int) -> None:
        self.config, self.folder = config, folder
        self.held: dict[tuple[int, int], Shard] = {}
        self.process = None
        if config.draw_ahead:
            import multiprocessing

            folder.mkdir(parents=True, exist_ok=True)
            self._clear()  # a run that was killed has left shards that nobody will take
            context = multiprocessing.get_context("spawn")
            self.process = context.Process(target=_draw_ahead, args=(config, folder, step), daemon=True)
            self.process.start()

    def shards(self, step: int) -> list[Shard]:
        """The shards of the window of a step, oldest first."""
        phase, into = self.config.phase_at(step)
        newest = _shard_number(self.config, phase, into)
        wanted = [(phase, number) for number in range(max(newest - self.config.window + 1, 0), newest + 1)]
        self.held = {key: self.held.get(key) or self._get(*key) for key in wanted}
        return list(self.held.values())

    def _get(self, phase: int, number: int) -> Shard:
        path = _shard_path(self.folder, phase, number)
        while self.process is not None and self.process.is_alive() and not path.exists():
            time.sleep(0.1)
        if not path.exists():
            return draw_shard(self.config, phase, number)
        with np.load(path, allow_pickle=False) as arrays:
            shard = Shard(**{name: arrays[name] for name in Shard.__annotations__})
        path.unlink()
        return shard

    def close(self) -> None:
        """Stop the second process and remove what it drew for nothing."""
        if self.process is not None:
            self.process.terminate()
            self.process.join()
        self._clear()

    def _clear(self) -> None:
        for path in self.folder.glob("shard-*") if self.folder.is_dir() else ():
            path.unlink(missing_ok=True)


def _shard_path(folder: Path, phase: int, number: int) -> Path:
    return folder / f"shard-{phase}-{number:05d}.npz"


def _draw_ahead(config: TrainConfig, folder: Path, step: int) -> None:
    """Runs in the second process: write shards in order of use, never more than a window ahead of the reader."""
    import os
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the reader ends this process, after its last step
    os.nice(10)
    parent, ahead = os.getppid(), list[Path]()
    for phase, number in _all_shards(config, step):
        while len(ahead := [path for path in ahead if path.exists()]) >= config.window and os.getppid() == parent:
            time.sleep(0.5)
        if os.getppid() != parent:
            return
        shard = draw_shard(config, phase, number)
        part, path = folder / "shard-part", _shard_path(folder, phase, number)
        with part.open("wb") as stream:
            np.savez(stream, **vars(shard))
        part.replace(path)
        ahead.append(path)


@dataclass(frozen=True)
class Batch:
    """What one step sees."""

    pixels: Tensor
    """float32 [b 3 size size], normalised."""
    tokens: Tensor
    """int64 [b length], compact ids (positions in the list of kept rows)."""
    same: Tensor
    """bool [b b]: whether two sentences use the same nouns."""
    prompts: Tensor
    """int64 [p length]: each noun of the batch's sentences, in a frame of its own."""
    says: Tensor
    """bool [b p]: whether a sentence holds the noun."""
    asked: Tensor
    """int64 [b]: one noun of each sentence, a thing."""
    rivals: Tensor
    """bool [b p]: the nouns of each sentence and the places of all."""
    placed: Tensor
    """bool [b]: whether a sentence speaks of the background."""
    bare: Tensor
    """bool [block b]: the pictures whose tokens a block passes on without its residual."""
    kept: Tensor | None
    """int64 [b k]: the patches that are seen, or None for all."""

    def to(self, device: str) -> Batch:
        """The same batch on a device."""
        if device == "cpu":
            return self
        moved: dict[str, Any] = {
            name: value if value is None else value.to(device) for name, value in vars(self).items()
        }
        return Batch(**moved)


def make_batch(config: TrainConfig, shards: Sequence[Shard], step: int, words: Words) -> Batch:
    """The batch of a step: cropped, flipped and tinted pictures with fresh captions."""
    import torch

    rng = np.random.default_rng((0xBA7C, config.seed, step))
    phase = config.phases[config.phase_at(step)[0]]
    size, names = phase.size, list(COLOURS)
    pictures = np.empty((phase.batch, size, size, 3), np.uint8)
    texts, named, nouns, spoken = [], [], [], []
    for row in range(phase.batch):
        shard = shards[int(rng.integers(len(shards)))]
        index = int(rng.integers(len(shard.pictures)))
        y, x = rng.integers(0, _MARGIN + 1, 2)
        crop = shard.pictures[index, y : y + size, x : x + size]
        pictures[row] = crop[:, ::-1] if rng.random() < 0.5 else crop
        things = [
            Told(class_id, names[colour], share, bool(cut))
            for (class_id, colour, cut), share in zip(
                shard.objects[index].tolist(), shard.shares[index].tolist(), strict=True
            )
            if class_id != _NOBODY
        ]
        behind = [BACKGROUNDS[i] for i in np.nonzero(shard.backgrounds[index])[0]]
        condition = "" if shard.conditions[index] == _NOBODY else CONDITIONS[shard.conditions[index]]
        said = caption(rng, things, behind, condition, phase.background_rate)
        texts.append(said.text)
        named.append((frozenset(said.things), frozenset(said.places)))
        spoken.append(said.things)
        nouns.append({*said.things, *said.places})
    numbers = {key: number for number, key in enumerate(dict.fromkeys(named))}
    group = torch.tensor([numbers[key] for key in named])
    heard = sorted(set().union(*nouns))
    says = torch.tensor([[noun in mine for noun in heard] for mine in nouns])
    placed = torch.tensor([bool(places) for _, places in named])
    prompts = words.encode([prompt(rng, noun) for noun in heard])
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(255)
    cast = torch.from_numpy(rng.normal(1, 0.06, (phase.batch, 3, 1, 1)).astype(np.float32))
    shift = torch.from_numpy(rng.normal(0, 0.03, (phase.batch, 1, 1, 1)).astype(np.float32))
    pixels.mul_(cast).add_(shift).clamp_(0, 1)
    pixels.sub_(torch.tensor(PIXEL_MEAN)[:, None, None]).div_(torch.tensor(PIXEL_STD)[:, None, None])
    kept = None
    if phase.keep < 1:
        patches = (size // config.patch) ** 2
        order = rng.random((phase.batch, patches)).argsort(axis=1)[:, : max(round(phase.keep * patches), 1)]
        kept = torch.from_numpy(np.sort(order, axis=1))
    share = np.full((config.layers, 1), phase.bare / 5)
    share[-1] = phase.bare
    bare = torch.from_numpy(rng.random((config.layers, phase.batch)) < share)
    asked = torch.tensor([heard.index(things[int(rng.integers(len(things)))]) for things in spoken])
    rivals = says | torch.tensor([noun in BACKGROUNDS for noun in heard])
    return Batch(
        pixels, words.encode(texts), group[:, None] == group[None], prompts, says, asked, rivals, placed, bare, kept
    )


class Words:
    """OpenAI's tokens cut down to those that captions use."""

    def __init__(self) -> None:
        import torch

        from clip_es.encoder.tokenize import tokenize

        # Ascending, so that the end token stays the largest: the text tower finds it by that.
        self.rows = tokenize([*all_words(), ". ,"]).unique()
        """Token ids that are kept, int64 [row]."""
        self._place = torch.full((int(self.rows[-1]) + 1,), -1)
        self._place[self.rows] = torch.arange(len(self.rows))

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Sentences to places among `rows`, int64 [b longest], padded behind the end with the place of token 0."""
        from clip_es.encoder.tokenize import tokenize

        return self._place[tokenize(texts)]
