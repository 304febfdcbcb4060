"""CLIP's two towers as plain torch modules whose parameter names are those of OpenAI's state dict.

Only what is shared by frozen inference and by training stands here. Reading weights is `weights.py`,
turning pictures into `EncodedImage` is `encode.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clip_es.encoder.products import Linear, plain_linear

WIDE = {1280: 80, 1408: 88, 1664: 104}
"""Channels of one head in the vision towers of ViT-H/14, ViT-g/14 and ViT-bigG/14, the only public ones so wide."""


@dataclass(frozen=True)
class TowerSizes:
    """The sizes of a CLIP ViT, as its weights tell them."""

    patch: int
    """Side of a patch in pixels."""
    width: int
    """Channels of the vision tower."""
    layers: int
    """Blocks of the vision tower."""
    grid: int
    """Patches along one side of the training picture."""
    embed: int
    """Channels of the space shared with text."""
    text_width: int
    """Channels of the text tower."""
    text_layers: int
    """Blocks of the text tower."""
    context: int = 77
    """Longest prompt in tokens, start and end included."""
    vocab: int = 49408
    """Rows of the token embedding."""
    head_width: int = 64
    """Channels of one attention head, vision and text (OpenAI: 64)."""
    stated_heads: tuple[int | None, int | None] = (None, None)
    """Attention heads of vision and text where a description of the weights states them."""
    inner: int | None = None
    """Channels inside the MLPs of the vision tower; None: four times the width."""
    text_inner: int | None = None
    """The same of the text tower."""

    @property
    def heads(self) -> int:
        """Attention heads of the vision tower."""
        return self.stated_heads[0] or self._usual(self.width, WIDE.get(self.width, self.head_width))

    @property
    def text_heads(self) -> int:
        """Attention heads of the text tower."""
        return self.stated_heads[1] or self._usual(self.text_width, self.head_width)

    @staticmethod
    def _usual(width: int, each: int) -> int:
        return max(width // each, 1)


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation of OpenAI's CLIP."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)

    @staticmethod
    def slope(x: Tensor) -> Tensor:
        """The derivative."""
        gate = torch.sigmoid(1.702 * x)
        return gate * (1 + 1.702 * x * (1 - gate))


class PlainGELU(nn.Module):
    """x times the normal distribution function of x, the activation of most CLIPs that open_clip has trained."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x)

    @staticmethod
    def slope(x: Tensor) -> Tensor:
        """The derivative."""
        below = 0.5 * (1 + torch.erf(x * 0.5**0.5))
        return below + x * torch.exp(-0.5 * x * x) * (2 * math.pi) ** -0.5


class SelfAttention(nn.Module):
    """Multi-head self-attention with the parameter names of `torch.nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.normal_(self.in_proj_weight, std=width**-0.5)

    def project(self, y: Tensor, linear: Linear = plain_linear) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens [... token width], each [... head token channel]."""
        qkv = linear(y, self.in_proj_weight, self.in_proj_bias)
        # Counted from the front: the ONNX exporter takes no negative place.
        parts = qkv.unflatten(-1, (3, self.heads, -1)).movedim(y.ndim - 1, 0)
        q, k, v = parts.transpose(-2, -3).unbind(0)
        return q, k, v

    def merge(self, heads: Tensor, linear: Linear = plain_linear) -> Tensor:
        """[... head token channel] through the output projection to [... token width]."""
        return linear(heads.transpose(-2, -3).flatten(-2), self.out_proj.weight, self.out_proj.bias)

    def forward(self, y: Tensor, causal: bool = False) -> Tensor:
        """Fused attention, which never forms the attention matrix."""
        q, k, v = self.project(y)
        return self.merge(F.scaled_dot_product_attention(q, k, v, is_causal=causal))

    def forward_with_weights(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, and the attention [... head query key] in float32 or wider; its rows sum to one."""
        q, k, v = self.project(y)
        weights = self.weights(q, k)
        return self.merge(weights.to(v.dtype) @ v), weights

    @staticmethod
    def weights(q: Tensor, k: Tensor) -> Tensor:
        """Attention [... head query key] of queries and keys [... head token channel]."""
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        # A probability needs more than bfloat16's eight bits: the softmax of narrow logits is formed in float32.
        return torch.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


class MLP(nn.Module):
    """Four times the width, or `inner`, and back."""

    def __init__(self, width: int, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or 4 * width
        self.c_fc = nn.Linear(width, inner)
        self.gelu: QuickGELU | PlainGELU = QuickGELU()
        self.c_proj = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    """A pre-norm transformer block: x + attention(ln_1 x), then x + mlp(ln_2 x)."""

    def __init__(self, width: int, heads: int, inner: int | None = None) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = MLP(width, inner)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        x = x + self.attn(self.ln_1(x), causal)
        return x + self.mlp(self.ln_2(x))

    def forward_with_weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, and the attention [... head query key]."""
        attended, weights = self.attn.forward_with_weights(self.ln_1(x))
        x = x + attended
        return x + self.mlp(self.ln_2(x)), weights


class Transformer(nn.Module):
    """Blocks in a row."""

    def __init__(self, width: int, layers: int, heads: int, inner: int | None = None) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, inner) for _ in range(layers))

    @property
    def blocks(self) -> list[Block]:
        """The blocks in order, as what they are."""
        return [block for block in self.resblocks if isinstance(block, Block)]

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        for block in self.resblocks:
            x = block(x, causal)
        return x


