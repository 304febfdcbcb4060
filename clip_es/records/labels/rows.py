"""Rows of a Hugging Face data set, whose pictures lie in tables: each is written once as a file, its labels beside it.

Rows are streamed: memory does not grow with them, and nothing is decoded or encoded again. What stands in the folder
then is an ordinary Hugging Face folder: pictures and `metadata.jsonl`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_es.decode import PICTURES
from clip_es.errors import ConfigError, DataError
from clip_es.records.labels.cells import FIELDS
from clip_es.records.labels.declared import labels_of, names_of
from clip_es.records.text_files import printable, read_whole
from clip_es.store.disk import Lock, StoreError, make_folder, names_in, write_atomic

MARK = "unpacked.json"
METADATA = "metadata.jsonl"
_LARGEST_PICTURE = 2**30
_KINDS = ((b"\xff\xd8\xff", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"BM", ".bmp"), (b"II*\0", ".tif"))


@dataclass(frozen=True)
class Unpacked:
    """A folder with the pictures of a split."""

    folder: Path
    classes: tuple[str, ...]
    """Those that the data set declares."""
    rows: int

    @property
    def labels(self) -> Path:
        """The file of labels."""
        return self.folder / METADATA


def unpack(
    dataset: str,
    split: str,
    folder: Path,
    *,
    image_field: str | None = None,
    label_field: str | None = None,
    done: Callable[[], object] = lambda: None,
) -> Unpacked:
    """Write the pictures of a split and their labels into a folder, unless they are there.

    `dataset`: a folder (saved by `datasets`, or one it loads) or a name on the Hub. `image_field` and `label_field`:
    columns; None: the only column of pictures, the first one called like labels.
    Raises ConfigError: `datasets` is missing, the folder holds something else, or the columns cannot be told.
    DataError: no such data set or split, or a row without a usable picture or label. StoreError.
    """
    asked = {"dataset": dataset, "split": split, "image_field": image_field, "label_field": label_field}
    found = _unpacked(folder, asked)
    if found:
        return found
    make_folder(folder)
    lock = Lock.take(folder, "unpack")
    if lock is None:
        raise ConfigError("another process unpacks into it", where=folder, found=Lock.holder(folder, "unpack"))
    with lock:
        rows = _stream(dataset, split)
        image, label, names = _columns(rows, image_field, label_field, dataset)
        lines, count = [], 0
        for number, row in enumerate(_undecoded(rows, image, dataset), start=1):
            where = f"{dataset} {split} row {number}"
            data = _bytes(row.get(image), where)
            name = f"{number:07d}{_suffix(row.get(image), data)}"
            write_atomic(folder / name, data)
            line = {"file_name": name, "labels": list(labels_of(row.get(label) if label else [], names, where))}
            lines.append(json.dumps(line, ensure_ascii=False))
            count = number
            done()
        if not count:
            raise DataError("has no row", where=f"{dataset} {split}")
        write_atomic(folder / METADATA, ("\n".join(lines) + "\n").encode(), durable=True)
        made = {**asked, "classes": names, "rows": count}
        write_atomic(folder / MARK, (json.dumps(made, ensure_ascii=False) + "\n").encode(), durable=True)
    return Unpacked(folder, tuple(names), count)


def _unpacked(folder: Path, asked: dict[str, Any]) -> Unpacked | None:
    """What was unpacked before; None where that did not come to its end. Raises ConfigError: it is something else."""
    if not (folder / MARK).is_file():
        others = [name for name in names_in(folder) if Path(name).suffix.lower() not in PICTURES and name != METADATA]
        if others:
            raise ConfigError(
                "the folder holds other files",
                where=folder,
                found=printable(", ".join(others)),
                next_step="Pass another --unpack-to.",
            )
        return None
    try:
        told = json.loads(read_whole(folder / MARK, 2**24, "a mark"))
        known = {key: told[key] for key in asked}
        classes, rows = tuple(map(str, told["classes"])), int(told["rows"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError("is damaged", where=folder / MARK, next_step="Remove the folder.") from error
    if known != asked:
        raise ConfigError(
            "holds another data set",
            where=folder,
            expected=printable(json.dumps(asked)),
            found=printable(json.dumps(known)),
            next_step="Pass another --unpack-to.",
        )
    return Unpacked(folder, classes, rows)


def _stream(dataset: str, split: str) -> Any:
    """Rows one after the other, as `datasets` gives them."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            "Hugging Face data sets need the extra `huggingface`", next_step="pip install 'clip-es[huggingface]'."
        ) from error
    top = Path(dataset)
    try:
        if any((top / name).is_file() for name in ("dataset_dict.json", "state.json")):
            saved = datasets.load_from_disk(str(top))
            if isinstance(saved, dict):
                if split not in saved:
                    raise DataError(
                        "has no such split", where=dataset, expected=", ".join(map(str, saved)), found=split
                    )
                saved = saved[split]
            return saved.to_iterable_dataset()  # pyright: ignore[reportAttributeAccessIssue]
        return datasets.load_dataset(dataset, split=split, streaming=True)
    except DataError:
        raise
    except Exception as error:  # The library and what lies below it raise many kinds.
        raise DataError(
            "cannot be loaded",
            where=dataset,
            found=printable(f"{type(error).__name__}: {error}"),
            next_step="Check the name and --split; a Hub name needs the network.",
        ) from error


def _columns(rows: Any, image: str | None, label: str | None, where: str) -> tuple[str, str | None, list[str]]:
    """The column of pictures, that of labels, and the names of the classes it declares."""
    features = dict(rows.features or {})
    pictures = [name for name, kind in features.items() if type(kind).__name__ == "Image"]
    if image is None and len(pictures) != 1:
        raise ConfigError(
            "it is not clear which column holds the pictures",
            where=where,
            expected="one column of pictures",
            found=printable(", ".join(pictures) or f"columns {', '.join(features)}"),
            next_step="Name it with --image-field.",
        )
    wanted = label or next((name for name in FIELDS if name in features), None)
    for name in filter(None, (image, label)):
        if name not in features:
            raise ConfigError("there is no such column", where=where, expected=", ".join(features), found=name)
    names = names_of(features.get(wanted) if wanted else None)
    return image or pictures[0], wanted, names


def _undecoded(rows: Any, image: str, where: str) -> Iterator[dict[str, Any]]:
    """Rows with the bytes of their pictures as they are."""
    import datasets

    try:
        yield from rows.cast_column(image, datasets.Image(decode=False))
    except (GeneratorExit, StoreError):
        raise
    except Exception as error:  # The library and what lies below it raise many kinds.
        raise DataError("a row cannot be read", where=where, found=printable(str(error))) from error


def _bytes(value: Any, where: str) -> bytes:
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, None)
    if isinstance(data, bytes):
        return data
    if isinstance(path, str) and Path(path).is_file():
        return read_whole(Path(path), _LARGEST_PICTURE, "a picture")
    raise DataError("has no picture", where=where, found=printable(repr(path or value), 80))


def _suffix(value: Any, data: bytes) -> str:
    for magic, suffix in _KINDS:
        if data.startswith(magic):
            return suffix
    if data[8:12] == b"WEBP":
        return ".webp"
    own = Path(str(value.get("path") or "")).suffix.lower()
    return own if own in PICTURES else ".jpg"
