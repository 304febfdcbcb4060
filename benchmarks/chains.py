"""The methods side by side on held-out scenes, with each refiner, and the seconds that a picture takes.

python benchmarks/chains.py [--scenes 300] [--seed 2026] [--methods clip-es cliper clipseg] [--out FILE.json]

The default scenes are those of `clip-es ladder`, which no training saw. Nothing here is chosen on their truth: CLIPer's
settings for scenes (`--preset cliper-scenes`) were chosen on 28 others, of seeds 77 and 78. Seconds are CPU time of one
thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from clip_es.config.presets import CLIPER_SCENES
from clip_es.config.run import DEFAULT, ClipSegConfig, MethodName, RefinerName, RunConfig
from clip_es.encoder import load_encoder
from clip_es.masks import read_mask
from clip_es.metrics.masks import ConfusionMatrix
from clip_es.pipelines.masks.maker import LabelSource, MaskMaker
from clip_es.pipelines.stopwatch import Stopwatch
from clip_es.prompts import load_vocabulary
from clip_es.records import Dataset, voc
from clip_es.refine.registry import in_order
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.store.tables import write_json

CHAINS: dict[str, tuple[RefinerName, ...]] = {
    "none": (),
    "affinity": ("affinity",),
    "crf": ("crf",),
    "affinity crf": ("affinity", "crf"),
    "affinity spectral crf": ("affinity", "spectral", "crf"),
}

PAIRS: tuple[tuple[MethodName, LabelSource], ...] = (
    ("clip-es", "given"),
    ("clip-es", "auto"),
    ("cliper", "given"),
    ("cliper", "none"),
    ("clipseg", "given"),
    ("clipseg", "none"),
)


@dataclass
class Row:
    """One method with one chain of refiners."""

    method: str
    labels: str
    chain: str
    counts: ConfusionMatrix
    seconds: float = 0.0
    """Per picture: encoder, localizer, refiners and decision."""


@dataclass
class Bench:
    """A method and a source of labels, with all chains."""

    makers: dict[str, MaskMaker]
    rows: dict[str, Row]
    pictures: int = 0


def bench(
    method: MethodName,
    labels: LabelSource,
    settings: RunConfig,
    dataset: Dataset,
    chains: Sequence[str],
    weights: str = "scenes",
) -> Bench:
    """Masks of all pictures with each chain; what chains have in common is done once."""
    vocabulary = load_vocabulary("scenes")
    settings = replace(settings, method=method)
    encoder = load_encoder(weights, device="cpu", config=settings.encoder)
    first = MaskMaker(encoder, vocabulary, config=replace(settings, refine=()), labels=labels)
    makers = {
        name: MaskMaker(
            encoder,
            vocabulary,
            first.bank,
            replace(settings, refine=CHAINS[name]),
            labels=labels,
            stopwatch=Stopwatch(time.process_time),
        )
        for name in chains
    }
    classes = len(vocabulary.classes) + 1
    found = Bench(makers, {name: Row(method, labels, name, ConfusionMatrix(classes)) for name in chains})
    # A localizer may answer differently where a refiner on the grid follows.
    finders = {bool(in_order(CHAINS[name])[0]): maker for name, maker in makers.items()}
    for record in dataset.records:
        picture = next(iter(finders.values())).read(record)
        seen = next(iter(finders.values())).encode([picture])[0]
        truth = read_mask(dataset.truth[record.image_id])
        answers = {
            grid: finder.locate(picture, seen, record.class_ids if labels == "given" else ())
            for grid, finder in finders.items()
        }
        for name, maker in makers.items():
            refined = maker.refine(answers[bool(in_order(CHAINS[name])[0])])
            found.rows[name].counts.update(maker.decide(refined).mask.decided, truth)
        found.pictures += 1
    common = next(iter(finders.values())).stopwatch.seconds
    for name, row in found.rows.items():
        finder, own = finders[bool(in_order(CHAINS[name])[0])].stopwatch.seconds, makers[name].stopwatch.seconds
        stages = [common["read"], common["encode"], finder["localize"], finder.get("labels", 0.0), own["decide"]]
        row.seconds = (sum(stages) + sum(own[stage] for stage in CHAINS[name])) / found.pictures
    return found


def rows(benches: Sequence[Bench]) -> Iterator[dict[str, object]]:
    """What is printed and written."""
    for one in benches:
        for row in one.rows.values():
            scores = row.counts.compute()
            yield {
                "method": row.method,
                "labels": row.labels,
                "refine": row.chain,
                "miou": 100 * scores.miou,
                "seconds": row.seconds,
            }


def main() -> None:
    """Draw, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--methods", nargs="+", default=["clip-es", "cliper", "clipseg"])
    parser.add_argument("--chains", nargs="+", default=list(CHAINS))
    parser.add_argument("--decoder", default="scenes")
    parser.add_argument("--weights", default="scenes", help="scenes, scenes-plain or a file")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/chains.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = DEFAULT.using(cliper=CLIPER_SCENES, clipseg=ClipSegConfig(decoder=args.decoder))
    with tempfile.TemporaryDirectory() as folder:
        root = make(Path(folder) / "scenes", ScenesConfig(train=1, val=args.scenes, seed=args.seed))
        dataset = voc(root, "val", class_id=load_vocabulary("scenes").class_id)
        start, found = time.time(), []
        for method, labels in PAIRS:
            if method in args.methods:
                found += list(rows([bench(method, labels, settings, dataset, args.chains, args.weights)]))
                write(args.out, {"scenes": len(dataset.records), "seed": args.seed, "rows": found})
                print(f"  {method}, labels {labels}: {time.time() - start:.0f} s", flush=True)
    print(f"\n{len(dataset.records)} scenes of seed {args.seed}; mIoU in per cent, background included\n")
    print(table(found, args.chains))


def write(path: Path, told: dict[str, object]) -> None:
    """The rows so far."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, told)


def table(found: Sequence[dict], chains: Sequence[str]) -> str:
    """In Markdown, one line for each method and source of labels."""
    lines = [f"| method | labels | {' | '.join(chains)} |", f"|---|---|{'---:|' * len(chains)}"]
    for method, labels in dict.fromkeys((row["method"], row["labels"]) for row in found):
        own = [row for row in found if (row["method"], row["labels"]) == (method, labels)]
        cells = [f"{row['miou']:.1f} ({row['seconds']:.2f} s)" for row in own]
        lines.append(f"| {method} | {labels} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
