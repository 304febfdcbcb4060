"""Every way to masks side by side on scenes that no training saw: mIoU, gains with paired errors, three conditions.

python benchmarks/methods.py --out runs/bench [--scenes 300] [--others 100] [--seed 2026]
                             [--weights scenes scenes-plain] [--rows NAME ...] [--conditions clean rough harmed]
                             [--harmed 300]

Writes OUT/methods.json, {row: {"clean": .., "rough": .., ...}}, in per cent with background, and prints the tables.
clean: the pictures as drawn. rough: the refiners of pixels see shading, texture and grain. harmed: all see these, and
blur, noise and JPEG as well. The three other sets hold one label, objects below two patches, and objects that fill 80 %
of the picture and more, --others of each. Labels are given. Errors are of the bootstrap over pictures, 1,000 draws.

Each picture is encoded once for all rows; rows that differ in the refiners of pixels alone share their maps, and all
share the segments of a picture and the lattice of its CRF. What is counted is kept in OUT/methods, a file for each
picture; calling again, with more scenes, rows or conditions too, continues. The CPU seconds a picture are printed.
Costs of the rows by themselves: benchmarks/method_costs.py.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from method_rows import SETS, Row, as_file, harmed, rough, rows, scenes

from clip_es.config.methods import JointConfig
from clip_es.encoder import Encoder, load_encoder
from clip_es.errors import ClipEsError
from clip_es.images import shown_at
from clip_es.metrics.bootstrap import resampled_miou
from clip_es.metrics.masks import ConfusionMatrix
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.masks.method import Refined
from clip_es.prompts import load_vocabulary
from clip_es.refine import segments
from clip_es.refine.crf import native
from clip_es.refine.registry import REFINERS
from clip_es.scenes.draw import CLASSES, Scene
from clip_es.store.tables import write_json
from clip_es.types import Picture

MAIN = ("main", "harmed")
"""Sets of the same scenes, whose columns are conditions."""

MATRICES = dict[tuple[str, str], ConfusionMatrix]
"""One picture: by row and condition."""


@dataclass
class Memo:
    """What has been computed for the present picture."""

    known: dict[Hashable, Any] = field(default_factory=dict)

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once."""
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]

    def share(self, localizer: Any, settings: str) -> None:
        """Let a method remember what it has encoded and located, together with all makers of the same settings."""
        for part in (getattr(localizer, name, None) for name in ("first", "second", "base")):
            if part is not None:
                self.share(part, settings)
        if any(hasattr(localizer, name) for name in ("first", "base")):
            return
        kind, encode, locate = (type(localizer).__name__, settings), localizer.encode, localizer.locate
        localizer.encode = lambda pictures: [
            self.once((kind, one.patches.shape, one.patches.tobytes()), lambda one=one: encode([one])[0])
            for one in pictures
        ]
        localizer.locate = lambda picture, seen, ids: self.once(
            (kind, "locate", id(seen), ids), lambda: locate(picture, seen, ids)
        )


