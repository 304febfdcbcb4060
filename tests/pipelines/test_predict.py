"""A trained segmenter on pictures: safe to load, the same as mmsegmentation's own test, resumable."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clip_es.config.run import CrfConfig
from clip_es.errors import ConfigError, DataError, WeightsError
from clip_es.masks import read_confidence, read_mask
from clip_es.pipelines.checks.run import check_run
from clip_es.pipelines.cli import main
from clip_es.pipelines.predict import decided, smooth
from clip_es.records.unlabeled import unlabeled_pictures
from clip_es.segmentor.inference import Segmenter, TestViews, scaled
from clip_es.segmentor.training.checkpoints import parse_config, read_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory, write_segmenter) -> Path:
    """Checkpoint of a model of five labels; config.py beside it."""
    return write_segmenter(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def segmenter(model) -> Segmenter:
    return Segmenter.load(model, device="cpu")


def picture(height: int = 61, width: int = 83, seed: int = 0) -> np.ndarray:
    """Smooth colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    for number, name in enumerate(("a", "b", "inner/c")):
        Image.fromarray(picture(seed=number)).save(folder / f"{name}.png")
    return folder


def call(model: Path, pictures: Path, out: Path, *flags: str) -> int:
    return main(["predict", str(model), str(pictures), "--out", str(out), "--device", "cpu", *flags])


def failures(out: Path) -> dict[str, dict[str, str]]:
    with (out / "failures.csv").open(newline="") as file:
        return {row["image_id"]: row for row in csv.DictReader(file)}


def mmseg_answer(model: Path, rgb: np.ndarray) -> torch.Tensor:
    """Logits of mmsegmentation's own init_model and inference_model, which take blue first."""
    from mmseg.apis import inference_model, init_model

    theirs = init_model(str(model.with_name("config.py")), str(model), device="cpu")
    return inference_model(theirs, np.ascontiguousarray(rgb[..., ::-1])).seg_logits.data


@pytest.mark.filterwarnings("ignore")  # mmsegmentation's own.
def test_one_view_is_what_mmsegmentation_answers(model, segmenter):
    rgb = picture()
    ours, theirs = segmenter.probabilities(rgb), mmseg_answer(model, rgb).softmax(0)
    assert ours.shape == (5, 61, 83)
    assert torch.allclose(ours.sum(0), torch.ones(61, 83), atol=1e-5)
    assert float((ours - theirs).abs().max()) < 1e-6
    assert len(ours.argmax(0).unique()) > 1, "the tiny model tells pixels apart"


@pytest.mark.filterwarnings("ignore")  # mmsegmentation's own.
def test_scales_and_flip_are_averaged_as_mmsegmentations_own_tta_does(segmenter):
    from mmengine.dataset import Compose
    from mmseg.models.segmentors import SegTTAModel

    rgb, scales = picture(64, 96), (0.5, 1.0, 1.5)
    resize = [{"type": "Resize", "scale_factor": s, "keep_ratio": True} for s in scales]
    flips = [{"type": "RandomFlip", "prob": p, "direction": "horizontal"} for p in (0.0, 1.0)]
    views = Compose([{"type": "TestTimeAug", "transforms": [resize, flips, [{"type": "PackSegInputs"}]]}])
    size = rgb.shape[:2]
    data = views({"img": np.ascontiguousarray(rgb[..., ::-1]), "img_shape": size, "ori_shape": size, "img_path": ""})
    samples = [[sample] for sample in data["data_samples"]]
    tta = SegTTAModel(module=segmenter.model)
    batches = [
        segmenter.model.test_step({"inputs": [image], "data_samples": sample})
        for image, sample in zip(data["inputs"], samples, strict=True)
    ]
    (theirs,) = tta.merge_preds([[batch[0] for batch in batches]])
    mean = torch.stack([batch[0].seg_logits.data.softmax(0) for batch in batches]).mean(0)
    ours = segmenter.probabilities(rgb, TestViews(scales, flip=True))
    assert len(batches) == 6
    assert float((ours - mean).abs().max()) < 1e-5
    assert float((ours.argmax(0) == theirs.pred_sem_seg.data).float().mean()) > 0.999


def test_a_mirrored_picture_gives_the_mirrored_answer_when_both_are_looked_at(segmenter):
    rgb = picture()
    both = TestViews(flip=True)
    mirrored = segmenter.probabilities(np.ascontiguousarray(rgb[:, ::-1]), both).flip(dims=(-1,))
    assert float((segmenter.probabilities(rgb, both) - mirrored).abs().max()) < 1e-5
    assert float((segmenter.probabilities(rgb) - mirrored).abs().max()) > 1e-3, "one view alone is not symmetric"


