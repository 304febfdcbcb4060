"""The frozen encoder against OpenAI's own model class, against recorded arrays, and against its own promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recorded import CASES, GOLDEN, recorded
from seeded_clip import DIGEST, digest, vit_b_16
from torch import Tensor

from clip_es.config.run import EncoderConfig
from clip_es.encoder import CLIP, Encoder, TowerSizes, build_encoder, load_encoder, tower_sizes
from clip_es.encoder.encode import PIXEL_MEAN, PIXEL_STD
from clip_es.encoder.tokenize import _candidates, load_file, tokenize
from clip_es.errors import ConfigError, DataError, ShapeError

SIZES = TowerSizes(patch=8, width=128, layers=3, grid=4, embed=32, text_width=64, text_layers=2)


def small_state(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return CLIP(SIZES).state_dict()


@pytest.fixture(scope="module")
def exact() -> Encoder:
    """Three layers of width 128 with nothing rounded."""
    return build_encoder(small_state(), device="cpu", config=EncoderConfig(half_weights=False, half_positions=False))


@pytest.fixture(scope="module")
def tiny224() -> Encoder:
    return load_encoder(GOLDEN / "tiny224.pt", device="cpu")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def openai_model(state: dict[str, Tensor]) -> Any:
    module = load_file(next(_candidates()).with_name("model.py"))
    s = tower_sizes(state)
    towers = (s.embed, s.patch * s.grid, s.layers, s.width, s.patch)
    model = module.CLIP(*towers, s.context, s.vocab, s.text_width, s.text_heads, s.text_layers)
    model.load_state_dict(state)
    return model.eval()


# OpenAI's own model class


def test_image_features_are_those_of_openais_class(exact):
    pixels = exact._pixels([picture(32, 32, 1), picture(32, 32, 2)])
    with torch.no_grad():
        theirs = openai_model(small_state()).encode_image(pixels)
        ours = exact.model.visual(pixels)[:, 0] @ exact.model.visual.proj
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_text_vectors_are_those_of_openais_class(exact):
    prompts = ["a dog", "a photo of a very large cat.", "", "dog " * 75]
    with torch.no_grad():
        theirs = openai_model(small_state()).encode_text(F.pad(tokenize(prompts), (0, 0)))
    torch.testing.assert_close(exact.encode_text(prompts), F.normalize(theirs, dim=-1), rtol=0, atol=1e-5)


def test_the_tokens_carry_on_to_openais_feature(exact):
    # Block L from our tokens must end where OpenAI's whole tower ends.
    pixels = picture(32, 32, 3)
    seen = exact.encode([pixels])[0]
    visual = exact.model.visual
    with torch.no_grad():
        last = visual.ln_post(visual.transformer.blocks[-1](seen.tokens[None]))[:, 0] @ visual.proj
        theirs = openai_model(small_state()).encode_image(exact._pixels([pixels]))
    torch.testing.assert_close(last, theirs, rtol=0, atol=1e-5)


def test_attention_is_that_of_torchs_own_layer(exact):
    seen = exact.encode([picture(24, 40)], attention_layers=1)[0]
    block = exact.model.visual.transformer.blocks[-1]
    theirs = torch.nn.MultiheadAttention(128, 2, batch_first=True)
    theirs.load_state_dict(block.attn.state_dict())
    with torch.no_grad():
        y = block.ln_1(seen.tokens[None])
        weights = theirs(y, y, y, average_attn_weights=False)[1][0]
    torch.testing.assert_close(seen.last_attention, weights, rtol=0, atol=1e-6)
    torch.testing.assert_close(seen.attention, weights.mean(0)[1:, 1:], rtol=0, atol=1e-6)


# recorded arrays; tolerances: tests/golden/README.md


@pytest.mark.parametrize("case", CASES)
def test_tokens_and_attention_are_the_recorded_ones(case, tiny224):
    told = recorded(f"{case}/tiny224")
    seen = tiny224.encode([told["input_u8"]])[0]
    assert np.array_equal(tiny224.positions(seen.grid_hw).numpy(), told["pos_embed"])
    assert np.abs(seen.tokens.numpy() - told["enc_last_in"]).max() <= 2e-5
    assert np.abs(seen.attention.numpy() - told["attn_mean"]).max() <= 2e-6
    if "input_f32" in told:
        assert np.abs(tiny224._pixels([told["input_u8"]])[0].numpy() - told["input_f32"]).max() <= 1e-6
    if "attn_layers" in told:
        last = seen.last_attention.mean(0).numpy()
        assert np.abs(last - told["attn_layers"][-1]).max() <= 2e-6


def test_fewer_layers_average_the_last_ones(tiny224):
    told = recorded("rocket_17x400/tiny224")
    for layers in (1, 2, 3, 4):
        wanted = told["attn_layers"][-layers:, 1:, 1:].mean(0)
        seen = tiny224.encode([told["input_u8"]], attention_layers=layers)[0]
        assert np.abs(seen.attention.numpy() - wanted).max() <= 2e-6


# promises


def test_a_batch_of_one_gives_the_bytes_of_a_batch_of_many(exact):
    pictures = [picture(24, 40, seed) for seed in range(5)]
    together = exact.encode(pictures)
    for alone, seen in zip((exact.encode([p])[0] for p in pictures), together, strict=True):
        assert torch.equal(alone.tokens, seen.tokens)
        assert torch.equal(alone.attention, seen.attention)
        assert torch.equal(alone.last_attention, seen.last_attention)


def test_attention_rows_miss_what_the_class_token_takes(exact):
    seen = exact.encode([picture(24, 40)], attention_layers=1)[0]
    torch.testing.assert_close(seen.last_attention.sum(-1), torch.ones(2, 16), rtol=0, atol=1e-6)
    missing = seen.last_attention[:, 1:, 0].mean(0)
    torch.testing.assert_close(seen.attention.sum(1), 1 - missing, rtol=0, atol=1e-6)
    assert float(missing.min()) > 0


@pytest.mark.parametrize("grid", [(1, 1), (1, 9), (9, 1), (4, 19), (2, 38), (4, 4)])
def test_every_grid_is_just_a_grid(grid, exact):
    # 4x19 and 2x38 are 77 tokens, which the published code takes for text.
    seen = exact.encode([picture(8 * grid[0], 8 * grid[1])])[0]
    assert seen.grid_hw == grid
    assert seen.tokens.shape == (grid[0] * grid[1] + 1, 128)
    assert bool(torch.isfinite(seen.attention).all())


def test_one_layer_is_enough():
    torch.manual_seed(0)
    encoder = build_encoder(CLIP(TowerSizes(8, 32, 1, 4, 16, 32, 1, vocab=49408)).state_dict(), device="cpu")
    seen = encoder.encode([picture(16, 16)])[0]
    assert (encoder.sizes.heads, encoder.sizes.layers) == (1, 1)
    assert torch.equal(seen.attention, seen.last_attention.mean(0)[1:, 1:])


def test_pixels_are_normalised_as_clip_wants_them(exact):
    value = np.full((8, 8, 3), 51, np.uint8)
    wanted = [(0.2 - mean) / std for mean, std in zip(PIXEL_MEAN, PIXEL_STD, strict=True)]
    assert exact._pixels([value])[0, :, 0, 0].tolist() == pytest.approx(wanted, abs=1e-6)


def test_only_what_openais_loader_rounds_is_rounded():
    state = small_state()
    rounded = build_encoder(state, device="cpu").model.state_dict()
    for key, value in state.items():
        keeps = key.rpartition(".")[0].endswith(("ln_1", "ln_2", "ln_pre", "ln_post", "ln_final")) or key.endswith(
            ("embedding", "token_embedding.weight", "logit_scale")
        )
        assert torch.equal(rounded[key], value if keeps else value.half().float()), key
        assert rounded[key].dtype == torch.float32
    assert not torch.equal(rounded["visual.proj"], state["visual.proj"])


def test_positions_are_rounded_after_interpolation_with_their_first_row():
    state = small_state()
    told = build_encoder(state, device="cpu").positions((3, 5))
    plain = build_encoder(state, device="cpu", config=EncoderConfig(half_positions=False)).positions((3, 5))
    assert torch.equal(plain[0], state["visual.positional_embedding"][0])
    assert torch.equal(told, plain.half().float())
    assert not torch.equal(told[0], plain[0])


def test_positions_of_the_own_grid_are_the_stored_ones(exact):
    assert torch.equal(exact.positions((4, 4)), small_state()["visual.positional_embedding"])


def test_bfloat16_stays_near_float32_and_hands_out_float32():
    pictures = [picture(32, 32, seed) for seed in range(2)]
    exact = build_encoder(small_state(), device="cpu").encode(pictures)
    quick = build_encoder(small_state(), device="cpu", config=EncoderConfig(dtype="bfloat16"))
    assert quick.model.visual.transformer.blocks[0].mlp.c_fc.weight.dtype == torch.bfloat16
    assert quick.model.visual.transformer.blocks[-1].mlp.c_fc.weight.dtype == torch.float32
    for a, b in zip(exact, quick.encode(pictures), strict=True):
        assert b.tokens.dtype == b.attention.dtype == b.last_attention.dtype == torch.float32
        assert 0 < float((a.tokens - b.tokens).abs().max()) < 0.1
        torch.testing.assert_close(a.attention, b.attention, rtol=0, atol=1e-2)


def test_the_encoder_does_not_share_memory_with_the_state_it_was_made_from():
    state = small_state()
    encoder = build_encoder(state, device="cpu")
    before = encoder.encode([picture(16, 16)])[0].tokens
    for value in state.values():
        value.zero_()
    assert torch.equal(encoder.encode([picture(16, 16)])[0].tokens, before)


def test_text_rows_are_unit_and_do_not_depend_on_their_neighbours(exact):
    rows = exact.encode_text(["a dog", "a photo of a very large cat with a hat."])
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(rows[:1], exact.encode_text(["a dog"]), rtol=0, atol=1e-6)
    assert exact.encode_text([]).shape == (0, 32)
    assert exact.encode_text(["a dog"] * 130).shape == (130, 32)


def test_a_prompt_longer_than_the_tower_is_refused(exact):
    with pytest.raises(DataError, match="at most 77 tokens"):
        exact.encode_text(["dog " * 80])


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([picture(8, 8), picture(8, 16)], "one size"),
        ([picture(8, 8).astype(np.float32)], "one size"),
        ([picture(8, 12)], "multiples of 8"),
        ([picture(8, 8)[..., :1]], "RGB"),
    ],
    ids=["two sizes", "floats", "part of a patch", "grey"],
)
def test_wrong_pictures_are_refused(pictures, message, exact):
    # In the run that checks every shape, jaxtyping refuses them before we do.
    with pytest.raises((ShapeError, TypeError), match=f"{message}|type-?check"):
        exact.encode(pictures)


def test_an_average_over_no_layer_is_refused_and_no_picture_is_no_work(exact):
    with pytest.raises(ConfigError, match="at least one layer"):
        exact.encode([picture(8, 8)], attention_layers=0)
    assert exact.encode([]) == []


@pytest.mark.parametrize("device", ["cuda:99", "toaster"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(ConfigError, match=device):
        build_encoder(small_state(), device=device)


def test_read_only_pictures_are_welcome(exact):
    frozen = picture(8, 8)
    frozen.setflags(write=False)
    assert exact.encode([frozen])[0].grid_hw == (1, 1)


# full size


@pytest.mark.slow
def test_a_vit_b_16_encodes_as_recorded():
    from clip_es.localize import localize
    from clip_es.types import TextBank

    arrays = vit_b_16()
    assert digest(arrays) == DIGEST, "the weights are those of the recording"
    encoder = build_encoder({key: torch.from_numpy(value) for key, value in arrays.items()}, device="cpu")

    words = np.load(GOLDEN / "text_vit-b-16.npz")
    vectors = torch.from_numpy(np.concatenate([words["text_fg_voc"], words["text_bg_voc"]]))
    bank = TextBank(tuple(map(str, range(45))), vectors, 20, "recorded")
    told = recorded("chelsea_214x198/vit-b-16")
    pixels = recorded("chelsea_214x198/tiny224")["input_u8"]
    found = localize(encoder, encoder.encode([pixels])[0], bank, told["keys"].tolist())
    assert np.abs(found.scores.numpy() - told["scores"]).max() <= 1e-6
    assert np.abs(found.maps.scores.numpy() - told["cam"]).max() <= 1e-5
    raw = told["cam_raw"]
    assert np.abs(found.raw.numpy() - raw).max() <= 1e-5 * np.abs(raw).max()


def test_words_without_a_row_of_their_own_were_never_read():
    scenes = load_encoder("scenes", device="cpu")
    assert scenes.reads("a photo of a cat.")
    assert not scenes.reads("itap of my cat.")
    assert load_encoder(GOLDEN / "tiny224.pt", device="cpu").reads("itap of my cat.")
