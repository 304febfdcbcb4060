"""Training of CLIPSeg's decoder: the recorded step, what a step sees, and runs that are killed and continued."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from waiting import until

from clip_es.config.run import EncoderConfig
from clip_es.encoder import CLIP, TowerSizes, build_encoder, load_encoder
from clip_es.encoder.tokenize import tokenize
from clip_es.errors import ConfigError, DataError, WeightsError
from clip_es.localize.clipseg.draws import Draws, cut_mask, cut_picture, prompts_of
from clip_es.localize.clipseg.scores import score_phrases
from clip_es.localize.clipseg.sight import block_outputs, image_prompts, mix, text_prompts
from clip_es.localize.clipseg.training import PREFIXES, DecoderTraining, loss_of, new_decoder
from clip_es.localize.clipseg.weights import build_decoder, load_decoder, save_decoder
from clip_es.pipelines.cli import main
from clip_es.pipelines.clipseg.prompt import ask
from clip_es.pipelines.clipseg.train import train_decoder
from clip_es.records.phrases.table import Phrase, PhraseSet
from clip_es.scenes.phrases import ScenePhrases, ScenePhrasesConfig
from clip_es.scenes.weights import shipped_decoder_path

GOLDEN = Path(__file__).parents[3] / "golden/clipseg"
LAYERS = (1, 3, 4)


def arrays(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.as_tensor(file[key]) for key in file.files}


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    sizes = TowerSizes(patch=16, width=64, layers=3, grid=2, embed=16, text_width=64, text_layers=1)
    return build_encoder(CLIP(sizes).state_dict(), device="cpu")


TINY = DecoderTraining(
    layers=(0, 2), dim=16, hidden=32, side=32, steps=6, batch=4, per_picture=2, example_side=32, save_every=2, threads=0
)


class Squares(PhraseSet):
    """Six pictures, each with a bright square on the left, called left, and a dark one on the right, called right."""

    name = "squares"

    def __init__(self, count=6):
        self.samples = tuple(Phrase(n, text) for n in range(count) for text in ("left", "right"))

    def picture(self, number):
        rgb = np.full((40, 48, 3), 100 + number, np.uint8)
        rgb[10:30, 4:20], rgb[10:30, 28:44] = 250, 5
        return rgb

    def mask(self, sample):
        mask = np.zeros((40, 48), bool)
        mask[10:30, slice(4, 20) if self.samples[sample].text == "left" else slice(28, 44)] = True
        return mask


# ---------------------------------------------------------------- one step


def test_the_loss_and_its_gradients_are_the_recorded_ones():
    case, forward = arrays("train_step"), arrays("forward")
    decoder = build_decoder(arrays("tiny_decoder"), LAYERS).requires_grad_(True)
    seen = [forward[f"act_layer{layer}"].transpose(0, 1) for layer in LAYERS]
    targets = case["target"][:, 0] > 0
    loss = loss_of(decoder, seen, forward["cond_mix"], targets, (6, 6))
    assert float(loss.detach()) == pytest.approx(float(case["loss0"]), abs=1e-5)
    loss.backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.norm()) == pytest.approx(float(case[f"grad_l2/{name}"]), rel=1e-3)
    torch.optim.AdamW(decoder.parameters(), lr=1e-3).step()
    with torch.no_grad():
        after = loss_of(decoder, seen, forward["cond_mix"], targets, (6, 6))
    assert float(after) == pytest.approx(float(case["loss1"]), abs=1e-5)


def test_the_learning_rate_is_the_recorded_one():
    case, config = arrays("train_step"), DecoderTraining()
    found = [config.lr_at(int(step)) for step in case["lr_iters"]]
    np.testing.assert_allclose(found, case["lr_values"].numpy(), atol=1e-9)


def test_the_defaults_are_the_published_ones():
    config = DecoderTraining()
    assert (config.layers, config.dim, config.side, config.batch, config.steps) == ((3, 7, 9), 64, 352, 64, 20_000)
    assert (config.negatives, config.text_share, config.dropout) == (0.2, (0.0, 0.5), 0.1)
    assert len(PREFIXES) == 9
    assert all(prefix.endswith(".") == (prefix != "{}") for prefix in PREFIXES)


def test_phrases_of_a_picture_share_its_encoding(encoder):
    decoder = new_decoder(encoder, TINY).eval()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    prompts = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(4)[:, None, None].expand(4, 32, 32) % 2 == 0
    seen = block_outputs(encoder, pixels, TINY.layers)
    together = loss_of(decoder, seen, prompts, targets, (2, 2))
    apart = [loss_of(decoder, [one[[k // 2]] for one in seen], prompts[[k]], targets[[k]], (2, 2)) for k in range(4)]
    torch.testing.assert_close(together, torch.stack(apart).mean())


# ---------------------------------------------------------------- what a step sees


def units(config, data=None, steps=50):
    draws = Draws(data or Squares(), config)
    return [draws.unit(step, slot) for step in range(steps) for slot in range(draws.units)]


def test_every_fifth_phrase_is_of_something_else_and_finds_nothing():
    config = DecoderTraining(side=32, batch=4, examples=0.0, true_negatives=False)
    found = units(config, steps=100)
    empty = sum(not bool(unit.targets.any()) for unit in found)
    assert 0.14 < empty / len(found) < 0.26
    assert all(unit.examples == (None,) and unit.shares == (1.0,) for unit in found)
    assert Counter(unit.texts[0] for unit in found).keys() == {"left", "right"}  # without examples, no prefixes
    none = units(DecoderTraining(side=32, batch=4, examples=0.0, negatives=0.0))
    assert all(bool(unit.targets.any()) for unit in none)


def test_a_phrase_that_is_true_is_no_negative():
    config = DecoderTraining(side=32, batch=4, examples=0.0, negatives=1.0)
    assert all(bool(unit.targets.any()) for unit in units(config, steps=10))  # both phrases hold in each picture

    class Apart(Squares):
        def holds(self, picture, text):
            return (text == "left") == (picture % 2 == 0)

    for unit in units(config, Apart(), steps=10):
        number = round(float(unit.pixels[0, 0, 0] * 0.229 + 0.485) * 255) - 100
        if not bool(unit.targets.any()):
            assert unit.texts == (("right",) if number % 2 == 0 else ("left",))


def test_all_phrases_come_once_before_any_comes_again():
    config = DecoderTraining(side=32, batch=4, negatives=0.0, examples=0.0)
    draws = Draws(Squares(), config)
    order = [draws._anchor(place) for place in range(24)]
    assert sorted(order[:12]) == sorted(order[12:]) == list(range(12))
    assert order[:12] != order[12:]


def test_phrases_of_one_unit_are_about_one_picture():
    config = DecoderTraining(side=32, batch=4, per_picture=2, negatives=0.0, examples=0.0)
    for unit in units(config, steps=5):
        assert sorted(unit.texts) == ["left", "right"]
        left = unit.texts.index("left")
        assert int(unit.targets[left].any(0).nonzero()[0]) < int(unit.targets[1 - left].any(0).nonzero()[0])


def test_an_example_is_of_the_same_phrase_and_may_be_the_picture_itself():
    shown = []

    class Watched(Squares):
        def mask(self, sample):
            shown.append(sample)
            return super().mask(sample)

    config = DecoderTraining(side=32, batch=1, negatives=0.0, example_side=32)
    itself = 0
    for step in range(60):
        shown.clear()
        unit = Draws(Watched(), config).unit(step, 0)
        anchor, example = shown
        assert Squares().samples[anchor].text == Squares().samples[example].text
        assert unit.examples[0] is not None
        assert unit.examples[0].shape == (3, 32, 32)
        assert 0 <= unit.shares[0] <= 0.5
        itself += anchor == example
    assert 2 <= itself <= 20  # one in six
    other = DecoderTraining(side=32, batch=1, negatives=0.0, example_side=32, example_may_be_itself=False)
    for step in range(30):
        shown.clear()
        Draws(Watched(), other).unit(step, 0)
        assert shown[0] != shown[1]


def test_a_phrase_without_another_picture_is_asked_by_its_text():
    for may in (True, False):
        config = DecoderTraining(side=32, batch=1, negatives=0.0, example_may_be_itself=may)
        for unit in units(config, Squares(1), steps=6):
            assert unit.examples == (None,)
            assert unit.shares == (1.0,)


def test_a_prompt_lies_between_text_and_example(encoder):
    config = DecoderTraining(side=32, batch=2, example_side=32, text_share=(0.25, 0.25), negatives=0.0)
    some = units(config, steps=2)
    vectors = prompts_of(encoder, some)
    for unit, vector in zip(some, vectors, strict=True):
        text, example = text_prompts(encoder, unit.texts), image_prompts(encoder, unit.examples[0][None])
        torch.testing.assert_close(vector[None], mix(text, example, 0.25), atol=1e-5, rtol=1e-5)
    alone = [units(DecoderTraining(side=32, batch=1, examples=0.0), steps=1)[0]]
    torch.testing.assert_close(prompts_of(encoder, alone), text_prompts(encoder, alone[0].texts))


def test_a_step_is_the_same_whenever_it_is_drawn():
    draws, again = Draws(Squares(), TINY), Draws(Squares(), TINY)
    again.unit(3, 1)
    one, other = draws.unit(40, 0), again.unit(40, 0)
    assert one.texts == other.texts
    assert torch.equal(one.pixels, other.pixels)
    assert torch.equal(one.targets, other.targets)


def test_pictures_and_masks_are_cut_alike():
    rgb = np.zeros((10, 14, 3), np.uint8)
    rgb[:, 4:] = 255
    pixels, mask = cut_picture(rgb, (2, 0, 12, 10), 32), cut_mask(torch.from_numpy(rgb[..., 0] > 0), (2, 0, 12, 10), 32)
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    torch.testing.assert_close(pixels[:, 0, 0], -mean / std)
    torch.testing.assert_close(pixels[:, 31, 31], (1 - mean) / std)
    assert mask[0].tolist() == [k >= 7 for k in range(32)]  # 2 of 10 columns are outside: 32 * 0.2 = 6.4


def test_settings_that_cannot_work_are_refused(encoder):
    with pytest.raises(ConfigError, match="multiple of per_picture"):
        DecoderTraining(batch=6, per_picture=4)
    with pytest.raises(ConfigError, match="shares"):
        DecoderTraining(text_share=(0.6, 0.5))
    with pytest.raises(ConfigError, match="falls"):
        DecoderTraining(lr=1e-5)
    with pytest.raises(ConfigError, match="too few blocks"):
        new_decoder(encoder, DecoderTraining())


# ---------------------------------------------------------------- runs


def weights(out):
    return load_decoder(out / "decoder.safetensors").state_dict()


def test_a_decoder_learns_two_squares(encoder, tmp_path):
    config = DecoderTraining(
        layers=(0, 2), dim=16, hidden=32, dropout=0.0, side=64, steps=60, batch=8, per_picture=2, examples=0.0, lr=5e-3,
        negatives=0.0, validate_every=60, threads=0,
    )  # fmt: skip
    figures = {}
    train_decoder(encoder, Squares(), config, tmp_path, val=Squares(2), report=lambda step, row: figures.update(row))
    assert figures["val_miou"] > 0.6
    decoder = load_decoder(tmp_path / "decoder.safetensors")
    assert (decoder.layers, decoder.side, decoder.about["supervision"]) == ((0, 2), 64, "masks")
    scores = score_phrases(encoder, decoder, Squares(2), prompt="{}")
    assert scores.best("miou")[0] == pytest.approx(figures["val_miou"], abs=1e-5)
    own = score_phrases(encoder, decoder, Squares(2), prompt="{}", own_size=True)
    assert abs(own.best("miou")[0] - scores.best("miou")[0]) < 0.1


def test_a_run_in_parts_ends_with_the_weights_of_one_in_one_go(encoder, tmp_path):
    train_decoder(encoder, Squares(), TINY, tmp_path / "whole", val=Squares(1))
    for stop in (1, 2, 9):
        train_decoder(encoder, Squares(), TINY, tmp_path / "parts", val=Squares(1), stop_after=stop)
    threads = DecoderTraining(**{**TINY.__dict__, "threads": 2, "save_every": 5})
    train_decoder(encoder, Squares(), threads, tmp_path / "threads")
    whole = weights(tmp_path / "whole")
    for name in ("parts", "threads"):
        assert all(torch.equal(value, whole[key]) for key, value in weights(tmp_path / name).items())
    assert (tmp_path / "whole/run.yaml").read_text() == (tmp_path / "parts/run.yaml").read_text()
    before = (tmp_path / "whole/checkpoint.pt").stat().st_mtime_ns
    train_decoder(encoder, Squares(), TINY, tmp_path / "whole")  # nothing is left to do
    assert (tmp_path / "whole/checkpoint.pt").stat().st_mtime_ns == before


def test_another_training_does_not_continue_this_one(encoder, tmp_path):
    train_decoder(encoder, Squares(), TINY, tmp_path, stop_after=2)
    other = DecoderTraining(**{**TINY.__dict__, "lr": 1e-4})
    with pytest.raises(WeightsError, match="belongs to another training"):
        train_decoder(encoder, Squares(), other, tmp_path)
    with pytest.raises(WeightsError, match="belongs to another training"):
        train_decoder(encoder, Squares(4), TINY, tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(WeightsError, match="cannot be read"):
        train_decoder(encoder, Squares(), TINY, tmp_path)
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        train_decoder(encoder, Squares(), DecoderTraining(**{**TINY.__dict__, "amp": "float16"}), tmp_path / "new")


def test_narrow_arithmetic_stays_close(encoder, tmp_path):
    losses = {}
    for amp in ("none", "bfloat16"):
        config = DecoderTraining(**{**TINY.__dict__, "amp": amp})
        seen = losses[amp] = []
        train_decoder(encoder, Squares(), config, tmp_path / amp, report=lambda _, row, to=seen: to.append(row["loss"]))
    np.testing.assert_allclose(losses["bfloat16"], losses["none"], atol=0.02)
    assert losses["bfloat16"] != losses["none"]


def test_half_weights_are_stored_and_read(encoder, tmp_path):
    decoder = new_decoder(encoder, TINY)
    save_decoder(decoder, tmp_path / "half.safetensors", half=True)
    save_decoder(decoder, tmp_path / "full.safetensors")
    read = load_decoder(tmp_path / "half.safetensors")
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "full.safetensors").stat().st_size
    for key, value in decoder.state_dict().items():
        assert torch.equal(read.state_dict()[key], value.half().float())


@pytest.mark.slow
def test_a_killed_training_continues_to_the_same_weights(tmp_path):
    call = [sys.executable, "-m", "clip_es.pipelines.cli", "train-clipseg", "scenes", "--scenes.pictures", "6"]
    call += ["--val-pictures", "2", "--steps", "24", "--save-every", "1", "--side", "64", "--dim", "16", "--device"]
    call += ["cpu", "--validate-every", "0", "--example-side", "64", "--out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for _ in range(2):
        process = subprocess.Popen([*call, str(tmp_path / "killed")], env=environment, stdout=subprocess.DEVNULL)
        known = _stamp(tmp_path)
        until(lambda before=known: _stamp(tmp_path) != before, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run([*call, str(tmp_path / "killed")], env=environment, stdout=subprocess.DEVNULL).returncode == 0
    assert subprocess.run([*call, str(tmp_path / "whole")], env=environment, stdout=subprocess.DEVNULL).returncode == 0
    whole = weights(tmp_path / "whole")
    assert all(torch.equal(value, whole[key]) for key, value in weights(tmp_path / "killed").items())


def _stamp(folder):
    path = folder / "killed/checkpoint.pt"
    return path.stat().st_mtime_ns if path.exists() else 0


def test_every_source_trains_from_the_command_line(tmp_path, encoder, capsys):
    torch.save(encoder.model.state_dict(), tmp_path / "clip.pt")
    (tmp_path / "images").mkdir()
    entries, rows = [], ["image,phrase,mask"]
    data = Squares()
    for number, (picture, text) in enumerate(data.samples):
        Image.fromarray(data.picture(picture)).save(tmp_path / f"images/{picture}.jpg", quality=95)
        Image.fromarray(data.mask(number).astype(np.uint8) * 255).save(tmp_path / f"images/m{number}.png")
        rows.append(f"{picture}.jpg,{text},m{number}.png")
        x = 4 if text == "left" else 28
        entries.append(
            {
                "image_id": picture,
                "phrase": text,
                "instance_boxes": [[x, 10, 16, 20]],
                "Polygons": [[[[x, 10], [x + 15, 10], [x + 15, 29], [x, 29]]]],
            }
        )
    (tmp_path / "refer_train.json").write_text(json.dumps(entries))
    (tmp_path / "refer_test.json").write_text(json.dumps(entries[:4]))
    (tmp_path / "table.csv").write_text("\n".join(rows))
    small = ["--weights", str(tmp_path / "clip.pt"), "--device", "cpu", "--layers", "0", "2", "--dim", "16"]
    small += [
        "--hidden",
        "32",
        "--side",
        "32",
        "--example-side",
        "32",
        "--steps",
        "2",
        "--batch",
        "4",
        "--threads",
        "0",
    ]
    common = ["train-clipseg", "phrasecut", "--root", str(tmp_path), *small]
    assert main([*common, "--out", str(tmp_path / "cut")]) == 0
    table = ["train-clipseg", "folder", "--images", str(tmp_path / "images"), "--table", str(tmp_path / "table.csv")]
    assert main([*table, *small, "--out", str(tmp_path / "table")]) == 0
    assert "not weakly supervised" in capsys.readouterr().out
    cut, table = weights(tmp_path / "cut"), weights(tmp_path / "table")
    # The polygons are the masks, so the two are one data set.
    assert all(torch.equal(value, table[key]) for key, value in cut.items())
    model = ["--weights", str(tmp_path / "clip.pt"), "--device", "cpu"]
    model += ["--decoder", str(tmp_path / "cut/decoder.safetensors")]
    score = ["evaluate-clipseg", "referring", "--data", "phrasecut", "--root", str(tmp_path), *model]
    assert main([*score, "--out", str(tmp_path / "figures.json")]) == 0
    assert json.loads((tmp_path / "figures.json").read_text())["phrases"] == 4
    assert "weakly_supervised: false" in (tmp_path / "cut/run.yaml").read_text()


# ---------------------------------------------------------------- the shipped decoder


@pytest.fixture(scope="module")
def shipped():
    return load_encoder("scenes", device="cpu"), load_decoder(shipped_decoder_path())


def test_the_shipped_decoder_finds_what_it_was_never_told(shipped):
    assert shipped_decoder_path().stat().st_size < 3e6
    assert shipped[1].layers == (1, 2, 3)
    assert shipped[1].about["supervision"] == "masks (drawn scenes)"
    found = {}
    for part in ("names", "synonyms", "places"):
        data = ScenePhrases(ScenePhrasesConfig(24, 2026, part=part, split="val"))
        found[part] = score_phrases(*shipped, data, prompt="{}").best("miou")[0]
    assert min(found.values()) > 0.3, found


def test_an_example_is_asked_for_with_its_mask(shipped, tmp_path, capsys):
    data = ScenePhrases(ScenePhrasesConfig(6, 2026, part="names", split="val"))
    number, (picture, text) = max(enumerate(data.samples), key=lambda pair: data.mask(pair[0]).sum())
    Image.fromarray(data.picture(picture)).save(tmp_path / "a.png")
    Image.fromarray(data.mask(number).astype(np.uint8) * 255).save(tmp_path / "mask.png")
    call = ["prompt", str(tmp_path / "a.png"), "--text", text, "--device", "cpu", "--out", str(tmp_path / "out")]
    example = ["--example", str(tmp_path / "a.png"), "--example-mask", str(tmp_path / "mask.png")]
    assert main([*call, *example]) == 0
    for name in ("01_map", "01_mask", "01_overlay", "02_map", "02_mask", "02_overlay"):
        with Image.open(tmp_path / f"out/{name}.png") as file:
            assert file.size == data.picture(picture).shape[1::-1]
    assert "masks (drawn scenes)" in (tmp_path / "out/report.html").read_text()
    _, (words, shown) = ask(
        *shipped, tmp_path / "a.png", [text], example=tmp_path / "a.png", example_mask=tmp_path / "mask.png"
    )
    for answer in (words, shown):
        assert answer.probability[data.mask(number)].mean() > 2 * answer.probability[~data.mask(number)].mean()
    _, (mixed,) = ask(
        *shipped, tmp_path / "a.png", [text], example=tmp_path / "a.png", example_mask=tmp_path / "mask.png",
        text_share=1.0,
    )  # fmt: skip
    np.testing.assert_allclose(mixed.probability, words.probability, atol=1e-5)
    assert main([*call, "--example", str(tmp_path / "a.png")]) == 2
    assert "needs a mask" in capsys.readouterr().err


def test_bad_prompts_are_named(shipped, tmp_path):
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((40, 30), np.uint8)).save(tmp_path / "small.png")
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "empty.png")
    with pytest.raises(DataError, match="empty"):
        ask(*shipped, tmp_path / "a.png", ["cat", " "])
    with pytest.raises(DataError, match="too long"):
        ask(*shipped, tmp_path / "a.png", ["cat " * 80])
    for name, words in (("small.png", "another size"), ("empty.png", "empty"), ("none.png", "cannot be opened")):
        with pytest.raises(DataError, match=words):
            ask(*shipped, tmp_path / "a.png", example=tmp_path / "a.png", example_mask=tmp_path / name)
    with pytest.raises(ConfigError, match="text_share"):
        ask(*shipped, tmp_path / "a.png", ["cat"], text_share=0.5)
    with pytest.raises(ConfigError, match="exactly once"):
        ask(*shipped, tmp_path / "a.png", ["cat"], sentence="a photo")
    assert main(["prompt", str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]) == 2


# ---------------------------------------------------------------- the transformers port


def test_the_whole_way_from_pixels_and_words_to_logits_is_the_ports(tmp_path):
    transformers = pytest.importorskip("transformers")
    shared = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 1}
    config = transformers.CLIPSegConfig(
        vision_config=shared | {"num_hidden_layers": 4, "image_size": 64, "patch_size": 16},
        text_config=shared | {"num_hidden_layers": 2, "vocab_size": 49408, "eos_token_id": 49407},
        projection_dim=32,
        extract_layers=[0, 1, 3],
        reduce_dim=16,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=64,
    )
    torch.manual_seed(0)
    port = transformers.CLIPSegForImageSegmentation(config).eval()
    for parameter in port.parameters():  # the port begins with many zeros and ones
        torch.nn.init.normal_(parameter, std=0.1)
    port.save_pretrained(tmp_path)
    decoder = load_decoder(tmp_path / "model.safetensors", (0, 1, 3))
    clip = {key.removeprefix("clip."): value for key, value in port.state_dict().items() if key.startswith("clip.")}
    config = EncoderConfig(half_weights=False, half_positions=False)
    encoder = build_encoder(clip, device="cpu", config=config)
    words = ["a cat", "something on the grass"]
    ids = tokenize(words)
    pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = port(
            pixel_values=pixels,
            input_ids=ids,
            attention_mask=(ids > 0).long(),
            interpolate_pos_encoding=True,
        ).logits
        seen = block_outputs(encoder, pixels, decoder.layers)
        ours = decoder(seen, text_prompts(encoder, words), (6, 6))
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        shown = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
        theirs = port(pixel_values=pixels, conditional_pixel_values=shown, interpolate_pos_encoding=True).logits
        ours = decoder(seen, image_prompts(encoder, shown), (6, 6))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert float(theirs.std()) > 0.01
