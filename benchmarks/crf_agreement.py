"""The native CRF against pydensecrf: same labels, same probabilities, less time.

    python benchmarks/crf_agreement.py [--pictures 50] [--out runs/bench]

Three fifths of the pictures are drawn scenes with their own labels, the others photographs of scikit-image with up to
20 labels of VOC; all maps are those the pipeline makes, after the affinity. CPU seconds of this process, one thread.
A call that was stopped is continued by the next one, from OUT/crf_rows.jsonl.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from skimage import data

from clip_es.config.run import DEFAULT
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.refine.crf.dense import crf, unary_energy
from clip_es.refine.crf.native import lattice_of
from clip_es.scaling import upsample
from clip_es.scenes.draw import CLASSES, SceneConfig, draw_scene
from clip_es.types import ClassMaps, Picture

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "retina", "immunohistochemistry", "hubble_deep_field")
GREY = ("camera", "coins", "brick")
LABELS = (1, 2, 4, 7, 12, 20)
"""Classes of the photographs, in turn: 2 to 21 labels with background."""
SIZES_HW = ((192, 256), (256, 256), (375, 500), (333, 500))
WORLD = 41_000
"""Seed of the drawn world; the shipped CLIP was trained on another one."""


@dataclass(frozen=True)
class Agreement:
    """One picture with both backends."""

    name: str
    size_hw: tuple[int, int]
    labels: int
    """Background included."""
    same: float
    """Share of pixels with the same strongest label."""
    ties: float
    """Share of pixels with another strongest label where pydensecrf's two largest probabilities lie within 1e-4."""
    largest: float
    """Largest difference between two probabilities."""
    seconds: float
    """CPU seconds of pydensecrf."""
    native_seconds: float
    energy_seconds: float
    """Of these, what both backends do: maps to the picture's size, and their logarithm."""
    lattice_seconds: float
    """Of these, what the lattice of the picture takes; the rest are the mean-field rounds."""


def main() -> None:
    """Print the table, write crf.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kept = arguments.out / "crf_rows.jsonl"
    arguments.out.mkdir(parents=True, exist_ok=True)
    before = {row.name: row for row in read_rows(kept)}
    rows: list[Agreement] = []
    compiled: set[int] = set()
    print(f"{'picture':24s}{'size':>10s}{'labels':>8s}{'same':>10s}{'largest':>10s}{'time':>7s}")
    for picture, maps in inputs(arguments.pictures):
        if row := before.get(picture.image_id):
            rows.append(row)
            continue
        if len(maps.class_ids) not in compiled:  # the native code is compiled once for each number of labels
            corner = ClassMaps(scores=maps.scores, class_ids=maps.class_ids)
            crf(
                replace(picture, rgb=picture.rgb[:32, :32].copy()),
                corner,
                replace(DEFAULT.refiners.crf, backend="native"),
            )
            compiled.add(len(maps.class_ids))
        row = compare(picture, maps)
        rows.append(row)
        with kept.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        print(
            f"{row.name:24s}{'x'.join(map(str, row.size_hw)):>10s}{row.labels:8d}{row.same:10.4%}{row.largest:10.1e}"
            f"{row.native_seconds / row.seconds:7.2f}",
            flush=True,
        )
    pixels = np.array([h * w for h, w in (row.size_hw for row in rows)])
    results = {
        "pictures": len(rows),
        "labels": [min(row.labels for row in rows), max(row.labels for row in rows)],
        "label_agreement": float(np.average([row.same for row in rows], weights=pixels)),
        "label_agreement_but_for_ties": float(np.average([row.same + row.ties for row in rows], weights=pixels)),
        "least_label_agreement": min(row.same for row in rows),
        "largest_difference": max(row.largest for row in rows),
        "native_over_pydensecrf": sum(row.native_seconds for row in rows) / sum(row.seconds for row in rows),
        "native_share_of_energies": sum(row.energy_seconds for row in rows) / sum(row.native_seconds for row in rows),
        "native_share_of_lattices": sum(row.lattice_seconds for row in rows) / sum(row.native_seconds for row in rows),
        "rows": [asdict(row) for row in rows],
    }
    print(
        f"{len(rows)} pictures, {results['labels'][0]} to {results['labels'][1]} labels: labels agree on "
        f"{results['label_agreement']:.4%} of pixels (worst picture {results['least_label_agreement']:.4%}; but for "
        f"ties within 1e-4 {results['label_agreement_but_for_ties']:.4%}), largest difference "
        f"{results['largest_difference']:.1e}, time {results['native_over_pydensecrf']:.2f} of pydensecrf's"
    )
    print(
        f"of the native time {results['native_share_of_energies']:.0%} go to energies, which both compute, and "
        f"{results['native_share_of_lattices']:.0%} to lattices; the rest are {DEFAULT.refiners.crf.iterations} rounds"
    )
    (arguments.out / "crf.json").write_text(json.dumps(results, indent=2) + "\n")
    kept.unlink()


def read_rows(path: Path) -> list[Agreement]:
    """Rows of a call that was stopped; a torn last line does not count."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [Agreement(**json.loads(line)) for line in lines]


