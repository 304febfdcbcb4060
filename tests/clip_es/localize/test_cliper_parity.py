"""CLIPer on the command line: the labels that the published evaluation decides on, from the picture file to the PNG.

Recorded with the published pipeline on the tiny CLIP of CLIP-ES's recordings (labels_path.npz): three pictures, eight
settings, with and without the chain of diffusion heads, whose attention is that of the tiny Stable Diffusion.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_es.config.presets import PRESETS, find_preset
from clip_es.masks import read_mask
from clip_es.pipelines.cli import main
from clip_es.prompts import load_vocabulary
from clip_es.prompts.templates import load_templates
from clip_es.refine import diffusion
from clip_es.refine.diffusion import Diffusion

GOLDEN = Path(__file__).parents[2] / "golden"
CASES = ("voc", "context", "city", "square", "slide", "chain", "mean", "single")


@pytest.fixture(scope="module")
def recorded():
    with np.load(GOLDEN / "cliper/labels_path.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def settings(recorded):
    return json.loads(str(recorded["settings"]))


@pytest.fixture(scope="module")
def folder(recorded, settings, tmp_path_factory) -> Path:
    """The pictures, and the vocabulary."""
    root = tmp_path_factory.mktemp("parity")
    (root / "pictures").mkdir()
    for i in range(3):
        (root / f"pictures/{i}.png").write_bytes(recorded[f"picture/{i}"].tobytes())
    classes = [{"name": f"c{k}", "prompt": prompt} for k, prompt in enumerate(settings["names"])]
    (root / "words.yaml").write_text(json.dumps({"classes": classes, "background": settings["background"]}))
    return root


@pytest.fixture
def tiny_diffusion(monkeypatch):
    """The tiny Stable Diffusion of the recording, in place of whatever is asked for."""
    diffusers = pytest.importorskip("diffusers")
    configs = json.loads((GOLDEN / "cliper/sd_configs.json").read_text())
    with np.load(GOLDEN / "cliper/sd_capture.npz") as file:
        prompt = torch.from_numpy(file["prompt_embeds"])
    unet = drawn(diffusers.UNet2DConditionModel(**configs["unet"]), "unet.")
    vae = drawn(diffusers.AutoencoderKL(**configs["vae"]), "vae.")
    model = Diffusion(vae, unet, diffusers.PNDMScheduler(**configs["scheduler"]), prompt)
    monkeypatch.setattr(diffusion, "load_diffusion", lambda *_: model)


def drawn(module, prefix):
    """Weights by the recipe of the recording: each drawn from a seed made of its name."""
    state = {}
    for name, value in module.state_dict().items():
        seed = zlib.crc32(f"20220617:{prefix}{name}".encode())
        v = np.random.RandomState(seed).standard_normal(tuple(value.shape)).astype(np.float32)
        if value.ndim >= 2:
            v *= 1.2 / np.sqrt(np.prod(value.shape[1:]))
        else:
            v = 1 + 0.1 * v if name.rpartition(".")[2] == "weight" else 0.1 * v
        state[name] = torch.from_numpy(np.asarray(v, dtype=np.float32))
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)


def flags(case: dict) -> list[str]:
    """A recorded setting as flags of the command."""
    found = ["--method", "cliper", "--image.no-exif", "--image.resize", "own-mode"]
    names = {"thr": "threshold", "select": "select", "tau": "temperature", "score": "score-threshold"}
    names |= {"bkg": "background-threshold", "slide": "window"}
    for key, name in names.items():
        if key in case:
            found += [f"--cliper.{name}", str(case[key])]
    found += ["--cliper.short-side", str(case.get("size", 112))]
    found += ["--cliper.normalise"] if case["norm"] else []
    if "refine" not in case:
        return [*found, "--refine"]
    mode = {"SFSA": "chain", "mean": "mean", "selection": "single"}[case["refine"]]
    chain = {"model": "tiny", "side": 64, "mode": mode, "threshold": case["thr"]}
    return [*found, "--refine", "diffusion", *(f"--refine.diffusion.{k}={v}" for k, v in chain.items())]


@pytest.mark.parametrize("name", CASES)
def test_the_command_writes_the_published_labels(name, recorded, settings, folder, tiny_diffusion, tmp_path):
    out = tmp_path / "run"
    call = ["masks", "folder", "--images", str(folder / "pictures"), "--labels", "none", "--out", str(out)]
    call += ["--weights", str(GOLDEN / "clip-es/tiny224.pt"), "--vocabulary", str(folder / "words.yaml")]
    call += ["--template", *load_templates("scene15"), "--report-pictures", "0", "--workers", "0", "--device", "cpu"]
    assert main([*call, *flags(settings["cases"][name])]) == 0
    for i in range(3):
        ours, theirs = read_mask(out / f"masks/{i}.png"), recorded[f"labels/{name}/{i}"]
        assert ours.shape == theirs.shape
        # Of 9,000 to 13,000 pixels. The chain of the tiny network leaves maps that span 1e-4 to 1e-3, and the setting
        # stretches them to 0..1, rounding included.
        assert int((ours != theirs).sum()) <= (40 if name == "chain" else 3)
        assert len(np.unique(theirs)) > 1


def test_a_preset_reads_thresholds_words_and_pictures_as_published():
    preset = find_preset("cliper-context59-l14")
    assert (preset.vocabulary, preset.template, preset.weights) == ("cliper/context", "scene15", "ViT-L/14")
    image = preset.config.image
    assert (image.exif, image.resize, image.max_patches) == (False, "own-mode", None)
    assert preset.config.refiners.diffusion.threshold == preset.config.methods.cliper.threshold == 0.2
    assert preset.config.refiners.dino.positions == "factor"
    assert preset.config.for_data(has_background=False).mask.background
    assert not PRESETS["default"].config.for_data(has_background=False).mask.background
    assert not PRESETS["cliper-scenes"].config.for_data(has_background=False).mask.background


@pytest.mark.parametrize(
    ("name", "base", "count", "other"),
    [
        ("context", "context", 59, 6),
        ("coco", "coco14", 80, 12),
        ("ade20k", "ade20k", 150, 17),
        ("cityscapes", "cityscapes", 19, 0),
    ],
)
def test_the_published_words_stand_beside_the_names_of_the_data_set(name, base, count, other):
    theirs, ours = load_vocabulary(f"cliper/{name}"), load_vocabulary(base)
    assert theirs.names == ours.names
    assert len(theirs.names) == count
    pairs = zip(theirs.classes, ours.classes, strict=True)
    assert sum(one.prompt != two.prompt for one, two in pairs) == other
    assert theirs.background == (load_vocabulary("coco14").background if name == "coco" else ("background",))


def test_coco_stuff_has_its_171_classes():
    stuff = load_vocabulary("cliper/coco-stuff")
    assert len(stuff.classes) == 171
    assert (stuff.names[0], stuff.names[9], stuff.names[80], stuff.names[-1]) == (
        "person",
        "trafficlight",
        "banner",
        "wood",
    )
    assert stuff.background == ("background",)
