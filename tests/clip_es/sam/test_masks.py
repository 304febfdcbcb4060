"""SAM, SAM 2 and SAM 3 with seeded random weights: what transformers computes, and nothing else, decides the masks.

No accuracy is claimed here: weights that were trained cannot be shipped. What is tested is everything around them.
"""

import json
import pickle
import shutil
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from tiny_sams import KINDS, save_phrased, save_prompted
from torchvision_names import processor

from clip_es.config.run import DEFAULT
from clip_es.errors import ConfigError, WeightsError
from clip_es.pipelines.cli import main
from clip_es.refine.base import Surroundings
from clip_es.refine.regions.refiner import ahead
from clip_es.refine.regions.settings import RegionsConfig
from clip_es.sam import networks
from clip_es.sam.masks import (
    Prompt,
    boxes_around,
    cut_off,
    full_size,
    grid_masks,
    pieces,
    point_grid,
    prompted_masks,
    prompts_of,
    scaled,
    stability,
    surest,
)
from clip_es.sam.networks import load
from clip_es.sam.settings import SamConfig
from clip_es.sam.source import SamRegions
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.types import ClassMaps, Picture

pytest.importorskip("transformers")

ALL = SamConfig(points_per_side=3, predicted_iou=0.0, stability=0.0, box_nms=1.0)
RGB = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    return save_prompted(request.param, tmp_path_factory.mktemp("sam") / request.param)


@pytest.fixture(scope="module")
def network(folder):
    return load(str(folder), "prompted")


def library(network):
    """The image processor of transformers for a network; the first SAM's works without torchvision."""
    if network.family.reader == "SamModel":
        made = processor("sam.image_processing_pil_sam", "SamImageProcessorPil")
        side = network.side
        return made(size={"longest_edge": side}, pad_size={"height": side, "width": side})
    name = "sam2.image_processing_sam2", "Sam2ImageProcessor"
    return processor(
        *(name if network.family.reader == "Sam2Model" else ("sam3.image_processing_sam3", "Sam3ImageProcessor"))
    )


def at_full_size(network, logits, size_hw, shown):
    """What `post_process_masks` of transformers makes of logits [prompt answer lh lw]."""
    made = library(network)
    if network.family.padded:
        return made.post_process_masks([logits], [size_hw], [shown.content_hw], binarize=False)[0]
    return made.post_process_masks(None, [logits], [size_hw], binarize=False)[0]


def test_masks_are_the_librarys_own_pixel_for_pixel(network):
    """The same points through the model as a whole, its own post-processing, and its own filter."""
    shown = network.show(RGB)
    points = scaled(point_grid(3) * torch.tensor([56, 40]), (40, 56), shown.content_hw)[None, :, None]
    with torch.no_grad():
        answer = network.model(pixel_values=shown.pixels, input_points=points)
    logits = at_full_size(network, answer.pred_masks[0], (40, 56), shown)
    regions = grid_masks(network, RGB, ALL)
    expected, quality = logits.flatten(0, 1) > 0, answer.iou_scores[0].flatten()
    filled = expected.flatten(1).any(1)
    order = quality[filled].argsort(descending=True, stable=True)
    assert len(regions) == int(filled.sum())
    torch.testing.assert_close(torch.from_numpy(regions.quality), quality[filled][order])
    for number, place in enumerate(filled.nonzero()[:, 0][order].tolist()):
        assert (regions.mask(number) != expected[place].numpy()).mean() < 1e-3  # to rounding
        assert regions.levels is not None
        assert regions.levels[number] == place % 3


def test_the_filters_are_the_librarys(network):
    shown = network.show(RGB)
    made = processor("sam.image_processing_pil_sam", "SamImageProcessorPil")()
    points = scaled(point_grid(3) * torch.tensor([56, 40]), (40, 56), shown.content_hw)[None, :, None]
    with torch.no_grad():
        answer = network.model(pixel_values=shown.pixels, input_points=points)
    logits = at_full_size(network, answer.pred_masks[0], (40, 56), shown)
    least, steady = float(answer.iou_scores.median()), 0.3
    kept, scores, boxes = made.filter_masks(logits, answer.iou_scores[0], (40, 56), [0, 0, 56, 40], least, steady)
    config = SamConfig(points_per_side=3, predicted_iou=max(0.0, min(1.0, least)), stability=steady, box_nms=1.0)
    if not 0 < least < 1:
        pytest.skip("these random weights predict nothing between 0 and 1")
    regions = grid_masks(network, RGB, config)
    order = scores.argsort(descending=True, stable=True)
    torch.testing.assert_close(torch.from_numpy(regions.quality), scores[order])
    assert regions.areas.tolist() == [sum(kept[k]["counts"][1::2]) for k in order.tolist()]
    assert len(boxes) == len(regions)


