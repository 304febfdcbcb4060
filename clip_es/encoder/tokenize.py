"""OpenAI's byte-pair tokenizer, taken from the installed `openai-clip` distribution.

Importing that package would import torchvision and pkg_resources, neither of which its tokenizer needs. So its one
file is loaded by path, and its package init never runs.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from clip_es.errors import ConfigError, DataError

_DISTRIBUTIONS = ("openai-clip", "clip")
"""The registry's copy, and the name under which OpenAI's git repository installs."""


def tokenize(prompts: Sequence[str], context: int = 77, vocabulary: int = 49408) -> Int64[Tensor, "text length"]:
    """Token ids between start and end token, zeros behind; as long as the longest prompt, at most `context`.

    Raises DataError: a prompt has more tokens than the text tower has positions, or a token it has no row for.
    """
    rows = [_ids(prompt) for prompt in prompts]
    for prompt, row in zip(prompts, rows, strict=True):
        if len(row) > context:
            raise DataError(
                f"the prompt '{prompt if len(prompt) <= 200 else prompt[:200] + '...'}' is too long for the text tower",
                expected=f"at most {context} tokens, start and end included",
                found=f"{len(row)} tokens",
                next_step="Shorten the class name, its prompt or the template.",
            )
        if max(row) >= vocabulary:
            raise DataError(
                f"the prompt '{prompt}' has tokens these weights do not know",
                expected=f"token ids below {vocabulary}",
                found=max(row),
                next_step="Use weights with OpenAI's full vocabulary of 49408 tokens.",
            )
    ids = torch.zeros(len(rows), max(map(len, rows), default=0), dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids


@functools.lru_cache(maxsize=65536)
def pieces(text: str) -> tuple[str, ...]:
    """What the tokenizer makes of a text, piece by piece, `</w>` at the end of a word; empty where it reads nothing."""
    tokenizer = _tokenizer()
    return tuple(tokenizer.decoder[i] for i in tokenizer.encode(text))


def _ids(prompt: str) -> list[int]:
    tokenizer = _tokenizer()
    start, end = tokenizer.encoder["<|startoftext|>"], tokenizer.encoder["<|endoftext|>"]
    return [start, *tokenizer.encode(prompt), end]


@functools.cache
def _tokenizer() -> Any:
    file = next((file for file in _candidates() if _complete(file)), None)
    if file is None:
        raise ConfigError(
            "OpenAI's tokenizer is not installed",
            expected="simple_tokenizer.py and bpe_simple_vocab_16e6.txt.gz of the distribution openai-clip",
            next_step="pip install openai-clip==1.0.1",
        )
    return load_file(file).SimpleTokenizer()


def load_file(file: Path) -> Any:
    """A Python file as a module of its own, without the package it lies in."""
    spec = importlib.util.spec_from_file_location(f"_clip_es_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError("this is not a Python file", where=file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _candidates() -> Iterator[Path]:
    for name in _DISTRIBUTIONS:
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        yield Path(str(distribution.locate_file("clip/simple_tokenizer.py")))
    # An editable checkout of OpenAI's repository: looking a top-level package up does not run it.
    spec = importlib.util.find_spec("clip")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(folder) / "simple_tokenizer.py"


def _complete(file: Path) -> bool:
    return file.is_file() and (file.parent / "bpe_simple_vocab_16e6.txt.gz").is_file()