def test_sliding_windows_follow_the_config(tmp_path, segmenter, write_segmenter):
    window = "dict(mode='slide', crop_size=(40, 40), stride=(20, 20))"
    sliding = Segmenter.load(write_segmenter(tmp_path, test=window), device="cpu")
    rgb = picture(40, 40)
    assert torch.allclose(sliding.probabilities(rgb), segmenter.probabilities(rgb), atol=1e-6), "one window"
    rgb = picture(60, 80)
    assert float((sliding.probabilities(rgb) - segmenter.probabilities(rgb)).abs().max()) > 1e-3


def test_the_resize_of_the_test_pipeline_is_kept_and_scaled(tmp_path, write_segmenter):
    steps = "    dict(type='Resize', scale=(64, 32), keep_ratio=True),"
    made = Segmenter.load(write_segmenter(tmp_path, steps=steps), device="cpu")
    assert made.probabilities(picture(60, 80)).shape == (5, 60, 80), "masks have the picture's size"
    assert scaled([{"type": "Resize", "scale": (64, 32)}], 1.5)[0]["scale"] == (96, 48)
    assert scaled([{"type": "Resize", "scale_factor": 0.5}], 1.5)[0]["scale_factor"] == 0.75
    assert scaled([{"type": "Pad"}], 0.5)[0] == {"type": "Resize", "scale_factor": 0.5, "keep_ratio": True}
    assert scaled([{"type": "Pad"}], 1) == [{"type": "Pad"}]


def test_impossible_views_are_refused():
    for scales in ((), (0.0,), (1.0, 1.0), (100.0,)):
        with pytest.raises(ConfigError):
            TestViews(scales)


def test_a_folder_becomes_a_folder_of_palette_masks(model, pictures, tmp_path, segmenter):
    out = tmp_path / "out"
    assert call(model, pictures, out) == 0
    assert sorted(path.name for path in (out / "masks").iterdir()) == ["a.png", "b.png", "inner__c.png"]
    assert not (out / "confidence").exists()
    with Image.open(out / "masks" / "a.png") as image:
        assert image.mode == "P"
    expected = segmenter.probabilities(picture(seed=0)).argmax(0).numpy()
    assert np.array_equal(read_mask(out / "masks" / "a.png"), expected)


def test_with_confidence_the_result_is_a_run_that_can_be_trained_on(model, pictures, tmp_path, segmenter):
    out = tmp_path / "out"
    assert call(model, pictures, out, "--confidence", "--threshold", "0.6") == 0
    sure = segmenter.probabilities(picture(seed=1)).amax(0).numpy()
    assert np.abs(read_confidence(out / "confidence" / "b.png") - sure).max() < 0.003
    masks, labels = (read_mask(out / part / "b.png") for part in ("masks", "labels"))
    assert np.array_equal(masks == 255, sure < 0.6)
    assert (masks == 255).any()
    assert np.array_equal(masks[masks != 255], labels[masks != 255])
    result = check_run(out)
    assert result.troubles == ()
    assert [share.name for share in result.classes] == ["background", *(f"thing{k}" for k in range(1, 5))]