def test_the_first_sam_sees_the_pixels_that_the_library_shows_it(tmp_path):
    network = load(str(save_prompted("sam", tmp_path / "sam")), "prompted")
    expected = library(network)(RGB, return_tensors="pt")
    ours = network.show(RGB)
    assert expected["reshaped_input_sizes"].tolist() == [list(ours.content_hw)]
    torch.testing.assert_close(ours.pixels, expected["pixel_values"].float(), atol=1e-5, rtol=1e-5)


def test_logits_come_to_full_size_as_the_library_has_it(network):
    shown = network.show(RGB)
    logits = torch.randn(4, 16, 16, generator=torch.manual_seed(0))
    expected = at_full_size(network, logits[None], (40, 56), shown)[0]
    torch.testing.assert_close(full_size(logits, network, shown, (40, 56)), expected)


def test_many_points_at_once_give_what_one_at_a_time_gives(network):
    together = grid_masks(network, RGB, ALL)
    alone = grid_masks(network, RGB, SamConfig(**{**vars(ALL), "points_at_once": 1}))
    assert len(together) == len(alone)
    np.testing.assert_allclose(together.quality, alone.quality, atol=1e-5)
    differ = sum(int((together.mask(k) != alone.mask(k)).sum()) for k in range(len(alone)))
    assert differ / (len(alone) * RGB.shape[0] * RGB.shape[1]) < 1e-3


def test_a_picture_is_encoded_once_however_many_points_there_are(network):
    calls = []
    hook = network.model.vision_encoder.register_forward_hook(lambda *_: calls.append(1))
    grid_masks(network, RGB, SamConfig(**{**vars(ALL), "points_per_side": 5, "points_at_once": 4}))
    prompted_masks(
        network, RGB, [Prompt((3, 4, 30, 30), (10, 10))] * 9, SamConfig(**{**vars(ALL), "points_at_once": 2})
    )
    hook.remove()
    assert len(calls) == 2


def test_boxes_and_points_answer_with_one_mask_each(network):
    prompts = [Prompt((3, 4, 30, 30), (10, 10)), Prompt((20, 4, 50, 30), (40, 20))]
    shown = network.show(RGB)
    boxes = scaled(torch.tensor([p.box for p in prompts]).double().view(-1, 2, 2), (40, 56), shown.content_hw)
    points = scaled(torch.tensor([p.point for p in prompts]).double() + 0.5, (40, 56), shown.content_hw)
    with torch.no_grad():
        answer = network.model(
            pixel_values=shown.pixels,
            input_boxes=boxes.view(1, 2, 4),
            input_points=points[None, :, None],
            multimask_output=False,
        )
    masks = (at_full_size(network, answer.pred_masks[0], (40, 56), shown)[:, 0] > 0).numpy()
    regions = prompted_masks(network, RGB, prompts, ALL)
    assert sorted(regions.areas.tolist()) == sorted(masks.sum((1, 2)).tolist())


def test_pieces_of_the_picture_are_looked_at_too(network):
    config = SamConfig(**{**vars(ALL), "crop_layers": 1, "crop_downscale": 2, "points_per_side": 2})
    regions = grid_masks(network, RGB, config)
    assert len(regions) >= len(grid_masks(network, RGB, SamConfig(**{**vars(ALL), "points_per_side": 2}))) > 0
    assert regions.size_hw == (40, 56)


# ---------------------------------------------------------------- by hand


def test_the_pieces_and_points_are_the_librarys():
    import transformers.models.sam.image_processing_pil_sam as theirs

    for size_hw, layers in (((40, 56), 2), ((333, 500), 1), ((7, 5), 0)):
        boxes, layer_of = theirs._generate_per_layer_crops(layers, 512 / 1500, size_hw)
        assert [(list(box), layer) for box, layer in pieces(size_hw, layers)] == list(zip(boxes, layer_of, strict=True))
    np.testing.assert_allclose(point_grid(5).numpy(), theirs._build_point_grid(5))


