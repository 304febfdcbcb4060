"""The diffusion refiner on a tiny Stable Diffusion made of diffusers' own classes."""

import json
import pickle
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_es.config.run import DiffusionConfig
from clip_es.errors import ConfigError, WeightsError
from clip_es.pipelines.cli import main
from clip_es.refine.diffusion import (
    Diffusion,
    DiffusionRefiner,
    attention_at,
    capture,
    latents,
    load_diffusion,
    refine,
    self_attention,
    squared,
)
from clip_es.refine.registry import in_order
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.types import ClassMaps, EncodedImage, Picture

GOLDEN = Path(__file__).parents[2] / "golden/cliper"


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


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """The tiny model in the layout of diffusers, with a tiny text tower."""
    transformers = pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("sd")
    for part in ("unet", "vae", "scheduler"):
        getattr(model, part).save_pretrained(root / part)
    (root / "words").mkdir()
    vocab, merges = root / "words/vocab.json", root / "words/merges.txt"
    vocab.write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1}))
    merges.write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(str(vocab), str(merges), model_max_length=7).save_pretrained(root / "tokenizer")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = transformers.CLIPTextConfig(**sizes, vocab_size=8, max_position_embeddings=7, eos_token_id=1)
    transformers.CLIPTextModel(text).save_pretrained(root / "text_encoder")
    return root


def test_a_whole_folder_is_loaded(model, folder, golden):
    loaded = load_diffusion(folder)
    assert loaded.prompt.shape == (1, 7, 16)
    config = DiffusionConfig(side=64)
    ours = self_attention(Diffusion(loaded.vae, loaded.unet, loaded.scheduler, model.prompt), rgb(golden), config)
    torch.testing.assert_close(torch.stack(ours), torch.stack(self_attention(model, rgb(golden), config)))


def rgb(golden):
    return golden["image_uint8"].numpy()


# ---------------------------------------------------------------- in a run


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make(tmp_path_factory.mktemp("scenes"), ScenesConfig(train=1, val=2, side=(64, 80)))


@pytest.mark.parametrize(
    ("method", "chain"),
    [("clip-es", ("affinity", "diffusion", "crf")), ("cliper", ("diffusion",))],
)
def test_it_works_behind_any_localizer(scenes, folder, tmp_path, method, chain):
    flags = ["--root", str(scenes), "--out", str(tmp_path / "run"), "--method", method, "--refine", *chain]
    flags += ["--refine.diffusion.model", str(folder), "--refine.diffusion.side", "64", "--keep-cams", "maps"]
    assert main(["masks", "scenes", *flags, "--report-pictures", "1"]) == 0
    for path in (tmp_path / "run/cams").glob("*.npz"):
        cams = np.load(path)
        assert cams["cam"].shape == cams["refined"].shape
        assert np.abs(cams["cam"] - cams["refined"]).max() > 0.01
    assert "diffusion" in json.loads((tmp_path / "run/summary.json").read_text())["seconds"]


def test_a_folder_without_its_parts_stops_the_run_before_any_picture(scenes, folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "sd")
    shutil.rmtree(tmp_path / "sd/vae")
    flags = ["--root", str(scenes), "--out", str(tmp_path / "run"), "--refine", "diffusion"]
    assert main(["masks", "scenes", *flags, "--refine.diffusion.model", str(tmp_path / "sd")]) == 2
    assert "no vae" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_copy_in_another_process_fetches_the_network_there(folder, golden):
    refiner = DiffusionRefiner(DiffusionConfig(model=str(folder), side=64))
    picture = Picture("one", rgb(golden), np.ascontiguousarray(rgb(golden)[:48, :80]), 16)
    seen = EncodedImage(torch.zeros(16, 4), torch.zeros(15, 15), torch.zeros(1, 16, 16), (3, 5))
    maps = ClassMaps(torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(0)), (3, 1))
    sent = pickle.dumps(refiner)
    assert len(sent) < 2000
    assert torch.equal(pickle.loads(sent)(picture, seen, maps).scores, refiner(picture, seen, maps).scores)
    assert refiner(picture, seen, ClassMaps(torch.zeros(0, 3, 5), ())).class_ids == ()


def test_it_stands_between_the_patch_grid_and_full_size():
    grids, full = in_order(("affinity", "diffusion", "crf"))
    assert ([row.name for row in grids], [row.name for row in full]) == (["affinity", "diffusion"], ["crf"])
    with pytest.raises(ConfigError, match="affinity diffusion crf"):
        in_order(("diffusion", "affinity", "crf"))
