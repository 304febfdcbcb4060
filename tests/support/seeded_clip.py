"""A CLIP of ViT-B/16's size with seeded random weights: the one that part of tests/golden was recorded with.

Every tensor is drawn in float64 by numpy's PCG64 and rounded to float16, so that a loader that rounds weights to half
precision and one that does not see the same numbers. The weights are no plain Gaussian start: patch filters are smooth,
keys are correlated with queries and position embeddings vary slowly, so that attention follows the picture.
"""

from __future__ import annotations

import hashlib

import numpy as np

WIDTH, LAYERS, PATCH, GRID, EMBED, TEXT_WIDTH, TEXT_LAYERS = 768, 12, 16, 14, 512, 512, 12
CONTEXT, VOCAB, SEED = 77, 49408, 1216
DIGEST = "d440d659ca848574110d67f8a8301bebd652ac9e1218df0265a3f4e3d9fca8f3"


def vit_b_16() -> dict[str, np.ndarray]:
    """The weights under OpenAI's names, float16."""
    r = np.random.Generator(np.random.PCG64(SEED))
    state = {
        "visual.class_embedding": 0.3 * r.standard_normal(WIDTH),
        "visual.positional_embedding": _smooth_positions(r),
        "visual.conv1.weight": _patch_filters(r),
    }
    for name in ("ln_pre", "ln_post"):
        state |= _norm(r, f"visual.{name}", WIDTH)
    for i in range(LAYERS):
        state |= _block(r, f"visual.transformer.resblocks.{i}.", WIDTH, gain=1.3, attended=0.6, mlp=0.6)
    state["visual.proj"] = WIDTH**-0.5 * r.standard_normal((WIDTH, EMBED))
    for i in range(TEXT_LAYERS):
        state |= _block(r, f"transformer.resblocks.{i}.", TEXT_WIDTH, gain=0.12, attended=0.5, mlp=0.5)
    state["token_embedding.weight"] = 0.8 * r.standard_normal((VOCAB, TEXT_WIDTH))
    state["positional_embedding"] = 0.2 * r.standard_normal((CONTEXT, TEXT_WIDTH))
    state |= _norm(r, "ln_final", TEXT_WIDTH)
    state["text_projection"] = TEXT_WIDTH**-0.5 * r.standard_normal((TEXT_WIDTH, EMBED))
    return {
        **{name: value.astype(np.float16) for name, value in state.items()},
        "logit_scale": np.array(np.log(100.0), np.float32),
        "input_resolution": np.array(PATCH * GRID),
        "context_length": np.array(CONTEXT),
        "vocab_size": np.array(VOCAB),
    }


def digest(state: dict[str, np.ndarray]) -> str:
    """SHA-256 over name, shape, type and little-endian bytes of every tensor, sorted by name."""
    found = hashlib.sha256()
    for name in sorted(state):
        array = np.asarray(state[name])
        found.update(f"{name}|{array.shape}|{array.dtype}|".encode())
        found.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return found.hexdigest()


def _norm(r: np.random.Generator, name: str, width: int) -> dict[str, np.ndarray]:
    weight = 1 + 0.15 * r.standard_normal(width)
    return {f"{name}.weight": weight, f"{name}.bias": 0.1 * r.standard_normal(width)}


def _block(
    r: np.random.Generator, name: str, width: int, *, gain: float, attended: float, mlp: float
) -> dict[str, np.ndarray]:
    """`gain`: product of query and key gain; `attended` and `mlp`: size of what attention and the MLP add."""
    scale = np.sqrt(gain / width)
    query = scale * r.standard_normal((width, width))
    key = 0.8 * query + 0.6 * scale * r.standard_normal((width, width))
    value = width**-0.5 * r.standard_normal((width, width))
    state = {"attn.in_proj_weight": np.concatenate([query, key, value])}
    state["attn.in_proj_bias"] = 0.05 * r.standard_normal(3 * width)
    state["attn.out_proj.weight"] = attended * width**-0.5 * r.standard_normal((width, width))
    state["attn.out_proj.bias"] = 0.02 * r.standard_normal(width)
    state |= _norm(r, "ln_1", width)
    state["mlp.c_fc.weight"] = width**-0.5 * r.standard_normal((4 * width, width))
    state["mlp.c_fc.bias"] = 0.05 * r.standard_normal(4 * width)
    state["mlp.c_proj.weight"] = mlp * (4 * width) ** -0.5 * r.standard_normal((width, 4 * width))
    state["mlp.c_proj.bias"] = 0.02 * r.standard_normal(width)
    state |= _norm(r, "ln_2", width)
    return {name + key: value for key, value in state.items()}


def _patch_filters(r: np.random.Generator) -> np.ndarray:
    """A colour times a wave, and some noise."""
    y, x = np.mgrid[0:PATCH, 0:PATCH] / PATCH
    filters = np.empty((WIDTH, 3, PATCH, PATCH))
    for i in range(WIDTH):
        colour = r.standard_normal(3)
        flat = r.standard_normal() * np.ones((PATCH, PATCH))
        fy, fx, phase = r.uniform(-4, 4), r.uniform(-4, 4), r.uniform(0, 2 * np.pi)
        wave = 1.5 * np.cos(2 * np.pi * (fy * y + fx * x) + phase)
        both = colour[:, None, None] * (flat + wave) + 0.4 * r.standard_normal((3, PATCH, PATCH))
        filters[i] = both / (PATCH * np.sqrt(3.0))
    return filters


def _smooth_positions(r: np.random.Generator, size: float = 0.6) -> np.ndarray:
    y, x = np.mgrid[0:GRID, 0:GRID] / GRID
    positions = np.empty((GRID * GRID + 1, WIDTH))
    positions[0] = size * r.standard_normal(WIDTH)
    for i in range(WIDTH):
        fy, fx, phase = r.uniform(-1.5, 1.5), r.uniform(-1.5, 1.5), r.uniform(0, 2 * np.pi)
        wave = np.cos(2 * np.pi * (fy * y + fx * x) + phase) * np.sqrt(2)
        positions[1:, i] = size * (wave + 0.15 * r.standard_normal((GRID, GRID))).ravel()
    return positions
