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


def test_a_first_mask_needs_neither_scipy_nor_the_readers_and_formats_of_other_tools():
    code = (
        "import sys, clip_es; clip_es.load('scenes', ['cat'], device='cpu');"
        "print(sorted(m for m in sys.modules if m in ('scipy', 'numba', 'matplotlib', 'rich')"
        "             or m.startswith(('clip_es.records', 'clip_es.formats'))))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_imports_pause_the_collector_and_leave_it_as_it_was():
    code = (
        "import gc, sys\n"
        "if 'off' in sys.argv: gc.disable()\n"
        "if 'frozen' in sys.argv: gc.freeze()\n"
        "seen = []\n"
        "gc.callbacks.append(lambda phase, _: seen.append(phase))\n"
        "frozen = gc.get_freeze_count()\n"
        "import clip_es; clip_es.load\n"
        "print(len(seen) < 40, gc.isenabled(), 0.9 * frozen <= gc.get_freeze_count() <= frozen)\n"
    )
    for asked, running in (("", True), ("off", False), ("frozen", True)):
        ran = subprocess.run([sys.executable, "-c", code, asked], capture_output=True, text=True, check=True)
        assert ran.stdout == f"True {running} True\n"


def test_the_version_is_told(capsys):
    assert clip_es.__version__ == version("clip-es")
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"clip-es {version('clip-es')}\n"
    ran = subprocess.run([sys.executable, "-m", "clip_es", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout == f"clip-es {version('clip-es')}\n"
