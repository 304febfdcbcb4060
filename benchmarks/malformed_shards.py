"""Shards for the campaign in malformed.py: sound ones to spoil, and who reads them. Rows of READERS are made of it."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import malformed_mutations as spoilt
import numpy as np
from PIL import Image

from clip_es.config.run import ImageConfig
from clip_es.errors import ClipEsError, DataError
from clip_es.images import read_picture
from clip_es.masks import read_confidence, read_mask
from clip_es.prompts import load_vocabulary
from clip_es.records import shards
from clip_es.storage import Folder, place_of
from clip_es.store.shards import manifest
from clip_es.store.shards.forms import FORMS, FormName
from clip_es.store.shards.store import ShardStore
from clip_es.store.shards.upkeep import check_entry
from clip_es.types import ImageRecord, PseudoMask

SMALL = ImageConfig(max_megapixels=1.0, max_patches=64)


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def tar(members: Iterable[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def picture_tars(_: Path) -> list[bytes]:
    """As webdataset writes them."""
    return [
        tar([("a.png", picture(0)), ("a.json", b'{"labels": ["cat", "dog"]}'), ("b.png", picture(1)), ("b.cls", b"3")]),
        tar([("in/é.png", picture(2)), ("in/é.json", json.dumps({"label": 4}).encode()), ("x" * 120, b"long name")]),
    ]


def picture_tables(_: Path) -> list[bytes]:
    """Bytes and pairs of bytes and path, in Parquet."""
    import pyarrow
    from pyarrow import parquet

    found = []
    for column in ([picture(0), picture(1)], [{"bytes": picture(n), "path": "x.png"} for n in (2, 3)]):
        file = io.BytesIO()
        parquet.write_table(pyarrow.table({"image": column, "labels": [["cat"], ["dog", "car"]]}), file)
        found.append(file.getvalue())
    return found


def pictures(path: Path, home: Path) -> None:
    """Read a shard of pictures, and fetch all of them."""
    vocabulary = load_vocabulary("voc12")
    found = shards([str(path)], class_id=vocabulary.class_id, class_count=20)
    for record in found.records:
        assert "/" not in record.image_id
        assert all(0 <= k < 20 for k in record.class_ids)
        try:
            shown = read_picture(record, 16, SMALL)
        except ClipEsError:
            continue
        assert shown.rgb.dtype == np.uint8
    for problem in found.problems:
        assert problem.reason
        assert "\n" not in problem.reason


@cache
def _run(form: FormName, folder: Path) -> tuple[bytes, bytes]:
    """A shard and its entry."""
    decided = np.random.default_rng(0).integers(0, 3, (9, 11)).astype(np.uint8)
    sure = np.linspace(0, 1, 99, dtype=np.float32).reshape(9, 11)
    some = [ImageRecord(f"p.{n}", folder / f"p.{n}.png", (0, 1)) for n in range(2)]
    with ShardStore.open(folder, {"made": "up"}, classes=("cat", "dog"), form=form) as store:
        (unit,) = store.units(some)
        writer = store.sink.writer(unit)
        for record in some:
            writer.save(record, PseudoMask(decided, sure, (0, 1), decided))
        entry = writer.commit()
    place = place_of(folder)
    return place.read(entry.file), place.read(entry.path)


def result_seeds(form: FormName):
    return lambda home: [_run(form, home / f"shards-{form}")[0]]


def results(form: FormName):
    """Reads a shard of results, and what stands in it."""

    def read(path: Path, home: Path) -> None:
        for number, row in enumerate(FORMS[form].decode(path.read_bytes(), str(path))):
            assert "/" not in row.image_id
            for part, data in row.files.items():
                if part.endswith(".png"):
                    own = path.with_name(f"{number}.{part}")
                    own.write_bytes(data)
                    try:
                        (read_confidence if part == "confidence.png" else read_mask)(own)
                    except DataError:
                        continue

    return read


def entry_seeds(home: Path) -> list[bytes]:
    return [_run(form, home / f"shards-{form}")[1] for form in FORMS]


def entry(path: Path, home: Path) -> None:
    """Reads an entry of a manifest, and looks for the shard that it names."""
    found = manifest.parse_entry(path.read_bytes(), str(path))
    check_entry(Folder(home / f"shards-{found.form}"), found)


def below_tar(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Spoil a member, its name, kind or size, under headers whose checksums are right."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            members = [(one, archive.extractfile(one)) for one in archive.getmembers()]
            found = [(one, file.read() if file else b"") for one, file in members]
    except (tarfile.TarError, OSError, ValueError):
        return data
    out, chosen, kind = io.BytesIO(), rng.randrange(max(len(found), 1)), rng.randrange(5)
    for number, (member, content) in enumerate(found):
        if number == chosen and kind == 0:
            content = spoilt.spoil(content, rng, other)
        if number == chosen and kind == 1:
            member.name = rng.choice(
                ["../../x.png", "/etc/passwd", "a\nb.png", ".json", "a.pkl", "", "a." * 90 + "png"]
            )
        member.size = len(content)
        if number == chosen and kind == 2:
            member.size = rng.choice([0, 1, 2**31, 2**33, 2**40, -512, len(content) + 512])
        if number == chosen and kind == 3:
            member.type, member.linkname = rng.choice([b"1", b"2", b"3", b"5", b"6", b"S", b"L", b"x", b"g"]), "../x"
        member.pax_headers = {}
        out.write(member.tobuf(tarfile.GNU_FORMAT))
        out.write(content + bytes(-len(content) % 512))
        if number == chosen and kind == 4:
            out.write(content)
    return out.getvalue() + bytes(1024)
