"""Animals and people. Each artist draws one kind in a unit box: see `Pen`."""

from __future__ import annotations

import numpy as np

from clip_es.scenes.kinds.pen import SKIN, TYRE, Pen, dark, light, vary
from clip_es.scenes.world import COLOURS


def bird(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    belly = light(c, 0.45)
    pen.shape(dark(c, 0.75), 0.30, 0.55, 0.0, 0.66, 0.02, 0.80, 0.34, 0.74)  # tail
    if rng.random() < 0.5:  # flying
        pen.shape(dark(c, 0.62), 0.34, 0.55, 0.62, 0.55, 0.38, 0.02, 0.12, 0.10, 0.2, 0.3)
    else:
        leg = vary(rng, (210, 140, 40), 8)
        pen.line(leg, 0.05, 0.48, 0.80, 0.48, 0.99, 0.56, 0.99)
        pen.line(leg, 0.05, 0.60, 0.80, 0.60, 0.99, 0.68, 0.99)
    pen.oval(c, 0.22, 0.44, 0.80, 0.86)
    pen.oval(belly, 0.36, 0.62, 0.76, 0.86)
    pen.oval(c, 0.60, 0.26, 0.90, 0.62)  # head
    pen.shape(vary(rng, (236, 160, 30), 8), 0.88, 0.38, 1.0, 0.46, 0.87, 0.52)
    pen.oval(light(c, 0.95), 0.74, 0.34, 0.84, 0.46)
    pen.oval(TYRE, 0.77, 0.37, 0.82, 0.43)
    pen.shape(dark(c, 0.66), 0.24, 0.50, 0.60, 0.52, 0.56, 0.68, 0.36, 0.76, 0.12, 0.72)  # folded wing
    for x in (0.26, 0.36, 0.46):
        pen.line(dark(c, 0.45), 0.02, x, 0.56, x - 0.08, 0.70)


def cat(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    chest, stripe = light(c, 0.6), dark(c, 0.6)
    pen.line(c, 0.13, 0.75, 0.92, 0.94, 0.86, 0.93, 0.60, 0.86, 0.50)  # tail
    pen.oval(c, 0.16, 0.38, 0.86, 0.995)
    pen.oval(chest, 0.26, 0.56, 0.56, 0.97)
    pen.shape(c, 0.06, 0.0, 0.06, 0.26, 0.32, 0.14)
    pen.shape(c, 0.72, 0.0, 0.72, 0.26, 0.46, 0.14)
    pink = np.array([226, 150, 150], np.float32)
    pen.shape(pink, 0.11, 0.07, 0.11, 0.2, 0.22, 0.14)
    pen.shape(pink, 0.67, 0.07, 0.67, 0.2, 0.56, 0.14)
    pen.oval(c, 0.02, 0.10, 0.76, 0.54)
    for x in (0.32, 0.39, 0.46):
        pen.line(stripe, 0.03, x, 0.11, x, 0.22)
    for y in (0.58, 0.70, 0.82):
        pen.line(stripe, 0.04, 0.66, y, 0.85, y - 0.03)
    eye = vary(rng, [(120, 190, 60), (230, 190, 40)][int(rng.integers(2))], 8)
    for x in (0.16, 0.48):
        pen.oval(eye, x, 0.24, x + 0.15, 0.38)
        pen.oval(TYRE, x + 0.05, 0.25, x + 0.1, 0.37)
    pen.oval(chest, 0.26, 0.36, 0.52, 0.51)
    pen.shape(pink, 0.34, 0.37, 0.44, 0.37, 0.39, 0.43)
    for y in (0.42, 0.46):
        pen.line(light(c, 0.9), 0.014, 0.28, y, 0.04, y - 0.02)
        pen.line(light(c, 0.9), 0.014, 0.5, y, 0.74, y - 0.02)
    pen.oval(chest, 0.24, 0.90, 0.42, 0.995)
    pen.oval(chest, 0.46, 0.90, 0.64, 0.995)


def cow(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    spot = dark(c, 0.28) if c.mean() > 170 else np.array([238, 234, 226], np.float32)
    for x, shade in ((0.20, 0.8), (0.30, 1.0), (0.58, 0.8), (0.68, 1.0)):
        pen.box(dark(c, shade), x, 0.60, x + 0.09, 0.96)
        pen.box(TYRE, x, 0.93, x + 0.09, 0.995)
    pen.line(dark(c, 0.8), 0.04, 0.14, 0.30, 0.04, 0.42, 0.05, 0.70)
    pen.oval(TYRE, 0.02, 0.64, 0.09, 0.78)
    pen.box(c, 0.11, 0.20, 0.80, 0.72, 0.22)
    pen.oval(np.array([232, 168, 160], np.float32), 0.34, 0.66, 0.50, 0.80)
    for _ in range(4):
        x, y = rng.uniform(0.16, 0.62), rng.uniform(0.22, 0.5)
        pen.oval(spot, x, y, x + rng.uniform(0.1, 0.2), y + rng.uniform(0.12, 0.24))
    horn = np.array([226, 214, 178], np.float32)
    pen.shape(horn, 0.78, 0.12, 0.74, 0.0, 0.84, 0.12)
    pen.shape(horn, 0.90, 0.12, 0.96, 0.0, 0.95, 0.12)
    pen.oval(dark(c, 0.8), 0.66, 0.14, 0.80, 0.26)
    pen.shape(c, 0.74, 0.10, 0.96, 0.10, 0.99, 0.40, 0.94, 0.56, 0.80, 0.56, 0.74, 0.40)
    pen.shape(spot, 0.83, 0.10, 0.91, 0.10, 0.89, 0.38, 0.85, 0.38)
    pen.oval(np.array([226, 164, 156], np.float32), 0.78, 0.42, 0.99, 0.60)
    for x in (0.83, 0.91):
        pen.oval(TYRE, x, 0.48, x + 0.03, 0.54)
    pen.oval(TYRE, 0.79, 0.22, 0.83, 0.29)
    pen.oval(TYRE, 0.92, 0.22, 0.96, 0.29)


def sheep(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    face = vary(rng, [(54, 46, 44), (54, 46, 44), (150, 120, 96)][int(rng.integers(3))], 6)
    for x in (0.22, 0.34, 0.56, 0.68):
        pen.box(face, x, 0.70, x + 0.065, 0.995)
    pen.oval(c, 0.08, 0.18, 0.82, 0.84)
    for angle in np.linspace(0, 2 * np.pi, 14)[:-1]:
        x, y = 0.45 + 0.35 * np.cos(angle), 0.50 + 0.29 * np.sin(angle)
        pen.oval(c, x - 0.10, y - 0.13, x + 0.10, y + 0.13)
    for x, y in rng.uniform((0.14, 0.26), (0.70, 0.70), (16, 2)):
        pen.oval(dark(c, 0.86), x, y, x + 0.09, y + 0.11)
        pen.oval(c, x + 0.01, y - 0.015, x + 0.09, y + 0.085)
    pen.oval(face, 0.68, 0.22, 0.82, 0.36)
    pen.oval(face, 0.74, 0.20, 0.99, 0.62)
    pen.oval(c, 0.72, 0.12, 0.92, 0.32)
    pen.oval(light(face, 0.95), 0.84, 0.32, 0.91, 0.40)
    pen.oval(TYRE, 0.865, 0.34, 0.90, 0.385)


def person(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    skin = SKIN[int(rng.integers(4))] + rng.normal(0, 6)
    hair = vary(rng, [(50, 34, 26), (110, 70, 36), (216, 176, 92)][int(rng.integers(3))], 8)
    legs = vary(rng, [(52, 70, 118), (52, 70, 118), (70, 66, 66), (150, 126, 92)][int(rng.integers(4))], 8)
    spread = float(rng.uniform(0.0, 0.14))
    pen.shape(legs, 0.26, 0.58, 0.52, 0.58, 0.46, 0.95, 0.22 - spread, 0.95)
    pen.shape(dark(legs, 0.85), 0.48, 0.58, 0.74, 0.58, 0.78 + spread, 0.95, 0.54, 0.95)
    pen.oval(TYRE, 0.14 - spread, 0.93, 0.48, 0.995)
    pen.oval(TYRE, 0.52, 0.93, 0.86 + spread, 0.995)
    raised = rng.random() < 0.3
    hand = 0.10 if raised else 0.60
    for side, near in ((0.28, 0.08), (0.72, 0.92)):
        pen.line(dark(c, 0.85), 0.15, side, 0.29, near, 0.34 if raised else 0.45, near, hand)
        pen.oval(skin, near - 0.08, hand - 0.035, near + 0.08, hand + 0.035)
    pen.box(c, 0.22, 0.24, 0.78, 0.61, 0.1)
    if rng.random() < 0.4:
        for y in (0.32, 0.40, 0.48):
            pen.box(light(c, 0.55), 0.22, y, 0.78, y + 0.035)
    pen.box(skin, 0.42, 0.18, 0.58, 0.27)
    pen.oval(hair, 0.27, 0.0, 0.73, 0.19)
    pen.oval(skin, 0.31, 0.035, 0.69, 0.22)
    pen.shape(hair, 0.30, 0.075, 0.36, 0.025, 0.64, 0.025, 0.70, 0.075)
    for x in (0.40, 0.54):
        pen.oval(TYRE, x, 0.105, x + 0.06, 0.13)
    pen.line(np.array([170, 60, 60], np.float32), 0.03, 0.44, 0.175, 0.56, 0.175)


def dog(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    ear, belly = dark(c, 0.6), light(c, 0.45)
    pen.line(c, 0.09, 0.10, 0.42, 0.03, 0.26, 0.06, 0.10)  # a raised tail
    for x, shade in ((0.13, 0.8), (0.22, 1.0), (0.50, 0.8), (0.59, 1.0)):
        pen.box(dark(c, shade), x, 0.56, x + 0.09, 0.98, 0.04)
        pen.oval(belly, x, 0.92, x + 0.12, 0.995)
    pen.box(c, 0.07, 0.36, 0.70, 0.72, 0.2)
    pen.oval(belly, 0.24, 0.58, 0.62, 0.74)
    if rng.random() < 0.4:
        pen.oval(ear, 0.22, 0.37, 0.46, 0.56)
    pen.shape(c, 0.50, 0.40, 0.60, 0.18, 0.80, 0.24, 0.72, 0.62)
    pen.oval(c, 0.56, 0.06, 0.86, 0.42)
    pen.box(light(c, 0.25), 0.74, 0.20, 1.0, 0.40, 0.09)  # muzzle
    pen.oval(TYRE, 0.93, 0.18, 1.0, 0.28)
    pen.line(TYRE, 0.02, 0.80, 0.36, 0.95, 0.36)
    pen.shape(np.array([226, 120, 130], np.float32), 0.84, 0.37, 0.91, 0.37, 0.90, 0.47, 0.85, 0.47)
    pen.oval(ear, 0.53, 0.07, 0.68, 0.46)  # a hanging ear
    pen.oval(light(c, 0.95), 0.72, 0.13, 0.79, 0.22)
    pen.oval(TYRE, 0.745, 0.15, 0.785, 0.215)
    pen.line(vary(rng, COLOURS[["red", "blue", "green"][int(rng.integers(3))]], 8), 0.06, 0.55, 0.45, 0.72, 0.52)


def horse(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    mane = dark(c, 0.35) if rng.random() < 0.7 else light(c, 0.7)
    pen.line(mane, 0.09, 0.09, 0.36, 0.03, 0.50, 0.04, 0.78)
    for x, shade in ((0.14, 0.75), (0.23, 1.0), (0.54, 0.75), (0.62, 1.0)):
        pen.shape(dark(c, shade), x, 0.52, x + 0.11, 0.52, x + 0.075, 0.96, x + 0.015, 0.96)
        pen.box(TYRE, x + 0.005, 0.93, x + 0.09, 0.995)
    pen.oval(c, 0.07, 0.30, 0.52, 0.64)
    pen.oval(c, 0.36, 0.32, 0.74, 0.64)
    pen.shape(c, 0.52, 0.40, 0.68, 0.08, 0.84, 0.12, 0.76, 0.52)
    pen.shape(mane, 0.50, 0.38, 0.64, 0.03, 0.72, 0.05, 0.61, 0.42)
    pen.shape(c, 0.67, 0.06, 0.80, 0.05, 0.99, 0.28, 0.93, 0.38, 0.72, 0.24)
    pen.oval(dark(c, 0.7), 0.90, 0.25, 1.0, 0.39)
    pen.shape(c, 0.68, 0.08, 0.70, 0.0, 0.75, 0.07)
    pen.oval(TYRE, 0.78, 0.11, 0.815, 0.16)
    if rng.random() < 0.4:
        saddle = vary(rng, (126, 62, 36), 8)
        pen.box(saddle, 0.34, 0.30, 0.52, 0.42, 0.05)
        pen.line(saddle, 0.03, 0.43, 0.40, 0.43, 0.60)


def duck(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    beak = vary(rng, (240, 140, 30), 8)
    head = c if rng.random() < 0.6 else vary(rng, (30, 104, 70), 6)
    for x in (0.40, 0.54):
        pen.line(beak, 0.05, x, 0.88, x, 0.97, x + 0.09, 0.97)
    pen.shape(c, 0.0, 0.42, 0.26, 0.56, 0.16, 0.80)
    pen.shape(c, 0.05, 0.58, 0.80, 0.56, 0.76, 0.84, 0.60, 0.93, 0.28, 0.93, 0.12, 0.80)
    pen.oval(c, 0.44, 0.48, 0.82, 0.92)
    pen.shape(c, 0.52, 0.30, 0.78, 0.30, 0.80, 0.66, 0.54, 0.66)
    pen.oval(head, 0.50, 0.02, 0.84, 0.42)
    if head is not c:
        pen.line(np.array([240, 240, 236], np.float32), 0.05, 0.54, 0.42, 0.79, 0.42)
    pen.box(beak, 0.80, 0.20, 1.0, 0.32, 0.05)
    pen.line(dark(beak, 0.7), 0.015, 0.81, 0.26, 0.98, 0.26)
    pen.oval(light(head, 0.95), 0.66, 0.10, 0.75, 0.21)
    pen.oval(TYRE, 0.69, 0.13, 0.74, 0.19)
    pen.shape(dark(c, 0.78), 0.16, 0.62, 0.58, 0.60, 0.62, 0.76, 0.40, 0.84, 0.22, 0.78)
    for y in (0.67, 0.73):
        pen.line(dark(c, 0.6), 0.02, 0.24, y, 0.54, y - 0.01)


def fish(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    fin, belly = dark(c, 0.7), light(c, 0.5)
    pen.shape(fin, 0.24, 0.5, 0.0, 0.12, 0.07, 0.5, 0.0, 0.88)
    pen.shape(fin, 0.34, 0.22, 0.50, 0.0, 0.72, 0.06, 0.70, 0.22)
    pen.shape(fin, 0.42, 0.80, 0.44, 0.99, 0.60, 0.82)
    pen.oval(c, 0.16, 0.12, 1.0, 0.88)
    pen.oval(belly, 0.30, 0.52, 0.90, 0.87)
    if rng.random() < 0.5:
        stripe = light(c, 0.85) if c.mean() < 150 else dark(c, 0.45)
        for x, half in ((0.36, 0.24), (0.50, 0.32), (0.64, 0.31)):
            pen.line(stripe, 0.09, x, 0.5 - half, x, 0.5 + half)
    else:
        for x in (0.32, 0.42, 0.52, 0.62):
            for y in (0.34, 0.48, 0.62):
                pen.oval(dark(c, 0.8), x, y, x + 0.05, y + 0.09)
    pen.shape(fin, 0.54, 0.50, 0.40, 0.44, 0.42, 0.70)
    pen.line(fin, 0.03, 0.76, 0.24, 0.72, 0.5, 0.76, 0.76)
    pen.oval(np.array([246, 246, 240], np.float32), 0.80, 0.30, 0.90, 0.48)
    pen.oval(TYRE, 0.83, 0.34, 0.89, 0.45)
    pen.line(dark(c, 0.4), 0.03, 0.90, 0.62, 0.985, 0.58)


def elephant(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    ear = dark(c, 0.82)
    pen.line(dark(c, 0.7), 0.03, 0.05, 0.30, 0.01, 0.44, 0.03, 0.60)
    for x, shade in ((0.08, 0.75), (0.20, 1.0), (0.42, 0.75), (0.53, 1.0)):
        pen.box(dark(c, shade), x, 0.54, x + 0.13, 0.985, 0.05)
        for toe in (0.01, 0.05, 0.09):
            pen.oval(light(c, 0.7), x + toe, 0.94, x + toe + 0.035, 0.99)
    pen.box(c, 0.03, 0.12, 0.70, 0.74, 0.26)
    pen.oval(c, 0.56, 0.08, 0.90, 0.52)
    pen.line(c, 0.13, 0.84, 0.28, 0.91, 0.52, 0.89, 0.74, 0.95, 0.84)  # trunk
    for y in (0.44, 0.54, 0.64):
        pen.line(dark(c, 0.72), 0.015, 0.85, y, 0.95, y)
    pen.shape(np.array([244, 238, 220], np.float32), 0.76, 0.44, 0.82, 0.48, 0.96, 0.52, 0.97, 0.47, 0.84, 0.42)
    pen.oval(dark(ear, 0.8), 0.47, 0.10, 0.74, 0.62)
    pen.oval(ear, 0.49, 0.12, 0.73, 0.59)
    pen.oval(TYRE, 0.80, 0.21, 0.835, 0.27)


def rabbit(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    pink, belly = np.array([236, 170, 172], np.float32), light(c, 0.7)
    pen.oval(light(c, 0.9), 0.02, 0.74, 0.22, 0.90)  # tail
    pen.oval(c, 0.10, 0.52, 0.86, 0.985)
    pen.oval(dark(c, 0.85), 0.12, 0.66, 0.50, 0.985)
    pen.oval(belly, 0.50, 0.62, 0.82, 0.95)
    for x, tip in ((0.46, 0.40), (0.66, 0.74)):
        pen.shape(c, x, 0.34, tip - 0.03, 0.04, tip + 0.05, 0.0, tip + 0.12, 0.05, x + 0.16, 0.34)
        pen.shape(pink, x + 0.05, 0.30, tip + 0.02, 0.07, tip + 0.07, 0.06, x + 0.11, 0.30)
    pen.oval(c, 0.38, 0.27, 0.96, 0.62)
    pen.oval(belly, 0.62, 0.45, 0.96, 0.61)
    for x in (0.56, 0.82):
        pen.oval(TYRE, x, 0.37, x + 0.09, 0.44)
    pen.shape(dark(pink, 0.8), 0.73, 0.46, 0.83, 0.46, 0.78, 0.50)
    pen.shape(np.array([248, 248, 244], np.float32), 0.755, 0.535, 0.815, 0.535, 0.815, 0.58, 0.755, 0.58)
    pen.oval(c, 0.26, 0.92, 0.62, 0.995)
    pen.oval(c, 0.64, 0.92, 0.92, 0.995)
