"""`clip-es agree`, and what a run says of a quicker encoder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from clip_es.config.run import DEFAULT, REFERENCE, EncoderConfig
from clip_es.errors import ConfigError
from clip_es.pipelines.agree import compare
from clip_es.pipelines.cli import main
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.scenes.dataset import ScenesConfig, scene_of
from clip_es.store.manifest import Manifest
from clip_es.types import ImageRecord


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIP_ES_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Three drawn scenes of 96 x 96 pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        Image.fromarray(scene_of(ScenesConfig(side=(96, 96)), "val", number).picture).save(folder / f"{number}.png")
    return folder


SMALL = ["--weights", "scenes", "--vocabulary", "scenes", "--refine", "affinity"]


def test_the_command_prints_and_writes_what_int8_changes(pictures, tmp_path, capsys):
    out = tmp_path / "agreement.json"
    asked = ["agree", "--images", str(pictures), "--dtype", "int8", *SMALL, "--out", str(out)]
    assert main(asked) == 0
    told = json.loads(out.read_text())
    assert (told["engine"], told["dtype"], told["pictures"]) == ("onnx", "int8", 3)
    assert 0.9 < told["least_pixels"] <= told["equal_pixels"] <= 1
    assert 0 < told["maps_mean"] < 0.05
    assert told["maps_mean"] <= told["maps_largest"] <= 1
    assert told["equal_labels"] in (0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1)
    printed = capsys.readouterr().out
    assert "int8 by onnx" in printed
    assert f"{100 * told['equal_pixels']:.2f} %" in printed


def test_the_exit_code_says_that_too_few_pixels_agree(pictures):
    asked = ["agree", "--images", str(pictures), "--dtype", "bfloat16", *SMALL, "--pictures", "1"]
    assert main([*asked, "--least", "0.5"]) == 0
    assert main([*asked, "--least", "1.1"]) == 1


def test_torch_in_float32_is_not_compared_with_itself(pictures, capsys):
    assert main(["agree", "--images", str(pictures), "--dtype", "float32", *SMALL]) == 2
    assert "torch in float32 is what others are compared with" in capsys.readouterr().err


def test_a_picture_that_fails_is_left_out_and_named(pictures, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    maker = MaskMaker.load("scenes", config=DEFAULT, device="cpu", labels="auto")
    records = [ImageRecord("broken", tmp_path / "broken.png", ()), ImageRecord("0", pictures / "0.png", ())]
    found = compare(maker, maker, records)
    assert [name for name, _ in found.failures] == ["broken"]
    assert (found.pictures, found.equal_pixels, found.equal_masks, found.miou) == (1, 1, 1, 1)
    assert found.equal_labels == 1
    assert found.maps_largest == 0


def test_the_share_of_pixels_can_be_counted_by_hand(pictures):
    """With the words of two classes exchanged, exactly the pixels of these classes get another label."""
    exact = MaskMaker.load("scenes", config=DEFAULT, device="cpu")
    record = ImageRecord("0", pictures / "0.png", (0, 1))
    one = exact.mask_of(exact.read(record), exact.encode([exact.read(record)])[0], (0, 1))
    other = MaskMaker.load("scenes", config=DEFAULT, device="cpu")
    vectors = other.bank.vectors.clone()
    vectors[[0, 1]] = vectors[[1, 0]]
    object.__setattr__(other.bank, "vectors", vectors)
    found = compare(other, exact, [record])
    expected = float((one.mask.decided == 0).mean())
    assert found.equal_pixels == pytest.approx(expected, abs=1e-3)


def _asked(pictures, out):
    source = ["masks", "folder", "--images", str(pictures), "--labels", "auto"]
    return [*source, *SMALL, "--workers", "0", "--out", str(out)]


def test_a_run_carries_engine_and_dtype_and_reports_the_agreement(pictures, tmp_path, capsys):
    out = tmp_path / "run"
    asked = _asked(pictures, out)
    assert main([*asked, "--dtype", "int8"]) == 0
    told = Manifest.read(out)
    assert told.settings["config"]["encoder"]["engine"] == "onnx"
    assert told.settings["config"]["encoder"]["dtype"] == "int8"
    assert "Encoder: int8 by onnx: as asked for" in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert "Agreement of int8 by onnx with float32 by torch" in page
    assert main([*asked, "--dtype", "float32"]) == 2  # another arithmetic is another run
    assert "--dtype" in capsys.readouterr().err


def test_a_run_from_before_engines_can_be_continued(pictures, tmp_path):
    out = tmp_path / "run"
    asked = _asked(pictures, out)
    assert main(asked) == 0
    assert "Agreement" not in (out / "report.html").read_text()
    text = (out / "run.yaml").read_text()
    assert "    engine: torch\n" in text
    (out / "run.yaml").write_text(text.replace("    engine: torch\n", ""))
    assert main(asked) == 0
    assert main([*asked, "--encoder.engine", "onnx"]) == 2


def test_the_command_line_of_the_playground_names_the_engine_of_the_encoder():
    from clip_es.pipelines.playground.export import flags

    config = replace(DEFAULT, encoder=EncoderConfig(engine="onnx", dtype="int8"))
    assert flags(config) == ["--encoder.engine", "onnx", "--dtype", "int8"]


def test_the_published_arithmetic_is_not_computed_by_onnx():
    for settings in (EncoderConfig(dtype="int8"), EncoderConfig(engine="onnx")):
        with pytest.raises(ConfigError, match="the published arithmetic is that of torch"):
            replace(REFERENCE, encoder=settings)
