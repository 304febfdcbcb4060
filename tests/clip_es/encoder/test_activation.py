"""Both activations of public CLIPs: told by a file's neighbour, computed as others do, and explained in closed form."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from clip_es.config.run import EncoderConfig
from clip_es.encoder import CLIP, TowerSizes, build_encoder, load_encoder
from clip_es.encoder.vit import PlainGELU, QuickGELU, SelfAttention
from clip_es.encoder.weights import told_activation
from clip_es.localize.gradcam.closed_form import Question, explain, explain_autograd

SIZES = TowerSizes(8, 48, 2, 4, 24, 32, 1, vocab=64, context=9, head_width=16)


@pytest.fixture
def state():
    torch.manual_seed(3)
    return {key: value + 0.1 * torch.randn_like(value) for key, value in CLIP(SIZES).state_dict().items()}


@pytest.mark.parametrize("activation", [QuickGELU(), PlainGELU()])
def test_the_slope_is_the_derivative(activation):
    x = torch.linspace(-6, 6, 101, dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(activation(x).sum(), x)
    torch.testing.assert_close(activation.slope(x.detach()), wanted, atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("labels", [1, 3])
def test_the_closed_form_is_the_gradient_with_the_plain_gelu_too(state, labels, softmax):
    model = CLIP(SIZES)
    model.load_state_dict(state)
    visual = model.with_plain_gelu().double().requires_grad_(False).visual
    tokens = torch.randn(31, 48, dtype=torch.float64)
    question = Question(F.normalize(torch.randn(7, 24, dtype=torch.float64), dim=-1), labels, 20.0, softmax)
    block = visual.transformer.blocks[-1]
    queries, keys, _ = block.attn.project(block.ln_1(tokens))
    found = explain(visual, tokens, SelfAttention.weights(queries, keys), question)
    wanted = explain_autograd(visual, tokens, question)
    for ours, theirs in ((found.weights, wanted.weights), (found.raw, wanted.raw)):
        assert ours is not None
        assert theirs is not None
        assert float((ours - theirs).abs().max()) <= 1e-10 * float(theirs.abs().max())


def test_the_plain_gelu_weighs_by_the_normal_distribution():
    by_hand = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in (-1.0, 0.0, 2.0)]
    torch.testing.assert_close(PlainGELU()(torch.tensor([-1.0, 0.0, 2.0])), torch.tensor(by_hand))


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("config.json", {"vision_config": {"hidden_act": "gelu"}, "text_config": {"hidden_act": "gelu"}}, "gelu"),
        ("config.json", {"vision_config": {"hidden_act": "quick_gelu"}}, "quick_gelu"),
        ("config.json", {"vision_config": {}}, None),
        ("open_clip_config.json", {"model_cfg": {"embed_dim": 512}}, "gelu"),
        ("open_clip_config.json", {"model_cfg": {"quick_gelu": True}}, "quick_gelu"),
        ("config.json", ["no", "table"], None),
    ],
)
def test_the_activation_is_read_off_the_neighbour(tmp_path, state, name, content, wanted):
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / name).write_text(json.dumps(content))
    assert told_activation(tmp_path / "model.safetensors") == wanted
    encoder = load_encoder(tmp_path / "model.safetensors", device="cpu")
    kind = PlainGELU if wanted == "gelu" else QuickGELU
    assert all(isinstance(block.mlp.gelu, kind) for block in encoder.model.visual.transformer.blocks)
    assert all(isinstance(block.mlp.gelu, kind) for block in encoder.model.transformer.blocks)


def test_names_and_broken_neighbours_tell_nothing(tmp_path, state):
    assert told_activation("ViT-B/16") is None
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{broken")
    assert told_activation(tmp_path / "model.safetensors") is None


def test_another_activation_is_another_model(state):
    quick, asked = (
        build_encoder(state, device="cpu", config=EncoderConfig(activation=name)) for name in ("quick_gelu", "gelu")
    )
    assert quick.source != asked.source
    assert build_encoder(state, device="cpu").source == quick.source


def test_a_clip_with_the_plain_gelu_gives_the_vectors_of_transformers(tmp_path, state):
    transformers = pytest.importorskip("transformers")
    vision = {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3}
    text = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        vision_config=vision | {"image_size": 32, "patch_size": 8, "hidden_act": "gelu", "projection_dim": 24},
        text_config=text
        | {"vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "gelu", "eos_token_id": 49407},
        projection_dim=24,
    )
    torch.manual_seed(0)
    theirs = transformers.CLIPModel(config).eval()
    theirs.save_pretrained(tmp_path)
    exact = EncoderConfig(half_weights=False, half_positions=False)
    ours = load_encoder(tmp_path / "model.safetensors", device="cpu", config=exact)
    assert ours.config.activation == "gelu"
    for blocks, heads in ((ours.model.visual.transformer.blocks, 3), (ours.model.transformer.blocks, 2)):
        for block in blocks:
            block.attn.heads = heads  # heads that are not of 64 channels cannot be told from weights
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = theirs.get_image_features(pixel_values=pixels)
        wanted = getattr(wanted, "pooler_output", wanted)
        visual = ours.model.visual
        found = visual.ln_post(visual.transformer(visual.embed(pixels, visual.positions((4, 4))))[:, 0]) @ visual.proj
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
