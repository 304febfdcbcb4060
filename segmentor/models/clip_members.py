"""What a frozen CLIP says of each patch in the space of its text, in several ways."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from clip_es.config.methods import CliperConfig
from clip_es.encoder import Encoder
from clip_es.localize.cliper.layers import read_layers, see


@torch.no_grad()
def clip_members(
    encoder: Encoder, pixels: Float[Tensor, "1 3 h w"], projected: Float[Tensor, "1 token dim"]
) -> Float[Tensor, "1 member_dim gh gw"]:
    """Unit embeddings of the patches of one picture, one behind the other: the last tokens (`projected`), every layer
    as CLIPer reads it, and the class token at every patch. As many as the tower has blocks, and two.
    """
    sight = see(encoder, pixels)
    layers = read_layers(encoder, sight, CliperConfig()).layers
    patches = [projected[0, 1:], *layers[:, 1:], projected[0, :1].expand(projected.shape[1] - 1, -1)]
    members = torch.cat([F.normalize(part, dim=-1) for part in patches], dim=1)
    return members.T.unflatten(1, sight.grid_hw)[None]
