"""Labels can be told apart by those who see fewer colours."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from clip_es.pipelines.playground.colours import (
    OKABE_ITO,
    Mark,
    at_size,
    borders,
    change,
    grown,
    heat,
    marks,
    overlay,
)

# Machado, Oliveira and Fernandes (2009), severity 1.0, for linear RGB.
SEEN_BY = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def seen(colours, how):
    from skimage.color import rgb2lab

    values = np.array(colours) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(SEEN_BY[how]).T, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb2lab(encoded[None])[0]


@pytest.mark.parametrize("how", SEEN_BY)
def test_any_two_colours_differ_for_the_colour_blind(how):
    from skimage.color import deltaE_ciede2000

    lab = seen([*OKABE_ITO, (255, 255, 255)], how)
    nearest = min(float(deltaE_ciede2000(a, b)) for a, b in itertools.combinations(lab, 2))
    assert nearest > 7  # about 2 is just noticeable; the VOC palette has pairs below 1


def test_the_first_21_labels_have_marks_of_their_own():
    found = marks(range(1, 22))
    assert len({found[label] for label in range(1, 22)}) == 21
    assert found[255].rgb == (255, 255, 255)
    assert found[1] == Mark(OKABE_ITO[0])
    assert found[8] == Mark(OKABE_ITO[0], 1)


def test_an_overlay_darkens_background_and_draws_borders():
    rgb = np.full((4, 6, 3), 100, np.uint8)
    labels = np.zeros((4, 6), np.uint8)
    labels[:, 3:] = 1
    out = overlay(rgb, labels, marks([1]))
    assert borders(labels).sum() == 4
    assert out[0, 0].tolist() == [45, 45, 45]
    assert out[0, 2].tolist() == [24, 24, 28]
    assert out[0, 4].tolist() == [int(35 + 0.65 * part) for part in OKABE_ITO[0]]


def test_a_small_picture_grows_by_a_whole_number_and_a_large_one_stays():
    assert grown(np.zeros((40, 100, 3), np.uint8), 720).shape == (280, 700, 3)
    assert grown(np.zeros((700, 500, 3), np.uint8), 720).shape == (700, 500, 3)
    assert grown(np.zeros((900, 500, 3), np.uint8), 720).shape == (900, 500, 3)


def test_labels_keep_their_values_at_another_size():
    labels = np.array([[0, 7], [255, 7]], np.uint8)
    assert set(np.unique(at_size(labels, (9, 9)))) == {0, 7, 255}


def test_maps_and_changes_are_pictures_of_their_size():
    rgb, values = np.zeros((3, 4, 3), np.uint8), np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    assert heat(rgb, values.clip(0)).shape == (3, 4, 3)
    less, more = change(rgb, values)[0, 0].astype(int), change(rgb, values)[-1, -1].astype(int)
    assert less[2] > less[0]  # purple
    assert more[0] > more[2]  # orange
