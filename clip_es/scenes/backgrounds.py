"""Backgrounds: textured areas, with clouds and mountains in the sky."""

from __future__ import annotations

import numpy as np

from clip_es.scenes.kinds.pen import Number, smooth, vary


def _area(rng: np.random.Generator, word: str, size_hw: tuple[int, int]) -> np.ndarray:
    """A textured rectangle of a background word. float32 [h w 3]."""
    h, w = size_hw
    ramp = np.linspace(0, 1, h, dtype=np.float32)[:, None]
    unit = float(rng.uniform(0.8, 1.4))
    if word == "sky":
        top = vary(rng, [(84, 140, 214), (128, 178, 228), (60, 104, 176), (226, 150, 110)][int(rng.integers(4))], 8)
        low = top + (np.array([214, 226, 238], np.float32) - top) * np.float32(rng.uniform(0.3, 0.8))
        return top + (low - top) * ramp[..., None] + 1.5 * smooth(rng, size_hw, (20, 30))[..., None]
    if word == "sea":
        base = vary(rng, [(30, 92, 140), (36, 120, 140), (52, 84, 116)][int(rng.integers(3))], 7)
        waves = smooth(rng, size_hw, (2.6 * unit, 14 * unit))
        return base + 9 * waves[..., None] + (14 * (ramp - 0.5))[..., None]
    if word == "grass":
        base = vary(rng, [(88, 142, 54), (116, 156, 64), (70, 116, 50)][int(rng.integers(3))], 7)
        blades = smooth(rng, size_hw, (5 * unit, 1.5 * unit)) * 8 + smooth(rng, size_hw, (24, 24)) * 5
        return base + blades[..., None] * np.array([1, 1, 0.6], np.float32)
    if word == "sand":
        base = vary(rng, [(222, 198, 148), (206, 176, 124)][int(rng.integers(2))], 7)
        return base + (6 * smooth(rng, size_hw, (1.5, 1.5)) + 5 * smooth(rng, size_hw, (6 * unit, 26)))[..., None]
    if word == "snow":
        base = vary(rng, (232, 238, 244), 4)
        drift = 5 * smooth(rng, size_hw, (10 * unit, 28 * unit)) - 3
        return base + drift[..., None] * np.array([1.4, 1.1, 0.7], np.float32)
    if word == "road":
        return _road(rng, size_hw, unit)
    if word == "railway":
        return _railway(rng, size_hw, unit)
    if word == "floor":
        return _floor(rng, size_hw, unit)
    if word == "wall":
        return _wall(rng, size_hw, unit)
    if word == "carpet":
        return _carpet(rng, size_hw, unit)
    if word == "field":
        base = vary(rng, [(206, 176, 84), (190, 150, 70), (150, 116, 78)][int(rng.integers(3))], 7)
        rows = np.sin(np.cumsum(np.linspace(1.6, 0.35, h, dtype=np.float32) / unit) + rng.uniform(0, 6))[:, None]
        return base + (13 * rows + 7 * smooth(rng, size_hw, (2, 4)))[..., None] * np.array([1, 1, 0.7], np.float32)
    base = vary(rng, [(34, 66, 38), (48, 82, 44), (58, 70, 34)][int(rng.integers(3))], 6)  # forest
    crowns = smooth(rng, size_hw, (7 * unit, 6 * unit))
    trunk = np.maximum(smooth(rng, (1, w), (1, 3.5 * unit)) - 1.1, 0) * (0.4 + 0.6 * ramp)
    return base + 14 * crowns[..., None] - 22 * np.minimum(trunk, 1)[..., None]


def _road(rng: np.random.Generator, size_hw: tuple[int, int], unit: Number) -> np.ndarray:
    h, w = size_hw
    out = vary(rng, [(92, 92, 96), (116, 114, 112), (74, 74, 80)][int(rng.integers(3))], 5)
    out = out + (5 * smooth(rng, size_hw, (1.4, 1.4)) + 3 * smooth(rng, size_hw, (20, 30)))[..., None]
    paint = vary(rng, [(226, 224, 214), (220, 186, 80)][int(rng.integers(2))], 6)
    line, dash = max(int(3 * unit), 2), int(18 * unit)
    for share in (0.3, 0.85) if h > 70 else (0.5,):
        y = int(h * (share + rng.uniform(-0.1, 0.1)))
        start = int(rng.integers(dash))
        for x in range(-start, w, 2 * dash):
            out[y : y + line, max(x, 0) : max(x + dash, 0)] = paint
    return out


def _railway(rng: np.random.Generator, size_hw: tuple[int, int], unit: Number) -> np.ndarray:
    h, w = size_hw
    out = vary(rng, [(126, 112, 98), (104, 98, 94), (140, 122, 100)][int(rng.integers(3))], 6)
    out = out + (11 * smooth(rng, size_hw, (2.2 * unit, 2.2 * unit)))[..., None]
    sleeper, steel = vary(rng, (70, 50, 38), 6), vary(rng, (184, 186, 194), 8)
    gap, track = int(10 * unit) + 4, int(rng.uniform(20, 30) * unit)
    y = int(rng.integers(2, 12))
    while y < h:
        for x in range(int(rng.integers(gap)), w, gap):
            out[y : y + track, x : x + max(int(5 * unit), 3)] = sleeper
        for rail in (0.18, 0.74):
            top = y + int(rail * track)
            out[top : top + max(int(2.4 * unit), 2)] = steel
        y += int(track * rng.uniform(1.25, 1.7))
    return out


