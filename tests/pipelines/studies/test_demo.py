"""The demo and the ladder on the real default: drawn scenes, the shipped CLIP, the real CRF."""

from __future__ import annotations

import json

import pytest

from clip_es.pipelines.studies.demo import copy_photographs, run_demo
from clip_es.pipelines.studies.ladder import Ladder
from clip_es.scenes.dataset import ScenesConfig

# mmengine warns of its own old ways.
pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = [
    "GradCAM on logits",
    "+ softmax over the labels",
    "+ background words",
    "+ templates of low sharpness",
    "+ synonyms",
    "+ affinity",
    "+ CRF",
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "run"
    return out, run_demo(out, ScenesConfig(train=12, val=24), iterations=3)


def test_the_demo_leaves_a_run_a_ladder_and_a_report(demo):
    out, result = demo
    summary = json.loads((out / "summary.json").read_text())
    assert summary["images"] == {"done": 24, "failed": 0, "skipped": 0}
    assert summary["miou"] == pytest.approx(result.miou)
    assert list(summary["ladder"]) == ROWS
    page = (out / "report.html").read_text()
    assert "The ladder" in page
    assert "Real photographs" in page
    assert "A segmenter trained on masks" in page
    assert summary["segmenter_miou"] == pytest.approx(result.segmenter.miou)
    assert 0 < summary["segmenter_miou"] < 100
    assert (out.with_name("run-segmenter") / "final.pth").is_file()
    assert len(list((out.with_name("run-photographs") / "run" / "masks").iterdir())) == 4


def test_the_method_finds_things_the_model_was_never_shown_the_place_of(demo):
    """Twenty-four scenes scatter by some points; the card has the figures over more."""
    ladder = {row.name: row.miou for row in demo[1].ladder}
    assert ladder["+ CRF"] > 45
    assert ladder["+ CRF"] > ladder["GradCAM on logits"] + 8
    assert ladder["+ affinity"] > ladder["GradCAM on logits"]


def test_every_row_of_the_ladder_has_a_standard_error(demo):
    first, *later = demo[1].ladder
    assert all(0.3 < rung.error < 15 for rung in demo[1].ladder)
    # On the same pictures a gain is surer than either of the two figures.
    assert all(0 <= rung.gain_error < rung.error + first.error for rung in later)
    rows = Ladder(demo[1].ladder, []).rows()
    assert rows[0][2] == ""
    assert rows[-1][1] == f"{later[-1].miou:.1f} +- {later[-1].error:.1f}"
    assert rows[-1][2].startswith(f"{later[-1].miou - later[-2].miou:+.1f} +- ")


def test_photographs_come_with_their_labels(tmp_path):
    folder = copy_photographs(tmp_path)
    assert (folder / "labels.csv").read_text().startswith("image,labels\n")
    assert (folder / "chelsea.png").stat().st_size > 100_000
