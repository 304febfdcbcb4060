"""Weights as the hub keeps them: by name from its cache, from a snapshot folder, in parts; heads as described."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clip_es.config.stages import EncoderConfig
from clip_es.encoder import CLIP, TowerSizes, load_encoder, tower_sizes
from clip_es.encoder.hub import fetched, hub_name, parts, weights_file
from clip_es.encoder.weights import told_heads
from clip_es.errors import WeightsError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
EXACT = EncoderConfig(half_weights=False, half_positions=False)


def described(seed: int = 0):
    """A small CLIP of transformers with vision heads of 20 channels, and MLPs that are not four times the width."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    vision = {"hidden_size": 80, "num_attention_heads": 4, "intermediate_size": 200, "num_hidden_layers": 3}
    text = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 256, "num_hidden_layers": 2}
    config = transformers.CLIPConfig(
        vision_config=vision | {"image_size": 32, "patch_size": 8, "hidden_act": "gelu"},
        text_config=text | {"vocab_size": 49408, "hidden_act": "gelu", "eos_token_id": 49407},
        projection_dim=48,
    )
    return transformers.CLIPModel(config).eval()


@pytest.fixture(scope="module")
def model():
    return described()


@pytest.fixture(scope="module")
def snapshot(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("snapshot")
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def home(snapshot, tmp_path) -> Path:
    """A cache as huggingface_hub lays it out: refs, snapshots and the blobs they point at."""
    place = tmp_path / "home/hub/models--me--tiny-clip"
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text(COMMIT)
    (place / "blobs").mkdir()
    (place / "snapshots" / COMMIT).mkdir(parents=True)
    for number, name in enumerate(("model.safetensors", "config.json")):
        shutil.copy(snapshot / name, place / "blobs" / str(number))
        (place / "snapshots" / COMMIT / name).symlink_to(f"../../blobs/{number}")
    return tmp_path / "home"


def test_a_snapshot_folder_is_the_model_of_transformers(model, snapshot):
    encoder = load_encoder(snapshot, device="cpu", config=EXACT)
    assert (encoder.sizes.heads, encoder.sizes.text_heads) == (4, 2)
    assert (encoder.sizes.inner, encoder.sizes.text_inner) == (200, None)
    ids = torch.tensor([[49406, 320, 2368, 49407, 0, 0], [49406, 1929, 49407, 0, 0, 0]])
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        pooled = model.text_model(input_ids=ids).pooler_output
        torch.testing.assert_close(encoder.model.encode_text(ids), model.text_projection(pooled), atol=1e-5, rtol=1e-4)
        seen = model.vision_model(pixel_values=encoder._pixels([picture]), output_hidden_states=True)
    torch.testing.assert_close(encoder.encode([picture])[0].tokens, seen.hidden_states[-2][0], atol=1e-4, rtol=1e-4)


def test_other_heads_make_another_model(snapshot, tmp_path):
    shutil.copy(snapshot / "model.safetensors", tmp_path / "model.safetensors")
    bare = load_encoder(tmp_path / "model.safetensors", device="cpu")
    assert bare.sizes.heads == 1, "without a description the usual 64 channels, or less"
    assert bare.source != load_encoder(snapshot, device="cpu").source


def test_a_name_comes_from_the_cache_when_the_hub_is_switched_off(home, snapshot):
    code = (
        "from clip_es.encoder import load_encoder\n"
        "from clip_es.errors import WeightsError\n"
        "print(load_encoder('me/tiny-clip', device='cpu').source)\n"
        "print(load_encoder(f'hf-hub:me/tiny-clip@{0}', device='cpu').source)\n".replace("{0}", COMMIT)
        + "try:\n    load_encoder('me/unknown')\nexcept WeightsError as error:\n    print(error)\n"
    )
    pytest.importorskip("huggingface_hub")
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        environment.pop(name, None)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr
    by_name, by_revision, error = ran.stdout.splitlines()
    assert by_name == by_revision == load_encoder(snapshot, device="cpu").source
    assert "no weights of me/unknown in the cache or on the hub" in error
    assert "HF_HUB_OFFLINE" in error


def test_what_the_cache_has_needs_no_connection_and_what_it_lacks_waits_for_one_only_once(home, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []
    really = hub.hf_hub_download

    def without_network(name, file, **options):
        if options.pop("local_files_only"):
            return really(name, file, local_files_only=True, cache_dir=home / "hub", **options)
        asked.append(file)
        raise LocalEntryNotFoundError("check your connection")

    monkeypatch.setattr(hub, "hf_hub_download", without_network)
    assert fetched("me/tiny-clip").name == "model.safetensors"
    assert asked == []
    with pytest.raises(WeightsError, match=r"cannot be fetched from the hub.*check your connection"):
        fetched("me/unknown")
    assert asked == ["model.safetensors"]


def test_the_folder_of_a_model_in_the_cache_tells_where_its_snapshot_is(home):
    model = home / "hub/models--me--tiny-clip"
    with pytest.raises(WeightsError, match=f"no weights file.*Name .*snapshots/{COMMIT}"):
        load_encoder(model, device="cpu")


def test_weights_in_parts_are_one_model(snapshot, tmp_path):
    whole = load_file(snapshot / "model.safetensors")
    where = {}
    for number in range(2):
        name = f"model-0000{number + 1}-of-00002.safetensors"
        piece = {key: value for i, (key, value) in enumerate(sorted(whole.items())) if i % 2 == number}
        save_file(piece, tmp_path / name)
        where |= dict.fromkeys(piece, name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    shutil.copy(snapshot / "config.json", tmp_path / "config.json")
    assert load_encoder(tmp_path, device="cpu").source == load_encoder(snapshot, device="cpu").source
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match="parts of the weights are missing"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../b"}}'])
def test_a_damaged_list_of_parts_is_refused(content, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(WeightsError, match="list of the parts"):
        parts(tmp_path / "model.safetensors.index.json")


def test_a_folder_says_what_it_lacks(tmp_path):
    (tmp_path / "readme.md").write_text("")
    with pytest.raises(WeightsError, match=r"no weights file.*readme\.md"):
        load_encoder(tmp_path)
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(WeightsError, match="several weights files"):
        load_encoder(tmp_path)
    (tmp_path / "b.bin").unlink()
    assert weights_file(tmp_path).name == "a.bin"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("openai/clip-vit-base-patch16", ("openai/clip-vit-base-patch16", None)),
        ("hf-hub:laion/CLIP-ViT-H-14@main", ("laion/CLIP-ViT-H-14", "main")),
        ("ViT-B/16", None),
        ("ViT-B/61", None),
        ("RN50", None),
        ("weights.pt", None),
        ("a/b/c", None),
        ("../secret/file", None),
        ("/absolute/path", None),
    ],
)
def test_what_is_a_name_on_the_hub(given, name):
    assert hub_name(given) == name


@pytest.mark.parametrize(
    ("config", "heads"),
    [
        ({"vision_config": {"num_attention_heads": 16}, "text_config": {"num_attention_heads": 20}}, (16, 20)),
        ({"vision_config": {"num_attention_heads": True}, "text_config": 3}, (None, None)),
        ({"model_cfg": {"vision_cfg": {"width": 1280, "head_width": 80}, "text_cfg": {"heads": 16}}}, (16, 16)),
        ({"model_cfg": {"vision_cfg": {"width": 768}, "text_cfg": {"heads": 8}}}, (None, 8)),
        ([], (None, None)),
    ],
)
def test_heads_are_read_from_the_description_beside_the_file(config, heads, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert told_heads(tmp_path / "model.safetensors") == heads


@pytest.mark.parametrize(("width", "heads"), [(768, 12), (1024, 16), (1280, 16), (1408, 16), (1664, 16)])
def test_wide_towers_have_the_heads_of_the_public_models(width, heads):
    with torch.device("meta"):
        state = CLIP(TowerSizes(14, width, 1, 2, 32, 64, 1, vocab=64)).state_dict()
        assert tower_sizes(state).heads == heads


def test_heads_that_do_not_fit_the_width_are_refused():
    state = CLIP(TowerSizes(8, 80, 1, 2, 16, 64, 1, vocab=64)).state_dict()
    with pytest.raises(WeightsError, match="cannot be split into 3 heads"):
        tower_sizes(state, heads=(3, None))
