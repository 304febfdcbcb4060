"""The sweep: ranking, truth as an oracle, one pass over the pictures, what it writes, and what it refuses."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_es.config.run import RunConfig
from clip_es.encoder import CLIP, Encoder, TowerSizes, build_encoder
from clip_es.errors import ClipEsError, ConfigError
from clip_es.masks import read_mask
from clip_es.metrics.masks import ConfusionMatrix
from clip_es.metrics.ranks import spearman, with_interval
from clip_es.pipelines import cli
from clip_es.pipelines.commands.sources import FolderSource
from clip_es.pipelines.commands.sweep import DrawnScenes, Sweep, joined_templates, thinned
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.sweep.features import FeatureCache
from clip_es.pipelines.sweep.report import ORACLE
from clip_es.pipelines.sweep.sweep import Counter, Groups, PictureCounts, sweep
from clip_es.prompts import Vocabulary, build_bank, load_vocabulary
from clip_es.prompts.choice import SELECT
from clip_es.prompts.share import label_share
from clip_es.prompts.sharpness import SharpnessConfig, sharpness
from clip_es.records import Dataset, voc
from clip_es.scenes.dataset import ScenesConfig, make

SIZES = TowerSizes(patch=16, width=64, layers=2, grid=4, embed=32, text_width=64, text_layers=1)
TEMPLATES = ("a photo of a {}.", "{}", "the origami {} of my dreams!")
CONFIG = RunConfig(refine=())


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(CLIP(SIZES).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def encoder(weights) -> Encoder:
    return build_encoder(torch.load(weights, weights_only=True), device="cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("scenes"), ScenesConfig(train=0, val=5, seed=11, side=(64, 96)))


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return load_vocabulary("scenes")


@pytest.fixture(scope="module")
def dataset(root, vocabulary) -> Dataset:
    return voc(root, "val", class_id=vocabulary.class_id)


@pytest.fixture(scope="module")
def swept(encoder, vocabulary, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    result = sweep(encoder, vocabulary, dataset, TEMPLATES, config=CONFIG, cache=folder / "cache", state=folder)
    return folder, result


def test_sharpness_is_that_of_the_bank_the_masks_use(swept, encoder, vocabulary, dataset):
    _, result = swept
    cache = FeatureCache(encoder, CONFIG.image, swept[0] / "cache")
    several = [record for record in dataset.records if len(record.class_ids) > 1]
    assert result.pictures == len(several) >= 2
    images = torch.stack([cache(record)[0] for record in several])
    for row in result.scores:
        bank = build_bank(encoder, vocabulary, templates=[row.template])
        by_hand = sharpness(
            images, [r.class_ids for r in several], bank.vectors[: bank.class_count], encoder.logit_scale
        )
        assert row.score == pytest.approx(by_hand, rel=1e-4)


def test_the_template_of_the_lowest_sharpness_comes_first(swept):
    values = [row.score for row in swept[1].scores]
    assert values == sorted(values)
    assert len(set(values)) == 3
    assert swept[1].best.score == values[0]


def test_by_share_the_template_of_the_highest_share_comes_first(encoder, vocabulary, dataset, swept, tmp_path):
    found = sweep(
        encoder, vocabulary, dataset, TEMPLATES, config=CONFIG, select="share", cache=swept[0] / "cache", state=tmp_path
    )
    values = [row.score for row in found.scores]
    assert values == sorted(values, reverse=True)
    assert found.pictures == len(dataset.records)  # a picture with one label counts as well
    cache = FeatureCache(encoder, CONFIG.image, swept[0] / "cache")
    images = torch.stack([cache(record)[0] for record in dataset.records])
    labels = [record.class_ids for record in dataset.records]
    for row in found.scores:
        bank = build_bank(encoder, vocabulary, templates=[row.template])
        classes = bank.vectors[: bank.class_count]
        assert row.score == pytest.approx(
            label_share(images, labels, classes, bank.background, encoder.logit_scale), rel=1e-4
        )
    assert {row.template: row.miou for row in found.scores} == {row.template: row.miou for row in swept[1].scores}
    assert sweep(
        encoder, vocabulary, dataset, TEMPLATES, config=CONFIG, select="share", cache=swept[0] / "cache", state=tmp_path
    ) == found  # fmt: skip


def test_a_share_needs_background_words(encoder, vocabulary, dataset, tmp_path):
    bare = replace(vocabulary, background=())
    with pytest.raises(ConfigError, match="the vocabulary has none"):
        sweep(encoder, bare, dataset, TEMPLATES, config=CONFIG, select="share", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_miou_is_that_of_masks_made_with_the_template(swept, encoder, vocabulary, dataset):
    for row in swept[1].scores:
        maker = MaskMaker(encoder, vocabulary, config=CONFIG, templates=[row.template])
        matrix = ConfusionMatrix(len(vocabulary.classes) + 1)
        for record in dataset.records:
            picture = maker.read(record)
            mask = maker.mask_of(picture, maker.encode([picture])[0], record.class_ids).mask
            matrix.update(mask.decided, read_mask(dataset.truth[record.image_id]))
        assert row.miou == pytest.approx(100 * matrix.compute().miou, rel=1e-9)


def test_the_correlation_is_that_of_the_two_columns(swept):
    rows = swept[1].scores
    expected = spearman(np.array([r.score for r in rows]), np.array([r.miou for r in rows]))
    assert swept[1].correlation.value == pytest.approx(float(expected))
    assert -1 <= swept[1].correlation.low <= swept[1].correlation.high <= 1


def test_a_second_sweep_encodes_nothing(swept, encoder, vocabulary, dataset, monkeypatch):
    folder, first = swept
    monkeypatch.setattr(Encoder, "encode", lambda *_, **__: pytest.fail("encoded again"))
    again = sweep(encoder, vocabulary, dataset, TEMPLATES, config=CONFIG, cache=folder / "cache", state=folder)
    assert again == first


def test_other_templates_use_the_same_features(swept, encoder, vocabulary, dataset, monkeypatch):
    monkeypatch.setattr(Encoder, "encode", lambda *_, **__: pytest.fail("encoded again"))
    more = tuple(f"{i} times a {{}}." for i in range(30))
    found = sweep(encoder, vocabulary, dataset, more, config=CONFIG, cache=swept[0] / "cache", truth=False)
    assert len(found.scores) == 30
    assert found.correlation is None
    assert {row.miou for row in found.scores} == {None}


def test_an_interrupted_sweep_continues(encoder, vocabulary, dataset, tmp_path, monkeypatch):
    done = []
    real = Encoder.encode

    def stop_at_the_third(self, *args, **kwargs):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(args)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Encoder, "encode", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        sweep(encoder, vocabulary, dataset, TEMPLATES, config=CONFIG, cache=tmp_path, state=tmp_path, truth=False)
    done.clear()
    monkeypatch.setattr(Encoder, "encode", lambda self, *a, **k: done.append(a) or real(self, *a, **k))
    found = sweep(encoder, vocabulary, dataset, TEMPLATES, config=CONFIG, cache=tmp_path, state=tmp_path, truth=False)
    assert len(done) == found.pictures - 2


def test_changed_labels_and_settings_are_counted_again(encoder, vocabulary, dataset, tmp_path):
    record = dataset.records[0]
    maker = MaskMaker(encoder, vocabulary, config=CONFIG, templates=[TEMPLATES[0]])
    counter = Counter([maker], tmp_path)
    kept = counter(record, dataset.truth[record.image_id])
    (file,) = counter.saved.folder.iterdir()
    assert np.array_equal(counter(record, dataset.truth[record.image_id]).right, kept.right)
    other = next(k for k in range(12) if k not in record.class_ids)
    counter(replace(record, class_ids=(*record.class_ids, other)), dataset.truth[record.image_id])
    assert len(list(counter.saved.folder.iterdir())) == 2
    assert Counter([replace_config(maker)], tmp_path).saved.folder != file.parent


def replace_config(maker: MaskMaker) -> MaskMaker:
    return MaskMaker(maker.encoder, maker.vocabulary, maker.bank, replace(CONFIG, refine=("affinity",)))


def test_refined_maps_can_be_scored(encoder, vocabulary, dataset, tmp_path):
    config = replace(CONFIG, refine=("affinity",))
    found = sweep(encoder, vocabulary, thinned(dataset, 3), TEMPLATES[:2], config=config, cache=tmp_path)
    assert all(0 <= row.miou <= 100 for row in found.scores)


def test_every_open_point_changes_the_figure(encoder, vocabulary, dataset, tmp_path):
    def first(**options) -> float:
        config = SharpnessConfig(**options)
        found = sweep(
            encoder, vocabulary, dataset, TEMPLATES[:1], config=CONFIG, sharpness=config, cache=tmp_path, truth=False
        )
        return found.best.score

    assert len({first(), first(variance="sample"), first(softmax="labels+background")}) == 3


def test_ranks_of_ties_are_shared():
    # Ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4: covariance 4.5, lengths sqrt(4.5) and sqrt(5).
    x, y = np.array([1.0, 2.0, 2.0, 9.0]), np.array([1.0, 3.0, 2.0, 4.0])
    assert spearman(x, y) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert spearman(x, -y) == pytest.approx(-4.5 / (4.5 * 5) ** 0.5)
    assert np.isnan(spearman(x, np.ones(4)))


def test_the_interval_leaves_out_what_is_not_known():
    found = with_interval(0.5, np.array([np.nan, *np.linspace(-1, 1, 201)]))
    assert (found.low, found.high, found.resamples) == (pytest.approx(-0.95), pytest.approx(0.95), 201)


@pytest.mark.parametrize(
    ("values", "sharpness", "share"),
    [
        ((-0.9, -0.1), "predicts mIoU here: templates of lower sharpness make better masks, as", "misleads"),
        ((-0.2, 0.3), "does not predict", "does not predict"),
        ((0.1, 0.5), "misleads here: templates of lower sharpness make worse", "of higher share make better masks."),
    ],
)
def test_the_verdict_follows_the_interval(values, sharpness, share):
    direction = with_interval(0.0, np.array(values)).direction
    assert sharpness in SELECT["sharpness"].verdict(direction)
    assert share in SELECT["share"].verdict(direction)


def test_groups_weigh_pictures_as_if_they_stood_there_twice():
    counts = [
        PictureCounts(name, np.array([0, k]), np.array([[3, right]]), np.array([[4, 6]]), np.array([5, 5]))
        for name, k, right in (("a", 1, 2), ("b", 2, 4))
    ]
    groups = Groups(np.array([[0.2, 0.4]]), ["a", "b"], counts, 3)
    # Picture a alone: background 3 of 6, class 1 2 of 9; class 2 is absent from the truth and does not count.
    assert groups.miou(np.array([[1, 0]]))[0, 0] == pytest.approx(100 * (3 / 6 + 2 / 9) / 2)
    twice = groups.miou(np.array([[2, 1]]))[0, 0]
    assert twice == pytest.approx(100 * (9 / (12 + 15 - 9) + 4 / (12 + 10 - 4) + 4 / (6 + 5 - 4)) / 3)
    assert groups.score(np.array([[2, 1]]))[0, 0] == pytest.approx((0.2 * 2 + 0.4) / 3)
    assert np.isnan(groups.score(np.array([[0, 0]])))


def run(command: str, *args: object) -> int:
    return cli.main([*command.split(), *map(str, args)])


def test_the_command_writes_table_json_report_and_vocabulary(root, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CLIP_ES_CACHE", str(tmp_path / "cache"))
    mine = tmp_path / "mine.txt"
    mine.write_text("\n".join(TEMPLATES))
    out = tmp_path / "out"
    flags = ("--out", out, "--root", root, "--templates", mine, "--weights", weights)
    assert run("sweep scenes", *flags, "--apply", tmp_path / "best.yaml") == 0
    found = json.loads((out / "sweep.json").read_text())
    assert list(found) == ["templates", "best", "rank_correlation", "settings"]
    assert [list(row) for row in found["templates"]] == [["template", "sharpness", "miou"]] * 3
    assert found["best"] == found["templates"][0]["template"]
    assert found["settings"]["sharpness"] == {"variance": "population", "softmax": "classes"}
    assert found["settings"]["oracle"] == ORACLE
    assert len(found["settings"]["rank_correlation_interval"]) == 2
    rows = list(csv.DictReader((out / "sweep.csv").read_text().splitlines()))
    assert [row["template"] for row in rows] == [row["template"] for row in found["templates"]]
    assert float(rows[0]["sharpness"]) == found["templates"][0]["sharpness"]
    page = (out / "report.html").read_text()
    assert "population variance" in page
    assert "Oracle figure" in page
    assert "<svg" in page
    assert found["templates"][-1]["template"] in page
    assert "Oracle figure" in capsys.readouterr().out
    applied = load_vocabulary(tmp_path / "best.yaml")
    original = load_vocabulary("scenes")
    assert applied.templates == (found["best"],)
    assert (applied.classes, applied.background) == (original.classes, original.background)
    head = (tmp_path / "best.yaml").read_text()
    assert head.startswith("# template: lowest sharpness of 3")
    assert "'a photo of a {}.'" in " ".join(head.split())


def test_the_command_selects_by_share(root, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CLIP_ES_CACHE", str(tmp_path / "cache"))
    flags = ("--out", tmp_path, "--root", root, "--templates", "scene15", "--weights", weights, "--no-miou", "--apply")
    assert run("sweep scenes", *flags, "--select", "share") == 0
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert [list(row) for row in found["templates"]] == [["template", "share", "miou"]] * 15
    assert found["settings"]["select"] == "share"
    assert found["best"] == max(found["templates"], key=lambda row: row["share"])["template"]
    assert (tmp_path / "sweep.csv").read_text().startswith("rank,template,share,miou")
    assert (tmp_path / "vocabulary.yaml").read_text().startswith("# template: highest share of 15")
    said = " ".join(capsys.readouterr().out.split())
    assert "The labels' share under 15 templates over 5 pictures with labels (higher is better)" in said


def test_without_truth_the_figures_that_need_it_are_absent(root, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIP_ES_CACHE", str(tmp_path / "cache"))
    flags = ("--out", tmp_path, "--root", root, "--templates", "scene15", "--weights", weights, "--no-miou", "--apply")
    assert run("sweep scenes", *flags) == 0
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert found["rank_correlation"] is None
    assert "oracle" not in found["settings"]
    assert "Oracle" not in (tmp_path / "report.html").read_text()
    assert load_vocabulary(tmp_path / "vocabulary.yaml").templates == (found["best"],)


def test_a_picture_that_cannot_be_read_is_reported(weights, tmp_path, monkeypatch, root):
    monkeypatch.setenv("CLIP_ES_CACHE", str(tmp_path / "cache"))
    pictures = root / "JPEGImages"
    names = sorted(path.name for path in pictures.iterdir())[:2]
    (tmp_path / "torn.jpg").write_bytes(b"torn")
    for name in names:
        (tmp_path / name).write_bytes((pictures / name).read_bytes())
    rows = "".join(f"{name},cat;dog\n" for name in [*names, "torn.jpg"])
    (tmp_path / "labels.csv").write_text(f"image,labels\n{rows}")
    (tmp_path / "words.yaml").write_text("[cat, dog]")
    command = Sweep.of(
        FolderSource(images=tmp_path, labels=str(tmp_path / "labels.csv")),
        out=tmp_path / "out",
        vocabulary=str(tmp_path / "words.yaml"),
        weights=str(weights),
        templates=("scene15",),
    )
    assert command.run() == 1
    assert "torn,features,DataError" in (tmp_path / "out" / "failures.csv").read_text()
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["settings"]["pictures"] == 2


def test_one_label_everywhere_is_refused_before_anything_is_encoded(encoder, vocabulary, dataset, tmp_path):
    single = replace(dataset, records=tuple(replace(r, class_ids=r.class_ids[:1]) for r in dataset.records))
    with pytest.raises(ConfigError, match="no picture here has two"):
        sweep(encoder, vocabulary, single, TEMPLATES, config=CONFIG, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_nothing_to_compare_is_refused(encoder, vocabulary, dataset):
    for templates in ((), ("a {}.", "a {}.")):
        with pytest.raises(ConfigError, match="each once"):
            sweep(encoder, vocabulary, dataset, templates, config=CONFIG)
    with pytest.raises(ClipEsError):
        sweep(encoder, vocabulary, dataset, ("no class",), config=CONFIG, truth=False)


def test_lists_are_joined_without_repeats(tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("a photo of a {}.\nmy {}.\n")
    joined = joined_templates(["imagenet80", str(mine)])
    assert len(joined) == 81
    assert joined[-1] == "my {}."


def test_thinning_spreads_evenly(dataset):
    assert [r.image_id for r in thinned(dataset, 2).records] == [dataset.records[i].image_id for i in (0, 2)]
    assert thinned(dataset, 99).records == dataset.records


def test_the_scenes_are_drawn_where_there_are_none(tmp_path, weights):
    scenes = ScenesConfig(train=0, val=3, seed=11, side=(64, 72))
    command = Sweep.of(
        DrawnScenes(root=tmp_path / "drawn", scenes=scenes), out=tmp_path / "out", weights=str(weights),
        cache=tmp_path / "cache", templates=("scene15",), miou=False,
    )  # fmt: skip
    assert command.run() == 0
    assert len(list((tmp_path / "drawn" / "JPEGImages").iterdir())) == 3


@pytest.mark.parametrize(
    ("words", "templates", "message"),
    [
        ("classes: [cat, car]\nbackground: [sky, car]", "a {}.", "'car' (a background word) cannot be told from 'car'"),
        ("[cat, '']", "a {}.", "'classes' must be text"),
        ("[cat, car]", "", "at least one. Found none"),
        ("[cat, car]", "a photo.", "names the class with {} exactly once"),
        ("[cat, car]", "{} and {}.", "names the class with {} exactly once"),
    ],
)
def test_bad_words_are_refused_before_any_picture_is_read(tmp_path, capsys, weights, words, templates, message):
    (tmp_path / "words.yaml").write_text(words)
    (tmp_path / "templates.txt").write_text(templates)
    flags = ("--vocabulary", tmp_path / "words.yaml", "--templates", tmp_path / "templates.txt", "--weights", weights)
    assert run("sweep voc12", "--out", tmp_path / "out", "--root", tmp_path / "none", *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
