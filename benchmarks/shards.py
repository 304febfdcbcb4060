"""The storage path alone: how fast, how much memory, how many files, and twenty kills.

    python benchmarks/shards.py [--rows 10000 100000 1000000] [--form webdataset] [--kills 20] [--out runs/bench]

No picture is read and no encoder runs: a stub hands the same few masks of 16 x 16 pixels to the store that
`clip-es masks --form ...` writes to, so all that is measured is the list of pictures, the cutting into units, PNG, tar
or Parquet, the hashes, the disk and the manifest. Rates are rows per second of processor time, so that others on the
machine do not count; memory is what the process takes at its peak beyond the list of pictures.

The kills: a process that makes shards ends by SIGKILL at random moments, another continues, twenty times; then all
files are compared with those of a run that nobody disturbed. Exit code 1: they differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clip_es.records.file_listing import Place
from clip_es.records.packed_records import Records, Row
from clip_es.store.run import RunStore
from clip_es.store.shards.forms import FormName
from clip_es.store.shards.store import ShardStore
from clip_es.types import PseudoMask

CLASSES = tuple(f"class {k}" for k in range(20))
SETTINGS = {"stub": "no encoder"}
SIDE = 16


def main() -> None:
    """Measure and kill; prints a table, writes shards.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--form", choices=["webdataset", "parquet"], default="webdataset")
    parser.add_argument("--folder-rows", type=int, default=10_000, help="of the folder form, beside it")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kill-rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    home = arguments.out / "shards"
    results: dict[str, object] = {"form": arguments.form, "sizes": []}
    print("storage path alone, with a stub for the encoder")
    print(f"{'':>24}{'rows':>10}{'rows/CPU s':>12}{'MiB':>8}{'files':>10}{'MB':>10}{'MB on disk':>12}")
    for rows in arguments.rows:
        told = apart(home, lambda folder, rows=rows: shards(folder, rows, arguments.form))
        results["sizes"].append(show(arguments.form, rows, told))  # type: ignore[union-attr]
    if arguments.folder_rows:
        told = apart(home, lambda folder: single_files(folder, arguments.folder_rows))
        results["folder"] = show("a file for each mask", arguments.folder_rows, told)
    equal = True
    if arguments.kills:
        results["kills"] = killed = kills(home, arguments.kills, arguments.kill_rows, arguments.form, arguments.seed)
        equal = killed["equal"]
        print(
            f"{killed['kills']} kills in {killed['runs']} runs of {arguments.kill_rows:,} rows: "
            f"{killed['shards']} shards, {'equal' if equal else 'DIFFERENT'}"
        )
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "shards.json").write_text(json.dumps(results, indent=2) + "\n")
    if not equal:
        raise SystemExit(1)


def show(name: str, rows: int, told: dict[str, float]) -> dict[str, float]:
    """Print a line of the table."""
    rate, mib = rows / told["cpu"], told["mib"]
    print(
        f"{name:>24}{rows:>10,}{rate:>12.0f}{mib:>8.0f}{told['files']:>10,.0f}{told['bytes'] / 1e6:>10.1f}"
        f"{told['disk'] / 1e6:>12.1f}",
        flush=True,
    )
    return {"rows": rows, "rows_per_cpu_second": rate, **told}


def listed(rows: int) -> Records:
    """A list of pictures as readers make it."""
    records = Records()
    place = records.place(Place(Path("pictures"), ".jpg"))
    for number in range(rows):
        records.add(Row(f"picture-{number:08d}", place, (number % 20,)))
    return records


def stub_masks() -> list[PseudoMask]:
    """A mask for each class: noise, which PNG cannot make small."""
    rng, found = np.random.default_rng(0), []
    for k in range(20):
        decided = (rng.integers(0, 2, (SIDE, SIDE)) * (k + 1)).astype(np.uint8)
        confidence = rng.random((SIDE, SIDE), dtype=np.float32)
        found.append(PseudoMask(np.where(confidence < 0.5, np.uint8(255), decided), confidence, (k,), decided))
    return found


def shards(folder: Path, rows: int, form: FormName) -> dict[str, float]:
    """Make a run in shards, or continue one."""
    before, records, made = peak(), listed(rows), stub_masks()
    with_list, start = peak(), time.process_time()
    with ShardStore.open(folder, SETTINGS, classes=CLASSES, form=form) as store:
        for unit in store.units(records):
            writer = store.sink.writer(unit)
            for record in unit.records:
                writer.save(record, made[record.class_ids[0]])
            writer.commit()
        store.finish()
    return {"cpu": time.process_time() - start, "mib": peak() - with_list, "list_mib": with_list - before}


def single_files(folder: Path, rows: int) -> dict[str, float]:
    """The same as a run folder."""
    records, made = listed(rows), stub_masks()
    with_list, start = peak(), time.process_time()
    with RunStore.open(folder, SETTINGS) as store:
        for record in store.unfinished(records):
            store.save(record, made[record.class_ids[0]])
        store.finish()
    return {"cpu": time.process_time() - start, "mib": peak() - with_list}


def peak() -> float:
    """MiB that this process has taken at its peak."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def apart(home: Path, work: Callable[[Path], dict[str, float]]) -> dict[str, float]:
    """Do something in a process of its own, in a new folder; adds what the folder then takes."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    child = os.fork()
    if child == 0:
        (home / "told.json").write_text(json.dumps(work(home / "run")))
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the process that was measured failed")
    told = json.loads((home / "told.json").read_text())
    files = [path.stat() for path in (home / "run").rglob("*") if path.is_file()]
    told |= {
        "files": len(files),
        "bytes": sum(one.st_size for one in files),
        "disk": sum(512 * one.st_blocks for one in files),
    }
    shutil.rmtree(home)
    return told


def kills(home: Path, count: int, rows: int, form: FormName, seed: int) -> dict:
    """Kill and continue; returns how it went."""
    rng = random.Random(seed)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    start = time.monotonic()
    _wait(_begin(home / "undisturbed", rows, form))
    whole, wanted = time.monotonic() - start, tree(home / "undisturbed")
    done, runs, equal = 0, 0, True
    while done < count:
        runs += 1
        while True:
            child = _begin(home / "killed", rows, form)
            time.sleep(rng.uniform(0, whole / 4))
            if os.waitpid(child, os.WNOHANG)[0]:
                break  # It came to its end before.
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            done += 1
            if done == count:
                _wait(_begin(home / "killed", rows, form))
                break
        equal = equal and tree(home / "killed") == wanted
        shutil.rmtree(home / "killed")
    number = sum(name.startswith("shards/") for name in wanted)
    shutil.rmtree(home)
    return {"kills": done, "runs": runs, "rows": rows, "shards": number, "equal": equal}


def _begin(folder: Path, rows: int, form: FormName) -> int:
    child = os.fork()
    if child == 0:
        shards(folder, rows, form)
        os._exit(0)
    return child


def _wait(child: int) -> None:
    if os.waitpid(child, 0)[1]:
        raise SystemExit("a run failed")


def tree(folder: Path) -> dict[str, str]:
    """Hashes of all files of the shards and the manifest; summary.json tells seconds and what was skipped."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "summary.json" and not path.name.startswith(".")
    }


if __name__ == "__main__":
    main()
