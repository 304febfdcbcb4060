"""GradCAM through the last block in closed form: what `localize` needs of the backward pass, and no more.

Only the mean over patches of the gradient at Y = ln_1(X) is wanted, one vector for each label. That is a sum over
rows, and most of the backward pass collapses under it: the last products with the query, key and value weights shrink
from a matrix to a vector each. Derivation: closed_form.md beside this file; its step numbers stand at the code below.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import repeat

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from clip_es.encoder.products import Linear, plain_linear
from clip_es.encoder.vit import VisionTower

_LARGEST_FIELD = 2**24
"""Numbers in the widest gradient field held at once; more labels than that go through in groups."""

_LARGEST_FIELD_OFF_CPU = 2**27
"""The same on a GPU, which waits for operations: two labels for each of 28 pictures of VOC's size at once."""


@dataclass(frozen=True)
class Question:
    """What is explained: scores of the first `labels` rows of `text`, against all rows of `text`."""

    text: Float[Tensor, "text embed"]
    """Unit vectors: the labels of the picture, then their competitors."""
    labels: int
    scale: float
    """Factor between a cosine and a logit."""
    softmax: bool
    """Explain probabilities; off: the logit of each label alone."""

    def scores(self, embedding: Float[Tensor, "*batch embed"]) -> Float[Tensor, "*batch text"]:
        """Scores of unit image vectors: softmax over all rows of `text`, or logits."""
        logits = self.scale * embedding @ self.text.T
        return logits.softmax(-1) if self.softmax else logits

    def gradient(self, scores: Float[Tensor, " text"]) -> Float[Tensor, "label embed"]:
        """Derivative of the score of each label by the unit image vector."""
        own = self.text[: self.labels]
        if not self.softmax:
            return self.scale * own
        return self.scale * scores[: self.labels, None] * (own - scores @ self.text)


@dataclass(frozen=True)
class Answer:
    """What explains the scores, before ReLU and scaling."""

    scores: Float[Tensor, " text"]
    weights: Float[Tensor, "label dim"] | None
    """Mean over patches of d score / d ln_1(X); None where the method has no such weights."""
    raw: Float[Tensor, "label patch"]
    """Weights times ln_1(X), patch by patch."""


