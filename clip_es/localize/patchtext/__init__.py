"""Patch-text: what each patch says in words, once CLIP's last blocks have been mended."""
