"""The wheel holds what the tree holds: a package that the list forgets works in an editable install, and only there."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_the_wheel_holds_the_tree(tmp_path):
    # In a copy, because the build leaves folders beside the sources.
    for name in ("clip_es", *MAPPED):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, tmp_path)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    try:
        version("setuptools"), version("pip")
    except PackageNotFoundError:
        pytest.skip("needs pip and setuptools")
    built = subprocess.run(
        [*command, "--wheel-dir", "wheel", "."], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        found = sorted(name for name in archive.namelist() if ".dist-info/" not in name)
        scripts = archive.read(next(n for n in archive.namelist() if n.endswith("entry_points.txt"))).decode()
    sources = [path for folder in folders() for path in folder.glob("*.py")]
    wanted = sorted(f"{import_name(p.parent).replace('.', '/')}/{p.name}" for p in [*sources, *data_files()])
    assert found == wanted
    assert "clip-es = clip_es.pipelines.cli:main" in scripts
