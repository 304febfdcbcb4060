"""A CLIPSeg decoder that starts as CLIP's own comparison of patches with words, and keeps it.

FiLM multiplies the channels of a picture's tokens with those of a prompt. From a random start a decoder learns from
some dozens of names which factors each of them needs, and a name it never saw gets factors that mean nothing. Here the
tokens of the deepest layer read enter the channels as CLIP's patch vectors, and the prompt as CLIP's text vector, both
less their means and in the same directions; so the products, summed, are their agreement in CLIP's space, for any
name. These layers stay as they are while the rest learns to make masks of that agreement. The layout is the published
one. No mask is used, and no name but those of the training.
"""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from clip_es.encoder.encode import Encoder
from clip_es.errors import ConfigError
from clip_es.localize.clipseg.decoder import Decoder

FIXED = ("film_mul.", "film_add.", "reduces.0.")
"""Parameters that do not learn after such a start, by the beginning of their keys."""

_SMALL = 0.2
"""Standard deviation with which further layers join channels of deviation one, and the factor on what blocks add."""

_GAIN = 1.5
"""Logit of a patch whose channels agree with the prompt as much as a normalised vector can, over the square root of
their number."""


@torch.no_grad()
def start_as_clip(
    decoder: Decoder,
    encoder: Encoder,
    seen: list[Float[Tensor, "b token width"]],
    prompts: Float32[Tensor, "p embed"],
    seed: int,
) -> Decoder:
    """Set a new decoder to CLIP's comparison of patches with words, and fix the layers that make it.

    `seen`: outputs of the decoder's layers for some pictures; `prompts`: vectors of some phrases. They only tell
    where the means lie and how much each direction varies. A refined head starts at random.
    Raises ConfigError: the decoder has more channels than CLIP's space.
    """
    dim, visual = decoder.sizes.dim, encoder.model.visual
    tokens = [one[:, 1:].flatten(0, 1).float() for one in reversed(seen)]
    if dim > min(decoder.sizes.embed, len(tokens[0])):
        raise ConfigError(
            "a decoder that starts as CLIP has at most as many channels as CLIP's space, and as patches it is shown",
            expected=f"--dim of at most {min(decoder.sizes.embed, len(tokens[0]))}",
            found=dim,
        )
    reading = visual.proj.float().T * visual.ln_post.weight.float() / tokens[0].std(1, correction=0).mean()
    reading = reading - reading.mean(1, keepdim=True)  # the last layer norm, but for the deviation of each token
    patches = tokens[0] @ reading.T
    _, size, directions = torch.linalg.svd(patches - patches.mean(0), full_matrices=False)
    # Half whitened, so that background does not take most channels; and turned, so that all carry alike.
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed)))[0].to(size.device)
    basis = (directions[:dim].T * (size[:dim] + size[0] / 8) ** -0.5) @ turn
    # Layer norms take the mean over the channels away, so half of the products count negatively.
    sign = torch.ones(dim, device=size.device)
    sign[1::2] = -1
    reduces = cast("list[nn.Linear]", list(decoder.reduces))
    blocks = cast("list[nn.TransformerEncoderLayer]", list(decoder.blocks))
    _project(reduces[0], basis.T @ reading, tokens[0])
    _project(decoder.film_mul, sign[:, None] * basis.T, prompts)
    nn.init.zeros_(decoder.film_add.weight)
    nn.init.zeros_(decoder.film_add.bias)
    for reduce, further in zip(reduces[1:], tokens[1:], strict=True):
        _project(reduce, reduce.weight, further, _SMALL)
    for block in blocks:
        block.self_attn.out_proj.weight.mul_(_SMALL)
        block.linear2.weight.mul_(_SMALL)
        block.linear2.bias.zero_()
    if isinstance(decoder.trans_conv, nn.ConvTranspose2d):
        decoder.trans_conv.weight.mul_(0.1).add_(_GAIN * dim**-0.5 * sign[:, None, None, None])
        if decoder.trans_conv.bias is not None:
            decoder.trans_conv.bias.fill_(-_GAIN)
    for key, parameter in decoder.named_parameters():
        parameter.requires_grad_(not key.startswith(FIXED))
    return decoder


def _project(layer: nn.Linear, weight: Tensor, shown: Float[Tensor, "row width"], deviation: float = 1.0) -> None:
    """A layer whose output, over the rows shown, has mean zero in each channel and this deviation over all."""
    centre = shown.mean(0)
    factor = deviation / ((shown - centre) @ weight.T).std().clamp_min(1e-6)
    layer.weight.copy_(factor * weight)
    layer.bias.copy_(-(layer.weight @ centre))
