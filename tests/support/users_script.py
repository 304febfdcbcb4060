"""What a user's script may look like; `test_docs` has pyright read it under strict settings. It is not run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import clip_es
from clip_es import ClipEsError, FailedPicture, MaskMaker, MaskResult

maker: MaskMaker = clip_es.load("scenes", vocabulary=["cat", "dog"], device="cpu")
finder = clip_es.load(Path("x.pt"), {0: "cat"}, labels="auto", config="best")
rgb: npt.NDArray[np.uint8] = np.zeros((4, 4, 3), np.uint8)

one: MaskResult = maker(rgb, ["cat"])
one = maker("a.png", {"cat"})
one = maker(Path("a.png"), ("cat",))
one = maker(Image.new("RGB", (4, 4)), "cat")
one = maker(torch.zeros(3, 4, 4), ["cat"])
one = maker(b"abc", ["cat"])
with Path("a.png").open("rb") as file:
    one = maker(file, ["cat"])
one = finder(rgb)
saved: Path = one.save("a.png")
sheet: Image.Image = one.plot(show=True)
share: float = one.shares["cat"]
shapes = [one.mask.labels.shape, one.mask.confidence.shape, one.overlay.shape, one.image.shape]
elsewhere = (one.to_coco()["annotations"], one.to_pil().size, one.to_supervision().mask, one.names, one.vocabulary)


def pictures() -> Iterator[npt.NDArray[np.uint8]]:
    yield rgb


def pairs() -> Iterator[tuple[npt.NDArray[np.uint8], list[str]]]:
    yield rgb, ["cat"]


some: list[MaskResult | FailedPicture] = maker([rgb, rgb], [["cat"], ["dog"]])
some = maker(np.zeros((2, 4, 4, 3), np.uint8), [["cat"], ["dog"]])
some = maker(torch.zeros(2, 3, 4, 4), (("cat",), ("dog",)))
some = maker({"a": rgb}.values(), [["cat"]])
for each in maker(pictures(), [["cat"]]):
    if isinstance(each, FailedPicture):
        raise each.error
    sheet = each.plot()
for each in maker.stream(pairs(), batch_size=2):
    told = [each.image_id, each.stage, each.error]
    saved = each.save("b.png") if each.ok else Path()
for each in maker.stream(Path().glob("*.png"), (["cat"] for _ in range(3))):
    if isinstance(each, MaskResult):
        labels = each.mask.labels

try:
    moved: MaskMaker = maker.to("cuda")
except ClipEsError as error:
    reason = (error.what, error.where, error.expected, error.found, error.next_step)
version: str = clip_es.__version__
settings = (clip_es.DEFAULT.method, clip_es.PRESETS["best"].config.refine)
