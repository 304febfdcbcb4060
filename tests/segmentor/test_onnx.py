"""A trained segmenter as an ONNX file: what onnxruntime makes of it is what PyTorch makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_es.errors import ConfigError, ShapeError, WeightsError
from clip_es.pipelines.cli import main
from clip_es.segmentor import onnx_export
from clip_es.segmentor.exportable import Exportable
from clip_es.segmentor.inference import Segmenter
from clip_es.segmentor.loading import build_model
from clip_es.segmentor.onnx_export import export_onnx

SIZE = (48, 64)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory, write_segmenter) -> Segmenter:
    folder = tmp_path_factory.mktemp("model")
    return Segmenter.load(write_segmenter(folder, names=("sky", "a", "b", "c", "d")), device="cpu")


@pytest.fixture(scope="module")
def exported(tmp_path_factory, segmenter):
    return export_onnx(segmenter, tmp_path_factory.mktemp("onnx") / "model.onnx", size_hw=SIZE, way="tracing")


def run(path: Path, image: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": image})[0]


def picture(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 3, 48, 64), (3, 3, 40, 40), (1, 3, 97, 51)])
def test_the_file_gives_what_the_segmenter_gives_at_any_size_and_batch(exported, segmenter, shape):
    image = picture(*shape)
    theirs = torch.from_numpy(run(exported.path, image)).softmax(1)
    for number in range(shape[0]):
        rgb = np.ascontiguousarray(image[number].transpose(1, 2, 0).astype(np.uint8))
        ours = segmenter.probabilities(rgb)
        assert float((ours - theirs[number]).abs().max()) < 1e-3
    assert len(theirs.argmax(1).unique()) > 1


def test_the_file_says_what_it_is(exported, segmenter):
    import onnx

    graph = onnx.load(str(exported.path))
    facts = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(facts["classes"]) == ["sky", "a", "b", "c", "d"]
    assert facts["weights_sha256"] == segmenter.source
    assert exported.opset == next(e.version for e in graph.opset_import if e.domain == "") == onnx_export.OPSET
    assert exported.free == "batch and size"
    assert exported.difference < 1e-3
    assert not list(exported.path.parent.glob("*.data")), "one file"


def test_the_order_of_colours_is_that_of_the_model(segmenter):
    image = torch.from_numpy(picture(1, 3, *SIZE))
    module = Exportable(segmenter).eval()
    module.red_first = False
    with torch.no_grad():
        blue_first = module(image.flip(dims=(1,)))
        module.red_first = True
        assert torch.equal(module(image), blue_first)


def test_a_fixed_size_is_fixed(segmenter, tmp_path):
    made = export_onnx(segmenter, tmp_path / "fixed.onnx", size_hw=SIZE, fixed=True, way="tracing")
    assert made.free == "nothing"
    assert run(made.path, picture(1, 3, *SIZE)).shape == (1, 5, *SIZE)
    with pytest.raises(Exception, match="dimensions"):
        run(made.path, picture(2, 3, *SIZE))


def test_a_file_that_differs_is_not_written(segmenter, tmp_path, monkeypatch):
    before = Exportable.forward

    def forward(self, image):
        """Another answer while it is exported than when it is compared."""
        return before(self, image) * (1.5 if torch.onnx.is_in_onnx_export() else 1)

    monkeypatch.setattr(Exportable, "forward", forward)
    with pytest.raises(WeightsError, match="agrees with PyTorch") as caught:
        export_onnx(segmenter, tmp_path / "wrong.onnx", size_hw=SIZE, fixed=True, way="tracing")
    assert "probabilities differ by" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_padding_to_whole_patches_is_part_of_the_graph(tmp_path, write_segmenter):
    checkpoint = write_segmenter(tmp_path)
    config = tmp_path / "config.py"
    config.write_text(
        config.read_text().replace("seg_pad_val=255,", "seg_pad_val=255, test_cfg=dict(size_divisor=16),")
    )
    padded = Segmenter.load(checkpoint, device="cpu")
    made = export_onnx(padded, tmp_path / "m.onnx", size_hw=(50, 60), way="tracing")
    image = picture(1, 3, 41, 77)
    ours = padded.probabilities(np.ascontiguousarray(image[0].transpose(1, 2, 0).astype(np.uint8)))
    assert float((ours - torch.from_numpy(run(made.path, image))[0].softmax(0)).abs().max()) < 1e-3
    config.write_text(config.read_text().replace("dict(size_divisor=16)", "dict(size=(512, 512))"))
    with pytest.raises(ConfigError, match="pads every picture"):
        export_onnx(Segmenter.load(checkpoint, device="cpu"), tmp_path / "m.onnx")


@pytest.mark.slow
@pytest.mark.timeout(900)  # torch.export takes half a minute of CPU time.
def test_an_attention_model_keeps_its_sizes_free(tmp_path):
    """SegFormer reshapes patches by height and width, which tracing takes for constants."""
    model = {
        "type": "EncoderDecoder",
        "data_preprocessor": {"type": "SegDataPreProcessor", "mean": [120.0] * 3, "std": [60.0] * 3},
        "backbone": {
            "type": "MixVisionTransformer",
            "embed_dims": 8,
            "num_stages": 2,
            "num_layers": [1, 1],
            "num_heads": [1, 1],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "sr_ratios": [8, 4],
            "out_indices": (0, 1),
        },
        "decode_head": {
            "type": "SegformerHead",
            "in_channels": [8] * 2,
            "in_index": [0, 1],
            "channels": 8,
            "num_classes": 3,
            "norm_cfg": {"type": "SyncBN"},
            "align_corners": False,
        },
        "test_cfg": {"mode": "whole"},
    }
    made = export_onnx(Segmenter(build_model({"model": model}, "here")), tmp_path / "m.onnx", size_hw=(64, 64))
    assert made.free == "batch and size"
    assert made.way == "torch.export"
    assert run(made.path, picture(1, 3, 96, 80)).shape == (1, 3, 96, 80)


def test_impossible_wishes_are_refused(segmenter, tmp_path, monkeypatch):
    with pytest.raises(ShapeError):
        export_onnx(segmenter, tmp_path / "m.onnx", size_hw=(8, 8))
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"clip-es\[onnx\]"):
        export_onnx(segmenter, tmp_path / "m.onnx", size_hw=SIZE)


def test_the_command_prints_the_difference_and_refuses_too_large_a_one(tmp_path, write_segmenter, capsys):
    model = write_segmenter(tmp_path / "model")
    base = [
        "export-onnx",
        str(model),
        "--out",
        str(tmp_path / "m.onnx"),
        "--size",
        "48",
        "64",
        "--fixed",
        "--way",
        "tracing",
    ]
    assert main(base) == 0
    out = capsys.readouterr().out
    assert "opset 18" in out
    assert "probabilities differ by at most" in out
    (tmp_path / "m.onnx").unlink()
    assert main([*base, "--tolerance", "0"]) == 2
    assert "WeightsError" in capsys.readouterr().err
    assert not (tmp_path / "m.onnx").exists()
