"""What several tests need: the recorded cases, a VOC tree made of them, made-up data sets and runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from recorded import GOLDEN

THREE = ("astronaut_150x131", "coffee_333x500", "rocket_17x400")


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
    """Three recorded pictures as a VOC tree with the split `train`."""
    return _voc_tree(tmp_path / "voc", [GOLDEN / case for case in THREE])


@pytest.fixture
def voc_tree() -> Callable[[Path, list[Path]], Path]:
    """Makes a VOC tree of folders with image.jpg, annotation.xml and gt.png."""
    return _voc_tree


@pytest.fixture
def made_up_coco() -> Callable:
    """tests/support/made_up_coco.py's make_coco(root, count=30, year=2014, part="train", seed=0) -> MadeUpCoco."""
    from made_up_coco import make_coco

    return make_coco


@pytest.fixture
def made_up_run() -> Callable:
    """tests/support/made_up_run.py's make_run(root, count=8, *, side=48, seed=0, ...) -> MadeUpRun."""
    from made_up_run import make_run

    return make_run


@pytest.fixture(scope="session")
def write_segmenter() -> Callable[..., Path]:
    """tests/support/tiny_segmenter.py's write_segmenter(folder, classes=5, *, names=(), ...) -> checkpoint."""
    from tiny_segmenter import write_segmenter

    return write_segmenter


@pytest.fixture(scope="session")
def tiny_training():
    """tests/support/tiny_training.py: a run's folder and a config small enough to train in a test."""
    import tiny_training

    return tiny_training


def _voc_tree(root: Path, cases: list[Path]) -> Path:
    for name in ("JPEGImages", "Annotations", "SegmentationClassAug", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for case in cases:
        shutil.copy(case / "image.jpg", root / "JPEGImages" / f"{case.name}.jpg")
        shutil.copy(case / "annotation.xml", root / "Annotations" / f"{case.name}.xml")
        shutil.copy(case / "gt.png", root / "SegmentationClassAug" / f"{case.name}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("".join(f"{case.name}\n" for case in cases))
    return root


@pytest.fixture(scope="session")
def tiny_cliper() -> Callable:
    """tests/support/tiny_tower.py's tiny(text=False): the tower whose recordings lie in tests/golden/cliper."""
    from tiny_tower import tiny

    return tiny


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of a bucket on a server of this machine that answers as S3 does."""
    from s3 import s3_server

    with s3_server() as address:
        yield address
