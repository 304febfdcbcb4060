"""How long a visitor of the playground waits, and what is not done again.

    python benchmarks/playground.py --pictures 12 [--weights scenes]

Prints, on drawn scenes, seconds from an upload to the mask with the encoder's share, then those of an edited word, of
another refiner, and of a move of the slider, each with the times the encoder ran for it. The browser's own time comes
on top.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from clip_es.config.run import DEFAULT
from clip_es.encoder import load_encoder
from clip_es.pipelines.playground import show
from clip_es.pipelines.playground.session import Asked, Playground
from clip_es.pipelines.playground.uploads import Uploads
from clip_es.pipelines.playground.words import Words
from clip_es.prompts import load_vocabulary
from clip_es.scenes.dataset import ScenesConfig, scene_of

MOVES = 20
"""Of the slider, for each picture."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--weights", default="scenes")
    args = parser.parse_args()
    rows: dict[str, list[tuple[float, int, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        uploads = Uploads(Path(folder) / "uploads", DEFAULT.image)
        encoder = load_encoder(args.weights, device="cpu")
        playground = Playground(encoder, load_vocabulary("scenes"), DEFAULT, uploads)
        visit(playground, 0, Path(folder), {})  # loads and compiles, and does not count
        for number in range(1, args.pictures + 1):
            visit(playground, number, Path(folder), rows)
    print(
        f"{args.pictures} scenes, {args.weights}, {', '.join(DEFAULT.refine)}     mean s   encoder's s   times encoded"
    )
    for what, found in rows.items():
        seconds, times, encoder = (np.array(column, dtype=float) for column in zip(*found, strict=True))
        share = f"{encoder.mean():8.3f} ({100 * encoder.sum() / seconds.sum():.0f} %)" if encoder.any() else "   0"
        print(f"  {what:24s} {len(found):5d} times {seconds.mean():12.3f}   {share:18s} {int(times.sum())}")


def visit(playground: Playground, number: int, folder: Path, rows: dict[str, list[tuple[float, int, float]]]) -> None:
    """One picture: bring it, edit a word, change a refiner, move the slider."""
    scene = scene_of(ScenesConfig(), "val", number)
    Image.fromarray(scene.picture).save(folder / "scene.png")
    names = [playground.vocabulary.names[k] for k in scene.class_ids]

    def measured(what: str, work: Callable[[], object]) -> None:
        before, begun = sum(playground.encodes.values()), time.perf_counter()
        work()
        seconds, times = time.perf_counter() - begun, sum(playground.encodes.values()) - before
        encoder = playground.look(asked).seconds.get("encode", 0.0) if times else 0.0
        rows.setdefault(what, []).append((seconds, times, encoder))

    asked = Asked(hashlib.sha256((folder / "scene.png").read_bytes()).hexdigest(), Words.typed(names))
    measured("drop to mask", lambda: (playground.uploads.take(folder / "scene.png"), shown(playground, asked)))
    edited = replace(asked, words=Words.typed(names, "sentence", f"{names[0]}: {names[0]}; thing"))
    measured("an edited synonym", lambda: shown(playground, edited))
    measured("another refiner", lambda: shown(playground, replace(asked, refine=("affinity", "par"))))
    for threshold in np.linspace(0.0, 1.0, MOVES).tolist():
        measured("a move of the slider", partial(moved, playground, asked, threshold))


def shown(playground: Playground, asked: Asked) -> None:
    """All pieces of the page about a picture."""
    look, rgb = playground.look(asked), playground.picture(asked.photo).rgb
    show.mask(look, rgb, look.threshold)
    show.steps(look, rgb)


def moved(playground: Playground, asked: Asked, threshold: float) -> None:
    """What a move of the slider makes new."""
    show.mask(playground.look(asked), playground.picture(asked.photo).rgb, threshold)


if __name__ == "__main__":
    main()
