"""CLIPSeg's evaluation against recordings of the published functions (protocols.npz): figures, polygons, pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_es.encoder import load_encoder
from clip_es.localize.clipseg.draws import cut_mask, cut_picture
from clip_es.localize.clipseg.scores import score_phrases
from clip_es.localize.clipseg.sight import block_outputs, text_prompts
from clip_es.localize.clipseg.training import PREFIXES
from clip_es.localize.clipseg.weights import load_decoder
from clip_es.metrics.phrases import ReferringMeter
from clip_es.pipelines.cli import main
from clip_es.pipelines.clipseg.one_shot import OneShotConfig, fit, fitted_size, meet
from clip_es.records.phrases.phrasecut import PhraseCut
from clip_es.scenes.weights import shipped_decoder_path

GOLDEN = Path(__file__).parents[3] / "golden/clipseg/protocols.npz"


@pytest.fixture(scope="module")
def recorded():
    with np.load(GOLDEN) as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def phrasecut(recorded, tmp_path_factory) -> Path:
    """The recorded pictures and polygons in the layout of PhraseCut."""
    root = tmp_path_factory.mktemp("phrasecut")
    (root / "images").mkdir()
    tasks = []
    for i in range(3):
        (root / f"images/{i}.jpg").write_bytes(recorded[f"phrasecut/{i}/jpeg"].tobytes())
        for j, phrase in enumerate(("red car", "small dog")):
            ends = recorded[f"phrasecut/{i}/{j}/ends"]
            polygons = np.split(recorded[f"phrasecut/{i}/{j}/polygons"], ends[:-1])
            shape = [one.tolist() for one in polygons]
            boxes = [[0, 0, 5, 5]]
            tasks.append(
                {"image_id": i, "task_id": f"{i}__{j}", "phrase": phrase, "Polygons": [shape], "instance_boxes": boxes}
            )
    (root / "refer_test.json").write_text(json.dumps(tasks))
    sizes = [
        {"image_id": i, "height": int(h), "width": int(w), "split": "test"}
        for i, (h, w) in ((i, recorded[f"phrasecut/{i}/size_hw"]) for i in range(3))
    ]
    (root / "image_data_split.json").write_text(json.dumps(sizes))
    return root


# ---------------------------------------------------------------- 1: average precision


@pytest.mark.parametrize("name", ["low", "fine", "coarse", "full"])
def test_average_precision_leaves_out_thresholds_that_predict_nothing(recorded, name):
    meter = ReferringMeter()
    rows = (recorded[f"ap/{name}/{part}"] for part in ("probability", "truth", "classes"))
    for probability, truth, group in zip(*rows, strict=True):
        meter.update(torch.from_numpy(probability[0]), torch.from_numpy(truth[0]), int(group))
    scores = meter.compute()
    points = recorded[f"ap/{name}/points"]
    ours = np.array(sorted(set(zip(scores.recall.tolist(), scores.precision.tolist(), strict=True))))
    ours = ours[ours.sum(1) > 0]
    np.testing.assert_allclose(ours, points[points.sum(1) > 0], atol=1e-12)
    assert scores.at(0.3)["miou"] == pytest.approx(recorded[f"ap/{name}/miou_0.3"], abs=1e-9)
    assert scores.at(0.3)["iou_fg"] == pytest.approx(recorded[f"ap/{name}/fgiou_0.3"], abs=1e-9)
    # Points of equal recall come in the order of a Python set in the published code, in that of precision here.
    assert scores.ap == pytest.approx(recorded[f"ap/{name}/ap"], abs=6e-3)


def test_points_above_every_probability_do_not_lower_the_average_precision():
    meter = ReferringMeter()
    truth = torch.tensor([[True, True, False, False]])
    meter.update(torch.tensor([[0.31, 0.21, 0.11, 0.05]]), truth)
    scores = meter.compute()
    made = scores.recall > 0
    assert scores.precision[~made].tolist() == [0.0] * int((~made).sum())
    points = sorted(set(zip(scores.recall[made].tolist(), scores.precision[made].tolist(), strict=True)))
    assert len(points) == 4  # thresholds up to 0.04, 0.1, 0.2, 0.3; recalls 2/3, 2/3, 2/3, 1/3
    assert scores.ap_trapezoid == pytest.approx((points[1][0] - points[0][0]) * (points[1][1] + points[0][1]) / 2)
    nothing = ReferringMeter()
    nothing.update(torch.zeros(1, 4), truth)
    assert nothing.compute().ap == 0


# ---------------------------------------------------------------- 2, 3: PhraseCut


def test_pictures_are_prepared_as_in_the_published_test(recorded, phrasecut):
    data = PhraseCut(phrasecut, "test")
    for i in range(3):
        rgb = data.picture(i)
        pixels = cut_picture(rgb, (0, 0, rgb.shape[1], rgb.shape[0]), 96)
        torch.testing.assert_close(pixels, torch.from_numpy(recorded[f"phrasecut/{i}/input"]), atol=2e-6, rtol=0)


def test_scoring_shows_the_encoder_the_published_picture(recorded, phrasecut, monkeypatch):
    encoder, decoder = load_encoder("scenes", device="cpu"), load_decoder(shipped_decoder_path())
    data, seen = PhraseCut(phrasecut, "test"), []
    scores = score_phrases(encoder, decoder, data, prompt="{}", side=96, watch=lambda n, p: seen.append(p))
    meter = ReferringMeter()
    for i in range(3):
        pixels = torch.from_numpy(recorded[f"phrasecut/{i}/input"])[None]
        outputs = block_outputs(encoder, pixels, decoder.layers)
        for j, phrase in enumerate(("red car", "small dog")):
            logits = decoder(outputs, text_prompts(encoder, [phrase]).float(), (6, 6))[0]
            meter.update(logits.sigmoid(), torch.from_numpy(recorded[f"phrasecut/{i}/{j}/mask96"]) > 0)
            torch.testing.assert_close(seen[2 * i + j], logits.sigmoid(), atol=1e-4, rtol=0)
    published = meter.compute()
    assert scores.ap == pytest.approx(published.ap, abs=1e-3)
    assert scores.at(0.3)["miou"] == pytest.approx(published.at(0.3)["miou"], abs=1e-3)


def test_the_command_prints_the_figures_of_the_published_preparation(recorded, phrasecut, tmp_path):
    encoder, decoder = load_encoder("scenes", device="cpu"), load_decoder(shipped_decoder_path())
    meter = ReferringMeter()
    for i in range(3):
        outputs = block_outputs(encoder, torch.from_numpy(recorded[f"phrasecut/{i}/input"])[None], decoder.layers)
        for j, phrase in enumerate(("red car", "small dog")):
            logits = decoder(outputs, text_prompts(encoder, [phrase]).float(), (6, 6))[0]
            meter.update(logits.sigmoid(), torch.from_numpy(recorded[f"phrasecut/{i}/{j}/mask96"]) > 0)
    published = meter.compute()
    call = ["evaluate-clipseg", "referring", "--data", "phrasecut", "--root", str(phrasecut), "--side", "96"]
    assert main([*call, "--device", "cpu", "--out", str(tmp_path / "figures.json")]) == 0
    told = json.loads((tmp_path / "figures.json").read_text())
    expected = {"mIoU at 0.3": published.at(0.3)["miou"], "AP": published.ap}
    for name, value in expected.items():
        print(f"{name}: {told[name]:.4f} by the command, {100 * value:.4f} of the recorded preparation")  # noqa: T201
        assert told[name] == pytest.approx(100 * value, abs=0.05)


def test_polygons_are_drawn_as_published(recorded, phrasecut):
    data = PhraseCut(phrasecut, "test")
    for number in range(6):
        i, j = divmod(number, 2)
        mask = data.mask(number)
        np.testing.assert_array_equal(mask, recorded[f"phrasecut/{i}/{j}/mask"])
        square = cut_mask(torch.from_numpy(mask), (0, 0, mask.shape[1], mask.shape[0]), 96)
        np.testing.assert_array_equal(square, recorded[f"phrasecut/{i}/{j}/mask96"] > 0)


# ---------------------------------------------------------------- 4, 5, 6: one-shot


def test_pictures_are_fitted_to_the_published_size(recorded):
    for height, width, *expected in recorded["oneshot/sizes"].tolist():
        assert list(fitted_size((height, width), 352)) == expected
    for length in range(353, 3000):
        assert fitted_size((length, 200), 352)[0] == fitted_size((200, length), 352)[1] == 352


@pytest.mark.parametrize("i", range(4))
def test_pictures_are_resized_as_opencv_does(recorded, i):
    side = int(recorded[f"oneshot/{i}/side"])
    pixels, inside = fit(recorded[f"oneshot/{i}/rgb"], side, "corner", 16)
    mean, std = (torch.tensor(row)[:, None, None] for row in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    ours = ((pixels * std + mean) * 255).movedim(0, -1)
    theirs = torch.from_numpy(recorded[f"oneshot/{i}/fitted"])
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)
    assert not theirs[inside[0] :].any()
    assert not theirs[:, inside[1] :].any()


def test_the_prediction_is_a_probability_before_it_is_enlarged():
    probability = torch.tensor([[0.1, 0.9], [0.1, 0.9]])
    truth = np.zeros((5, 5), np.uint8)
    wide, labels = meet(probability, truth, (2, 2), OneShotConfig())
    torch.testing.assert_close(wide[0], torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))  # of the logits: 0.1, 0.25, 0.5 ...
    assert labels.shape == (5, 5)


def test_the_square_is_stretched_over_the_longer_side_as_published():
    probability = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    truth = np.zeros((10, 20), np.uint8)
    wide, _ = meet(probability, truth, (3, 8), OneShotConfig())
    square = torch.nn.functional.interpolate(probability[None, None], (20, 20), mode="bilinear", align_corners=True)
    assert torch.equal(wide, square[0, 0, :10])
    exact, _ = meet(probability, truth, (3, 8), OneShotConfig(compare="exact"))
    torch.testing.assert_close(exact[-1, -1], probability[2, 7])
    inside, labels = meet(probability, truth, (8, 8), OneShotConfig(fit="stretch"))
    assert inside.shape == labels.shape == (8, 8)


# ---------------------------------------------------------------- 7: training


def test_the_plain_prefix_ends_in_a_full_stop_as_the_others():
    assert "{}." in PREFIXES
    assert len(PREFIXES) == 9
    assert all(one.endswith(".") for one in PREFIXES)