def test_a_second_call_continues_and_other_settings_are_refused(model, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(model, pictures, out) == 0
    (out / "masks" / "a.png").unlink()
    before = (out / "masks" / "b.png").stat().st_mtime_ns
    assert call(model, pictures, out) == 0
    assert "2 done before, 1 to do" in capsys.readouterr().out
    assert (out / "masks" / "a.png").exists()
    assert (out / "masks" / "b.png").stat().st_mtime_ns == before
    assert call(model, pictures, out, "--flip") == 2
    assert "Found --views.flip true" in capsys.readouterr().err


def test_one_bad_picture_is_a_row_and_the_others_are_done(model, pictures, tmp_path, capsys):
    (pictures / "bad.jpg").write_bytes(b"no picture")
    shutil.copy(pictures / "a.png", pictures / "a.jpg.png")
    Image.fromarray(picture()).save(pictures / "b.jpg")
    out = tmp_path / "out"
    assert call(model, pictures, out) == 1
    rows = failures(out)
    assert set(rows) == {"bad", "b"}
    assert rows["bad"]["stage"] == "read"
    assert "same id" in rows["b"]["reason"]
    assert len(list((out / "masks").iterdir())) == 4
    assert "4 pictures done, 2 failed" in capsys.readouterr().out


def test_pictures_come_from_a_folder_a_list_of_paths_or_one_file(pictures, tmp_path):
    (tmp_path / "list.txt").write_text("pictures/b.png\npictures/inner/c.png\npictures/none.png\n")
    records, problems = unlabeled_pictures(tmp_path / "list.txt", 2)
    assert [record.image_id for record in records] == ["pictures__b", "pictures__inner__c", "pictures__none"]
    assert records[0].class_ids == (0, 1)
    assert problems == [], "that none.png is not there is met when it is read"
    assert [r.image_id for r in unlabeled_pictures(pictures / "a.png", 2)[0]] == ["a"]
    (tmp_path / "ids.txt").write_text("b\ninner/c.png\nz\n")
    records, problems = unlabeled_pictures(pictures, 2, tmp_path / "ids.txt")
    assert [record.image_id for record in records] == ["b", "inner__c"]
    assert problems[0].image_id == "z"
    with pytest.raises(DataError, match="no such pictures"):
        unlabeled_pictures(tmp_path / "nowhere", 2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no picture to predict"):
        unlabeled_pictures(tmp_path / "empty", 2)


def test_results_inside_the_folder_of_pictures_are_not_taken_for_pictures(model, pictures):
    out = pictures / "out"
    assert call(model, pictures, out) == 0
    assert call(model, pictures, out) == 0
    assert len(list((out / "masks").iterdir())) == 3


def test_the_crf_follows_edges_and_its_settings_are_flags(model, pictures, tmp_path, capsys):
    assert call(model, pictures, tmp_path / "plain") == 0
    assert call(model, pictures, tmp_path / "crf", "--crf", "--refine.crf.iterations", "3") == 0
    names = [path.name for path in (tmp_path / "crf" / "masks").iterdir()]
    assert len(names) == 3
    assert any(
        (read_mask(tmp_path / "crf/masks" / name) != read_mask(tmp_path / "plain/masks" / name)).any() for name in names
    )
    assert "iterations: 3" in (tmp_path / "crf" / "run.yaml").read_text()


def test_labels_that_are_nowhere_cost_the_crf_nothing_and_change_nothing():
    rgb = picture(40, 50)
    probabilities = torch.full((6, 40, 50), 1e-4)
    probabilities[0, :, :26], probabilities[3, :, :26] = 0.7, 0.3
    probabilities[0, :, 26:], probabilities[3, :, 26:] = 0.4, 0.6
    probabilities /= probabilities.sum(0)
    config = CrfConfig(backend="native")
    few = smooth("x", rgb, probabilities, config)
    raised = probabilities.clone()
    raised[:, 0, 0] = 1 / 6  # One pixel where all labels are possible, so that none is left out.
    every = smooth("x", rgb, raised, config)
    assert torch.equal(few[[1, 2, 4, 5]], torch.zeros(4, 40, 50))
    same = few.argmax(0) == every.argmax(0)
    assert float(same.float().mean()) > 0.995
    one = torch.zeros(3, 4, 4)
    one[0] = 1
    assert torch.equal(smooth("x", rgb[:4, :4], one, config), one), "nothing to decide"


def test_the_likeliest_label_wins_and_unsure_pixels_are_left_open():
    mask = decided(torch.tensor([[[0.5, 0.2]], [[0.5, 0.8]]]), threshold=0.6)
    assert mask.decided.tolist() == [[0, 1]], "the first of equals"
    assert mask.labels.tolist() == [[255, 1]]
    assert mask.confidence[0].tolist() == pytest.approx([0.5, 0.8])


def test_a_checkpoint_of_another_number_of_classes_is_refused(model, tmp_path, write_segmenter):
    other = write_segmenter(tmp_path, classes=7)
    shutil.copy(model, other)
    with pytest.raises(WeightsError, match="another number of classes") as caught:
        Segmenter.load(other, device="cpu")
    assert caught.value.expected == "7 classes in decode_head.conv_seg.weight"
    assert caught.value.found == "5"


def test_a_checkpoint_of_another_architecture_names_what_differs(model, tmp_path):
    shutil.copy(model, tmp_path / "final.pth")
    text = model.with_name("config.py").read_text()
    (tmp_path / "config.py").write_text(text.replace("depth=18", "depth=34"))
    with pytest.raises(WeightsError, match="another architecture") as caught:
        Segmenter.load(tmp_path / "final.pth", device="cpu")
    assert "backbone.layer1.2" in str(caught.value)
    (tmp_path / "config.py").write_text(text.replace("        channels=8", "        channels=12"))
    with pytest.raises(WeightsError, match="weights differ in shape"):
        Segmenter.load(tmp_path / "final.pth", device="cpu")


def test_weights_of_a_training_that_diverged_are_refused(model, tmp_path):
    bare = torch.load(model, weights_only=True)
    bare["state_dict"]["decode_head.conv_seg.bias"][2] = float("nan")
    torch.save(bare, tmp_path / "final.pth")
    shutil.copy(model.with_name("config.py"), tmp_path)
    with pytest.raises(WeightsError, match=r"diverged.*decode_head.conv_seg.bias"):
        Segmenter.load(tmp_path / "final.pth", device="cpu")


def test_half_precision_on_request_gives_nearly_the_same(model, segmenter):
    half = Segmenter.load(model, device="cpu", dtype="bfloat16")
    rgb = picture()
    same = half.probabilities(rgb).argmax(0) == segmenter.probabilities(rgb).argmax(0)
    assert half.probabilities(rgb).dtype == torch.float32
    assert 0.95 < float(same.float().mean()) < 1


def test_a_training_checkpoint_is_read_without_its_objects(model, tmp_path):
    """What mmengine saves: logs, hooks' messages and numpy numbers beside the weights."""
    from mmengine.logging import HistoryBuffer

    bare = torch.load(model, weights_only=True)
    full = {
        **bare,
        "message_hub": {"log_scalars": {"loss": HistoryBuffer([1.0, 2.0], [1, 1])}, "best": np.float32(0.5)},
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(0.1)}]},
    }
    full["meta"]["cfg"] = model.with_name("config.py").read_text()
    torch.save(full, tmp_path / "iter_3.pth")
    read = read_checkpoint(tmp_path / "iter_3.pth")
    assert read.classes == tuple(f"thing{k}" for k in range(5))
    assert all(torch.equal(read.state[key], value) for key, value in bare["state_dict"].items())
    assert Segmenter.load(tmp_path / "iter_3.pth", device="cpu").names[1] == "thing1", "its config is in it"


