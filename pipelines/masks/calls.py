"""What a Python call is given, one picture or many, put into records; and many of them through the method in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set, Sized
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from clip_es.errors import ClipEsError, ConfigError, DataError, ShapeError
from clip_es.given import given_path, in_memory, is_one_picture
from clip_es.pipelines.masks.method import Steps, masks
from clip_es.pipelines.masks.result import FailedPicture, MaskResult
from clip_es.pipelines.parallel.executor import Executor, Failure
from clip_es.pipelines.parallel.pool import Pool
from clip_es.prompts import Vocabulary
from clip_es.types import ImageRecord

_BATCHES_AHEAD = 4
"""Batches that are read before the first picture of them comes out: pictures of one size are looked for among them."""

_END = object()

Given = ImageRecord | FailedPicture
"""A picture that is ready to be read, or why it is not."""


def class_ids_of(labels: Any, vocabulary: Vocabulary) -> tuple[int, ...]:
    """Ids of the names of one picture; a single name needs no list, and the order of a set does not count.

    Raises DataError: something is no name, or not in the vocabulary.
    """
    if labels is None:
        return ()
    if isinstance(labels, str) and labels == "auto" and labels not in vocabulary.names:
        raise ConfigError(
            "a maker finds labels where it is made so",
            expected='clip_es.load(..., labels="auto")',
            found='labels="auto"',
        )
    names = [labels] if isinstance(labels, str) else labels
    if not isinstance(names, Iterable):
        raise DataError(
            "the labels of a picture are a list of names", expected='["cat", "dog"]', found=type(labels).__name__
        )
    ids = [_class_id(name, vocabulary) for name in names]
    return tuple(sorted(set(ids)) if isinstance(names, (set, frozenset)) else dict.fromkeys(ids))


def _class_id(name: object, vocabulary: Vocabulary) -> int:
    if isinstance(name, str):
        return vocabulary.class_id(name)
    number = isinstance(name, (int, np.integer)) and not isinstance(name, bool)
    known = number and 0 <= int(name) < len(vocabulary.names)  # pyright: ignore[reportArgumentType]
    raise DataError(
        "a label is the name of a class",
        expected=f"one of {', '.join(vocabulary.names[:20])}{', ...' if len(vocabulary.names) > 20 else ''}",
        found=f"{name!r:.60} ({type(name).__name__})",
        next_step=f"Class {name} is {vocabulary.names[int(name)]!r}." if known else None,  # pyright: ignore[reportArgumentType]
    )


def record_of(image: Any, labels: Any, vocabulary: Vocabulary, image_id: str = "picture") -> ImageRecord:
    """The record of one picture; `image_id` is its name where it has no file.

    Raises DataError: labels that are no names; no kind of picture this knows.
    """
    path = given_path(image)
    class_ids = class_ids_of(labels, vocabulary)
    if path is not None:
        return ImageRecord(path.stem or image_id, path, class_ids)
    where = Path(image_id)
    return ImageRecord(image_id, where, class_ids, image=in_memory(image, where))


def given_records(images: Iterable[Any], labels: Any, vocabulary: Vocabulary, needed: bool) -> Iterator[Given]:
    """Records of many pictures, numbered from 0; those that cannot be are failures, in their place.

    `labels`: a list of names for each picture; None: each of `images` is a pair of picture and names, or has none.
    Raises DataError, at once or where it shows: not several pictures, or labels that are no list for each.
    """
    if isinstance(images, Mapping) or is_one_picture(images):
        raise DataError(
            "these are not several pictures in an order",
            expected="a list or a generator of pictures, a batch [b h w 3] or a tensor [b 3 h w]",
            found=type(images).__name__,
            next_step="Pass its values()." if isinstance(images, Mapping) else "For one picture: maker(image, labels).",
        )
    if not isinstance(images, Iterable):
        images = np.asarray(images)
    if labels is not None and not _is_column(labels):
        raise DataError(
            "several pictures need the labels of each",
            expected='[["cat", "dog"], ["tree"]], one list for each picture',
            found=f"{labels!r:.80}",
            next_step="For the same labels in all: [labels] * len(images).",
        )
    lengths = [len(each) for each in (images, labels) if isinstance(each, Sized)]
    if len(lengths) == 2 and lengths[0] != lengths[1]:
        raise ShapeError(
            "there must be labels for each picture", expected=f"{lengths[0]} lists of names", found=lengths[1]
        )
    return _records(iter(images), None if labels is None else iter(labels), vocabulary, needed)


def _is_column(labels: Any) -> bool:
    """Whether these may be the labels of several pictures: a list, a generator or a column with an entry for each."""
    if isinstance(labels, Sequence):
        return not isinstance(labels, (str, bytes)) and not any(isinstance(one, str) for one in labels)
    return isinstance(labels, Iterable) and not isinstance(labels, (Set, Mapping))


def _records(
    images: Iterator[Any], labels: Iterator[Any] | None, vocabulary: Vocabulary, needed: bool
) -> Iterator[Given]:
    for number in count():
        image = next(images, _END)
        names = None if labels is None else next(labels, _END)
        if image is _END and (names is _END or names is None):
            return
        if image is _END or names is _END:
            raise ShapeError(
                "there must be labels for each picture",
                found=f"{number} picture{'s' * (number != 1)} and more labels"
                if image is _END
                else f"more pictures than {number} labels",
            )
        if labels is None and isinstance(image, tuple) and len(image) == 2:
            image, names = image
        image_id = f"picture-{number}"
        try:
            image_id = (path.stem if (path := given_path(image)) else "") or image_id
            record = record_of(image, names, vocabulary, image_id)
            if needed and names is None:
                raise labels_missing(record.path)
            yield record
        except ClipEsError as error:
            yield FailedPicture(image_id, "given", error)


def labels_missing(where: Path) -> ConfigError:
    """The error of a picture whose labels are neither given nor to be found."""
    return ConfigError(
        "the labels of the picture are not given", where=where, next_step='Pass them, or make it with labels="auto".'
    )


def stream(
    given: Iterator[Given], steps: Steps, readers: Pool, workers: Pool, batch_size: int
) -> Iterator[MaskResult | FailedPicture]:
    """The results in the order of the pictures, each as soon as those before it are known.

    Some batches of pictures are read ahead, so that those of one size meet; memory does not grow with their number.
    Where the pictures themselves end with an error, those before it are still done.
    """
    window = batch_size if batch_size == 1 else _BATCHES_AHEAD * batch_size
    ended: Exception | None = None
    while ended is None:
        waiting: list[Given] = []
        try:
            while len(waiting) < window:
                waiting.append(next(given))
        except StopIteration as end:
            ended = end
        except Exception as error:
            ended = error
        yield from _done(waiting, steps, readers, workers, batch_size)
    if not isinstance(ended, StopIteration):
        raise ended


def _done(
    waiting: Sequence[Given], steps: Steps, readers: Pool, workers: Pool, batch_size: int
) -> Iterator[MaskResult | FailedPicture]:
    places = {id(one): place for place, one in enumerate(waiting)}
    found = {place: one for place, one in enumerate(waiting) if isinstance(one, FailedPicture)}
    results: dict[int, MaskResult | FailedPicture] = dict(found)

    def failed(failure: Failure) -> None:
        if isinstance(failure.error, ConfigError):
            raise failure.error  # It would meet every other picture, too.
        one = FailedPicture(failure.record.image_id, failure.stage, failure.error)
        results[places[id(failure.record)]] = one

    executor = Executor(failed, readers=readers, workers=workers)
    records = [one for one in waiting if isinstance(one, ImageRecord)]
    out = 0
    for record, result in masks(records, steps, executor, batch_size):
        results[places[id(record)]] = result
        while out in results:
            yield results.pop(out)
            out += 1
    for place in range(out, len(waiting)):
        yield results.pop(place)
