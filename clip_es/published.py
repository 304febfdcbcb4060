"""The order of operations of the published code, for comparing bit by bit with what it saved.

Floating-point sums depend on their order, and the published maps are rounded to float16, where a last bit can move a
pixel of the CRF by several thousandths. These functions compute what `encode_text`, `localize`, `spread` and `upsample`
compute, but in that code's order, one sentence and one label at a time: on a CPU in float32 with one thread they give
its bits. They are slower, and good for nothing else.
Source: CLIP-ES, `generate_cams_voc12.py`, `clip/model.py`, `pytorch_grad_cam/base_cam.py`. Differs: nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor

from clip_es.encoder import Encoder
from clip_es.encoder.tokenize import tokenize
from clip_es.encoder.vit import SelfAttention
from clip_es.errors import ConfigError
from clip_es.localize.base import Localization, Settled
from clip_es.localize.gradcam.localizer import ClipEs
from clip_es.refine.affinity import AffinityConfig, box_mask
from clip_es.types import ClassMaps, EncodedImage, Picture, TextBank


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums split over threads have other last bits, so all of this runs with one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def encode_text(encoder: Encoder, prompts: Sequence[str]) -> Float32[Tensor, "text dim"]:
    """Unit vectors of sentences, each encoded alone and over all positions. Raises DataError: a sentence too long."""
    model, context = encoder.model, encoder.sizes.context
    causal = torch.full((context, context), float("-inf"), device=encoder.device).triu_(1)
    rows = []
    with one_thread():
        for ids in tokenize(prompts, context, encoder.sizes.vocab).to(encoder.device):
            ids = F.pad(ids, (0, context - len(ids)))
            x = (model.token_embedding(ids[None]) + model.positional_embedding).permute(1, 0, 2)
            for block in model.transformer.blocks:
                x = x + _attention(block.attn, block.ln_1(x), causal)
                x = x + block.mlp(block.ln_2(x))
            x = model.ln_final(x.permute(1, 0, 2))
            row = x[0, ids.argmax()][None] @ model.text_projection
            rows.append(row / row.norm(dim=-1, keepdim=True))
    return torch.cat(rows)


def localize(encoder: Encoder, seen: EncodedImage, bank: TextBank, class_ids: Sequence[int]) -> Localization:
    """Softmax-GradCAM with one forward and backward pass through the last block for each label."""
    visual, (rows, columns) = encoder.model.visual, seen.grid_hw
    block = visual.transformer.blocks[-1]
    text = torch.cat([bank.vectors[list(class_ids)], bank.background])
    text = text / text.norm(dim=1, keepdim=True)
    entering = seen.tokens[:, None]
    scores = torch.zeros(len(text))
    maps, raws, weights = [], [], []
    with one_thread():
        for label in range(len(class_ids)):
            with torch.enable_grad():
                y = block.ln_1(entering).detach().requires_grad_(True)
                z = entering + _attention(block.attn, y)
                z = (z + block.mlp(block.ln_2(z))).permute(1, 0, 2)
                pooled = torch.mean(visual.ln_post(z)[:, 1:, :], dim=1) @ visual.proj
                image = pooled / pooled.norm(dim=1, keepdim=True)
                scores = (encoder.model.logit_scale.exp() * image @ text.t()).softmax(dim=-1)[0]
                (gradient,) = torch.autograd.grad(scores[label], y)
            # Numpy's sums follow the memory layout, so the arrays are laid out as the published ones are.
            field, activation = (_as_map(t, rows, columns) for t in (gradient, y.detach()))
            weight = np.mean(field, axis=(2, 3))
            raw = (weight[:, :, None, None] * activation).sum(axis=1)[0]
            raws.append(raw)
            weights.append(weight[0])
            maps.append(_scale(_scale(np.maximum(raw, 0))))
    ids = tuple(int(k) for k in class_ids)
    return Localization(
        maps=ClassMaps(scores=_stack(maps), class_ids=ids),
        scores=scores.detach(),
        raw=_stack(raws),
        weights=_stack(weights),
    )


class PublishedClipEs(ClipEs):
    """CLIP-ES as a `Localizer`, in the published order of operations."""

    def encode(self, pictures: Sequence[Picture]) -> list[EncodedImage]:
        """As `ClipEs`, with one thread."""
        with one_thread():
            return super().encode(pictures)

    def locate(self, picture: Picture, seen: EncodedImage, class_ids: Sequence[int] | None) -> Localization:
        """`localize` of this module."""
        return localize(self.encoder, seen, self.bank, self.asked(class_ids))

    @staticmethod
    def settle(found: Localization, maps: ClassMaps, known: bool) -> Settled:
        """All of it, to be enlarged by OpenCV."""
        return Settled(found, maps, upsample)


def spread(
    maps: ClassMaps, attention: Float32[Tensor, "patch patch"], config: AffinityConfig, box_threshold: float
) -> ClassMaps:
    """Class-aware affinity with the matrix itself balanced, made symmetric, squared and masked."""
    threshold = box_threshold if config.box_threshold is None else config.box_threshold
    rows, columns = maps.scores.shape[1:]
    inside = box_mask(maps.scores, threshold, config.border)
    with one_thread():
        for _ in range(config.iterations):
            attention = attention / torch.sum(attention, dim=0, keepdim=True)
            attention = attention / torch.sum(attention, dim=1, keepdim=True)
        attention = (attention + attention.transpose(1, 0)) / 2
        for _ in range(config.for_tower(None).squarings or 0):
            attention = torch.matmul(attention, attention)
        carried = [
            torch.matmul(attention * mask.reshape(1, -1).float(), score.reshape(-1, 1)).reshape(rows, columns).numpy()
            for score, mask in zip(maps.scores, inside, strict=True)
        ]
    return ClassMaps(
        scores=_stack([_scale(one) for one in carried]), class_ids=maps.class_ids, unscaled=_stack(carried)
    )


def upsample(maps: ClassMaps, size_hw: tuple[int, int]) -> ClassMaps:
    """Maps at full size, resized by OpenCV. Raises ConfigError: OpenCV is not installed."""
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(
            "the published arithmetic resizes maps with OpenCV, which is not installed",
            found=error,
            next_step="Install the extra: pip install 'clip-es[opencv]'.",
        ) from error
    height, width = size_hw
    resized = [cv2.resize(one.numpy(), (width, height)) for one in maps.scores]
    return ClassMaps(scores=_stack(resized), class_ids=maps.class_ids)


def _attention(attn: SelfAttention, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of tokens [token batch width] as torch computes it when the attention weights are wanted too."""
    attended, _ = F.multi_head_attention_forward(
        y, y, y, y.shape[-1], attn.heads, attn.in_proj_weight, attn.in_proj_bias, None, None, False, 0.0,
        attn.out_proj.weight, attn.out_proj.bias, training=False, need_weights=True, attn_mask=mask,
    )  # fmt: skip
    return attended


def _as_map(tokens: Float32[Tensor, "token 1 dim"], rows: int, columns: int) -> np.ndarray:
    return tokens.permute(1, 0, 2)[:, 1:, :].reshape(1, rows, columns, -1).transpose(2, 3).transpose(1, 2).numpy()


def _scale(x: np.ndarray) -> np.ndarray:
    x = x - np.min(x)
    return x / (1e-7 + np.max(x))


def _stack(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays).astype(np.float32))
