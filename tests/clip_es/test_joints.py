"""Each joint is one table: what stands in it is a flag, a line of help and an entry of an error's list at once."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from clip_es.config.presets import find_preset
from clip_es.config.run import DEFAULT, CrfConfig, RunConfig
from clip_es.errors import ConfigError
from clip_es.formats import FORMATS
from clip_es.joints import Table
from clip_es.localize.methods import METHODS
from clip_es.masks import read_mask
from clip_es.pipelines.cli import main
from clip_es.refine import REFINERS, Refiner
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.types import ClassMaps

REFINER = '''
from dataclasses import dataclass, replace

from clip_es.refine.registry import Refiner


@dataclass(frozen=True)
class DimConfig:
    """Maps made darker."""

    factor: float = 0.5
    """What is left of them."""


def make(config, around):
    return lambda picture, seen, maps: replace(maps, scores=maps.scores * config.factor, unscaled=None)


ROW = Refiner("theirs", "makes maps darker", "patches", DimConfig, make)
BROKEN = 1
'''

LOCALIZER = '''
from dataclasses import dataclass, replace

from clip_es.config.methods import LocalizeConfig
from clip_es.localize.gradcam.localizer import ClipEs
from clip_es.localize.methods import Method


@dataclass(frozen=True)
class Config:
    """GradCAM on logits."""

    softmax: bool = False
    """With a softmax after all."""


def make(parts):
    return ClipEs(parts.encoder, parts.bank, LocalizeConfig(softmax=parts.settings.softmax), parts.attention_layers)


ROW = Method("their-cam", "GradCAM on logits", Config, make)
'''

FORMAT = """
from clip_es.formats.registry import Format
from clip_es.formats.voc import VocWriter

ROW = Format("their-voc", "VOC under another name", VocWriter)
"""


@dataclass(frozen=True)
class DimConfig:
    """Maps made darker."""

    factor: float = 0.0
    """What is left of them."""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("scenes"), ScenesConfig(train=1, val=2, side=(64, 80)))


@pytest.fixture
def dim():
    def build(config: DimConfig, _):
        return lambda picture, maps: ClassMaps(maps.scores * config.factor, maps.class_ids)

    REFINERS.register(Refiner("dim", "makes maps darker", "pixels", DimConfig, build))
    yield
    REFINERS.remove("dim")


def masks(scenes: Path, out: Path, *flags: str) -> int:
    return main(
        [
            "masks",
            "scenes",
            "--root",
            str(scenes),
            "--out",
            str(out),
            "--report-pictures",
            "0",
            "--workers",
            "0",
            *flags,
        ]
    )


def test_a_refiner_is_one_line_and_then_a_flag_a_help_text_and_an_error(dim, scenes, tmp_path, capsys):
    assert masks(scenes, tmp_path / "dark", "--refine", "affinity", "dim") == 0
    for path in (tmp_path / "dark/masks").glob("*.png"):
        assert not read_mask(path).any()  # maps of zero leave background alone
    assert masks(scenes, tmp_path / "same", "--refine", "affinity", "dim", "--refine.dim.factor", "1") == 0
    assert masks(scenes, tmp_path / "plain", "--refine", "affinity") == 0
    for path in sorted((tmp_path / "plain/masks").glob("*.png")):
        np.testing.assert_array_equal(read_mask(path), read_mask(tmp_path / "same/masks" / path.name))
    assert yaml.safe_load((tmp_path / "same/run.yaml").read_text())["config"]["dim"] == {"factor": 1.0}
    with pytest.raises(SystemExit):
        masks(scenes, tmp_path / "x", "--help")
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--refine.dim.factor FLOAT What is left of them. (default: 0.0)" in told
    assert "dim: makes maps darker" in told
    with pytest.raises(ConfigError, match=r"affinity, spectral, .*, dim[\s\S]*'dime'[\s\S]*dim"):
        RunConfig(refine=("dime",))
    with pytest.raises(ConfigError, match="affinity dim"):
        RunConfig(refine=("dim", "affinity"))


def test_settings_made_before_a_refiner_was_registered_take_its_defaults(dim, scenes, tmp_path):
    assert masks(scenes, tmp_path / "run", "--preset", "default", "--refine", "dim") == 0


def test_a_name_is_taken_once_and_fits_a_flag(dim):
    row = REFINERS["dim"]
    with pytest.raises(ConfigError, match="has this name already"):
        REFINERS.register(row)
    with pytest.raises(ConfigError, match="not a name for a refiner"):
        REFINERS.register(Refiner("Dim it", "about", "pixels", DimConfig, row.make))


@pytest.mark.parametrize("table", [METHODS, REFINERS, FORMATS], ids=lambda table: table.kind)
def test_every_row_has_one_sentence(table: Table):
    for name, row in table.items():
        assert row.name == name
        assert 10 < len(row.about) < 90
        assert not {";", "."} & set(row.about)


def test_settings_travel_to_another_process_and_are_replaced_by_name():
    changed = DEFAULT.using(crf=CrfConfig(iterations=3))
    assert pickle.loads(pickle.dumps(changed)) == changed != DEFAULT
    assert changed.refiners.crf.iterations == 3
    assert changed.refiners.affinity == DEFAULT.refiners.affinity
    with pytest.raises(ConfigError, match=r"localize, cliper, clipseg, .*affinity"):
        DEFAULT.using(crff=CrfConfig())
    assert find_preset("reference").config.refiners.crf.backend == "pydensecrf"


# ---------------------------------------------------------------- what another installed package brings


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder as pip leaves it: a package, and what it says of itself."""
    folder = tmp_path_factory.mktemp("site")
    package = folder / "their_package"
    package.mkdir()
    for name, text in {"__init__": "", "refiner": REFINER, "localizer": LOCALIZER, "format": FORMAT}.items():
        (package / f"{name}.py").write_text(text)
    about = folder / "their_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[clip_es.refiners]\ntheirs = their_package.refiner:ROW\nnone = their_package.refiner:BROKEN\n"
        "[clip_es.localizers]\ntheir-cam = their_package.localizer:ROW\n"
        "[clip_es.formats]\ntheir-voc = their_package.format:ROW\n"
    )
    return folder


