"""What the shipped CLIPSeg decoder finds on scenes it never saw, and what it costs.

    python benchmarks/clipseg.py                                        # phrases, examples, folds, seconds
    python benchmarks/clipseg.py --without DECODER --unseen boat cow    # and beside it one that never saw two classes
    python benchmarks/clipseg.py --without DECODER --parts unseen       # this alone, which is soon done

The second decoder comes from

    clip-es train-clipseg scenes --start clip --half --scenes.without boat cow --scenes.hide --scenes.pictures 1000 \\
        --batch 16 --steps 200 --amp bfloat16 --validate-every 0 --out runs/clipseg-unseen

Scenes are of seed 2026; the decoders were trained on seed 77, the CLIP on seed 7.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from clip_es.encoder import Encoder, load_encoder
from clip_es.localize.clipseg.decoder import Decoder
from clip_es.localize.clipseg.scores import score_phrases
from clip_es.localize.clipseg.sight import block_outputs, prepare, text_prompts
from clip_es.localize.clipseg.weights import load_decoder
from clip_es.pipelines.clipseg.one_shot import OneShotConfig, one_shot
from clip_es.pipelines.clipseg.zero_shot import zero_shot
from clip_es.prompts import load_vocabulary
from clip_es.records import Dataset, voc
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.scenes.draw import CLASSES
from clip_es.scenes.phrases import Part, ScenePhrases, ScenePhrasesConfig
from clip_es.scenes.weights import shipped_decoder_path

SEED = 2026
PARTS = ("phrases", "one-shot", "unseen", "zero-shot", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--decoder", type=Path, default=shipped_decoder_path())
    parser.add_argument("--weights", default="scenes", help="the CLIP below the decoder: a name or a file")
    parser.add_argument("--without", type=Path, help="a decoder that never saw masks of --unseen")
    parser.add_argument("--unseen", nargs="+", default=["boat", "cow"], choices=CLASSES)
    parser.add_argument("--threshold", type=float, default=0.3)
    parser.add_argument("--root", type=Path, default=Path("runs/benchmark-clipseg"))
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="what to print; all by default")
    args = parser.parse_args()
    torch.set_num_threads(1)
    encoder, decoder = load_encoder(args.weights, device="cpu"), load_decoder(args.decoder)
    if "phrases" in args.parts:
        phrases(encoder, decoder, args.pictures, args.threshold)
    if "one-shot" in args.parts:
        by_folds(encoder, decoder, scenes(args))
    if args.without and "unseen" in args.parts:
        unseen_classes(encoder, decoder, load_decoder(args.without), args)
    if args.without and "zero-shot" in args.parts:
        zero_shots(encoder, decoder, load_decoder(args.without), args, scenes(args))
    if "seconds" in args.parts:
        seconds(encoder, decoder)


def scenes(args: argparse.Namespace) -> Dataset:
    """The scenes in VOC's layout."""
    root = make(args.root, ScenesConfig(train=0, val=args.pictures, seed=SEED))
    vocabulary = load_vocabulary("scenes")
    return voc(root, "val", class_id=vocabulary.class_id)


def by_folds(encoder: Encoder, decoder: Decoder, dataset: Dataset) -> None:
    """The one-shot protocol."""
    folds = f"4 folds of {len(CLASSES) // 4} classes"
    print(f"\n{f'one-shot, {folds} (per cent)':50}   mIoU   best at    AP")
    for prompt in ("example", "text"):
        mean = one_shot(encoder, decoder, dataset, CLASSES, OneShotConfig(prompt=prompt, least_pixels=500)).mean()
        values = (100 * mean[name] for name in ("miou", "best_miou"))
        print(
            f"  by {prompt:46}", *(f"{v:6.1f}" for v in values), f"{mean['best_threshold']:.2f} {100 * mean['ap']:6.1f}"
        )


