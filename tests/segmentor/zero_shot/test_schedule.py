"""Learning rates, groups of parameters and splits of classes, compared with the recorded and the published ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clip_es.errors import ConfigError
from clip_es.segmentor.zero_shot.schedule import groups, poly, stepped
from clip_es.segmentor.zero_shot.settings import settings_of
from clip_es.segmentor.zero_shot.split import load_split, own_split

MANIFEST = json.loads((Path(__file__).parents[2] / "golden" / "cagnet" / "manifest.json").read_text())


def test_rates_are_the_published_ones():
    for iteration, rates in MANIFEST["schedules"]["poly"]:
        got = [poly(iteration, 2.5e-4 * factor, 40_000) for factor in (1, 5, 10, 20)]
        assert got == pytest.approx(rates, rel=1e-12)
    for iteration, factor in MANIFEST["schedules"]["lambda_voc"]:
        assert stepped(iteration, 10_000, 5_000, 0.71) == pytest.approx(factor, rel=1e-12)
    for iteration, factor in MANIFEST["schedules"]["lambda_voc_finetune"]:
        assert stepped(iteration, 3_000, 1_000, 0.1) == pytest.approx(factor, rel=1e-12)


def test_the_selector_is_in_no_published_group():
    theirs = MANIFEST["parameter_groups"]
    names = [name for key in ("5x", "10x", "20x") for name in theirs[key]]
    names += theirs["never_in_any_group_non_bn"] + [
        "scale.layer2.block1.reduce.conv.weight",
        "scale.layer1.conv1.bn.weight",
    ]
    got = groups(names)
    for key in ("5x", "10x", "20x"):
        assert got[key] == theirs[key]
    assert got["1x"] == ["scale.layer2.block1.reduce.conv.weight"]
    assert got["never"] == ["scale.fc_1.conv.weight", "scale.layer1.conv1.bn.weight"]


@pytest.mark.parametrize(
    ("name", "seen", "unseen", "ids"),
    [
        ("voc-15-5", 15, 5, (16, 17, 18, 19, 20)),
        ("context-29-4", 29, 4, (10, 14, 18, 8)),
        ("coco-stuff-167-15", 167, 15, (20, 24, 32, 33, 40, 56, 86, 99, 105, 123, 144, 147, 148, 168, 171)),
    ],
)
def test_published_splits_have_the_published_ids(name: str, seen: int, unseen: int, ids: tuple[int, ...]):
    split = load_split(name)
    assert (len(split.seen), len(split.unseen), split.unseen_ids) == (seen, unseen, ids)
    assert split.to_raw[seen] == ids[0]
    assert split.to_index[split.seen_ids[3]] == 3
    assert split.to_index[ids[0]] == 255


def test_the_last_seen_classes_of_coco_stuff_are_the_published_ones():
    assert load_split("coco-stuff-167-15").seen_ids[-12:] == (3, 21, 38, 45, 51, 61, 75, 81, 93, 129, 136, 139)


def test_a_split_says_what_is_wrong_with_it():
    with pytest.raises(ConfigError, match="both seen and unseen"):
        type(load_split("voc-15-5"))({"cat": 1, "dog": 2}, ("cat", "dog"), ("dog",))
    with pytest.raises(ConfigError, match="Nearest: 'boat'"):
        own_split(("cat", "boat"), ("boot",))
    with pytest.raises(ConfigError, match="at least one unseen"):
        own_split(("cat", "boat"), ())
    with pytest.raises(ConfigError, match="Nearest: 'voc-15-5'"):
        load_split("voc-15-4")


def test_parity_has_the_published_coefficients():
    chosen = settings_of("parity")
    assert (chosen.weights.kl, chosen.weights.classes, chosen.weights.content) == (100, 0.5, 50)
    assert (chosen.weights.synthetic, chosen.fine_real, chosen.fine_fake) == (0.125, 0.75, 0.25)
    assert chosen.phases == (("seen", 40_000), ("unseen", 6_000))
    assert chosen.at(39_999) == ("seen", 39_999)
    assert chosen.at(40_001) == ("unseen", 1)


def test_parity_of_the_other_splits_has_theirs():
    context, coco = settings_of("parity", "context-29-4"), settings_of("parity", "coco-stuff-167-15")
    assert (context.unseen_rate, context.top_p, context.unseen_steps) == (14, 16, 10_000)
    assert (coco.unseen_rate, coco.top_p, coco.unseen_steps) == (59, 1, 6_000)
    assert (coco.weights.synthetic, coco.weights.synthetic_generator) == (1, 1)
    assert coco.seen_rate.classifier == 5e-4
    assert context.unseen_rates.start == 5_000
    assert not context.networks.clip
    assert not context.networks.linear
    assert settings_of("default", "context-29-4") == settings_of("default")
    with pytest.raises(ConfigError, match="nothing is published"):
        settings_of("parity", "voc-10-10")
