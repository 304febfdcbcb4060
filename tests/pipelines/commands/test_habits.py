"""What every command has: a quiet voice, a summary as one line, an exit code; settings given back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from recorded import GOLDEN

from clip_es.config.given_back import run_config
from clip_es.config.presets import PRESETS
from clip_es.config.run import DEFAULT, REFERENCE
from clip_es.errors import ConfigError, DataError
from clip_es.pipelines import cli
from clip_es.pipelines.cli import main, parse, program
from clip_es.pipelines.commands.masks import Masks
from clip_es.pipelines.completion import all_flags
from clip_es.store.manifest import Manifest, plain

FAST = ("--workers", "0", "--report-pictures", "0", "--refine", "affinity")


def masks(root: Path, out: Path, *flags: str) -> int:
    weights = ("--weights", str(GOLDEN / "tiny224.pt"))
    return main(["masks", "voc12", "--root", str(root), "--out", str(out), *weights, *FAST, *flags])


def test_a_quiet_run_says_nothing_but_errors(golden_voc, tmp_path, capsys):
    assert masks(golden_voc, tmp_path / "run", "--quiet", "--limit", "1") == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert masks(tmp_path, tmp_path / "other", "--quiet") == 2
    assert "JPEGImages" in capsys.readouterr().err


def test_the_summary_is_one_line_and_all_else_goes_to_standard_error(golden_voc, tmp_path, capsys):
    assert masks(golden_voc, tmp_path / "run", "--json", "--limit", "2") == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    told = json.loads(captured.out)
    assert told["command"] == "masks voc12"
    assert told["exit_code"] == 0
    assert told["images"]["done"] == 2
    assert told["out"] == str(tmp_path / "run")
    assert 0 <= told["miou"] <= 100
    assert "2 pictures done" in captured.err


def test_an_error_is_told_in_its_fields(tmp_path, capsys):
    assert masks(tmp_path, tmp_path / "run", "--json") == 2
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == 2
    assert told["error"]["kind"] == "DataError"
    assert "JPEGImages" in told["error"]["expected"]
    assert main(["masks", "voc12", "--json", "--unheard-of"]) == 2
    assert json.loads(capsys.readouterr().out)["exit_code"] == 2
    assert main(["unheard-of", "--json"]) == 2
    assert "no command" in json.loads(capsys.readouterr().out)["error"]["what"]


def test_a_limit_takes_the_first_pictures_and_a_later_call_the_rest(golden_voc, tmp_path, capsys):
    assert masks(golden_voc, tmp_path / "run", "--limit", "1") == 0
    assert [path.stem for path in (tmp_path / "run/masks").iterdir()] == ["astronaut_150x131"]
    assert masks(golden_voc, tmp_path / "run") == 0
    assert "3 pictures, 1 done before, 2 to do" in capsys.readouterr().out
    assert masks(golden_voc, tmp_path / "run", "--limit", "0") == 2


def test_the_settings_of_a_run_are_given_back_and_flags_go_before_them(golden_voc, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    own = ("--refine.affinity.layers", "1", "--mask.background-power", "2", "--template", "a sketch of a {}.")
    assert masks(golden_voc, first, *own, "--synonyms", "mean", "--limit", "1") == 0
    again = ["masks", "voc12", "--root", str(golden_voc), "--config", str(first / "run.yaml"), "--limit", "1"]
    rest = ["--workers", "0", "--report-pictures", "0"]
    assert main([*again, *rest, "--out", str(second)]) == 0
    assert Manifest.read(second).settings == Manifest.read(first).settings
    third = tmp_path / "third"
    assert main([*again, *rest, "--out", str(third), "--mask.background-power", "3"]) == 0
    changed = Manifest.read(first).differences(Manifest.read(third))
    assert changed == {"config.mask.background_power": ("2.0", "3.0")}
    assert main([*again, "--preset", "reference", "--out", str(third)]) == 2


@pytest.mark.parametrize("config", [DEFAULT, REFERENCE, *(row.config for row in PRESETS.values())][:8])
def test_settings_come_back_from_what_run_yaml_says_of_them(config):
    told = json.loads(json.dumps(plain(config.in_use("auto"), "settings")))
    assert run_config(told, "run.yaml").in_use("auto") == config.in_use("auto")


@pytest.mark.parametrize(
    ("told", "what"),
    [
        ({"maks": {}}, "no settings 'maks'.*Nearest: 'mask'"),
        ({"mask": 3}, "table of settings"),
        ({"mask": {"treshold": 1}}, "no setting 'treshold'.*Nearest: 'threshold'"),
        ({"mask": {"half": "yes"}}, "of another kind"),
        ({"mask": {"threshold": "high"}}, "of another kind"),
        ({"mask": {"calibration": "guess"}}, "not one of the values"),
        ({"refine": "crf"}, "must be a list"),
        ({"method": "guess"}, "guess"),
    ],
)
def test_settings_that_cannot_be_read_are_refused_by_name(told, what):
    with pytest.raises(ConfigError, match=what):
        run_config(told, "run.yaml")


def test_a_fault_of_the_package_has_a_code_of_its_own(monkeypatch, capsys):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "main", broken)
    assert program() == 3
    assert "a fault of clip-es" in capsys.readouterr().err


@pytest.fixture(scope="module")
def flags():
    return all_flags()


def test_settings_that_are_not_there_are_missed_by_name(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        parse(Masks, "clip-es", ["--out", "run", "--config", str(tmp_path / "none.yaml")], "voc12")


def line_of(capsys, *words: str) -> dict:
    """What the one line says that a command prints."""
    capsys.readouterr()
    code = main([*words, "--json"])
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    told = json.loads(out)
    assert told["exit_code"] == code
    return told


def test_every_command_on_a_run_says_in_its_line_what_it_found(golden_voc, tmp_path, capsys):
    run, truth = str(tmp_path / "run"), str(golden_voc / "SegmentationClassAug")
    assert masks(golden_voc, tmp_path / "run") == 0
    assert line_of(capsys, "evaluate", run, "--truth", truth)["images"] == 3
    assert line_of(capsys, "evaluate", run, "--truth", truth, "--limit", "1")["images"] == 1
    told = line_of(capsys, "check", run)
    assert (told["pictures"], told["problems"]) == (3, 0)
    told = line_of(capsys, "check", "voc12", "--root", str(golden_voc), "--no-estimate")
    assert (told["entries"], told["usable"]) == (3, 3)
    told = line_of(capsys, "export", run, "--format", "voc", "--out", f"{run}-voc", "--limit", "2")
    assert (told["pictures"], told["left_out"]) == (2, 0)
    told = line_of(capsys, "worst", run, "--count", "2", "--out", f"{run}-worst")
    assert told["pictures"] == len(told["worst"]) == 2
    told = line_of(capsys, "import", run, "--format", "labelme", "--from", f"{run}-worst")
    assert (told["edited"], told["unchanged"], told["refused"]) == (0, 2, 0)
    told = line_of(capsys, "truth", "voc12", "--root", str(golden_voc), "--out", f"{run}-truth", "--limit", "2")
    assert (told["masks"], told["failed"]) == (2, 0)
    assert line_of(capsys, "restore", run)["error"]["kind"] == "ConfigError"


def test_commands_that_go_through_pictures_take_a_limit(flags):
    on_pictures = {name: of for name, of in flags.items() if name.split()[0] in GOES_THROUGH and name != "check"}
    without = {name for name, of in on_pictures.items() if "--limit" not in of.values}
    assert without == set()


GOES_THROUGH = {
    *("masks", "refine", "check", "truth", "oracle", "predict", "segments", "evaluate", "evaluate-zero-shot"),
    *("export", "reproduce"),
}


def test_former_names_of_flags_are_still_known(flags):
    for name, former, now in (
        ("prompt", "--sentence", "--template"),
        ("evaluate-clipseg referring", "--prompt", "--template"),
        ("evaluate-clipseg zero-shot", "--prompt", "--template"),
        ("evaluate-clipseg one-shot", "--text", "--template"),
        ("segments", "--export", "--format"),
    ):
        assert {former, now} <= flags[name].values.keys()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("config:\n  mask:\n    treshold: 1\n", "line 3, config.mask.treshold: there is no setting 'treshold'"),
        ("config:\n  affinity: {layers: 99}\n", "line 2, config.affinity.layers: layers is out of range"),
        ("config:\n  refine: [crff]\n", "line 2, config.refine: there is no such refiner"),
        ("\n\nweights: scenes\n", "line 3, weights: there is no setting 'weights'.*stands under `about`"),
        ("confg: {}\n", "line 1, confg: .*Nearest: 'config'"),
        ("prompts:\n  synonyms: 5\n", "line 2, prompts.synonyms: is not one of the values"),
        ("prompts: {templates: [3]}\n", "prompts.templates: must be a list of sentences"),
        ("about:\n  weights: 5\n", "line 2, about.weights: must be a text"),
        ("method: predict\nconfig: {}\n", "something else than masks"),
        ("config: {}\nconfig: {}\n", "line 2: cannot be read.*stands twice"),
        ("config: !!python/object/apply:os.system [exit]\n", "line 1: cannot be read"),
        ("", "not a table of settings"),
    ],
)
def test_a_run_yaml_that_cannot_be_given_back_is_told_by_file_and_line(text, told, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises((ConfigError, DataError), match=rf"(?s)mine\.yaml.*{told}"):
        parse(Masks, "clip-es", ["--out", "run", "--config", str(tmp_path / "mine.yaml")], "voc12")


def test_what_a_hand_written_file_leaves_out_is_as_by_default(tmp_path):
    (tmp_path / "mine.yaml").write_text("config:\n  mask: {threshold: 0.5}\nabout: {weights: scenes}\n")
    command = parse(Masks, "clip-es", ["--out", "run", "--config", str(tmp_path / "mine.yaml")], "voc12")
    assert command.weights == "scenes"
    assert command.config == replace(DEFAULT, mask=replace(DEFAULT.mask, threshold=0.5))
    (tmp_path / "mine.yaml").write_text("labels: auto\n")
    command = parse(Masks, "clip-es", ["--out", "run", "--config", str(tmp_path / "mine.yaml")], "voc12")
    assert command.source.labels == "auto", "labels that CLIP found are part of how the masks were made"


def test_masks_made_with_the_settings_of_a_run_have_its_bytes(golden_voc, tmp_path, capsys):
    own = ("--labels", "auto", "--refine.affinity.layers", "1", "--mask.threshold", "0.6")
    assert masks(golden_voc, tmp_path / "first", *own) == 0
    again = ["masks", "voc12", "--root", str(golden_voc), "--config", str(tmp_path / "first"), "--out"]
    rest = ["--workers", "0", "--report-pictures", "0"]
    assert main([*again, str(tmp_path / "second"), *rest]) == 0
    for part in ("masks", "confidence", "labels"):
        first = {path.name: path.read_bytes() for path in (tmp_path / "first" / part).iterdir()}
        assert first == {path.name: path.read_bytes() for path in (tmp_path / "second" / part).iterdir()}
    capsys.readouterr()
    assert main([*again, str(tmp_path / "third"), *rest, "--vocabulary", "cat,dog,person"]) == 0
    assert "Other than in" in capsys.readouterr().out
