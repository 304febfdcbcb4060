"""The worked examples of CONTRIBUTING.md work: each, pasted as it stands, makes a refiner, a method, a format."""

from __future__ import annotations

import csv
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from clip_es.formats import FORMATS
from clip_es.localize.methods import METHODS
from clip_es.masks import read_mask
from clip_es.pipelines.cli import main
from clip_es.refine.registry import REFINERS
from clip_es.scenes.dataset import ScenesConfig, make

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
TABLES = (REFINERS, METHODS, FORMATS)


@pytest.fixture(scope="module", autouse=True)
def rows():
    """The three examples, each a module of its own, registered for the tests of this file."""
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert len(blocks) == len(TABLES)
    made = []
    for table, block in zip(TABLES, blocks, strict=True):
        module = types.ModuleType(f"contributed_{table.kind}")
        sys.modules[module.__name__] = module  # dataclasses and worker processes look their module up
        exec(compile(block, "CONTRIBUTING.md", "exec"), module.__dict__)
        table.register(module.ROW)
        made.append((table, module))
    yield
    for table, module in made:
        table.remove(module.ROW.name)
        del sys.modules[module.__name__]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("scenes"), ScenesConfig(train=1, val=3, side=(96, 128)))


def masks(scenes: Path, out: Path, *flags: str) -> Path:
    quiet = ("--report-pictures", "0", "--workers", "0")
    assert main(["masks", "scenes", "--root", str(scenes), "--split", "val", "--out", str(out), *quiet, *flags]) == 0
    return out


def test_the_refiner_of_the_example_smooths_maps(scenes, tmp_path):
    both = ("--refine", "affinity", "smooth", "--keep-cams", "maps")
    plain = masks(scenes, tmp_path / "plain", "--refine", "affinity")
    smooth = masks(scenes, tmp_path / "smooth", *both)
    same = masks(scenes, tmp_path / "same", *both, "--refine.smooth.side", "1")
    for path in (same / "cams").glob("*.npz"):
        before, after = (np.load(folder / "cams" / path.name)["refined"] for folder in (same, smooth))
        # Means over windows vary less from patch to patch, and stay within what they average.
        assert np.abs(np.diff(after)).sum() < np.abs(np.diff(before)).sum()
        assert after.max() <= before.max()
    for path in (plain / "masks").glob("*.png"):
        np.testing.assert_array_equal(read_mask(path), read_mask(same / "masks" / path.name))


def test_the_method_of_the_example_makes_masks_of_the_given_labels(scenes, tmp_path):
    out = masks(scenes, tmp_path / "run", "--method", "similarity", "--refine", "affinity")
    for path in (out / "labels").glob("*.png"):
        truth = set(np.unique(read_mask(scenes / "SegmentationClass" / path.name)))
        found = set(np.unique(read_mask(path)))
        assert found <= truth | {0}
        assert len(found) > 1


def test_the_format_of_the_example_counts_the_pixels(scenes, tmp_path):
    out = masks(scenes, tmp_path / "run", "--refine", "affinity")
    assert main(["export", str(out), "--format", "areas", "--out", str(tmp_path / "areas"), "--pictures", "none"]) == 0
    counted = 0
    with (tmp_path / "areas/areas.csv").open() as file:
        counted = sum(int(row["pixels"]) for row in csv.DictReader(file))
    marked = [read_mask(path) for path in (out / "masks").glob("*.png")]
    assert counted == sum(int(((labels > 0) & (labels < 255)).sum()) for labels in marked) > 0
