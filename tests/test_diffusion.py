"""The diffusion refiner on a tiny Stable Diffusion made of diffusers' own classes."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_es.errors import ConfigError, WeightsError
from clip_es.refine.diffusion import (
    Diffusion,
    DiffusionConfig,
    attention_at,
    capture,
    latents,
    load_diffusion,
    refine,
    self_attention,
    squared,
)
from clip_es.types import ClassMaps, EncodedImage, Picture

GOLDEN = Path(__file__).parent / "golden/cliper"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "sd_capture.npz") as file:
        return {key: torch.as_tensor(file[key]) for key in file.files}


def drawn(module, prefix):
    """Weights by the recipe of the recording: each drawn from a seed made of its name."""
    state = {}
    for name, value in module.state_dict().items():
        seed = zlib.crc32(f"20220617:{prefix}{name}".encode())
        v = np.random.RandomState(seed).standard_normal(tuple(value.shape)).astype(np.float32)
        if value.ndim >= 2:
            v *= 1.2 / np.sqrt(np.prod(value.shape[1:]))
        else:
            v = 1 + 0.1 * v if name.rpartition(".")[2] == "weight" else 0.1 * v
        state[name] = torch.from_numpy(np.asarray(v, dtype=np.float32))
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model(golden):
    diffusers = pytest.importorskip("diffusers")
    configs = json.loads((GOLDEN / "sd_configs.json").read_text())
    unet = drawn(diffusers.UNet2DConditionModel(**configs["unet"]), "unet.")
    vae = drawn(diffusers.AutoencoderKL(**configs["vae"]), "vae.")
    return Diffusion(vae, unet, diffusers.PNDMScheduler(**configs["scheduler"]), golden["prompt_embeds"])


def test_the_picture_is_squared_as_published(golden):
    assert torch.equal(squared(golden["image_uint8"].numpy(), 64), golden["preprocessed"])


def test_attention_is_the_recorded_one(model, golden):
    latent = latents(model, golden["preprocessed"])
    torch.testing.assert_close(latent, golden["latent_mean_scaled"], atol=1e-4, rtol=0)
    heads = torch.stack(attention_at(model, latent, golden["noise"], 45))
    assert model.scheduler.timesteps.tolist() == golden["timesteps"].tolist()
    assert int(model.scheduler.timesteps[45]) == int(golden["timestep_used"]) == 101
    expected = torch.cat([golden["maps_m4"][0], golden["maps_m6"][0]])
    torch.testing.assert_close(heads, expected, atol=1e-5, rtol=0)


def test_capture_changes_no_output_and_leaves_nothing_behind(model, golden):
    ask = {"sample": golden["noised"], "timestep": 101, "encoder_hidden_states": golden["prompt_embeds"]}
    plain = model.unet(**ask).sample
    before = dict(model.unet.attn_processors)
    with capture(model.unet) as kept:
        watched = model.unet(**ask).sample
    torch.testing.assert_close(watched, plain, atol=5e-6, rtol=1e-5)
    assert len(kept) == 2
    assert model.unet.attn_processors == before


def test_the_refiner_is_seeded_and_keeps_the_classes(model, golden):
    rgb = golden["image_uint8"].numpy()
    picture = Picture("one", rgb, np.ascontiguousarray(rgb[:48, :80]), 16)
    seen = EncodedImage(torch.zeros(16, 4), torch.zeros(15, 15), torch.zeros(1, 16, 16), (3, 5))
    maps = ClassMaps(torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(0)), (3, 1))
    config = DiffusionConfig(side=64, seed=7)
    first, second = (refine(picture, seen, maps, config, model) for _ in range(2))
    assert torch.equal(first.scores, second.scores)
    assert first.class_ids == (3, 1)
    assert first.scores.shape == (2, 8, 8)
    rows = torch.stack(self_attention(model, rgb, config)).sum(-1)
    torch.testing.assert_close(rows, torch.ones_like(rows))


def test_an_incomplete_folder_is_named(tmp_path):
    pytest.importorskip("diffusers")
    (tmp_path / "unet").mkdir()
    with pytest.raises(WeightsError, match="no vae, scheduler, text_encoder, tokenizer"):
        load_diffusion(tmp_path)


def test_a_missing_library_names_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(ConfigError, match="extra `diffusion`"):
        load_diffusion(tmp_path)


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="multiple of 8"):
        DiffusionConfig(side=100)


def test_a_whole_folder_is_loaded(model, tmp_path, golden):
    transformers = pytest.importorskip("transformers")
    for part in ("unet", "vae", "scheduler"):
        getattr(model, part).save_pretrained(tmp_path / part)
    (tmp_path / "words").mkdir()
    vocab, merges = tmp_path / "words/vocab.json", tmp_path / "words/merges.txt"
    vocab.write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1}))
    merges.write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(str(vocab), str(merges), model_max_length=7).save_pretrained(tmp_path / "tokenizer")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = transformers.CLIPTextConfig(**sizes, vocab_size=8, max_position_embeddings=7, eos_token_id=1)
    transformers.CLIPTextModel(text).save_pretrained(tmp_path / "text_encoder")
    loaded = load_diffusion(tmp_path)
    assert loaded.prompt.shape == (1, 7, 16)
    config = DiffusionConfig(side=64)
    ours = self_attention(Diffusion(loaded.vae, loaded.unet, loaded.scheduler, model.prompt), rgb(golden), config)
    torch.testing.assert_close(torch.stack(ours), torch.stack(self_attention(model, rgb(golden), config)))


def rgb(golden):
    return golden["image_uint8"].numpy()
