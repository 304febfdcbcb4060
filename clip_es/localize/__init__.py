"""Localizers: EncodedImage and TextBank to one map for each label."""

from clip_es.localize.clip_es import Localization, localize, localize_autograd, pooled_embedding

__all__ = ["Localization", "localize", "localize_autograd", "pooled_embedding"]
