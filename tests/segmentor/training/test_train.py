"""Real trainings of a few iterations: what they leave, how they continue, what they refuse."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from clip_es.errors import ConfigError, DataError, ShapeError, WeightsError
from clip_es.masks import read_mask, write_mask
from clip_es.segmentor.training.backbone import fetch
from clip_es.segmentor.training.launch import TrainSettings, build_config, newest_checkpoint, train

pytest.importorskip("mmseg")
# mmengine and its tools warn of their own old ways.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_training):
    folder = tiny_training.make_run(tmp_path_factory.mktemp("data") / "data")
    tiny_training.write_config(folder)
    return folder


@pytest.fixture(scope="module")
def settings(folder):
    return TrainSettings(config=str(folder / "tiny.py"), iterations=6, checkpoint_interval=2, val_interval=3)


@pytest.fixture(scope="module")
def trained(folder, settings, tiny_training, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "out"
    told = []
    result = train(settings, tiny_training.train_data(folder), out, tell=lambda *seen: told.append(seen))
    return out, result, told


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def test_a_training_leaves_weights_that_load_as_weights_alone(trained, tiny_training):
    out, result, _ = trained
    found = torch.load(out / "final.pth", weights_only=True)
    assert set(found) == {"state_dict", "meta"}
    assert found["meta"]["dataset_meta"]["classes"] == tiny_training.CLASSES
    assert found["meta"]["dataset_meta"]["palette"] == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert found["state_dict"]["decode_head.conv_seg.weight"].shape[0] == 3
    assert result.model == out / "final.pth"
    assert result.iterations == 6


def test_it_leaves_config_checkpoints_figures_log_and_tensorboard(trained):
    out, result, _ = trained
    from mmengine.config import Config

    cfg = Config.fromfile(str(out / "config.py"))
    assert cfg.model.type == "ConfidenceEncoderDecoder"
    assert [path.name for path in sorted(out.glob("*.pth"))] == ["final.pth", "iter_4.pth", "iter_6.pth"]
    record = json.loads((out / "train.json").read_text())
    assert record["miou"] == result.miou
    assert 0 <= result.miou <= 100
    assert record["settings"]["loss"] == "hard"
    assert len(list(out.rglob("events.out.tfevents*"))) == 1
    assert len(list(out.rglob("*.log"))) == 1


def test_it_tells_loss_and_miou_as_it_goes(trained):
    _, result, told = trained
    assert [(i, n) for i, n, loss, _ in told if loss is not None] == [(i, 6) for i in range(1, 7)]
    measured = [(i, miou) for i, _, _, miou in told if miou is not None]
    assert [i for i, _ in measured] == [3, 6]
    assert measured[-1][1] == result.miou


def test_the_same_seed_gives_the_same_weights_and_another_does_not(trained, folder, settings, tiny_training, tmp_path):
    out, _, _ = trained
    data = tiny_training.train_data(folder, val=False)
    train(settings, data, tmp_path / "same")
    train(replace(settings, seed=1), data, tmp_path / "other")
    first, same, other = (weights(path / "final.pth") for path in (out, tmp_path / "same", tmp_path / "other"))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_resumed_training_ends_with_the_same_weights(trained, folder, settings, tiny_training, tmp_path):
    """As after a kill: train.json is there, the newest checkpoint is damaged, and half a temporary file lies about."""
    out, _, _ = trained
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(out / "iter_4.pth", half / "iter_4.pth")
    (half / "iter_6.pth").write_bytes((out / "iter_6.pth").read_bytes()[:-1000])
    (half / "train.json").write_text((out / "train.json").read_text())
    assert newest_checkpoint(half) == half / "iter_4.pth"
    result = train(settings, tiny_training.train_data(folder), half, resume=True)
    assert result.iterations == 6
    first, again = weights(out / "final.pth"), weights(half / "final.pth")
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_resuming_what_is_done_measures_again_and_changes_nothing(trained, folder, settings, tiny_training):
    out, result, _ = trained
    before = weights(out / "final.pth")
    again = train(settings, tiny_training.train_data(folder), out, resume=True)
    assert again.miou == result.miou
    assert all(torch.equal(value, before[name]) for name, value in weights(out / "final.pth").items())


def test_a_folder_with_a_training_is_only_continued_with_its_settings(trained, folder, settings, tiny_training):
    out, _, _ = trained
    data = tiny_training.train_data(folder)
    with pytest.raises(ConfigError, match=r"holds a training\. Leave --no-resume out"):
        train(settings, data, out, resume=False)
    with pytest.raises(ConfigError, match=r"other settings. Expected loss = hard, threshold = 0\.95"):
        train(replace(settings, loss="soft", threshold=0.9), data, out, resume=True)
    with pytest.raises(ConfigError, match="holds masks"):
        train(settings, data, folder / "run")


def test_other_classes_are_refused(trained, folder, settings, tiny_training, tmp_path):
    out, _, _ = trained
    four = replace(tiny_training.train_data(folder, val=False), classes=(*tiny_training.CLASSES, "third"))
    shutil.copy(out / "iter_6.pth", tmp_path / "iter_6.pth")
    with pytest.raises(ShapeError, match=r"trained on other classes. Expected 4: .* Found 3: "):
        train(settings, four, tmp_path, resume=True)
    with pytest.raises(ShapeError, match=r"another number of classes. Expected 4, background counted. Found 3"):
        train(replace(settings, init=out / "final.pth"), four, tmp_path / "new")


def test_weights_to_begin_with_are_taken_and_nothing_else_is_unpickled(
    trained, folder, settings, tiny_training, tmp_path
):
    out, _, _ = trained
    data = tiny_training.train_data(folder, val=False)
    frozen = replace(settings, init=out / "final.pth", lr=0.0, iterations=1)
    train(frozen, data, tmp_path / "from")
    first, again = weights(out / "final.pth"), weights(tmp_path / "from" / "final.pth")
    assert torch.equal(first["decode_head.conv_seg.weight"], again["decode_head.conv_seg.weight"])
    for name, content in (("pickle.pth", {"state_dict": np.dtype("f4")}), ("other.pth", [1, 2])):
        torch.save(content, tmp_path / name)
        with pytest.raises(WeightsError, match=r"weights alone|no state dict"):
            train(replace(frozen, init=tmp_path / name), data, tmp_path / f"out-{name}")


@pytest.mark.parametrize("loss", ["hard", "soft", "plain"])
def test_every_cross_entropy_of_every_head_becomes_the_guided_one(folder, settings, tiny_training, tmp_path, loss):
    cfg = build_config(
        replace(settings, loss=loss, threshold=0.8, balanced=True), tiny_training.train_data(folder), tmp_path
    )
    wanted = {"type": "ConfidenceGuidedLoss", "mode": loss, "threshold": 0.8, "balanced": True}
    assert cfg.model.decode_head.loss_decode == {**wanted, "loss_weight": 1.0}
    assert cfg.model.auxiliary_head.loss_decode == {**wanted, "loss_weight": 0.4}
    assert cfg.model.auxiliary_head.num_classes == 3
    assert [step["type"] for step in cfg.train_pipeline][1] == "LoadPseudoMask"


def test_confidence_reaches_the_losses_of_all_heads(folder, settings, tiny_training, tmp_path):
    """The lower half of every mask is at 0.9: at 0.95 it is left out, so what stands there cannot matter."""
    other = tmp_path / "data"
    shutil.copytree(folder, other)
    for path in sorted((other / "run" / "labels").iterdir()):
        labels = read_mask(path)
        labels[20:] = 2
        write_mask(path, labels)
    found = {}
    for name, source in (("clean", folder), ("spoilt", other)):
        for loss in ("hard", "plain"):
            seen = []
            few = replace(settings, iterations=1, loss=loss)
            data = replace(tiny_training.train_data(source, val=False), images=folder / "images")
            train(few, data, tmp_path / f"{name}-{loss}", tell=lambda i, n, value, _, seen=seen: seen.append(value))
            found[name, loss] = seen
    assert found["clean", "hard"] == found["spoilt", "hard"]
    assert found["clean", "plain"] != found["spoilt", "plain"]


def test_a_schedule_is_stretched_to_the_iterations(folder, settings, tiny_training, tmp_path):
    cfg = build_config(replace(settings, iterations=200), tiny_training.train_data(folder), tmp_path)
    assert cfg.param_scheduler[0].end == 200
    assert cfg.train_cfg.max_iters == 200
    bare = replace(settings, iterations=200, val_interval=None, checkpoint_interval=None)
    assert build_config(bare, tiny_training.train_data(folder), tmp_path).train_cfg.val_interval == 20


def test_settings_and_configs_that_cannot_work_are_refused(folder, settings, tiny_training, tmp_path):
    data = tiny_training.train_data(folder)
    text = (folder / "tiny.py").read_text()

    def variant(old, new):
        path = tmp_path / f"variant{len(list(tmp_path.iterdir()))}.py"
        path.write_text(text.replace(old, new))
        return replace(settings, config=str(path))

    cases = [
        (replace(settings, config="deeplabv2_r101_vok"), r"there is no config .* Nearest: 'deeplabv2_r101_voc'"),
        (variant("'EncoderDecoder'", "'DepthEstimator'"), "cannot pass the confidence to its losses"),
        (variant("'CrossEntropyLoss', use_sigmoid=False", "'DiceLoss'"), "no head of this config has a cross-entropy"),
        (variant("use_sigmoid=False", "use_sigmoid=False, class_weight=[1.0] * 19"), "Expected 3 numbers"),
        (variant("by_epoch=False", "by_epoch=True"), "counts epochs"),
        (variant("dict(type='LoadAnnotations')", "dict(type='LoadPanopticAnnotations')"), "read and pack labels"),
        (variant("model = ", "model == "), "the config cannot be read"),
        (variant("train_dataloader", "other_dataloader"), "is not a config for training"),
    ]
    for wrong, message in cases:
        with pytest.raises(ConfigError, match=message):
            build_config(wrong, data, tmp_path)
    with pytest.raises(ConfigError, match="--threshold is a confidence"):
        TrainSettings(threshold=95.0)
    with pytest.raises(ConfigError, match="--batch-size must be at least 1"):
        TrainSettings(batch_size=0)


def test_bad_masks_stop_before_the_training(folder, settings, tiny_training, tmp_path):
    shutil.copytree(folder, tmp_path / "data")
    for name in ("p1", "p4"):
        write_mask(tmp_path / "data" / "run" / "labels" / f"{name}.png", np.full((40, 48), 3, dtype=np.uint8))
    with pytest.raises(
        DataError,
        match=r"p1\.png: 2 problems would .* a label is not a class of the vocabulary. Found label 3; expected 0\.\.2",
    ):
        train(settings, tiny_training.train_data(tmp_path / "data"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    alone = replace(tiny_training.train_data(folder), run=None, masks=folder / "truth", images=folder / "images")
    with pytest.raises(ConfigError, match=r"needs the confidence of the masks.* Pass --loss plain"):
        train(settings, alone, tmp_path / "out")


def test_mixed_precision_trains_on_a_cpu(folder, settings, tiny_training, tmp_path):
    data = tiny_training.train_data(folder, val=False)
    result = train(replace(settings, amp=True, iterations=1), data, tmp_path / "out")
    state = weights(result.model)
    assert state["decode_head.conv_seg.weight"].dtype == torch.float32
    assert all(bool(value.isfinite().all()) for value in state.values())


def test_without_a_network_the_file_its_place_and_its_hash_are_named_and_nothing_is_claimed(
    folder, settings, tiny_training, tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))

    def offline(url, *_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    data, out = tiny_training.train_data(folder, val=False), tmp_path / "out"
    text = (folder / "tiny.py").read_text()
    named = tmp_path / "named.py"
    named.write_text(
        text.replace("type='EncoderDecoder',", "type='EncoderDecoder', pretrained='open-mmlab://resnet50_v1c',")
    )
    lacking = replace(settings, config=str(named))
    with pytest.raises(WeightsError, match="backbone cannot be downloaded") as caught:
        train(lacking, data, out)
    message = str(caught.value)
    assert "/pretrain/third_party/resnet50_v1c-2cccc1ad.pth elsewhere and put it at" in message
    assert str(tmp_path / "cache/hub/checkpoints/resnet50_v1c-2cccc1ad.pth") in message
    assert "SHA-256 2cccc1ad..." in message
    assert "--config scenes_small needs no download" in message
    assert "no network" in message
    assert not out.exists()
    assert train(replace(lacking, scratch=True, iterations=1), data, out).iterations == 1, "the retry is not refused"


def test_a_backbone_that_is_not_the_published_file_or_more_than_weights_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    there = tmp_path / "hub/checkpoints/net-2cccc1ad.pth"
    there.parent.mkdir(parents=True)
    torch.save({"weight": torch.zeros(2)}, there)
    with pytest.raises(WeightsError, match=r"not the published one\. Expected SHA-256 2cccc1ad"):
        fetch("https://somewhere.org/net-2cccc1ad.pth")
    torch.save({"weight": Harm()}, tmp_path / "harm.pth")
    with pytest.raises(WeightsError, match="cannot be read as weights alone"):
        fetch(str(tmp_path / "harm.pth"))
    assert not Harm.done


class Harm:
    """What runs when it is unpickled."""

    done: ClassVar[list] = []

    def __reduce__(self):
        return Harm.done.append, (1,)


def test_a_checkpoint_that_is_continued_from_is_never_executed(trained, folder, settings, tiny_training, tmp_path):
    out, _, _ = trained
    content = torch.load(out / "iter_4.pth", weights_only=False)
    torch.save({**content, "optimizer": Harm()}, tmp_path / "iter_4.pth")
    with pytest.raises(WeightsError, match="without executing what it contains"):
        train(settings, tiny_training.train_data(folder), tmp_path)
    assert not Harm.done


def test_a_stop_leaves_a_checkpoint_from_which_the_same_call_continues(
    trained, folder, settings, tiny_training, tmp_path
):
    data = tiny_training.train_data(folder, val=False)
    fewer = replace(settings, checkpoint_interval=100)

    def stop(iteration, total, loss, miou):
        assert not (tmp_path / "out" / "train.json").exists(), "claimed with the first checkpoint"
        if iteration == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        train(fewer, data, tmp_path / "out", tell=stop)
    assert newest_checkpoint(tmp_path / "out") == tmp_path / "out" / "iter_3.pth"
    train(fewer, data, tmp_path / "out")
    first, again = weights(trained[0] / "final.pth"), weights(tmp_path / "out" / "final.pth")
    assert all(torch.equal(first[name], again[name]) for name in first)
