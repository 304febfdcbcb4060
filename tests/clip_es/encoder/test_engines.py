"""The engines of the encoder: ONNX Runtime and bfloat16 against torch, their cache, and what they refuse."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_es.config.run import EncoderConfig
from clip_es.encoder import CLIP, Encoder, TowerSizes, build_encoder
from clip_es.encoder.engines import choose as choosing
from clip_es.encoder.engines import onnx_blocks, processor
from clip_es.encoder.engines.base import Passed, Wanted
from clip_es.encoder.engines.choose import choose
from clip_es.encoder.engines.graph import graph_bytes, output_names
from clip_es.encoder.engines.kept import trouble
from clip_es.encoder.engines.onnx_blocks import OnnxBlocks
from clip_es.encoder.engines.torch_blocks import TorchBlocks
from clip_es.errors import ConfigError, WeightsError

SIZES = TowerSizes(patch=8, width=128, layers=5, grid=4, embed=32, text_width=64, text_layers=1)
ALL = Wanted(4, 2, last=True, inputs=True, total=True, outputs=(0, 2))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIP_ES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "graphs"


def encoder(**settings) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(CLIP(SIZES).state_dict(), device="cpu", config=EncoderConfig(**settings))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    """The norm of the difference over that of the second."""
    return float((one - other).norm() / other.norm())


@torch.no_grad()
def both(wanted: Wanted, arithmetic="float32", patches: int = 15) -> tuple[Passed, Passed]:
    visual = encoder().model.visual
    tokens = torch.randn(2, 1 + patches, SIZES.width, generator=torch.Generator().manual_seed(1))
    return OnnxBlocks(visual, arithmetic, ("x",)).passed(tokens, wanted), TorchBlocks(visual).passed(tokens, wanted)


# ONNX Runtime against torch


@pytest.mark.parametrize("wanted", [Wanted(4, 3, last=True), Wanted(3), Wanted(4, last=True), ALL, Wanted(0)])
def test_whatever_is_wanted_is_what_torch_computes(wanted):
    ours, theirs = both(wanted)
    for name in ("tokens", "attention", "last_attention", "total"):
        one, other = getattr(ours, name), getattr(theirs, name)
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
    for name in ("inputs", "outputs"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=2e-5, rtol=1e-4)


def test_heads_whose_width_is_no_power_of_two_and_the_plain_gelu_agree_too(tiny_cliper):
    tower = tiny_cliper()
    assert tower.sizes.width // tower.sizes.heads == 12
    model = tower.model.with_plain_gelu()
    tokens = torch.randn(1, 8, 48, generator=torch.Generator().manual_seed(0))
    wanted = Wanted(4, 2, last=True)
    with torch.no_grad():
        ours = OnnxBlocks(model.visual, "float32", ()).passed(tokens, wanted)
        theirs = TorchBlocks(model.visual).passed(tokens, wanted)
    torch.testing.assert_close(ours.tokens, theirs.tokens, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(ours.last_attention, theirs.last_attention, atol=2e-5, rtol=1e-4)


def test_one_graph_serves_grids_of_every_shape(own_cache):
    exact, onnx = encoder(), encoder(engine="onnx")
    for height, width in ((8, 8), (16, 40), (56, 24)):
        (one,), (other,) = onnx.encode([picture(height, width)]), exact.encode([picture(height, width)])
        torch.testing.assert_close(one.attention, other.attention, atol=1e-5, rtol=1e-4)
        assert one.grid_hw == other.grid_hw == (height // 8, width // 8)
    assert len(list(own_cache.glob("*.onnx"))) == 1


def test_int8_is_near_and_only_its_last_block_is_exact():
    (narrow,), (exact,) = encoder(dtype="int8").encode([picture(64, 40)]), encoder().encode([picture(64, 40)])
    assert 1e-5 < far(narrow.tokens, exact.tokens) < 0.05
    assert 1e-5 < far(narrow.attention, exact.attention) < 0.05
    torch.testing.assert_close(narrow.last_attention.sum(-1), torch.ones(2, 41), atol=1e-5, rtol=0)


def test_a_batch_of_int8_gives_the_bytes_of_its_pictures_alone():
    narrow = encoder(dtype="int8")
    pictures = [picture(24, 32, seed) for seed in range(3)]
    pictures[1] //= 16  # its own range, which would spoil that of the others
    for one, other in zip(narrow.encode(pictures, together=3), [narrow.encode([p])[0] for p in pictures], strict=True):
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.attention, other.attention)


def test_int8_graphs_hold_bytes_where_float32_ones_hold_floats():
    visual = encoder().model.visual
    # Of four blocks' weights all but two thirds of the first block's are bytes; the fifth's queries and keys are not.
    share = len(graph_bytes(visual, ALL, "int8")) / len(graph_bytes(visual, ALL, "float32"))
    assert share == pytest.approx(((4 - 2 / 3) / 4 + 2 / 3 + 1 / 6) / (4 + 1 / 6), abs=0.03)


# The cache


def test_a_kept_graph_is_used_again(own_cache, monkeypatch):
    first = encoder(engine="onnx").encode([picture(16, 16)])[0]
    told = json.loads(next(own_cache.glob("*.json")).read_text())
    assert told["difference_from_torch"] < 1e-4
    monkeypatch.setattr(onnx_blocks, "graph_bytes", None)  # making another would fail
    second = encoder(engine="onnx").encode([picture(16, 16)])[0]
    assert torch.equal(first.tokens, second.tokens)


@pytest.mark.parametrize("harm", ["torn", "flipped", "no hash", "another hash", "empty"])
def test_a_damaged_graph_is_made_again(own_cache, harm):
    first = encoder(engine="onnx").encode([picture(16, 16)])[0]
    graph, beside = next(own_cache.glob("*.onnx")), next(own_cache.glob("*.json"))
    whole = graph.read_bytes()
    middle = len(whole) // 2
    if harm == "torn":
        graph.write_bytes(whole[:middle])
    elif harm == "flipped":
        graph.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    elif harm == "empty":
        graph.write_bytes(b"")
    elif harm == "no hash":
        beside.unlink()
    else:
        beside.write_text("[" * 10_000)
    again = encoder(engine="onnx").encode([picture(16, 16)])[0]
    assert torch.equal(first.tokens, again.tokens)
    assert graph.read_bytes() == whole


def test_a_graph_that_names_another_file_or_a_foreign_operator_is_refused():
    import onnx
    from onnx.external_data_helper import set_external_data

    visual, wanted = encoder().model.visual, Wanted(2)
    data, names = graph_bytes(visual, wanted, "float32"), output_names(wanted)
    assert trouble(data, names) is None
    outside = onnx.load_model_from_string(data)
    set_external_data(outside.graph.initializer[0], "/etc/passwd")
    assert trouble(outside.SerializeToString(), names) == "it names another file for its weights"
    foreign = onnx.load_model_from_string(data)
    foreign.graph.node[0].op_type = "Loop"
    assert trouble(foreign.SerializeToString(), names) == "it has the operator ai.onnx.Loop"
    assert trouble(data, [*names, "more"]) == "its inputs or outputs are others"
    assert str(trouble(b"\xff" * 100, names)).startswith("it cannot be read")


def test_a_cache_that_cannot_be_written_stops_nothing(own_cache):
    own_cache.parent.parent.mkdir(exist_ok=True)
    own_cache.parent.write_text("a file where the folder would be")
    assert encoder(engine="onnx").encode([picture(16, 16)])


def test_a_graph_that_does_not_agree_is_not_kept(own_cache, monkeypatch):
    monkeypatch.setitem(onnx_blocks.TOLERANCE, "int8", 1e-9)
    with pytest.raises(WeightsError, match="in int8 ONNX Runtime does not compute what torch does"):
        encoder(dtype="int8").encode([picture(16, 16)])
    assert not list(own_cache.glob("*"))


def test_other_weights_have_another_graph(own_cache):
    encoder(engine="onnx").encode([picture(16, 16)])
    torch.manual_seed(1)
    build_encoder(CLIP(SIZES).state_dict(), device="cpu", config=EncoderConfig(engine="onnx")).encode([picture(16, 16)])
    encoder(engine="onnx", half_weights=False).encode([picture(16, 16)])
    assert len(list(own_cache.glob("*.onnx"))) == 3


def test_an_encoder_travels_without_its_sessions():
    here = encoder(dtype="int8")
    first = here.encode([picture(16, 16)])[0]
    there = pickle.loads(pickle.dumps(here))
    assert torch.equal(there.encode([picture(16, 16)])[0].tokens, first.tokens)


# bfloat16


@pytest.mark.parametrize("near", [1, 2**22])
def test_bfloat16_some_heads_at_a_time_is_what_all_heads_give(monkeypatch, near):
    from clip_es.encoder.engines import torch_blocks

    narrow = encoder(dtype="bfloat16").model.visual
    tokens = torch.randn(2, 16, SIZES.width, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(torch_blocks, "_NEAR", near)
    with torch.no_grad():
        ours = TorchBlocks(narrow).passed(tokens, ALL)
        monkeypatch.setattr(torch_blocks, "_look_narrow", torch_blocks._look)
        theirs = TorchBlocks(narrow).passed(tokens, ALL)
    assert far(ours.tokens, theirs.tokens) < 0.01
    assert far(ours.attention, theirs.attention) < 0.01
    assert far(ours.total, theirs.total) < 0.01


# Which one


CAN = {"int8": "AVX512-VNNI", "bfloat16": "AVX512-BF16"}


@pytest.mark.parametrize(
    ("can", "installed", "asked", "found"),
    [
        (CAN, True, {}, "float32 by torch: as asked for"),
        (CAN, True, {"dtype": "auto"}, "int8 by onnx: the processor has AVX512-VNNI"),
        (CAN, True, {"dtype": "auto", "engine": "torch"}, "bfloat16 by torch: the processor has AVX512-BF16"),
        (CAN, False, {"dtype": "auto"}, "bfloat16 by torch: the processor has AVX512-BF16, and onnx not installed"),
        ({}, True, {"dtype": "auto"}, "float32 by onnx: the processor has no instructions for anything narrower"),
        ({}, False, {"dtype": "auto"}, "float32 by torch: the processor has no instructions for anything narrower"),
        ({}, True, {"dtype": "int8"}, "int8 by onnx: as asked for"),
        ({}, True, {"dtype": "bfloat16"}, "bfloat16 by torch: as asked for"),
    ],
)
def test_auto_picks_by_processor_and_says_why(monkeypatch, can, installed, asked, found):
    known = {id(processor.INT8): can.get("int8"), id(processor.BFLOAT16): can.get("bfloat16")}
    monkeypatch.setattr(choosing, "instructions", lambda table: known[id(table)])
    monkeypatch.setattr(choosing, "_missing", lambda: [] if installed else ["onnx"])
    assert choose(EncoderConfig(**asked), "cpu").why == found


def test_the_processor_is_read_from_what_linux_says(tmp_path):
    told = tmp_path / "cpuinfo"
    told.write_text("processor\t: 0\nflags\t\t: fpu avx512_vnni avx512_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert processor.flags(told) == {"fpu", "avx512_vnni", "avx512_bf16"}
    assert processor.flags(tmp_path / "none") == frozenset()


@pytest.mark.parametrize(
    ("settings", "device", "says"),
    [
        ({"engine": "torch", "dtype": "int8"}, "cpu", "torch does not compute the encoder in int8"),
        ({"engine": "onnx", "dtype": "bfloat16"}, "cpu", "ONNX Runtime does not compute the encoder in bfloat16"),
        ({"dtype": "int8"}, "cuda", "int8 is computed on CPUs only"),
        ({"engine": "onnx"}, "cuda", "the engine onnx computes on CPUs only"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, device, says):
    with pytest.raises(ConfigError, match=says):
        choose(EncoderConfig(**settings), device)


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setattr(choosing, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs onnx and onnxruntime.*clip-es\[onnx\]"):
        encoder(dtype="int8")


def test_an_encoder_of_onnx_does_not_move_to_a_gpu():
    with pytest.raises(ConfigError, match="CPUs only"):
        encoder(dtype="int8").to("cuda")


def test_float32_again_comes_from_the_same_weights():
    narrow = encoder(dtype="int8")
    exact = narrow.in_float32()
    assert exact.config == replace(narrow.config, engine="torch", dtype="float32")
    assert torch.equal(exact.encode([picture(24, 16)])[0].tokens, encoder().encode([picture(24, 16)])[0].tokens)
    with pytest.raises(ConfigError, match="cannot be widened"):
        encoder(dtype="bfloat16").in_float32()


@pytest.mark.parametrize("method", ["cliper", "clipseg", "patch-text", "joint"])
def test_every_method_sees_the_same_by_either_engine(method):
    from clip_es.config.run import DEFAULT
    from clip_es.pipelines.masks.maker import MaskMaker
    from clip_es.scenes.dataset import ScenesConfig, scene_of

    scene = scene_of(ScenesConfig(side=(96, 96)), "val", 3)
    config = replace(DEFAULT, method=method, refine=())
    made = []
    for engine in ("torch", "onnx"):
        maker = MaskMaker.load("scenes", config=replace(config, encoder=EncoderConfig(engine=engine)), device="cpu")
        names = [maker.vocabulary.names[k - 1] for k in sorted(set(scene.mask.ravel().tolist()) - {0, 255})]
        made.append(maker(scene.picture, names).refined.maps.scores)
        assert maker.config.encoder.engine == engine
    torch.testing.assert_close(made[1], made[0], atol=1e-3, rtol=0)


@torch.no_grad()
def test_channels_that_a_norm_makes_large_do_not_spoil_int8():
    """The same function twice: in one, three channels of each norm are 30 times as large and their weights as small."""
    from clip_es.encoder import load_encoder

    visual = load_encoder("scenes", device="cpu").model.visual
    tokens = visual.embed(
        torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(0)), visual.positions((6, 4))
    )
    wanted = Wanted(3, 2)
    exact = TorchBlocks(visual).passed(tokens, wanted).tokens
    for block in visual.transformer.blocks[:3]:
        for norm, weight in ((block.ln_1, block.attn.in_proj_weight), (block.ln_2, block.mlp.c_fc.weight)):
            for values in (norm.weight, norm.bias):
                values[[3, 50, 100]] *= 30
            weight[:, [3, 50, 100]] /= 30
    assert far(TorchBlocks(visual).passed(tokens, wanted).tokens, exact) < 1e-5
    assert far(OnnxBlocks(visual, "int8", ()).passed(tokens, wanted).tokens, exact) < 0.05
