"""What people read first is true: the README's lines run, its facts are the project's, the pages build strictly."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_es.masks import read_mask
from clip_es.pipelines.cli import COMMANDS
from clip_es.scenes.dataset import ScenesConfig, scene_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = [ROOT / "README.md", ROOT / "data/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WRITTEN_BY_THE_BUILD = (
    "../about/",
    "../reference/data.md",
    "../tutorial.md",
    "tutorial.md",
    "reference/",
    "../reference/",
)
"""Where links of the pages lead that only the built pages have."""


def fences(text: str, kind: str = "") -> list[str]:
    """The code blocks of a language; of none, those without a name."""
    return re.findall(rf"^ *```{kind}\n(.*?)^ *```", text, re.S | re.M)


def docs_module(name: str):
    """A module of docs/, which is no package."""
    pytest.importorskip("zensical" if name in {"build", "reference"} else "nbclient")
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ROOT / "docs"))


def test_the_lines_of_the_readme_make_a_good_mask(tmp_path, monkeypatch):
    (code,) = fences(README, "python")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    mask, truth = read_mask(tmp_path / "mask.png"), scene_of(ScenesConfig(), "val", 2).mask
    decided = mask != 255
    assert decided.mean() > 0.98
    assert np.mean((mask == truth)[decided]) > 0.95


def test_the_code_of_the_python_page_runs(tmp_path, monkeypatch):
    """On a scene and with the packaged weights in place of a photograph and weights that would be fetched."""
    scene, shown = scene_of(ScenesConfig(side=(64, 80)), "val", 2).picture, []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Image.Image, "show", lambda image, **_: shown.append(image.size))
    Image.fromarray(scene).save("photo.jpg")
    names = {"paths": ["photo.jpg", "missing.jpg"], "labels": [["cat"], ["sofa"]], "out": tmp_path / "masks"}
    names |= {"dataset": [(scene, ["cat"]), (scene, ["sofa"])]}
    page = (ROOT / "docs/how-to/python.md").read_text(encoding="utf-8")
    for code in fences(page, "python"):
        exec(compile(code.replace('"ViT-B/16"', '"scenes"'), "python.md", "exec"), names)
    assert shown
    assert read_mask(tmp_path / "mask.png").shape == scene.shape[:2]
    assert [file.name for file in (tmp_path / "masks").iterdir()] == ["photo.png"]
    assert len(names["masks"]) == 2


@pytest.mark.slow
def test_a_users_script_has_no_type_errors_under_strict_settings(tmp_path):
    pytest.importorskip("pyright")
    script = ROOT / "tests/support/users_script.py"
    settings = {
        "typeCheckingMode": "strict",
        "include": [str(script)],
        "extraPaths": [str(ROOT), str(ROOT / ".typings")],
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    ran = subprocess.run(
        [sys.executable, "-m", "pyright", "-p", str(tmp_path), "--pythonpath", sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "0 errors, 0 warnings" in ran.stdout, ran.stdout


def test_the_readme_is_one_page():
    assert len(README.splitlines()) <= 100


def test_python_versions_are_the_same_everywhere():
    versions = [c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert f"Python {versions[0]} to {versions[-1]}" in README
    assert PROJECT["requires-python"].startswith(f">={versions[0]}")
    for workflow in ("test", "release"):
        text = (ROOT / f".github/workflows/{workflow}.yml").read_text()
        listed = re.search(r"python: \[(.*?)\]", text)
        assert listed
        assert re.findall(r"[\d.]+", listed.group(1)) == versions


def test_every_extra_of_the_readme_exists():
    named = {name for group in re.findall(r"clip-es\[([\w,]+)\]", README) for name in group.split(",")}
    assert named
    assert named <= set(PROJECT["optional-dependencies"])


def test_the_licence_is_one():
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert "license: Apache-2.0" in (ROOT / "CITATION.cff").read_text()
    assert f"version: {PROJECT['version']}" in (ROOT / "CITATION.cff").read_text()


def command_lines() -> list[tuple[str, str]]:
    """(page, line) of every call of clip-es in a code block."""
    found = []
    for page in PAGES:
        for block in fences(page.read_text(encoding="utf-8")):
            joined = block.replace("\\\n", " ")
            lines = (re.sub(r"\s+#.*", "", line).strip() for line in joined.splitlines())
            found += [(str(page.relative_to(ROOT)), line) for line in lines if re.match(r"(\w+=\S+ )*clip-es ", line)]
    return found


def test_every_command_line_of_the_pages_has_a_command_and_flags_that_exist():
    reference = docs_module("reference")
    flags: dict[str, set[str]] = {}
    wrong = []
    for page, line in command_lines():
        words = shlex.split(line[line.index("clip-es ") :])[1:]
        if words[0].startswith("--"):
            continue
        name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
        if name not in COMMANDS:
            wrong.append(f"{page}: no command: {line}")
            continue
        if name not in flags:
            groups = reference._groups(name)
            flags[name] = {"--help"} | set(
                re.findall(r"`(--[\w.-]+)`", str([flag.names for g in groups.values() for flag in g]))
            )
        unknown = [word for word in words if re.match(r"--\w", word) and word.split("=")[0] not in flags[name]]
        wrong += [f"{page}: {name} has no {flag}: {line}" for flag in unknown]
    assert wrong == []
    assert len(flags) > 10


def test_every_link_of_the_pages_leads_somewhere():
    wrong = []
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]:
        prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose):
            if "://" in target or (page.parent != ROOT and target.startswith(WRITTEN_BY_THE_BUILD)):
                continue
            if not (page.parent / target).exists():
                wrong.append(f"{page.relative_to(ROOT)}: {target}")
    assert wrong == []


def test_the_pages_build_strictly_and_need_no_network(tmp_path):
    build = docs_module("build")
    assert build.build(tmp_path / "docs") == 0
    site = tmp_path / "docs" / "site"
    pages = list(site.rglob("*.html"))
    assert {"index.html", "tutorial.html", "numbers.html"} <= {page.name for page in pages}
    outside = re.compile(
        r"""<(?:script|img|iframe)[^>]+src=["']?https?:|<link[^>]+rel=["']?(?:stylesheet|preconnect)[^>]+https?:"""
    )
    missing, reaching = [], []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        reaching += [str(page.relative_to(site))] if outside.search(text) else []
        for picture in re.findall(r'<img[^>]+src="([^"]+)"', text):
            if not picture.startswith("data:") and not (page.parent / picture).exists():
                missing.append(f"{page.relative_to(site)}: {picture}")
    assert (missing, reaching) == ([], [])
    for name in COMMANDS:
        page = (site / "reference" / "commands" / f"{name.split()[0]}.html").read_text(encoding="utf-8")
        assert f"clip-es {name}" in page


def test_the_tutorial_runs(tmp_path):
    notebook = docs_module("tutorial").run(tmp_path)
    printed = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    good = re.search(r"([\d.]+)% of the decided pixels are correct", printed)
    assert good
    assert float(good.group(1)) > 95
    miou = re.search(r"miou\D+([\d.]+)", printed)
    assert miou
    assert float(miou.group(1)) > 55
    assert (tmp_path / "tutorial/run/report.html").stat().st_size > 10_000
