"""A real training of the pixel-text head with outlines, and the same weights asked for other classes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from clip_es.errors import ConfigError, DataError, ShapeError, WeightsError
from clip_es.masks import read_mask, read_wide_mask, write_mask
from clip_es.metrics.zero_shot import EpisodeMeter
from clip_es.pipelines.cli import main
from clip_es.pipelines.training_free import TrainingFree, mixed
from clip_es.records.folds import Episode, fold
from clip_es.segmentor.data.episodes import Protocol, episode_target, evaluate_episodes, training_episodes
from clip_es.segmentor.exportable import save_text_rows
from clip_es.segmentor.inference import Segmenter
from clip_es.segmentor.models.drn import Drn, DrnPyramid, read_drn
from clip_es.segmentor.onnx_export import export_onnx
from clip_es.segmentor.training.settings import TrainSettings
from clip_es.store.manifest import Manifest
from clip_es.store.tables import read_json
from clip_es.types import ImageRecord

pytest.importorskip("mmseg")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)


def test_the_head_is_trained_with_outlines_and_the_rows_are_the_texts(trained):
    path, told, _, _ = trained
    state = torch.load(path, weights_only=True)["state_dict"]
    torch.testing.assert_close(state["decode_head.pixel_text.rows"].norm(dim=1), torch.ones(3))
    assert any(key.startswith("auxiliary_head") for key in state)
    assert all(np.isfinite(loss) for loss in told.values())


def test_a_trained_model_answers_for_other_classes_and_old_logits_do_not_change(trained, picture):
    segmenter = Segmenter.load(trained[0], device="cpu")
    assert segmenter.names == ("background", "left", "right")
    before = segmenter._logits(picture, 1.0, False)
    segmenter.set_classes([("left",), ("right",), ("zebra",), ("hydrant", "fire hydrant")])
    assert segmenter.names == ("background", "left", "right", "zebra", "hydrant")
    after = segmenter._logits(picture, 1.0, False)
    assert after.shape == (5, 48, 64)
    torch.testing.assert_close(after[:3], before, rtol=0, atol=1e-5)
    segmenter.set_classes([("left",), ("right",), ("zebra",)], bonus=3.0)
    torch.testing.assert_close(segmenter._logits(picture, 1.0, False)[3], after[3] + 3, rtol=0, atol=1e-4)


def test_lists_that_cannot_be_asked_for_are_named(trained, write_segmenter, tmp_path):
    segmenter = Segmenter.load(trained[0], device="cpu")
    with pytest.raises(ConfigError, match="an empty list"):
        segmenter.set_classes([])
    with pytest.raises(ConfigError, match="named twice"):
        segmenter.set_classes([("cat",), ("cat",)])
    with pytest.raises(ConfigError, match="at most 32768 classes"):
        segmenter.set_classes([(str(k),) for k in range(32769)])
    with pytest.raises(ConfigError, match="reads nothing of a class name"):
        segmenter.set_classes([("cat",), ("\x00",)])
    with pytest.raises(ConfigError, match="train --head pixel-text"):
        Segmenter.load(write_segmenter(tmp_path / "closed"), device="cpu").set_classes([("cat",)])


def test_very_many_classes_get_the_labels_that_all_their_logits_would_give(trained, picture):
    segmenter = Segmenter.load(trained[0], device="cpu")
    assert not segmenter.wide
    segmenter.set_classes([("left", "west"), ("right",), *((f"thing {k}",) for k in range(300))], bonus=0.5)
    assert segmenter.wide
    labels, sure = segmenter.labels(picture, rows_at_once=70)
    whole = segmenter.probabilities(picture)
    torch.testing.assert_close(sure, whole.amax(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(whole.gather(0, labels[None])[0], whole.amax(0), rtol=1e-4, atol=1e-6)
    segmenter.model.test_cfg["mode"] = "slide"
    with pytest.raises(ConfigError, match="on whole pictures only"):
        segmenter.labels(picture)


def test_a_checkpoint_with_text_of_another_width_is_named(trained, tmp_path):
    """Its config asks for another CLIP's width, or the table does."""
    segmenter = Segmenter.load(trained[0], device="cpu")
    segmenter.model.decode_head.pixel_text.rows = torch.zeros(3, 512)
    with pytest.raises(ShapeError, match=r"one width. Expected text of 512 numbers.* Found 192.*--text-weights"):
        segmenter.set_classes([("cat",)])
    state = torch.load(trained[0], weights_only=True)
    state["state_dict"]["decode_head.pixel_text.rows"] = torch.zeros(3, 512)
    torch.save(state, tmp_path / "final.pth")
    shutil.copy(trained[0].with_name("config.py"), tmp_path)
    with pytest.raises(WeightsError, match=r"text rows of another width than.* Expected 192 numbers.* Found 512"):
        Segmenter.load(tmp_path / "final.pth", device="cpu")


