"""The public key layouts of CLIP weights, all turned into OpenAI's.

| layout                         | known by                      | what differs                                 |
|--------------------------------|-------------------------------|----------------------------------------------|
| OpenAI, open_clip              | `visual.conv1.weight`         | nothing                                      |
| open_clip, separate text tower | `text.token_embedding.weight` | text keys carry `text.`                      |
| transformers CLIPModel         | `vision_model.embeddings...`  | names; q, k, v apart; projections transposed |
| a slim file of ours (scenes)   | `token_rows`                  | rows of unused tokens are left out           |

Keys do not tell the activation. OpenAI's is x sigmoid(1.702 x); open_clip's own trainings mostly use the plain GELU
(its model names without `-quickgelu`): `EncoderConfig.activation`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_SIZE_ENTRIES = {"input_resolution", "context_length", "vocab_size"}
_CONSTANTS = ("attn_mask", "position_ids")
"""Buffers that follow from the sizes; some savers store them."""

_TOP = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm": "visual.ln_pre",  # sic: so it is spelt in every published file
    "vision_model.post_layernorm": "visual.ln_post",
}
_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_TOWER = {"text_model": "transformer.resblocks", "vision_model": "visual.transformer.resblocks"}
_LAYER = re.compile(r"(text_model|vision_model)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def to_openai(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under OpenAI's keys. Keys of no known layout pass unchanged, for others to refuse."""
    state = _without_prefix(state, "module.")
    if "token_rows" in state and "token_embedding.weight" in state:
        from clip_es.scenes.weights import expand_token_rows

        kept = state["token_embedding.weight"]
        state["token_embedding.weight"] = expand_token_rows(kept, state.pop("token_rows"))
    state = {
        key: value
        for key, value in state.items()
        if key not in _SIZE_ENTRIES and key.rpartition(".")[2] not in _CONSTANTS
    }
    if any(key.startswith("vision_model.") for key in state):
        return _from_transformers(state)
    if "text.token_embedding.weight" in state:
        return {key.removeprefix("text."): value for key, value in state.items()}
    return state


def _without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    if state and all(key.startswith(prefix) for key in state):
        return {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)


def _from_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        stem, _, leaf = key.rpartition(".")
        if key in _TOP:
            found[_TOP[key]] = value
        elif stem in _TOP:
            found[f"{_TOP[stem]}.{leaf}"] = value
        elif key == "visual_projection.weight":
            found["visual.proj"] = value.T.contiguous()
        elif key == "text_projection.weight":
            found["text_projection"] = value.T.contiguous()
        elif match := _LAYER.fullmatch(key):
            tower, layer, part, leaf = match.groups()
            block = f"{_TOWER[tower]}.{layer}"
            if part in _BLOCK:
                found[f"{block}.{_BLOCK[part]}.{leaf}"] = value
            elif part == "self_attn.q_proj":
                thirds = [state.get(key.replace("q_proj", f"{which}_proj")) for which in "qkv"]
                if all(third is not None for third in thirds):
                    found[f"{block}.attn.in_proj_{leaf}"] = torch.cat([t for t in thirds if t is not None])
            elif part not in ("self_attn.k_proj", "self_attn.v_proj"):
                found[key] = value
        else:
            found[key] = value
    return found
