"""Spoilt files of every kind, fed to every reader: who crashes, hangs, takes all memory or leaves its folder?

    python benchmarks/malformed.py [--cases 6000] [--seed 0] [--only JPEG "labels csv labels.csv"] [--out runs/bench]

Each case is a sound file of a kind, spoilt by bits, bytes, lengths, tokens and pieces of other files, half of them
below checksums and compression (PNG chunks, members of archives, values of a JSON tree). A process of its own reads it;
it may take 1 GiB more than it had at the start, and whatever it opens, writes, runs, imports from a pickle or connects
to is noted. What ends the process or takes longer than the limit is found from outside.

Counted for each reader: refused by one of our errors, accepted, and what must not happen: another error, a crash, a
hang, an escape (a file outside the case's folder, a program, the network, code), memory kept or taken in excess. Exit
code 1 where any of that happened; the files are then kept in OUT/malformed.
"""

from __future__ import annotations

import argparse
import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

HERE = Path(__file__).parent
MOST_CPU = 10.0
"""Seconds of processor time a case may take."""
MOST_GROWTH = 400
"""MiB a case may take for a moment."""
MOST_KEPT = 64
"""MiB a reader may keep after all its cases; allocators do not give everything back."""
BAD = ("wrong error", "crash", "hang", "escape", "slow", "memory")


def main() -> None:
    """Run the campaign, print the counts, write malformed.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=6000, help="over all readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[], help="names of readers")
    parser.add_argument("--memory", type=int, default=1024, help="MiB beyond what a start takes")
    parser.add_argument("--longest", type=float, default=60.0, help="seconds without a word that count as hanging")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE))
    from malformed_readers import READERS, TRAPS

    names = [reader.name for reader in READERS]
    if arguments.only:
        names = [name for name in (*names, *(trap.name for trap in TRAPS)) if name in arguments.only]
    if not names:
        raise SystemExit(f"no such reader; there are {', '.join(reader.name for reader in READERS)}")
    each = [arguments.cases // len(names) + (i < arguments.cases % len(names)) for i in range(len(names))]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        campaign = Campaign(Path(temporary), arguments)
        campaign.run([[name, 0, count] for name, count in zip(names, each, strict=True)])
    totals = campaign.show(names)
    print(f"{sum(each)} cases in {time.monotonic() - start:.0f} s, seed {arguments.seed}")
    results = {
        "cases": sum(each),
        "seed": arguments.seed,
        **totals,
        "readers": {name: dict(campaign.counts[name]) for name in names},
        "largest_mib": max(campaign.growth.values(), default=0),
        "longest_cpu_seconds": max(campaign.seconds.values(), default=0.0),
        "troubles": campaign.troubles,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "malformed.json").write_text(json.dumps(results, indent=2) + "\n")
    if any(totals[kind] for kind in BAD):
        raise SystemExit(1)


class Campaign:
    """Counts, and the processes that make them."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.folder, self.seed, self.memory = folder, arguments.seed, arguments.memory
        self.longest, self.keep = arguments.longest, arguments.out / "malformed"
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.growth: dict[str, int] = defaultdict(int)
        self.kept: dict[str, int] = defaultdict(int)
        self.seconds: dict[str, float] = defaultdict(float)
        self.troubles: list[dict] = []

    def run(self, plan: list[list]) -> None:
        """All cases of the plan; a process that ends early is followed by another that goes on behind its last case."""
        while plan:
            plan = self._one_process(plan)

    def _one_process(self, plan: list[list]) -> list[list]:
        command = [sys.executable, str(HERE / "malformed_worker.py"), "--folder", str(self.folder)]
        command += ["--plan", json.dumps(plan), "--seed", str(self.seed), "--memory", str(self.memory)]
        command += ["--keep", str(self.keep)]
        log = (self.folder / "stderr.txt").open("w+")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_pump, args=(process, lines), daemon=True).start()
        open_case, ready, hanging = None, False, False
        while True:
            try:
                line = lines.get(timeout=self.longest if ready else 600.0)
            except queue.Empty:
                hanging = True
                process.kill()
                process.wait()
                break
            if line is None:
                break
            told = json.loads(line)
            ready = ready or "ready" in told
            if "start" in told:
                open_case = told["start"]
            elif "end" in told:
                self._ended(told)
                open_case = None
            elif "reader" in told:
                self._kept(told)
        code = process.wait()
        log.seek(0)
        tail = log.read()[-2000:]
        log.close()
        if not ready or (code and open_case is None):
            raise SystemExit(f"the process that reads ended with {code} outside of any case:\n{tail}")
        if open_case is None:
            return []
        name, number = open_case
        for path in (self.folder / "case").iterdir():
            if path.is_file():
                self.keep.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, self.keep / f"{name.replace(' ', '-')}-{number}-{path.name}")
        self._trouble(name, number, "hang" if hanging else "crash", f"exit code {code}; {tail[-500:]}")
        self.counts[name]["cases"] += 1
        rest = next(step for step in plan if step[0] == name)
        behind = plan[plan.index(rest) + 1 :]
        left = rest[1] + rest[2] - number - 1
        return [[name, number + 1, left], *behind] if left else behind

    def _ended(self, told: dict) -> None:
        name, number = told["end"]
        self.counts[name]["cases"] += 1
        self.counts[name][told["result"]] += 1
        self.growth[name] = max(self.growth[name], told["mib"])
        self.seconds[name] = max(self.seconds[name], told["seconds"])
        if told["result"] == "wrong error":
            self._trouble(name, number, "wrong error", told["detail"], count=False)
        if told.get("escapes"):
            self._trouble(name, number, "escape", "; ".join(told["escapes"]))
        if told["seconds"] > MOST_CPU:
            self._trouble(name, number, "slow", f"{told['seconds']:.1f} s")
        if told["mib"] > MOST_GROWTH:
            self._trouble(name, number, "memory", f"{told['mib']} MiB for {told['bytes']} bytes")

    def _kept(self, told: dict) -> None:
        self.kept[told["reader"]] = told["kept_mib"]
        if told["kept_mib"] > MOST_KEPT:
            self._trouble(told["reader"], -1, "memory", f"{told['kept_mib']} MiB are kept after all cases")

    def _trouble(self, name: str, number: int, kind: str, detail: str, count: bool = True) -> None:
        if count:
            self.counts[name][kind] += 1
        self.troubles.append({"reader": name, "case": number, "kind": kind, "detail": detail})

    def show(self, names: list[str]) -> dict[str, int]:
        """Print the table; returns the totals."""
        columns = ("cases", "refused", "accepted", *BAD)
        print(f"{'reader':36}" + "".join(f"{column:>12}" for column in columns) + f"{'MiB':>6}{'kept':>6}{'CPU s':>7}")
        for name in names:
            row = "".join(f"{self.counts[name][column]:12d}" for column in columns)
            print(f"{name:36}{row}{self.growth[name]:6d}{self.kept[name]:6d}{self.seconds[name]:7.2f}")
        totals = {column: sum(self.counts[name][column] for name in names) for column in columns}
        print(f"{'all':36}" + "".join(f"{totals[column]:12d}" for column in columns))
        for trouble in self.troubles[:40]:
            print(f"\n{trouble['kind']}: {trouble['reader']} case {trouble['case']}\n{trouble['detail']}")
        return totals


def _pump(process: subprocess.Popen, lines: queue.Queue) -> None:
    for line in process.stdout or ():
        lines.put(line)
    lines.put(None)


if __name__ == "__main__":
    main()