def test_the_facts_of_a_question_name_what_the_training_had_no_masks_of(trained, write_segmenter, tmp_path):
    segmenter = Segmenter.load(trained[0], device="cpu")
    segmenter.set_classes([("left",), ("zebra",)], ["sky"], ["a {}."], bonus=2.0)
    facts = segmenter.text_facts()
    assert facts["trained_classes"] == ["left", "right"]
    assert facts["unseen_classes"] == ["zebra"]
    assert (facts["templates"], facts["background_words"], facts["unseen_bonus"]) == (["a {}."], ["sky"], 2.0)
    assert Segmenter.load(write_segmenter(tmp_path / "closed"), device="cpu").text_facts() is None


def test_one_onnx_file_answers_for_classes_that_were_not_there_when_it_was_written(trained, picture, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    segmenter = Segmenter.load(trained[0], device="cpu")
    made = export_onnx(segmenter, tmp_path / "m.onnx", size_hw=(48, 64), way="tracing")
    assert made.difference < 1e-3
    session = onnxruntime.InferenceSession(str(made.path), providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == ["image", "text"]
    for words in ([("zebra", "wild horse", "mule")], [("right",), *((f"thing {k}",) for k in range(20)), ("left",)]):
        segmenter.set_classes(words)
        assert save_text_rows(segmenter, tmp_path / "rows.npz") == (len(words) + 1, 3 if len(words) == 1 else 1, 192)
        with np.load(tmp_path / "rows.npz", allow_pickle=False) as file:
            text, names = file["text"], file["names"].tolist()
        assert names == ["background", *(row[0] for row in words)]
        image = picture.transpose(2, 0, 1)[None].astype(np.float32)
        (theirs,) = session.run(["logits"], {"image": image, "text": text})
        np.testing.assert_allclose(theirs[0], segmenter._logits(picture, 1.0, False).detach().numpy(), atol=2e-3)


def test_a_model_without_text_has_no_rows_to_write(write_segmenter, tmp_path):
    closed = Segmenter.load(write_segmenter(tmp_path / "closed"), device="cpu")
    with pytest.raises(ConfigError, match="classes of its own and no text"):
        save_text_rows(closed, tmp_path / "rows.npz")


def test_the_command_asks_for_more_classes_than_a_byte_holds_and_says_what_that_costs(trained, tmp_path, capsys):
    names, out = tmp_path / "names.txt", tmp_path / "out"
    names.write_text("\n".join(["left", *(f"thing {k}" for k in range(299))]))
    words = ["predict", str(trained[0]), str(trained[3] / "images"), "--device", "cpu"]
    assert main([*words, "--classes", str(names), "--background", "sky", "--out", str(out), "--confidence"]) == 0
    told = capsys.readouterr().out
    assert "300 classes at once" in told
    assert "256 text rows at a time" in told
    masks = sorted((out / "masks").glob("*.png"))
    assert len(masks) == 6
    found = read_wide_mask(masks[0])
    assert found.dtype == np.uint16
    assert found.max() <= 300
    assert Manifest.read(out).about["protocol"]["background_words"] == ["sky"]
    for flag in (["--flip"], ["--crf"], ["--training-free", "0.5"]):
        assert main([*words, "--classes", str(names), "--out", str(tmp_path / "no"), *flag]) == 2
        assert "cannot go with so many classes" in capsys.readouterr().err


def test_the_command_mixes_training_free_answers_and_names_what_clip_hardly_knows(trained, tmp_path, capsys):
    words = ["predict", str(trained[0]), str(trained[3] / "images" / "p0.png"), "--device", "cpu"]
    asked = ["--classes", "cat,xqzv", "--training-free", "1", "--out", str(tmp_path / "a"), "--confidence"]
    assert main([*words, *asked]) == 0
    assert "hardly knows 1 name, which it takes apart: 'xqzv' (x q z v)" in capsys.readouterr().out
    segmenter = Segmenter.load(trained[0], device="cpu")
    segmenter.set_classes([("cat",), ("xqzv",)])
    record = ImageRecord("p0", trained[3] / "images" / "p0.png", (0, 1))
    alone = TrainingFree.beside(segmenter)(record)
    torch.testing.assert_close(alone.sum(0), torch.ones(alone.shape[1:]))
    assert np.array_equal(read_mask(tmp_path / "a" / "labels" / "p0.png"), alone.argmax(0).numpy())
    half = mixed(alone, torch.full_like(alone, 0.5), 0.25)
    torch.testing.assert_close(half, 0.75 * alone + 0.125)
    assert mixed(alone, half, 0.0) is alone
    with pytest.raises(ShapeError, match="same classes"):
        mixed(alone, alone[:1], 0.5)
    assert main([*words, "--template", "a {}.", "--out", str(tmp_path / "b")]) == 2
    assert "go with --classes" in capsys.readouterr().err


def test_episodes_are_evaluated_by_the_command_with_their_protocol(trained, tmp_path, capsys):
    """Two pictures in the layout of PASCAL-5i; class 3 is `bottle` of no training here."""
    images, truth, lists = tmp_path / "images", tmp_path / "truth", tmp_path / "lists" / "val"
    for folder in (images, truth, lists):
        folder.mkdir(parents=True)
    for k in range(2):
        Image.fromarray(np.full((48, 48, 3), 60 + 100 * k, dtype=np.uint8)).save(images / f"p{k}.jpg")
        labels = np.zeros((48, 48), dtype=np.uint8)
        labels[:24], labels[24] = 3, 255
        write_mask(truth / f"p{k}.png", labels)
    (lists / "fold0.txt").write_text("p0__03\np1__03\n")
    words = ["evaluate-episodes", str(trained[0]), "--images", str(images), "--truth", str(truth), "--device", "cpu"]
    words += ["--lists", str(tmp_path / "lists"), "--episodes", "3"]
    figures = {}
    for policy in ("count", "drop"):
        assert main([*words, "--ignore-policy", policy, "--out", str(tmp_path / f"{policy}.json")]) == 0
        figures[policy] = read_json(tmp_path / f"{policy}.json")
    protocol = figures["count"]["protocol"]
    assert protocol["ignore_policy"] == "count"
    assert protocol["prompts"] == ["others", "{}"]
    assert protocol["selection"].startswith("none")
    assert (protocol["trained_classes"], protocol["leaked_classes"]) == (["left", "right"], [])
    assert figures["drop"]["iou"]["2"] >= figures["count"]["iou"]["2"]
    assert figures["drop"]["episodes"] == 3
    assert "3 episodes, 0 failed" in capsys.readouterr().out


def test_a_shape_network_without_outlines_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="a part of --edges"):
        TrainSettings(shape_net=tmp_path / "net.pth")


def test_weights_of_another_drn_are_named():
    small = Drn("drn_d_22")
    read_drn(DrnPyramid("drn_d_22"), {f"module.{k}": v for k, v in small.state_dict().items()})
    with pytest.raises(WeightsError, match="no weights of this DRN"):
        read_drn(small, {"base.0.0.weight": torch.zeros(16, 3, 7, 7)})


def test_targets_of_an_episode_leak_only_where_asked():
    labels = np.array([[0, 1, 2, 255]], dtype=np.uint8)
    assert episode_target(labels, 1, held_out=[2]).tolist() == [[0, 1, 255, 255]]
    published = episode_target(labels, 1, held_out=[2], held_out_are="others", unknown_are="others")
    assert published.tolist() == [[0, 1, 0, 0]]


def test_pictures_with_held_out_classes_can_be_left_out_of_training():
    which = fold("pascal", 0)
    episodes = [Episode("a", 7), Episode("b", 7), Episode("b", 2)]
    classes = {"a": {7}, "b": {7, 2}}
    assert training_episodes(episodes, which, classes) == [Episode("a", 7)]
    assert training_episodes(episodes, which, classes, drop_held_out=False) == episodes[:2]
    with pytest.raises(DataError, match="not known"):
        training_episodes([Episode("c", 7)], which, classes)


def test_figures_of_episodes_carry_their_protocol():
    which = fold("pascal", 0)
    truth = np.array([[0, 3, 3, 255]], dtype=np.uint8)
    protocol = Protocol("pascal", 0, which.test, ("others", "{}"), "drop", 2)

    def predict(episode):
        if episode.image_id == "broken":
            raise DataError("cannot be read", where="broken.jpg")
        return np.array([[False, True, False, True]])

    found = evaluate_episodes([Episode("a", 2), Episode("broken", 2)], which, predict, lambda _: truth, protocol)
    assert found["iou"]["2"] == pytest.approx(50)
    assert found["miou"] == pytest.approx(10), "four classes of the fold have no episode"
    assert found["protocol"]["ignore_policy"] == "drop"
    assert found["failures"] == [("broken", "broken.jpg: cannot be read.")]
    assert EpisodeMeter(which.test).episodes == 0
    with pytest.raises(DataError, match="no episode could be evaluated"):
        evaluate_episodes([], which, predict, lambda _: truth, protocol)
