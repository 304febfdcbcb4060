"""Every method behind the same joint: command line, labels given, found or none, refiners, records, resume."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from clip_es.config.presets import find_preset
from clip_es.config.run import DEFAULT, CliperConfig, ClipSegConfig, RunConfig
from clip_es.encoder import load_encoder
from clip_es.errors import ConfigError, DataError, ShapeError, WeightsError
from clip_es.images import read_picture
from clip_es.localize.base import Localizer
from clip_es.localize.cliper.localizer import Cliper
from clip_es.localize.clipseg.decoder import Decoder, DecoderSizes
from clip_es.localize.clipseg.examples import class_prompts, read_examples
from clip_es.localize.clipseg.localizer import ClipSeg
from clip_es.localize.clipseg.weights import save_decoder
from clip_es.localize.gradcam.localizer import ClipEs
from clip_es.localize.methods import METHODS
from clip_es.masks import read_mask
from clip_es.pipelines.cli import main
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.prompts import load_vocabulary
from clip_es.scaling import even_at, keep_heights
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.types import ClassMaps, ImageRecord

VOCABULARY = load_vocabulary("scenes")

WITH_CLIP_ALONE = [name for name in METHODS if name != "sam3"]
"""SAM 3 has weights of its own, which are asked for when it is made: tests/clip_es/sam makes it of small ones."""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("scenes"), ScenesConfig(train=1, val=3, side=(64, 80)))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> Path:
    """A decoder for the scenes CLIP with random weights."""
    torch.manual_seed(0)
    made = Decoder(DecoderSizes(16, 192, 192, 3, 32, 16), (1, 2, 3))
    made.side = 96
    path = tmp_path_factory.mktemp("decoder") / "decoder.safetensors"
    save_decoder(made, path)
    return path


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("scenes", device="cpu")


@pytest.fixture
def maker(encoder, decoder):
    def build(method, labels="given", refine=(), **settings):
        config = replace(DEFAULT, method=method, refine=refine).using(clipseg=ClipSegConfig(decoder=str(decoder)))
        return MaskMaker(encoder, VOCABULARY, config=config.using(**settings), labels=labels)

    return build


def masks(root: Path, out: Path, *flags: str) -> int:
    return main(["masks", "scenes", "--root", str(root), "--out", str(out), "--report-pictures", "1", *flags])


def tree(out: Path) -> dict[str, str]:
    return {
        f"{part}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for part in ("masks", "labels", "confidence")
        for path in (out / part).glob("*")
    }


def first(scenes: Path) -> Path:
    return sorted((scenes / "JPEGImages").glob("val_*"))[0]


# ---------------------------------------------------------------- the joint


def test_every_method_is_a_localizer(maker):
    for name in WITH_CLIP_ALONE:
        localizer: Localizer = maker(name).localizer
        assert localizer.finds_classes == METHODS[name].finds_classes
        assert isinstance(localizer.supervision, str)


@pytest.mark.parametrize("method", ["clip-es", "cliper", "clipseg"])
def test_what_is_seen_has_one_grid_for_tokens_attention_and_maps(maker, scenes, method):
    made = maker(method, refine=("affinity",))
    picture = made.read(ImageRecord("a", first(scenes), ()))
    seen = made.encode([picture])[0]
    assert seen.grid_hw == picture.grid_hw
    assert torch.allclose(seen.last_attention.sum(-1), torch.ones(()), atol=1e-5)
    refined = made.refine(made.locate(picture, seen, (0, 3)))
    assert refined.maps.scores.shape == (2, *seen.grid_hw)
    assert refined.maps.class_ids == (0, 3)


def test_cliper_sees_the_short_side_and_clipseg_a_square(maker, scenes):
    record = ImageRecord("a", first(scenes), ())
    height, width = maker("clip-es").read(record).size_hw
    assert min(maker("cliper").read(record).patches.shape[:2]) == 336
    assert maker("cliper", cliper=CliperConfig(short_side=None)).read(record).grid_hw == (
        -(-height // 16),
        -(-width // 16),
    )
    assert maker("clipseg").read(record).patches.shape == (96, 96, 3)  # as the decoder's file says


def test_cliper_hands_on_what_the_plain_encoder_sees(maker, scenes):
    made = maker("cliper", cliper=CliperConfig(short_side=None))
    picture = made.read(ImageRecord("a", first(scenes), ()))
    ours, plain = made.encode([picture])[0], made.encoder.encode([picture.patches])[0]
    for name in ("tokens", "attention", "last_attention"):
        torch.testing.assert_close(getattr(ours, name), getattr(plain, name), atol=2e-5, rtol=1e-4)


def test_a_picture_encoded_for_another_method_is_refused(maker, scenes):
    plain = maker("clip-es")
    picture = plain.read(ImageRecord("a", first(scenes), ()))
    seen = plain.encode([picture])[0]
    for method in ("cliper", "clipseg"):
        with pytest.raises(ShapeError, match="encode"):
            maker(method).localizer.locate(picture, seen, (0,))


# ---------------------------------------------------------------- heights and thresholds


def test_a_threshold_becomes_one_half_and_order_stays():
    x = torch.tensor([[[0.0, 0.2, 0.3, 0.7, 1.0]]])
    torch.testing.assert_close(even_at(x, 0.3)[0, 0, [0, 2, 4]], torch.tensor([0.0, 0.5, 1.0]))
    assert bool((even_at(x, 0.3).diff() > 0).all())
    torch.testing.assert_close(even_at(x, 0.5), x)


def test_refined_maps_get_their_heights_back():
    before = ClassMaps(torch.tensor([[[0.2, 0.1]], [[0.8, 0.4]]]), (3, 5))
    after = ClassMaps(torch.tensor([[[0.5, 1.0]], [[1.0, 0.0]]]), (3, 5), background=torch.zeros(1, 2))
    kept = keep_heights(before, after)
    torch.testing.assert_close(kept.scores, torch.tensor([[[0.1, 0.2]], [[0.8, 0.0]]]))
    assert kept.background is None
    assert keep_heights(before, before) is before


@pytest.mark.parametrize("normalise", [True, False])
def test_a_pixel_at_the_threshold_is_even_with_background(maker, scenes, normalise):
    config = CliperConfig(score_threshold=0.05, background_threshold=0.6, normalise=normalise, temperature=30.0)
    made = maker("cliper", "none", cliper=config)
    picture = made.read(ImageRecord("a", first(scenes), ()))
    settled = made.refine(made.locate(picture, made.encode([picture])[0]))
    full = settled.enlarge(settled.maps, picture.size_hw).scores
    wide = torch.nn.functional.interpolate(settled.found.raw[None], picture.size_hw, mode="bilinear")[0]
    if normalise:
        low, high = wide.amin((1, 2), keepdim=True), wide.amax((1, 2), keepdim=True)
        wide = (wide - low) / (high - low)
    else:
        wide = wide / wide.amax((1, 2), keepdim=True) * settled.found.scores[:, None, None]
    assert len(full) > 1
    assert float(((full > 0.5) != (wide > 0.6)).float().mean()) < 1e-3


# ---------------------------------------------------------------- labels


def test_only_methods_that_find_classes_work_without_labels(maker):
    with pytest.raises(ConfigError, match="--labels auto"):
        maker("clip-es", "none")
    with pytest.raises(ConfigError, match="--labels auto"):
        ClipEs(maker("clip-es").encoder, maker("clip-es").bank).asked(None)


def test_a_picture_file_may_go_without_names(maker, scenes):
    result = maker("cliper", "none", cliper=find_preset("cliper-scenes").config.methods.cliper)(first(scenes))
    labels = result.refined.found_labels
    assert labels is not None
    assert labels.names == tuple(VOCABULARY.names[k] for k in result.mask.class_ids)
    with pytest.raises(ConfigError, match="not given"):
        maker("cliper")(first(scenes))


def test_names_that_are_given_count_in_any_case(maker, scenes):
    for labels in ("none", "auto"):
        result = maker("cliper", labels)(first(scenes), ["car"])
        assert result.mask.class_ids == (VOCABULARY.class_id("car"),)
        assert result.refined.found_labels is None


@pytest.mark.parametrize(("method", "labels"), [("cliper", "none"), ("clip-es", "auto"), ("cliper", "auto")])
def test_found_labels_are_recorded_and_can_be_read_again(scenes, tmp_path, method, labels):
    flags = ("--method", method, "--refine", "affinity")
    assert masks(scenes, tmp_path / "run", *flags, "--labels", labels) == 0
    with (tmp_path / "run/labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["val_000000", "val_000001", "val_000002"]
    for row in rows:
        ids = {0, *(VOCABULARY.class_id(name) + 1 for name in row["labels"].split(";") if name)}
        assert set(np.unique(read_mask(tmp_path / f"run/labels/{row['image']}.png"))) <= ids
        assert len(row["confidence"].split(";")) == len(row["labels"].split(";"))
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["labels"]["found"] == sum(len(row["labels"].split(";")) for row in rows if row["labels"])
    assert not list((tmp_path / "run").glob("labels-*"))
    assert yaml.safe_load((tmp_path / "run/run.yaml").read_text())["labels"] == labels
    if method == "clip-es":
        again = ["masks", "folder", "--images", str(scenes / "JPEGImages"), "--weights", "scenes", *flags]
        again += ["--vocabulary", "scenes", "--labels", str(tmp_path / "run/labels.csv"), "--report-pictures", "0"]
        assert main([*again, "--out", str(tmp_path / "again")]) == 0
        # A picture in which nothing was found is left out when its row is read.
        labelled = {f"{row['image']}.png" for row in rows if row["labels"]}
        assert labelled
        whole = {file: digest for file, digest in tree(tmp_path / "run").items() if Path(file).name in labelled}
        assert tree(tmp_path / "again") == whole


def test_found_labels_survive_shards_and_a_second_call(scenes, tmp_path):
    flags = ("--method", "cliper", "--labels", "none", "--refine", "--cliper.short-side", "64")
    assert masks(scenes, tmp_path / "whole", *flags) == 0
    out = tmp_path / "run"
    for part in ("2/2", "1/2"):
        assert masks(scenes, out, *flags, "--shard", part) == 0
    assert (out / "labels.csv").read_bytes() == (tmp_path / "whole/labels.csv").read_bytes()
    # As a kill leaves it: the row is written, the mask is not, and the piece was never merged.
    (out / "masks/val_000001.png").unlink()
    lines = (out / "labels.csv").read_text().splitlines(keepends=True)
    (out / "labels-1of1.csv").write_text(lines[0] + "val_000001,car,0.9,\nval_00000")
    assert masks(scenes, out, *flags) == 0
    assert (out / "labels.csv").read_bytes() == (tmp_path / "whole/labels.csv").read_bytes()
    assert tree(out) == tree(tmp_path / "whole")


def test_a_picture_in_which_nothing_is_found_is_background(scenes, tmp_path):
    flags = ("--method", "cliper", "--labels", "none", "--cliper.score-threshold", "2", "--cliper.short-side", "64")
    assert masks(scenes, tmp_path / "run", *flags) == 0
    assert not any(read_mask(path).any() for path in (tmp_path / "run/masks").iterdir())
    flags = ("--labels", "auto", "--tagging.threshold", "1", "--refine", "affinity")
    assert masks(scenes, tmp_path / "auto", *flags) == 0
    assert not any(read_mask(path).any() for path in (tmp_path / "auto/labels").iterdir())
    assert json.loads((tmp_path / "auto/summary.json").read_text())["labels"]["pictures_without"] == 3


# ---------------------------------------------------------------- clipseg


@pytest.mark.parametrize("refine", [(), ("affinity",), ("affinity", "spectral")])
def test_clipseg_makes_masks_and_says_what_it_saw(scenes, decoder, tmp_path, refine):
    flags = ("--method", "clipseg", "--decoder", str(decoder), "--refine", *refine)
    assert masks(scenes, tmp_path / "run", *flags) == 0
    told = yaml.safe_load((tmp_path / "run/run.yaml").read_text())
    assert told["weakly_supervised"] == "no"
    assert "masks" in told["supervision"]
    assert len(told["sha256"]["decoder"]) == 64
    assert "cliper" not in told["config"]
    assert "Not weakly supervised" in (tmp_path / "run/report.html").read_text()


def test_clip_alone_is_weakly_supervised(scenes, tmp_path):
    assert masks(scenes, tmp_path / "run", "--refine") == 0
    told = yaml.safe_load((tmp_path / "run/run.yaml").read_text())
    assert (told["weakly_supervised"], told["supervision"]) == ("yes", "image-level labels")
    assert {"cliper", "clipseg", "tagging", "crf", "affinity", "diffusion"}.isdisjoint(told["config"])


def test_one_encoding_serves_words_and_examples(encoder, decoder, scenes, tmp_path):
    examples(tmp_path, scenes)
    config = ClipSegConfig(decoder=str(decoder))
    words = [(name,) for name in VOCABULARY.names]
    by_words = class_prompts(encoder, words, config)
    assert len(by_words) == len(VOCABULARY.names)
    shown = read_examples(tmp_path, VOCABULARY.class_id)
    by_pictures = class_prompts(encoder, words, config, examples=shown)
    assert set(by_pictures) == {VOCABULARY.class_id("car"), VOCABULARY.class_id("cat")}
    between = class_prompts(encoder, words, replace(config, text_share=0.25), examples=shown)
    k = VOCABULARY.class_id("cat")
    torch.testing.assert_close(between[k], 0.25 * by_words[k] + 0.75 * by_pictures[k])


def examples(root: Path, scenes: Path) -> None:
    rng = np.random.default_rng(0)
    for name, suffix, mask in (("car", "a.jpg", "a.png"), ("cat", "b.png", "b_mask.png")):
        (root / name).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(root / name / suffix)
        inside = np.zeros((40, 50), dtype=np.uint8)
        inside[5:20, 10:30] = 255
        Image.fromarray(inside).save(root / name / mask)


def test_examples_take_the_place_of_words(scenes, decoder, tmp_path):
    examples(tmp_path / "ex", scenes)
    flags = ("--method", "clipseg", "--decoder", str(decoder), "--refine", "--labels", "none")
    assert masks(scenes, tmp_path / "run", *flags, "--examples", str(tmp_path / "ex")) == 0
    told = yaml.safe_load((tmp_path / "run/run.yaml").read_text())
    assert len(told["sha256"]["examples"]) == 64


def test_bad_examples_are_named(tmp_path, scenes):
    with pytest.raises(DataError, match="is not a folder of examples"):
        read_examples(tmp_path / "none", VOCABULARY.class_id)
    with pytest.raises(DataError, match="no example"):
        read_examples(tmp_path, VOCABULARY.class_id)
    examples(tmp_path, scenes)
    (tmp_path / "cat/b_mask.png").unlink()
    with pytest.raises(DataError, match=r"has no mask.*b_mask\.png"):
        read_examples(tmp_path, VOCABULARY.class_id)
    Image.fromarray(np.zeros((40, 50), dtype=np.uint8)).save(tmp_path / "cat/b_mask.png")
    with pytest.raises(DataError, match="empty"):
        read_examples(tmp_path, VOCABULARY.class_id)
    Image.fromarray(np.ones((4, 5), dtype=np.uint8)).save(tmp_path / "cat/b_mask.png")
    with pytest.raises(DataError, match="another size"):
        read_examples(tmp_path, VOCABULARY.class_id)
    (tmp_path / "catt").mkdir()
    Image.fromarray(np.ones((4, 5), dtype=np.uint8)).save(tmp_path / "catt/x.png")
    (tmp_path / "cat/b.png").unlink()
    with pytest.raises(DataError, match="Nearest: 'cat'"):
        read_examples(tmp_path, VOCABULARY.class_id)


def test_bad_decoders_and_prompts_are_named_before_any_picture(maker, encoder, tmp_path):
    torch.manual_seed(0)
    for name, sizes, layers in (
        ("width", DecoderSizes(16, 96, 192, 3, 32, 16), (1, 2, 3)),
        ("deep", DecoderSizes(16, 192, 192, 3, 32, 16), (3, 6, 9)),
    ):
        save_decoder(Decoder(sizes, layers), tmp_path / f"{name}.safetensors")

    def config(**settings):
        return {"clipseg": ClipSegConfig(**settings)}

    with pytest.raises(WeightsError, match="another encoder"):
        maker("clipseg", **config(decoder=str(tmp_path / "width.safetensors")))
    with pytest.raises(ConfigError, match="too few blocks"):
        maker("clipseg", **config(decoder=str(tmp_path / "deep.safetensors")))
    with pytest.raises(WeightsError, match="no such decoder"):
        maker("clipseg", **config(decoder=str(tmp_path / "none.pth")))
    save_decoder(Decoder(DecoderSizes(16, 192, 192, 3, 32, 16), (1, 2, 3)), tmp_path / "good.safetensors")
    with pytest.raises(DataError, match="too long"):
        maker("clipseg", **config(decoder=str(tmp_path / "good.safetensors"), prompt="very " * 80 + "{}"))
    with pytest.raises(ConfigError, match="one layer a block"):
        maker("clipseg", **config(decoder=str(tmp_path / "good.safetensors"), layers=(1, 2)))


# ---------------------------------------------------------------- settings


def test_the_published_settings_are_presets(capsys):
    preset = find_preset("cliper-voc21-l14-sliding")
    assert (preset.config.method, preset.config.methods.cliper.select, preset.config.methods.cliper.window) == (
        "cliper",
        -2,
        336,
    )
    assert (preset.template, preset.weights, preset.config.refine) == ("scene15", "ViT-L/14", ())
    assert main(["masks", "voc12", "--out", "x", "--preset", "cliper-voc12-b16"]) == 2
    assert "cliper-voc21-b16" in capsys.readouterr().err


def test_a_preset_brings_its_templates(tmp_path):
    from clip_es.pipelines.cli import parse
    from clip_es.pipelines.commands.masks import Masks

    flags = ["--out", "run", "--preset", "cliper-object-b16", "--cliper.temperature", "70"]
    command = parse(Masks, "clip-es", flags, "voc12")
    assert len(command.template) == 80
    assert command.weights == "ViT-B/16"
    assert (command.config.methods.cliper.temperature, command.config.methods.cliper.score_threshold) == (70.0, 0.3)


def test_the_published_arithmetic_is_that_of_clip_es():
    with pytest.raises(ConfigError, match="no other --method"):
        RunConfig(arithmetic="published", method="cliper")


def test_settings_of_others_are_not_written_down():
    used = replace(DEFAULT, method="cliper", refine=("crf",)).in_use()
    assert {"cliper", "crf", "image", "encoder", "mask"} <= used.keys()
    assert {"localize", "clipseg", "affinity", "par", "spectral", "diffusion", "tagging"}.isdisjoint(used)
    assert "tagging" in DEFAULT.in_use("auto")


def test_reading_takes_the_size_that_is_asked_for(scenes):
    record = ImageRecord("a", first(scenes), ())
    picture = read_picture(record, 16, replace(DEFAULT.image, max_patches=9), lambda size: (96, 96))
    assert picture.patches.shape == (48, 48, 3)


def test_localizers_of_one_encoder_share_it(encoder, maker):
    made = [maker(row.name).localizer for row in map(METHODS.find, WITH_CLIP_ALONE) if not row.made_of(row.settings())]
    assert all(localizer.encoder is encoder for localizer in made)  # pyright: ignore
    assert {ClipEs, Cliper, ClipSeg} <= {type(localizer) for localizer in made}


def test_maps_with_heights_are_not_calibrated_one_by_one(encoder):
    config = replace(DEFAULT, mask=replace(DEFAULT.mask, calibration="otsu"))
    assert MaskMaker(encoder, VOCABULARY, config=config)
    for name in ("cliper", "patch-text", "joint"):
        with pytest.raises(ConfigError, match="not calibrated one by one"):
            MaskMaker(encoder, VOCABULARY, config=replace(config, method=name, refine=("crf",)))


def test_views_and_pairs_of_methods_run_from_the_command_line(scenes, tmp_path):
    common = ["masks", "scenes", "--root", str(scenes), "--report-pictures", "0", "--workers", "0"]
    for number, flags in enumerate((["--views.shifts", "2", "--mask.calibration", "otsu"], ["--method", "joint"])):
        out = tmp_path / str(number)
        assert main([*common, *flags, "--refine", "affinity", "segments", "crf", "--out", str(out)]) == 0
        assert len(list((out / "masks").iterdir())) == 3
