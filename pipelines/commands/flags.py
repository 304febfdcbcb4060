"""Flags that several commands share, with the help that their tables give."""

from __future__ import annotations

from typing import Annotated

import tyro

from clip_es.prompts.vocabulary import PACKAGED

_WEIGHTS = "ViT-B/32, ViT-B/16, ViT-L/14, ViT-L/14@336px (each fetched once), scenes (in the package), or a file."
_OTHERS = "a YAML file, a text file with one name a line, or names such as cat,dog"

VocabularyFlag = Annotated[
    str, tyro.conf.arg(help=f"Classes, prompts, background words, template: {', '.join(PACKAGED)}, {_OTHERS}.")
]
"""Which words."""

OwnVocabularyFlag = Annotated[
    str | None, tyro.conf.arg(help=f"{', '.join(PACKAGED)}, {_OTHERS}; None: as run.yaml says.")
]
"""Which words, where a run knows its own."""

WeightsFlag = Annotated[str, tyro.conf.arg(help=_WEIGHTS)]
"""Which CLIP."""
