"""The command line as its user meets it: help, mistakes, presets, exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip_es.config.run import DEFAULT, REFERENCE
from clip_es.pipelines.cli import main, parse
from clip_es.pipelines.commands.masks import Masks
from clip_es.pipelines.table import COMMANDS, SOURCES


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    listed = [line.split("   ")[0].strip() for line in out.splitlines()]
    for name in COMMANDS:
        shown = f"{name.split()[0]} SOURCE" if COMMANDS[name].source else name
        assert listed.count(f"clip-es {shown}") == 1, "each command stands there once, not once for every source"
    for source in SOURCES:
        assert f"  {source} " in out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_its_flags(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--help"])
    assert stop.value.code == 0
    assert f"clip-es {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "meant"), [("mask voc12", "masks voc12"), ("masks voc", "masks voc12"), ("evalute", "evaluate")]
)
def test_a_mistyped_command_offers_the_nearest(typed, meant, capsys):
    assert main(typed.split()) == 2
    assert f"Did you mean clip-es {meant}" in capsys.readouterr().err


def test_a_command_without_its_source_lists_the_sources(capsys):
    assert main(["masks"]) == 2
    assert "clip-es masks folder" in capsys.readouterr().err, "nobody asked for it on standard output"


@pytest.mark.parametrize("form", [["--preset", "reference"], ["--preset=reference"]])
def test_a_preset_sets_the_defaults_of_the_other_flags(form):
    command = parse(Masks, "clip-es", ["--out", "run", *form, "--refine.affinity.layers", "3"], "voc12")
    assert command.config.refiners.crf == REFERENCE.refiners.crf
    assert command.config.refiners.affinity.layers == 3
    assert command.config.refiners.affinity.border == "drop"
    assert command.out == Path("run")


def test_the_default_preset_is_the_default():
    assert parse(Masks, "clip-es", ["--out", "run"], "voc12").config == DEFAULT


def test_refiners_are_an_ordered_list_that_may_be_empty():
    base = ["--out", "run", "--images", "i", "--labels", "l.csv"]
    assert parse(Masks, "clip-es", [*base, "--refine"], "folder").config.refine == ()
    assert parse(Masks, "clip-es", [*base, "--refine", "crf"], "folder").config.refine == ("crf",)


def test_a_setting_out_of_range_is_refused_by_name(capsys):
    assert main(["masks", "voc12", "--out", "run", "--refine.affinity.layers", "0"]) == 2
    assert "layers is out of range" in capsys.readouterr().err


def test_more_classes_than_a_mask_holds_are_refused_before_any_picture(tmp_path, capsys):
    (tmp_path / "many.yaml").write_text("classes: [" + ", ".join(f"thing{i}" for i in range(300)) + "]\n")
    (tmp_path / "labels.csv").write_text("image,labels\na.jpg,thing1\n")
    arguments = ["--images", str(tmp_path), "--labels", str(tmp_path / "labels.csv"), "--out", str(tmp_path / "run")]
    assert main(["masks", "folder", *arguments, "--vocabulary", str(tmp_path / "many.yaml")]) == 2
    assert "at most 254" in capsys.readouterr().err
