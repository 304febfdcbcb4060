"""Every write, rename, fsync and new folder fails once, in each way a disk can: nothing is lost or left behind."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import KINDS, Disk, PowerCut
from PIL import Image

from clip_es import MaskMaker
from clip_es.config.run import DEFAULT, ImageConfig
from clip_es.errors import ClipEsError
from clip_es.formats import Source
from clip_es.pipelines.exchange.export import export
from clip_es.pipelines.exchange.history import folder_of, kept
from clip_es.pipelines.exchange.import_masks import import_masks
from clip_es.pipelines.exchange.run_folder import Run
from clip_es.pipelines.masks.report import write_run_report
from clip_es.pipelines.masks.run import make_masks
from clip_es.pipelines.segments import SegmentFolder, SegmentsConfig, segment, settings_of
from clip_es.pipelines.sweep.features import FeatureCache
from clip_es.records import voc
from clip_es.refine.spectral import SpectralConfig
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.store.run import RunStore
from clip_es.store.tables import write_json
from clip_es.training import Plan, train

LOGS = ("exports.csv", "imported.csv")
LEFT_BEHIND = (".tmp-", ".lock-", ".part")


@pytest.fixture(scope="module")
def maker() -> MaskMaker:
    return MaskMaker.load(config=replace(DEFAULT, refine=()), device="cpu")


@pytest.fixture(scope="module")
def dataset(maker, tmp_path_factory):
    root = make(tmp_path_factory.mktemp("scenes"), ScenesConfig(train=1, val=1, side=(32, 48)))
    return voc(root, "val", class_id=maker.vocabulary.class_id)


def tree(folder: Path, but: tuple[str, ...] = ()) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in but
    }


def refused(work: Callable[[Path], object], root: Path) -> ClipEsError | None:
    """What the work says when it cannot be done; anything but an error of ours is a fault of its own."""
    try:
        work(root)
    except ClipEsError as error:
        return error
    return None


def every_fault(
    root: Path, begin: Callable[[Path], object], work: Callable[[Path], object], look: Callable[[Path], object]
) -> Counter[str]:
    """Break `work` at every change and in every way, and call it again. Returns how often each kind struck."""

    def fresh() -> Path:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        begin(root)
        return root

    work(fresh())
    wanted = look(root)
    struck: Counter[str] = Counter()
    for kind in KINDS:
        at = 0
        while True:
            at += 1
            disk, said = Disk(fresh(), kind, at), None
            with disk(), suppress(PowerCut):
                said = refused(work, root)
            if not disk.struck:
                break
            where = f"{kind} at change {at}, {disk.struck}; it said: {said}"
            struck[kind] += 1
            assert said is None or (said.where and said.next_step), where
            if kind == "power cut":
                disk.lose()
            else:
                left = [path.name for path in root.rglob("*") if path.name.startswith(LEFT_BEHIND[:2])]
                assert not left, f"{where}; left behind {left}"
            work(root)
            assert look(root) == wanted, where
            left = [path.name for path in root.rglob("*") if any(word in path.name for word in LEFT_BEHIND)]
            assert not left, f"{where}; left behind {left}"
    assert all(struck[kind] for kind in KINDS)
    sys.stdout.write(f"{sum(struck.values())} faults, {sum(struck.values())} ended well: {dict(struck)}\n")
    return struck


def test_a_run_survives_every_fault(maker, dataset, tmp_path):
    def work(root: Path) -> None:
        with RunStore.open(root / "run", {"a": 1}, keep="maps") as store:
            make_masks(store.unfinished(dataset.records), maker, store, workers=0)
            store.finish({}, {"miou": 50.0})
        write_run_report(root / "run", dataset, maker, None, 0)

    def look(root: Path) -> object:
        summary = json.loads((root / "run" / "summary.json").read_text())
        return tree(root / "run", ("summary.json", "report.html")), summary["images"]["done"], summary["miou"]

    every_fault(tmp_path / "disk", lambda root: None, work, look)


@pytest.mark.parametrize("name", ["voc", "coco-rle", "cvat", "mmseg"])
def test_an_export_survives_every_fault(made_up_run, tmp_path, name):
    made = made_up_run(tmp_path / "made", 1, side=16)

    def work(root: Path) -> None:
        try:
            export(Run.open(made.run), name, root / "out", images=made.images, pictures="none")
        except ClipEsError as error:
            if "finished export" not in str(error):  # A power cut after its very last change.
                raise

    every_fault(tmp_path / "disk", lambda root: None, work, lambda root: tree(root / "out"))


def test_an_import_survives_every_fault(made_up_run, tmp_path):
    made = made_up_run(tmp_path / "made", 1, side=16)
    export(Run.open(made.run), "voc", tmp_path / "edited", images=made.images, pictures="none")
    for path in (tmp_path / "edited/SegmentationClass").glob("*.png"):
        with Image.open(path) as image:
            pixels, colours = np.array(image), image.getpalette()
        pixels[2:5, 2:5] = 1
        again = Image.fromarray(pixels)
        again.putpalette(colours)
        again.save(path)

    def work(root: Path) -> None:
        with Source(tmp_path / "edited") as source:
            import_masks(Run.open(root / "run"), source, "voc")

    def look(root: Path) -> object:
        run = root / "run"
        # In its logs a continued import may note the same once more; each call keeps copies of what it changed.
        now = {name: digest for name, digest in tree(run, LOGS).items() if not name.startswith("imports/")}
        before = {image_id: tree(folder_of(run, number)) for image_id, number in kept(run, 1).items()}
        return now, before

    every_fault(tmp_path / "disk", lambda root: shutil.copytree(made.run, root / "run"), work, look)


def test_segments_survive_every_fault(maker, dataset, tmp_path):
    config = SegmentsConfig(SpectralConfig(eigenvectors=2, segments=3), nodes=1)

    def work(root: Path) -> None:
        folder = SegmentFolder(root / "out", settings_of(config, maker.encoder))
        assert segment(dataset.records, maker.encoder, folder, config) == []

    every_fault(tmp_path / "disk", lambda root: None, work, lambda root: tree(root / "out"))


def test_the_cache_of_features_survives_every_fault(maker, dataset, tmp_path):
    def work(root: Path) -> None:
        features = FeatureCache(maker.encoder, ImageConfig(), root / "cache")
        for record in dataset.records:
            features(record)

    every_fault(tmp_path / "disk", lambda root: None, work, lambda root: tree(root / "cache"))


class Counting:
    """The least that can be trained: one weight that moves by a drawn number each step."""

    def __init__(self) -> None:
        self.weight = torch.zeros(1)

    def advance(self, step: int, batch: object) -> dict[str, float]:
        self.weight += torch.rand(1)
        return {"loss": float(self.weight)}

    def after(self, step: int, figures: dict[str, float]) -> None: ...

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight.clone()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.weight = state["weight"].clone()

    def save(self, out: Path, step: int) -> None:
        write_json(out / "history.json", {"step": step, "weight": float(self.weight)}, durable=True)


def test_a_training_survives_every_fault(tmp_path):
    plan = Plan(steps=4, save_every=2, seed=3, config={"lr": 0.1})

    def look(root: Path) -> object:
        task = Counting()
        train(task, root / "out", plan)  # nothing is left to do: the weights are those of the checkpoint
        return task.weight.item(), (root / "out" / "history.json").read_text()

    every_fault(tmp_path / "disk", lambda root: None, lambda root: train(Counting(), root / "out", plan), look)
