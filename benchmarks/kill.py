"""Runs killed with SIGKILL at random moments and continued, against one that nobody disturbed.

    python benchmarks/kill.py [--kills 100] [--pictures 60] [--workers 0] [--out runs/bench]

Each kill ends a real `clip-es masks scenes`, process group and all; the next call is the continuation. When a run has
finished, its tree is compared with the undisturbed one by SHA-256 and a new run begins, until all kills are done.
Left out of the comparison: what tells times (run.yaml's date and versions, summary.json's seconds, report.html).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from clip_es.scenes.dataset import ScenesConfig, make

TIMES = ("run.yaml", "summary.json", "report.html")
"""Files that hold dates or seconds; they must be there, but their bytes differ from run to run."""


def main() -> None:
    """Kill, continue, compare; prints counts, writes kill.json. Exit code 1: a tree differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--workers", type=int, default=0, help="processes for the CRF; they die with the run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    folder = arguments.out / "kill"
    shutil.rmtree(folder, ignore_errors=True)
    scenes = make(folder / "scenes", ScenesConfig(train=0, val=arguments.pictures, side=(96, 128)))

    def command(out: Path) -> list[str]:
        return [
            *(sys.executable, "-m", "clip_es.pipelines.cli", "masks", "scenes", "--root", str(scenes)),
            *("--out", str(out), "--keep-cams", "maps", "--workers", str(arguments.workers), "--device", "cpu"),
        ]

    whole = 0.0
    for name in ("warm-up", "undisturbed"):  # the first call also compiles, so the second one tells how long a run is
        start = time.monotonic()
        subprocess.run(command(folder / name), check=True, stdout=subprocess.DEVNULL)
        whole = time.monotonic() - start
    wanted = tree(folder / "undisturbed")
    print(f"undisturbed: {arguments.pictures} pictures, {len(wanted)} files, {whole:.1f} s")

    rng = random.Random(arguments.seed)
    kills, finished, equal, left_over, torn = 0, 0, 0, 0, 0
    while kills < arguments.kills or finished == 0:
        out = folder / "killed"
        shutil.rmtree(out, ignore_errors=True)
        while True:
            process = subprocess.Popen(
                command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            )
            # Any moment of a whole run: while it loads, between two files, within one, at its end.
            moment = whole * rng.random() if kills < arguments.kills else None
            start, fresh = time.monotonic(), not out.exists()
            try:
                code = process.wait(moment)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                torn += bool(temporary(out))
                continue
            if code:
                raise SystemExit(f"a continuation ended with {code}: {' '.join(command(out))}")
            if fresh:  # The machine is faster than it was when the undisturbed run was timed.
                whole = min(whole, time.monotonic() - start)
            break
        finished += 1
        found = tree(out)
        equal += found == wanted
        for name in sorted({name for name in {**wanted, **found} if found.get(name) != wanted.get(name)})[:10]:
            print(f"  differs: {name}")
        left_over += len(temporary(out))
        print(
            f"{kills} kills so far, {finished} runs finished, {equal} equal; temporary files: "
            f"met after {torn} kills, left at the end {left_over}",
            flush=True,
        )
    results = {
        "kills": kills,
        "runs": finished,
        "equal_runs": equal,
        "kills_that_left_a_temporary_file": torn,
        "temporary_files_at_the_end": left_over,
        "files": len(wanted),
        "pictures": arguments.pictures,
    }
    print(json.dumps(results))
    (arguments.out / "kill.json").write_text(json.dumps(results, indent=2) + "\n")
    if equal < finished or left_over:
        raise SystemExit(1)
    shutil.rmtree(folder)


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file by its name; an empty string for those that hold times."""
    return {
        path.relative_to(folder).as_posix(): "" if path.name in TIMES else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def temporary(folder: Path) -> list[Path]:
    """Unfinished files and locks."""
    return [path for path in folder.rglob("*") if path.name.startswith((".tmp-", ".lock-"))]


if __name__ == "__main__":
    main()