def _normal(std: float, *shape: int) -> nn.Parameter:
    """A normal start, in place, so that `shell` can leave it out."""
    values = nn.Parameter(torch.empty(*shape))
    nn.init.normal_(values, std=std)
    return values


class VisionTower(nn.Module):
    """Picture to tokens. Row 0 is the class token, the patches follow row by row."""

    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__()
        self.patch, self.grid = sizes.patch, sizes.grid
        self.conv1 = nn.Conv2d(3, sizes.width, sizes.patch, sizes.patch, bias=False)
        scale = sizes.width**-0.5
        self.class_embedding = _normal(scale, sizes.width)
        self.positional_embedding = _normal(scale, sizes.grid**2 + 1, sizes.width)
        self.ln_pre = nn.LayerNorm(sizes.width)
        self.transformer = Transformer(sizes.width, sizes.layers, sizes.heads, sizes.inner)
        self.ln_post = nn.LayerNorm(sizes.width)
        self.proj = _normal(scale, sizes.width, sizes.embed)

    def positions(self, grid_hw: tuple[Any, Any]) -> Tensor:
        """Position embedding [1 + patch, width] for a grid: row 0 kept, the rest bilinear with half-pixel centres.

        The grid is two integers, or what stands for them while the tower is traced.
        """
        row0, rest = self.positional_embedding[:1], self.positional_embedding[1:]
        if grid_hw == (self.grid, self.grid):
            return self.positional_embedding
        square = rest.T.reshape(1, -1, self.grid, self.grid).float()
        spread = F.interpolate(square, size=grid_hw, mode="bilinear", align_corners=False)
        return torch.cat([row0, spread.flatten(2)[0].T.to(row0.dtype)])

    def embed(self, pixels: Tensor, positions: Tensor) -> Tensor:
        """Normalised pixels [b 3 H W] and positions [1 + patch, width] to the tokens entering block 1."""
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        return self.ln_pre(torch.cat([first, patches], dim=1) + positions.to(patches.dtype))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [b 3 H W] to ln_post tokens [b 1+patch width], before the projection."""
        grid_hw = (pixels.shape[-2] // self.patch, pixels.shape[-1] // self.patch)
        return self.ln_post(self.transformer(self.embed(pixels, self.positions(grid_hw))))


class CLIP(nn.Module):
    """Both towers; `state_dict()` has OpenAI's keys (less the three size entries of its archives)."""

    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.visual = VisionTower(sizes)
        self.transformer = Transformer(sizes.text_width, sizes.text_layers, sizes.text_heads, sizes.text_inner)
        self.token_embedding = nn.Embedding(sizes.vocab, sizes.text_width)
        self.positional_embedding = _normal(0.01, sizes.context, sizes.text_width)
        self.ln_final = nn.LayerNorm(sizes.text_width)
        self.text_projection = _normal(sizes.text_width**-0.5, sizes.text_width, sizes.embed)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def with_plain_gelu(self) -> CLIP:
        """This model with the plain GELU in both towers."""
        for module in self.modules():
            if isinstance(module, MLP):
                module.gelu = PlainGELU()
        return self

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids [b length] to text vectors [b embed], not normalised.

        The vector is read at the end token, which has the largest id; attention is causal, so the padding behind it
        changes nothing and is cut away first.
        """
        end = tokens.argmax(dim=-1)
        tokens = tokens[:, : int(end.max()) + 1]
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        x = self.ln_final(self.transformer(x, causal=True))
        return x[torch.arange(len(x), device=x.device), end] @ self.text_projection


class _WithoutStart(TorchFunctionMode):
    """Leaves out what `torch.nn.init` would do."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def shell(sizes: TowerSizes) -> CLIP:
    """The modules without numbers, for weights that are assigned to them.

    Random numbers on the meta device would load torch's compiler, over a second for nothing.
    """
    with torch.device("meta"), _WithoutStart():
        return CLIP(sizes)
