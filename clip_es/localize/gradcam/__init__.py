"""Softmax-GradCAM, the localizer of CLIP-ES."""
