"""What learns from the masks: mmsegmentation with a loss that knows how sure a mask is of each pixel."""

from clip_es.segmentor.losses.confidence import ConfidenceGuidedLoss, confidence_loss
from clip_es.segmentor.training.compat import prepare

__all__ = ["ConfidenceGuidedLoss", "confidence_loss", "prepare"]
