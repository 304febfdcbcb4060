"""Phrases with masks, for segmenters that take prompts."""
