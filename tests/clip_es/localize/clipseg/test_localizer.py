"""CLIPSeg: the recorded forward and training step, prompts, weights in every layout, and what must hold."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from clipseg_masking import masked_prompt
from safetensors.torch import save_file

from clip_es.config.run import ClipSegConfig, EncoderConfig
from clip_es.encoder import CLIP, Encoder, TowerSizes
from clip_es.errors import ConfigError, DataError, ShapeError, WeightsError
from clip_es.localize.clipseg.decoder import Decoder, DecoderSizes
from clip_es.localize.clipseg.localizer import ClipSeg
from clip_es.localize.clipseg.prompts import VISUAL_PROMPTS, VisualPromptConfig, context_box, find_crop, visual_prompt
from clip_es.localize.clipseg.sight import block_outputs, image_prompts, mix, prepare, text_prompts
from clip_es.localize.clipseg.weights import build_decoder, load_decoder, save_decoder
from clip_es.pipelines.clipseg.zero_shot import multilabel
from clip_es.scaling import upsample
from clip_es.types import Picture
from clip_es.views import View

GOLDEN = Path(__file__).parents[3] / "golden/clipseg"
LAYERS = (1, 3, 4)


def arrays(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.as_tensor(file[key]) for key in file.files}


def tiny_encoder(head_width):
    model = CLIP(TowerSizes(16, 48, 6, 4, 24, 16, 2, vocab=64, head_width=head_width))
    model.load_state_dict(arrays("tiny_clip_weights"))
    config = EncoderConfig(half_weights=False, half_positions=False)
    return Encoder(model.eval().requires_grad_(False), source="tiny", config=config)


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder(12)


@pytest.fixture(scope="module")
def forward():
    return arrays("forward")


@pytest.fixture
def decoder():
    return build_decoder(arrays("tiny_decoder"), LAYERS)


def close(ours, theirs, atol):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


# ---------------------------------------------------------------- forward


def test_prompts_have_the_recorded_vectors(encoder, forward):
    text = tiny_encoder(8)  # the recorded text tower has heads of 8 channels
    close(text.model.encode_text(forward["token_ids"]), forward["cond_text"], 5e-5)
    close(image_prompts(encoder, forward["support64"]), forward["cond_image"], 5e-5)
    close(image_prompts(encoder, forward["query96"]), forward["visual_q96"], 5e-5)
    close(mix(forward["cond_text"], forward["cond_image"], forward["text_weight"]), forward["cond_mix"], 1e-6)


def test_blocks_leave_the_recorded_tokens(encoder, forward):
    for layer, tokens in zip(LAYERS, block_outputs(encoder, forward["query96"], LAYERS), strict=True):
        close(tokens, forward[f"act_layer{layer}"].transpose(0, 1), 5e-5)


@pytest.mark.parametrize(
    ("size", "kind", "head"),
    [(96, "mix", ""), (96, "text", ""), (96, "image_prompt", ""), (64, "text", ""), (96, "mix", "_refined")],
)
def test_logits_are_the_recorded_ones(encoder, forward, size, kind, head):
    weights = arrays("tiny_decoder")
    if head:
        weights = {key: value for key, value in weights.items() if not key.startswith("trans_conv")}
        weights |= arrays("tiny_decoder_refined_head")
    decoder = build_decoder(weights, LAYERS)
    seen = block_outputs(encoder, forward[f"query{size}"], LAYERS)
    prompt = forward["cond_image" if kind == "image_prompt" else f"cond_{kind}"]
    name = f"logits{size}{head}_{kind}" if head else f"logits{size}_{kind}"
    close(decoder(seen, prompt, (size // 16, size // 16)), forward[name][:, 0], 1e-4)


def test_one_encoding_serves_many_prompts(encoder, decoder, forward):
    seen = [one[:1] for one in block_outputs(encoder, forward["query96"], LAYERS)]
    prompts = torch.cat([forward["cond_text"], forward["cond_image"]])
    together = decoder(seen, prompts, (6, 6))
    assert together.shape == (4, 96, 96)
    for prompt, logits in zip(prompts, together, strict=True):
        close(decoder(seen, prompt[None], (6, 6))[0], logits, 1e-5)


def test_a_training_step_has_the_recorded_gradients(forward, decoder):
    case = arrays("train_step")
    decoder.requires_grad_(True)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-3)
    # The recorded tokens: our own differ in the seventh digit, enough to turn one ReLU and its gradient.
    seen = [forward[f"act_layer{layer}"].transpose(0, 1) for layer in LAYERS]
    for name in ("loss0", "loss1"):
        optimizer.zero_grad()
        logits = decoder(seen, forward["cond_mix"], (6, 6))
        loss = F.binary_cross_entropy_with_logits(logits, case["target"][:, 0].float())
        close(loss.detach(), case[name], 1e-5)
        if name == "loss0":
            loss.backward()
            for key, parameter in decoder.named_parameters():
                assert parameter.grad is not None
                torch.testing.assert_close(parameter.grad.norm(), case[f"grad_l2/{key}"], rtol=1e-3, atol=1e-8)
            for key in ("film_mul.weight", "reduces.2.bias"):
                grad, theirs = decoder.get_parameter(key).grad, case[f"grad/{key}"]
                assert float((grad - theirs).norm()) < 1e-3 * float(theirs.norm())
            optimizer.step()


def test_a_multilabel_mask_counts_the_background_threefold():
    case = arrays("multilabel_rule")
    assert torch.equal(multilabel(case["logits"]), case["label"].long())


@pytest.mark.parametrize(
    ("masking", "name"), [("class-last", "cls_last"), ("class-all", "cls_all"), ("patches-all", "all_all")]
)
def test_masked_attention_gives_the_recorded_vector(encoder, forward, masking, name):
    case = arrays("clip_masking")
    pixels = forward["support64"][:1]
    close(masked_prompt(encoder, pixels, case["mask"][0] > 0, masking), case[name], 5e-5)
    everything = torch.ones(64, 64, dtype=torch.bool)
    close(masked_prompt(encoder, pixels, everything, masking), case["plain"], 5e-5)
    with pytest.raises(DataError, match="empty"):
        masked_prompt(encoder, pixels, ~everything, masking)


# ---------------------------------------------------------------- example pictures as prompts

VISUAL = {
    "bg50": {"blur": 0.0, "background": 0.5, "context": None},
    "bg10": {"blur": 0.0, "background": 0.1, "context": None},
    "bg0": {"blur": 0.0, "background": 0.0, "context": None},
    "blur3": {"blur": 3.0, "background": 1.0, "context": None},
    "blur3_bg10": {"blur": 3.0, "background": 0.1, "context": None},
    "crop_ctx0.5_out64": {"blur": 0.0, "background": 1.0, "context": 0.5, "side": 64},
    "crop_ctx0.1_out64": {"blur": 0.0, "background": 1.0, "context": 0.1, "side": 64},
    "crop_blur3_ctx0.5_out64": {"blur": 3.0, "background": 1.0, "context": 0.5, "side": 64},
    "crop_bg10_ctx0.1_out64": {"blur": 0.0, "background": 0.1, "context": 0.1, "side": 64},
    "best_crop_blur3_bg10_ctx0.1_out64": {"side": 64},
}


@pytest.mark.parametrize("name", VISUAL)
def test_fading_and_cutting_are_the_recorded_ones(name):
    case = arrays("visual_prompts")
    config = VisualPromptConfig(**VISUAL[name])
    close(visual_prompt(case["image"], case["mask"] > 0, config), case[name], 1e-4)


@pytest.mark.parametrize("name", ["highlight", "overlay", "blur_highlight", "blur3_highlight01"])
def test_published_modes_by_name(name):
    case = arrays("visual_prompts")
    close(visual_prompt(case["image"], case["mask"] > 0, VISUAL_PROMPTS[name]), case[name], 1e-4)


@pytest.mark.parametrize("name", ["best_out352_stride11", "mode_crop_blur_highlight352_stride11"])
def test_the_best_mode_is_the_default(name):
    case = arrays("visual_prompts")
    close(visual_prompt(case["image"], case["mask"] > 0)[:, ::11, ::11], case[name], 1e-4)


@pytest.mark.parametrize("context", [0.1, 0.5])
def test_boxes_are_widened_as_recorded(context):
    case = arrays("visual_prompts")
    x0, y0, x1, y1 = context_box(case["mask"] > 0, context)
    assert [x0, x1, y0, y1] == case[f"bbox_ctx{context}_x0x1y0y1"].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_training_crops_are_the_recorded_ones(seed):
    case = arrays("find_crop")
    (x0, y0, x1, y1), short = find_crop(case["seg"] > 0, torch.Generator().manual_seed(seed))
    assert [y0, y1, x0, x1, int(short)] == case[f"seed{seed}"].tolist()


def test_a_crop_of_a_small_object_is_the_best_seen():
    mask = torch.zeros(60, 90, dtype=torch.bool)
    mask[30, 80] = True
    (x0, y0, x1, y1), short = find_crop(mask, torch.Generator().manual_seed(0))
    assert short
    assert (y0, y1) == (0, 60)
    assert x0 <= 80 < x1


def test_an_example_needs_a_mask_with_something_in_it():
    picture = torch.zeros(3, 8, 8)
    with pytest.raises(DataError, match="empty"):
        visual_prompt(picture, torch.zeros(8, 8, dtype=torch.bool))
    with pytest.raises(ShapeError, match="own size"):
        visual_prompt(picture, torch.ones(8, 9, dtype=torch.bool))


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        (DecoderSizes(), 1_073_153),
        (DecoderSizes(refined=True), 1_127_009),
        (DecoderSizes(dim=16), 263_681),
        (DecoderSizes(dim=128), 2_238_465),
    ],
)
def test_parameters_are_as_many_as_published(sizes, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in Decoder(sizes).parameters()) == count


def port_keys(state):
    """The same weights under the keys of the transformers port."""
    found = {"clip.logit_scale": torch.ones(())}
    for key, value in state.items():
        if key.startswith("reduce."):
            continue
        key = key.replace("blocks.", "layers.").replace("trans_conv", "transposed_convolution")
        for ours, theirs in (("norm", "layer_norm"), ("linear", "mlp.fc")):
            key = key.replace(f".{ours}1", f".{theirs}1").replace(f".{ours}2", f".{theirs}2")
        if ".in_proj_" in key:
            for which, third in zip("qkv", value.chunk(3), strict=True):
                found["decoder." + key.replace("in_proj_", f"{which}_proj.")] = third.contiguous()
        else:
            found["decoder." + key] = value
    return found


def test_every_layout_gives_the_same_decoder(tmp_path, decoder):
    weights = arrays("tiny_decoder")
    copies = {"clip_model.visual.proj": torch.ones(1), "model.conv1.weight": torch.ones(1)}
    torch.save(weights | copies, tmp_path / "authors.pth")
    save_file(port_keys(weights), tmp_path / "port.safetensors")
    torch.save(port_keys(weights), tmp_path / "port.bin")
    save_decoder(decoder, tmp_path / "ours.safetensors")
    expected = decoder.state_dict()
    for name in ("authors.pth", "port.safetensors", "port.bin", "ours.safetensors"):
        loaded = load_decoder(tmp_path / name, None if name.startswith("ours") else LAYERS)
        assert loaded.layers == LAYERS
        assert loaded.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())


def test_published_files_are_read_with_3_6_9_and_training_starts_with_3_7_9():
    assert build_decoder(arrays("tiny_decoder")).layers == (3, 6, 9)
    with torch.device("meta"):
        assert Decoder(DecoderSizes()).layers == (3, 7, 9)


def test_wrong_weights_are_refused(tmp_path, encoder, decoder):
    weights = arrays("tiny_decoder")
    with pytest.raises(WeightsError, match=r"unknown 'trans_conv\.weight'"):
        build_decoder(weights | arrays("tiny_decoder_refined_head"), LAYERS)
    with pytest.raises(WeightsError, match=r"no 'film_add\.bias'"):
        build_decoder({key: value for key, value in weights.items() if key != "film_add.bias"}, LAYERS)
    with pytest.raises(WeightsError, match="not those of a CLIPSeg decoder"):
        build_decoder({"weight": torch.ones(2)})
    with pytest.raises(WeightsError, match=r"film_add\.weight"):
        build_decoder(weights | {"film_add.weight": torch.ones(8, 24)}, LAYERS)
    with pytest.raises(WeightsError, match="no such decoder"):
        load_decoder(tmp_path / "none.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_decoder(tmp_path / "cut.pth")
    with torch.device("meta"):
        large = Decoder(DecoderSizes())
    with pytest.raises(WeightsError, match="another encoder"):
        ClipSeg(encoder, large, {})
    with pytest.raises(ConfigError, match="too few blocks"):
        ClipSeg(encoder, build_decoder(weights), {})
    with pytest.raises(ConfigError, match="ascending"):
        Decoder(DecoderSizes(), (3, 9, 6))


# ---------------------------------------------------------------- the localizer


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def asked(encoder, decoder, rgb, prompts, ids, config, on_grid=False):
    """One picture through the localizer, as a run sends it."""
    localizer = ClipSeg(encoder, decoder, dict(zip(ids, prompts, strict=True)), config, on_grid=on_grid)
    height, width = (16 * -(-side // 16) for side in localizer.seen_hw(rgb.shape[:2]))
    one = Picture("a", rgb, np.zeros((height, width, 3), np.uint8), 16)
    return localizer.locate(one, localizer.encode([one])[0], ids)


def test_pictures_of_any_shape_get_a_map_for_each_prompt(encoder, decoder):
    prompts = torch.randn(2, 24, generator=torch.Generator().manual_seed(0))
    wide, square = ClipSegConfig(side=0), ClipSegConfig(side=64)
    found = asked(encoder, decoder, picture(50, 90), prompts, (4, 2), wide)
    assert (found.maps.class_ids, tuple(found.maps.scores.shape)) == ((4, 2), (2, 64, 96))
    torch.testing.assert_close(found.maps.scores, found.raw.sigmoid())
    tall = asked(encoder, decoder, picture(33, 16), prompts[:1], (0,), wide)
    assert (tall.maps.class_ids, tuple(tall.maps.scores.shape)) == ((0,), (1, 48, 16))
    whole = asked(encoder, decoder, picture(50, 90), prompts, (4, 2), square)
    assert whole.maps.scores.shape == (2, 64, 64)
    grid = asked(encoder, decoder, picture(50, 90), prompts, (4, 2), square, True)
    torch.testing.assert_close(grid.maps.scores[0, 0, 0], whole.maps.scores[0, :16, :16].mean())
    nothing = asked(encoder, decoder, picture(50, 90), prompts[:0], (), wide)
    assert nothing.maps.scores.shape == (0, 64, 96)


@pytest.mark.parametrize("view", [View(flip=True), View((8, 0)), View((0, 8), flip=True)])
def test_clipseg_is_shown_the_view_and_not_the_picture(encoder, decoder, view):
    """What it sees of a view is what it sees of a picture that was mirrored and moved beforehand."""
    method = ClipSeg(encoder, decoder, {0: torch.ones(24)}, ClipSegConfig(side=64))
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    plain = Picture("one", rgb, rgb, 16)
    by_hand = view.apply(rgb, 16)
    (seen,), (expected,) = (method.encode([one]) for one in (view.of(plain), Picture("one", by_hand, by_hand, 16)))
    close(seen.tokens, expected.tokens, 1e-6)
    (before,) = method.encode([plain])
    assert before.tokens.shape != seen.tokens.shape or not torch.allclose(before.tokens, seen.tokens)


def test_the_threshold_is_set_at_full_size(encoder, decoder):
    prompts = torch.randn(1, 24, generator=torch.Generator().manual_seed(0))
    found = asked(encoder, decoder, picture(50, 90), prompts, (3,), ClipSegConfig(side=64, threshold=0.2))
    localizer = ClipSeg(encoder, decoder, {3: prompts[0]}, ClipSegConfig(side=64, threshold=0.2))
    settled = localizer.settle(found, found.maps, known=True)
    full = settled.enlarge(settled.maps, (50, 90)).scores
    expected = upsample(found.maps, (50, 90)).scores
    assert torch.equal(full > 0.5, expected > 0.2)


def test_a_picture_is_normalised_before_it_is_resized():
    rgb = np.full((10, 20, 3), 255, np.uint8)
    pixels = prepare(rgb, 32, 16)
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(pixels, expected[None, :, None, None].expand(1, 3, 32, 32))
    assert prepare(rgb, None, 16).shape == (1, 3, 16, 32)


def test_bad_input_is_named(encoder, decoder):
    with pytest.raises(ShapeError, match="whole patches"):
        prepare(picture(16, 16), 100, 16)
    localizer = ClipSeg(encoder, decoder, {0: torch.zeros(24)})
    one = Picture("a", picture(16, 16), picture(16, 16), 16)
    seen = localizer.encode([one])[0]
    with pytest.raises(DataError, match="no example for a label"):
        localizer.locate(one, seen, (0, 1))
    with pytest.raises(DataError, match="empty"):
        text_prompts(encoder, ["a dog", " "])
    with pytest.raises(DataError, match="too long"):
        text_prompts(encoder, ["dog " * 80])
    with pytest.raises(ConfigError, match="prompt"):
        ClipSegConfig(prompt="a dog")
    with pytest.raises(ConfigError, match="no such block"):
        block_outputs(encoder, torch.zeros(1, 3, 16, 16), (9,))


def test_logits_equal_those_of_the_transformers_port(encoder, decoder, forward):
    transformers = pytest.importorskip("transformers")
    vision = {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 6, "num_attention_heads": 4}
    text = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPSegConfig(
        vision_config=vision | {"image_size": 64, "patch_size": 16, "projection_dim": 24},
        text_config=text | {"vocab_size": 64, "projection_dim": 24},
        projection_dim=24,
        extract_layers=list(LAYERS),
        reduce_dim=16,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=2048,
    )
    port = transformers.CLIPSegForImageSegmentation(config).eval()
    state = port_keys(arrays("tiny_decoder"))
    decoder_state = {key.removeprefix("decoder."): value for key, value in state.items() if key.startswith("decoder.")}
    port.decoder.load_state_dict(decoder_state)
    seen = block_outputs(encoder, forward["query96"], LAYERS)
    with torch.no_grad():
        theirs = port.decoder(seen, forward["cond_mix"]).logits
    close(decoder(seen, forward["cond_mix"], (6, 6)), theirs.reshape(2, 96, 96), 1e-5)
