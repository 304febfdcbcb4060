"""Pixels compared with text: a segmenter whose list of classes is a table that can be changed when it predicts.

Plain torch; `clip_es.segmentor.models.text_heads` makes it a head of mmsegmentation. Each row of the table is the text
vector of a word, and belongs to a class; a class answers with its best row. So adding, removing or permuting rows
changes the logit of no other class.
Source: LSeg (cosine, temperature 0.07), SAZS (plain dot product, 2 rows). Differs: background is a class with rows of
its own, background words, where those two have the one word "others".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from clip_es.errors import ShapeError
from clip_es.segmentor.models.pixel_embedding import ClipPixelEmbedding, PixelEmbedding, zero_
from clip_es.segmentor.models.text_table import TextTable

NOWHERE = -1e4
"""Logit of a class that is not to win anywhere; within float16."""
LSEG_SCALE = 1 / 0.07
"""Factor between a cosine and a logit in LSeg, 14.29."""
ROWS_AT_ONCE = 256

Rows = Float32[Tensor, "row dim"]
Maps = Sequence[Float[Tensor, "batch _ _ _"]]


def pixel_text_logits(
    features: Float[Tensor, "batch dim h w"],
    rows: Float32[Tensor, "row text"],
    *,
    normalize: bool = False,
    scale: float | Tensor | None = None,
) -> Float[Tensor, "batch row h w"]:
    """Products of pixel features and text rows; cosines with `normalize`, times `scale` (None: 1).

    SAZS: neither. LSeg: both, with `LSEG_SCALE`. Raises ShapeError: text of another width.
    """
    if features.shape[1] != rows.shape[1]:
        raise ShapeError(
            "pixels and text must have vectors of one width",
            expected=f"text of {features.shape[1]} numbers, as the checkpoint was trained with",
            found=rows.shape[1],
            next_step="Name the CLIP whose text the model was trained with (--text-weights).",
        )
    if normalize:
        features, rows = F.normalize(features, dim=1), F.normalize(rows, dim=1)
    logits = torch.einsum("bdhw,rd->brhw", features, rows.to(features.dtype))
    return logits if scale is None else logits * scale


def class_logits(
    logits: Float[Tensor, "batch row h w"], owners: Int64[Tensor, " row"], count: int
) -> Float[Tensor, "batch class h w"]:
    """The best row of each class; -1e4 for a class without rows."""
    shape = (len(logits), count, *logits.shape[2:])
    index = owners[None, :, None, None].expand_as(logits)
    lowest = logits.new_full(shape, NOWHERE)
    return lowest.scatter_reduce(1, index, logits, "amax", include_self=True)


def resize_scores(
    scores: Float[Tensor, "batch class h w"], size_hw: tuple[int, int]
) -> Float[Tensor, "batch class oh ow"]:
    """Half-pixel bilinear, which for enlarging is Pillow's to 5e-7."""
    return F.interpolate(scores, size=size_hw, mode="bilinear", align_corners=False)


def poly_lr(base: float, epoch: float, epochs: int, power: float = 0.9) -> float:
    """The rate at an epoch: base (1 - epoch / epochs)^power."""
    return base * (1 - epoch / epochs) ** power


class Fold:
    """The largest logit of each pixel, whose it is and its probability, from logits of some classes at a time."""

    def __init__(self) -> None:
        self.start = 0
        """Classes so far."""
        self._best: Tensor | None = None

    def add(self, logits: Float[Tensor, "batch class h w"]) -> None:
        """Logits of the next classes. The first class wins a tie, as in argmax."""
        top, index = logits.max(1)
        if self._best is None:
            self._best, self._label, self._total = top, index, (logits - top[:, None]).exp().sum(1)
        else:
            higher = torch.maximum(self._best, top)
            self._total = self._total * (self._best - higher).exp() + (logits - higher[:, None]).exp().sum(1)
            self._label = torch.where(top > self._best, index + self.start, self._label)
            self._best = higher
        self.start += logits.shape[1]

    def answer(self) -> tuple[Int64[Tensor, "batch h w"], Float[Tensor, "batch h w"]]:
        """The class of each pixel, and its probability among all classes."""
        return self._label, 1 / self._total


def class_blocks(owners: Int64[Tensor, " row"], count: int, rows_at_once: int) -> list[tuple[int, int]]:
    """Classes in their order, first and end, so that a block has at most `rows_at_once` rows, or is one class."""
    sizes = torch.bincount(owners, minlength=count).tolist()
    blocks, first, rows = [], 0, 0
    for k, size in enumerate(sizes):
        if k > first and rows + size > rows_at_once:
            blocks.append((first, k))
            first, rows = k, 0
        rows += size
    return [*blocks, (first, count)]