def clip_es(site: Path, *args: str) -> subprocess.CompletedProcess[str]:
    known = os.pathsep.join(part for part in (str(site), os.environ.get("PYTHONPATH", "")) if part)
    return subprocess.run(
        [sys.executable, "-m", "clip_es.pipelines.cli", *args],
        env=os.environ | {"PYTHONPATH": known, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_another_package_brings_a_method_a_refiner_and_a_format(site, scenes, tmp_path):
    out = tmp_path / "run"
    call = ["masks", "scenes", "--root", str(scenes), "--report-pictures", "0"]
    theirs = ["--refine", "affinity", "theirs", "--refine.theirs.factor", "0", "--method", "their-cam"]
    done = clip_es(site, *call, "--out", str(out), *theirs, "--their-cam.softmax")
    assert done.returncode == 0, done.stderr
    settings = yaml.safe_load((out / "run.yaml").read_text())["config"]
    assert (settings["theirs"], settings["their_cam"]) == ({"factor": 0.0}, {"softmax": True})
    assert json.loads((out / "summary.json").read_text())["images"]["done"] == 2
    for path in (out / "masks").glob("*.png"):
        assert not read_mask(path).any()
    exported = clip_es(site, "export", str(out), "--format", "their-voc", "--out", str(tmp_path / "voc"))
    assert exported.returncode == 0, exported.stderr
    assert len(list((tmp_path / "voc/SegmentationClass").glob("*.png"))) == 2


@pytest.mark.slow
def test_a_broken_package_stops_only_who_asks_for_it(site, tmp_path):
    ask = "from clip_es.refine import REFINERS; print(sorted(REFINERS)); REFINERS.find('none', '--refine')"
    known = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", ask], env=known, capture_output=True, text=True, timeout=300)
    assert "'theirs'" in done.stdout
    assert "'none'" not in done.stdout
    assert "the refiner 'none' of another package cannot be loaded" in done.stderr
    assert "is not a Refiner named 'none'" in done.stderr
