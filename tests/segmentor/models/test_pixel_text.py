"""Pixels compared with text: what a row of the table may change, and what not."""

import pytest
import torch
from jaxtyping import TypeCheckError

from clip_es.encoder import load_encoder
from clip_es.errors import ConfigError, ShapeError
from clip_es.segmentor.models.pixel_text import (
    ClipPixelEmbedding,
    PixelEmbedding,
    PixelText,
    TextTable,
    class_logits,
    pixel_text_logits,
    resize_scores,
    stream_labels,
    text_table,
)


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


def test_many_rows_are_folded_into_one_answer_some_at_a_time(features, rows):
    asked = table([f"c{k}" for k in range(6)], rows, [0, 1, 2, 3, 4, 5, 6])
    logits = resize_scores(pixel_text_logits(features, rows, normalize=True, scale=9.0), (9, 10))
    for some in (1, 3, 100):
        labels, sure = stream_labels(features, asked, (9, 10), scale=9.0, rows_at_once=some)
        assert torch.equal(labels, logits.argmax(1))
        torch.testing.assert_close(sure, logits.softmax(1).amax(1))


@pytest.mark.parametrize("own", [False, True])
def test_other_classes_with_the_same_weights(own):
    torch.manual_seed(0)
    widths = (4, 6, 10) if own else (4, 6)
    embedding = (ClipPixelEmbedding if own else PixelEmbedding)(widths, 5, 8)
    model = PixelText(embedding, table(["a", "b"], torch.randn(3, 5), [0, 1, 2]), objectness=own, channels=8).eval()
    maps = [torch.randn(1, 4, 8, 8), *(torch.randn(1, width, 4, 4) for width in widths[1:])]
    before = model(maps)
    assert before.shape == (1, 3, 8, 8)
    rows = torch.cat([model.rows, torch.randn(2, 5)])
    model.set_table(table(["a", "b", "zebra"], rows, [0, 1, 2, 3, 3]))
    after = model(maps)
    torch.testing.assert_close(after[:, :3], before)
    # The second where annotations are enforced.
    with pytest.raises((ShapeError, TypeCheckError), match=r"one width. Expected text of 5 numbers.* Found 4|'rows'"):
        model.set_table(table(["a"], torch.randn(2, 4), [0, 1]))


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
