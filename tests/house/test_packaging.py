"""The wheel holds what the tree holds: a package that the list forgets works in an editable install, and only there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, PackagePath, files, requires
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from clip_es.masks import read_mask

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
MAPPED = ("prompts", "pipelines", "segmentor")
DATA = ("clip_es/py.typed", "prompts/voc12.yaml", "prompts/coco14.yaml", "prompts/scenes.yaml", "prompts/ade20k.yaml")
"""Files without which an installed package does not do what its README says."""


@pytest.fixture(scope="module")
def config() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def import_name(folder: Path) -> str:
    parts = folder.relative_to(ROOT).parts
    return ".".join(parts if parts[0] == "clip_es" else ("clip_es", *parts))


def folders() -> list[Path]:
    """Every folder with an __init__.py."""
    return sorted(path.parent for home in ("clip_es", *MAPPED) for path in (ROOT / home).rglob("__init__.py"))


def data_files() -> list[Path]:
    """Every file that is no source and no left-over of Python."""
    files = (path for home in ("clip_es", *MAPPED) for path in (ROOT / home).rglob("*") if path.is_file())
    return sorted(path for path in files if path.suffix != ".py" and "__pycache__" not in path.parts)


def in_package_data(path: Path, patterns: dict[str, list[str]]) -> bool:
    """Whether a pattern of the nearest package covers the file; `*` stays within one folder there."""
    folder = next(parent for parent in path.parents if (parent / "__init__.py").is_file())
    inner = path.relative_to(folder)
    return any(
        len(Path(pattern).parts) == len(inner.parts) and fnmatch(str(inner), pattern)
        for pattern in patterns.get(import_name(folder), [])
    )


def test_the_list_of_packages_is_the_tree(config):
    assert sorted(config["packages"]) == sorted(map(import_name, folders()))


def test_every_folder_with_modules_is_a_package():
    sources = {path.parent for home in ("clip_es", *MAPPED) for path in (ROOT / home).rglob("*.py")}
    assert sorted(sources) == folders()


def test_the_three_folders_are_mapped_to_themselves(config):
    assert config["package-dir"] == {f"clip_es.{home}": home for home in MAPPED}


def test_every_data_file_is_named_and_the_needed_ones_exist(config):
    left_out = [str(p.relative_to(ROOT)) for p in data_files() if not in_package_data(p, config["package-data"])]
    assert left_out == []
    assert [name for name in DATA if not (ROOT / name).is_file()] == []


def test_a_data_file_without_a_pattern_is_seen():
    patterns = {"clip_es": ["py.typed"]}
    assert in_package_data(ROOT / "clip_es/py.typed", patterns)
    assert not in_package_data(ROOT / "clip_es/other.bin", patterns)
    assert not in_package_data(ROOT / "clip_es/deep/py.typed", patterns)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the tree, because the build leaves folders beside the sources."""
    root = tmp_path_factory.mktemp("wheel")
    for name in ("clip_es", *MAPPED):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, root)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", "dist", "."]
    run(root, sys.executable, "-m", "pip", *build)
    (built,) = (root / "dist").glob("*.whl")
    return built


def run(folder: Path, *command: str | Path) -> str:
    """What a program prints, started in a folder outside the repository and without its settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_wheel_holds_the_tree(wheel):
    with zipfile.ZipFile(wheel) as archive:
        found = sorted(name for name in archive.namelist() if ".dist-info/" not in name)
        scripts = archive.read(next(n for n in archive.namelist() if n.endswith("entry_points.txt"))).decode()
    sources = [path for folder in folders() for path in folder.glob("*.py")]
    wanted = sorted(f"{import_name(p.parent).replace('.', '/')}/{p.name}" for p in [*sources, *data_files()])
    assert found == wanted
    assert "clip-es = clip_es.pipelines.cli:program" in scripts


def needed(name: str, extras: tuple[str, ...] = (), seen: dict[tuple[str, str], None] | None = None) -> list[str]:
    """The distributions that pip would install with one, itself included; `extras` are those asked for."""
    seen = {} if seen is None else seen
    for extra in ("", *extras):
        if (canonicalize_name(name), extra) in seen:
            continue
        seen[canonicalize_name(name), extra] = None
        for line in requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                with suppress(PackageNotFoundError):  # Wanted on other machines only, such as CUDA's libraries.
                    needed(requirement.name, tuple(requirement.extras), seen)
    return sorted({name for name, _ in seen})


@pytest.fixture(scope="module")
def plain(wheel, tmp_path_factory) -> Path:
    """A virtual environment as `pip install clip-es` without extras leaves it; no library beyond its needs is seen."""
    root = tmp_path_factory.mktemp("plain")
    run(root, sys.executable, "-m", "venv", "--without-pip", "venv")
    python = root / "venv/bin/python"
    home = Path(run(root, python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    run(root, sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    for name in needed("clip-es"):
        for file in {home_of(path) for path in files(name) or ()} if name != "clip-es" else ():
            if file.exists() and not (home / file.name).exists():
                (home / file.name).symlink_to(file)
    return root


def home_of(path: PackagePath) -> Path:
    """The entry of site-packages that holds a file."""
    return Path(str(path.locate())).parents[len(path.parts) - 2] if len(path.parts) > 1 else Path(str(path.locate()))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="links and the place of programs are those of Unix")
def test_the_wheel_alone_makes_masks_and_runs_the_readme(plain):
    python, program = plain / "venv/bin/python", plain / "venv/bin/clip-es"
    for extra in ("mmseg", "cv2", "numba", "pydensecrf", "ray", "pytest"):
        found = run(plain, python, "-c", f"import importlib.util; print(importlib.util.find_spec({extra!r}))")
        assert found.strip() == "None", f"{extra} comes with an extra, not with the package"
    assert str(plain) in run(plain, python, "-c", "import clip_es; print(clip_es.__file__)")
    run(plain, program, "scenes", "make", "--out", "scenes", "--train", "2", "--val", "4")
    told = run(plain, program, "masks", "scenes", "--root", "scenes", "--split", "val", "--out", "run")
    assert "4 pictures" in told
    assert "The CRF runs in torch" in told
    masks = [read_mask(path) for path in (plain / "run/masks").iterdir()]
    assert len(masks) == 4
    assert all(len(np.unique(mask)) > 1 for mask in masks)
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert code
    run(plain, python, "-c", code.group(1))
    assert read_mask(plain / "mask.png").size


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="links and the place of programs are those of Unix")
def test_the_wheel_alone_runs_the_demo_without_the_segmenter(plain):
    program = plain / "venv/bin/clip-es"
    told = run(plain, program, "demo", "--out", "demo", "--scenes.train", "6", "--scenes.val", "6", "--iterations", "2")
    assert "clip-es[segmentor]" in told
    assert "Done: mIoU of the masks" in told
    assert (plain / "demo/report.html").stat().st_size > 100_000
