"""Weights files in every public layout, and files that are none."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from clip_es.encoder import CLIP, TowerSizes, build_encoder, load_weights, read_state_dict, tower_sizes
from clip_es.encoder.tokenize import _tokenizer, load_file
from clip_es.encoder.weights import weights_hash
from clip_es.errors import WeightsError

SIZES = TowerSizes(patch=4, width=128, layers=3, grid=2, embed=16, text_width=64, text_layers=2, context=9, vocab=50)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return CLIP(SIZES).state_dict()


def openai_model(state: dict[str, Tensor]) -> Any:
    """OpenAI's own model class, from the file of the openai-clip distribution, with these weights in float32."""
    module = load_file(Path(_tokenizer().__init__.__func__.__code__.co_filename).with_name("model.py"))
    s = tower_sizes(state)
    model = module.CLIP(
        s.embed,
        s.patch * s.grid,
        s.layers,
        s.width,
        s.patch,
        s.context,
        s.vocab,
        s.text_width,
        s.text_heads,
        s.text_layers,
    )
    model.load_state_dict(state)
    return model.eval()


def save_archive(state: dict[str, Tensor], path: Path) -> None:
    """A TorchScript archive as OpenAI publishes them: the traced model, with its three size entries."""
    model = openai_model(state)
    model.register_buffer("input_resolution", torch.tensor(8))
    for name in ("context_length", "vocab_size"):
        value = getattr(model, name)
        delattr(model, name)
        model.register_buffer(name, torch.tensor(value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of TorchScript
        example = (torch.zeros(1, 3, 8, 8), torch.ones(1, SIZES.context, dtype=torch.int64))
        torch.jit.trace(model, example).save(str(path))


def to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's keys to those of transformers' CLIPModel, written down independently of our converter."""
    out = {
        "logit_scale": state["logit_scale"],
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        "text_projection.weight": state["text_projection"].T.contiguous(),
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_model.embeddings.position_ids": torch.arange(9)[None],
    }
    for leaf in ("weight", "bias"):
        out[f"vision_model.pre_layrnorm.{leaf}"] = state[f"visual.ln_pre.{leaf}"]
        out[f"vision_model.post_layernorm.{leaf}"] = state[f"visual.ln_post.{leaf}"]
        out[f"text_model.final_layer_norm.{leaf}"] = state[f"ln_final.{leaf}"]
        for theirs, ours, layers in (("vision_model", "visual.transformer", 3), ("text_model", "transformer", 2)):
            for i in range(layers):
                a, b = f"{theirs}.encoder.layers.{i}", f"{ours}.resblocks.{i}"
                q, k, v = state[f"{b}.attn.in_proj_{leaf}"].chunk(3)
                out[f"{a}.self_attn.q_proj.{leaf}"] = q.clone()
                out[f"{a}.self_attn.k_proj.{leaf}"] = k.clone()
                out[f"{a}.self_attn.v_proj.{leaf}"] = v.clone()
                out[f"{a}.self_attn.out_proj.{leaf}"] = state[f"{b}.attn.out_proj.{leaf}"]
                out[f"{a}.layer_norm1.{leaf}"] = state[f"{b}.ln_1.{leaf}"]
                out[f"{a}.layer_norm2.{leaf}"] = state[f"{b}.ln_2.{leaf}"]
                out[f"{a}.mlp.fc1.{leaf}"] = state[f"{b}.mlp.c_fc.{leaf}"]
                out[f"{a}.mlp.fc2.{leaf}"] = state[f"{b}.mlp.c_proj.{leaf}"]
    return out


def to_custom_text(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's layout with a text tower of its own."""
    keep = ("visual.", "logit_scale")
    moved = {key if key.startswith(keep) else f"text.{key}": value for key, value in state.items()}
    return moved | {"text.attn_mask": torch.zeros(9, 9)}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_a_torchscript_archive_gives_the_weights_it_was_saved_from(state, tmp_path):
    save_archive(state, tmp_path / "ViT.pt")
    assert same(read_state_dict(tmp_path / "ViT.pt"), state)


def test_a_half_precision_archive_keeps_its_precision(state, tmp_path):
    half = {key: value.half() for key, value in state.items()}
    model = openai_model(state).half()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(model.visual.conv1).save(str(tmp_path / "conv.pt"))
    from clip_es.encoder.archive import archive_root, read_archive

    root = archive_root(tmp_path / "conv.pt")
    assert root == "conv"
    found = read_archive(tmp_path / "conv.pt", root)
    assert found.keys() == {"weight"}
    assert torch.equal(found["weight"], half["visual.conv1.weight"])


def test_torchscript_is_never_compiled(state, tmp_path, monkeypatch):
    save_archive(state, tmp_path / "ViT.pt")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("torch.jit.load would run code of the file")

    monkeypatch.setattr(torch.jit, "load", refuse)
    monkeypatch.setattr(torch._C, "import_ir_module", refuse)
    monkeypatch.setattr(torch._C, "import_ir_module_from_buffer", refuse)
    assert same(read_state_dict(tmp_path / "ViT.pt"), state)


def test_plain_wrapped_and_data_parallel_state_dicts_are_the_same(state, tmp_path):
    sizes = {"input_resolution": torch.tensor(8), "context_length": torch.tensor(9), "vocab_size": torch.tensor(50)}
    torch.save(state | sizes, tmp_path / "plain.pt")
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "training.pt")
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "parallel.pt")
    torch.save(state, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    for name in ("plain", "training", "parallel", "legacy"):
        assert same(read_state_dict(tmp_path / f"{name}.pt"), state), name


@pytest.mark.parametrize("layout", [dict, to_custom_text, to_transformers])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_every_layout_comes_back_as_openai_keys(layout, suffix, state, tmp_path):
    file = tmp_path / f"weights.{suffix}"
    (torch.save if suffix == "pt" else save_file)(layout(state), file)
    assert same(read_state_dict(file), state)


def test_sizes_are_read_from_shapes(state):
    assert tower_sizes(state) == SIZES
    assert (SIZES.heads, SIZES.text_heads) == (2, 1)


@pytest.mark.parametrize(
    "sizes",
    [
        TowerSizes(patch=32, width=768, layers=12, grid=7, embed=512, text_width=512, text_layers=12),
        TowerSizes(patch=16, width=768, layers=12, grid=14, embed=512, text_width=512, text_layers=12),
        TowerSizes(patch=14, width=1024, layers=24, grid=16, embed=768, text_width=768, text_layers=12),
        TowerSizes(patch=14, width=1024, layers=24, grid=24, embed=768, text_width=768, text_layers=12),
        TowerSizes(patch=16, width=32, layers=2, grid=4, embed=8, text_width=32, text_layers=1, context=16, vocab=300),
    ],
    ids=["B/32", "B/16", "L/14", "L/14@336", "small"],
)
def test_all_published_sizes_and_smaller_ones_are_known(sizes):
    with torch.device("meta"):
        assert tower_sizes(CLIP(sizes).state_dict()) == sizes


def test_the_hash_is_that_of_the_weights_not_of_the_file(state, tmp_path):
    torch.save(state, tmp_path / "a.pt")
    save_file(to_transformers(state), tmp_path / "b.safetensors")
    assert weights_hash(read_state_dict(tmp_path / "a.pt")) == weights_hash(read_state_dict(tmp_path / "b.safetensors"))
    other = state | {"logit_scale": state["logit_scale"] + 1}
    assert weights_hash(other) != weights_hash(state)


def test_a_slim_file_of_the_scenes_clip_is_read_as_a_whole_one(state, tmp_path):
    rows = torch.tensor([0, 7, 40], dtype=torch.int32)
    slim = state | {"token_embedding.weight": state["token_embedding.weight"][rows.long()], "token_rows": rows}
    save_file(slim, tmp_path / "slim.safetensors")
    found = read_state_dict(tmp_path / "slim.safetensors")["token_embedding.weight"]
    assert found.shape == (49408, 64)
    assert torch.equal(found[rows.long()], state["token_embedding.weight"][rows.long()])


class Trap:
    """Unpickling this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_pickle_is_executed(tmp_path):
    sprung = tmp_path / "sprung"
    torch.save({"visual.proj": Trap(sprung)}, tmp_path / "plain.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Trap(sprung)))
    with zipfile.ZipFile(tmp_path / "archive.pt", "w") as archive:
        archive.writestr("x/constants.pkl", pickle.dumps(()))
        archive.writestr("x/data.pkl", pickle.dumps({"a": Trap(sprung)}))
    for name in ("plain", "bare", "archive"):
        with pytest.raises(WeightsError, match="cannot be read"):
            read_state_dict(tmp_path / f"{name}.pt")
    assert not sprung.exists()


def archive_with(tree: bytes, storages: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/constants.pkl", b"")
        archive.writestr("x/data.pkl", tree)
        for key, content in storages.items():
            archive.writestr(f"x/data/{key}", content)
    return path


def tensor_tree(count: int, size: int, offset: int) -> bytes:
    """The pickle of a module with one float tensor `weight`, opcode by opcode."""
    number = "I{}\n".format
    persistent = "(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\n" + number(count) + "tQ"
    rebuilt = f"ctorch._utils\n_rebuild_tensor_v2\n({persistent}{number(offset)}({number(size)}t({number(1)}tI00\nNtR"
    return f"\x80\x02c__torch__\nM\n)\x81}}Vweight\n{rebuilt}sb.".encode("latin1")


def test_a_forged_archive_cannot_read_beyond_its_storage(tmp_path):
    from clip_es.encoder.archive import read_archive

    good = archive_with(tensor_tree(4, 4, 0), {"0": struct.pack("<4f", 1, 2, 3, 4)}, tmp_path / "good.pt")
    assert read_archive(good, "x")["weight"].tolist() == [1, 2, 3, 4]
    for forged in (tensor_tree(4, 5, 0), tensor_tree(4, 4, 1), tensor_tree(4, 1, -1)):
        with pytest.raises(RuntimeError):
            read_archive(archive_with(forged, {"0": bytes(16)}, tmp_path / "forged.pt"), "x")
    with pytest.raises(pickle.UnpicklingError, match="8 bytes instead of 4"):
        read_archive(archive_with(tensor_tree(4, 4, 0), {"0": bytes(8)}, tmp_path / "short.pt"), "x")


def test_a_compressed_bomb_is_not_unfolded(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/constants.pkl", b"")
        archive.writestr("x/data.pkl", bytes(10**7))
    with pytest.raises(WeightsError, match="claim more bytes"):
        read_state_dict(tmp_path / "bomb.pt")


@pytest.mark.parametrize("keep", [0, 1, 9, 100, 5000, -1, -3000])
@pytest.mark.parametrize("kind", ["archive", "plain", "safetensors"])
def test_a_truncated_file_names_itself_and_the_next_step(keep, kind, state, tmp_path):
    file = tmp_path / kind
    if kind == "archive":
        save_archive(state, file)
    elif kind == "plain":
        torch.save(state, file)
    else:
        save_file(state, file)
    content = file.read_bytes()
    file.write_bytes(content[:keep])
    with pytest.raises(WeightsError, match="cannot be read") as caught:
        read_state_dict(file)
    assert str(file) in str(caught.value)
    assert caught.value.expected
    assert "bytes" in str(caught.value.found)
    assert "SHA-256" in str(caught.value.next_step)


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**62) + b"{" + bytes(100),
        struct.pack("<Q", 90_000_000) + b'{"a": 1}',
        struct.pack("<Q", 2) + b"{}",
        b"GIF89a" + bytes(1000),
        b"<html>404</html>",
        pickle.dumps([1, 2, 3]),
    ],
    ids=["huge header", "long header", "no tensors", "picture", "web page", "list"],
)
def test_files_of_other_kinds_are_refused(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(WeightsError, match=str(tmp_path)):
        read_state_dict(tmp_path / "file")


def test_a_flipped_bit_in_an_archive_is_noticed(state, tmp_path):
    save_archive(state, tmp_path / "ViT.pt")
    content = bytearray((tmp_path / "ViT.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "ViT.pt").write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_state_dict(tmp_path / "ViT.pt")


def test_resnet_towers_are_refused_by_name_and_by_keys(state):
    with pytest.raises(WeightsError, match="ResNet"):
        load_weights("RN50")
    with pytest.raises(WeightsError, match="ResNet"):
        tower_sizes({"visual.layer1.0.conv1.weight": torch.zeros(1), **state})


def test_missing_unknown_and_misshapen_keys_are_named(state):
    fewer = {key: value for key, value in state.items() if key != "visual.transformer.resblocks.1.ln_2.bias"}
    with pytest.raises(WeightsError, match=r"no 'visual\.transformer\.resblocks\.1\.ln_2\.bias'"):
        tower_sizes(fewer)
    with pytest.raises(WeightsError, match=r"unknown 'visual\.transformer\.resblocks\.0\.ls_1\.gamma'"):
        tower_sizes(state | {"visual.transformer.resblocks.0.ls_1.gamma": torch.ones(1)})
    with pytest.raises(WeightsError, match=r"'visual\.proj' of shape \[128, 17\] instead of \[128, 16\]"):
        tower_sizes(state | {"visual.proj": torch.zeros(128, 17)})
    with pytest.raises(WeightsError, match="tensors, the first"):
        tower_sizes({"a": torch.zeros(1)})
    with pytest.raises(WeightsError, match="not finite"):
        build_encoder(state | {"logit_scale": torch.tensor(torch.nan)}, device="cpu")
    for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for value in (torch.nan, torch.inf, -torch.inf):
            spoilt = state["visual.proj"].to(kind).clone()
            spoilt[5, 3] = value
            with pytest.raises(WeightsError, match=r"'visual\.proj' holds numbers that are not finite"):
                build_encoder(state | {"visual.proj": spoilt}, device="cpu")


def test_a_missing_file_offers_the_nearest_name(tmp_path):
    with pytest.raises(WeightsError, match=r"no such weights file.*Nearest: 'ViT-B/16'.*ViT-L/14@336px"):
        load_weights("ViT-B16")
    with pytest.raises(WeightsError, match="folder"):
        load_weights(tmp_path)


@pytest.mark.parametrize("name", ["ViT-L/14@336px", "vit-l/14@336", "ViT-L-14@336px"])
def test_official_names_have_several_spellings(name, state, tmp_path, monkeypatch):
    torch.save(state, tmp_path / "L.pt")
    asked: list[str] = []
    monkeypatch.setattr("clip_es.encoder.weights.download", lambda name: asked.append(name) or tmp_path / "L.pt")
    assert same(load_weights(name), state)
    assert asked == ["ViT-L/14@336px"]


def test_an_empty_zip_is_refused(tmp_path):
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    (tmp_path / "empty.pt").write_bytes(buffer.getvalue())
    with pytest.raises(WeightsError, match="cannot be read"):
        read_state_dict(tmp_path / "empty.pt")