class Evil:
    """Runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_a_hostile_checkpoint_runs_nothing(model, tmp_path):
    bare = torch.load(model, weights_only=True)
    torch.save({**bare, "hook": Evil(tmp_path / "ran")}, tmp_path / "final.pth")
    shutil.copy(model.with_name("config.py"), tmp_path)
    assert len(Segmenter.load(tmp_path / "final.pth", device="cpu").names) == 5
    torch.save(Evil(tmp_path / "ran"), tmp_path / "final.pth")
    with pytest.raises(WeightsError):
        Segmenter.load(tmp_path / "final.pth", device="cpu")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "final.pth", weights_only=False)
    assert (tmp_path / "ran").exists(), "read carelessly, it would have run"


@pytest.mark.parametrize(
    "text",
    [
        "import os",
        "model = dict(type='EncoderDecoder', head=open('x'))",
        "model = [__import__('os').system('true')]",
        "model = dict(type='os.system', command='true')",
        "model = dict(type='EncoderDecoder', backbone=[dict(type='mmengine.load', file='x.pkl')])",
        "model = dict(**globals())",
        "x.y = 1",
        "model = 'unclosed",
    ],
)
def test_a_config_found_with_a_checkpoint_is_data_and_not_a_program(text):
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "config.py")
    assert "config.py" in str(caught.value)


def test_literals_of_every_kind_are_read():
    text = '"""Doc."""\nmodel = dict({"a.b": -1.5}, c=(1, [None, True]), d=dict(type="torch.nn.GELU"))\nx = dict()'
    expected = {"a.b": -1.5, "c": (1, [None, True]), "d": {"type": "torch.nn.GELU"}}
    assert parse_config(text, "config.py") == {"model": expected, "x": {}}


def test_a_dumped_config_of_mmengine_reads_as_it_was(model, tmp_path):
    from mmengine.config import Config

    config = Config.fromfile(str(model.with_name("config.py")))
    config.dump(str(tmp_path / "dumped.py"))
    assert parse_config((tmp_path / "dumped.py").read_text(), "dumped.py") == config.to_dict()


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint", b"PK\x03\x04 and no more"])
def test_unusable_checkpoints_say_so(tmp_path, content, capsys):
    path = tmp_path / "final.pth"
    if content is not None:
        path.write_bytes(content)
    assert call(path, tmp_path, tmp_path / "out") == 2
    assert "WeightsError" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_a_config_asks_for_one(model, tmp_path, capsys):
    shutil.copy(model, tmp_path / "alone.pth")
    assert call(tmp_path / "alone.pth", tmp_path, tmp_path / "out") == 2
    assert "--config" in capsys.readouterr().err
    torch.save({"a": 1}, tmp_path / "alone.pth")
    with pytest.raises(WeightsError, match="not a checkpoint of a model"):
        read_checkpoint(tmp_path / "alone.pth")


def test_a_config_of_ones_own_runs_as_mmengines_do(model, tmp_path, pictures):
    own = tmp_path / "own.py"
    own.write_text(f"_base_ = ['{model.with_name('config.py')}']\nmodel = dict(test_cfg=dict(mode='whole'))\n")
    shutil.copy(model, tmp_path / "alone.pth")
    assert call(tmp_path / "alone.pth", pictures, tmp_path / "out", "--config", str(own)) == 0
    with pytest.raises(ConfigError, match="no such config"):
        Segmenter.load(model, tmp_path / "nowhere.py", device="cpu")
    own.write_text("1 / 0")
    with pytest.raises(ConfigError, match="cannot be run"):
        Segmenter.load(model, own, device="cpu")
