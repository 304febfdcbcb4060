"""SAZS's backbones for mmsegmentation: DRN with its pyramid head, and DPT on a ViT-L/16; public weights by name.

Imported by `clip_es.segmentor.prepare`, which also registers them; needs mmsegmentation. Weights are files of the
user's (`weights=`), read with `weights_only=True`; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from mmseg.models.backbones import VisionTransformer
from torch import Tensor

from clip_es.errors import WeightsError
from clip_es.segmentor.models.dpt import HOOKS, Dpt, read_dpt, resize_positions
from clip_es.segmentor.models.drn import Drn, DrnName, DrnPyramid, read_drn
from clip_es.segmentor.training.checkpoints import read_state


class DrnBackbone(BaseModule):
    """Pictures to one map [batch 512 H/8 W/8]; with `pyramid` not negative and made for a comparison with text."""

    def __init__(
        self,
        name: DrnName = "drn_d_22",
        pyramid: bool = True,
        dropout: float = 0.1,
        weights: str | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.net = DrnPyramid(name, dropout) if pyramid else Drn(name)
        if weights is not None:
            read_drn(self.net, read_state(weights), weights)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """A tuple of one."""
        return (self.net(pixels),)


class DptBackbone(BaseModule):
    """A ViT whose tokens are put together again as maps at 1/4, 1/8, 1/16 and 1/32 of the picture.

    `outputs="level2"`: SAZS's pixel embedding alone [batch 512 H/8 W/8], with a ViT cut after the block that it reads;
    "levels": all four; "path": the fused path at 1/2. Pictures must be whole patches, for "path" an even number.
    `weights` may be a timm ViT (`vit_large_patch16_384`) or a whole SAZS or LSeg checkpoint.
    """

    def __init__(
        self,
        outputs: str = "level2",
        width: int = 1024,
        heads: int = 16,
        hooks: Sequence[int] = HOOKS,
        level_features: Sequence[int] = (256, 512, 1024, 1024),
        features: int = 256,
        image_side: int = 384,
        weights: str | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.outputs = outputs
        used = hooks[1:2] if outputs == "level2" else hooks
        self.vit = VisionTransformer(
            img_size=image_side,
            patch_size=16,
            embed_dims=width,
            num_layers=max(used) + 1,
            num_heads=heads,
            out_indices=tuple(used),  # pyright: ignore[reportArgumentType]
            final_norm=False,
            output_cls_token=True,
            interpolate_mode="bilinear",
            norm_cfg={"type": "LN", "eps": 1e-6},
        )
        self.dpt = Dpt(width, level_features, features)
        if outputs == "level2":
            del self.dpt.scratch
            for level in (1, 3, 4):
                delattr(self.dpt.pretrained, f"act_postprocess{level}")
        if weights is not None:
            self.read(read_state(weights), weights)

    def read(self, state: Mapping[str, Tensor], where: object = None) -> None:
        """Give it public weights. Raises WeightsError."""
        plain = {str(k).removeprefix("module.").removeprefix("net."): v for k, v in state.items()}
        read_vit(self.vit, {k.removeprefix("pretrained.model."): v for k, v in plain.items()}, where)
        if any("act_postprocess" in key for key in plain):
            read_dpt(self.dpt, plain, where)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Maps, the finest first."""
        seen = self.vit(pixels)
        grid = tuple(seen[0][0].shape[2:])
        tokens = [torch.cat([token[:, None], patches.flatten(2).transpose(1, 2)], dim=1) for patches, token in seen]
        if self.outputs == "level2":
            return (self.dpt.level(2, tokens[0], grid),)
        levels = self.dpt.levels(tokens, grid)
        return tuple(levels) if self.outputs == "levels" else (self.dpt.fuse(levels)[0],)


def read_vit(vit: Any, state: Mapping[str, Tensor], where: object = None) -> None:
    """Give mmsegmentation's ViT the weights of a timm one. Raises WeightsError: missing, or of another shape."""
    own = vit.state_dict()
    given = {_vit_name(key): value for key, value in state.items()}
    if "pos_embed" in given and given["pos_embed"].shape != own["pos_embed"].shape:
        side = round((own["pos_embed"].shape[1] - 1) ** 0.5)
        if given["pos_embed"].ndim == 3 and given["pos_embed"].shape[2] == own["pos_embed"].shape[2]:
            given["pos_embed"] = resize_positions(given["pos_embed"], (side, side))
    missing = [key for key in own if key not in given]
    wrong = [key for key in own if key in given and own[key].shape != given[key].shape]
    if missing or wrong:
        key = (missing or wrong)[0]
        raise WeightsError(
            "these are no weights of this ViT",
            where=where,
            expected=f"{key} {list(own[key].shape)}, as timm's vit_large_patch16_384 has it",
            found=f"{len(missing)} of {len(own)} missing" if missing else f"{list(given[key].shape)}",
        )
    vit.load_state_dict({key: given[key] for key in own})


_VIT = (
    ("blocks.", "layers."),
    (".norm1.", ".ln1."),
    (".norm2.", ".ln2."),
    (".attn.qkv.", ".attn.attn.in_proj_"),
    (".attn.proj.", ".attn.attn.out_proj."),
    (".mlp.fc1.", ".ffn.layers.0.0."),
    (".mlp.fc2.", ".ffn.layers.1."),
    ("patch_embed.proj.", "patch_embed.projection."),
)


def _vit_name(key: str) -> str:
    for theirs, ours in _VIT:
        key = key.replace(theirs, ours)
    return key
