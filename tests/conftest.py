"""What several tests need: the recorded cases, a VOC tree made of them, the checkout beside them."""

from __future__ import annotations

import shutil
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


def _voc_tree(root: Path, cases: list[Path]) -> Path:
    for name in ("JPEGImages", "Annotations", "SegmentationClassAug", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for case in cases:
        shutil.copy(case / "image.jpg", root / "JPEGImages" / f"{case.name}.jpg")
        shutil.copy(case / "annotation.xml", root / "Annotations" / f"{case.name}.xml")
        shutil.copy(case / "gt.png", root / "SegmentationClassAug" / f"{case.name}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("".join(f"{case.name}\n" for case in cases))
    return root
