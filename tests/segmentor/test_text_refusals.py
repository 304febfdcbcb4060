"""What a pixel-text model cannot be asked, through the commands: each error says what to do, and nothing is lost."""

from __future__ import annotations

import hashlib
import shutil
from importlib.resources import files

import pytest
import torch

from clip_es.pipelines.cli import main
from clip_es.pipelines.segments import SegmentFolder
from clip_es.segmentor.losses.shape import InverseNet
from clip_es.segmentor.models.drn import Drn

pytest.importorskip("mmseg")
pytestmark = pytest.mark.filterwarnings("ignore")


def content(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def refused(capsys, words, *parts):
    """The command ends with 2 and its error has these parts."""
    assert main([str(word) for word in words]) == 2
    told = capsys.readouterr().err
    assert all(part in told for part in parts), told
    return told


@pytest.fixture(scope="module")
def done(trained, tmp_path_factory):
    """A finished prediction."""
    out = tmp_path_factory.mktemp("done") / "out"
    assert main(["predict", str(trained[0]), str(trained[3] / "images"), "--device", "cpu", "--out", str(out)]) == 0
    return out


FILES = {
    "empty.txt": "\n\n",
    "twice.txt": "cat\ndog\nCat\n",
    "control.txt": "cat\n\x01\n",
    "twice.yaml": "classes: [cat, {name: dog, aliases: [cat]}]\n",
}


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        (["--classes", ""], ["--classes is an empty list", "names separated by commas"]),
        (["--classes", " , "], ["--classes is an empty list"]),
        (["--classes", "cat,,dog"], ["--classes has an empty name"]),
        (["--classes", "empty.txt"], ["at least one class"]),
        (["--classes", "cat,cat"], ["named twice", "Found cat", "Name each class once"]),
        (["--classes", "fire hydrant,Fire  Hydrant"], ["which CLIP reads alike"]),
        (["--classes", "cat,background"], ["first label of every mask already", "--background"]),
        (["--classes", "twice.txt"], ["'Cat' (Cat) cannot be told from 'cat'", "Rename or remove"]),
        (["--classes", "twice.yaml"], ["'cat' (dog) cannot be told from 'cat' (cat)"]),
        (["--classes", "control.txt"], ["control characters", "control.txt"]),
        (["--classes", "cat,\x01"], ["tokenizer reads nothing of a class name", "in other words"]),
        (["--classes", "cat,\u200b"], ["tokenizer reads nothing of a class name", "'\\u200b'"]),
        (["--classes", "cat", "--background", "\x01"], ["reads nothing of a background word"]),
        (["--classes", "cat", "--background", ","], ["--background is an empty list"]),
        (["--classes", "cat", "--template", "a photo."], ["no place for the class", "a photo of a {}."]),
        (["--classes", "cat", "--template", "a {}" + " very" * 100], ["too long for the text tower", "Shorten"]),
        (["--classes", "nowhere/names.yaml"], ["there is no such vocabulary"]),
    ],
)
def test_classes_that_cannot_be_asked_for_leave_a_prediction_as_it_is(
    trained, done, tmp_path, monkeypatch, capsys, asked, parts
):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    before = content(done)
    refused(capsys, ["predict", trained[0], trained[3] / "images", "--device", "cpu", "--out", done, *asked], *parts)
    assert content(done) == before


def test_a_model_of_fixed_classes_has_none_to_be_asked_for(trained, write_segmenter, tmp_path, capsys):
    closed = write_segmenter(tmp_path / "closed")
    words = ["predict", closed, trained[3] / "images", "--device", "cpu", "--out", tmp_path / "out"]
    refused(capsys, [*words, "--classes", "cat"], "train --head pixel-text")
    assert not (tmp_path / "out").exists()


def test_text_of_another_width_is_named_before_anything_is_written(trained, done, tmp_path, capsys):
    """Rows of a CLIP of 512 numbers in a model of 192, as weights to predict with and to begin a training from."""
    state = torch.load(trained[0], weights_only=True)
    state["state_dict"]["decode_head.pixel_text.rows"] = torch.zeros(3, 512)
    torch.save(state, tmp_path / "final.pth")
    shutil.copy(trained[0].with_name("config.py"), tmp_path)
    words = ["predict", tmp_path / "final.pth", trained[3] / "images", "--device", "cpu", "--out"]
    before = content(done)
    for out in (done, tmp_path / "out"):
        refused(capsys, [*words, out], "final.pth", "of another width", "Expected 192 numbers", "Found 512", "--config")
    assert content(done) == before
    init = ["--init", tmp_path / "final.pth"]
    refused(capsys, training(trained, tmp_path, *init), "text of another width", "Expected 192", "--text-weights")
    assert not (tmp_path / "out").exists()


def training(trained, tmp_path, *more):
    words = ["train", trained[3] / "run", "--config", "scenes_small", "--head", "pixel-text", "--iterations", "1"]
    return [*words, "--batch-size", "2", "--workers", "0", "--loss", "plain", "--out", tmp_path / "out", *more]


