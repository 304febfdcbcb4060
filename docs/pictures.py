"""The pictures of the README and of the pages: `python docs/pictures.py [--number 2]`, a few seconds.

figures/overview.png, figures/step-*.png: one drawn scene through every step of the method, each as it really ran.
figures/architecture.svg: the parts and what passes between them, from the tables of the code.
"""

from __future__ import annotations

import argparse
import tempfile
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clip_es import MaskMaker
from clip_es.formats.registry import FORMATS
from clip_es.localize.methods import METHODS
from clip_es.masks import palette, read_mask
from clip_es.records import voc
from clip_es.refine.registry import REFINERS
from clip_es.scaling import upsample
from clip_es.scenes.dataset import ScenesConfig, make

HERE = Path(__file__).parent / "figures"
HEIGHT, GAP, CAPTION = 190, 8, 22


def strip(pictures: list[tuple[str, np.ndarray]], height: int = HEIGHT) -> Image.Image:
    """Pictures side by side at one height, each with its caption below."""
    sized = [
        (text, Image.fromarray(p).resize((round(p.shape[1] * height / p.shape[0]), height))) for text, p in pictures
    ]
    width = sum(image.width + GAP for _, image in sized) - GAP
    sheet = Image.new("RGB", (width, height + CAPTION), "white")
    draw, x = ImageDraw.Draw(sheet), 0
    for text, image in sized:
        sheet.paste(image, (x, 0))
        draw.text((x + 2, height + 4), text, fill="#39434f", font=ImageFont.load_default(13))
        x += image.width + GAP
    return sheet


