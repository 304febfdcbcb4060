"""What regions of the picture are worth to the maps of a method, from none to perfect ones.

python benchmarks/regions.py --out runs/bench [--scenes 300] [--seed 2026] [--weights scenes] [--methods NAME ...]

Writes OUT/regions.json, {method: {refiners: mIoU}}, per cent with background, and OUT/regions_errors.json with standard
errors of the bootstrap over pictures (1,000 draws), and prints both. Labels are given.

`none` is the method with its refiners on the grid alone (affinity for clip-es and best); crf, segments and spectral
come behind that. The regions are those that the scenes were drawn from, as files in a folder, voting softly
(FMA-WSSS's rule, the default) or hard (SEPL's):
drawn     each connected part of a class or of the background is one region: the bound of what perfect regions give
over      the same, cut further into superpixels of about 400 pixels
under     a third of the things have grown by 8 pixels into what is around them, and things that touch are one
missing   a third of the things have no region; `kept`: pixels in no region keep their maps
felzenszwalb  superpixels of like colour, no ground truth

Each picture is encoded once for all rows of a method. What is counted is kept in OUT/regions, a file for each picture;
calling again, with more scenes or methods too, continues.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from method_rows import Row, scenes
from methods import Bench, digest
from scipy import ndimage

from clip_es.config.presets import BEST, CLIPER_SCENES, PATCH_TEXT_SCENES
from clip_es.config.run import DEFAULT, RunConfig
from clip_es.encoder import load_encoder
from clip_es.metrics.bootstrap import resampled_miou
from clip_es.metrics.masks import ConfusionMatrix
from clip_es.refine.regions.settings import RegionsConfig
from clip_es.regions import Regions
from clip_es.scenes.draw import CLASSES, Scene
from clip_es.store.regions import write_regions
from clip_es.store.tables import write_json

METHODS: dict[str, RunConfig] = {
    "clip-es": replace(DEFAULT, refine=("affinity",)),
    "cliper": replace(DEFAULT.using(cliper=CLIPER_SCENES), method="cliper", refine=()),
    "best": replace(BEST.using(patch_text=PATCH_TEXT_SCENES), refine=("affinity",)),
}
"""Each with its refiners on the grid."""

KINDS = ("drawn", "over", "under", "missing")


def rows(method: str, folder: Path) -> list[Row]:
    """A method with each chain of refiners."""
    base = METHODS[method]
    found = {name: replace(base, refine=(*base.refine, *chain)) for name, chain in _CHAINS.items()}
    for kind in KINDS:
        for name, options in (("", {}), (" hard", {"rule": "hard"})):
            found[f"regions {kind}{name}"] = _voting(base, folder=folder / kind, **options)
    found["regions missing kept"] = _voting(base, folder=folder / "missing", unclaimed="maps")
    found["regions drawn crf"] = _voting(base, "crf", folder=folder / "drawn")
    found["regions felzenszwalb"] = _voting(base, source="felzenszwalb")
    return [Row(f"{method}|{name}", config) for name, config in found.items()]


_CHAINS = {"none": (), "crf": ("crf",), "segments": ("segments",), "spectral": ("spectral",)}


def _voting(base: RunConfig, *more: str, **options: object) -> RunConfig:
    return replace(base.using(regions=RegionsConfig(**options)), refine=(*base.refine, "regions", *more))  # pyright: ignore[reportArgumentType]


def parts_of(mask: np.ndarray) -> Int64[np.ndarray, "h w"]:
    """Each connected part of each label of the ground truth as a number."""
    found, total = np.zeros(mask.shape, np.int64), 0
    for label in np.unique(mask):
        parts, count = ndimage.label(mask == label)
        found += np.where(parts > 0, parts + total, 0)
        total += count
    return found


def drawn_regions(scene: Scene, number: int) -> dict[str, Regions]:
    """The regions of a scene as a user's would be: perfect, cut too finely, too coarsely, or with some missing."""
    from skimage.segmentation import slic

    mask = np.where(scene.mask == 255, 0, scene.mask)
    parts = parts_of(mask)
    things = np.unique(parts[mask > 0])
    some = np.random.default_rng((0x2E61, number)).permutation(things)[: max(1, round(len(things) / 3))]
    fine = slic(scene.picture, n_segments=max(2, mask.size // 400), compactness=10.0, start_label=0)
    grown = [ndimage.binary_dilation(parts == k, iterations=8) for k in some.tolist()]
    touching, _ = ndimage.label((mask > 0) & ~np.isin(parts, some))
    coarse = [touching == k for k in range(1, int(touching.max()) + 1)]
    under = np.stack([*[parts == k for k in np.unique(parts[mask == 0])], *coarse, *grown])
    kept = [parts == k for k in np.unique(parts) if k not in some]
    return {
        "drawn": Regions.from_parts(parts),
        "over": Regions.from_parts(parts * (int(fine.max()) + 1) + fine),
        "under": Regions.from_masks(under),
        "missing": Regions.from_masks(np.stack(kept)) if kept else Regions.of((mask.shape[0], mask.shape[1]), []),
    }


def measure(folder: Path, weights: str, methods: Sequence[str], count: int, seed: int) -> dict[str, list[np.ndarray]]:
    """The confusion matrix of each row and picture, read where it is known, else made and kept."""
    encoder = load_encoder(weights, device="cpu")
    world = sha256(json.dumps([list(CLASSES), encoder.source]).encode()).hexdigest()[:8]
    kept = folder / f"{weights}-{world}-{seed}"
    for kind in KINDS:
        (folder / kind).mkdir(parents=True, exist_ok=True)
    wanted = [row for method in methods for row in rows(method, folder)]
    keys = {row.name: f"{row.name}|{digest(row)}" for row in wanted}
    bench = Bench(encoder, wanted)
    found, start, spent, done = {row.name: [] for row in wanted}, time.time(), time.process_time(), 0
    for number, (name, scene) in enumerate(scenes("main", count, seed)):
        path = kept / f"{name}.npz"
        known: dict[str, np.ndarray] = {}
        if path.is_file():
            with np.load(path) as file:
                known = {key: file[key] for key in file.files}
        if missing := [(row.name, "clean") for row in wanted if keys[row.name] not in known]:
            done += 1
            for kind, regions in drawn_regions(scene, number).items():
                write_regions(folder / kind / "scene.json", regions)  # what `Bench` calls every picture
            for (row, _), matrix in bench.picture(scene, number, missing).items():
                known[keys[row]] = matrix.counts
            kept.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npz")
            np.savez_compressed(part, **known)
            part.replace(path)
        for row in wanted:
            found[row.name].append(known[keys[row.name]])
        if (number + 1) % 10 == 0:
            cost = (time.process_time() - spent) / max(1, done)
            print(f"  {number + 1} of {count}, {time.time() - start:.0f} s, {cost:.2f} CPU s a picture", flush=True)
    return found


def figures(counted: dict[str, list[np.ndarray]]) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """mIoU and its standard error, per cent, by method and chain."""
    scores: dict[str, dict[str, float]] = {}
    errors: dict[str, dict[str, float]] = {}
    for row, matrices in counted.items():
        method, _, chain = row.partition("|")
        pictures = [_matrix(counts) for counts in matrices]
        whole = ConfusionMatrix(len(matrices[0]))
        for picture in pictures:
            whole.merge(picture)
        scores.setdefault(method, {})[chain] = 100 * whole.compute().miou
        errors.setdefault(method, {})[chain] = float(np.nanstd(100 * resampled_miou(pictures)))
    return scores, errors


def _matrix(counts: np.ndarray) -> ConfusionMatrix:
    made = ConfusionMatrix(len(counts))
    made.counts = counts
    return made


def main() -> None:
    """Measure what is not known yet, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--weights", default="scenes", help="scenes, scenes-plain, or a file")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    counted = measure(args.out / "regions", args.weights, args.methods, args.scenes, args.seed)
    scores, errors = figures(counted)
    write_json(args.out / "regions.json", scores)
    write_json(args.out / "regions_errors.json", errors)
    print(f"\n{args.scenes} scenes of seed {args.seed}, {args.weights}; mIoU, per cent, background included\n")
    print(f"| refiners | {' | '.join(scores)} |\n|---|{'---:|' * len(scores)}")
    for chain in scores[args.methods[0]]:
        print(f"| {chain} | " + " | ".join(f"{scores[m][chain]:.1f} ± {errors[m][chain]:.1f}" for m in scores) + " |")


if __name__ == "__main__":
    main()
