"""Pixels compared with text: what a row of the table may change, and what not."""

import pytest
import torch
from jaxtyping import TypeCheckError

from clip_es.encoder import load_encoder
from clip_es.errors import ConfigError, ShapeError
from clip_es.segmentor.models.pixel_embedding import ClipPixelEmbedding, PixelEmbedding
from clip_es.segmentor.models.pixel_text import (
    Fold,
    PixelText,
    class_blocks,
    class_logits,
    pixel_text_logits,
    resize_scores,
)
from clip_es.segmentor.models.text_table import TextTable, text_table


def table(names, rows, owners):
    return TextTable(("background", *names), rows, torch.tensor(owners))


@pytest.fixture
def features():
    return torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def rows():
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("normalize", [False, True])
def test_permuting_rows_permutes_logits_and_a_new_row_changes_no_other(features, rows, normalize):
    logits = pixel_text_logits(features, rows, normalize=normalize)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    permuted = pixel_text_logits(features, rows[order], normalize=normalize)
    torch.testing.assert_close(permuted, logits[:, order], rtol=0, atol=1e-6)
    more = pixel_text_logits(features, torch.cat([rows, rows[:1] * 2]), normalize=normalize)
    torch.testing.assert_close(more[:, :7], logits, rtol=0, atol=1e-6)


def test_a_class_answers_with_its_best_row_and_one_without_rows_never():
    logits = torch.tensor([1.0, 5.0, 2.0, 3.0]).reshape(1, 4, 1, 1)
    assert class_logits(logits, torch.tensor([0, 2, 2, 0]), 4).flatten().tolist() == [3, -1e4, 5, -1e4]


def test_blocks_of_classes_keep_the_rows_of_a_class_together():
    owners = torch.tensor([0, 0, 1, 2, 2, 2, 4])
    assert class_blocks(owners, 5, 3) == [(0, 2), (2, 4), (4, 5)]
    assert class_blocks(owners, 5, 1) == [(0, 1), (1, 2), (2, 3), (3, 5)], "a class of many rows is one block"
    assert class_blocks(owners, 5, 100) == [(0, 5)]


def test_a_fold_of_parts_is_argmax_and_softmax_of_the_whole():
    logits = torch.randn(2, 9, 4, 5, generator=torch.Generator().manual_seed(3))
    logits[:, 7] = logits[:, 2]  # Of equals the first wins.
    fold = Fold()
    for part in logits.split([2, 5, 2], dim=1):
        fold.add(part)
    labels, sure = fold.answer()
    assert torch.equal(labels, logits.argmax(1))
    torch.testing.assert_close(sure, logits.softmax(1).amax(1))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
def test_streamed_rows_give_what_all_rows_at_once_give(own, rows_at_once):
    model, maps = a_model(own)
    names = [f"c{k}" for k in range(6)]
    model.set_table(table(names, torch.randn(10, 5), [3, 0, 1, 1, 2, 4, 5, 6, 6, 6]), bonus=0.7)

    def resize(scores):
        return resize_scores(scores, (17, 21))

    whole = resize(model(maps))
    labels, sure = model.stream(maps, resize, rows_at_once)
    assert torch.equal(labels, whole.argmax(1))
    torch.testing.assert_close(sure, whole.softmax(1).amax(1))


def a_model(own):
    """A head of two classes, and the maps of a picture."""
    torch.manual_seed(0)
    widths = (4, 6, 10) if own else (4, 6)
    embedding = (ClipPixelEmbedding if own else PixelEmbedding)(widths, 5, 8)
    model = PixelText(embedding, table(["a", "b"], torch.randn(3, 5), [0, 1, 2]), objectness=own, channels=8).eval()
    if own:
        torch.nn.init.normal_(model.ahead.weight)
    return model, [torch.randn(1, 4, 8, 8), *(torch.randn(1, width, 4, 4) for width in widths[1:])]


@pytest.mark.parametrize("own", [False, True])
def test_other_classes_with_the_same_weights(own):
    model, maps = a_model(own)
    before = model(maps)
    assert before.shape == (1, 3, 8, 8)
    rows = torch.cat([model.rows, torch.randn(2, 5)])
    model.set_table(table(["a", "b", "zebra"], rows, [0, 1, 2, 3, 3]))
    after = model(maps)
    torch.testing.assert_close(after[:, :3], before)
    # The second where annotations are enforced.
    with pytest.raises((ShapeError, TypeCheckError), match=r"one width. Expected text of 5 numbers.* Found 4|'rows'"):
        model.set_table(table(["a"], torch.randn(2, 4), [0, 1]))