def compare(picture: Picture, maps: ClassMaps) -> Agreement:
    """Both backends on one picture."""
    (theirs, seconds), (ours, native_seconds) = (run(picture, maps, name) for name in ("pydensecrf", "native"))
    config = DEFAULT.refiners.crf
    other = theirs.argmax(0) != ours.argmax(0)
    first, second = theirs.topk(2, dim=0).values
    return Agreement(
        name=picture.image_id,
        size_hw=picture.size_hw,
        labels=len(theirs),
        same=1 - float(other.float().mean()),
        ties=float((other & (first - second < 1e-4)).float().mean()),
        largest=float((theirs - ours).abs().max()),
        seconds=seconds,
        native_seconds=native_seconds,
        energy_seconds=cpu_seconds(lambda: unary_energy(upsample(maps, picture.size_hw), config)),
        lattice_seconds=cpu_seconds(lambda: lattice_of(picture.rgb, config)),
    )


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def run(picture: Picture, maps: ClassMaps, backend: Literal["pydensecrf", "native"]) -> tuple[torch.Tensor, float]:
    """Probabilities [label h w], background first, and CPU seconds."""
    start = time.process_time()
    found = crf(picture, maps, replace(DEFAULT.refiners.crf, backend=backend))
    seconds = time.process_time() - start
    assert found.background is not None
    return torch.cat([found.background[None], found.scores]), seconds


def inputs(count: int) -> Iterator[tuple[Picture, ClassMaps]]:
    """Pictures and their maps on the patch grid."""
    config = replace(DEFAULT, refine=("affinity",))
    scenes = MaskMaker.load(config=config, device="cpu")
    drawn = count * 3 // 5
    for number in range(drawn):
        scene = draw_scene(WORLD, number, SceneConfig(SIZES_HW[number % len(SIZES_HW)]))
        ids = tuple(scenes.vocabulary.class_id(CLASSES[k]) for k in scene.class_ids)
        yield located(scenes, f"scene {number}", scene.picture, ids)
    voc = MaskMaker.load(vocabulary="voc12", config=config, device="cpu")
    kinds = zip(cycle((*PHOTOGRAPHS, *GREY)), cycle(LABELS), range(count - drawn), strict=False)
    for name, labels, number in kinds:
        image = Image.fromarray(getattr(data, name)()).convert("RGB")
        height, width = SIZES_HW[(number + 2) % len(SIZES_HW)]
        rgb = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
        first = 7 * number  # Photographs come twice, with other labels.
        yield located(voc, f"{name} {number}", rgb, tuple((first + k) % 20 for k in range(labels)))


def located(maker: MaskMaker, name: str, rgb: np.ndarray, ids: tuple[int, ...]) -> tuple[Picture, ClassMaps]:
    """A picture with its maps after the affinity."""
    patch = maker.encoder.patch
    rows, columns = (-(-side // patch) for side in rgb.shape[:2])
    patches = np.array(Image.fromarray(rgb).resize((columns * patch, rows * patch), Image.Resampling.BICUBIC))
    picture = Picture(name, rgb, patches, patch)
    return picture, maker.refine(maker.locate(picture, maker.encode([picture])[0], ids)).maps


if __name__ == "__main__":
    main()
