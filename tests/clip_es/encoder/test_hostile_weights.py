"""Weights files that claim what they do not hold are refused before anything of that size is made."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from clip_es.encoder import CLIP, TowerSizes, read_state_dict
from clip_es.errors import ConfigError, WeightsError
from clip_es.localize.clipseg.decoder import Decoder, DecoderSizes
from clip_es.localize.clipseg.weights import load_decoder

SIZES = TowerSizes(patch=4, width=128, layers=2, grid=2, embed=8, text_width=64, text_layers=1, context=9, vocab=50)


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return CLIP(SIZES).state_dict()


@pytest.mark.parametrize("width", [10**6, 2**40, 2**50])
def test_a_view_of_one_number_is_no_tower_of_any_size(state, tmp_path, width):
    wide = torch.zeros(1).expand(width, 3, 4, 4)
    torch.save({**state, "visual.conv1.weight": wide}, tmp_path / "wide.pt")
    with pytest.raises(WeightsError, match="claim more bytes than the file has"):
        read_state_dict(tmp_path / "wide.pt")


def test_many_names_for_one_storage_are_no_deep_tower(state, tmp_path):
    name = "visual.transformer.resblocks."
    deep = {
        key.replace(f"{name}0.", f"{name}{i}."): value
        for i in range(2, 60)
        for key, value in state.items()
        if key.startswith(f"{name}0.")
    }
    torch.save({**state, **deep}, tmp_path / "deep.pt")
    with pytest.raises(WeightsError, match="claim more bytes"):
        read_state_dict(tmp_path / "deep.pt")


@pytest.mark.parametrize("rows", [[-1] * 50, [49408] * 50, list(range(49))])
def test_token_rows_that_point_nowhere_are_refused(state, tmp_path, rows):
    slim = {**state, "token_rows": torch.tensor(rows, dtype=torch.int32)}
    save_file(slim, tmp_path / "slim.safetensors")
    with pytest.raises(WeightsError):
        read_state_dict(tmp_path / "slim.safetensors")


@pytest.mark.parametrize(
    "content", [[1, 2], "text", {"a": 1}, {1: torch.zeros(1)}, {"film_mul.weight": torch.zeros(3)}]
)
@pytest.mark.parametrize("read", [read_state_dict, load_decoder])
def test_other_things_that_torch_can_save_are_no_weights(tmp_path, content, read):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(WeightsError):
        read(tmp_path / "other.pt")


@pytest.mark.parametrize("layers", ["", "x", "0 1 2", "1 0", "0 0", "-1 1", "9" * 5000])
def test_a_decoder_says_which_layers_it_reads_or_is_refused(tmp_path, layers):
    decoder = Decoder(DecoderSizes(dim=8, width=12, embed=8, depth=2, hidden=16, patch=4), (0, 1))
    tensors = {key: value.contiguous() for key, value in decoder.state_dict().items()}
    save_file(tensors, tmp_path / "d.safetensors", metadata={"layers": "0 1"})
    assert load_decoder(tmp_path / "d.safetensors").layers == (0, 1)
    save_file(tensors, tmp_path / "d.safetensors", metadata={"layers": layers})
    with pytest.raises((WeightsError, ConfigError)):
        load_decoder(tmp_path / "d.safetensors")


def test_a_decoder_of_any_size_out_of_one_number_is_refused(tmp_path):
    decoder = Decoder(DecoderSizes(dim=8, width=12, embed=8, depth=2, hidden=16, patch=4), (0, 1))
    wide = {**decoder.state_dict(), "film_mul.weight": torch.zeros(1).expand(2**34, 8)}
    torch.save(wide, tmp_path / "d.pt")
    with pytest.raises(WeightsError):
        load_decoder(tmp_path / "d.pt", (0, 1))
