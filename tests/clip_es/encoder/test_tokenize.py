"""OpenAI's tokenizer without OpenAI's package."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys

import pytest

from clip_es.encoder import tokenize as module
from clip_es.encoder.tokenize import tokenize
from clip_es.errors import ConfigError, DataError


def test_ids_are_openais():
    assert tokenize(["a clean origami aeroplane.", "a dog"]).tolist() == [
        [49406, 320, 3772, 31832, 27735, 3980, 269, 49407],
        [49406, 320, 1929, 49407, 0, 0, 0, 0],
    ]


def test_case_blanks_and_entities_do_not_matter():
    plain, odd = tokenize(["salt & pepper"]), tokenize(["  Salt &amp;  PEPPER "])
    assert plain.tolist() == odd.tolist()


def test_a_prompt_that_is_too_long_is_named_with_its_token_count():
    assert tokenize(["dog " * 75]).shape == (1, 77)
    with pytest.raises(DataError, match=r"'dog dog .*at most 77 tokens.*Found 78 tokens"):
        tokenize(["cat", "dog " * 76])
    with pytest.raises(DataError, match="Found 5 tokens"):
        tokenize(["two dogs and"], context=4)


def test_a_token_the_weights_do_not_know_is_refused():
    with pytest.raises(DataError, match="ids below 300"):
        tokenize(["dog"], vocabulary=300)


def test_no_prompt_is_no_row():
    assert tokenize([]).shape == (0, 0)


def test_the_package_of_openai_and_torchvision_stay_unimported():
    code = (
        "import sys; from clip_es.encoder.tokenize import tokenize; tokenize(['dog']);"
        "print([name for name in ('clip', 'torchvision', 'pkg_resources') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_missing_tokenizer_names_the_fix(monkeypatch):
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    module._tokenizer.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install openai-clip==1\.0\.1"):
        tokenize(["dog"])
    monkeypatch.undo()
    assert tokenize(["dog"]).shape == (1, 3)


def test_an_editable_checkout_is_found_too(monkeypatch):
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    assert any(module._complete(file) for file in module._candidates())
