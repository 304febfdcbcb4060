"""What the scenes CLIPs are trained to do, in six terms. All of them see pictures, sentences and nothing else.

Plain, the terms that public models are trained with:
1. CLIP's symmetric InfoNCE between pictures and sentences, for the class token and for the mean of the patch tokens.
2. The same between pictures and the nouns of the sentences (GroupViT).
3. The same between the patches of pictures and the nouns of sentences (`filip`).

Dense, terms of our own:
4. Nouns explain patches and patches explain nouns of their own sentence (`explain`).
5. Attention goes to patches that show the same (`disagree`), as the model itself reads them.
6. GradCAM of a noun points at the patches the model reads as that noun (`mismatch`).

Terms 4 to 6 stand in for what four hundred million photographs do: without them a model of this size knows what is in a
picture, but its explanations are coarse.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from clip_es.encoder.vit import CLIP, Block
    from clip_es.scenes.pairs import Batch
    from clip_es.scenes.recipe import Phase


def loss_of(model: CLIP, batch: Batch, phase: Phase, with_cam: bool) -> tuple[Tensor, dict[str, float]]:
    """The loss of a batch, and figures for the log.

    `with_cam` says whether term 6, which costs a second derivative, is part of this step. The figures are the loss,
    the temperature, the value of each further term, and for class token and patch mean the share of pictures whose best
    sentence (and whose best noun) is a right one.
    """
    visual = model.visual
    side = batch.pixels.shape[-1] // visual.patch
    tokens = visual.embed(batch.pixels, visual.positions((side, side)))
    if batch.kept is not None:
        seen = batch.kept[..., None].expand(-1, -1, tokens.shape[-1]) + 1
        tokens = torch.cat([tokens[:, :1], tokens.gather(1, seen)], dim=1)
    tokens, attention, entering = _through(visual.transformer.blocks, tokens, batch.bare)
    out = visual.ln_post(tokens)
    patches = _unit(out[:, 1:] @ visual.proj)
    mean = _unit(out[:, 1:].float().mean(dim=1) @ visual.proj)
    scale = model.logit_scale.exp().clamp(max=100)
    sentences, nouns = (_unit(model.encode_text(ids)) for ids in (batch.tokens, batch.prompts))

    total, figures = scale.new_zeros(()), {}
    for name, image in (("class", _unit(out[:, 0] @ visual.proj)), ("mean", mean)):
        for kind, text, right in (("", sentences, batch.same), ("noun_", nouns, batch.says)):
            logits = scale * image @ text.T
            total = total + contrast(logits, right) / 4
            figures[kind + name] = right.gather(1, logits.argmax(1, keepdim=True)).float().mean().item()

    terms = {}
    if phase.filip:
        terms["filip"] = (phase.filip, filip(scale * patches @ nouns.T, batch.says, batch.same))
    if phase.explain or phase.agree or phase.cam:
        readings = scale * patches @ nouns.T
        own = readings.detach().float().masked_fill(~batch.says[:, None], float("-inf")).softmax(dim=-1)
    if phase.explain:
        terms["explain"] = (phase.explain, explain(readings, batch.says, batch.placed))
    if phase.agree:
        terms["disagree"] = (phase.agree, disagree(attention, own, batch.placed))
    if phase.cam and with_cam:
        scores = (scale * mean @ nouns.T).masked_fill(~batch.rivals, float("-inf")).log_softmax(dim=-1)
        wanted = own.gather(2, batch.asked[:, None, None].expand(-1, own.shape[1], 1))[..., 0]
        # Inference never leaves the residual out, so only pictures that kept it in the last block are looked at.
        usable = batch.placed & ~batch.bare[-1]
        terms["mismatch"] = (phase.cam, mismatch(scores.gather(1, batch.asked[:, None]), entering, wanted, usable))
    for name, (weight, value) in terms.items():
        total = total + weight * value
        figures[name] = value.item()
    return total, figures | {"loss": total.item(), "scale": scale.item()}


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors.float(), dim=-1)


def _through(blocks: Iterable[Block], tokens: Tensor, bare: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [b token width] through the blocks; `bare` [block b] says which pictures a block meets bare.

    Returns the tokens, the attention between patches, heads averaged [block b patch patch], and what enters the
    attention of the last block [b token width].
    A bare block passes on what its attention gathered without adding what was there before. So what a patch shows has
    to come through the attention's values, which is the path GradCAM looks at.
    """
    attention = []
    for block, alone in zip(blocks, bare, strict=True):
        entering = block.ln_1(tokens)
        gathered, weights = block.attn.forward_with_weights(entering)
        attention.append(weights.float().mean(dim=1)[:, 1:, 1:])
        tokens = tokens * (~alone)[:, None, None] + gathered
        tokens = tokens + block.mlp(block.ln_2(tokens))
    return tokens, torch.stack(attention), entering


