"""Pixels compared with text: a segmenter whose list of classes is a table that can be changed when it predicts.

Plain torch; `clip_es.segmentor.models.text_heads` makes it a head of mmsegmentation. Each row of the table is the text
vector of a word, and belongs to a class; a class answers with its best row. So adding, removing or permuting rows
changes the logit of no other class.
Source: LSeg (cosine, temperature 0.07), SAZS (plain dot product, 2 rows). Differs: background is a class with rows of
its own, background words, where those two have the one word "others".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from clip_es.encoder import Encoder
from clip_es.errors import ConfigError, ShapeError

LSEG_SCALE = 1 / 0.07
"""Factor between a cosine and a logit in LSeg, 14.29."""
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class TextTable:
    """Rows of text vectors and the class each belongs to; class 0 is background."""

    names: tuple[str, ...]
    """Of the classes, background first."""
    rows: Float32[Tensor, "row dim"]
    owners: Int64[Tensor, " row"]
    """Class of each row, 0..len(names) - 1; a class without rows is never predicted."""

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ConfigError("a class is named twice", found=", ".join(twice), next_step="Name each class once.")
        if len(self.names) < 2:
            raise ConfigError("there is no class to look for", expected="at least one name", found="none")
        if self.rows.ndim != 2 or self.owners.shape != self.rows.shape[:1]:
            raise ShapeError(
                "each row of a text table belongs to one class",
                expected=f"[{len(self.owners)} dim]",
                found=list(self.rows.shape),
            )


def text_table(
    encoder: Encoder,
    words: Sequence[Sequence[str]],
    background: Sequence[str] = (),
    templates: Sequence[str] = ("a photo of a {}.",),
) -> TextTable:
    """Rows for classes, each with its name and synonyms, and for background words.

    The row of a word is the mean of its unit vectors over the templates, made unit again.
    Raises ConfigError: no class, an empty name, or one that occurs twice. DataError: a sentence is too long for the
    text tower.
    """
    if not words:
        raise ConfigError("there is no class to look for", expected="at least one name", found="an empty list")
    for row in words:
        if not row or not all(word.strip() for word in row):
            raise ConfigError("a class has no name", found=list(map(list, words)))
    wanted = [*background, *(word for row in words for word in row)]
    owners = [0] * len(background) + [k for k, row in enumerate(words, start=1) for _ in row]
    sentences = [template.replace("{}", word) for word in wanted for template in templates]
    vectors = encoder.encode_text(sentences).unflatten(0, (len(wanted), len(templates))).mean(1)
    names = ("background", *(row[0] for row in words))
    return TextTable(names, F.normalize(vectors, dim=-1).float().cpu(), torch.tensor(owners))


def pixel_text_logits(
    features: Float[Tensor, "batch dim h w"],
    rows: Float32[Tensor, "row dim"],
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
    lowest = logits.new_full(shape, -1e4)
    return lowest.scatter_reduce(1, index, logits, "amax", include_self=True)


def stream_labels(
    features: Float[Tensor, "batch dim h w"],
    table: TextTable,
    size_hw: tuple[int, int],
    *,
    normalize: bool = True,
    scale: float = 1.0,
    rows_at_once: int = ROWS_AT_ONCE,
    progress: Iterable | None = None,
) -> tuple[Int64[Tensor, "batch oh ow"], Float[Tensor, "batch oh ow"]]:
    """The class of each pixel and its probability among all rows, at full size, with memory for some rows at a time.

    Any number of classes: logits of `rows_at_once` rows are formed, resized, and folded into the best so far and the
    running sum of exponentials. The class is that of the largest resized row, as `resize` then argmax would say.
    """
    best = features.new_full((len(features), *size_hw), -torch.inf)
    label = torch.zeros(best.shape, dtype=torch.int64, device=features.device)
    total = torch.zeros_like(best)
    for start in range(0, len(table.rows), rows_at_once):
        rows = table.rows[start : start + rows_at_once].to(features.device)
        owners = table.owners[start : start + rows_at_once].to(features.device)
        some = resize_scores(pixel_text_logits(features, rows, normalize=normalize, scale=scale), size_hw)
        top, index = some.max(1)
        higher = torch.maximum(best, top)
        total = total * (best - higher).exp() + (some - higher[:, None]).exp().sum(1)
        label = torch.where(top > best, owners[index], label)
        best = higher
    return label, 1 / total


def resize_scores(
    scores: Float[Tensor, "batch class h w"], size_hw: tuple[int, int]
) -> Float[Tensor, "batch class oh ow"]:
    """Half-pixel bilinear, which for enlarging is Pillow's to 5e-7."""
    return F.interpolate(scores, size=size_hw, mode="bilinear", align_corners=False)


