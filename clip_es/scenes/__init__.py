"""A drawn world in the layout of VOC, captions about it, and the small CLIP that was trained on those captions."""
