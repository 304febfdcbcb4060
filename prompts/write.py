"""A vocabulary as a YAML file, with where its words come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import yaml

from clip_es.prompts.vocabulary import ClassEntry, Vocabulary
from clip_es.store.disk import make_folder, write_atomic


def write_vocabulary(vocabulary: Vocabulary, path: Path, remarks: Sequence[str] = ()) -> None:
    """Write a vocabulary that `load_vocabulary` reads back as it is; `remarks` become the comment at its head.

    Raises StoreError: the disk does not take the file.
    """
    make_folder(path.parent)
    write_atomic(path, vocabulary_text(vocabulary, remarks).encode())


def vocabulary_text(vocabulary: Vocabulary, remarks: Sequence[str] = ()) -> str:
    """The YAML text of a vocabulary."""
    content: dict[str, object] = {"name": vocabulary.name}
    if vocabulary.source:
        content["source"] = vocabulary.source
    if len(vocabulary.templates) == 1:
        content["template"] = vocabulary.templates[0]
    else:
        content["templates"] = list(vocabulary.templates)
    content["box_threshold"] = vocabulary.box_threshold
    content["classes"] = [_entry(entry) for entry in vocabulary.classes]
    content["background"] = list(vocabulary.background)
    head = "".join(f"# {line}\n" for remark in remarks for line in wrap(remark, 118))
    return head + yaml.safe_dump(content, sort_keys=False, width=110, allow_unicode=True, default_flow_style=None)


def _entry(entry: ClassEntry) -> object:
    more: dict[str, object] = {}
    if entry.prompt != entry.name:
        more["prompt"] = entry.prompt
    if entry.synonyms:
        more["synonyms"] = list(entry.synonyms)
    if entry.aliases:
        more["aliases"] = list(entry.aliases)
    return {"name": entry.name, **more} if more else entry.name
