"""Referring figures: the recorded case, small ones counted by hand, and the two protocols for unseen classes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.integrate import simpson as scipy_simpson

from clip_es.encoder import CLIP, TowerSizes, build_encoder
from clip_es.errors import ConfigError, DataError, ShapeError
from clip_es.localize.clipseg.decoder import Decoder, DecoderSizes
from clip_es.localize.clipseg.sight import block_outputs, prepare, text_prompts
from clip_es.localize.clipseg.weights import save_decoder
from clip_es.masks import write_mask
from clip_es.metrics.phrases import THRESHOLDS, ReferringMeter, simpson
from clip_es.pipelines.cli import main
from clip_es.pipelines.clipseg.one_shot import Episode, OneShotConfig, episodes, fit, fitted_size, one_shot
from clip_es.pipelines.clipseg.zero_shot import multilabel, zero_shot
from clip_es.records import voc

GOLDEN = Path(__file__).parents[2] / "golden/clipseg/metrics.npz"


@pytest.fixture(scope="module")
def recorded():
    with np.load(GOLDEN) as file:
        return {key: file[key] for key in file.files}


def metered(recorded, which, order=range(6)):
    meter = ReferringMeter()
    for i in order:
        meter.update(
            torch.from_numpy(recorded["logits"][i, 0]).sigmoid(),
            torch.from_numpy(recorded["gt"][i, 0] > 0),
            int(recorded["classes"][i]),
            torch.from_numpy(recorded["valid"][i] > 0) if which == "masked" else None,
        )
    return meter


@pytest.mark.parametrize("which", ["plain", "masked"])
def test_counts_are_the_recorded_ones(recorded, which):
    for i in range(6):
        (counts,) = metered(recorded, which, [i]).counts.values()
        for column, name in enumerate(("tp", "fp", "fn", "tn")):
            assert counts[:, column].tolist() == recorded[f"{which}/{name}"][i].tolist()


@pytest.mark.parametrize("which", ["plain", "masked"])
def test_figures_are_the_recorded_ones(recorded, which):
    scores = metered(recorded, which).compute()
    wanted = {key.removeprefix(f"{which}/"): value for key, value in recorded.items() if key.startswith(which)}
    assert scores.ap == pytest.approx(float(wanted["ap"]), abs=1e-9)
    assert scores.ap_trapezoid == pytest.approx(float(wanted["ap_trapezoid"]), abs=1e-9)
    for ours, theirs in (("miou", "miou"), ("iou_fg", "fgiou"), ("iou_bin", "biniou")):
        best, threshold = scores.best(ours)
        assert best == pytest.approx(float(wanted[f"{theirs}_best"]), abs=1e-9)
        if f"{theirs}_best_t" in wanted:
            assert threshold == float(wanted[f"{theirs}_best_t"])
        for t in (0.1, 0.3, 0.5):
            if f"{theirs}_{t}" in wanted:
                assert scores.at(t)[ours] == pytest.approx(float(wanted[f"{theirs}_{t}"]), abs=1e-9)
    curve = np.stack([scores.recall, scores.precision], 1)[::-1]
    np.testing.assert_allclose(curve, wanted["pr_curve_recall_precision"], atol=1e-12)


def test_the_label_of_a_pixel_is_the_recorded_one():
    with np.load(GOLDEN.with_name("multilabel_rule.npz")) as case:
        assert np.array_equal(multilabel(torch.from_numpy(case["logits"])).numpy(), case["label"])


def test_one_pixel_counts_as_can_be_seen():
    meter = ReferringMeter((0.5,))
    meter.update(torch.tensor([[0.9, 0.9], [0.1, 0.5]]), torch.tensor([[True, False], [True, False]]))
    (counts,) = meter.counts.values()
    assert counts.tolist() == [[1, 1, 1, 1]]  # 0.5 is not above 0.5
    scores = meter.compute()
    assert scores.at(0.5) == {"miou": 1 / 4, "iou_fg": 1 / 4, "iou_bin": 1 / 4}


def test_samples_of_one_group_are_pooled_and_others_are_not():
    right, wrong = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 0.0]])
    truth = torch.tensor([[True, True]])
    pooled, apart = ReferringMeter((0.5,)), ReferringMeter((0.5,))
    for probability in (right, wrong):
        pooled.update(probability, truth, "cat")
        apart.update(probability, truth)
    assert pooled.compute().miou.tolist() == [2 / 5]
    assert apart.compute().miou.tolist() == [(2 / 3 + 0) / 2]


def test_meters_of_two_halves_merge_to_the_whole(recorded):
    first, second = metered(recorded, "plain", range(4)), metered(recorded, "plain", range(4, 6))
    first.merge(second)
    assert first.compute().ap == metered(recorded, "plain").compute().ap
    alone = ReferringMeter()
    alone.update(torch.rand(2, 2), torch.ones(2, 2, dtype=torch.bool))
    other = ReferringMeter()
    other.update(torch.rand(2, 2), torch.ones(2, 2, dtype=torch.bool))
    alone.merge(other)
    assert len(alone.counts) == alone.samples == 2
    with pytest.raises(ShapeError, match="same thresholds"):
        alone.merge(ReferringMeter((0.5,)))


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 47, 48])
def test_the_integral_is_scipys(count):
    generator = np.random.default_rng(count)
    x, y = np.sort(generator.random(count)), generator.random(count)
    assert simpson(x, y) == pytest.approx(float(scipy_simpson(y, x=x)), abs=1e-12)
    x = np.linspace(0, 1, count) if count > 2 else np.array([0.0, 1.0])
    assert simpson(x, 2 * x) == pytest.approx(1)


def test_bad_input_of_the_meter_is_named():
    with pytest.raises(ShapeError, match="one size"):
        ReferringMeter().update(torch.zeros(2, 2), torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(ShapeError, match="nothing was counted"):
        ReferringMeter().compute()
    with pytest.raises(ConfigError, match="ascend"):
        ReferringMeter((0.5, 0.4))
    meter = ReferringMeter()
    meter.update(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(ConfigError, match="no figures"):
        meter.compute().at(0.31)
    assert len(THRESHOLDS) == 49


# ---------------------------------------------------------------- unseen classes


SIZES = TowerSizes(patch=16, width=64, layers=3, grid=2, embed=16, text_width=64, text_layers=1)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return build_encoder(CLIP(SIZES).state_dict(), device="cpu")


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(1)
    made = Decoder(DecoderSizes(16, 64, 16, 2, 32, 16), (0, 2)).eval().requires_grad_(False)
    made.side, made.about = 32, {"example_side": "32"}
    return made


NAMES = ("aeroplane", "bird", "boat")


@pytest.fixture
def folder(tmp_path):
    """Four pictures of 40 x 48 in the layout of VOC, each with the classes k and k + 1 of three."""
    for part in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / part).mkdir(parents=True)
    for k in range(4):
        mine = [k % 3, (k + 1) % 3]
        pixels = np.random.default_rng(k).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"JPEGImages/p{k}.png")
        labels = np.zeros((40, 48), np.uint8)
        labels[5:30, 4:20], labels[10:35, 24:44], labels[0] = mine[0] + 1, mine[1] + 1, 255
        write_mask(tmp_path / f"SegmentationClass/p{k}.png", labels)
        objects = "".join(f"<object><name>{NAMES[m]}</name></object>" for m in mine)
        (tmp_path / f"Annotations/p{k}.xml").write_text(f"<annotation>{objects}</annotation>")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("p0\np1\np2\np3\n")
    return tmp_path


def read(folder):
    return voc(folder, "val", class_id=NAMES.index)


def test_zero_shot_puts_seen_and_unseen_the_right_way_round(encoder, decoder, folder):
    scores = zero_shot(encoder, decoder, read(folder), NAMES, ("boat",))
    assert list(scores.iou) == ["background", *NAMES]
    assert scores.unseen == scores.iou["boat"]
    assert scores.seen == pytest.approx(np.mean([scores.iou[n] for n in ("background", "aeroplane", "bird")]))
    other = zero_shot(encoder, decoder, read(folder), NAMES, ("aeroplane", "bird"))
    assert other.iou == scores.iou
    assert other.seen == pytest.approx(np.mean([scores.iou["background"], scores.iou["boat"]]))


def test_zero_shot_is_the_rule_of_three_times_background(encoder, decoder, folder):
    scores = zero_shot(encoder, decoder, read(folder), NAMES, ("boat",))
    vectors = text_prompts(encoder, ["background", *NAMES])
    right = total = 0
    for k in range(4):
        with Image.open(folder / f"JPEGImages/p{k}.png") as file:
            pixels = prepare(np.array(file), 32, 16)
        probability = decoder(block_outputs(encoder, pixels, (0, 2)), vectors, (2, 2)).sigmoid()
        probability[0] *= 3
        with Image.open(folder / f"SegmentationClass/p{k}.png") as file:
            truth = np.array(file)[(np.arange(32) * 1.25).astype(int)][:, (np.arange(32) * 1.5).astype(int)]
        found = probability.argmax(0).numpy()[truth != 255]
        truth = truth[truth != 255]
        right += int(((found == 0) & (truth == 0)).sum())
        total += int(((found == 0) | (truth == 0)).sum())
    assert scores.iou["background"] == pytest.approx(right / total)


def test_without_a_background_word_a_threshold_decides(encoder, decoder, folder):
    high = zero_shot(encoder, decoder, read(folder), NAMES, ("boat",), background_factor=None, threshold=0.999)
    assert [high.iou[name] for name in NAMES] == [0, 0, 0]
    low = zero_shot(encoder, decoder, read(folder), NAMES, ("boat",), background_factor=None, threshold=0.001)
    assert low.iou["background"] == 0
    assert max(low.iou.values()) > 0


def test_folds_are_blocks_or_interleaved():
    blocks, strides = OneShotConfig(), OneShotConfig(folds="interleaved")
    assert [blocks.classes_of(fold, 20) for fold in range(4)] == [list(range(5 * k, 5 * k + 5)) for k in range(4)]
    assert strides.classes_of(1, 80)[:3] == [1, 5, 9]
    assert [blocks.classes_of(fold, 6) for fold in range(4)] == [[0, 1], [2, 3], [4, 5], []]


def test_an_episode_has_another_picture_of_its_class():
    sizes = [{0: 3000, 1: 100}, {0: 3000}, {1: 5000}, {1: 2048}, {2: 9999}]
    found = episodes(sizes, (0, 1, 2), OneShotConfig(), 0)
    assert [episode.query for episode in found] == [0, 1, 2, 3]  # picture 4 is the only one of its class
    assert found[0] == Episode(0, 0, 1)  # its 100 pixels of class 1 do not count
    assert found[2] == Episode(2, 1, 3)
    many = episodes(sizes, (0, 1, 2), OneShotConfig(episodes=50), 0)
    assert len(many) == 50
    assert all(one.query != one.example for one in many)
    assert many == episodes(sizes, (0, 1, 2), OneShotConfig(episodes=50), 0)
    assert many != episodes(sizes, (0, 1, 2), OneShotConfig(episodes=50, seed=1), 0)


def test_a_picture_is_laid_into_the_corner_on_black():
    assert fitted_size((500, 375), 352) == (352, 264)
    assert fitted_size((333, 500), 352) == (232, 352)
    assert fitted_size((100, 50), 352) == (100, 50)
    white = np.full((100, 50, 3), 255, np.uint8)
    square, inside = fit(white, 128, "corner", 16)
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    assert inside == (100, 50)
    torch.testing.assert_close(square[:, 99, 49], (1 - mean) / std)
    torch.testing.assert_close(square[:, 100, 0], -mean / std)
    torch.testing.assert_close(square[:, 0, 50], -mean / std)
    assert fit(white, 64, "stretch", 16)[1] == (64, 64)


@pytest.mark.parametrize("prompt", ["example", "text"])
def test_one_shot_counts_each_class_of_a_fold(encoder, decoder, folder, prompt):
    config = OneShotConfig(prompt=prompt, fold_count=2, least_pixels=10)
    scores = one_shot(encoder, decoder, read(folder), NAMES, config)
    assert [one.samples for one in scores.folds.values()] == [4, 2]  # boat is in two pictures
    mean = scores.mean()
    assert mean["miou"] == pytest.approx(np.mean([one.at(0.3)["miou"] for one in scores.folds.values()]))
    assert mean["best_miou"] >= mean["miou"]
    with pytest.raises(DataError, match="no fold has an episode"):
        one_shot(encoder, decoder, read(folder), NAMES, OneShotConfig(least_pixels=10**6))


def test_undecided_pixels_do_not_count(encoder, decoder, folder):
    config = OneShotConfig(prompt="text", fold_count=1, least_pixels=10)
    before = one_shot(encoder, decoder, read(folder), NAMES, config)
    for k in range(4):
        path = folder / f"SegmentationClass/p{k}.png"
        with Image.open(path) as file:
            labels = np.array(file)
        labels[labels == 0] = 255  # what is left are pixels of one class or another
        write_mask(path, labels)
    after = one_shot(encoder, decoder, read(folder), NAMES, config)
    assert np.array_equal(after.folds[0].recall, before.folds[0].recall)
    assert (after.folds[0].precision >= before.folds[0].precision).all()
    assert after.folds[0].precision[0] > before.folds[0].precision[0]


def test_from_the_command_line(tmp_path, folder, encoder, decoder, capsys):
    torch.save(encoder.model.state_dict(), tmp_path / "clip.pt")
    save_decoder(decoder, tmp_path / "decoder.safetensors")
    (tmp_path / "three.yaml").write_text(f"name: three\ntemplate: a {{}}.\nclasses: [{', '.join(NAMES)}]\n")
    model = [
        "--weights",
        str(tmp_path / "clip.pt"),
        "--decoder",
        str(tmp_path / "decoder.safetensors"),
        "--device",
        "cpu",
    ]
    data = [*model, "--root", str(folder), "--vocabulary", str(tmp_path / "three.yaml")]
    out = tmp_path / "figures.json"
    assert main(["evaluate-clipseg", "zero-shot", *data, "--unseen", "boat", "--out", str(out)]) == 0
    told = json.loads(out.read_text())
    assert told["unseen"] == told["iou"]["boat"]
    assert main(["evaluate-clipseg", "zero-shot", *data, "--unseen", "dog"]) == 2
    assert "'dog' is no class" in capsys.readouterr().err.replace("dog is", "'dog' is")
    assert main(["evaluate-clipseg", "one-shot", *data, "--least-pixels", "10", "--out", str(out)]) == 0
    assert 0 <= json.loads(out.read_text())["miou"] <= 1
    referring = ["evaluate-clipseg", "referring", *model, "--pictures", "16", "--out", str(out)]
    assert main([*referring, "--report", str(tmp_path / "page.html"), "--report-pictures", "3"]) == 0
    told = json.loads(out.read_text())
    assert told["phrases"] >= 8
    assert (tmp_path / "page.html").read_text().count("<img") == 12  # picture, map, what is above, truth
    assert main([*referring, "--by", "example"]) == 0
    asked = json.loads(out.read_text())
    assert asked["asked"] == "asked by an example"
    assert asked["phrases"] < told["phrases"]  # a phrase of one picture alone has no example
