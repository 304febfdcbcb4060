"""Folds by formula, and lists of the published form."""

import json
import pickle

import pytest

from clip_es.errors import ConfigError, DataError
from clip_es.records.folds import Episode, cycle, draw_episodes, fold, fold_lists, read_pairs


def test_pascal_folds_are_runs_of_five_and_coco_folds_every_fourth_class():
    assert fold("pascal", 2).test == (10, 11, 12, 13, 14)
    assert fold("coco", 1).test[:3] == (1, 5, 9)
    for benchmark, count in (("pascal", 20), ("coco", 80)):
        folds = [fold(benchmark, number) for number in range(4)]
        assert sorted(k for one in folds for k in one.test) == list(range(count))
        assert all(set(one.train) | set(one.test) == set(range(count)) for one in folds)
    with pytest.raises(ConfigError, match="no such fold"):
        fold("pascal", 4)


@pytest.fixture
def lists(tmp_path):
    for part in ("trn", "val"):
        (tmp_path / part).mkdir()
        for number in range(4):
            lines = [f"2007_{number}{k}__{5 * number + k + 1:02d}" for k in range(5)]
            (tmp_path / part / f"fold{number}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_fold_trains_on_the_lists_of_the_others_and_is_tested_on_its_own(lists):
    which = fold("pascal", 1)
    trained, tested = fold_lists(lists, which, "train"), fold_lists(lists, which, "val")
    assert len(trained) == 15
    assert {episode.class_id for episode in trained} == set(which.train)
    assert tested[0] == Episode("2007_10", 5)


def test_lists_of_coco_are_read_as_pickles_that_are_never_run(tmp_path):
    content = {0: ["train2014/COCO_train2014_000000000009.jpg"], 79: []}
    (tmp_path / "fold0.pkl").write_bytes(pickle.dumps(content))
    (tmp_path / "fold0.json").write_text(json.dumps(content))
    for name in ("fold0.pkl", "fold0.json"):
        assert read_pairs(tmp_path / name, "coco") == [Episode("COCO_train2014_000000000009", 0)]
    (tmp_path / "harm.pkl").write_bytes(b"cos\nsystem\n(S'touch harm'\ntR.")
    with pytest.raises(DataError):
        read_pairs(tmp_path / "harm.pkl", "coco")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("line", ["2007_000032", "2007_000032__21", "2007_000032__x", "__01"])
def test_lines_of_another_form_are_named(tmp_path, line):
    (tmp_path / "list.txt").write_text(f"2007_000033__01\n{line}\n")
    with pytest.raises(DataError, match=r"line 2: is no pair"):
        read_pairs(tmp_path / "list.txt")


def test_a_pair_of_another_fold_is_named(lists):
    (lists / "val" / "fold0.txt").write_text("2007_1__20\n")
    with pytest.raises(DataError, match="not of this fold"):
        fold_lists(lists, fold("pascal", 0), "val")


def test_draws_are_even_over_classes_and_the_same_for_a_seed():
    pictures = {0: ["a"], 4: [f"b{k}" for k in range(50)], 8: []}
    drawn = draw_episodes(pictures, 1000)
    assert drawn == draw_episodes(pictures, 1000)
    assert 430 < sum(episode.class_id == 0 for episode in drawn) < 570
    with pytest.raises(DataError, match="no class has a picture"):
        draw_episodes({0: []}, 1)
    assert [episode.image_id for episode in cycle(drawn[:2], 5)] == [drawn[i % 2].image_id for i in range(5)]
