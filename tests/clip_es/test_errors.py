"""What every error of ours carries, and the name that was probably meant."""

from __future__ import annotations

import pickle

from clip_es.errors import DataError, nearest


def test_the_nearest_name_is_given_as_it_is_spelt():
    assert nearest("vit-b/16", ["ViT-B/32", "ViT-B/16", "ViT-L/14"]) == "Nearest: 'ViT-B/16'."
    assert nearest("zebra", ["ViT-B/16"]) == ""


def test_an_error_survives_the_way_to_another_process():
    error = pickle.loads(pickle.dumps(DataError("is bad", where="a.png", expected=1, found=2, next_step="Mend it.")))
    assert str(error) == "a.png: is bad. Expected 1. Found 2. Mend it."
    assert (error.where, error.expected, error.found) == ("a.png", "1", "2")
