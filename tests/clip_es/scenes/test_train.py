"""Training the scenes CLIP: a real small run, its continuation, the shipped file."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from clip_es.encoder.tokenize import tokenize
from clip_es.encoder.vit import CLIP, TowerSizes
from clip_es.errors import ConfigError, WeightsError
from clip_es.scenes.captions import caption, prompt, told
from clip_es.scenes.draw import CLASSES, SceneConfig, draw_scene
from clip_es.scenes.losses import contrast, disagree, explain, filip, mismatch
from clip_es.scenes.pairs import Words, draw_shard, make_batch
from clip_es.scenes.recipe import PHASES, Phase, TrainConfig
from clip_es.scenes.train_clip import build, train
from clip_es.scenes.weights import SHIPPED, expand_token_rows, load_scenes_state_dict, shipped_path

FIRST = Phase(steps=14, lr=(0.2, 1.0), size=48, objects=(1, 2), scale=(0.4, 0.9), batch=24)
TINY = TrainConfig(
    instead=(FIRST, Phase(steps=4, size=64, keep=1.0, batch=8, explain=1.0, agree=1.0, cam=1.0, bare=0.5)),
    width=64,
    layers=1,
    grid=4,
    embed=32,
    text_width=64,
    text_layers=1,
    whitening=20,
    shard=48,
    window=2,
    reuse=2,
    draw_ahead=False,
    save_every=5,
)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    losses = {}
    out = tmp_path_factory.mktemp("straight")
    train(TINY, out, report=lambda step, figures: losses.update({step: figures["loss"]}))
    return out, losses


def test_a_few_steps_lower_the_loss(straight):
    _, losses = straight
    assert list(losses) == list(range(1, 19))
    assert np.mean([losses[step] for step in (12, 13, 14)]) < losses[1] - 0.5


def test_a_stopped_run_ends_with_the_weights_of_one_that_was_not(straight, tmp_path):
    for _ in range(3):
        train(TINY, tmp_path, stop_after=7)
    one, two = (load_file(out / "scenes_clip.safetensors") for out in (straight[0], tmp_path))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_drawing_ahead_changes_nothing_but_the_time(straight, tmp_path):
    config = dataclasses.replace(TINY, draw_ahead=True)
    train(config, tmp_path)
    one, two = (load_file(out / "scenes_clip.safetensors") for out in (straight[0], tmp_path))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not list((tmp_path / "pool").iterdir())


def test_shards_that_a_killed_run_has_left_stop_nothing(tmp_path):
    (tmp_path / "pool").mkdir()
    for number in range(TINY.window):
        (tmp_path / "pool" / f"shard-0-{90 + number:05d}.npz").write_bytes(b"of another time")
    train(dataclasses.replace(TINY, draw_ahead=True), tmp_path, stop_after=2)
    assert not list((tmp_path / "pool").iterdir())


def test_a_finished_run_keeps_its_weights(straight):
    path = straight[0] / "scenes_clip.safetensors"
    before = path.read_bytes()
    assert train(TINY, straight[0]) == path
    assert path.read_bytes() == before


def test_a_checkpoint_of_another_config_is_refused(straight):
    with pytest.raises(WeightsError, match="another training"):
        train(dataclasses.replace(TINY, lr=1e-4), straight[0])


def test_another_recipe_may_continue_from_what_both_begin_with(straight, tmp_path):
    begun = dataclasses.replace(TINY, instead=(FIRST, Phase(steps=9, size=64, batch=8)))
    train(begun, tmp_path / "begun", stop_after=14)
    train(TINY, tmp_path / "on", trunk=tmp_path / "begun" / "checkpoint.pt")
    one, two = (load_file(out / "scenes_clip.safetensors") for out in (straight[0], tmp_path / "on"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_phase_that_was_begun_otherwise_is_refused(tmp_path):
    begun = dataclasses.replace(TINY, instead=(FIRST, Phase(steps=9, size=64, batch=8)))
    train(begun, tmp_path / "begun", stop_after=15)
    with pytest.raises(WeightsError, match="phases"):
        train(TINY, tmp_path / "on", trunk=tmp_path / "begun" / "checkpoint.pt")


def test_dense_goes_on_where_plain_ends():
    plain, dense = PHASES["plain"], PHASES["dense"]
    shared = TrainConfig(recipe="plain").trunk_steps
    assert shared == TrainConfig(recipe="dense").trunk_steps == sum(phase.steps for phase in plain)
    assert dense[: len(plain)] == plain
    assert len(dense) > len(plain)
    assert TINY.trunk_steps == 0


def test_plain_has_no_term_of_our_own():
    for phase in PHASES["plain"]:
        assert phase.explain == phase.agree == phase.cam == phase.bare == 0


def test_a_missing_trunk_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read"):
        train(TINY, tmp_path / "out", trunk=tmp_path / "trunk.pt")


def test_a_damaged_checkpoint_is_refused(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"not an archive")
    with pytest.raises(WeightsError, match="cannot be read"):
        train(TINY, tmp_path)


def test_shards_and_batches_follow_from_their_numbers():
    one, two = draw_shard(TINY, 0, 1), draw_shard(TINY, 0, 1)
    assert np.array_equal(one.pictures, two.pictures)
    assert not np.array_equal(one.pictures, draw_shard(TINY, 0, 0).pictures)
    words = Words()
    a, b = make_batch(TINY, [one], 3, words), make_batch(TINY, [two], 3, words)
    assert torch.equal(a.pixels, b.pixels)
    assert torch.equal(a.tokens, b.tokens)
    assert a.pixels.shape == (24, 3, 48, 48)
    assert a.kept.shape == (24, 4)
    assert not torch.equal(a.pixels, make_batch(TINY, [one], 4, words).pixels)


def test_the_learning_rate_moves_evenly_within_a_phase():
    config = TrainConfig(instead=(Phase(4, lr=(0.0, 1.0)), Phase(2), Phase(4, lr=(1.0, 0.5))), lr=2.0)
    assert [config.lr_at(step) for step in range(10)] == [0, 0.5, 1, 1.5, 2, 2, 2, 1.75, 1.5, 1.25]


@pytest.mark.parametrize("wrong", [{"instead": (Phase(1, size=50),)}, {"instead": (Phase(1, keep=0.0),)}])
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(ConfigError):
        TrainConfig(**wrong)


def test_cutting_the_vocabulary_down_keeps_every_sentence():
    words = Words()
    (row,) = words.encode(["a photo of a kitten."]).tolist()
    assert words.rows[row].tolist() == tokenize(["a photo of a kitten."])[0].tolist()
    assert words.rows.tolist() == sorted(words.rows.tolist())
    assert row[-1] == len(words.rows) - 1


def test_every_caption_can_be_told_in_the_tokens_that_are_kept():
    words, rng = Words(), np.random.default_rng(0)
    for index in range(150):
        scene = draw_scene(14, index, SceneConfig((48, 48)))
        said = caption(rng, told(scene), scene.backgrounds, scene.condition)
        tokens = words.encode([said.text, *(prompt(rng, noun) for noun in (*said.things, *said.places))])
        assert tokens.min() >= 0


def test_contrast_is_lowest_where_positives_win():
    positive = torch.tensor([[True, False, True], [False, True, False]])
    assert contrast(20 * positive.float(), positive) < 1.2
    assert contrast(-20 * positive.float(), positive) > 20


def test_filip_is_lowest_where_patches_and_nouns_of_a_pair_meet():
    says, same = torch.tensor([[True, True, False], [False, False, True]]), torch.eye(2, dtype=torch.bool)
    right = torch.full((2, 8, 3), -20.0)
    right[0, ::2, 0], right[0, 1::2, 1], right[1, :, 2] = 20.0, 20.0, 20.0
    assert filip(right, says, same) < 1e-4
    assert filip(right.flip(0), says, same) > 10
    # Of the patches of a picture that shows both nouns, each needs one; of the nouns, each needs a patch.
    soft, lost = right / 10, right / 10
    lost[0, :, 1] = -2.0
    assert filip(lost, says, same) > filip(soft, says, same) + 0.02


def test_filip_takes_the_best_patch_of_a_noun_and_the_best_noun_of_a_patch():
    says, same = torch.tensor([[True, True], [False, True]]), torch.eye(2, dtype=torch.bool)
    logits = torch.tensor([[[1.0, 0.0]], [[0.0, 3.0]]])
    # One patch: pictures to sentences [[max(1, 0), 0], [max(0, 3), 3]]; sentences to pictures [[0.5, 1.5], [0, 3]].
    best, by_noun = torch.tensor([[1.0, 0.0], [3.0, 3.0]]), torch.tensor([[0.5, 1.5], [0.0, 3.0]])
    target = torch.tensor([0, 1])
    wanted = (F.cross_entropy(best, target) + F.cross_entropy(by_noun, target)) / 2
    assert filip(logits, says, same) == pytest.approx(wanted.item())


def test_patches_explained_by_named_nouns_cost_nothing():
    says, placed = torch.tensor([[True, True, False]]), torch.tensor([True])
    right = torch.tensor([[[40.0, 0, 0], [0, 40.0, 0]]])
    assert explain(right, says, placed) < 1e-6
    unnamed = torch.tensor([[[40.0, 0, 0], [0, 0, 40.0]]])
    assert explain(unnamed, says, placed) > 10
    # A sentence that is silent about the background does not tell what its patches are.
    assert explain(right, says, torch.tensor([False])) < 1e-6


def test_attention_to_what_shows_the_same_costs_nothing():
    reading = torch.tensor([[[1.0, 0], [1, 0], [0, 1], [0, 1]]])
    among_equals = torch.tensor([[[[0, 1.0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]]])
    assert disagree(among_equals, reading, torch.tensor([True])) < 1e-6
    assert disagree(among_equals.roll(2, dims=-1), reading, torch.tensor([True])) > 5
    assert disagree(among_equals.roll(2, dims=-1), reading, torch.tensor([False])) == 0


def test_attention_to_oneself_does_not_count():
    reading = torch.tensor([[[1.0, 0], [1, 0], [0, 1]]])
    selfish = torch.tensor([[[[0.9, 0.1, 0], [0.1, 0.9, 0], [0, 0.1, 0.9]]]])
    assert disagree(selfish, reading, torch.tensor([True])) > 3


def test_a_map_like_the_reading_costs_nothing_and_its_opposite_the_most():
    entering = torch.tensor([[[0.0, 0], [1.0, 0], [-1.0, 0]]], requires_grad=True)
    wanted, usable = torch.tensor([[1.0, 0.0]]), torch.tensor([True])
    up = entering[:, :, 0].sum(dim=1, keepdim=True)
    assert mismatch(up, entering, wanted, usable) < 1e-6
    assert mismatch(-up, entering, wanted, usable) > 2 - 1e-6
    assert mismatch(up, entering, wanted, torch.tensor([False])) == 0


def test_missing_token_rows_become_the_mean_row():
    table = expand_token_rows(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor([1, 4]), vocabulary=5)
    assert table.tolist() == [[2, 4], [1, 2], [2, 4], [2, 4], [3, 6]]


def test_a_file_without_token_rows_is_refused(tmp_path):
    save_file({"token_embedding.weight": torch.zeros(3, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="token_rows"):
        load_scenes_state_dict(tmp_path / "other.safetensors")


def test_missing_or_damaged_weights_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read"):
        load_scenes_state_dict(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"\x01")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_scenes_state_dict(tmp_path / "bad.safetensors")


@pytest.fixture(scope="module", params=list(SHIPPED))
def shipped(request):
    state = load_scenes_state_dict(shipped_path(request.param))
    config = TrainConfig()
    sizes = TowerSizes(
        patch=config.patch,
        width=config.width,
        layers=config.layers,
        grid=config.grid,
        embed=config.embed,
        text_width=config.text_width,
        text_layers=config.text_layers,
    )
    model = CLIP(sizes)
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def test_the_shipped_files_have_ten_megabytes_in_all():
    shipped = [path for path in shipped_path().parent.iterdir() if path.suffix == ".safetensors"]
    assert {path.name for path in shipped} >= set(SHIPPED.values())
    assert sum(path.stat().st_size for path in shipped) <= 10_000_000


def test_the_shipped_models_have_the_sizes_of_the_defaults(shipped):
    assert shipped.token_embedding.weight.shape == (49408, TrainConfig().text_width)


def test_the_shipped_models_find_the_labels_of_fresh_scenes(shipped):
    text = F.normalize(shipped.encode_text(tokenize([f"a photo of a {name}." for name in CLASSES])), dim=-1)
    mean = torch.tensor((0.48145466, 0.4578275, 0.40821073))[:, None, None]
    std = torch.tensor((0.26862954, 0.26130258, 0.27577711))[:, None, None]
    found = []
    for index in range(60):
        scene = draw_scene(424242, index, SceneConfig((208, 208)))
        pixels = (torch.from_numpy(scene.picture).permute(2, 0, 1) / 255 - mean) / std
        image = F.normalize(shipped.visual(pixels[None])[0, 1:].mean(0) @ shipped.visual.proj, dim=0)
        best = (text @ image).topk(len(scene.class_ids)).indices.tolist()
        found.append(len({*best} & {*scene.class_ids}) / len(scene.class_ids))
    # Guessing finds about one label in thirteen.
    assert np.mean(found) > 0.6


def test_the_untrained_model_follows_from_the_seed():
    words = Words()
    one, two = (build(TINY, words).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = build(dataclasses.replace(TINY, seed=1), words).state_dict()
    assert not torch.equal(one["visual.proj"], other["visual.proj"])
