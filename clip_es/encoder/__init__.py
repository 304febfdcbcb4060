"""Frozen CLIP: weights in every public layout to tokens, attention and text vectors."""

from clip_es.encoder.encode import Encoder, build_encoder, load_encoder
from clip_es.encoder.vit import CLIP, TowerSizes
from clip_es.encoder.weights import load_weights, read_state_dict, tower_sizes

__all__ = [
    "CLIP",
    "Encoder",
    "TowerSizes",
    "build_encoder",
    "load_encoder",
    "load_weights",
    "read_state_dict",
    "tower_sizes",
]
