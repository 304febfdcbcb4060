"""What is taken along makes the same mask on the command line."""

from __future__ import annotations

import io
import shlex
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from clip_es.config.methods import CliperConfig
from clip_es.config.presets import PRESETS
from clip_es.config.run import DEFAULT, CrfConfig
from clip_es.config.views import ViewsConfig
from clip_es.masks import read_mask
from clip_es.pipelines.cli import main, parse
from clip_es.pipelines.commands.masks import Masks
from clip_es.pipelines.playground.export import bundle, command_line, flags
from clip_es.pipelines.playground.session import Asked
from clip_es.pipelines.playground.words import Words

CHANGED = {
    "method": replace(DEFAULT, method="cliper", refine=("spectral", "crf")),
    "refiner": replace(DEFAULT, refine=("par",)).using(crf=CrfConfig(iterations=3)),
    "none": replace(DEFAULT, refine=()),
    "views": replace(DEFAULT, views=ViewsConfig(shifts=2, flip=True, scales=(1.0, 0.5))),
    "off": DEFAULT.using(cliper=CliperConfig(fuse=False, short_side=None)),
    "patches": replace(DEFAULT, image=replace(DEFAULT.image, max_patches=None, exif=False)),
    "reference": PRESETS["reference"].config,
    "cliper": PRESETS["cliper-scenes"].config,
}


@pytest.mark.parametrize("name", CHANGED)
def test_flags_are_read_back_as_the_settings_they_were_made_of(name):
    words = ["--images", "x", "--out", "y", *flags(CHANGED[name])]
    assert parse(Masks, "clip-es masks folder", words, "folder").config == CHANGED[name]


def test_default_settings_need_no_flag():
    assert flags(DEFAULT) == []


def test_the_command_line_makes_the_same_mask(playground, bring, tmp_path, monkeypatch):
    key, names = bring(0)
    said = f"{names[0]}: {names[0]}; another word"
    words = Words.typed([*names, "hedge"], "mean", said, "a drawing of a {}.", "sky\ngrass", playground.vocabulary)
    asked = Asked(key, words, "clip-es", ("affinity",))
    look = playground.look(asked)
    packed = zipfile.ZipFile(io.BytesIO(bundle(playground, asked, look, "scenes", 0.6)))
    packed.extractall(tmp_path / "packed")
    monkeypatch.chdir(tmp_path / "packed")
    call = shlex.split((tmp_path / "packed/command.txt").read_text())
    assert call[0] == "clip-es"
    assert main(call[1:]) == 0
    (made,) = (tmp_path / "packed/run/masks").iterdir()
    labels = look.labels(0.6)
    assert len(np.unique(labels)) > 1
    assert 255 in labels
    assert np.array_equal(read_mask(made), labels)
    assert np.array_equal(read_mask(tmp_path / "packed/mask.png"), labels)


def test_hostile_words_stay_one_word_of_the_command():
    words = Words.typed(["cat"], templates="a {}; rm -rf '$HOME' `x` \"y\".")
    call = command_line(Asked("", words), DEFAULT, "a b.pt", 0.5)
    assert shlex.split(call)[shlex.split(call).index("--template") + 1] == "a {}; rm -rf '$HOME' `x` \"y\"."
