"""Why a run cannot be continued is said in flags and names, not in digests."""

from __future__ import annotations

from pathlib import Path

from clip_es.store.differences import describe
from clip_es.store.manifest import Manifest


def manifest(classes=("cat",), weights="scenes", refine=("affinity", "crf"), **more) -> Manifest:
    config = {"method": "clip-es", "refine": list(refine), **{name: {"power": 1} for name in refine}, **more}
    sha256 = {"weights": f"digest of {weights}", "text": f"digest of {classes}"}
    settings = {"config": config, "prompts": {"templates": ["a {}."]}, "sha256": sha256}
    return Manifest.of(Path("run"), settings, {"classes": list(classes), "weights": weights})


def test_equal_runs_have_nothing_to_describe():
    assert describe(manifest(), manifest()) == []


def test_classes_that_came_and_went_are_named():
    assert describe(manifest(("cat", "car")), manifest(("cat", "dog"))) == [("classes", "2 classes", "+ dog, - car")]
    assert describe(manifest(("cat", "dog")), manifest(("dog", "cat"))) == [
        ("order of the classes", "cat, dog", "dog, cat")
    ]


def test_weights_are_told_by_name_and_settings_by_flag():
    assert describe(manifest(), manifest(weights="ViT-B/16")) == [("--weights", "scenes", "ViT-B/16")]
    found = describe(manifest(affinity={"layers": 8}), manifest(affinity={"layers": 3}, mask={"threshold": 0.5}))
    assert found == [("--refine.affinity.layers", "8", "3"), ("--mask.threshold", "not set", "0.5")]


def test_the_settings_of_a_refiner_that_only_one_run_has_are_not_listed():
    assert describe(manifest(), manifest(refine=("affinity",))) == [("--refine", '["affinity", "crf"]', '["affinity"]')]
