"""Localizers: EncodedImage and TextBank to one map for each label."""

from clip_es.localize.base import Localization, Localizer
from clip_es.localize.gradcam.localizer import ClipEs, localize, localize_autograd, pooled_embedding

__all__ = ["ClipEs", "Localization", "Localizer", "localize", "localize_autograd", "pooled_embedding"]
