"""Flags that several commands share, with the help that their tables give."""

from __future__ import annotations

from typing import Annotated, Literal

import tyro

from clip_es.encoder.download import OFFICIAL
from clip_es.prompts.templates import NAMED
from clip_es.prompts.templates import PACKAGED as TEMPLATES
from clip_es.prompts.vocabulary_files import PACKAGED
from clip_es.records.labels.formats import LABEL_FORMATS, LabelFormatName
from clip_es.store.shards.forms import FORMS

_WEIGHTS = (
    f"{', '.join(OFFICIAL)} (each fetched once), scenes or scenes-plain (in the package), a file, a snapshot folder, "
    "or a name on the hub such as openai/clip-vit-base-patch16 (extra `hub`)."
)
_KNOWN = "; ".join(f"{name}: {what}" for name, what in PACKAGED.items())
_OTHERS = "a YAML file, a text file with one name per line, or names such as cat,dog"

VocabularyFlag = Annotated[
    str, tyro.conf.arg(help=f"Classes, prompts, background words, template. {_KNOWN}; {_OTHERS}.")
]
"""Which words."""

DataVocabularyFlag = Annotated[
    str | None,
    tyro.conf.arg(
        help=f"Classes, prompts, background words, template. {_KNOWN}; {_OTHERS}. None: of a folder, the names of its "
        "sub-folders or those in its table of labels."
    ),
]
"""Which words, where the data set may have its own."""

LabelsFormatFlag = Annotated[
    LabelFormatName | None,
    tyro.conf.arg(help=f"What --labels holds. {LABEL_FORMATS.sentences()}. None: seen from what it holds."),
]
"""How labels are written."""

TemplateFlag = Annotated[
    tuple[str, ...],
    tyro.conf.arg(
        help="Sentences in place of the vocabulary's, with {} for the class; several are averaged. By name: "
        + "; ".join(f"{name}: {text}" for name, text in NAMED.items())
    ),
]
"""Which sentences for every class."""

OwnVocabularyFlag = Annotated[
    str | None, tyro.conf.arg(help=f"{', '.join(PACKAGED)}, {_OTHERS}; None: as run.yaml says.")
]
"""Which words, where a run knows its own."""

TemplateListsFlag = Annotated[
    tuple[str, ...],
    tyro.conf.arg(
        help=f"Lists to compare, joined: {'; '.join(f'{name}: {what}' for name, what in TEMPLATES.items())}; "
        "or text files of one template per line."
    ),
]
"""Which sentences."""

WeightsFlag = Annotated[str, tyro.conf.arg(help=_WEIGHTS)]
"""Which CLIP."""

FormFlag = Annotated[
    Literal["folder", "webdataset", "parquet"] | None,
    tyro.conf.arg(
        help="What the results become. folder: a file for each mask, a report; "
        + "; ".join(f"{name}: shards, {form.what}" for name, form in FORMS.items())
        + ". None: folder on a disk, webdataset on object storage."
    ),
]
"""How results are kept."""

LimitFlag = Annotated[int | None, tyro.conf.arg(help="Only the first so many pictures, to try things out. None: all.")]
"""How many pictures."""
