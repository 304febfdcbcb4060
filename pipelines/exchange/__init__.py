"""Masks out to other tools, and back."""
