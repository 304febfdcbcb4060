"""From a weights file in any public layout to OpenAI's state dict, and from that to the tower sizes.

No pickle is executed: TorchScript archives go through `archive.py`, other torch files through `weights_only=True`.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from clip_es.encoder.archive import archive_root, read_archive
from clip_es.encoder.compare import misfits
from clip_es.encoder.download import OFFICIAL, download
from clip_es.encoder.hub import DESCRIPTIONS, INDEX, fetched, hub_name, parts, weights_file
from clip_es.encoder.layouts import to_openai
from clip_es.encoder.vit import TowerSizes, shell
from clip_es.errors import WeightsError, nearest
from clip_es.scenes.weights import SHIPPED, load_scenes_state_dict, shipped_path

_EXPECTED = "a CLIP ViT in the keys of OpenAI, open_clip or transformers: OpenAI's archive, .pt, .bin or .safetensors"
_GET_ONE = f"Pass --weights with one of {', '.join(OFFICIAL)} to have the official file fetched, or another file."


def load_weights(weights: str | Path) -> dict[str, Tensor]:
    """State dict in OpenAI's layout for an official name (downloaded once), a packaged one (`scenes`), for a file or a
    snapshot folder, or for a name on the hub.

    Raises WeightsError: no such name or file, or the file cannot be used. ConfigError: the extra `hub` is missing.
    """
    if isinstance(weights, str) and weights in SHIPPED:
        return checked(load_scenes_state_dict(shipped_path(weights)), where=f"the packaged weights '{weights}'")
    official = {_plainly(name): name for name in OFFICIAL}
    if isinstance(weights, str) and _plainly(weights) in official:
        return read_state_dict(download(official[_plainly(weights)]))
    if isinstance(weights, str) and weights.upper().startswith("RN") and not Path(weights).exists():
        raise _resnet(weights)
    return read_state_dict(located(weights))


def located(weights: str | Path) -> str | Path:
    """What is given, or the weights file that it stands for: of a snapshot folder, or of a name on the hub.

    Raises WeightsError: the folder has none, or the hub does not have it. ConfigError: the extra `hub` is missing.
    """
    if not isinstance(weights, (str, os.PathLike)):
        raise WeightsError(
            "weights are named, not given",
            expected="an official name, a file, a snapshot folder or a name on the hub",
            found=type(weights).__name__,
            next_step="A state dict: MaskMaker(clip_es.encoder.build_encoder(state), vocabulary).",
        )
    if isinstance(weights, str) and (weights in SHIPPED or _plainly(weights) in map(_plainly, OFFICIAL)):
        return weights
    if name := hub_name(weights):
        return fetched(*name)
    path = Path(weights).expanduser()
    return weights_file(path) if path.is_dir() else weights


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Weights of a file under OpenAI's keys, in the file's own precision, complete and of consistent shapes.

    Raises WeightsError: the file is missing, damaged, of an unknown layout, or no CLIP ViT.
    """
    file = Path(path).expanduser()
    file = weights_file(file) if file.is_dir() else file
    if not file.is_file():
        hint = nearest(str(path), [*OFFICIAL, *SHIPPED])
        raise WeightsError(
            "no such weights file", where=file, expected=_EXPECTED, next_step=f"{hint} {_GET_ONE}".strip()
        )
    try:
        content: dict[str, Tensor] = {}
        for part in parts(file) if file.name.endswith(INDEX) else [file]:
            piece = _read(part)
            check_claims(piece, part)
            content |= piece
        return checked(content, where=file)
    except WeightsError:
        raise
    except Exception as error:  # damaged files make their readers raise almost anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if reason.startswith("Weights only load failed"):  # torch's advice here is to load it all the same
            reason = "no tensors alone, or no file of torch's"
        raise WeightsError(
            "the weights cannot be read",
            where=file,
            expected=_EXPECTED,
            found=f"{file.stat().st_size} bytes; {reason}",
            next_step="Fetch or copy the file again, and compare its size and SHA-256 with the published ones.",
        ) from error


