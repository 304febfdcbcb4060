"""Ways to spoil a file: bytes, lengths, tokens, pieces of other files; and the same below checksums and compression."""

from __future__ import annotations

import contextlib
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable

TOKENS = (
    *(
        b"",
        b"\0",
        b"\xff",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\r",
        b"\n\n",
        b'"',
        b"'",
        b";",
        b",",
        b":",
        b"%",
        b"\\",
        b"/",
    ),
    *(b"../../../outside/escaped", b"/etc/passwd", b"..\\..\\outside", b"CON", b"~", b"$HOME", b"a" * 5000),
    *(b"-1", b"0", b"1e999", b"NaN", b"Infinity", b"-0", b"9" * 400, b"9" * 5000, b"0x7fffffff", b"1_000", b"\xd9\xa3"),
    *(
        b"null",
        b"true",
        b"[]",
        b"{}",
        b"[" * 3000,
        b"{" * 3000,
        b'{"a":' * 2000,
        b"\\ud800",
        b"\xed\xa0\x80",
        b"\\u0000",
    ),
    b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>',
    b"<!DOCTYPE a [" + b'<!ENTITY a "aaaaaaaaaa">' + b'<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;">' * 3 + b"]>",
    *(b"&b;", b"&#0;", b"&#xD800;", b"<a>" * 3000, b"<![CDATA[", b"<?xml version='1.1' encoding='utf-7'?>", b"<!--"),
    *(b'<?xml version="1.0" encoding="EUC-JP"?>', b'<?xml version="1.0" encoding="undefined"?>', b"xmlns='a'"),
    *(b"!!python/object/apply:os.system ['touch escaped']", b"!!python/name:os.system", b"!!bool x", b"!!int ''"),
    *(
        b"!!timestamp x",
        b"!!float ''",
        b"!!binary '!'",
        b"!!set {a, b}",
        b"!!omap [a]",
        b"? [a, b] : c",
        b"&x [*x, *x]",
    ),
    *(b"*x", b"<<: 1", b"- " * 2000, b"2026-13-45", b"12:30:45", b"!!null a", b"%YAML 9.9\n---", b"...\n---\n", b"\t"),
    *(
        b"IDAT",
        b"IEND",
        b"tEXt",
        b"iCCP",
        b"fcTL",
        b"acTL",
        b"tRNS",
        b"PLTE",
        b"eXIf",
        b"\xff\xda",
        b"\xff\xd9",
        b"\xff\xc2",
    ),
    *(
        b"\x89PNG\r\n\x1a\n",
        b"RIFF",
        b"GIF89a",
        b"II*\0",
        b"MM\0*",
        b"PK\3\4",
        b"PK\5\6",
        b"BM",
        b"\x80\x02",
        b"\x93NUMPY",
    ),
    *(
        b"(",
        b"c__builtin__\neval\n",
        b"cos\nsystem\n(S'touch escaped'\ntR.",
        b"\x8c\x02os\x8c\x06system\x93",
        b"R",
        b"b",
    ),
    *(
        b"'descr': '|O'",
        b"'fortran_order': True",
        b"'shape': (9999999999,)",
        b"'shape': (-1,)",
        b"[('a', '|V99999999')]",
    ),
)
"""What has broken readers before, in the languages of all of them."""

NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)

Mutation = Callable[[bytearray, random.Random, bytes], bytearray]


