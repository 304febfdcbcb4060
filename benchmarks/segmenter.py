"""What a segmenter learns from the masks: ground truth compared with pseudo masks with and without the
confidence-guided loss.

    python benchmarks/segmenter.py --out runs/bench-segmenter --jobs 2

Draws scenes, makes masks of the training and the validation pictures, trains the same small segmenter with the same
schedule on the ground truth, on the masks with the hard and the soft confidence-guided loss, and on the masks with
plain cross-entropy, each with several seeds, and prints mean and spread of the validation mIoU. Calling again
continues.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CONDITIONS = {
    "ground truth": ("truth", ["--loss", "plain", "--balanced"]),
    "masks, hard": ("run", ["--loss", "hard", "--balanced"]),
    "masks, plain": ("run", ["--loss", "plain", "--balanced"]),
    "ground truth, unbalanced": ("truth", ["--loss", "plain"]),
    "masks, soft": ("run", ["--loss", "soft", "--balanced"]),
}
"""Name: what it is trained on, and the flags of `clip-es train` it differs in."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-segmenter"))
    parser.add_argument("--train", type=int, default=1500, help="scenes to train on")
    parser.add_argument("--val", type=int, default=200, help="scenes to validate with")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--conditions", nargs="+", choices=list(CONDITIONS), default=list(CONDITIONS))
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side, one thread each")
    parser.add_argument("--no-amp", action="store_true", help="float32 in place of bfloat16")
    parser.add_argument("--until", type=float, help="seconds after which no further training is begun")
    args = parser.parse_args()
    began = time.monotonic()
    scenes, masks, val_masks = args.out / "scenes", args.out / "masks", args.out / "val-masks"
    call("scenes", "make", "--out", scenes, "--train", args.train, "--val", args.val)
    for split, run in (("train", masks), ("val", val_masks)):
        if not (run / "summary.json").exists():
            call("masks", "scenes", "--root", scenes, "--split", split, "--out", run, "--report-pictures", 0)

    def one(job: tuple[int, str]) -> None:
        seed, name = job
        if args.until is not None and time.monotonic() - began > args.until:
            return
        source, flags = CONDITIONS[name]
        out = folder(args.out, name, seed)
        if figures(out) is not None:
            return
        listed = scenes / "ImageSets/Segmentation/train.txt"
        drawn = [scenes / "SegmentationClass", "--images", scenes / "JPEGImages", "--list-file", listed]
        data = [masks] if source == "run" else [*drawn, "--vocabulary", "scenes"]
        call(
            *("train", *data, *flags, "--config", "scenes_small", "--out", out, "--val", scenes, "--resume"),
            *("--iterations", args.iterations, "--val-interval", args.iterations, "--seed", seed),
            *("--no-check", *([] if args.no_amp else ["--amp"])),
            log=out.with_suffix(".log"),
        )

    with ThreadPoolExecutor(args.jobs) as pool:
        # All conditions of a seed come before the next seed, so that an early end leaves a fair table.
        list(pool.map(one, [(seed, name) for seed in range(args.seeds) for name in args.conditions]))
    table(args.out, args.seeds, masks, val_masks)


def table(out: Path, seeds: int, masks: Path, val_masks: Path) -> None:
    """Print what is there."""
    result = {}
    for name in CONDITIONS:
        found = [value for seed in range(seeds) if (value := figures(folder(out, name, seed))) is not None]
        if found:
            result[name] = found
            spread = statistics.stdev(found) if len(found) > 1 else float("nan")
            each = ", ".join(f"{value:.2f}" for value in found)
            print(f"{name:23} mIoU {statistics.mean(found):6.2f} +- {spread:.2f}   ({each})")
    truth = result.get("ground truth")
    for name, found in result.items():
        if truth and name != "ground truth":
            print(f"{name:23} over ground truth: {statistics.mean(found) / statistics.mean(truth):.3f}")
    if "masks, hard" in result and "masks, plain" in result:
        gain = statistics.mean(result["masks, hard"]) - statistics.mean(result["masks, plain"])
        print(f"hard over plain: {gain:+.2f} points")
    for split, run in (("training", masks), ("validation", val_masks)):
        print(f"the masks themselves, {split} pictures: {json.loads((run / 'summary.json').read_text())['miou']:.2f}")


def folder(out: Path, name: str, seed: int) -> Path:
    """Where a training goes."""
    return out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"


def figures(out: Path) -> float | None:
    """mIoU of a finished training."""
    path = out / "train.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    return known["miou"] if known.get("done") else None


def call(*words: object, log: Path | None = None) -> None:
    """Run `clip-es` with one thread."""
    command = [sys.executable, "-m", "clip_es.pipelines.cli", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    if log is None:
        subprocess.run(command, check=True, env=environment)
        return
    with log.open("a") as file:
        # A session of its own: some kernels share a core among sessions, not among processes.
        subprocess.run(command, check=True, env=environment, stdout=file, stderr=file, start_new_session=True)


if __name__ == "__main__":
    main()
