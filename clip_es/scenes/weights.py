"""The scenes CLIPs that ship with the package: OpenAI's keys, float16, without the rows of tokens they never saw."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from clip_es.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

VOCABULARY = 49408
"""Rows of the token embedding of OpenAI's CLIP."""


SHIPPED = {"scenes": "scenes_clip.safetensors", "scenes-plain": "scenes_clip_plain.safetensors"}
"""The names of the packaged CLIPs, trained by the recipes dense and plain, and their files."""


def shipped_path(name: str = "scenes") -> Path:
    """Where a packaged CLIP lies, by its name in SHIPPED."""
    return Path(str(files("clip_es.scenes") / "data" / SHIPPED[name]))


def shipped_decoder_path() -> Path:
    """Where the CLIPSeg decoder lies that was trained on drawn scenes for the shipped CLIP."""
    return Path(str(files("clip_es.scenes") / "data" / "scenes_clipseg.safetensors"))


def load_scenes_state_dict(path: Path | None = None) -> dict[str, Tensor]:
    """The shipped scenes CLIP (or another file of its kind) as an ordinary OpenAI state dict, float32 tensors.

    The file holds float16 values. Of `token_embedding.weight` it holds only the rows listed in `token_rows` (int ids):
    every other row is set to their mean, so that a word never seen in training says nothing in particular.
    Raises WeightsError: the file is missing, unreadable, or not of this kind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = path or shipped_path()
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            "the weights of the scenes CLIP cannot be read",
            where=path,
            found=error,
            next_step="Install the package again, or train it with `clip-es scenes train-clip`.",
        ) from error
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    rows, kept = state.pop("token_rows", None), state.get("token_embedding.weight")
    if rows is None or kept is None or len(rows) != len(kept):
        raise WeightsError(
            "not a file of the scenes CLIP",
            where=path,
            expected="token_rows with one id for each row of token_embedding.weight",
            found=f"{None if rows is None else len(rows)} ids, {None if kept is None else len(kept)} rows",
        )
    state["token_embedding.weight"] = expand_token_rows(kept, rows)
    return state


def expand_token_rows(kept: Tensor, rows: Tensor, vocabulary: int = VOCABULARY) -> Tensor:
    """Rows [kept width] with their ids [kept] to the whole table [vocabulary width]; missing rows are the mean row.

    Raises WeightsError: the ids are not one for each row, or no tokens.
    """
    if rows.shape != kept.shape[:1] or rows.numel() == 0 or not 0 <= int(rows.min()) <= int(rows.max()) < vocabulary:
        raise WeightsError(
            "token_rows must hold the token of each row of token_embedding.weight",
            expected=f"{len(kept)} ids 0..{vocabulary - 1}",
            found=f"{list(rows.shape)} ids" + (f", {int(rows.min())}..{int(rows.max())}" if rows.numel() else ""),
        )
    table = kept.mean(dim=0, keepdim=True).repeat(vocabulary, 1)
    table[rows.long()] = kept
    return table


def save_scenes_weights(state: dict[str, Tensor], token_rows: Tensor, path: Path) -> None:
    """Write a state dict whose token embedding has only the rows `token_rows`, as float16, atomically."""
    import torch
    from safetensors.torch import save_file

    slim = {name: value.detach().to(torch.float16).contiguous() for name, value in state.items()}
    slim["token_rows"] = token_rows.to(torch.int32)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    save_file(slim, part, metadata={"format": "pt"})
    part.replace(path)