def poly_lr(base: float, epoch: float, epochs: int, power: float = 0.9) -> float:
    """The rate at an epoch: base (1 - epoch / epochs)^power."""
    return base * (1 - epoch / epochs) ** power


class PixelEmbedding(nn.Module):
    """Maps of a backbone to pixel embeddings on the finest of their grids: each to `channels`, joined, projected.

    Starts from random weights, so it learns the text's space from the masks of the seen classes alone.
    """

    def __init__(self, in_channels: Sequence[int], embed: int, channels: int = 64) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(_unit(width, channels) for width in in_channels)
        self.fuse = _unit(channels * len(in_channels), channels)
        self.out: nn.Module = nn.Conv2d(channels, embed, 1)

    def joined(self, maps: Sequence[Float[Tensor, "batch _ _ _"]]) -> Float[Tensor, "batch channel h w"]:
        """What all maps say of each pixel."""
        size = maps[0].shape[2:]
        parts = [layer(seen) for layer, seen in zip(self.inputs, maps, strict=True)]
        even = [F.interpolate(part, size=size, mode="bilinear", align_corners=False) for part in parts]
        return self.fuse(torch.cat(even, dim=1))

    def embed(
        self, joined: Float[Tensor, "batch channel h w"], maps: Sequence[Float[Tensor, "batch _ _ _"]]
    ) -> Float[Tensor, "batch dim h w"]:
        """Embeddings on the grid of the first map."""
        return self.out(joined)