class LastBlock:
    """Forward pass of the last block for the patch rows, with what the way back needs: of one picture, or of several
    of one grid.

    The class token's query and its rows of output and MLP are never used, so they are never formed; its key and value
    are.
    """

    def __init__(
        self,
        visual: VisionTower,
        tokens: Float[Tensor, "*picture token dim"],
        attention: Float[Tensor, "*picture head token token"],
        linear: Linear = plain_linear,
    ) -> None:
        block = visual.transformer.blocks[-1]
        self.visual, self.block, self.linear = visual, block, linear
        self.y = block.ln_1(tokens)
        self.q, self.k, self.v = block.attn.project(self.y, linear)
        self.attention = attention[..., 1:, :]
        self.heads_out = self.attention @ self.v
        z = tokens[..., 1:, :] + block.attn.merge(self.heads_out, linear)
        self.hat1, self.scale1 = _standardise(z, block.ln_2)
        first, second = block.mlp.c_fc, block.mlp.c_proj
        self.hidden = linear(self.hat1 * block.ln_2.weight + block.ln_2.bias, first.weight, first.bias)
        z = z + linear(block.mlp.gelu(self.hidden), second.weight, second.bias)
        self.hat2, self.scale2 = _standardise(z, visual.ln_post)
        pooled = self.hat2.mean(-2) * visual.ln_post.weight + visual.ln_post.bias
        embedding = pooled @ visual.proj
        self.length = embedding.norm(dim=-1, keepdim=True)
        self.embedding = embedding / self.length

    @property
    def patches(self) -> int:
        """Number of patches n."""
        return self.hat1.shape[-2]

    @cached_property
    def hat2_into(self) -> Float[Tensor, "*picture patch hidden"]:
        """What step 3 takes through the second layer of the MLP for all labels at once."""
        return self.linear(self.hat2, self.block.mlp.c_proj.weight.T)

    def weights(
        self, gradient: Float[Tensor, "row embed"], owner: Int64[Tensor, " row"] | None = None
    ) -> Float[Tensor, "row dim"]:
        """Mean over patches of the gradient at Y, from the gradient at the unit embedding: a row for each label.

        `owner` says to which of several pictures a row belongs; None: there is one picture.
        """
        most = _LARGEST_FIELD if gradient.device.type == "cpu" else _LARGEST_FIELD_OFF_CPU
        per_group = max(1, most // (self.patches * self.hidden.shape[-1]))
        owners = repeat(None) if owner is None else owner.split(per_group)
        groups = zip(gradient.split(per_group), owners, strict=False)
        return torch.cat([self._weights(some, _Rows(whose)) for some, whose in groups])

    def along(
        self, rows: Float[Tensor, "row dim"], owner: Int64[Tensor, " row"] | None = None
    ) -> Float[Tensor, "row patch"]:
        """Each row times Y of its picture, patch by patch."""
        return _Rows(owner).along(rows, self.y[..., 1:, :])

    def _weights(self, gradient: Tensor, rows: _Rows) -> Tensor:
        block, channels, own = self.block, self.hat1.shape[-1], rows.own
        # 2. Through the normalisation and the projection; the same row arrives at every patch.
        gradient = (gradient - rows.dot(gradient, self.embedding) * own(self.embedding)) / own(self.length)
        gradient = gradient @ self.visual.proj.T / self.patches
        # 3. ln_post: dZ2 = scale2 (U - c hat2) has structure that the product with c_proj can use.
        u = gradient * self.visual.ln_post.weight
        u = u - u.mean(-1, keepdim=True)
        c = (rows.along(u, self.hat2) / channels)[..., None]
        scale2 = own(self.scale2)
        d_z2 = scale2 * (u[:, None] - c * own(self.hat2))
        into = block.mlp.c_proj.weight
        d_hidden = scale2 * ((u @ into)[:, None] - c * own(self.hat2_into))
        # 4. The MLP, ln_2, and the residual path past both.
        d_hidden = d_hidden * own(block.mlp.gelu.slope(self.hidden))
        d_y2 = self.linear(d_hidden, block.mlp.c_fc.weight.T) * block.ln_2.weight
        hat1 = own(self.hat1)
        centred = d_y2 - d_y2.mean(-1, keepdim=True) - hat1 * (d_y2 * hat1).mean(-1, keepdim=True)
        d_z1 = d_z2 + own(self.scale1) * centred
        # 5. The output projection, split in heads: dO [row head patch channel].
        d_out = self.linear(d_z1, block.attn.out_proj.weight.T).unflatten(-1, (block.attn.heads, -1)).transpose(1, 2)
        rho = (d_out * own(self.heads_out)).sum(-1)
        # 6. The three sums over patches.
        attention, q, k, v = own(self.attention), own(self.q), own(self.k), own(self.v)
        to_class = attention[..., 0]
        d_v = ((1 - to_class)[..., None] * d_out).sum(-2)
        back = attention.mT @ torch.cat([d_out, rho[..., None]], dim=-1)
        columns = (back[..., :-1] * v).sum(-1) - back[..., -1]
        root = q.shape[-1] ** -0.5
        d_q = (columns[..., None] * k).sum(-2) * root
        at_class = to_class * ((d_out * v[..., :1, :]).sum(-1) - rho)
        d_k = -(at_class[..., None] * q[..., 1:, :]).sum(-2) * root
        # 7. Three vectors through the input projection.
        sums = torch.cat([part.flatten(-2) for part in (d_q, d_k, d_v)], dim=-1)
        return sums @ block.attn.in_proj_weight / self.patches


class _Rows:
    """Which picture each row of a gradient belongs to. One picture is taken as it is, so that its bytes do not depend
    on there being a way for many."""

    def __init__(self, owner: Int64[Tensor, " row"] | None) -> None:
        self.owner = owner

    def own(self, of_pictures: Tensor) -> Tensor:
        """What a row's picture has, for each row; of one picture for all rows."""
        return of_pictures[None] if self.owner is None else of_pictures.index_select(0, self.owner)

    def dot(self, rows: Float[Tensor, "row c"], vectors: Float[Tensor, "*picture c"]) -> Float[Tensor, "row 1"]:
        """Each row times the vector of its picture."""
        if self.owner is None:
            return (rows @ vectors)[:, None]
        return (rows * self.own(vectors)).sum(-1, keepdim=True)

    def along(
        self, rows: Float[Tensor, "row c"], fields: Float[Tensor, "*picture patch c"]
    ) -> Float[Tensor, "row patch"]:
        """Each row times each vector of its picture's field."""
        if self.owner is None:
            return rows @ fields.T
        return (self.own(fields) @ rows[..., None])[..., 0]


@torch.no_grad()
def explain(
    visual: VisionTower,
    tokens: Float[Tensor, "token dim"],
    attention: Float[Tensor, "head token token"],
    question: Question,
    linear: Linear = plain_linear,
) -> Answer:
    """GradCAM of every label of a picture from one pass through the last block.

    `tokens` enter the last block, `attention` is its attention; class token first in both. Computes in their precision,
    with `linear` for the products with weights.
    """
    last = LastBlock(visual, tokens, attention, linear)
    scores = question.scores(last.embedding)
    weights = last.weights(question.gradient(scores))
    return Answer(scores, weights, last.along(weights))


def explain_autograd(visual: VisionTower, tokens: Float[Tensor, "token dim"], question: Question) -> Answer:
    """The same by autograd through the modules themselves: slower, and the oracle of `explain` in the tests."""
    with torch.enable_grad():
        tail = Tail(visual, tokens[None].detach(), question)
        y = tail.block.ln_1(tail.tokens).detach().requires_grad_()
        scores = tail.after(y)[0]
        fields = [torch.autograd.grad(scores[k], y, retain_graph=True)[0][0, 1:] for k in range(question.labels)]
    y = y.detach()[0]
    weights = torch.stack([field.mean(0) for field in fields]) if fields else y.new_zeros(0, y.shape[-1])
    return Answer(scores.detach(), weights, weights @ y[1:].T)


class Tail(nn.Module):
    """From the tokens entering the last block to scores, as a module that gradient tools can hook into.

    Called with the tokens [b token dim]. `ln_1` of its block is the layer to explain.
    """

    def __init__(self, visual: VisionTower, tokens: Tensor, question: Question) -> None:
        super().__init__()
        self.visual, self.block = visual, visual.transformer.blocks[-1]
        self.tokens, self.question = tokens, question

    def after(self, y: Tensor) -> Tensor:
        """Scores [b text] from y = ln_1(tokens) [b token dim]; the mean over patches is what is scored."""
        z = self.tokens + self.block.attn(y)
        z = z + self.block.mlp(self.block.ln_2(z))
        pooled = self.visual.ln_post(z)[:, 1:].mean(1)
        return self.question.scores(F.normalize(pooled @ self.visual.proj, dim=-1))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.after(self.block.ln_1(tokens))


def _standardise(x: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Rows of mean 0 and variance 1, as inside a LayerNorm, and the factor [row 1] that made them so."""
    centred = x - x.mean(-1, keepdim=True)
    factor = (centred.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    return centred * factor, factor
