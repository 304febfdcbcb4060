"""Label Studio's brush masks: a bit stream of runs of bytes, over red, green, blue and alpha of every pixel.

The stream: 32 bits, how many bytes there are; 5 bits, the bits of a value less one; four times 4 bits, the bits of a
run's length less one. Then runs: 1 bit, whether one value repeats or each byte is given; 2 bits, which of the four
lengths; the length less one; the value or values. Source: the rle-pack of thi.ng/umbrella, which Label Studio uses.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8

from clip_es.errors import DataError

_SIZES = (3, 4, 8, 16)
_LONGEST = 1 << _SIZES[-1]
_SET = 128
"""From this alpha on a pixel is covered; the edge of a brush is soft."""


def encode(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """The bytes that `label_studio_sdk.converter.brush.mask2rle` gives for 255 where the mask is set."""
    flat = mask.ravel()
    edges = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]))
    lengths, values = 4 * np.diff(edges), np.where(flat[edges[:-1]], 255, 0)
    pieces = np.maximum(-(-lengths // _LONGEST), 1)  # Runs of 65,536 bytes, and what is left.
    value = np.repeat(values, pieces)
    length = np.full(len(value), _LONGEST)
    length[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * _LONGEST
    whole = np.repeat(lengths, pieces) > _LONGEST
    kind = np.where(whole, 3, np.searchsorted([1 << size for size in _SIZES], length))
    width = np.array(_SIZES)[kind]
    # One number of 11 + width bits for each run: 1, kind, length - 1, value.
    code = ((((4 | kind) << width) | (length - 1)) << 8) | value
    bits = np.arange(26, -1, -1)
    table = (code[:, None] >> bits) & 1
    stream = table[bits < (11 + width)[:, None]].astype(np.uint8)
    head = (((flat.size * 4) << 5 | 7) << 16) | sum((size - 1) << (12 - 4 * at) for at, size in enumerate(_SIZES))
    first = np.array([(head >> bit) & 1 for bit in range(52, -1, -1)], dtype=np.uint8)
    used = len(first) + len(stream)
    return np.packbits(np.concatenate((first, stream, np.zeros(8 - used % 8, np.uint8)))).tolist()


def decode(rle: object, size_hw: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Where the alpha of the pixels is 128 or more. Raises DataError: no such stream, or of another size."""
    try:
        data = bytes(rle) if isinstance(rle, list) else b""
    except (TypeError, ValueError):
        data = b""
    height, width = size_hw
    alpha = _bytes(data, 4 * height * width).reshape(height, width, 4)[..., 3]
    return alpha >= _SET


def _bytes(data: bytes, expected: int) -> UInt8[np.ndarray, " byte"]:
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    at = 0

    def take(count: int) -> int:
        nonlocal at
        if at + count > len(bits):
            raise DataError("a brush mask ends too early", found=f"{len(data)} bytes")
        first, last = at >> 3, (at + count + 7) >> 3
        value = int.from_bytes(data[first:last], "big") >> (8 * last - at - count)
        at += count
        return value & ((1 << count) - 1)

    number, value_bits = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    if number != expected or value_bits != 8:
        raise DataError(
            "a brush mask is not as large as its picture",
            expected=f"{expected} values of 8 bits",
            found=f"{number} of {value_bits}",
        )
    out = np.zeros(number, np.uint8)
    done = 0
    while done < number:
        repeats = take(1)
        end = done + 1 + take(sizes[take(2)])
        if end > number:
            raise DataError("a run of a brush mask is longer than its picture")
        if repeats:
            out[done:end] = take(8)
        else:
            count = 8 * (end - done)
            if at + count > len(bits):
                raise DataError("a brush mask ends too early", found=f"{len(data)} bytes")
            out[done:end] = np.packbits(bits[at : at + count])
            at += count
        done = end
    return out