def phrases(encoder: Encoder, decoder: Decoder, pictures: int, threshold: float) -> None:
    """Referring figures by kind of phrase."""
    print(f"{pictures} scenes (per cent)                              phrases   mIoU  IoU_FG IoU_BIN   best at    AP")
    rows: Sequence[tuple[str, Part, bool]] = (
        ("names it was trained with", "names", False),
        ("all that training says", "train", False),
        ("synonyms it never saw", "synonyms", False),
        ("classes at places it never saw together", "places", False),
        ("names, asked by an example", "names", True),
    )
    for name, part, example in rows:
        data = ScenePhrases(ScenePhrasesConfig(pictures, SEED, part=part, split="val"))
        scores = score_phrases(encoder, decoder, data, prompt="{}", by="example" if example else "text")
        at, (best, where) = scores.at(threshold), scores.best("miou")
        figures = [100 * at[key] for key in ("miou", "iou_fg", "iou_bin")]
        told = " ".join(f"{value:7.1f}" for value in figures)
        print(f"  {name:42} {scores.samples:11} {told} {100 * best:6.1f} {where:.2f} {100 * scores.ap:5.1f}")


def unseen_classes(encoder: Encoder, seen: Decoder, other: Decoder, args: argparse.Namespace) -> None:
    """Each class asked by name where it is: by a decoder that saw its masks, and by one that did not."""
    data = ScenePhrases(ScenePhrasesConfig(args.pictures, SEED, part="names", split="val"))
    print(f"\n{'class (mean IoU of its phrases)':44} all seen  without {' '.join(args.unseen)}  its best at    AP")
    table = {}
    for k, name in enumerate(CLASSES):
        mine = [number for number, class_id in enumerate(data.classes) if class_id == k]
        if not mine:
            continue
        both = [score_phrases(encoder, one, data, samples=mine, prompt="{}") for one in (seen, other)]
        best, where = both[1].best("miou")
        figures = (*(scores.at(args.threshold)["miou"] for scores in both), best, both[1].ap)
        table[name] = one, its, best, ap = [100 * value for value in figures]
        told = name + (" (unseen)" if name in args.unseen else "")
        print(f"  {told:42} {one:8.1f} {its:8.1f} {best:18.1f} {where:.2f} {ap:5.1f}")
    for group, wanted in (("mean of the others", False), ("mean of the unseen", True)):
        rows = np.mean([row for name, row in table.items() if (name in args.unseen) is wanted], axis=0)
        print(f"  {group:42} {rows[0]:8.1f} {rows[1]:8.1f} {rows[2]:18.1f}      {rows[3]:5.1f}")


def zero_shots(encoder: Encoder, seen: Decoder, other: Decoder, args: argparse.Namespace, dataset: Dataset) -> None:
    """The zero-shot protocol, by a decoder that saw all masks, and by one that did not."""
    for background in (None, 3.0):
        rule = f"threshold {args.threshold:g}" if background is None else "'background' times 3"
        for name, one in (("all seen", seen), ("without", other)):
            found = zero_shot(
                encoder, one, dataset, CLASSES, args.unseen, background_factor=background, threshold=args.threshold
            )
            print(
                f"  zero-shot, {rule}, {name:10} seen {100 * found.seen:5.1f} unseen {100 * found.unseen:5.1f}"
                f" harmonic mean {100 * found.harmonic:5.1f}"
            )


def seconds(encoder: Encoder, decoder: Decoder, prompts: int = 8) -> None:
    """CPU seconds of many prompts: one encoding for all, against one for each."""
    rgb = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    pixels = prepare(rgb, 224, encoder.patch)
    vectors = text_prompts(encoder, [f"prompt {k}" for k in range(prompts)])

    def encode() -> list[torch.Tensor]:
        return block_outputs(encoder, pixels, decoder.layers)

    @torch.no_grad()
    def together() -> None:
        decoder(encode(), vectors, (14, 14))

    @torch.no_grad()
    def apart() -> None:
        for vector in vectors:
            decoder(encode(), vector[None], (14, 14))

    once, each, alone = (_cpu(call) for call in (together, apart, encode))
    print(
        f"\n{prompts} prompts of a picture of 224 x 224: {1e3 * once:.0f} ms from one encoding ({1e3 * alone:.0f} ms), "
        f"{1e3 * each:.0f} ms from {prompts}"
    )


def _cpu(call: Callable[[], object], times: int = 10) -> float:
    call()
    begun = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - begun) / times


if __name__ == "__main__":
    main()
