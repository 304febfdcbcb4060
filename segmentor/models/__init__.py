"""Parts of segmenters: heads and backbones."""
