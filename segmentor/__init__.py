"""What learns from the masks: mmsegmentation with a loss that knows how sure a mask is of each pixel."""

from clip_es.segmentor.compat import prepare
from clip_es.segmentor.confidence_loss import ConfidenceGuidedLoss, confidence_loss

__all__ = ["ConfidenceGuidedLoss", "confidence_loss", "prepare"]
