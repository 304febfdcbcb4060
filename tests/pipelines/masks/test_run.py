"""A run over pictures: resumed, split in shards, spread over processes, always the same bytes."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from waiting import until

from clip_es.errors import ConfigError
from clip_es.pipelines.cli import main
from clip_es.refine.registry import in_order
from clip_es.scenes.dataset import ScenesConfig, make


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("scenes"), ScenesConfig(train=2, val=6, side=(64, 80)))


def masks(root: Path, out: Path, *flags: str) -> int:
    return main(["masks", "scenes", "--root", str(root), "--out", str(out), "--report-pictures", "1", *flags])


def tree(out: Path) -> dict[str, str]:
    return {
        f"{part}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for part in ("masks", "labels", "confidence", "cams")
        for path in (out / part).glob("*")
    }


@pytest.fixture(scope="module")
def undisturbed(scenes, tmp_path_factory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("run") / "whole"
    assert masks(scenes, out, "--workers", "0", "--keep-cams", "full") == 0
    return tree(out)


def test_every_picture_has_its_four_files(undisturbed):
    assert len(undisturbed) == 4 * 6


@pytest.mark.parametrize("flags", [("--batch-size", "1"), ("--workers", "2")])
def test_batch_size_and_workers_do_not_change_a_byte(scenes, undisturbed, tmp_path, flags):
    assert masks(scenes, tmp_path / "run", "--keep-cams", "full", *flags) == 0
    assert tree(tmp_path / "run") == undisturbed


def test_shards_in_one_folder_make_the_whole(scenes, undisturbed, tmp_path):
    for part in ("2/2", "1/2"):
        assert masks(scenes, tmp_path / "run", "--keep-cams", "full", "--shard", part) == 0
    assert tree(tmp_path / "run") == undisturbed


def test_a_second_call_continues(scenes, undisturbed, tmp_path, capsys):
    out = tmp_path / "run"
    assert masks(scenes, out, "--keep-cams", "full") == 0
    lost = sorted((out / "masks").iterdir())[0]
    lost.unlink()
    capsys.readouterr()
    assert masks(scenes, out, "--keep-cams", "full") == 0
    assert "5 done before, 1 to do" in capsys.readouterr().out
    assert tree(out) == undisturbed


def test_the_summary_knows_pictures_time_and_quality(scenes, tmp_path):
    out = tmp_path / "run"
    assert masks(scenes, out) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["images"] == {"done": 6, "failed": 0, "skipped": 0}
    assert {"read", "encode", "localize", "affinity", "crf", "decide", "store"} <= set(summary["seconds"])
    assert 0 <= summary["miou"] <= 100


def test_evaluate_agrees_with_the_summary(scenes, tmp_path, capsys):
    out, figures = tmp_path / "run", tmp_path / "figures.json"
    assert masks(scenes, out) == 0
    arguments = ["evaluate", str(out / "labels"), "--truth", str(scenes / "SegmentationClass")]
    assert main([*arguments, "--vocabulary", "scenes", "--out", str(figures)]) == 0
    assert json.loads(figures.read_text())["miou"] == pytest.approx(
        json.loads((out / "summary.json").read_text())["miou"]
    )


def test_the_report_stands_alone(scenes, tmp_path):
    out = tmp_path / "run"
    assert masks(scenes, out) == 0
    page = (out / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 4
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert "<script src" not in page


def test_refiners_on_the_grid_come_first():
    assert [[row.name for row in rows] for rows in in_order(("affinity", "crf"))] == [["affinity"], ["crf"]]
    assert in_order(()) == ([], [])
    with pytest.raises(ConfigError, match="affinity crf"):
        in_order(("crf", "affinity"))


def test_the_published_arithmetic_refuses_what_was_never_published():
    from clip_es.config.run import DEFAULT, LocalizeConfig

    with pytest.raises(ConfigError, match="published localizer"):
        replace(DEFAULT.using(localize=LocalizeConfig(softmax=False)), arithmetic="published")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_stop_cleanly_and_the_next_call_continues(tmp_path, stop):
    root = make(tmp_path / "scenes", ScenesConfig(train=1, val=60, side=(112, 128)))
    out = tmp_path / "run"
    command = [sys.executable, "-m", "clip_es.pipelines.cli", "masks", "scenes", "--root", str(root), "--out", str(out)]
    command += ["--workers", "2", "--report-pictures", "0"]
    # A shell starts background jobs with SIGINT ignored, and children inherit that.
    run = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until(lambda: list(out.glob("masks/*.png")), run)
    below = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(stop)
    _, said = run.communicate()
    gone, alive = psutil.wait_procs(below, timeout=30)
    assert len(gone) >= 2
    assert not alive
    assert run.returncode == 130, said
    assert "the same call continues" in said
    assert "Traceback" not in said
    done = len(list(out.glob("masks/*.png")))
    assert 0 < done < 60
    assert masks(root, out, "--workers", "0") == 0
    assert len(list(out.glob("masks/*.png"))) == 60
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
