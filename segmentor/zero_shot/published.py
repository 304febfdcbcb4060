"""Weights of the published code under our names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from clip_es.errors import WeightsError
from clip_es.segmentor.training.checkpoints import read_checkpoint
from clip_es.segmentor.zero_shot.extension import Extension

_CONV = r"conv\.(weight|bias)"
_NORM = r"bn\.(\w+)"
_UNIT = {"reduce": 1, "conv3x3": 2, "increase": 3}
_CONTEXT = {
    "contextual1": "near",
    "contextual2": "middle",
    "contextual3": "far",
    "fc_1": "selector",
    "contextualpool": "pool",
    "contextuallocalmu": "mean",
    "contextuallocalsigma": "log_variance",
}


def our_name(name: str) -> str | None:
    """What a published tensor is called here; None for one that is not known.

    Published: `scale.*` (trunk, ASPP and context; `back.` before it in a whole checkpoint), `gen.*`, `dis.*`. Ours:
    `backbone.*` and `decode_head.branches.*` of mmsegmentation, `context.*`, `generator.*`, `discriminator.*`.
    """
    name = re.sub(r"^(back\.)?(module\.)?", "", name)
    for pattern, make in _RULES:
        if found := re.fullmatch(pattern, name):
            return make(found)
    return None


def _unit(found: re.Match[str]) -> str:
    stage, block, unit, part, leaf = found.groups()
    place = f"backbone.layer{int(stage) - 1}.{int(block) - 1}"
    if unit == "proj":
        return f"{place}.downsample.{0 if part == 'conv' else 1}.{leaf}"
    return f"{place}.{part}{_UNIT[unit]}.{leaf}"


_RULES = (
    (rf"scale\.layer1\.conv1\.{_CONV}", lambda m: f"backbone.conv1.{m[1]}"),
    (rf"scale\.layer1\.conv1\.{_NORM}", lambda m: f"backbone.bn1.{m[1]}"),
    (r"scale\.layer([2-5])\.block(\d+)\.(reduce|conv3x3|increase|proj)\.(conv|bn)\.(\w+)", _unit),
    (r"scale\.aspp\.stages\.c(\d)\.(weight|bias)", lambda m: f"decode_head.branches.{m[1]}.{m[2]}"),
    (rf"scale\.({'|'.join(_CONTEXT)})\.conv\.weight", lambda m: f"context.{_CONTEXT[m[1]]}.weight"),
    (rf"gen\.mlp\.(\d)\.{_CONV}", lambda m: f"generator.layers.{m[1]}.{m[2]}"),
    (r"gen\.mlp\.5\.(weight|bias)", lambda m: f"generator.last.{m[1]}"),
    (rf"dis\.fc\.{_CONV}", lambda m: f"discriminator.shared.{m[1]}"),
    (r"dis\.pred\.(weight|bias)", lambda m: f"discriminator.critic.{m[1]}"),
    (r"dis\.cls\.(weight|bias)", lambda m: f"discriminator.classes.{m[1]}"),
    (r"net\.conv9\.(weight|bias)", lambda m: f"pixelcnn.last.{m[1]}"),
    (r"net\.conv(\d)\.0\.weight", lambda m: f"pixelcnn.convolutions.{int(m[1]) - 1}.weight"),
    (r"net\.conv(\d)\.1\.(\w+)", lambda m: f"pixelcnn.norms.{int(m[1]) - 1}.{m[2]}"),
    (r"net\.b(\d)", lambda m: f"pixelcnn.conditions.{int(m[1]) - 1}"),
)


def from_published(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """A published state dict as those of our parts: segmentor, context, generator, discriminator, pixelcnn.

    Raises WeightsError: a name that is none of the published layout.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        ours = our_name(name)
        if ours is None:
            raise WeightsError(
                "is not a tensor of the published layout",
                where=name,
                expected="scale.*, gen.*, dis.* or net.* of CaGNet",
                next_step="Remove it from the file if it belongs to no weights.",
            )
        head, rest = ours.split(".", 1)
        segmentor = head in ("backbone", "decode_head")
        parts.setdefault("segmentor" if segmentor else head, {})[ours if segmentor else rest] = value
    return parts


def load_published(path: Path, extension: Extension) -> list[str]:
    """Give the networks of an extension the weights of a published checkpoint. Returns the parts that were in it.

    Those of the segmenter are left: features were computed with the one that is extended.
    Raises WeightsError: the file is no checkpoint, has a foreign name, no part of use, or another size.
    """
    state: Mapping[str, Any] = read_checkpoint(path).state
    found = from_published({name: value for name, value in state.items() if isinstance(value, Tensor)})
    taken = []
    for name in ("context", "generator", "discriminator", "pixelcnn"):
        part = getattr(extension, name)
        if name not in found or part is None:
            continue
        try:
            part.load_state_dict(found[name])
        except RuntimeError as error:
            raise WeightsError(
                f"the published {name} does not fit",
                where=path,
                found=" ".join(str(error).split())[:300],
                next_step="Its sizes are those of --way parity on a map of 600 channels, with as many classes.",
            ) from error
        taken.append(name)
    if not taken:
        raise WeightsError(
            "holds no part of an extension",
            where=path,
            expected="context, generator, discriminator or pixelcnn",
            found=", ".join(found) or "nothing",
        )
    return taken
