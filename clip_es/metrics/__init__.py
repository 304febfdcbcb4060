"""Figures: of masks, of labels, of phrases, of ranks."""
