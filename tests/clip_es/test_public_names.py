"""The front doors: `import clip_es`, `python -m clip_es`, `clip-es --version`."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import clip_es
from clip_es.pipelines.cli import main


@pytest.mark.parametrize("name", clip_es.__all__)
def test_every_public_name_is_there(name):
    assert getattr(clip_es, name) is not None
    assert name in dir(clip_es)


def test_a_name_that_is_not_public_is_missed_as_anywhere():
    with pytest.raises(AttributeError, match="has no attribute 'MaskMakers'"):
        _ = clip_es.MaskMakers


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, clip_es; print(sorted({'torch', 'numpy', 'PIL', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_version_is_told(capsys):
    assert clip_es.__version__ == version("clip-es")
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"clip-es {version('clip-es')}\n"
    ran = subprocess.run([sys.executable, "-m", "clip_es", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout == f"clip-es {version('clip-es')}\n"