class ClipPixelEmbedding(PixelEmbedding):
    """The frozen CLIP's own embeddings of its patches, brought to pixels by attention that is learnt.

    The last map holds the patches in CLIP's common space, once or in several ways (`clip_members`), which are added
    with learnt weights, one number for each. Every pixel takes a weighted mean of them; its weights follow
    from what the pixel looks like and how far a patch is, so what is learnt (which patch a pixel belongs to) speaks of
    no class and holds for those never trained on. `adapt` adds a correction of the embedding, from zero: it learns the
    seen classes better, and is no help to others.
    """

    def __init__(
        self, in_channels: Sequence[int], embed: int, channels: int = 64, keys: int = 32, adapt: float = 0.0
    ) -> None:
        super().__init__(in_channels[:-1], embed, channels)
        if in_channels[-1] % embed:
            raise ShapeError("the last map must lie in the text's space", expected=embed, found=in_channels[-1])
        self.adapt, self.embed_dim = adapt, embed
        self.mix = nn.Parameter(torch.zeros(in_channels[-1] // embed))
        """Logarithms of the weights of the members."""
        self.query = nn.Conv2d(channels, keys, 1)
        self.key = nn.Conv2d(channels, keys, 1)
        self.nearness = nn.Parameter(torch.tensor(1.5))
        """How fast a patch's weight falls with its distance, in patches: exp(-nearness d^2) at first alone."""
        _zero(self.query)
        if adapt:
            _zero(self.out)
        else:
            self.out = nn.Identity()

    def embed(
        self, joined: Float[Tensor, "batch channel h w"], maps: Sequence[Float[Tensor, "batch _ _ _"]]
    ) -> Float[Tensor, "batch dim h w"]:
        """Embeddings on the grid of the first map: means of unit vectors, and the correction."""
        mixed = self.carry(joined, self.own(maps[-1]))
        return mixed + self.adapt * self.out(joined) if self.adapt else mixed

    def own(self, members: Float[Tensor, "batch member_dim gh gw"]) -> Float[Tensor, "batch dim gh gw"]:
        """CLIP's embedding of each patch: the weighted sum of its members, each of unit length."""
        units = F.normalize(members.unflatten(1, (-1, self.embed_dim)), dim=2)
        return torch.einsum("m,bmdhw->bdhw", self.mix.softmax(0), units)

    def carry(
        self, joined: Float[Tensor, "batch channel h w"], patches: Float[Tensor, "batch any gh gw"]
    ) -> Float[Tensor, "batch any h w"]:
        """What patches hold, brought to pixels: for each a weighted mean."""
        grid, size = (patches.shape[2], patches.shape[3]), (joined.shape[2], joined.shape[3])
        coarse = F.adaptive_avg_pool2d(joined, grid)
        queries, keys = self.query(joined).flatten(2), self.key(coarse).flatten(2)
        alike = torch.einsum("bkp,bkg->bpg", queries, keys) * queries.shape[1] ** -0.5
        weights = (alike - F.softplus(self.nearness) * _squared_distances(size, grid, joined)).softmax(-1)
        return torch.einsum("bpg,bdg->bdp", weights, patches.flatten(2)).unflatten(2, size)


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
            _zero(self.ahead)
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

    def features(
        self, maps: Sequence[Float[Tensor, "batch _ _ _"]]
    ) -> tuple[Float[Tensor, "batch dim h w"], Float[Tensor, "batch channel h w"]]:
        """Embeddings, and what they were made from."""
        joined = self.embedding.joined(maps[: len(self.embedding.inputs)])
        return self.embedding.embed(joined, maps), joined

    def forward(self, maps: Sequence[Float[Tensor, "batch _ _ _"]]) -> Float[Tensor, "batch class h w"]:
        """Logits of the classes of the table, background first."""
        return self.logits(maps, self.embedding.joined(maps[: len(self.embedding.inputs)]))

    def logits(
        self, maps: Sequence[Float[Tensor, "batch _ _ _"]], joined: Float[Tensor, "batch channel h w"]
    ) -> Float[Tensor, "batch class h w"]:
        """The same, given what the maps say of each pixel."""
        scale = None if self.log_scale is None else self.log_scale.exp()
        if isinstance(self.embedding, ClipPixelEmbedding) and not self.embedding.adapt:
            # A product with a mean is the mean of the products, and there are fewer rows than dimensions.
            patches = pixel_text_logits(self.embedding.own(maps[-1]), self.rows, scale=scale)
            rows = self.embedding.carry(joined, patches)
        else:
            features = self.embedding.embed(joined, maps)
            unit = self.normalize and not isinstance(self.embedding, ClipPixelEmbedding)
            rows = pixel_text_logits(features, self.rows, normalize=unit, scale=scale)
        classes = class_logits(rows, self.owners, len(self.names))
        if self.bonus:
            strange = torch.tensor([name not in self.trained for name in self.names], device=classes.device)
            classes = classes + self.bonus * strange[:, None, None]
        if self.ahead is None:
            return classes
        return torch.cat([classes[:, :1] - self.ahead(joined), classes[:, 1:]], dim=1)


def _squared_distances(size: Sequence[int], grid: Sequence[int], like: Tensor) -> Float[Tensor, "pixel patch"]:
    """Between pixels and centres of patches, in patches."""
    rows, columns = (
        (torch.arange(fine, device=like.device) + 0.5)[:, None] * coarse / fine
        - (torch.arange(coarse, device=like.device) + 0.5)
        for fine, coarse in zip(size, grid, strict=True)
    )
    squares = rows.square()[:, None, :, None] + columns.square()[None, :, None, :]
    return squares.reshape(size[0] * size[1], grid[0] * grid[1]).to(like.dtype)


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def _unit(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True))