def check_claims(content: Mapping[str, object], file: Path) -> None:
    """Refuse tensors that are larger than the file: a view with stride 0 can claim any size.

    Raises WeightsError.
    """
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    claimed = sum(value.numel() * value.element_size() for value in tensors.values())
    most = 2 * file.stat().st_size  # tied weights stand under two names
    if claimed > most:
        raise WeightsError(
            "its tensors claim more bytes than the file has",
            where=file,
            expected=f"at most {most:,}",
            found=f"{claimed:,}",
            next_step="Fetch the file again, or save each tensor as contiguous numbers.",
        )


def told_activation(weights: str | Path) -> Literal["quick_gelu", "gelu"] | None:
    """The activation that a description beside a weights file names; None where nothing does.

    transformers' config.json has `hidden_act` for each tower, open_clip_config.json has `quick_gelu`. Official names,
    the packaged ones and files without such a neighbour are told nothing about.
    """
    for told in _descriptions(weights):
        if isinstance(model := told.get("model_cfg"), dict):
            return "quick_gelu" if model.get("quick_gelu") else "gelu"
        towers = [told.get("vision_config"), told]
        for tower in towers:
            act = tower.get("hidden_act") if isinstance(tower, dict) else None
            if act in ("quick_gelu", "gelu"):
                return act
    return None


def told_heads(weights: str | Path) -> tuple[int | None, int | None]:
    """Attention heads of the vision and of the text tower, as a description beside a weights file states them.

    transformers' config.json has `num_attention_heads` for each tower; open_clip_config.json has `head_width` for
    vision and `heads` for text.
    """
    for told in _descriptions(weights):
        if isinstance(model := told.get("model_cfg"), dict):
            vision, text = model.get("vision_cfg"), model.get("text_cfg")
            width, each = (vision.get(name) if isinstance(vision, dict) else None for name in ("width", "head_width"))
            width, each = _count(width), _count(each)
            heads = width // each if width and each else None
            return heads, _count(text.get("heads") if isinstance(text, dict) else None)
        towers = [told.get("vision_config"), told.get("text_config")]
        found = [_count(one.get("num_attention_heads")) if isinstance(one, dict) else None for one in towers]
        if any(found):
            return found[0], found[1]
    return None, None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _descriptions(weights: str | Path) -> Iterator[dict[str, Any]]:
    """The JSON objects that describe a weights file, in the files beside it."""
    file = Path(weights).expanduser()
    if not file.is_file():
        return
    for name in DESCRIPTIONS:
        try:
            with (file.parent / name).open("rb") as opened:
                told = json.loads(opened.read(2**20))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(told, dict):
            yield told


def checked(state: Mapping[str, Tensor], where: object = None) -> dict[str, Tensor]:
    """The state under OpenAI's keys, or a WeightsError that says why it is no CLIP ViT."""
    state = to_openai({key: value for key, value in state.items() if isinstance(value, Tensor)})
    tower_sizes(state, where)
    for key, value in state.items():
        if not value.is_floating_point() or not _finite(value):
            raise WeightsError(
                f"'{key}' holds numbers that are not finite floats",
                where=where,
                expected="float16, bfloat16, float32 or float64 without inf or nan",
                found=value.dtype,
                next_step="Fetch or train the weights again.",
            )
    return state


def _finite(value: Tensor) -> bool:
    """Whether there is neither inf nor NaN, which shows at the ends: ten times as fast as to ask each number."""
    return not value.numel() or bool(torch.stack(value.aminmax()).isfinite().all())


