"""Regions that vote: the published rules, their files, and what a broken file does to a run."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_es import rle
from clip_es.config.run import DEFAULT, RunConfig
from clip_es.errors import ConfigError, DataError, ShapeError
from clip_es.masks import decide, read_mask, write_mask
from clip_es.pipelines.cli import main
from clip_es.refine.pool import averaged, region_means
from clip_es.refine.regions.refiner import chosen, refine, voted
from clip_es.refine.regions.settings import RegionsConfig
from clip_es.refine.regions.vote import greatest_share, hard_labels, means, outermost, painted, soft_scores
from clip_es.regions import Regions
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.store.failures import read_failures
from clip_es.store.regions import MOST_REGIONS, read_regions, regions_of, write_regions
from clip_es.types import ClassMaps, Picture

BEYOND = Path(__file__).parents[2] / "golden/beyond"


@pytest.fixture(scope="module")
def fma():
    with np.load(BEYOND / "fma.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def sepl():
    with np.load(BEYOND / "sepl.npz") as arrays:
        return dict(arrays)


# ---------------------------------------------------------------- the published rules


@pytest.mark.parametrize(("name", "stretch"), [("norm_first", "both"), ("raw", "regions")])
@pytest.mark.parametrize(
    ("priority", "order"),
    [("level_bigger_conf_bigger", "level"), ("conf_bigger", "confidence"), ("area_smaller", "area")],
)
def test_the_soft_vote_is_fmas_pixel_for_pixel(fma, name, stretch, priority, order):
    regions = replace(Regions.from_masks(fma["masks"]), levels=np.arange(14) % 3)
    scores = soft_scores(torch.from_numpy(fma["cam"]), regions, stretch=stretch)
    top = painted(regions, scores.amax(0).numpy(), order)
    names = np.array([0, 3, 7])[scores.argmax(0).numpy()]
    np.testing.assert_array_equal(np.where(top < 0, 0, names[top]), fma[f"{priority}__{name}"])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("max_iou_imp2", {}),
        ("max_iou_imp", {"covered": None}),
        ("max_iou", {"covered": None, "keep": False}),
    ],
)
def test_the_hard_vote_is_sepls_pixel_for_pixel(sepl, name, options):
    regions = Regions.from_masks(sepl["masks"])
    np.testing.assert_array_equal(hard_labels(sepl["labels"], regions, **options), sepl[name])


def test_the_refiner_gives_sepls_mask_whatever_the_order_of_the_labels(sepl):
    regions, config = Regions.from_masks(sepl["masks"]), RegionsConfig(rule="hard")
    for ids in ((2, 6), (6, 2)):
        scores = torch.stack([torch.from_numpy(sepl["labels"] == k + 1).float() for k in ids])
        mask = decide((48, 64), voted(ClassMaps(scores, ids), regions, config), DEFAULT.mask)
        np.testing.assert_array_equal(mask.decided, sepl["max_iou_imp2"])
        assert mask.confidence.min() > 0.5


def test_the_refiner_gives_fmas_mask(fma):
    regions = replace(Regions.from_masks(fma["masks"]), levels=np.arange(14) % 3)
    cam = torch.from_numpy(fma["cam"]).clamp(min=0)
    maps = ClassMaps(cam / cam.amax(), (2, 6))  # one factor for both classes, which the stretching takes out again
    mask = decide((48, 64), voted(maps, regions, RegionsConfig(stretch="both")), DEFAULT.mask)
    np.testing.assert_array_equal(mask.decided, fma["level_bigger_conf_bigger__norm_first"])


# ---------------------------------------------------------------- by hand


def two_halves():
    """Left half and right half of 2 x 4 pixels."""
    left = np.array([[1, 1, 0, 0], [1, 1, 0, 0]], bool)
    return Regions.from_masks(np.stack([left, ~left]))


def maps_of(rows, ids=(3,)):
    return ClassMaps(torch.tensor(rows, dtype=torch.float32), ids)


def test_one_function_pools_parts_and_overlapping_regions_alike():
    values = torch.rand(3, 4, 5, generator=torch.manual_seed(0))
    parts = torch.tensor([[0, 0, 1, 1, 2]] * 4)
    regions = Regions.from_parts(parts.numpy())
    from_regions = means(values, regions)
    torch.testing.assert_close(averaged(values, parts), from_regions[:, parts])
    torch.testing.assert_close(from_regions, region_means(values.flatten(1), parts.reshape(-1), 3))
    both = Regions.from_masks(np.stack([regions.mask(0), np.ones((4, 5), bool)]))
    torch.testing.assert_close(means(values, both)[:, 1], values.mean((1, 2)))


def test_members_come_a_few_regions_at_a_time_and_miss_none():
    regions = Regions.from_masks(np.random.default_rng(0).random((9, 8, 8)) < 0.5)
    values = torch.rand(2, 8, 8, generator=torch.manual_seed(1))
    whole = means(values, regions)
    for number in range(9):
        expected = values[:, torch.from_numpy(regions.mask(number))].mean(1)
        torch.testing.assert_close(whole[:, number], expected)
    spans = [(first, last) for _, _, first, last in regions.members(most=70)]
    assert spans[0][0] == 0
    assert spans[-1][1] == 9
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    assert len(spans) > 2


def test_a_region_takes_the_label_of_its_mean_and_the_rest_becomes_background():
    maps = maps_of([[[0.9, 0.5, 0.2, 0.0], [0.9, 0.9, 0.0, 0.2]]])
    out = voted(maps, Regions.from_masks(two_halves().mask(0)[None]), RegionsConfig(stretch="none"))
    # Mean 0.8 against (1 - 0.8)^0.7 = 0.324.
    share = 0.8 / (0.8 + 0.2**0.7)
    torch.testing.assert_close(out.scores[0], torch.tensor([[share, share, 0.0, 0.0]] * 2))
    torch.testing.assert_close(out.scores.sum(0) + out.background, torch.ones(2, 4))


def test_pixels_in_no_region_may_keep_their_maps():
    maps = maps_of([[[0.9, 0.5, 0.2, 0.7], [0.9, 0.9, 0.0, 0.2]]])
    only = Regions.from_masks(two_halves().mask(0)[None])
    out = voted(maps, only, RegionsConfig(stretch="none", unclaimed="maps"))
    torch.testing.assert_close(out.scores[0, :, 2:], maps.scores[0, :, 2:])


def test_without_any_region_soft_gives_background_and_hard_keeps_the_maps():
    maps, none = maps_of([[[0.9, 0.1, 0.2, 0.8]] * 2]), Regions.of((2, 4), [])
    assert not decide((2, 4), voted(maps, none, RegionsConfig()), DEFAULT.mask).decided.any()
    kept = decide((2, 4), voted(maps, none, RegionsConfig(rule="hard")), DEFAULT.mask).decided
    assert kept.tolist() == [[4, 0, 0, 4]] * 2


@pytest.mark.parametrize("rule", ["soft", "hard"])
def test_no_amount_changes_nothing_and_the_shares_always_sum_to_one(rule):
    maps = ClassMaps(torch.rand(2, 2, 4, generator=torch.manual_seed(3)), (1, 0))
    own = voted(maps, two_halves(), RegionsConfig(rule=rule, amount=0.0))
    total = 1 - maps.scores.amax(0) + maps.scores.sum(0)
    torch.testing.assert_close(own.scores, maps.scores / total)
    for amount in (0.3, 1.0):
        out = voted(maps, two_halves(), RegionsConfig(rule=rule, amount=amount))
        torch.testing.assert_close(out.scores.sum(0) + out.background, torch.ones(2, 4))


@pytest.mark.parametrize("rule", ["soft", "hard"])
def test_what_two_labels_both_claim_goes_to_the_surer_one_and_no_other_class_appears(rule):
    maps = maps_of([[[0.7, 0.7, 0.1, 0.1]] * 2, [[0.9, 0.9, 0.6, 0.2]] * 2], ids=(5, 9))
    mask = decide((2, 4), voted(maps, two_halves(), RegionsConfig(rule=rule, stretch="none")), DEFAULT.mask)
    assert set(np.unique(mask.decided)) <= {0, 6, 10}
    assert (mask.decided[:, :2] == 10).all()


def test_a_label_that_ties_with_background_still_gets_what_it_wins():
    """Shares of 0.5 and 0.5: background is first, but the region votes for the label."""
    labels = np.array([[1, 1, 0, 0], [1, 0, 0, 0]])
    scores = torch.tensor(labels[None] * 0.6 + (labels == 0)[None] * 0.5, dtype=torch.float32)
    out = voted(ClassMaps(scores, (0,)), two_halves(), RegionsConfig(rule="hard"))
    assert (out.scores[0] > out.background).tolist() == [[True, True, False, False]] * 2


def test_what_lies_on_top():
    big, small = np.ones((2, 4), bool), two_halves().mask(0)
    regions = Regions.from_masks(np.stack([small, big]))
    sure = np.array([0.9, 0.5], np.float32)
    assert painted(regions, sure, "area").tolist() == [[0, 0, 1, 1]] * 2
    assert painted(regions, sure[::-1], "confidence").tolist() == [[1] * 4] * 2
    assert painted(replace(regions, levels=np.array([0, 2])), sure).tolist() == [[1] * 4] * 2  # whole objects last
    assert painted(regions, sure).tolist() == [[0, 0, 1, 1]] * 2


def test_where_the_maps_know_their_background_it_is_stretched_as_a_label_is():
    maps = ClassMaps(torch.tensor([[[0.4, 0.4, 0.1, 0.1]] * 2]), (3,), torch.tensor([[0.6, 0.6, 0.9, 0.9]] * 2))
    as_they_are = voted(maps, two_halves(), RegionsConfig(stretch="none"))
    torch.testing.assert_close(as_they_are.scores, maps.scores)
    torch.testing.assert_close(as_they_are.background, maps.background)
    out = voted(maps, two_halves(), RegionsConfig())  # the label is given, so its best region is it, low as it is
    torch.testing.assert_close(out.scores[0], torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 2))
    one = Regions.from_masks(np.ones((1, 2, 4), bool))  # nothing to stretch over
    torch.testing.assert_close(voted(maps, one, RegionsConfig()).scores[0], torch.full((2, 4), 0.25))


def test_small_and_unsure_regions_do_not_vote():
    regions = replace(two_halves(), quality=np.array([0.9, 0.5], np.float32), stability=np.array([1, 1], np.float32))
    assert len(chosen(regions, RegionsConfig(least_quality=0.8))) == 1
    assert len(chosen(regions, RegionsConfig(least_area=5))) == 0
    assert chosen(regions, RegionsConfig()) is regions


def test_parts_of_larger_regions_leave_where_they_lie_inside_one_of_them():
    whole, half = np.zeros((4, 10), bool), np.zeros((4, 10), bool)
    whole[:, :5] = True
    half[:, 3:9] = True  # two of its six columns lie in the whole
    inside, beside = np.zeros((4, 10), bool), np.zeros((4, 10), bool)
    inside[:2, 6:8] = True  # in the half alone
    beside[:, 9:] = True
    regions = replace(Regions.from_masks(np.stack([inside, beside, half, whole])), levels=np.array([0, 0, 1, 2]))
    assert outermost(regions, 0.3).tolist() == [0, 1, 3]  # the half has left, so nothing holds what is inside it
    assert outermost(regions, 0.5).tolist() == [1, 2, 3]
    assert len(chosen(regions, RegionsConfig(most_inside=0.3))) == 3
    with pytest.raises(DataError, match=r"do not tell their level.*most-inside"):
        outermost(replace(regions, levels=None), 0.3)


def test_the_share_inside_one_region_is_that_of_the_formula():
    masks = np.random.default_rng(4).random((12, 9, 11)) < np.linspace(0.05, 0.9, 12)[:, None, None]
    inner, outer = masks[:7], masks[7:]
    both = (inner[:, None] & outer[None]).sum((2, 3)) / inner.sum((1, 2))[:, None]
    found = greatest_share(Regions.from_masks(inner), Regions.from_masks(outer))
    np.testing.assert_allclose(found, both.max(1))
    assert greatest_share(Regions.from_masks(inner), Regions.of((9, 11), [])).tolist() == [0.0] * 7


# ---------------------------------------------------------------- files


def entry(mask, **more):
    return {"segmentation": {"size": list(mask.shape), "counts": rle.encode(mask)}, **more}


def picture(image_id="one", size_hw=(2, 4)):
    rgb = np.zeros((*size_hw, 3), np.uint8)
    return Picture(image_id, rgb, np.zeros((16, 16, 3), np.uint8), 16)


@pytest.mark.parametrize("form", ["list", "sa-1b", "uncompressed"])
def test_every_form_in_which_sams_masks_are_kept_is_read(tmp_path, form):
    masks = [two_halves().mask(0), two_halves().mask(1)]
    told = {"predicted_iou": 0.91, "stability_score": 0.97}
    entries = [entry(mask, **told) for mask in masks]
    if form == "uncompressed":
        for one, mask in zip(entries, masks, strict=True):
            one["segmentation"]["counts"] = rle.runs(mask).tolist()
    (tmp_path / "one.json").write_text(json.dumps({"annotations": entries} if form == "sa-1b" else entries))
    found = regions_of(tmp_path, "one", (2, 4))
    assert [found.mask(k).tolist() for k in range(2)] == [mask.tolist() for mask in masks]
    assert found.quality.tolist() == pytest.approx([0.91, 0.91])
    assert found.levels is None


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_regions_come_back_as_they_were_written_and_pycocotools_reads_them(tmp_path):
    api = pytest.importorskip("pycocotools.mask")
    masks = np.random.default_rng(0).random((5, 7, 9)) < 0.3
    regions = replace(
        Regions.from_masks(masks), quality=np.random.default_rng(1).random(5, np.float32), levels=np.arange(5) % 3
    )
    write_regions(tmp_path / "one.json", regions, {"made_from": "x"})
    again = read_regions(tmp_path / "one.json", (7, 9))
    assert all(np.array_equal(a, b) for a, b in zip(regions.runs, again.runs, strict=True))
    np.testing.assert_array_equal(again.quality, regions.quality)
    np.testing.assert_array_equal(again.levels, regions.levels)
    for told, mask in zip(json.loads((tmp_path / "one.json").read_text())["annotations"], masks, strict=True):
        np.testing.assert_array_equal(api.decode(told["segmentation"]).astype(bool), mask)
        assert told["bbox"] == api.toBbox(told["segmentation"]).astype(int).tolist()


def test_parts_of_a_png_are_regions(tmp_path):
    parts = np.array([[0, 0, 7, 7], [0, 200, 200, 7]], np.uint8)
    write_mask(tmp_path / "one.png", parts)
    found = regions_of(tmp_path, "one", (2, 4))
    assert [found.mask(k).tolist() for k in range(3)] == [(parts == k).tolist() for k in (0, 7, 200)]


def test_empty_regions_do_not_count(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps([entry(np.zeros((2, 4), bool)), entry(two_halves().mask(0))]))
    assert len(regions_of(tmp_path, "one", (2, 4))) == 1
    (tmp_path / "two.json").write_text("[]")
    assert len(regions_of(tmp_path, "two", (2, 4))) == 0


BROKEN = {
    "another size": ([entry(np.ones((4, 2), bool))], ShapeError, "another size"),
    "no run lengths": ([{"bbox": [0, 0, 1, 1]}], DataError, "region 1: a region has no run lengths"),
    "torn run lengths": ([{"segmentation": {"size": [2, 4], "counts": "P"}}], DataError, "region 1.*damaged"),
    "too short": ([{"segmentation": {"size": [2, 4], "counts": [3]}}], DataError, "do not fill"),
    "negative": ([{"segmentation": {"size": [2, 4], "counts": [-3, 11]}}], DataError, "whole numbers"),
    "a number": (7, DataError, "no file of regions"),
    "nan": ([entry(np.ones((2, 4), bool), predicted_iou=float("nan"))], DataError, "predicted_iou"),
    "too many": ([{}] * (MOST_REGIONS + 1), DataError, "too many regions"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_refused_with_its_place(tmp_path, what):
    content, kind, message = BROKEN[what]
    (tmp_path / "one.json").write_text(json.dumps(content))
    with pytest.raises(kind, match=message) as told:
        regions_of(tmp_path, "one", (2, 4))
    assert "one.json" in str(told.value)


def test_what_is_no_json_and_what_is_not_there_is_said(tmp_path):
    (tmp_path / "one.json").write_bytes(b"\x80\x02")
    with pytest.raises(DataError, match="cannot be read"):
        regions_of(tmp_path, "one", (2, 4))
    with pytest.raises(DataError, match=r"no regions of this picture.*clip-es segments"):
        regions_of(tmp_path, "two", (2, 4))
    with pytest.raises(ConfigError, match="no such folder of regions"):
        replace(DEFAULT.using(regions=RegionsConfig(folder=tmp_path / "nowhere")), refine=("regions",))
    with pytest.raises(ConfigError, match="the regions lie in a folder"):
        RunConfig(refine=("regions",))


def test_ten_thousand_overlapping_regions_vote_in_little_memory(tmp_path):
    rng, size_hw = np.random.default_rng(0), (120, 160)
    masks = []
    for _ in range(10_000):
        y, x = rng.integers(0, 100), rng.integers(0, 140)
        mask = np.zeros(size_hw, bool)
        mask[y : y + 20, x : x + 20] = True
        masks.append(entry(mask))
    (tmp_path / "one.json").write_text(json.dumps(masks))
    values = torch.rand(2, *size_hw, generator=torch.manual_seed(0))
    maps = ClassMaps(values, (0, 1))
    for rule in ("soft", "hard"):
        out = refine(picture(size_hw=size_hw), maps, RegionsConfig(folder=tmp_path, rule=rule))
        torch.testing.assert_close(out.scores.sum(0) + out.background, torch.ones(size_hw))


def test_regions_of_another_picture_are_refused():
    with pytest.raises(ShapeError, match="maps and regions have different sizes"):
        voted(maps_of([[[0.5, 0.5]] * 2]), two_halves(), RegionsConfig())


# ---------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make(tmp_path_factory.mktemp("scenes") / "scenes", ScenesConfig(train=0, val=3, side=(64, 64)))


def run(scenes, out, *more):
    flags = ["--workers", "0", "--report-pictures", "0", "--refine", "regions", *more]
    return main(["masks", "scenes", "--root", str(scenes), "--split", "val", "--out", str(out), *flags])


def test_a_run_takes_its_regions_from_a_folder_and_notes_the_pictures_it_cannot_do(scenes, tmp_path):
    folder = tmp_path / "regions"
    folder.mkdir()
    for number in (0, 1):
        truth = read_mask(scenes / f"SegmentationClass/val_00000{number}.png")
        write_regions(folder / f"val_00000{number}.json", Regions.from_parts(truth.astype(np.int64)))
    (folder / "val_000001.json").write_text('[{"segmentation": {"size": [1, 1], "counts": "1"}}]')
    assert run(scenes, tmp_path / "run", "--refine.regions.folder", str(folder)) == 1
    rows = read_failures(tmp_path / "run/failures.csv")
    assert {row.image_id: row.reason for row in rows}.keys() == {"val_000001", "val_000002"}
    assert any("another size" in row.reason for row in rows)
    truth = read_mask(scenes / "SegmentationClass/val_000000.png")
    mask = read_mask(tmp_path / "run/labels/val_000000.png")
    for label in np.unique(truth):
        assert len(np.unique(mask[truth == label])) == 1  # a region has one label
    assert "whatever made the regions" in (tmp_path / "run/run.yaml").read_text()


def test_superpixels_are_a_source_too(scenes, tmp_path):
    for source in ("felzenszwalb", "slic"):
        assert run(scenes, tmp_path / source, "--refine.regions.source", source) == 0
        assert "weakly_supervised: 'yes'" in (tmp_path / source / "run.yaml").read_text()
