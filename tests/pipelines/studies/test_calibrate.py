"""Suggestions without labels: the arithmetic by hand, and the command on drawn scenes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from clip_es.errors import DataError
from clip_es.pipelines.cli import main
from clip_es.pipelines.studies.calibrate import Calibration, Candidate, kappa
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.store.manifest import Manifest


def test_kappa_is_what_is_counted_by_hand():
    assert kappa(np.array([[40, 10], [10, 40]])) == pytest.approx(0.6)  # 0.8 observed, 0.5 by chance
    assert kappa(np.array([[50, 0], [0, 50]])) == 1
    assert kappa(np.array([[25, 25], [25, 25]])) == 0


def test_nothing_anywhere_and_everything_everywhere_are_no_agreement():
    assert np.isnan(kappa(np.array([[100, 0], [0, 0]])))
    assert np.isnan(kappa(np.array([[0, 0], [0, 100]])))
    assert np.isnan(kappa(np.zeros((2, 2), dtype=int)))


def test_the_best_is_suggested_and_of_views_the_fewest_that_are_as_good():
    found = Calibration(
        (
            Candidate("patch-text.scale", "20", 0.8, 0.6),
            Candidate("patch-text.scale", "40", 0.7, 0.9),
            Candidate("views.shifts", "1", 0.80, float("nan")),
            Candidate("views.shifts", "2", 0.895, float("nan")),
            Candidate("views.shifts", "4", 0.90, float("nan")),
        ),
        pictures=3,
    )
    assert found.suggested("patch-text.scale").value == "40"
    assert found.suggested("views.shifts").value == "2"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make(tmp_path_factory.mktemp("scenes"), ScenesConfig(train=0, val=2, seed=5))


def test_settings_are_suggested_without_reading_any_label(scenes, tmp_path, capsys):
    """The ground truth adds a column and changes no suggestion; a run's folder stands for its pictures."""
    run = Manifest.of(
        tmp_path / "run",
        {},
        {"images": str(scenes / "JPEGImages"), "weights": "scenes", "vocabulary": "scenes"},
    )
    run.folder.mkdir()
    run.write()
    plain, oracle = tmp_path / "plain.json", tmp_path / "oracle.json"
    assert main(["calibrate", str(run.folder), "--out", str(plain)]) == 0
    told = capsys.readouterr().out
    assert "Suggested, without any label: --tagging.threshold" in told
    assert "ORACLE" not in told
    asked = ["calibrate", str(scenes / "JPEGImages"), "--weights", "scenes", "--vocabulary", "scenes"]
    assert main([*asked, "--oracle", str(scenes / "SegmentationClass"), "--out", str(oracle)]) == 0
    assert "was computed with the ground truth" in " ".join(capsys.readouterr().out.split())
    one, other = (json.loads(path.read_text()) for path in (plain, oracle))
    assert one["suggested"] == other["suggested"]
    assert {value["oracle"] for value in one["values"]} == {None}
    assert all(0 <= value["oracle"] <= 100 for value in other["values"])


def test_a_folder_without_pictures_and_without_words_is_refused(tmp_path, capsys):
    assert main(["calibrate", str(tmp_path)]) == 2
    assert "words are needed" in capsys.readouterr().err
    assert main(["calibrate", str(tmp_path), "--vocabulary", "cat,dog", "--weights", "scenes"]) == 2
    assert "no picture in this folder" in capsys.readouterr().err


def test_nothing_found_is_said():
    from clip_es.config.methods import PatchTextConfig
    from clip_es.encoder import load_encoder
    from clip_es.pipelines.studies.calibrate import Calibrator
    from clip_es.prompts import build_bank, load_vocabulary

    encoder = load_encoder("scenes", device="cpu")
    empty = Calibrator(encoder, build_bank(encoder, load_vocabulary("scenes")), PatchTextConfig(), 0.4)
    with pytest.raises(DataError, match="no class of the vocabulary"):
        empty.result()