class PixelText(nn.Module):
    """Pixel embeddings, a table of text rows, and the class logits that follow: what `PixelTextHead` is made of.

    Logits are cosines times a learnt scale (`normalize`), or plain products as SAZS has them; CLIP's own embeddings are
    means of unit vectors and stay as they are. With `objectness`, one
    more map says how much every class is ahead of background at a pixel, whichever class it is: it is learnt from the
    seen and holds for the unseen. The table is part of the state dict.
    """

    rows: Tensor
    owners: Tensor

    def __init__(
        self,
        embedding: PixelEmbedding,
        table: TextTable,
        *,
        normalize: bool = True,
        scale: float = LSEG_SCALE,
        objectness: bool = True,
        channels: int = 64,
    ) -> None:
        super().__init__()
        self.embedding, self.normalize, self.names = embedding, normalize, table.names
        self.trained, self.bonus = frozenset(table.names), 0.0
        self.log_scale = nn.Parameter(torch.tensor(scale).log()) if normalize else None
        self.ahead = nn.Conv2d(channels, 1, 1) if objectness else None
        if self.ahead is not None:
            zero_(self.ahead)
        self.register_buffer("rows", table.rows.clone())
        self.register_buffer("owners", table.owners.clone())

    def set_table(self, table: TextTable, bonus: float = 0.0) -> None:
        """Answer with these classes from now on. Raises ShapeError: text of another width.

        `bonus` is added to the logit of every class that was not trained on: background and the seen classes have
        been taught to win. Source: calibrated stacking, Chao et al. 2016.
        """
        self.bonus = bonus
        if table.rows.shape[1] != self.rows.shape[1]:
            pixel_text_logits(self.rows.T[None, :, :, None], table.rows)  # Says so.
        self.names = table.names
        self.rows, self.owners = table.rows.to(self.rows.device), table.owners.to(self.rows.device)

    def features(self, maps: Maps) -> tuple[Float[Tensor, "batch dim h w"], Float[Tensor, "batch channel h w"]]:
        """Embeddings, and what they were made from."""
        joined = self.joined(maps)
        return self.embedding.embed(joined, maps), joined

    def joined(self, maps: Maps) -> Float[Tensor, "batch channel h w"]:
        """What all maps say of each pixel."""
        return self.embedding.joined(maps[: len(self.embedding.inputs)])

    def forward(self, maps: Maps) -> Float[Tensor, "batch class h w"]:
        """Logits of the classes of the table, background first."""
        return self.logits(maps, self.joined(maps))

    def logits(self, maps: Maps, joined: Float[Tensor, "batch channel h w"]) -> Float[Tensor, "batch class h w"]:
        """The same, given what the maps say of each pixel."""
        classes = class_logits(self.comparer(maps, joined)(self.rows), self.owners, len(self.names))
        return self._weighed(classes, joined, 0)

    def logits_of(self, maps: Maps, text: Float32[Tensor, "class word dim"]) -> Float[Tensor, "batch class h w"]:
        """Logits of other classes, background first, given as rows for each; the bonus is left to the caller."""
        joined = self.joined(maps)
        classes = self.comparer(maps, joined)(text.flatten(0, 1)).unflatten(1, text.shape[:2]).amax(2)
        return classes if self.ahead is None else _behind(classes, self.ahead(joined))

    def stream(
        self,
        maps: Maps,
        resize: Callable[[Float[Tensor, "batch class h w"]], Float[Tensor, "batch class oh ow"]],
        rows_at_once: int = ROWS_AT_ONCE,
        background: bool = True,
    ) -> tuple[Int64[Tensor, "batch oh ow"], Float[Tensor, "batch oh ow"]]:
        """The class of each pixel and its probability, with memory for some rows at a time, however many there are.

        `resize` brings logits to the size that is asked for. Without `background` its row is left out. Classes and
        probabilities are those of all logits at once.
        """
        joined = self.joined(maps)
        compare, fold = self.comparer(maps, joined), Fold()
        order = self.owners.argsort(stable=True)
        rows, owners = self.rows[order], self.owners[order]
        for first, end in class_blocks(owners, len(self.names), rows_at_once):
            inside = (owners >= first) & (owners < end)
            some = class_logits(compare(rows[inside]), owners[inside] - first, end - first)
            some = self._weighed(some, joined, first)
            if not background and first == 0:
                some = torch.cat([torch.full_like(some[:, :1], NOWHERE), some[:, 1:]], dim=1)
            fold.add(resize(some))
        return fold.answer()

    def comparer(
        self, maps: Maps, joined: Float[Tensor, "batch channel h w"]
    ) -> Callable[[Rows], Float[Tensor, "batch row h w"]]:
        """What gives the logits of any rows for these pictures."""
        scale = None if self.log_scale is None else self.log_scale.exp()
        embedding = self.embedding
        if isinstance(embedding, ClipPixelEmbedding) and not embedding.adapt:
            # A product with a mean is the mean of the products, and there are fewer rows than dimensions.
            patches, carry = embedding.own(maps[-1]), embedding.carrier(joined, maps[-1])
            return lambda rows: carry(pixel_text_logits(patches, rows, scale=scale))
        features = embedding.embed(joined, maps)
        unit = self.normalize and not isinstance(embedding, ClipPixelEmbedding)
        return lambda rows: pixel_text_logits(features, rows, normalize=unit, scale=scale)

    def _weighed(
        self, classes: Float[Tensor, "batch class h w"], joined: Float[Tensor, "batch channel h w"], first: int
    ) -> Float[Tensor, "batch class h w"]:
        """Logits of classes from `first` on, with the bonus of those that are new, and background behind things."""
        if self.bonus:
            some = self.names[first : first + classes.shape[1]]
            strange = torch.tensor([name not in self.trained for name in some], device=classes.device)
            classes = classes + self.bonus * strange[:, None, None]
        return classes if self.ahead is None or first else _behind(classes, self.ahead(joined))


def _behind(
    classes: Float[Tensor, "batch class h w"], ahead: Float[Tensor, "batch 1 h w"]
) -> Float[Tensor, "batch class h w"]:
    """Background, which is first, lowered by what things are ahead."""
    return torch.cat([classes[:, :1] - ahead, classes[:, 1:]], dim=1)
