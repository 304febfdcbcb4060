"""Resident memory of a run over many pictures: does it grow?

    python benchmarks/memory.py [--pictures 2000] [--refine affinity crf] [--out runs/bench]

One process makes and stores the masks of the same drawn scenes again and again under new names, as `clip-es masks`
does. Memory is read after every tenth picture; the slope by least squares over all but the first tenth of the run,
in which caches fill, says what 1000 more pictures would add.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from clip_es.config.run import DEFAULT, RefinerName
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.masks.run import make_masks
from clip_es.records import voc
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.store.run import RunStore

DRAWN = 100
"""Different pictures, of as many sizes."""


def main() -> None:
    """Print the slope, write memory.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--refine", nargs="*", default=list(DEFAULT.refine))
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    refine: tuple[RefinerName, ...] = tuple(arguments.refine)
    folder = arguments.out / "memory"
    shutil.rmtree(folder, ignore_errors=True)
    root = make(folder / "scenes", ScenesConfig(train=0, val=DRAWN, side=(96, 160)))
    maker = MaskMaker.load(config=replace(DEFAULT, refine=refine), device="cpu")
    drawn = voc(root, "val", class_id=maker.vocabulary.class_id).records
    records = [replace(drawn[i % DRAWN], image_id=f"{i:06d}") for i in range(arguments.pictures)]
    points: list[tuple[int, float]] = []
    count = 0

    def done() -> None:
        nonlocal count
        count += 1
        if count % 10 == 0:
            points.append((count, resident_mib()))

    with RunStore.open(folder / "run", {"config": maker.config}, keep="maps") as store:
        make_masks(records, maker, store, workers=0, done=done)
        summary = store.finish()
    at, mib = np.array(points).T
    settled = at > arguments.pictures / 10
    slope, error = slope_with_error(at[settled] / 1000, mib[settled])
    results = {
        "pictures": summary.done,
        "mib_first": float(mib[0]),
        "mib_after_warm_up": float(mib[settled][0]),
        "mib_last": float(mib[-1]),
        "mib_largest": float(mib.max()),
        "mib_per_1000_pictures": slope,
        "standard_error": error,
        "points": points,
    }
    for place in np.linspace(0, len(points) - 1, 11).astype(int):
        print(f"{points[place][0]:8d} pictures {points[place][1]:8.1f} MiB")
    print(f"after the first tenth: {slope:+.2f} +- {2 * error:.2f} MiB for each 1000 pictures")
    (arguments.out / "memory.json").write_text(json.dumps(results, indent=2) + "\n")
    shutil.rmtree(folder)


def slope_with_error(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Of the line of least squares, and its standard error as if the readings were independent."""
    x = x - x.mean()
    slope = (x @ y) / (x @ x)
    rest = y - y.mean() - slope * x
    return float(slope), float((rest @ rest / (len(x) - 2) / (x @ x)) ** 0.5)


def resident_mib() -> float:
    """Memory of this process that is in RAM now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


if __name__ == "__main__":
    main()
