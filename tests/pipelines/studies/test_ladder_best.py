"""The ladder to the preset best: its rungs, and the command."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from clip_es.config.presets import find_preset, preset_for_scenes
from clip_es.config.run import DEFAULT
from clip_es.encoder import load_encoder
from clip_es.errors import ConfigError
from clip_es.pipelines.cli import main
from clip_es.pipelines.studies.ladder import best_rungs, lower_half
from clip_es.prompts import load_vocabulary

ROWS = [
    "clip-es",
    "patch-text in its place",
    "both, the mean",
    "+ a threshold for each map",
    "+ segments (best-fast)",
    "+ shifts (best)",
    "and mirrored",
]


def test_the_rungs_lead_from_clip_es_to_best():
    encoder, vocabulary = load_encoder("scenes", device="cpu"), load_vocabulary("scenes")
    rungs = best_rungs(encoder, vocabulary, find_preset("best-scenes").config)
    assert list(rungs) == ROWS
    bare = [replace(maker.config, mask=DEFAULT.mask) for maker in rungs.values()]
    assert bare[0].method == "clip-es"
    assert bare[0].refine == ("affinity", "crf")
    assert [one.views.count for one in bare] == [1, 1, 1, 1, 1, 4, 8]
    assert len({repr(one) for one in bare}) == len(bare)
    with pytest.raises(ConfigError, match="two methods joined"):
        best_rungs(encoder, vocabulary, DEFAULT)


def test_scenes_have_their_own_settings():
    assert preset_for_scenes("best") is find_preset("best-scenes")
    assert preset_for_scenes("default") is find_preset("default")


def test_the_ladder_to_best_runs_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "ladder.json"
    size = ["--scenes.train", "0", "--scenes.val", "2", "--scenes.side", "96", "96"]
    flags = ["--preset", "best", "--root", str(tmp_path / "scenes"), "--out", str(out)]
    assert main(["ladder", *flags, *size]) == 0
    assert "and mirrored" in capsys.readouterr().out
    told = json.loads(out.read_text())
    assert list(told["ladder"]) == ROWS
    assert all(0 <= value <= 100 for value in told["ladder"].values())


def test_the_half_of_lower_sharpness_is_taken():
    assert lower_half([("a {}", 0.1), ("b {}", 0.2), ("c {}", 0.3)]) == ["a {}", "b {}"]
    assert lower_half([("a {}", 0.1)]) == ["a {}"]
