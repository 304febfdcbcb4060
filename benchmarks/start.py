"""From nothing to the first mask: CPU seconds of each step in a process of its own, and where those of the import go.

    python benchmarks/start.py [--weights scenes] [--repeats 3]
    python benchmarks/start.py --engines          # of each engine of the encoder, with a seeded ViT-B/16

CPU seconds of one thread, so what else the machine does counts little; of several repeats the least is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from clip_es.config.stages import EncoderConfig

STEPS = """
import json, sys, time
start = time.process_time()
def lap():
    global start
    now = time.process_time()
    seconds, start = now - start, now
    return round(seconds, 3)
told = {}
import clip_es
clip_es.load
told["import"] = lap()
from dataclasses import replace
from clip_es.config.run import DEFAULT, EncoderConfig
weights, engine, dtype = sys.argv[1:4]
config = replace(DEFAULT, encoder=EncoderConfig(engine=engine, dtype=dtype))
scenes = weights.startswith("scenes")
maker = clip_es.load(weights, None if scenes else "voc12", config, device="cpu")
told["load"] = lap()
if scenes:
    from clip_es.scenes.dataset import ScenesConfig, scene_of
    drawn = [scene_of(ScenesConfig(), "val", number) for number in (11, 12)]
    pictures = [one.picture for one in drawn]
    labels = [sorted(set(one.mask.ravel().tolist()) - {0, 255}) for one in drawn]
    names = [[maker.vocabulary.names[k - 1] for k in some] for some in labels]
else:
    import numpy as np
    from PIL import Image
    from skimage import data
    pictures = [np.asarray(Image.fromarray(one()).resize((500, 375))) for one in (data.coffee, data.astronaut)]
    names = [["bottle", "dining table"], ["person", "aeroplane"]]
lap()
for step, one, words in zip(("first picture", "second picture"), pictures, names):
    maker(one, words)
    told[step] = lap()
import resource
told["memory"] = int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
told["peak memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(told))
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="scenes", help="a packaged CLIP that knows the drawn world")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engines", action="store_true", help="each engine, instead of --weights")
    asked = parser.parse_args()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if asked.engines:
        return engines(environment, asked.repeats)
    least = started(environment, asked.repeats, asked.weights)
    for step, value in least.items():
        print(f"{step:16} {value:6.2f} s" if "memory" not in step else f"{step:16} {value:6.0f} MiB")
    print(f"{'import and load':16} {least['import'] + least['load']:6.2f} s")
    print(f"{'torch by itself':16} {torch_alone(environment, asked.repeats):6.2f} s")
    shares = imports(environment)
    print("\nof the import, by package: " + ", ".join(f"{name} {share:.0%}" for name, share in shares))


def started(environment: dict[str, str], repeats: int, *asked: str) -> dict[str, float]:
    """The least of each figure over some processes; `asked`: weights, engine and dtype."""
    words = [*asked, *("auto", "float32")[len(asked) - 1 :]]
    ran = [sys.executable, "-W", "ignore", "-c", STEPS, *words]
    laps = [
        json.loads(subprocess.run(ran, capture_output=True, text=True, check=True, env=environment).stdout)
        for _ in range(repeats)
    ]
    return {step: min(one[step] for one in laps) for step in laps[0]}


def torch_alone(environment: dict[str, str], repeats: int) -> float:
    """CPU seconds of `import torch` in a process of its own."""
    code = "import time; import torch; print(time.process_time())"
    ran = [sys.executable, "-W", "ignore", "-c", code]
    return min(
        float(subprocess.run(ran, capture_output=True, text=True, check=True, env=environment).stdout)
        for _ in range(repeats)
    )


def engines(environment: dict[str, str], repeats: int) -> None:
    """Print start and memory of each engine; graphs are made first, in a cache of their own."""
    from cam import ENGINES, vit_b_16
    from safetensors.torch import save_file

    with TemporaryDirectory() as folder:
        weights = str(Path(folder) / "seeded.safetensors")
        save_file(
            {key: value.contiguous() for key, value in vit_b_16(EncoderConfig()).model.state_dict().items()}, weights
        )
        environment = {**environment, "CLIP_ES_CACHE": folder}
        rows = {}
        for name, config in ENGINES.items():
            asked = (weights, config.engine, config.dtype)
            made = started(environment, 1, *asked)["first picture"] if "onnx" in name or name == "int8" else None
            rows[name] = started(environment, repeats, *asked)
            if made is not None:
                rows[name]["first picture ever"] = made
    steps = list(dict.fromkeys(step for row in rows.values() for step in row))
    print(f"{'CPU seconds, MiB':20}" + "".join(f"{name:>16}" for name in rows))
    for step in steps:
        cells = (f"{row[step]:16.2f}" if step in row else f"{'':16}" for row in rows.values())
        print(f"{step:20}" + "".join(cells))


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