def test_stability_and_boxes_are_the_librarys():
    import transformers.models.sam.image_processing_pil_sam as theirs

    logits = torch.randn(6, 9, 11, generator=torch.manual_seed(0)) * 2
    torch.testing.assert_close(stability(logits, 1.0), theirs._compute_stability_score(logits, 0.0, 1))
    masks = torch.cat([logits > 1.5, torch.zeros(1, 9, 11, dtype=torch.bool)])
    assert boxes_around(masks).tolist() == theirs._batched_mask_to_box(masks).tolist()
    boxes = torch.tensor([[0, 0, 30, 30], [25, 5, 60, 40], [1, 1, 99, 50]])
    piece, whole = (0, 0, 70, 60), (100, 120)
    expected = theirs._is_box_near_crop_edge(boxes, piece, [0, 0, whole[1], whole[0]])
    assert cut_off(boxes, piece, whole).tolist() == expected.tolist()


def test_of_two_boxes_that_overlap_too_much_the_surer_one_stays():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 0, 30, 10], [0, 0, 10, 10]])
    scores = torch.tensor([0.8, 0.9, 0.1, 0.7])
    assert surest(boxes, scores, 0.7).tolist() == [1, 2]  # 8/10 of the first; the last equals the first
    assert surest(boxes, scores, 0.85).tolist() == [1, 0, 2]
    assert surest(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []


def test_prompts_are_boxes_around_what_is_high_with_the_highest_point_in_each():
    scores = torch.zeros(2, 20, 30)
    scores[0, 2:8, 3:12] = 0.6
    scores[0, 5, 7] = 0.9
    scores[0, 12:14, 20:22] = 0.8  # too small beside the larger one
    scores[1, 10:12, 1:3] = 0.2  # small, but all there is of this label
    found = prompts_of(ClassMaps(scores, (4, 1)), SamConfig(least_component=20))
    assert found == [Prompt((3, 2, 12, 8), (7, 5)), Prompt((1, 10, 3, 12), (1, 10))]
    assert prompts_of(ClassMaps(torch.zeros(1, 4, 4), (0,)), SamConfig()) == []


# ---------------------------------------------------------------- weights


def test_weights_of_the_wrong_family_are_refused(folder, tmp_path):
    with pytest.raises(WeightsError, match="does not answer phrases"):
        load(str(folder), "phrased")
    clip = tmp_path / "clip"
    clip.mkdir()
    (clip / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(WeightsError, match=r"does not answer points.*model_type clip"):
        load(str(clip), "prompted")


def test_sam3_for_phrases_does_not_answer_points(tmp_path):
    with pytest.raises(WeightsError, match=r"does not answer points.*model_type sam3"):
        load(str(save_phrased(tmp_path / "sam3")), "prompted")


def test_a_file_that_lacks_weights_is_refused_and_not_filled_with_noise(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "torn")
    values = load_file(tmp_path / "torn/model.safetensors")
    values.pop(next(name for name in values if "mask_decoder" in name))
    save_file(values, tmp_path / "torn/model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match="does not hold all weights"):
        load(str(tmp_path / "torn"), "prompted")


def test_a_damaged_file_an_empty_folder_and_a_wrong_name_are_said(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "torn")
    (tmp_path / "torn/model.safetensors").write_bytes(b"no weights")
    for place in (tmp_path / "torn", tmp_path):
        with pytest.raises((WeightsError, ConfigError), match="cannot be loaded"):
            load(str(place), "prompted")
    with pytest.raises(WeightsError, match=r"no such model.*sam-vit-huge"):
        load("samm", "prompted")


def test_a_transformers_that_is_missing_or_too_old_is_said(monkeypatch, folder):
    old = types.SimpleNamespace(__version__="4.30.0", AutoConfig=networks.transformers().AutoConfig)
    monkeypatch.setattr(networks, "transformers", lambda: old)
    with pytest.raises(ConfigError, match=r"has no S.*Expected transformers 5.*Found 4.30.0.*clip-es\[sam\]"):
        load(str(folder), "prompted")
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ConfigError, match="extra `sam`"):
        load(str(folder), "prompted")


# ---------------------------------------------------------------- kept, found again, and in a run


def picture(rgb=RGB):
    return Picture("one", rgb, np.zeros((16, 16, 3), np.uint8), 16)


def no_maps():
    raise AssertionError("a grid of points needs no maps")


def test_regions_are_found_again_and_made_anew_when_anything_has_changed(folder, tmp_path):
    source = SamRegions(SamConfig(**{**vars(ALL), "model": str(folder)}), tmp_path)
    first = source(picture(), no_maps)
    written = (tmp_path / "one.json").read_bytes()
    source.made = None  # whoever makes them once more fails
    again = source(picture(), no_maps)
    assert all(np.array_equal(a, b) for a, b in zip(first.runs, again.runs, strict=True))
    np.testing.assert_array_equal(first.quality, again.quality)
    np.testing.assert_array_equal(first.levels, again.levels)
    with pytest.raises(TypeError):
        source(picture(RGB[::-1].copy()), no_maps)
    other = SamRegions(SamConfig(**{**vars(ALL), "model": str(folder), "points_per_side": 2}), tmp_path)
    other(picture(), no_maps)
    assert (tmp_path / "one.json").read_bytes() != written
    (tmp_path / "one.json").write_bytes(written[:100])  # torn by a crash of the machine
    fresh = SamRegions(SamConfig(**{**vars(ALL), "model": str(folder)}), tmp_path)
    fresh(picture(), no_maps)
    assert (tmp_path / "one.json").read_bytes() == written


def test_a_source_travels_to_another_process_and_loads_its_network_there(folder):
    source = SamRegions(SamConfig(**{**vars(ALL), "model": str(folder)}))
    copy = pickle.loads(pickle.dumps(source))
    assert copy(picture(), no_maps).areas.tolist() == source(picture(), no_maps).areas.tolist()


def test_prompts_come_from_the_maps(folder):
    sam = SamConfig(**{**vars(ALL), "model": str(folder), "prompts": "maps", "least_component": 4})
    look = ahead(RegionsConfig(source="sam", sam=sam), Surroundings())
    scores = torch.zeros(1, 40, 56)
    scores[0, 5:20, 5:20] = 0.9
    seen = look(picture(), lambda: ClassMaps(scores, (2,)))
    assert seen.regions is not None
    assert len(seen.regions) <= 1
    assert len(look(picture(), lambda: ClassMaps(scores * 0, (2,))).regions) == 0


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make(tmp_path_factory.mktemp("scenes") / "scenes", ScenesConfig(train=0, val=3, side=(64, 64)))


def command_of(scenes, model, out):
    flags = ["--refine.regions.source", "sam", "--refine.regions.sam.model", str(model)]
    flags += ["--refine.regions.sam.points-per-side", "3", "--refine.regions.sam.predicted-iou", "0"]
    flags += ["--refine.regions.sam.stability", "0", "--workers", "0", "--report-pictures", "0"]
    return ["masks", "scenes", "--root", str(scenes), "--out", str(out), "--refine", "regions", *flags]


def run(scenes, model, out):
    return main(command_of(scenes, model, out))


def test_a_run_that_was_stopped_continues_to_the_same_bytes(scenes, tmp_path):
    model = save_prompted("sam", tmp_path / "sam")
    assert run(scenes, model, tmp_path / "whole") == 0
    assert run(scenes, model, tmp_path / "torn") == 0
    for part in ("masks", "labels", "confidence"):  # as if killed before the second picture was stored
        (tmp_path / f"torn/{part}/val_000001.png").unlink()
    (tmp_path / "torn/regions/val_000001.json").unlink()
    kept = (tmp_path / "torn/regions/val_000002.json").stat().st_mtime_ns
    assert run(scenes, model, tmp_path / "torn") == 0
    for part in ("masks", "regions"):
        for path in sorted((tmp_path / "whole" / part).iterdir()):
            assert path.read_bytes() == (tmp_path / "torn" / part / path.name).read_bytes()
    assert (tmp_path / "torn/regions/val_000002.json").stat().st_mtime_ns == kept
    told = (tmp_path / "whole/run.yaml").read_text()
    assert "masks without classes (SA-1B)" in told
    assert "weakly_supervised: 'no'" in told
    assert DEFAULT.refiners.regions.sam.model == "sam-vit-huge"


FATAL = """
import os, pathlib, signal, sys
from clip_es.pipelines.cli import main
moment, replace = sys.argv.pop(1), pathlib.Path.replace
def fatal(self, target):
    if str(target).endswith(moment):
        os.kill(os.getpid(), signal.SIGKILL)  # the file is written under its temporary name, and not yet in place
    return replace(self, target)
pathlib.Path.replace = fatal
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(scenes, tmp_path):
    model = save_prompted("sam", tmp_path / "sam")
    assert run(scenes, model, tmp_path / "whole") == 0
    for moment in ("regions/val_000001.json", "masks/val_000001.png", "masks/val_000002.png"):
        command = [sys.executable, "-c", FATAL, moment, *command_of(scenes, model, tmp_path / "killed")]
        assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert not (tmp_path / "killed/masks/val_000002.png").exists()
    assert run(scenes, model, tmp_path / "killed") == 0
    trees = [
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("whole", "killed")
    ]
    assert trees[0].keys() == trees[1].keys()
    times = {"run.yaml", "summary.json", "report.html"}
    assert not [path for path in trees[0] if path.name not in times and trees[0][path] != trees[1][path]]
