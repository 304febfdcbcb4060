"""transformers' image processors for SAM 2 and SAM 3, imported without torchvision, for what they do in torch alone."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

import pytest


def processor(module: str, name: str) -> Any:
    """A class whose methods can be called unbound. torchvision's one name that its file wants is a stand-in."""
    pytest.importorskip("transformers")
    try:
        return getattr(importlib.import_module(f"transformers.models.{module}"), name)
    except ImportError:
        pass
    stands = {part: types.ModuleType(part) for part in ("torchvision", "torchvision.ops", "torchvision.ops.boxes")}
    stands["torchvision.ops.boxes"].batched_nms = None  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        for part, stand in stands.items():
            patch.setitem(sys.modules, part, stand)
        import transformers.image_processing_backends as backends

        found = getattr(backends, "TorchvisionBackend", None)
        if not isinstance(found, type):
            patch.setattr(backends, "TorchvisionBackend", type("TorchvisionBackend", (), {}), raising=False)
        return getattr(importlib.import_module(f"transformers.models.{module}"), name)