def spoil(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """One to four mutations of the bytes; `other` is another file of the same kind."""
    spoilt = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        spoilt = rng.choice(MUTATIONS)(spoilt, rng, other)
    return bytes(spoilt)


def _place(data: bytearray, rng: random.Random) -> int:
    # Headers decide most, so half of the damage goes to the beginning.
    return rng.randrange(min(len(data), 128) if rng.random() < 0.5 else len(data)) if data else 0


def flip_bits(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    for _ in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[_place(data, rng)] ^= 1 << rng.randrange(8)
    return data


def set_bytes(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    place = _place(data, rng)
    data[place : place + rng.choice((1, 2, 4, 16))] = rng.randbytes(rng.choice((1, 2, 4, 16)))
    return data


def truncate(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    return data[: rng.randrange(len(data) + 1)]


def insert(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    place = _place(data, rng)
    data[place:place] = rng.randbytes(rng.choice((1, 3, 40, 400)))
    return data


def remove(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    place = _place(data, rng)
    del data[place : place + rng.choice((1, 2, 4, 32, 256))]
    return data


def repeat(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    place = _place(data, rng)
    piece = bytes(data[place : place + rng.choice((4, 32, 256))])
    data[place:place] = piece * rng.choice((1, 2, 20))
    return data


def splice(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    """The beginning of one file and the end of another."""
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def edit_length(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    """A number of 1, 2, 4 or 8 bytes in either order, where a length may stand."""
    kind = rng.choice(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(kind)
    if len(data) >= size:
        place = min(_place(data, rng), len(data) - size)
        (old,) = struct.unpack_from(kind, data, place)
        value = rng.choice((*NUMBERS, old + 1, old - 1, old * 2, len(data)))
        struct.pack_into(kind, data, place, value % 2 ** (8 * size))
    return data


def put_token(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    place, token = _place(data, rng), rng.choice(TOKENS)
    data[place : place + rng.choice((0, 0, len(token), 6))] = token
    return data


def replace_word(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    """A token in place of a whole word or number of a text."""
    place = _place(data, rng)
    start, end = place, place
    while start > 0 and (data[start - 1 : start].isalnum() or data[start - 1] > 127):
        start -= 1
    while end < len(data) and (data[end : end + 1].isalnum() or data[end] > 127):
        end += 1
    data[start:end] = rng.choice(TOKENS)
    return data


def swap_lines(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    lines = data.split(b"\n")
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    return bytearray(b"\n".join(lines))


MUTATIONS: tuple[Mutation, ...] = (
    *(flip_bits, set_bytes, truncate, insert, remove, repeat, splice, edit_length, edit_length, put_token, put_token),
    *(replace_word, replace_word, swap_lines),
)


def below_png(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """A chunk of a PNG spoilt, or its pixels below the compression, with every checksum put right again."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    if not chunks:
        return spoil(data, rng, other)
    number = rng.randrange(len(chunks))
    kind, content = chunks[number]
    if kind == b"IDAT" and rng.random() < 0.7:
        with contextlib.suppress(zlib.error):
            content = zlib.compress(spoil(zlib.decompress(content), rng, other))
    else:
        content = spoil(content, rng, other)
    if rng.random() < 0.15:
        kind = rng.choice(
            (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"tRNS", b"PLTE", b"eXIf", b"fcTL", b"fdAT", b"gAMA", b"acTL")
        )
    chunks[number] = kind, content
    if rng.random() < 0.15:
        chunks.insert(rng.randrange(len(chunks)), rng.choice(chunks))
    return data[:8] + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def below_zip(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """A member of an archive spoilt or renamed, with every checksum put right again."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except (zipfile.BadZipFile, OSError):
        return spoil(data, rng, other)
    # What says how the others are to be read does most.
    headers = [i for i, (name, _) in enumerate(members) if name.endswith((".pkl", ".npy", "version", "byteorder"))]
    number = rng.choice(headers) if headers and rng.random() < 0.8 else rng.randrange(len(members))
    name, content = members[number]
    if rng.random() < 0.1:
        name = rng.choice(("../../outside/escaped", "/etc/passwd", "", name + "/x", name * 20, "a\0b"))
    members[number] = name, spoil(content, rng, other)
    if rng.random() < 0.1:
        members.append(rng.choice(members))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if rng.random() < 0.2 else zipfile.ZIP_STORED) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name or "x"), content)
    return file.getvalue()


def below_json(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """A value somewhere in a tree replaced, removed or doubled, so that the text stays valid JSON."""
    lines = data.decode(errors="replace").splitlines() or [""]
    number = rng.randrange(len(lines))
    whole = data.decode(errors="replace")
    for text, put in (
        (whole, lambda new: new),
        (lines[number], lambda new: "\n".join([*lines[:number], new, *lines[number + 1 :]])),
    ):
        try:
            tree = json.loads(text)
        except ValueError:
            continue
        for _ in range(rng.choice((1, 1, 2, 5))):
            tree = _changed(tree, rng)
        return put(json.dumps(tree)).encode()
    return spoil(data, rng, other)


def below_safetensors(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """The JSON header spoilt, with its length put right again."""
    length = int.from_bytes(data[:8], "little")
    header = below_json(data[8 : 8 + length], rng, other)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


VALUES = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        0.5,
        1e308,
        10**30,
        -(10**30),
        "",
        "a",
        "../../outside/escaped",
        "/etc/passwd",
        "\0",
    ),
    *("\ud800", [], {}, [[]], [None], {"a": 1}, "9" * 300, [0] * 5000, ["a", ["b"]], "F64", [-1, 5], [2**62, 4]),
)


def _changed(tree: object, rng: random.Random) -> object:
    if isinstance(tree, dict) and tree and rng.random() < 0.85:
        key = rng.choice(list(tree))
        if (kind := rng.random()) < 0.1:
            return {other: value for other, value in tree.items() if other != key}
        if kind < 0.2:
            return {**tree, str(rng.choice(VALUES))[:50]: tree[key]}
        return {**tree, key: _changed(tree[key], rng)}
    if isinstance(tree, list) and tree and rng.random() < 0.85:
        place = rng.randrange(len(tree))
        if (kind := rng.random()) < 0.1:
            return tree[:place] + tree[place + 1 :]
        if kind < 0.2:
            return [*tree, tree[place]]
        return [*tree[:place], _changed(tree[place], rng), *tree[place + 1 :]]
    if isinstance(tree, int | float) and rng.random() < 0.5:
        return rng.choice((tree + 1, -tree, tree * 1000, tree + 0.5, str(tree), *NUMBERS))
    return rng.choice(VALUES)
