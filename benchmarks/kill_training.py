"""Kill a training with SIGKILL at random moments, resume it each time, compare it with one that ran through.

python benchmarks/kill_training.py --kills 10 --out runs/bench-kill-training
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-kill-training"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=120)
    parser.add_argument("--longest", type=float, default=4.0, help="seconds from the first sign of life to the kill")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    scenes, masks = args.out / "scenes", args.out / "masks"
    call("scenes", "make", "--out", scenes, "--train", 24, "--val", 12)
    if not (masks / "summary.json").exists():
        call("masks", "scenes", "--root", scenes, "--split", "train", "--out", masks, "--report-pictures", 0)
    flags = ("train", masks, "--val", scenes, "--config", "scenes_small", "--iterations", args.iterations)
    flags += ("--checkpoint-interval", 4, "--batch-size", 2, "--val-interval", args.iterations)
    call(*flags, "--out", args.out / "whole")
    chance, killed = random.Random(args.seed), args.out / "killed"
    at, torn = [], 0
    while len(at) < args.kills:
        process = start(*flags, "--out", killed)
        sign = newest(killed)
        while process.poll() is None and newest(killed) == sign:
            time.sleep(0.02)  # A call that dies while it imports has nothing to break.
        time.sleep(chance.uniform(0, args.longest))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        at.append(newest(killed))
        torn += sum(not readable(path) for path in killed.glob("iter_*.pth"))
    call(*flags, "--out", killed)
    one, other = (torch.load(args.out / name / "final.pth", weights_only=True) for name in ("whole", "killed"))
    first, second = (json.loads((args.out / name / "train.json").read_text())["miou"] for name in ("whole", "killed"))
    same = all(torch.equal(one["state_dict"][name], other["state_dict"][name]) for name in one["state_dict"])
    print(f"{len(at)} kills; newest checkpoint at each: {', '.join(map(str, at))} of {args.iterations} iterations")
    print(f"broken checkpoints seen after a kill: {torn}")
    print(f"mIoU undisturbed {first:.4f}, killed and resumed {second:.4f}; all weights equal: {same}")
    print(f"SHA-256 of both: {digest(one)} {digest(other)}")


def newest(out: Path) -> int:
    """Iteration of the newest checkpoint; 0 without one."""
    return max((int(path.stem[5:]) for path in out.glob("iter_*.pth")), default=0)


def readable(path: Path) -> bool:
    """Whether torch reads the file to its end."""
    try:
        torch.load(path, weights_only=False)  # Our own, a moment old.
    except Exception:
        return False
    return True


def digest(content: dict) -> str:
    """Of all weights, in order."""
    found = hashlib.sha256()
    for name, value in content["state_dict"].items():
        found.update(name.encode() + value.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def start(*words: object) -> subprocess.Popen:
    """`clip-es` in the background, one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "clip_es.pipelines.cli", *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def call(*words: object) -> None:
    """`clip-es` to its end."""
    process = start(*words)
    if process.wait():
        raise SystemExit(f"clip-es {' '.join(map(str, words))} failed")


if __name__ == "__main__":
    main()
