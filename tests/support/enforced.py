"""The checker of `pytest --jaxtyping-packages=clip_es,enforced.checked`: beartype, with one exception."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

CHECK = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""With the rule of every type checker that an int will do where a float is wanted."""


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse arguments and results that the annotations of a function do not allow.

    The options of a command and of its source are left alone: tyro fills those that are required with its MISSING until
    it has read the flags, and checks their types itself.
    """
    options = function.__name__ == "__init__" and function.__module__.startswith("clip_es.pipelines.commands.")
    return function if options else CHECK(function)