def _floor(rng: np.random.Generator, size_hw: tuple[int, int], unit: Number) -> np.ndarray:
    h, w = size_hw
    base = vary(rng, [(166, 112, 64), (140, 90, 54), (190, 140, 90)][int(rng.integers(3))], 6)
    out = base + (4 * smooth(rng, size_hw, (1.6, 22)))[..., None]
    board = max(int(11 * unit), 6)
    for y in range(0, h, board):
        out[y : y + board] += float(rng.normal(0, 7))
        out[y : y + 1] -= 34
        for x in rng.integers(0, w, max(w // 60, 1)):
            out[y : y + board, x : x + 1] -= 30
    return out


def _wall(rng: np.random.Generator, size_hw: tuple[int, int], unit: Number) -> np.ndarray:
    h, w = size_hw
    kind = int(rng.integers(3))
    if kind == 0:  # bricks
        out = vary(rng, [(164, 92, 72), (178, 116, 90), (190, 176, 160)][int(rng.integers(3))], 6)
        out = out + 3 * smooth(rng, size_hw, (3, 3))[..., None]
        row, brick = max(int(9 * unit), 6), max(int(20 * unit), 12)
        for number, y in enumerate(range(0, h, row)):
            out[y : y + 1] += 32
            for x in range((number % 2) * brick // 2, w, brick):
                out[y : y + row, x : x + brick] += float(rng.normal(0, 4))
                out[y : y + row, x : x + 1] += 28
        return out
    pale = [(222, 208, 182), (196, 208, 204), (214, 190, 186), (188, 196, 216), (206, 212, 178)]
    out = np.broadcast_to(vary(rng, pale[int(rng.integers(5))], 7), (h, w, 3)).copy()
    out += (2.5 * smooth(rng, size_hw, (22, 22)))[..., None]
    if kind == 1:  # striped paper
        stripe = max(int(7 * unit), 4)
        out[:, (np.arange(w) // stripe) % 2 == 0] -= np.float32(rng.uniform(9, 20))
    return out


def _carpet(rng: np.random.Generator, size_hw: tuple[int, int], unit: Number) -> np.ndarray:
    h, w = size_hw
    ground = [(150, 40, 52), (52, 72, 120), (96, 60, 110), (60, 104, 96)][int(rng.integers(4))]
    out = vary(rng, ground, 8) + (4 * smooth(rng, size_hw, (1.3, 1.3)))[..., None]
    cell = max(int(16 * unit), 8)
    ys, xs = np.arange(h)[:, None] % cell - cell / 2, (np.arange(w)[None] + rng.integers(cell)) % cell - cell / 2
    mark = vary(rng, (222, 190, 128), 8) - out
    out += mark * (0.8 * (np.abs(ys) + np.abs(xs) < cell * 0.24))[..., None]
    ring = np.abs(np.abs(ys) + np.abs(xs) - cell * 0.42) < 1
    return out + mark * (0.45 * ring)[..., None]


def background(
    rng: np.random.Generator, size_hw: tuple[int, int], upper: str, lower: str
) -> tuple[np.ndarray, list[str], np.ndarray, int]:
    """What lies behind the objects.

    Canvas float32 [h w 3], its words, which word stands where (uint8 [h w], 1-based into the words), and the row at
    which the ground begins.
    """
    h, w = size_hw
    words = [upper]
    where = np.ones(size_hw, np.uint8)
    if upper == lower:
        canvas = _area(rng, upper, size_hw)
        horizon = h
    else:
        horizon = int(h * rng.uniform(0.25, 0.65))
        canvas = np.concatenate([_area(rng, upper, (horizon, w)), _area(rng, lower, (h - horizon, w))])
        words.append(lower)
        where[horizon:] = 2
    if upper == "sky":
        if rng.random() < 0.45:
            veil = smooth(rng, size_hw, (18 * rng.uniform(0.7, 1.5), 34 * rng.uniform(0.7, 1.5)))
            cloud = np.clip((veil - 0.45) * 2.2, 0, 0.92)
            cloud[horizon:] = 0
            canvas += (vary(rng, (240, 242, 246), 4) - canvas) * cloud[..., None]
            words.append("cloud")
            where[cloud > 0.4] = len(words)
        if upper != lower and rng.random() < 0.4:
            rise = np.abs(smooth(rng, (1, w), (1, 30))[0]) * 0.35 * horizon + 0.12 * horizon
            jag = smooth(rng, (1, w), (1, 4))[0] * 1.5
            hill = np.arange(h)[:, None] > (horizon - rise - jag)[None]
            hill[horizon:] = False
            rock = vary(rng, [(118, 112, 126), (96, 104, 118), (136, 116, 104)][int(rng.integers(3))], 7)
            face = rock + 9 * smooth(rng, size_hw, (9, 5))[..., None]
            canvas = np.where(hill[..., None], face, canvas)
            words.append("mountain")
            where[hill] = len(words)
    return canvas.astype(np.float32), words, where, 0 if upper == lower else horizon