class Bench:
    """All rows for one CLIP."""

    def __init__(self, encoder: Encoder, wanted: Sequence[Row]) -> None:
        self.vocabulary, self.memo = load_vocabulary("scenes"), Memo()
        self.makers: dict[str, MaskMaker] = {}
        bank = None
        for row in wanted:
            maker = MaskMaker(encoder, self.vocabulary, bank, row.config)
            bank = maker.bank
            # What the joint decides, it decides about what its halves have located.
            methods = replace(row.config.methods, joint=JointConfig())
            told = repr((methods, row.config.refiners.affinity.layers))
            self.memo.share(maker.localizer, sha256(told.encode()).hexdigest())
            self.makers[row.name] = maker
        divide, lattice_of = segments.divide, native.lattice_of
        segments.divide = lambda rgb, config: self.memo.once(
            ("segments", rgb.tobytes(), repr(config)), lambda: divide(rgb, config)
        )
        native.lattice_of = lambda pixels, config: self.memo.once(
            ("lattice", pixels.tobytes(), repr(config)), lambda: lattice_of(pixels, config)
        )

    def picture(self, scene: Scene, number: int, wanted: Sequence[tuple[str, str]]) -> MATRICES:
        """One picture, for each pair of row and condition."""
        clean, found = as_file(scene.picture), {}
        ids = scene.class_ids
        for condition in dict.fromkeys(condition for _, condition in wanted):
            seen = harmed(clean, number) if condition == "harmed" else clean
            shown = rough(clean, number) if condition == "rough" else seen
            for name in [name for name, of in wanted if of == condition]:
                maker = self.makers[name]
                refined = self.memo.once(
                    ("refined", _before_pixels(maker), seen.tobytes()),
                    lambda maker=maker, seen=seen: self._refined(maker, seen, ids),
                )
                mask = maker.decide(replace(refined, picture=replace(refined.picture, rgb=shown))).mask
                found[name, condition] = ConfusionMatrix(len(self.vocabulary.classes) + 1)
                found[name, condition].update(mask.decided, scene.mask)
        self.memo.known.clear()
        return found

    @staticmethod
    def _refined(maker: MaskMaker, rgb: np.ndarray, ids: tuple[int, ...]) -> Refined:
        patch = maker.encoder.patch
        plain = Picture("scene", rgb, rgb[:patch, :patch], patch)
        size = maker.localizer.seen_hw(plain.size_hw)
        picture = shown_at(plain, size, maker.config.image.max_patches)
        return maker.refine(maker.locate(picture, maker.encode([picture])[0], ids))


def _before_pixels(maker: MaskMaker) -> str:
    """The settings that decide the maps before the refiners of pixels."""
    config = maker.config
    on_grid = [name for name in config.refine if REFINERS[name].grid != "pixels"]
    used = config.method, config.methods, config.views, config.mask.calibration, on_grid
    return repr((used, [getattr(config.refiners, name) for name in on_grid]))


def digest(row: Row) -> str:
    """The settings of a row, so that figures of other settings are not taken for its own."""
    return sha256(repr(row.config).encode()).hexdigest()[:12]


def _counted(
    folder: Path,
    which: str,
    count: int,
    seed: int,
    bench: Callable[[], Bench],
    wanted: Sequence[Row],
    conditions: Sequence[str],
) -> list[MATRICES]:
    """The matrices of all pictures of a set, read where they are known, else made and kept."""
    keys = {
        (row.name, condition): f"{row.name}|{condition}|{digest(row)}" for row in wanted for condition in conditions
    }
    told, start, every, done, spent = time.time(), time.time(), [], 0, time.process_time()
    for number, (name, scene) in enumerate(scenes(which, count, seed)):
        path = folder / f"{name}.npz"
        known: dict[str, np.ndarray] = {}
        if path.is_file():
            with np.load(path) as file:
                known = {key: file[key] for key in file.files}
        if missing := [key for key, text in keys.items() if text not in known]:
            done += 1
            for key, matrix in bench().picture(scene, number, missing).items():
                known[keys[key]] = matrix.counts
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npz")
            np.savez_compressed(part, **known)
            part.replace(path)
        every.append({key: _matrix(known[text]) for key, text in keys.items()})
        if time.time() - told > 30:
            told = time.time()
            cost = (time.process_time() - spent) / max(1, done)
            print(f"  {which}: {number + 1} of {count}, {told - start:.0f} s, {cost:.2f} CPU s a picture", flush=True)
    if done:
        cost = (time.process_time() - spent) / done
        print(f"  {which}, {', '.join(conditions)}: {done} pictures made, {cost:.2f} CPU seconds each", flush=True)
    return every


def _matrix(counts: np.ndarray) -> ConfusionMatrix:
    made = ConfusionMatrix(len(counts))
    made.counts = counts
    return made