def test_weights_of_another_layout_stop_a_training_before_it_begins(trained, tmp_path, capsys):
    torch.save({"fc.0.weight": torch.zeros(3, 3)}, tmp_path / "layer.pth")
    torch.save({"fc.0.weight": [1, 2]}, tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    net = InverseNet(6, (12, 8)).state_dict()
    torch.save({**net, "fc.4.weight": torch.zeros(6, 8), "fc.4.bias": torch.zeros(6)}, tmp_path / "six.pth")
    for name, parts in {
        "layer.pth": ["no inverse-transform network", "to 4 outputs", "train-shape-net"],
        "six.pth": ["no inverse-transform network", "(6, 8)"],
        "list.pth": ["holds no state dict"],
        "text.pth": ["cannot be read as weights alone"],
        "nowhere.pth": ["no such shape network", "Leave --shape-net out"],
    }.items():
        told = refused(capsys, training(trained, tmp_path, "--edges", "--shape-net", tmp_path / name), name, *parts)
        assert "arbitrary code" not in told
    for name, parts in {
        "layer.pth": ["none of these weights fits the model", "such as fc.0.weight [3, 3]", "without --init"],
        "list.pth": ["holds no state dict"],
        "text.pth": ["cannot be read as weights alone", "save its state_dict alone"],
        "nowhere.pth": ["there is no such file of weights"],
    }.items():
        refused(capsys, training(trained, tmp_path, "--init", tmp_path / name), name, *parts)
    refused(capsys, training(trained, tmp_path, "--text-weights", tmp_path / "layer.pth"), "not those of a CLIP ViT")
    assert not (tmp_path / "out" / "final.pth").exists()


def test_public_weights_of_another_backbone_stop_a_training_before_it_begins(trained, tmp_path, capsys):
    torch.save(Drn("drn_d_22").state_dict(), tmp_path / "drn.pth")
    for name in ("scenes_small", "_runtime"):
        shutil.copy(files("clip_es.segmentor.configs") / f"{name}.py", tmp_path)
    config = tmp_path / "drn.py"
    for backbone, parts in {
        f"DrnBackbone', name='drn_d_105', weights='{tmp_path / 'drn.pth'}": ["no weights of this DRN", "drn_d_22 or"],
        f"DptBackbone', width=16, heads=2, weights='{tmp_path / 'drn.pth'}": ["no weights of this ViT", "vit_large"],
        f"DrnBackbone', weights='{tmp_path / 'nowhere.pth'}": ["no such file of weights", "nowhere.pth"],
    }.items():
        config.write_text(
            "_base_ = ['scenes_small.py']\n"
            f"model = dict(backbone=dict(_delete_=True, type='{backbone}'),\n"
            "    decode_head=dict(in_channels=[512], in_index=[0]))\n"
        )
        words = training(trained, tmp_path, "--text-weights", "scenes")
        words[words.index("scenes_small")] = config
        refused(capsys, words, *parts)
    assert not (tmp_path / "out" / "final.pth").exists()


def test_segments_that_do_not_fit_cost_their_picture_alone_and_can_be_made_again(trained, tmp_path, capsys):
    """One picture has segments of another size, one has none, one has a damaged file; the others are done."""
    images, folder, out = trained[3] / "images", tmp_path / "segments", tmp_path / "out"
    words = ["segments", images, "--weights", "scenes", "--device", "cpu", "--segments", "3", "--out", folder]
    assert main([str(word) for word in words]) == 0
    names = sorted(path.stem for path in images.glob("*.png"))
    segments = SegmentFolder(folder)
    segments.save(names[0], torch.zeros(5, 7, dtype=torch.int64), torch.zeros(1, 5, 7, dtype=torch.bool))
    (folder / "regions" / f"{names[1]}.png").unlink()
    (folder / "regions" / f"{names[2]}.png").write_bytes(b"\x89PNG no more")
    fused = ["predict", trained[0], images, "--device", "cpu", "--out", out, "--fuse", "segments", "--segments", folder]
    fused = [str(word) for word in fused]
    assert main(fused) == 1
    assert f"{len(names) - 3} pictures done, 3 failed" in capsys.readouterr().out
    failures = (out / "failures.csv").read_text()
    for part in ("of one size", "Make the segments again", "has no segments", "Call `clip-es segments`"):
        assert part in failures
    kept = content(out / "masks")
    assert len(kept) == len(names) - 3
    for name in names[:3]:
        (folder / "regions" / f"{name}.png").unlink(missing_ok=True)
    assert main([str(word) for word in words]) == 0
    assert main(fused) == 0
    assert len(content(out / "masks")) == len(names)
    assert kept.items() <= content(out / "masks").items()
    refused(capsys, fused[:-2], "--fuse segments and --segments FOLDER belong together")
    refused(capsys, [*fused[:-1], tmp_path / "nowhere"], "is no folder of segments", "clip-es segments")
    refused(capsys, [*words, "--nodes", "1"], "made with other settings", "another --out")
