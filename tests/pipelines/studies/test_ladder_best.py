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
from clip_es.pipelines.studies.ladder import TEMPLATE_ROWS, best_rungs, fused_templates, ranked_templates
from clip_es.prompts import load_vocabulary
from clip_es.records import voc

ROWS = [
    "clip-es",
    "patch-text in its place",
    "both, the mean",
    "+ a threshold for each map",
    "+ segments (best-fast)",
    "+ shifts",
    "+ sure views count more (best)",
    "+ scales (best-multiscale)",
]


def test_the_rungs_lead_from_clip_es_to_best():
    encoder, vocabulary = load_encoder("scenes", device="cpu"), load_vocabulary("scenes")
    rungs = best_rungs(encoder, vocabulary, find_preset("best-scenes").config)
    assert list(rungs) == ROWS
    bare = [replace(maker.config, mask=DEFAULT.mask) for maker in rungs.values()]
    assert bare[0].method == "clip-es"
    assert bare[0].refine == ("affinity", "crf")
    assert [one.views.count for one in bare] == [1, 1, 1, 1, 1, 4, 4, 9]
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
    assert "+ scales (best-multiscale)" in capsys.readouterr().out
    told = json.loads(out.read_text())
    assert list(told["ladder"]) == ROWS
    assert all(0 <= value <= 100 for value in told["ladder"].values())


def test_the_half_of_lower_sharpness_is_taken_and_five_by_share():
    ranked = [(f"{letter} {{}}", 0.1) for letter in "abcdefg"]
    assert fused_templates(ranked[:3]) == ["a {}", "b {}"]
    assert fused_templates(ranked[:1]) == ["a {}"]
    assert fused_templates(ranked, "share") == [template for template, _ in ranked[:5]]


def test_the_ladder_chooses_by_share(tmp_path, capsys):
    out = tmp_path / "ladder.json"
    size = ["--scenes.train", "3", "--scenes.val", "2", "--scenes.side", "96", "96"]
    flags = ["--select", "share", "--root", str(tmp_path / "scenes"), "--out", str(out)]
    assert main(["ladder", *flags, *size]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "(higher is better): best" in said
    assert "Used here: the 5 of the largest share of" in said
    told = json.loads(out.read_text())
    assert list(told["ladder"])[3] == TEMPLATE_ROWS["share"]
    assert len(told["templates"]) == 5
    encoder, vocabulary = load_encoder("scenes", device="cpu"), load_vocabulary("scenes")
    train = voc(tmp_path / "scenes", "train", class_id=vocabulary.class_id)
    again = ranked_templates(encoder, vocabulary, train, told["templates"], select="share")
    assert [template for template, _ in again] == told["templates"]
    assert all(0 < share < 1 for _, share in again)