def tower_sizes(
    state: Mapping[str, Tensor], where: object = None, heads: tuple[int | None, int | None] = (None, None)
) -> TowerSizes:
    """Sizes of both towers, read from the shapes; every key and shape is compared with what these sizes ask for.

    `heads`: of vision and text, which no shape tells; None: as the public models of that width have them.

    Raises WeightsError: a ResNet tower; keys missing, unknown or of the wrong shape.
    """
    if any(".layer1." in key or key.startswith("visual.attnpool") for key in state):
        raise _resnet(where)
    sizes = _sizes(state, where, heads)
    wrong = misfits(state, shell(sizes))
    if wrong:
        raise WeightsError(
            "the keys are not those of a CLIP ViT",
            where=where,
            expected=_EXPECTED,
            found=wrong,
            next_step=_GET_ONE,
        )
    return sizes


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over keys, shapes, types and bytes in sorted order: equal for equal weights, whatever file held them."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key}|{tuple(value.shape)}|{value.dtype}|".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plainly(name: str) -> str:
    """ViT-B/16, vit-b-16; ViT-L/14@336px, ViT-L/14@336: all the spellings in use."""
    return name.casefold().replace("/", "-").removesuffix("px")


def _sizes(state: Mapping[str, Tensor], where: object, heads: tuple[int | None, int | None]) -> TowerSizes:
    try:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        positions, _ = state["visual.positional_embedding"].shape
        text_width, embed = state["text_projection"].shape
        context, _ = state["positional_embedding"].shape
        vocab, _ = state["token_embedding.weight"].shape
    except (KeyError, ValueError) as error:
        raise WeightsError(
            "the keys are not those of a CLIP ViT",
            where=where,
            expected=_EXPECTED,
            found=f"{len(state)} tensors, the first {sorted(state)[:3]}; trouble with {error}",
            next_step=_GET_ONE,
        ) from error
    sizes = TowerSizes(
        patch=patch,
        width=width,
        layers=_count_blocks(state, "visual.transformer.resblocks."),
        grid=round((positions - 1) ** 0.5),
        embed=embed,
        text_width=text_width,
        text_layers=_count_blocks(state, "transformer.resblocks."),
        context=context,
        vocab=vocab,
        stated_heads=heads,
        inner=_inner(state, "visual.transformer.resblocks.", width),
        text_inner=_inner(state, "transformer.resblocks.", text_width),
    )
    for name, channels, count in (("vision", width, sizes.heads), ("text", text_width, sizes.text_heads)):
        if channels % count:
            stated = heads != (None, None)
            raise WeightsError(
                f"the {name} tower's width cannot be split into {count} heads"
                if stated
                else f"the {name} tower's width cannot be split into heads of {sizes.head_width} channels",
                where=where,
                expected=f"a multiple of {count}" if stated else f"a multiple of {sizes.head_width}, or less than that",
                found=channels,
                next_step=_GET_ONE,
            )
    return sizes


def _inner(state: Mapping[str, Tensor], prefix: str, width: int) -> int | None:
    """Channels inside the MLPs where they are not four times the width, as in ViT-g and ViT-bigG."""
    rows = state.get(f"{prefix}0.mlp.c_fc.weight")
    return None if rows is None or rows.ndim != 2 or len(rows) == 4 * width else len(rows)


def _count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    return sum(key.startswith(prefix) and key.endswith(".attn.in_proj_weight") for key in state)


def _resnet(where: object) -> WeightsError:
    return WeightsError(
        "these are weights of a ResNet CLIP, which has no patch tokens to explain",
        where=where,
        expected="a vision transformer",
        next_step=_GET_ONE,
    )


def _read(file: Path) -> Mapping[str, Tensor]:
    with file.open("rb") as opened:
        head = opened.read(9)
    if len(head) == 9 and head[8:] == b"{" and head[:2] != b"PK":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"not valid safetensors: {error}") from error
    if root := archive_root(file):
        return read_archive(file, root)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch comments on old formats; the keys are checked below in any case
        content = torch.load(file, map_location="cpu", weights_only=True)
    # Training checkpoints keep the weights one level down.
    for name in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping):
        raise ValueError(f"the file holds a {type(content).__name__}, not named tensors")
    return content