def told(sets: dict[str, list[MATRICES]], wanted: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Figures by row: mIoU of each condition and set, standard errors, gains over the row's base with theirs."""
    draws = {
        (name, condition if which in MAIN else which): (
            _miou([picture[name, condition] for picture in pictures]),
            100 * resampled_miou([picture[name, condition] for picture in pictures]),
        )
        for which, pictures in sets.items()
        if pictures
        for name, condition in pictures[0]
    }
    columns = list(dict.fromkeys(column for _, column in draws))
    found: dict[str, dict[str, Any]] = {}
    for row in wanted:
        one: dict[str, Any] = {column: draws[row.name, column][0] for column in columns}
        one["error"] = {column: float(np.nanstd(draws[row.name, column][1])) for column in columns}
        if row.base and any(other.name == row.base for other in wanted):
            one["over"] = row.base
            for column in columns:
                mine, base = draws[row.name, column], draws[row.base, column]
                gain = {"gain": mine[0] - base[0], "error": float(np.nanstd(mine[1] - base[1]))}
                one.setdefault("gains", {})[column] = gain
        found[row.name] = one
    return found


def _miou(pictures: Sequence[ConfusionMatrix]) -> float:
    whole = ConfusionMatrix(pictures[0].num_classes)
    for picture in pictures:
        whole.merge(picture)
    return 100 * whole.compute().miou


def table(found: dict[str, dict[str, Any]]) -> str:
    """In Markdown."""
    columns = [key for key in next(iter(found.values())) if key not in {"error", "over", "gains"}]
    gains = [f"gain, {column}" for column in ("clean", "rough") if column in columns]
    lines = [f"| | {' | '.join([*columns, *gains])} |", f"|---|{'---:|' * (len(columns) + len(gains))}"]
    for name, one in found.items():
        cells = [f"{one[column]:.1f} ± {one['error'][column]:.1f}" for column in columns]
        for column in [column for column in ("clean", "rough") if column in columns]:
            gain = one.get("gains", {}).get(column)
            over = f" over {one['over']}" if gain and column == "clean" else ""
            cells.append(f"{gain['gain']:+.1f} ± {gain['error']:.1f}{over}" if gain else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is not known yet, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--others", type=int, default=100, help="pictures of each of the other sets; 0: leave them out")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--weights", nargs="+", default=["scenes", "scenes-plain"])
    parser.add_argument("--rows", nargs="+", help="only these rows")
    parser.add_argument("--conditions", nargs="+", default=["clean", "rough", "harmed"])
    parser.add_argument("--harmed", type=int, help="scenes of that condition; default: as many as --scenes")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [row for row in rows() if not args.rows or row.name in args.rows]
    figures: dict[str, dict[str, Any]] = {}
    for place, weights in enumerate(args.weights):
        try:
            encoder = load_encoder(weights, device="cpu")
        except ClipEsError as error:
            print(f"{weights}: left out, {str(error).splitlines()[0]}", flush=True)
            continue
        # The shipped decoder of CLIPSeg was trained for the first CLIP alone.
        mine = [row for row in wanted if row.config.method != "clipseg" or weights == "scenes"]
        made: list[Bench] = []

        def bench(made: list[Bench] = made, encoder: Encoder = encoder, mine: list[Row] = mine) -> Bench:
            if not made:
                made.append(Bench(encoder, mine))
            return made[0]

        world = sha256(json.dumps([list(CLASSES), encoder.source]).encode()).hexdigest()[:8]
        folder = args.out / "methods" / f"{weights}-{world}-{args.seed}"
        sets: dict[str, list[MATRICES]] = {}
        cheap = [condition for condition in args.conditions if condition != "harmed"]
        many = args.scenes if args.harmed is None else args.harmed
        plan = [("main", "main", args.scenes if cheap else 0, cheap)]
        plan += [(which, which, args.others, ["clean"]) for which in SETS[1:]]
        plan += [("harmed", "main", many if "harmed" in args.conditions else 0, ["harmed"])]
        for column, which, count, conditions in plan:
            if count:
                sets[column] = _counted(folder, which, count, args.seed, bench, mine, conditions)
                found = told(sets, mine)
                for name, one in found.items():
                    figures[name] = {**figures.get(name, {}), **(one if place == 0 else {weights: one})}
                write_json(args.out / "methods.json", figures)
        told_of = f"{args.scenes} scenes of seed {args.seed}, {many} harmed, {args.others} of each other set"
        print(f"\n{weights}: {told_of}\n")
        print(table(found), flush=True)


if __name__ == "__main__":
    main()