def contrast(logits: Tensor, positive: Tensor) -> Tensor:
    """Cross-entropy of logits [b t] in both directions, summed.

    The positives [b t] of a row or of a column share its target; each needs at least one.
    """
    target = positive.float()
    by_row, by_column = target / target.sum(1, keepdim=True), target / target.sum(0, keepdim=True)
    return F.cross_entropy(logits, by_row) + F.cross_entropy(logits.T, by_column.T)


_PATCHES_HEARD = 0.25
"""Share of the patches whose best nouns FILIP compares with other sentences; as there, for the sake of time."""


def filip(logits: Tensor, says: Tensor, same: Tensor) -> Tensor:
    """FILIP's contrast between pictures and the nouns of sentences.

    `logits` [b patch p] compare patches with the batch's nouns, `says` [b p] tells whose sentence holds which noun,
    `same` [b b] which sentences are positives of one another. A picture is as near to a sentence as, on average, its
    patches are to their best noun of that sentence; a sentence is as near to a picture as, on average, its nouns are to
    their best patch. Source: Yao et al. 2022, equations 4 and 5, with nouns for tokens.
    """
    held = says.float()
    by_noun = (logits.amax(dim=1).float() @ (held / held.sum(1, keepdim=True)).T).T
    places = _places(says)
    heard = logits[:, :: max(round(1 / _PATCHES_HEARD), 1)]
    best = heard[:, :, places].amax(dim=-1).float().mean(dim=1)
    target = same.float()
    target = target / target.sum(1, keepdim=True)
    return (F.cross_entropy(best, target) + F.cross_entropy(by_noun, target)) / 2


def _places(says: Tensor) -> Tensor:
    """Nouns of each sentence [b most], the first of them repeated where a sentence has fewer."""
    most = int(says.sum(1).max())
    order = says.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    return torch.where(says.gather(1, order), order, order[:, :1])


def explain(logits: Tensor, says: Tensor, placed: Tensor) -> Tensor:
    """How badly the nouns of the sentences explain the patches, and the patches the nouns.

    `logits` [b patch p] compare patches with the batch's nouns, `says` [b p] tells whose sentence holds which noun,
    `placed` [b] which sentences speak of the background. Each patch chooses among the nouns (softmax). Where the
    background is spoken of, a patch should choose some noun of its sentence; and each noun of a sentence should be
    the choice of some patch (the best one counts, as in FILIP). Which patch shows what is never told.
    """
    choice = logits.log_softmax(dim=-1)
    named = choice.masked_fill(~says[:, None], float("-inf")).logsumexp(dim=-1).mean(dim=1)
    unexplained = -(named * placed).sum() / placed.sum().clamp(min=1)
    unseen = -(choice.amax(dim=1) * says).sum() / says.sum()
    return unexplained + unseen


def disagree(attention: Tensor, reading: Tensor, placed: Tensor) -> Tensor:
    """How much attention goes to patches that show something else.

    `attention` [block b patch patch]; `reading` [b patch p] is what the model itself takes each patch for, among the
    nouns of the sentence; two patches show the same as far as their readings agree. A patch's attention to itself does
    not count. Only pictures whose background is spoken of (`placed` [b]) are used, because only there every patch has
    a name.
    """
    same = reading @ reading.transpose(1, 2)
    among = attention * (1 - torch.eye(same.shape[-1], device=same.device))
    agreed = (among * same).sum(-1) / among.sum(-1).clamp(min=1e-6)
    lost = -agreed.clamp(min=1e-6).log().mean(dim=-1).mean(dim=0)
    return (lost * placed).sum() / placed.sum().clamp(min=1)


def mismatch(scores: Tensor, entering: Tensor, wanted: Tensor, usable: Tensor) -> Tensor:
    """How far GradCAM maps are from where the model itself reads the noun.

    `scores` [b 1], each picture's own, are explained as in CLIP-ES, at what enters the attention of the last block
    `entering` [b 1+patch width]; `wanted` [b patch] is the reading. One minus the cosine of the map and the reading
    less its mean, so the map is to be negative where the noun is not. Averaged over the `usable` [b] pictures.
    """
    (slope,) = torch.autograd.grad(scores.sum(), entering, create_graph=True)
    maps = (entering[:, 1:].float() * slope[:, 1:].float().mean(dim=1, keepdim=True)).sum(dim=-1)
    lost = 1 - F.cosine_similarity(maps, wanted - wanted.mean(dim=1, keepdim=True), dim=1)
    return (lost * usable).sum() / usable.sum().clamp(min=1)
