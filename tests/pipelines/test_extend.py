"""`clip-es extend` as its user calls it, on a segmenter small enough for a test, and `evaluate-zero-shot`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clip_es.masks import read_mask, write_mask
from clip_es.pipelines.cli import main
from clip_es.pipelines.extend import split_of
from clip_es.segmentor.inference import Segmenter
from clip_es.segmentor.onnx_export import export_onnx

NAMES = ("cat", "dog", "boat", "cow")
"""Labels 1 to 4 of the masks; the model knows background, cat and dog."""

FEW = [
    *("--seen-steps", "3", "--unseen-steps", "2", "--batch", "2", "--crop", "6", "--save-every", "2"),
    *("--networks.context-hidden", "4", "--networks.widths", "8", "--networks.hidden", "8", "--networks.no-clip"),
]


@pytest.fixture
def world(tmp_path: Path, write_segmenter: Callable[..., Path]) -> Path:
    """FOLDER/model, FOLDER/images, FOLDER/masks with all four classes, FOLDER/words.txt."""
    write_segmenter(tmp_path / "model", 3, names=("background", "cat", "dog"))
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    rng = np.random.default_rng(3)
    for number in range(3):
        Image.fromarray(rng.integers(0, 255, (64, 80, 3)).astype(np.uint8)).save(tmp_path / "images" / f"p{number}.png")
        write_mask(
            tmp_path / "masks" / f"p{number}.png",
            np.kron(rng.integers(0, 5, (4, 5)), np.ones((16, 16))).astype(np.uint8),
        )
    rows = rng.normal(size=(4, 6))
    lines = [" ".join([name, *(f"{value:.4f}" for value in row)]) for name, row in zip(NAMES, rows, strict=True)]
    (tmp_path / "words.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def call(world: Path, out: str, *more: str, unseen: str = "boat,cow") -> int:
    return main(
        [
            *("extend", str(world / "model" / "final.pth"), "--data", str(world / "masks")),
            *("--images", str(world / "images"), "--vocabulary", ",".join(NAMES), "--unseen", unseen),
            *("--conditions", "words", "--words", str(world / "words.txt"), "--out", str(world / out), *FEW, *more),
        ]
    )


@pytest.mark.slow
def test_an_extended_model_is_taken_like_any_other(world: Path, capsys: pytest.CaptureFixture[str]):
    assert call(world, "out") == 0
    segmenter = Segmenter.load(world / "out" / "final.pth", device="cpu")
    assert segmenter.names == ("background", *NAMES)
    picture = np.asarray(Image.open(world / "images" / "p0.png"))
    probabilities = segmenter.probabilities(picture)
    assert probabilities.shape == (5, 64, 80)
    torch.testing.assert_close(probabilities.sum(dim=0), torch.ones(64, 80))
    record = json.loads((world / "out" / "extend.json").read_text())
    assert record["conditions"] == "words"
    assert record["unseen"] == ["boat", "cow"]
    assert any((world / "out" / "tensorboard").iterdir())
    made = export_onnx(segmenter, world / "out" / "model.onnx", size_hw=(64, 80))
    assert made.difference < 1e-3
    # A second call finds everything done and writes the same model.
    before = (world / "out" / "final.pth").read_bytes()
    assert call(world, "out") == 0
    assert Segmenter.load(world / "out" / "final.pth", device="cpu").names == segmenter.names
    state = [torch.load(path, weights_only=True)["state_dict"] for path in (world / "out" / "final.pth",)]
    again = torch.load(__import__("io").BytesIO(before), weights_only=True)["state_dict"]
    assert all(torch.equal(value, again[name]) for name, value in state[0].items())
    assert main(["predict", str(world / "out" / "final.pth"), str(world / "images"), "--out", str(world / "p")]) == 0
    capsys.readouterr()
    evaluated = ["evaluate-zero-shot", "--masks", str(world / "p" / "masks"), "--truth", str(world / "masks")]
    evaluated += ["--vocabulary", ",".join(NAMES), "--unseen", "boat,cow", "--out", str(world / "z.json")]
    assert main(evaluated) == 0
    shown = capsys.readouterr().out
    assert "harmonic" in shown
    assert "background left out" in shown
    assert main([*evaluated, "--eval-grid", "feature", "--include-background"]) == 0
    assert json.loads((world / "z.json").read_text())["eval_grid"] == "feature"


@pytest.mark.slow
def test_an_extension_that_learns_nothing_predicts_as_the_segmenter_did(world: Path):
    picture = np.asarray(Image.open(world / "images" / "p0.png"))
    before = Segmenter.load(world / "model" / "final.pth", device="cpu").probabilities(picture)
    phases = ("seen-rate", "unseen-rates")
    rates = [word for phase in phases for part in ("classifier", "context") for word in (f"--{phase}.{part}", "0")]
    assert call(world, "out", *rates) == 0
    after = Segmenter.load(world / "out" / "final.pth", device="cpu").probabilities(picture)
    torch.testing.assert_close(after[:3] / after[:3].sum(dim=0), before, atol=1e-3, rtol=1e-2)
    assert torch.equal(after.argmax(dim=0), before.argmax(dim=0))


PHASES = ("seen", "blocks", "unseen", "self-training", "unseen again")


@pytest.mark.slow
def test_killed_in_every_phase_it_ends_with_the_same_weights(world: Path):
    every = ["--sampler", "blocks", "--block-steps", "3", "--self-training", "top-p", "--self-steps", "3"]
    every += ["--again-steps", "3", "--save-every", "1"]
    assert call(world, "whole", *every) == 0
    for phase in PHASES:
        assert _killed(world, every, phase), f"the process ended before it could be killed in {phase}"
        assert not (world / "parts" / "final.pth").exists()
    assert call(world, "parts", *every) == 0
    whole, parts = (
        torch.load(world / name / "final.pth", weights_only=True)["state_dict"] for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    records = [json.loads((world / name / "extend.json").read_text()) for name in ("whole", "parts")]
    assert records[0] == records[1]


class _Fatal(io.StringIO):
    """A stream that kills its process, as `kill -9` does, when a phase is spoken of."""

    def __init__(self, phase: str) -> None:
        super().__init__()
        self.phase = phase

    def write(self, text: str) -> int:
        if f"[{self.phase}]" in text:
            os.kill(os.getpid(), signal.SIGKILL)
        return len(text)


def _killed(world: Path, more: list[str], phase: str) -> bool:
    """Run the command in a process of its own, which is killed at its first step of a phase."""
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            sys.stdout = sys.stderr = _Fatal(phase)
            call(world, "parts", *more)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    ("unseen", "message"),
    [
        ("cat,boat", "a class is both seen and unseen"),
        ("boot", "unknown name among the classes of the masks. Nearest: 'boat'"),
        ("boat,boat", "named twice"),
        (",", "there is no name"),
        ("zebra", "has no vector of 'zebra'"),
    ],
)
def test_names_that_cannot_be_added_are_refused(
    world: Path, capsys: pytest.CaptureFixture[str], unseen: str, message: str
):
    assert call(world, "out", unseen=unseen) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (world / "out" / "final.pth").exists()


@pytest.mark.parametrize(("row", "message"), [("boat nan 0 0 0 0 0", "not finite"), ("", "has no vector of 'boat'")])
def test_word_vectors_with_a_bad_or_missing_row_are_refused(
    world: Path, capsys: pytest.CaptureFixture[str], row: str, message: str
):
    path = world / "words.txt"
    lines = [row if line.startswith("boat") else line for line in path.read_text().splitlines()]
    path.write_text("\n".join(line for line in lines if line) + "\n")
    assert call(world, "out") == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (world / "out" / "final.pth").exists()


@pytest.mark.slow
def test_words_and_clip_together_on_any_backbone(world: Path):
    more = ["--conditions", "both", "--weights", "scenes", "--networks.clip", "--noise", "latent"]
    assert call(world, "out", *more) == 0
    segmenter = Segmenter.load(world / "out" / "final.pth", device="cpu")
    assert segmenter.names == ("background", *NAMES)
    assert type(segmenter.model.backbone).__name__ == "WithClip"
    record = json.loads((world / "out" / "extend.json").read_text())
    assert record["conditions"] == "both"
    assert record["clip_features"] == "scenes"
    assert "cannot be compared" in record["comparable"]
    assert set(record["names"]) == {"ridge", "left_out_error"}


def test_weights_of_the_published_code_are_read_by_the_command(world: Path, capsys: pytest.CaptureFixture[str]):
    few = ["--networks.no-context", "--networks.names", "none", "--networks.no-linear", "--noise", "latent"]
    torch.save({"dis.fc.conv.weight": torch.ones(8, 8, 1, 1)}, world / "partly.pth")
    assert call(world, "out", *few, "--published", str(world / "partly.pth")) == 2
    assert "the published discriminator does not fit" in " ".join(capsys.readouterr().err.split())
    torch.save({"scale.layer1.conv1.conv.weight": torch.ones(8, 3, 3, 3)}, world / "trunk.pth")
    assert call(world, "out", *few, "--published", str(world / "trunk.pth")) == 2
    assert "holds no part of an extension" in " ".join(capsys.readouterr().err.split())
    shapes = {"fc.conv": (8, 8), "pred": (1, 8), "cls": (6, 8)}
    state = {f"dis.{name}.weight": torch.randn(*shape, 1, 1) for name, shape in shapes.items()}
    state |= {f"dis.{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}
    torch.save(state, world / "published.pth")
    assert call(world, "out", *few, "--published", str(world / "published.pth")) == 0
    record = json.loads((world / "out" / "extend.json").read_text())
    assert record["started_from"] == ["discriminator"]


def test_which_classes_are_new_is_asked_for(world: Path, capsys: pytest.CaptureFixture[str]):
    words = ["extend", str(world / "model" / "final.pth"), "--data", str(world / "masks"), "--out", str(world / "out")]
    assert main(words) == 2
    assert "Pass --unseen boat,cow or --split" in " ".join(capsys.readouterr().err.split())


def test_masks_without_a_seen_class_a_gate_and_words_are_asked_for(world: Path, capsys: pytest.CaptureFixture[str]):
    assert call(world, "out", "--self-training", "gated") == 2
    assert "pass its folder as --gate" in " ".join(capsys.readouterr().err.split())
    for path in (world / "masks").iterdir():
        write_mask(path, np.full((64, 80), 255, dtype=np.uint8))
    assert call(world, "out") == 2
    assert "no mask holds a seen class" in capsys.readouterr().err


def test_a_model_without_a_feature_map_is_refused(world: Path, capsys: pytest.CaptureFixture[str]):
    config = world / "model" / "config.py"
    text = (
        config.read_text()
        .replace("type='ASPPHead'", "type='DeepLabV2Head'")
        .replace("dilations=(1, 6),\n        dropout", "dilations=(1, 6),\n        dropout")
    )
    config.write_text(text)
    from clip_es.segmentor.loading import build_model
    from clip_es.segmentor.training.checkpoints import parse_config

    model = build_model(parse_config(text, "test"), "test")
    torch.save(
        {"state_dict": model.state_dict(), "meta": {"dataset_meta": {"classes": ("background", "cat", "dog")}}},
        world / "model" / "final.pth",
    )
    assert call(world, "out") == 2
    assert "no feature map before a pointwise classifier" in " ".join(capsys.readouterr().err.split())


def test_new_labels_stand_where_the_masks_have_them():
    split, labels = split_of(("background", "dog", "cat"), ("background", *NAMES), ("cow",))
    assert labels == ("background", "cat", "dog", "cow")
    assert split.seen == ("background", "dog", "cat")
    assert split.to_index[[0, 1, 2, 3, 4, 255]].tolist() == [0, 2, 1, 255, 255, 255]
    assert split_of(("background", "cat"), ("background", "cat"), ("zebra",))[1] == ("background", "cat", "zebra")


def test_figures_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "p").mkdir()
    (tmp_path / "t").mkdir()
    # Truth: two cells of cat, two of boat; one of each is found, the other cat is taken for boat, the boat for nothing.
    write_mask(tmp_path / "t" / "a.png", np.array([[1, 1], [2, 2]], dtype=np.uint8))
    write_mask(tmp_path / "p" / "a.png", np.array([[1, 2], [2, 0]], dtype=np.uint8))
    words = ["evaluate-zero-shot", "--masks", str(tmp_path / "p"), "--truth", str(tmp_path / "t")]
    assert main([*words, "--vocabulary", "cat,boat", "--unseen", "boat", "--out", str(tmp_path / "z.json")]) == 0
    got = json.loads((tmp_path / "z.json").read_text())
    assert got["seen"]["miou"] == pytest.approx(50)
    assert got["unseen"]["miou"] == pytest.approx(100 / 3)
    assert got["harmonic"]["miou"] == pytest.approx(40)
    assert main(words) == 2
    assert "one of two ways" in capsys.readouterr().err
    assert main([*words, "--vocabulary", "cat,boat", "--unseen", "boot"]) == 2
    assert "Nearest: 'boat'" in capsys.readouterr().err
    assert read_mask(tmp_path / "p" / "a.png").shape == (2, 2)


def test_features_are_read_at_several_scales(world: Path, capsys: pytest.CaptureFixture[str]):
    assert call(world, "out", "--scales", "1", "1") == 2
    assert "--scales are factors" in " ".join(capsys.readouterr().err.split())
    assert call(world, "out", "--scales", "1", "0.5") == 0
    (plain, half) = sorted((world / "out" / "features").iterdir(), key=lambda folder: len(folder.name))
    assert half.name == f"{plain.name}-x0.5"
    shapes = [np.load(folder / "p0.npy").shape for folder in (plain, half)]
    assert shapes[0][0] == shapes[1][0]
    assert [shapes[0][k] for k in (1, 2)] == [2 * shapes[1][k] for k in (1, 2)]
    assert json.loads((world / "out" / "extend.json").read_text())["settings"]["scales"] == [1.0, 0.5]