def heat(rgb: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A map in [0, 1] over a grey picture."""
    from matplotlib import colormaps

    grey = np.repeat(rgb.mean(axis=2, keepdims=True), 3, axis=2) / 255
    colour = colormaps["inferno"](values)[..., :3]
    return np.uint8(255 * (0.35 * grey + 0.65 * colour))


def steps(number: int) -> None:
    """One scene through the method, and a strip of pictures for each step."""
    maker = MaskMaker.load()
    with tempfile.TemporaryDirectory() as folder:
        dataset = voc(make(folder, ScenesConfig(train=0, val=number + 1)), "val", class_id=maker.vocabulary.class_id)
        record = dataset.records[number]
        truth = read_mask(dataset.truth[record.image_id])
        picture = maker.read(record)
    names = [maker.vocabulary.names[k] for k in record.class_ids]
    seen = maker.encode([picture])[0]
    result = maker.mask_of(picture, seen, record.class_ids)
    rgb, size = picture.rgb, picture.size_hw
    before = upsample(result.refined.found.maps, size).scores.cpu().numpy()
    after = upsample(result.refined.maps, size).scores.cpu().numpy()
    mask, colours = result.mask, palette()

    save = {"step-0-picture": [("picture", rgb), ("mask", colours[mask.labels])]}
    save["step-1-attention"] = [
        (f"a patch of the {name}", heat(rgb, _look(seen, truth == k + 1, size)))
        for name, k in zip(names, record.class_ids, strict=True)
    ]
    save["step-2-maps"] = [(name, heat(rgb, scores)) for name, scores in zip(names, before, strict=True)]
    save["step-3-affinity"] = [(name, heat(rgb, scores)) for name, scores in zip(names, after, strict=True)]
    probabilities = [(name, heat(rgb, p)) for name, p in zip(names, result.maps.scores.cpu().numpy(), strict=True)]
    if result.maps.background is not None:
        probabilities.insert(0, ("background", heat(rgb, result.maps.background.cpu().numpy())))
    save["step-4-crf"] = probabilities
    sure = np.repeat(np.uint8(255 * mask.confidence)[..., None], 3, axis=2)
    save["step-5-mask"] = [
        ("confidence", sure), ("mask, 255 pale", colours[mask.labels]), ("ground truth", colours[truth])
    ]  # fmt: skip
    save["overview"] = [
        ("picture", rgb),
        *((f"map: {name}", heat(rgb, scores)) for name, scores in zip(names[:2], before, strict=False)),
        *((f"affinity: {name}", heat(rgb, scores)) for name, scores in zip(names[:2], after, strict=False)),
        ("mask", colours[mask.labels]),
        ("ground truth", colours[truth]),
    ]
    for name, pictures in save.items():
        strip(pictures).save(HERE / f"{name}.png", optimize=True)
    print(f"{record.image_id}: {', '.join(save)}")


def _look(seen, where: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Where the patch in the middle of a region attends to, scaled to [0, 1], at full size."""
    rows, columns = seen.grid_hw
    y, x = np.argwhere(where).mean(axis=0)
    inside = np.argwhere(where)
    y, x = inside[np.abs(inside - (y, x)).sum(axis=1).argmin()]
    patch = int(y * rows / size_hw[0]) * columns + int(x * columns / size_hw[1])
    row = seen.attention[patch].reshape(rows, columns).cpu().numpy()
    row = (row - row.min()) / (row.max() - row.min())
    return np.asarray(Image.fromarray(row).resize((size_hw[1], size_hw[0]), Image.Resampling.BICUBIC)).clip(0, 1)


INK, SOFT, LINE, FILL = "#1c2430", "#5d6b7d", "#8fa0b3", "#f3f6fa"


def architecture() -> None:
    """The spine as an SVG: five steps, what passes between them, and what stands at each joint."""
    boxes = [
        ("encode", "clip_es/encoder", "frozen CLIP ViT", "tokens, attention"),
        ("locate", "clip_es/localize", " · ".join(METHODS), "one map a label"),
        ("refine", "clip_es/refine", " · ".join(REFINERS), "better maps"),
        ("decide", "clip_es/masks.py", "label + confidence", "mask, 255 undecided"),
        ("store", "clip_es/store", "a run's folder", "labels, confidence"),
        ("train", "segmentor", "mmsegmentation · pixel-text · extend to unseen classes", "a segmenter"),
    ]
    width, gap, left, top, height = 150, 34, 12, 92, 104
    total = left * 2 + len(boxes) * width + (len(boxes) - 1) * gap
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} 330" width="{total}" height="330" '
        'font-family="system-ui, sans-serif" role="img">',
        "<title>pictures and labels through encode, locate, refine, decide to masks, and a segmenter</title>",
        f'<rect width="{total}" height="330" fill="white"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{LINE}"/></marker></defs>',
    ]
    for i, (name, where, what, gives) in enumerate(boxes):
        x = left + i * (width + gap)
        parts.append(
            f'<rect x="{x}" y="{top}" width="{width}" height="{height}" rx="8" fill="{FILL}" stroke="{LINE}"/>'
        )
        parts.append(_text(x + width / 2, top + 26, name, 17, INK, "600"))
        for j, line in enumerate(_wrapped(what, 24)):
            parts.append(_text(x + width / 2, top + 47 + 15 * j, line, 12, INK))
        parts.append(_text(x + width / 2, top + height + 18, where, 11, SOFT, family="ui-monospace, monospace"))
        if i + 1 < len(boxes):
            middle = top + height / 2
            parts.append(_arrow(x + width + 2, middle, x + width + gap - 3, middle))
        parts.append(_text(x + width / 2, top + height + 36, gives, 11, SOFT))

    def above(i: int, text: str, out: bool = False) -> None:
        x = left + i * (width + gap) + width / 2
        parts.append(_text(x, 34, text, 13, INK))
        parts.append(_arrow(x, top - 2, x, 46) if out else _arrow(x, 44, x, top - 3))

    above(0, "pictures")
    above(1, "labels: given, found, none")
    above(4, ", ".join(list(FORMATS)[:4]) + ", ...", out=True)
    joint, wide = left + width + gap + width / 2, 220
    words = joint - wide / 2
    parts.append(_box(words, 262, wide, 52))
    parts.append(_text(joint, 283, "words", 13, INK, "600"))
    parts.append(_text(joint, 301, "classes, synonyms, background", 12, INK))
    parts.append(_text(words - 42, 292, "prompts", 11, SOFT, family="ui-monospace, monospace"))
    parts.append(_arrow(joint, 262, joint, top + height + 44))
    parts.append(_text(total * 0.68, 292, "pipelines/: what runs after what, and the command line over it", 12, SOFT))
    parts.append("</svg>")
    (HERE / "architecture.svg").write_text("\n".join(parts) + "\n", encoding="utf-8")
    print("architecture.svg")


def _box(x: float, y: float, width: float, height: float) -> str:
    size = f'width="{width:g}" height="{height:g}"'
    return f'<rect x="{x:g}" y="{y:g}" {size} rx="8" fill="{FILL}" stroke="{LINE}"/>'


def _text(x: float, y: float, text: str, size: int, fill: str, weight: str = "400", family: str = "") -> str:
    family = f' font-family="{family}"' if family else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" fill="{fill}" '
        f'text-anchor="middle"{family}>{escape(text)}</text>'
    )


def _arrow(x0: float, y0: float, x1: float, y1: float) -> str:
    return f'<path d="M{x0:g} {y0:g} L{x1:g} {y1:g}" stroke="{LINE}" stroke-width="1.6" marker-end="url(#tip)"/>'


def _wrapped(text: str, most: int) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def main() -> None:
    """Make all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=2, help="which scene")
    number = parser.parse_args().number
    HERE.mkdir(exist_ok=True)
    architecture()
    steps(number)


if __name__ == "__main__":
    main()
