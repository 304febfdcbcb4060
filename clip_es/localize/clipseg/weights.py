"""Weights of CLIPSeg's decoder: the authors' files, the transformers port, our own; all refused where they do not fit.

The authors' loader is non-strict, so weights of the refined head go silently unused in the plain one. Here the head is
read off the keys, and every key must have its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from clip_es.encoder.compare import misfits
from clip_es.encoder.weights import check_claims
from clip_es.errors import ClipEsError, WeightsError
from clip_es.localize.clipseg.decoder import LOADED_LAYERS, Decoder, DecoderSizes
from clip_es.store.disk import write_atomic

_EXPECTED = "CLIPSeg decoder weights: the authors' .pth, the transformers port's model file, or our own .safetensors"
_UNUSED = ("reduce.", "clip_model.", "model.", "clip.")
"""A projection that no forward pass uses, and copies of CLIP, which stays the encoder's."""
_PORT = {
    "transposed_convolution": "trans_conv",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "mlp.fc1": "linear1",
    "mlp.fc2": "linear2",
}


def load_decoder(path: str | Path, layers: Sequence[int] | None = None) -> Decoder:
    """The decoder of a weights file, in eval mode.

    `layers` default to what the file says (ours do), else to `LOADED_LAYERS`.
    Raises WeightsError: no such file, damaged, of another kind, or incomplete. ConfigError: layers that do not fit.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise WeightsError("no such decoder", where=file, expected=_EXPECTED)
    try:
        return _load(file, layers)
    except ClipEsError:
        raise
    except Exception as error:  # damaged files make their readers raise almost anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError("the decoder cannot be read", where=file, expected=_EXPECTED, found=reason) from error


def _load(file: Path, layers: Sequence[int] | None) -> Decoder:
    told: Mapping[str, str] = {}
    with file.open("rb") as opened:
        slim = opened.read(9)[8:] == b"{"
    if slim:
        from safetensors import safe_open

        with safe_open(file, framework="pt") as content:
            told = content.metadata() or {}
            state = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118  it is no dict
    else:
        state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise ValueError(f"the file holds a {type(state).__name__}, not named tensors")
    check_claims(state, file)
    state = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if layers is None and "layers" in told:
        layers = [int(number) for number in told["layers"].split()]
    decoder = build_decoder(state, layers, where=file)
    decoder.side = int(told["side"]) if told.get("side", "").isdecimal() else None
    decoder.about = {key: value for key, value in told.items() if key not in ("layers", "side")}
    return decoder


def build_decoder(state: Mapping[str, Tensor], layers: Sequence[int] | None = None, where: object = None) -> Decoder:
    """The decoder of a state dict in the authors' or the port's keys, in eval mode. Raises WeightsError."""
    state = to_authors(state)
    sizes = decoder_sizes(state, where)
    decoder = Decoder(sizes, LOADED_LAYERS if layers is None else layers)
    if wrong := misfits(state, decoder):
        raise WeightsError(
            "these are no complete decoder weights",
            where=where,
            expected=_EXPECTED,
            found=wrong,
            next_step="Fetch the file again; head and decoder must come from one training.",
        )
    decoder.load_state_dict({key: value.float() for key, value in state.items()})
    return decoder.eval().requires_grad_(False)


def save_decoder(
    decoder: Decoder, path: str | Path, *, half: bool = False, about: Mapping[str, str] | None = None
) -> None:
    """Write the weights under the authors' keys as .safetensors, with the layers they read and the side they know.

    `half` stores float16; `about` is further metadata. The file appears whole or not at all. Raises StoreError.
    """
    from safetensors.torch import save

    kind = torch.float16 if half else torch.float32
    state = {key: value.detach().to("cpu", kind).contiguous() for key, value in decoder.state_dict().items()}
    metadata = {**(about or {}), "layers": " ".join(map(str, decoder.layers))}
    if decoder.side is not None:
        metadata["side"] = str(decoder.side)
    write_atomic(Path(path), save(state, metadata=metadata))


def to_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The decoder's weights under the authors' keys, without unused ones. Unknown keys pass, for others to refuse."""
    port = {key.removeprefix("decoder."): value for key, value in state.items() if key.startswith("decoder.")}
    if not port:
        return {key: value for key, value in state.items() if not key.startswith(_UNUSED)}
    found: dict[str, Tensor] = {}
    for key, value in port.items():
        if ".self_attn.q_proj." in key:
            thirds = [port.get(key.replace("q_proj", f"{which}_proj")) for which in "qkv"]
            if all(third is not None for third in thirds):
                joint = key.replace("layers.", "blocks.", 1).replace("q_proj.", "in_proj_")
                found[joint] = torch.cat([third for third in thirds if third is not None])
        elif ".self_attn.k_proj." not in key and ".self_attn.v_proj." not in key:
            for theirs, ours in _PORT.items():
                key = key.replace(theirs, ours)
            found[key.replace("layers.", "blocks.", 1)] = value
    return found


def decoder_sizes(state: Mapping[str, Tensor], where: object = None) -> DecoderSizes:
    """Sizes read from the shapes, in the authors' keys. Raises WeightsError: the keys are not those of a decoder."""
    refined = "trans_conv.0.weight" in state
    try:
        dim, embed = state["film_mul.weight"].shape
        steps = ("trans_conv.2.weight", "trans_conv.4.weight") if refined else ("trans_conv.weight",)
        patch = 1
        for key in steps:
            patch *= state[key].shape[-1]
        return DecoderSizes(
            dim=dim,
            width=state["reduces.0.weight"].shape[1],
            embed=embed,
            depth=sum(key.startswith("reduces.") and key.endswith(".weight") for key in state),
            hidden=state["blocks.0.linear1.weight"].shape[0],
            patch=patch,
            refined=refined,
        )
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(
            "the keys are not those of a CLIPSeg decoder",
            where=where,
            expected=_EXPECTED,
            found=f"{len(state)} tensors, the first {sorted(state)[:3]}; trouble with {error}",
        ) from error
