"""What drives, sails and flies. Each artist draws one kind in a unit box: see `Pen`."""

from __future__ import annotations

import numpy as np

from clip_es.scenes.kinds.pen import GLASS, TYRE, Number, Pen, dark, light, vary
from clip_es.scenes.world import COLOURS


def aeroplane(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    trim = vary(rng, COLOURS[["blue", "red", "orange"][int(rng.integers(3))]], 10)
    wing = dark(c, 0.82)
    pen.shape(dark(c, 0.7), 0.40, 0.48, 0.58, 0.48, 0.40, 0.06, 0.30, 0.06)  # far wing
    pen.shape(trim, 0.02, 0.10, 0.13, 0.10, 0.25, 0.48, 0.08, 0.50)  # fin
    pen.oval(c, 0.02, 0.36, 0.99, 0.66)
    pen.shape(c, 0.02, 0.42, 0.3, 0.36, 0.3, 0.66, 0.1, 0.58)
    pen.shape(trim, 0.06, 0.52, 0.97, 0.53, 0.92, 0.58, 0.12, 0.58)
    for x in np.linspace(0.25, 0.8, 8):
        pen.oval(dark(GLASS, 0.5), x, 0.43, x + 0.035, 0.49)
    pen.shape(dark(GLASS, 0.6), 0.88, 0.43, 0.96, 0.47, 0.88, 0.49)
    pen.shape(wing, 0.36, 0.56, 0.60, 0.56, 0.36, 0.97, 0.24, 0.97)  # near wing
    pen.oval(dark(trim, 0.8), 0.40, 0.66, 0.56, 0.80)  # engine
    pen.shape(wing, 0.03, 0.50, 0.16, 0.50, 0.08, 0.66, 0.0, 0.66)


def boat(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    sail = vary(rng, [(240, 236, 224), (240, 236, 224), (226, 120, 90), (240, 214, 120)][int(rng.integers(4))], 6)
    pen.line(vary(rng, (96, 66, 40), 8), 0.03, 0.46, 0.02, 0.46, 0.74)
    pen.shape(sail, 0.49, 0.03, 0.50, 0.66, 0.90, 0.66)
    pen.shape(dark(sail, 0.88), 0.43, 0.10, 0.43, 0.66, 0.10, 0.66)
    for y in (0.25, 0.45):
        pen.line(dark(sail, 0.72), 0.012, 0.5, y, 0.49 + 0.4 * (y - 0.03) / 0.63, y)
    pen.shape(c, 0.0, 0.70, 1.0, 0.70, 0.84, 0.99, 0.14, 0.99)
    pen.shape(light(c, 0.7), 0.0, 0.70, 1.0, 0.70, 0.975, 0.75, 0.025, 0.75)
    pen.shape(dark(c, 0.6), 0.09, 0.89, 0.90, 0.89, 0.84, 0.99, 0.14, 0.99)
    for x in (0.28, 0.45, 0.62):
        pen.oval(dark(GLASS, 0.7), x, 0.78, x + 0.07, 0.86)


def car(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    top = dark(c, 0.86)
    roof = float(rng.uniform(0.02, 0.12))
    pen.shape(top, 0.14, 0.48, 0.30, roof, 0.68, roof, 0.84, 0.48)
    pen.shape(GLASS, 0.21, 0.46, 0.32, roof + 0.08, 0.47, roof + 0.08, 0.47, 0.46)
    pen.shape(dark(GLASS, 0.85), 0.51, 0.46, 0.51, roof + 0.08, 0.66, roof + 0.08, 0.77, 0.46)
    pen.box(c, 0.01, 0.43, 0.99, 0.82, 0.18)
    pen.shape(dark(c, 0.62), 0.02, 0.70, 0.98, 0.70, 0.96, 0.82, 0.04, 0.82)
    pen.line(dark(c, 0.55), 0.02, 0.49, 0.46, 0.49, 0.78)
    pen.box(vary(rng, (250, 226, 140), 4), 0.93, 0.50, 0.99, 0.60, 0.03)
    pen.box(vary(rng, (180, 30, 30), 4), 0.01, 0.50, 0.05, 0.60, 0.03)
    for x in (0.13, 0.66):
        pen.oval(TYRE, x, 0.62, x + 0.21, 0.995)
        pen.oval(np.array([176, 178, 184], np.float32), x + 0.055, 0.72, x + 0.155, 0.90)


def train(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    band = vary(rng, [(240, 220, 120), (236, 232, 220)][int(rng.integers(2))], 6)
    pen.box(dark(c, 0.6), 0.0, 0.72, 1.0, 0.86)
    if rng.random() < 0.5:  # steam
        pen.box(TYRE, 0.80, 0.0, 0.88, 0.3)
        pen.box(TYRE, 0.77, 0.0, 0.91, 0.08)
        pen.box(c, 0.50, 0.28, 0.98, 0.76, 0.12)
        pen.box(band, 0.60, 0.28, 0.63, 0.76)
        pen.box(band, 0.72, 0.28, 0.75, 0.76)
        pen.box(TYRE, 0.93, 0.32, 1.0, 0.72, 0.05)
        pen.box(dark(c, 0.8), 0.36, 0.06, 0.58, 0.78)
        pen.box(GLASS, 0.40, 0.16, 0.54, 0.40)
        pen.box(dark(c, 0.5), 0.34, 0.04, 0.60, 0.12)
        end = 0.33
    else:  # electric
        pen.box(c, 0.0, 0.14, 0.99, 0.78, 0.16)
        pen.shape(dark(GLASS, 0.8), 0.86, 0.24, 0.93, 0.24, 0.98, 0.46, 0.86, 0.46)
        pen.line(TYRE, 0.03, 0.3, 0.14, 0.4, 0.02, 0.5, 0.14)
        pen.box(band, 0.0, 0.56, 0.99, 0.64)
        end = 0.83
    pen.box(c, 0.0, 0.14, end, 0.78, 0.05)
    pen.box(dark(c, 0.5), 0.0, 0.12, end, 0.19)
    pen.box(band, 0.0, 0.56, end, 0.63)
    for x in np.arange(0.03, end - 0.07, 0.115):
        pen.box(GLASS, x, 0.26, x + 0.08, 0.48)
    for x in np.arange(0.02, 0.92, 0.155):
        pen.oval(TYRE, x, 0.74, x + 0.12, 0.995)
        pen.oval(np.array([140, 142, 148], np.float32), x + 0.035, 0.81, x + 0.085, 0.925)


def _wheel(pen: Pen, x: Number, y: Number, w: Number, h: Number, hub: np.ndarray) -> None:
    pen.oval(TYRE, x, y, x + w, y + h)
    pen.oval(hub, x + 0.27 * w, y + 0.27 * h, x + 0.73 * w, y + 0.73 * h)


_STEEL = np.array([172, 175, 182], np.float32)


def bicycle(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    for x in (0.0, 0.60):
        pen.oval(TYRE, x, 0.36, x + 0.40, 0.995)
        pen.oval(_STEEL, x + 0.05, 0.44, x + 0.35, 0.915)
        for turn in np.linspace(0, np.pi, 7)[:-1]:
            dx, dy = 0.15 * np.cos(turn), 0.24 * np.sin(turn)
            pen.line(dark(_STEEL, 0.65), 0.014, x + 0.2 - dx, 0.68 - dy, x + 0.2 + dx, 0.68 + dy)
    pen.line(c, 0.075, 0.20, 0.68, 0.34, 0.32, 0.69, 0.30, 0.44, 0.70, 0.20, 0.68)
    pen.line(c, 0.075, 0.44, 0.70, 0.32, 0.22)
    pen.line(c, 0.075, 0.80, 0.68, 0.67, 0.14)
    pen.line(TYRE, 0.06, 0.60, 0.12, 0.67, 0.11, 0.76, 0.07)
    pen.box(TYRE, 0.23, 0.16, 0.41, 0.24, 0.05)
    pen.oval(dark(_STEEL, 0.5), 0.39, 0.62, 0.49, 0.78)


def motorbike(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    for x in (0.0, 0.66):
        pen.oval(TYRE, x, 0.46, x + 0.34, 0.995)
        pen.oval(_STEEL, x + 0.09, 0.60, x + 0.25, 0.855)
        pen.oval(TYRE, x + 0.14, 0.68, x + 0.20, 0.775)
    pen.line(_STEEL, 0.08, 0.83, 0.72, 0.68, 0.16)
    pen.box(dark(_STEEL, 0.55), 0.33, 0.50, 0.62, 0.82, 0.06)
    for y in (0.57, 0.65, 0.73):
        pen.line(_STEEL, 0.03, 0.36, y, 0.59, y)
    pen.line(_STEEL, 0.07, 0.48, 0.82, 0.28, 0.86, 0.02, 0.80)  # exhaust
    pen.shape(c, 0.14, 0.36, 0.40, 0.42, 0.44, 0.60, 0.22, 0.54)
    pen.shape(TYRE, 0.08, 0.30, 0.20, 0.28, 0.46, 0.36, 0.46, 0.44, 0.16, 0.40)
    pen.shape(c, 0.42, 0.30, 0.56, 0.22, 0.70, 0.28, 0.66, 0.50, 0.46, 0.50)
    pen.shape(c, 0.66, 0.44, 0.84, 0.38, 1.0, 0.54, 0.84, 0.48)  # mudguard
    pen.line(TYRE, 0.06, 0.58, 0.10, 0.68, 0.14)
    pen.oval(vary(rng, (250, 230, 150), 4), 0.70, 0.18, 0.80, 0.34)
    pen.shape(GLASS, 0.69, 0.16, 0.78, 0.16, 0.70, 0.0, 0.64, 0.02)


def bus(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    band = vary(rng, [(240, 236, 226), (60, 60, 66), (240, 200, 70)][int(rng.integers(3))], 6)
    pen.box(c, 0.0, 0.03, 0.995, 0.88, 0.09)
    pen.box(light(c, 0.3), 0.03, 0.0, 0.90, 0.08, 0.04)
    pen.box(band, 0.0, 0.56, 0.995, 0.63)
    for x in np.arange(0.04, 0.74, 0.145):
        pen.box(dark(GLASS, 0.8), x, 0.16, x + 0.12, 0.48, 0.03)
        pen.shape(GLASS, x + 0.02, 0.46, x + 0.02, 0.18, x + 0.07, 0.18)
    pen.box(dark(GLASS, 0.7), 0.78, 0.18, 0.88, 0.84, 0.02)  # door
    pen.line(c, 0.02, 0.83, 0.18, 0.83, 0.84)
    pen.box(GLASS, 0.91, 0.14, 0.995, 0.54, 0.04)
    pen.box(vary(rng, (250, 226, 140), 4), 0.94, 0.66, 0.995, 0.74, 0.03)
    pen.box(vary(rng, (180, 30, 30), 4), 0.0, 0.66, 0.02, 0.76)
    pen.box(TYRE, 0.90, 0.06, 0.99, 0.12)
    for x in (0.14, 0.62):
        _wheel(pen, x, 0.70, 0.13, 0.295, _STEEL)


def truck(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    load = vary(rng, [(232, 230, 224), (206, 196, 170), (150, 160, 170)][int(rng.integers(3))], 8)
    pen.box(dark(_STEEL, 0.4), 0.02, 0.74, 0.97, 0.86)
    if rng.random() < 0.7:  # a closed body
        pen.box(load, 0.0, 0.0, 0.66, 0.78, 0.03)
        for x in (0.16, 0.33, 0.50):
            pen.line(dark(load, 0.82), 0.015, x, 0.02, x, 0.76)
        pen.box(dark(load, 0.7), 0.0, 0.70, 0.66, 0.78)
    else:  # heaped sand
        pen.shape(vary(rng, (176, 136, 84), 8), 0.03, 0.42, 0.20, 0.14, 0.42, 0.08, 0.62, 0.42)
        pen.shape(c, 0.0, 0.36, 0.66, 0.36, 0.64, 0.78, 0.05, 0.78)
        for x in (0.2, 0.35, 0.5):
            pen.line(dark(c, 0.75), 0.03, x, 0.38, x, 0.76)
    pen.shape(c, 0.69, 0.14, 0.87, 0.14, 0.97, 0.50, 0.99, 0.82, 0.69, 0.82)
    pen.shape(GLASS, 0.75, 0.22, 0.86, 0.22, 0.935, 0.48, 0.75, 0.48)
    pen.line(dark(c, 0.6), 0.02, 0.74, 0.54, 0.74, 0.80)
    pen.box(vary(rng, (250, 226, 140), 4), 0.94, 0.60, 0.99, 0.69, 0.02)
    pen.box(dark(_STEEL, 0.7), 0.93, 0.76, 1.0, 0.84)
    for x in (0.07, 0.24, 0.76):
        _wheel(pen, x, 0.66, 0.165, 0.335, _STEEL)


def helicopter(pen: Pen, rng: np.random.Generator, c: np.ndarray) -> None:
    blade = np.array([60, 60, 66], np.float32)
    pen.shape(c, 0.02, 0.36, 0.46, 0.34, 0.46, 0.54, 0.04, 0.44)  # boom
    pen.shape(dark(c, 0.75), 0.0, 0.16, 0.08, 0.18, 0.14, 0.42, 0.02, 0.46)
    pen.line(blade, 0.03, 0.0, 0.16, 0.10, 0.50)
    for x in (0.52, 0.78):
        pen.line(blade, 0.035, x, 0.76, x, 0.92)
    pen.line(blade, 0.05, 0.38, 0.94, 0.90, 0.94, 0.95, 0.88)  # skids
    pen.oval(c, 0.34, 0.22, 0.94, 0.82)
    pen.shape(c, 0.34, 0.34, 0.62, 0.18, 0.66, 0.50, 0.40, 0.64)
    pen.shape(GLASS, 0.70, 0.28, 0.82, 0.30, 0.92, 0.50, 0.70, 0.54)
    pen.shape(dark(GLASS, 0.85), 0.50, 0.28, 0.66, 0.28, 0.66, 0.54, 0.48, 0.52)
    pen.shape(light(c, 0.6), 0.40, 0.62, 0.92, 0.60, 0.89, 0.67, 0.44, 0.68)
    pen.box(blade, 0.57, 0.06, 0.62, 0.24)
    pen.box(blade, 0.18, 0.02, 1.0, 0.085, 0.02)
    pen.oval(dark(c, 0.6), 0.53, 0.03, 0.66, 0.12)
