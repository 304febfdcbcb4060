"""Text banks: the recorded vectors, and how templates and synonyms are averaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clip_es.encoder import Encoder, load_encoder
from clip_es.encoder.tokenize import tokenize
from clip_es.errors import ConfigError, DataError
from clip_es.prompts import ClassEntry, Vocabulary, build_bank, load_vocabulary

GOLDEN = Path(__file__).parents[1] / "golden" / "clip-es"
GARDEN = Vocabulary("garden", (ClassEntry("rose"), ClassEntry("bee", "bee insect", ("insect", "wasp"))), ("sky",))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(GOLDEN / "tiny224.pt", device="cpu")


@pytest.mark.parametrize(("name", "recorded"), [("voc12", "voc"), ("coco14", "coco")])
def test_vectors_and_tokens_are_the_recorded_ones(name, recorded, encoder):
    told = np.load(GOLDEN / "text_tiny224.npz")
    vocabulary = load_vocabulary(name)
    words = [entry.prompt for entry in vocabulary.classes] + list(vocabulary.background)
    ids = tokenize([vocabulary.templates[0].replace("{}", word) for word in words]).numpy()
    wanted = np.concatenate([told[f"tokens_fg_{recorded}"], told[f"tokens_bg_{recorded}"]])
    assert np.array_equal(ids, wanted[:, : ids.shape[1]])
    assert not wanted[:, ids.shape[1] :].any()

    bank = build_bank(encoder, vocabulary)
    vectors = np.concatenate([told[f"text_fg_{recorded}"], told[f"text_bg_{recorded}"]])
    assert np.abs(bank.vectors.numpy() - vectors).max() <= 2e-6
    assert bank.class_count == len(vocabulary.classes)
    assert bank.names == vocabulary.names + vocabulary.background


def test_synonyms_are_fused_averaged_or_left_out(encoder):
    def unit(word: str) -> torch.Tensor:
        return encoder.encode_text([GARDEN.templates[0].replace("{}", word)])[0]

    def bee(synonyms: str) -> torch.Tensor:
        return build_bank(encoder, GARDEN, synonyms=synonyms).vectors[1]

    def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)

    close(bee("sentence"), unit("bee insect"))
    close(bee("none"), unit("bee"))
    close(bee("mean"), F.normalize((unit("bee") + unit("insect") + unit("wasp")) / 3, dim=0))


def test_several_templates_are_averaged_as_unit_vectors(encoder):
    one, two = encoder.encode_text(["a rose.", "the rose."])
    bank = build_bank(encoder, GARDEN, templates=["a {}.", "the {}."])
    torch.testing.assert_close(bank.vectors[0], F.normalize(one + two, dim=0), rtol=0, atol=1e-6)
    same = build_bank(encoder, replace(GARDEN, templates=("a {}.", "the {}.")))
    assert torch.equal(same.vectors, bank.vectors)
    assert same.source == bank.source


def test_without_background_only_classes_remain(encoder):
    bank = build_bank(encoder, GARDEN, background=False)
    assert (bank.names, bank.class_count, len(bank.background)) == (("rose", "bee"), 2, 0)


def test_the_source_tells_weights_and_words_apart(encoder):
    banks = [
        build_bank(encoder, GARDEN),
        build_bank(encoder, GARDEN, templates=["a {}."]),
        build_bank(encoder, GARDEN, synonyms="none"),
        build_bank(encoder, GARDEN, background=False),
        build_bank(Encoder(encoder.model, source="other weights"), GARDEN),
    ]
    assert len({bank.source for bank in banks}) == len(banks)
    assert build_bank(encoder, GARDEN).source == banks[0].source


def test_a_word_with_a_brace_stands_as_it_is(encoder):
    odd = Vocabulary("odd", (ClassEntry("{}"), ClassEntry("{0}")))
    assert build_bank(encoder, odd).vectors.shape == (2, 64)


def test_bad_requests_are_named(encoder):
    with pytest.raises(ConfigError, match="template"):
        build_bank(encoder, GARDEN, templates=["a photo."])
    with pytest.raises(ConfigError, match="at least one template"):
        build_bank(encoder, GARDEN, templates=[])
    with pytest.raises(DataError, match="77 tokens"):
        build_bank(encoder, Vocabulary("long", (ClassEntry("dog " * 80),)))