@pytest.mark.parametrize("own", [False, True])
def test_rows_given_class_by_class_answer_as_the_table_does(own):
    model, maps = a_model(own)
    asked = table(["x", "y", "z"], torch.randn(6, 5), [0, 1, 1, 2, 2, 3])
    text = asked.by_class()
    assert text.shape == (4, 2, 5)
    assert torch.equal(text[0, 0], text[0, 1]), "filled up with its first row"
    got = model.logits_of(maps, text)
    model.set_table(asked)
    torch.testing.assert_close(got, model(maps))
    with pytest.raises(ConfigError, match=r"has no words. Found background"):
        table(["x"], torch.randn(1, 5), [1]).by_class()


def test_clips_own_embeddings_come_to_pixels_as_means_of_near_patches():
    """At first by distance alone: a pixel in the middle of a patch is mostly that patch, and weights sum to one."""
    embedding = ClipPixelEmbedding((4, 3), 3, 8).eval()
    own = torch.eye(3)[[0, 1, 2, 0]].T.reshape(1, 3, 2, 2)
    seen = embedding.embed(embedding.joined([torch.randn(1, 4, 8, 8)]), [torch.zeros(1, 4, 8, 8), own])
    torch.testing.assert_close(seen.sum(1), torch.ones(1, 8, 8))
    assert seen[0, :, 1, 1].argmax() == 0
    assert seen[0, :, 1, 6].argmax() == 1
    assert seen[0, :, 6, 1].argmax() == 2


def test_words_make_rows_and_bad_lists_are_named():
    encoder = load_encoder("scenes", device="cpu")
    made = text_table(encoder, [("cat", "kitten"), ("cow",)], ("sky", "sea"))
    assert made.names == ("background", "cat", "cow")
    assert made.owners.tolist() == [0, 0, 1, 1, 2]
    torch.testing.assert_close(made.rows.norm(dim=1), torch.ones(5))
    with pytest.raises(ConfigError, match="an empty list"):
        text_table(encoder, [])
    with pytest.raises(ConfigError, match=r"named twice. Found cat"):
        text_table(encoder, [("cat",), ("cow",), ("cat",)])
    with pytest.raises(ConfigError, match="no name"):
        text_table(encoder, [("cat",), (" ",)])
    with pytest.raises(ConfigError, match=r"reads nothing of a class name.* Found '\\x00'"):
        text_table(encoder, [("cat",), ("\x00",)])
    with pytest.raises(ConfigError, match="reads nothing of a background word"):
        text_table(encoder, [("cat",)], ["\x00"])
    with pytest.raises(ConfigError, match="'fire hydrant' and 'Fire  Hydrant', which CLIP reads alike"):
        text_table(encoder, [("fire hydrant",), ("Fire  Hydrant",)])


@pytest.mark.parametrize("scale", [None, 14.29])
def test_a_text_head_trained_on_seen_colours_knows_unseen_ones(scale):
    """Text vector of a colour: a fixed random linear image of a smooth code; pixels: the code with noise."""
    unseen_iou = []
    for seed in range(2):
        torch.manual_seed(seed)
        hues = torch.linspace(0, 1, 17)[:16]
        code = torch.stack([(2 * torch.pi * hues).cos(), (2 * torch.pi * hues).sin(), hues], dim=1)
        text = code @ torch.randn(3, 16)
        unseen = torch.tensor([3, 8, 12])
        seen = torch.tensor([k for k in range(16) if k not in unseen])
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 1), torch.nn.ReLU(), torch.nn.Conv2d(64, 16, 1))
        optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)

        def pixels(classes, code=code):
            return (code[classes] + 0.03 * torch.randn(len(classes), 3)).T.reshape(1, 3, 1, -1)

        normal = {"normalize": scale is not None, "scale": scale}
        for _ in range(500):
            target = torch.randint(0, len(seen), (256,))
            logits = pixel_text_logits(net(pixels(seen[target])), text[seen], **normal)
            loss = torch.nn.functional.cross_entropy(logits[0, :, 0].T, target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        truth = torch.arange(16).repeat_interleave(60)
        found = pixel_text_logits(net(pixels(truth)), text, **normal)[0, :, 0].argmax(0)
        both = [((found == k) & (truth == k)).sum() / ((found == k) | (truth == k)).sum() for k in unseen]
        unseen_iou.append(float(sum(both) / 3))
    assert sum(unseen_iou) / 2 > 0.6
