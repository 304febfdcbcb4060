"""Furniture, household things, trees and houses. Each artist draws one kind in a unit box: see `Pen`."""

from __future__ import annotations

import itertools

import numpy as np

from clip_es.scenes.kinds.pen import GLASS, TYRE, Pen, dark, light, vary
from clip_es.scenes.world import COLOURS


def bottle(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    cap = vary(rng, [(190, 40, 40), (220, 190, 90), (60, 60, 66)][int(rng.integers(3))], 8)
    label = vary(rng, [(240, 232, 210), (240, 232, 210), (230, 200, 110)][int(rng.integers(3))], 6)
    pen.box(c, 0.04, 0.42, 0.96, 0.995, 0.2)
    pen.shape(c, 0.34, 0.16, 0.66, 0.16, 0.70, 0.30, 0.95, 0.48, 0.05, 0.48, 0.30, 0.30)
    pen.box(c, 0.34, 0.06, 0.66, 0.3)
    pen.box(cap, 0.29, 0.0, 0.71, 0.11, 0.05)
    pen.box(light(c, 0.5), 0.14, 0.48, 0.24, 0.94, 0.05)
    pen.box(label, 0.04, 0.56, 0.96, 0.82)
    pen.box(cap, 0.04, 0.60, 0.96, 0.635)
    pen.oval(dark(c, 0.8), 0.32, 0.65, 0.68, 0.79)


def plant(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    pot = vary(rng, [(186, 92, 54), (186, 92, 54), (70, 100, 150), (220, 214, 200)][int(rng.integers(4))], 8)
    for angle in np.linspace(-1.25, 1.25, 7) + rng.normal(0, 0.08, 7):
        length = rng.uniform(0.42, 0.58)
        tip = np.array([0.5 + 0.85 * length * np.sin(angle), 0.62 - 1.05 * length * np.cos(angle)])
        across = np.array([np.cos(angle), np.sin(angle)]) * 0.085
        half = (np.array([0.5, 0.62]) + tip) / 2
        leaf = c * np.float32(rng.uniform(0.8, 1.25))
        pen.shape(leaf, 0.5, 0.64, *(half - across), *tip, *(half + across))
        pen.line(dark(leaf, 0.72), 0.012, 0.5, 0.62, *tip)
    if rng.random() < 0.45:
        petal = vary(rng, COLOURS[["red", "pink", "yellow", "purple"][int(rng.integers(4))]], 8)
        for _ in range(4):
            x, y = rng.uniform(0.2, 0.74), rng.uniform(0.08, 0.42)
            pen.oval(petal, x, y, x + 0.13, y + 0.10)
            pen.oval(light(petal, 0.7), x + 0.045, y + 0.035, x + 0.085, y + 0.065)
    pen.shape(pot, 0.22, 0.66, 0.78, 0.66, 0.70, 0.995, 0.30, 0.995)
    pen.box(light(pot, 0.2), 0.17, 0.61, 0.83, 0.71)
    pen.shape(dark(pot, 0.8), 0.60, 0.71, 0.77, 0.71, 0.70, 0.995, 0.56, 0.995)


def television(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    screen = vary(rng, [(64, 132, 196), (90, 178, 196), (70, 100, 170), (150, 110, 190)][int(rng.integers(4))], 10)
    pen.box(dark(c, 0.8), 0.43, 0.80, 0.57, 0.94)
    pen.box(dark(c, 0.7), 0.24, 0.92, 0.76, 0.995, 0.04)
    pen.box(c, 0.0, 0.0, 1.0, 0.84, 0.06)
    pen.box(screen, 0.06, 0.07, 0.94, 0.75)
    pen.shape(light(screen, 0.28), 0.06, 0.07, 0.42, 0.07, 0.22, 0.75, 0.06, 0.75)
    pen.shape(dark(screen, 0.75), 0.46, 0.75, 0.70, 0.40, 0.94, 0.75)
    pen.oval(vary(rng, (246, 226, 130), 6), 0.62, 0.14, 0.76, 0.32)
    pen.oval(np.array([220, 60, 50], np.float32), 0.88, 0.77, 0.92, 0.82)


_WOOD = ((150, 100, 58), (112, 74, 44), (188, 146, 98))


def chair(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    leg = dark(c, 0.72)
    for x0, x1 in ((0.20, 0.18), (0.72, 0.74)):
        pen.shape(dark(leg, 0.8), x0, 0.54, x0 + 0.08, 0.54, x1 + 0.07, 0.90, x1 + 0.01, 0.90)
    pen.box(c, 0.12, 0.0, 0.24, 0.60, 0.05)
    pen.box(c, 0.76, 0.0, 0.88, 0.60, 0.05)
    if rng.random() < 0.5:
        for y in (0.05, 0.19, 0.33):
            pen.box(light(c, 0.15), 0.16, y, 0.84, y + 0.10, 0.02)
    else:
        pen.box(light(c, 0.15), 0.16, 0.02, 0.84, 0.42, 0.08)
        pen.box(dark(c, 0.85), 0.25, 0.08, 0.75, 0.36, 0.06)
    pen.shape(light(c, 0.25), 0.14, 0.50, 0.86, 0.50, 0.98, 0.64, 0.02, 0.64)
    pen.box(dark(c, 0.85), 0.02, 0.63, 0.98, 0.70, 0.02)
    for x in (0.03, 0.85):
        pen.box(leg, x, 0.69, x + 0.12, 0.995)


def sofa(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    wood = vary(rng, _WOOD[int(rng.integers(3))], 8)
    for x in (0.07, 0.86):
        pen.box(dark(wood, 0.7), x, 0.88, x + 0.07, 0.995)
    pen.box(dark(c, 0.88), 0.07, 0.0, 0.93, 0.66, 0.16)
    for x in (0.12, 0.51):
        pen.box(c, x, 0.10, x + 0.37, 0.60, 0.1)
        pen.box(light(c, 0.22), x, 0.50, x + 0.37, 0.74, 0.08)
    pen.box(dark(c, 0.75), 0.05, 0.72, 0.95, 0.91, 0.04)
    for x in (0.0, 0.86):
        pen.box(dark(c, 0.93), x, 0.30, x + 0.14, 0.91, 0.12)
        pen.oval(light(c, 0.12), x, 0.28, x + 0.14, 0.50)
    if rng.random() < 0.5:
        cushion = vary(rng, COLOURS[["white", "yellow", "pink", "blue"][int(rng.integers(4))]], 8)
        pen.shape(cushion, 0.17, 0.32, 0.34, 0.26, 0.36, 0.56, 0.19, 0.60)


def table(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    for x, shade in ((0.16, 0.55), (0.78, 0.55)):
        pen.box(dark(c, shade), x, 0.30, x + 0.06, 0.88)
    for x in (0.04, 0.89):
        pen.box(dark(c, 0.72), x, 0.30, x + 0.07, 0.995)
    pen.box(dark(c, 0.8), 0.04, 0.26, 0.96, 0.46)
    pen.shape(c, 0.10, 0.0, 0.90, 0.0, 1.0, 0.24, 0.0, 0.24)
    pen.box(dark(c, 0.88), 0.0, 0.23, 1.0, 0.30)
    if rng.random() < 0.4:
        cloth = vary(rng, COLOURS[["white", "red", "blue", "beige"][int(rng.integers(4))]], 8)
        pen.shape(cloth, 0.30, 0.0, 0.70, 0.0, 0.74, 0.24, 0.26, 0.24)
        pen.shape(dark(cloth, 0.85), 0.26, 0.24, 0.74, 0.24, 0.74, 0.50, 0.62, 0.42, 0.5, 0.52, 0.38, 0.42, 0.26, 0.50)
    else:
        for y in (0.08, 0.16):
            pen.line(dark(c, 0.85), 0.012, 0.10, y, 0.90, y)


def cup(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    inside = vary(rng, [(94, 56, 32), (150, 96, 48), (240, 236, 226)][int(rng.integers(3))], 6)
    pen.line(dark(c, 0.82), 0.10, 0.68, 0.30, 0.92, 0.32, 0.92, 0.58, 0.66, 0.68)
    pen.shape(c, 0.02, 0.16, 0.74, 0.16, 0.66, 0.94, 0.10, 0.94)
    pen.oval(c, 0.10, 0.86, 0.66, 0.995)
    pen.oval(light(c, 0.35), 0.02, 0.02, 0.74, 0.28)
    pen.oval(inside, 0.07, 0.06, 0.69, 0.25)
    mark = rng.random()
    if mark < 0.35:
        pen.shape(light(c, 0.8), 0.05, 0.46, 0.71, 0.46, 0.69, 0.62, 0.065, 0.62)
    elif mark < 0.7:
        heart = vary(rng, COLOURS[["red", "yellow", "white"][int(rng.integers(3))]], 8)
        pen.oval(heart, 0.26, 0.44, 0.40, 0.60)
        pen.oval(heart, 0.36, 0.44, 0.50, 0.60)
        pen.shape(heart, 0.265, 0.55, 0.495, 0.55, 0.38, 0.76)
    pen.shape(light(c, 0.4), 0.07, 0.32, 0.13, 0.32, 0.17, 0.84, 0.13, 0.84)


def clock(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    face = vary(rng, (244, 242, 232), 5)
    pen.oval(dark(c, 0.7), 0.0, 0.0, 0.995, 0.995)
    pen.oval(c, 0.02, 0.02, 0.96, 0.96)
    pen.oval(face, 0.12, 0.12, 0.88, 0.88)
    for number in range(12):
        turn = number * np.pi / 6
        near, far = (0.29, 0.35) if number % 3 else (0.26, 0.36)
        x, y = np.sin(turn), np.cos(turn)
        pen.line(TYRE, 0.035 if number % 3 else 0.05, 0.5 + near * x, 0.5 + near * y, 0.5 + far * x, 0.5 + far * y)
    hour, minute = rng.uniform(0, 2 * np.pi, 2)
    pen.line(TYRE, 0.055, 0.5, 0.5, 0.5 + 0.19 * np.sin(hour), 0.5 - 0.19 * np.cos(hour))
    pen.line(TYRE, 0.035, 0.5, 0.5, 0.5 + 0.30 * np.sin(minute), 0.5 - 0.30 * np.cos(minute))
    pen.oval(np.array([190, 40, 40], np.float32), 0.46, 0.46, 0.54, 0.54)


def lamp(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    metal = vary(rng, [(70, 66, 66), (190, 160, 90), (120, 78, 48)][int(rng.integers(3))], 8)
    pen.box(metal, 0.44, 0.40, 0.56, 0.94)
    if rng.random() < 0.5:
        pen.oval(metal, 0.28, 0.54, 0.72, 0.90)
        pen.oval(light(metal, 0.4), 0.36, 0.60, 0.46, 0.80)
    pen.oval(dark(metal, 0.8), 0.16, 0.88, 0.84, 0.995)
    pen.shape(c, 0.26, 0.0, 0.74, 0.0, 1.0, 0.46, 0.0, 0.46)
    pen.shape(light(c, 0.6), 0.36, 0.02, 0.56, 0.02, 0.62, 0.44, 0.26, 0.44)
    pen.box(dark(c, 0.75), 0.25, 0.0, 0.75, 0.035)
    pen.shape(dark(c, 0.75), 0.02, 0.42, 0.98, 0.42, 1.0, 0.46, 0.0, 0.46)


def umbrella(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    handle = vary(rng, [(112, 70, 40), (50, 48, 52)][int(rng.integers(2))], 6)
    other = light(c, 0.75) if rng.random() < 0.5 else dark(c, 0.75)
    pen.line(handle, 0.045, 0.5, 0.04, 0.5, 0.90, 0.53, 0.97, 0.60, 0.97, 0.63, 0.90)
    edges = (0.0, 0.19, 0.40, 0.60, 0.81, 1.0)
    rim = 0.5 - 0.42 * np.sin(np.linspace(0, np.pi, 25))
    around = 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, 25))
    dome = [value for xy in zip(around, rim + 0.02, strict=True) for value in xy]
    pen.shape(c, *dome)
    for number, (x0, x1) in enumerate(itertools.pairwise(edges)):
        paint = c if number % 2 == 0 else other
        if number in (1, 3):
            lean0, lean1 = 0.5 + (x0 - 0.5) * 0.86, 0.5 + (x1 - 0.5) * 0.86
            pen.shape(paint, 0.5, 0.10, lean0, 0.26, x0, 0.52, x1, 0.52, lean1, 0.26)
        pen.oval(paint, x0, 0.46, x1, 0.60)
    pen.line(handle, 0.03, 0.5, 0.0, 0.5, 0.10)


def tree(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    bark = vary(rng, [(96, 66, 42), (120, 92, 66)][int(rng.integers(2))], 8)
    if rng.random() < 0.3:  # a fir
        pen.box(bark, 0.42, 0.80, 0.58, 0.995)
        for top, low, half in ((0.46, 0.88, 0.46), (0.24, 0.64, 0.37), (0.0, 0.40, 0.27)):
            pen.shape(c, 0.5, top, 0.5 + half, low, 0.5 - half, low)
            pen.shape(dark(c, 0.75), 0.5, top, 0.5 + half, low, 0.54, low)
        return
    pen.shape(bark, 0.42, 0.52, 0.58, 0.52, 0.64, 0.995, 0.36, 0.995)
    pen.line(bark, 0.06, 0.5, 0.66, 0.74, 0.48)
    pen.line(dark(bark, 0.7), 0.02, 0.48, 0.62, 0.47, 0.94)
    crown = ((0.16, 0.20, 0.36), (0.5, 0.13, 0.42), (0.80, 0.24, 0.34), (0.30, 0.44, 0.34), (0.66, 0.45, 0.36))
    for x, y, size in crown:
        pen.oval(c, x - size / 2 - 0.02, y - size / 2.7, x + size / 2 + 0.02, y + size / 2.2)
    for x, y in rng.uniform((0.06, 0.04), (0.84, 0.52), (16, 2)):
        pen.oval(dark(c, 0.78) if y > 0.28 else light(c, 0.22), x, y, x + 0.11, y + 0.07)
    if rng.random() < 0.25:
        for x, y in rng.uniform((0.12, 0.10), (0.82, 0.50), (8, 2)):
            pen.oval(np.array([206, 44, 40], np.float32), x, y, x + 0.07, y + 0.06)


def house(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    roof = vary(rng, [(160, 60, 44), (96, 64, 52), (80, 84, 96)][int(rng.integers(3))], 8)
    door = vary(rng, COLOURS[["brown", "green", "blue", "red"][int(rng.integers(4))]], 10)
    pen.box(dark(roof, 0.8), 0.72, 0.04, 0.84, 0.34)
    pen.box(c, 0.08, 0.40, 0.92, 0.995)
    for y in (0.52, 0.64, 0.76, 0.88):
        pen.line(dark(c, 0.9), 0.01, 0.08, y, 0.92, y)
    pen.shape(roof, 0.0, 0.44, 0.5, 0.0, 1.0, 0.44)
    for y in (0.16, 0.26, 0.36):
        pen.line(dark(roof, 0.8), 0.018, 0.5 - y * 1.05, y + 0.02, 0.5 + y * 1.05, y + 0.02)
    pen.box(door, 0.42, 0.66, 0.60, 0.995, 0.02)
    pen.oval(vary(rng, (236, 210, 90), 6), 0.55, 0.82, 0.58, 0.86)
    for x in (0.15, 0.67):
        pen.box(light(c, 0.9), x, 0.54, x + 0.19, 0.78)
        pen.box(dark(GLASS, 0.8), x + 0.02, 0.565, x + 0.17, 0.755)
        pen.line(light(c, 0.9), 0.025, x + 0.095, 0.55, x + 0.095, 0.77)
        pen.line(light(c, 0.9), 0.025, x + 0.01, 0.66, x + 0.18, 0.66)
    pen.oval(light(c, 0.9), 0.43, 0.20, 0.57, 0.35)
    pen.oval(dark(GLASS, 0.8), 0.45, 0.22, 0.55, 0.33)
