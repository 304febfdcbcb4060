"""From nothing to the first mask: CPU seconds of each step in a process of its own, and where those of the import go.

    python benchmarks/start.py [--weights scenes] [--repeats 3]

CPU seconds of one thread, so what else the machine does counts little; of several repeats the least is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter

STEPS = """
import json, sys, time
start = time.process_time()
def lap():
    global start
    now = time.process_time()
    seconds, start = now - start, now
    return round(seconds, 3)
told = {}
import torch
told["import torch"] = lap()
import clip_es
clip_es.load
told["import clip_es"] = lap()
maker = clip_es.load(sys.argv[1], device="cpu")
told["load"] = lap()
from clip_es.scenes.dataset import ScenesConfig, scene_of
scenes = [scene_of(ScenesConfig(), "val", number) for number in (11, 12)]
labels = [sorted(set(one.mask.ravel().tolist()) - {0, 255}) for one in scenes]
names = [[maker.vocabulary.names[k - 1] for k in some] for some in labels]
lap()
for step, one, words in zip(("first picture", "second picture"), scenes, names):
    maker(one.picture, words)
    told[step] = lap()
print(json.dumps(told))
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="scenes", help="a packaged CLIP that knows the drawn world")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    laps = []
    for _ in range(asked.repeats):
        ran = [sys.executable, "-c", STEPS, asked.weights]
        told = subprocess.run(ran, capture_output=True, text=True, check=True, env=environment).stdout
        laps.append(json.loads(told))
    least = {step: min(one[step] for one in laps) for step in laps[0]}
    for step, seconds in least.items():
        print(f"{step:16} {seconds:6.2f} s")
    ready = least["import torch"] + least["import clip_es"] + least["load"]
    print(f"{'import and load':16} {ready:6.2f} s, of which torch {least['import torch'] / ready:.0%}")
    shares = imports(environment)
    print("\nof the import, by package: " + ", ".join(f"{name} {share:.0%}" for name, share in shares))


def imports(environment: dict[str, str]) -> list[tuple[str, float]]:
    """Packages by their share of the time of `import clip_es; clip_es.load`."""
    ran = [sys.executable, "-X", "importtime", "-c", "import clip_es; clip_es.load"]
    lines = subprocess.run(ran, capture_output=True, text=True, check=True, env=environment).stderr.splitlines()
    own: Counter[str] = Counter()
    for line in lines:
        parts = line.removeprefix("import time:").split("|")
        if line.startswith("import time:") and parts[0].strip().isdigit():
            own[parts[2].strip().split(".")[0]] += int(parts[0])
    return [(name, value / own.total()) for name, value in own.most_common(8)]


if __name__ == "__main__":
    main()
