"""How long a list of many pictures takes to open, and how much memory: CSV, JSON lines, text, one-hot array, COCO list.

    python benchmarks/label_file.py --rows 1000 100000 1000000

Makes a folder with that many (empty) pictures and a table for each kind, then opens each in a process of its own.
`opens` is `records.folder(...)` until every row has been read, its label looked up, its picture found and its id
compared with all others; `of CPU` is what that takes of a machine that has other things to do. `walk` is one loop over
all records afterwards. Memory is the peak resident memory of the process minus what it had before opening.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from clip_es.prompts import load_vocabulary
from clip_es.records import coco14, folder

KINDS = ("labels.csv", "labels.jsonl", "labels.txt", "onehot.npy", "coco", "auto")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--out", type=Path, help="CSV of the figures")
    parser.add_argument("--open", nargs=2, metavar=("ROOT", "KIND"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        print(json.dumps(measure(Path(arguments.open[0]), arguments.open[1])))
        return
    figures = []
    print(f"{'kind':14} {'rows':>10} {'opens s':>9} {'of CPU s':>9} {'walk s':>8} {'memory MB':>10}")
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as root:
            make(Path(root), rows)
            for kind in arguments.kinds:
                call = [sys.executable, __file__, "--open", root, kind]
                out = subprocess.run(call, capture_output=True, text=True, check=True).stdout
                found = json.loads(out)
                figures.append({"kind": kind, "rows": rows, **found})
                times = f"{found['opens']:9.2f} {found['busy']:9.2f} {found['walk']:8.2f}"
                print(f"{kind:14} {rows:>10,} {times} {found['megabytes']:10.1f}", flush=True)
    if arguments.out:
        with arguments.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, figures[0])
            writer.writeheader()
            writer.writerows(figures)


def make(root: Path, rows: int) -> None:
    """Pictures, and the same labels in every kind of table: one to three of the 80 classes of COCO."""
    names = load_vocabulary("coco14").names
    pictures = root / "train2014"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    hot = np.lib.format.open_memmap(root / "onehot.npy", "w+", np.uint8, (rows, len(names)))
    with (
        (root / "labels.csv").open("w") as table,
        (root / "labels.jsonl").open("w") as lines,
        (root / "labels.txt").open("w") as text,
        (root / "train.txt").open("w") as published,
    ):
        table.write("image,labels\n")
        for number in range(rows):
            ids = np.unique(rng.integers(0, len(names), 3)).tolist()
            image = f"COCO_train2014_{number:012d}"
            (pictures / f"{image}.jpg").touch()
            table.write(f"{image}.jpg,{';'.join(names[k] for k in ids)}\n")
            lines.write(json.dumps({"image": f"{image}.jpg", "labels": [names[k] for k in ids]}) + "\n")
            text.write(f"{image}.jpg {' '.join(map(str, ids))}\n")
            published.write(f"{image} {' '.join(map(str, ids))}\n")
            hot[number, ids] = 1


def measure(root: Path, kind: str) -> dict[str, float]:
    """Open one table and walk over its records."""
    words = load_vocabulary("coco14")
    reset_peak()
    before, start, busy = peak(), time.perf_counter(), time.process_time()
    if kind == "coco":
        data = coco14(root)
    else:
        labels = kind if kind == "auto" else root / kind
        data = folder(root / "train2014", labels, class_id=words.class_id, class_count=len(words.classes))
    opened, after, busy = time.perf_counter(), peak(), time.process_time() - busy
    assert not data.problems, data.problems[0]
    labels = sum(len(record.class_ids) for record in data.records)
    assert labels > 0 or kind == "auto"
    walked = time.perf_counter()
    assert peak() - after < 2**23, "a walk keeps nothing"
    return {"opens": opened - start, "busy": busy, "walk": walked - opened, "megabytes": (after - before) / 2**20}


def reset_peak() -> None:
    """Forget what importing took (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Bytes of resident memory the process has had at most."""
    status = Path("/proc/self/status")
    if status.is_file():
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
