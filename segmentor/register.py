"""Importing this registers our parts: `custom_imports = dict(imports=["clip_es.segmentor.register"])` in a config."""

from __future__ import annotations

from clip_es.segmentor.training.compat import prepare

prepare()
