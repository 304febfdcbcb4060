"""What several tests need: the recorded cases, a VOC tree made of them, the checkout beside them."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

GOLDEN = Path(__file__).parent / "golden" / "clip-es"


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Two threads that share a busy core with others are many times slower than one."""
    torch.set_num_threads(1)


@pytest.fixture
def golden() -> Path:
    """Arrays recorded from the published code; golden/README.md says how."""
    return GOLDEN


@pytest.fixture
def golden_voc(tmp_path: Path) -> Path:
    """The recorded pictures as a VOC tree with the split `train`."""
    return _voc_tree(tmp_path / "voc", [case for case in sorted(GOLDEN.iterdir()) if case.is_dir()])


@pytest.fixture
def voc_tree() -> Callable[[Path, list[Path]], Path]:
    """Makes a VOC tree of folders with image.jpg, annotation.xml and gt.png."""
    return _voc_tree


@pytest.fixture
def made_up_coco() -> Callable:
    """tests/support/made_up_coco.py's make_coco(root, count=30, year=2014, part="train", seed=0) -> MadeUpCoco."""
    return beside("made_up_coco").make_coco


@pytest.fixture
def made_up_run() -> Callable:
    """tests/support/made_up_run.py's make_run(root, count=8, *, side=48, seed=0, vocabulary=None) -> MadeUpRun."""
    return beside("made_up_run").make_run


@pytest.fixture(scope="session")
def write_segmenter() -> Callable[..., Path]:
    """tests/support/tiny_segmenter.py's write_segmenter(folder, classes=5, *, names=(), ...) -> checkpoint."""
    return beside("tiny_segmenter").write_segmenter


@pytest.fixture(scope="session")
def tiny_training():
    """tests/support/tiny_training.py: a run's folder and a config small enough to train in a test."""
    return beside("tiny_training")


def beside(name: str):
    """A module of tests/support; the tests are no package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "support" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def _voc_tree(root: Path, cases: list[Path]) -> Path:
    for name in ("JPEGImages", "Annotations", "SegmentationClassAug", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for case in cases:
        shutil.copy(case / "image.jpg", root / "JPEGImages" / f"{case.name}.jpg")
        shutil.copy(case / "annotation.xml", root / "Annotations" / f"{case.name}.xml")
        shutil.copy(case / "gt.png", root / "SegmentationClassAug" / f"{case.name}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("".join(f"{case.name}\n" for case in cases))
    return root
