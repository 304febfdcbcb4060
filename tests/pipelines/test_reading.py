"""What a person reads: legends, failures by reason, changes by name, wrong flags, counts of one and of many."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_es.pipelines.cli import main, parse
from clip_es.pipelines.commands.masks import Masks
from clip_es.pipelines.console import by_reason, counted, say_failures
from clip_es.pipelines.numbers import check_numbers, numbers_of
from clip_es.pipelines.report import GalleryRow, Page
from clip_es.records import Problem
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.scenes.world import CLASSES


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("scenes"), ScenesConfig(train=1, val=3, side=(48, 64)))


def masks(scenes: Path, out: Path, *flags: str) -> int:
    wanted = ["--root", str(scenes), "--out", str(out), "--refine", "--report-pictures", "2", "--workers", "0"]
    return main(["masks", "scenes", *wanted, *flags])


def test_a_report_explains_its_colours(scenes, tmp_path):
    assert masks(scenes, tmp_path / "run") == 0
    page = (tmp_path / "run" / "report.html").read_text()
    legend = page.split('<p class="legend">')[1].split("</p>")[0]
    assert "background" in legend
    assert "map: 0 to 1" in legend
    assert any(f">{name}</span>" in legend.replace("</i>", ">") for name in CLASSES)


def test_a_legend_names_what_is_shown_and_nothing_else():
    page = Page("t", "l")
    picture = np.zeros((4, 4, 3), np.uint8)
    page.gallery([GalleryRow([[("a", picture)]], {0, 2, 255}), GalleryRow([[("b", picture)]], {0})], ("bg", "x", "y"))
    assert all(f"</i>{name}</span>" in page.html() for name in ("bg", "y", "undecided (255)"))
    assert "</i>x</span>" not in page.html()
    assert "map: 0 to 1" not in page.html()
    assert "rgb(0 128 0)" in page.html(), "the VOC colour of label 2"


def test_a_report_has_contents_that_lead_to_its_sections():
    page = Page("t", "l")
    for text in ("First", "Second", "Third <b>"):
        page.heading(text)
    html = page.html()
    assert '<a href="#section-3">Third &lt;b&gt;</a>' in html
    assert '<h2 id="section-3">Third &lt;b&gt;</h2>' in html


def test_pictures_of_a_report_carry_what_they_are_ordered_and_filtered_by():
    picture = np.zeros((4, 4, 3), np.uint8)
    sure = GalleryRow([[("a", picture)]], {0, 2}, name="<img src=x onerror=alert(1)>", scores={"mIoU": 91.5})
    unsure = GalleryRow([[("b", picture)]], {0, 1, 255}, name="b", scores={"mean confidence": 50.0, "mIoU": 12.25})
    page = Page("t", "l")
    page.gallery([sure, unsure, GalleryRow([[("c", picture)]])], ("bg", "x", "y"))
    html = page.html()
    assert '<option value="0">lowest mIoU first</option><option value="1">lowest mean confidence first</option>' in html
    assert '<option value="2">those with y</option>' in html
    assert 'data-labels="0 2" data-scores="91.5 "' in html
    assert 'data-labels="0 1 255" data-scores="12.25 50.0"' in html
    assert "<b>&lt;img src=x onerror=alert(1)&gt;</b><span>mIoU 91.50</span>" in html


def test_the_report_of_a_run_tells_how_sure_each_picture_is(scenes, tmp_path):
    assert masks(scenes, tmp_path / "run") == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("<span>mean confidence ") == page.count("<span>expected mIoU ") == 2
    assert page.count("<span>mIoU ") == 2


def test_failures_of_one_reason_are_told_once(capsys):
    gone = [Problem(f"p{n}", "DataError", f"/data/p{n}.jpg: there is no such picture.", "read") for n in range(19_996)]
    torn = Problem("q", "DataError", "/data/q.jpg: the picture is damaged or cut off.", "read")
    groups = by_reason([torn, *gone])
    assert [len(some) for _, some in groups] == [19_996, 1]
    say_failures([torn, *gone], Path("run/failures.csv"))
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 3
    assert "19996 pictures [read]: ... there is no such picture.  (p0, p1, p2, ...)" in told[0]
    assert "1 picture [read]: /data/q.jpg" in told[1]
    assert "run/failures.csv" in told[2]


def test_one_picture_is_not_several():
    assert [counted(n, "picture") for n in (0, 1, 2)] == ["no pictures", "1 picture", "2 pictures"]
    assert counted(2, "class", "classes") == "2 classes"


def test_weights_of_the_drawn_world_say_so_over_other_pictures(scenes, tmp_path, capsys):
    flags = ["--images", str(scenes / "JPEGImages"), "--labels", "none", "--method", "cliper", "--refine"]
    wanted = ["--weights", "scenes", "--vocabulary", "scenes", "--report-pictures", "0", "--workers", "0"]
    assert main(["masks", "folder", *flags, *wanted, "--out", str(tmp_path / "own")]) == 0
    assert "know small drawn scenes only" in capsys.readouterr().out
    assert "know small drawn scenes only" in (tmp_path / "own" / "report.html").read_text()
    assert masks(scenes, tmp_path / "run") == 0
    assert "drawn scenes only" not in capsys.readouterr().out


def test_changed_settings_are_told_by_their_flags(scenes, tmp_path, capsys):
    assert masks(scenes, tmp_path / "run") == 0
    capsys.readouterr()
    assert masks(scenes, tmp_path / "run", "--mask.threshold", "0.5", "--keep-cams", "maps") == 2
    said = capsys.readouterr().err
    assert "--mask.threshold null" in said
    assert "--mask.threshold 0.5" in said
    assert '--keep-cams "maps"' in said
    assert "sha256" not in said


def test_another_vocabulary_is_told_by_its_classes(scenes, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (48, 48)).save(photos / "a.png")
    (tmp_path / "labels.csv").write_text("image,labels\na.png,cat\n")
    flags = ["--images", str(photos), "--labels", str(tmp_path / "labels.csv"), "--weights", "scenes", "--refine"]
    call = ["masks", "folder", *flags, "--report-pictures", "0", "--out", str(tmp_path / "run"), "--vocabulary"]
    assert main([*call, "cat,car"]) == 0
    capsys.readouterr()
    assert main([*call, "cat,car,dog"]) == 2
    said = capsys.readouterr().err
    assert "classes + dog" in said
    assert "sha256" not in said


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--batch-size", "-1"),
        ("--batch-size", "0"),
        ("--report-pictures", "-1"),
        ("--workers", "-2"),
        ("--mask.threshold", "nan"),
        ("--refine.crf.iterations", "-3"),
        ("--image.max-megapixels", "inf"),
        ("--tagging.zoom", "nan"),
    ],
)
def test_a_wrong_number_names_its_flag_before_anything_starts(scenes, tmp_path, capsys, flag, value):
    assert masks(scenes, tmp_path / "run", flag, value) == 2
    said = capsys.readouterr().err
    assert flag in said
    assert value in said
    assert not (tmp_path / "run").exists()


def test_every_number_of_a_command_has_the_flag_that_sets_it(scenes):
    command = parse(Masks, "clip-es", ["--root", str(scenes), "--out", "x"], "scenes")
    flags = {flag for flag, _, _ in numbers_of(command)}
    assert {"--batch-size", "--refine.affinity.layers", "--image.max-patches", "--tagging.peak"} <= flags
    check_numbers(command)


def test_an_unknown_command_offers_the_nearest(capsys):
    assert main(["bogus"]) == 2
    assert "Did you mean" not in capsys.readouterr().err
    assert main(["wosrt"]) == 2
    assert "Did you mean clip-es worst?" in capsys.readouterr().err
    assert main(["mask", "voc12"]) == 2
    assert "Did you mean clip-es masks voc12" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
def test_an_output_that_takes_nothing_ends_without_a_traceback(scenes, tmp_path):
    call = [sys.executable, "-m", "clip_es", "masks", "scenes", "--root", str(scenes), "--out", str(tmp_path / "run")]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run([*call, "--refine"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    assert "No space left" in ran.stderr
    assert "then call again" in ran.stderr


def test_a_home_that_cannot_be_written_stops_nothing(scenes, tmp_path):
    nowhere = "/proc/nowhere" if Path("/proc").is_dir() else str(tmp_path / "file")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "MPLCONFIG", "NUMBA_"))}
    call = [sys.executable, "-m", "clip_es", "masks", "scenes", "--root", str(scenes), "--out", str(tmp_path / "run")]
    ran = subprocess.run(
        [*call, "--workers", "0"], env={**environment, "HOME": nowhere}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
