"""Imports point one way: pipelines -> prompts, segmentor, clip_es; prompts, segmentor -> clip_es."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MAY_IMPORT = {
    "clip_es": set(),
    "prompts": {"clip_es"},
    "segmentor": {"clip_es"},
    "pipelines": {"clip_es", "prompts", "segmentor"},
}
"""What each of the four folders may import besides itself."""

HEAVY = {
    "cv2",
    "cvat_sdk",
    "datasets",
    "diffusers",
    "fsspec",
    "gradio",
    "matplotlib",
    "mmcv",
    "mmengine",
    "mmseg",
    "nltk",
    "numba",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pyarrow",
    "pycocotools",
    "pydensecrf",
    "pytorch_grad_cam",
    "ray",
    "timm",
    "torchvision",
    "transformers",
}
"""Libraries that are heavy, fragile or optional: imported by the function that needs them, never by a module."""

COMPILED = {"clip_es/refine/crf/native.py", "clip_es/refine/crf/vector_rows.py"}
"""Modules that are compiled as a whole; others import them inside the function that needs them."""

FRONT_DOORS = {"clip_es/__init__.py", "clip_es/__main__.py"}
"""`import clip_es` and `python -m clip_es`: they open onto every folder, and import nothing before it is asked for."""

MMSEG_PARTS = {
    f"segmentor/{name}.py"
    for name in (
        "models/clip_backbone",
        "data/dataset",
        "models/heads",
        "models/published",
        "models/text_heads",
        "training/hooks",
        "zero_shot/heads",
    )
}
"""Subclasses of mmsegmentation's own parts; `clip_es.segmentor.prepare` imports them, inside a function."""


def imports(source: str, package: str = "") -> list[tuple[str, bool]]:
    """Dotted names a source imports, and whether they are imported as soon as the module is.

    `package` is the package the module is in, for relative imports. What stands under `if TYPE_CHECKING:` never runs,
    but an arrow it is all the same.
    """
    found: list[tuple[str, bool]] = []

    def visit(node: ast.AST, at_once: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".") if node.level else []
            parts = parts[: len(parts) - node.level + 1]
            base = ".".join([*parts, *([node.module] if node.module else [])])
            found.extend((f"{base}.{alias.name}", at_once) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"importlib.import_module", "__import__"}:
            found.extend((name.value, at_once) for name in node.args[:1] if isinstance(name, ast.Constant))
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        checking = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            visit(child, at_once and not inside and not checking)

    visit(ast.parse(source), True)
    return found


def room(name: str) -> str | None:
    """Which of the four folders a dotted name belongs to."""
    parts = name.split(".")
    if parts[0] != "clip_es":
        return parts[0] if parts[0] in MAY_IMPORT else None
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else "clip_es"


def wrong_arrows(source: str, home: str, package: str = "") -> list[str]:
    """Imports that a module of the folder `home` must not have."""
    allowed = MAY_IMPORT[home] | {home}
    wrong = [name for name, _ in imports(source, package) if (target := room(name)) and target not in allowed]
    late = tuple(name.removesuffix(".py").replace("/", ".") for name in COMPILED)
    late += tuple("clip_es." + name.removesuffix(".py").replace("/", ".") for name in MMSEG_PARTS)
    heavy = [
        n for n, at_once in imports(source, package) if at_once and (n.split(".")[0] in HEAVY or n.startswith(late))
    ]
    return list(dict.fromkeys(wrong + heavy))


def modules() -> list[Path]:
    return sorted(path for home in MAY_IMPORT for path in (ROOT / home).rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_folder_may(path):
    inner = path.relative_to(ROOT).parent.parts
    package = ".".join(inner if inner[0] == "clip_es" else ("clip_es", *inner))
    wrong = wrong_arrows(path.read_text(), inner[0], package)
    if path.relative_to(ROOT).as_posix() in FRONT_DOORS:
        wrong = [name for name in wrong if room(name) not in MAY_IMPORT]
    if path.relative_to(ROOT).as_posix() in COMPILED:
        wrong = [
            name
            for name in wrong
            if name.split(".")[0] != "numba" and not name.startswith("clip_es.refine.crf.vector_rows")
        ]
    if path.relative_to(ROOT).as_posix() in MMSEG_PARTS:
        wrong = [name for name in wrong if name.split(".")[0] not in {"mmcv", "mmengine", "mmseg"}]
    assert wrong == []


def test_all_four_folders_are_looked_at():
    assert {path.relative_to(ROOT).parts[0] for path in modules()} == set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("home", "source"),
    [
        ("clip_es", "from clip_es.prompts import load_vocabulary"),
        ("clip_es", "def late():\n    import clip_es.pipelines.cli"),
        ("clip_es", "from clip_es import segmentor"),
        ("clip_es", "from . import prompts"),
        ("clip_es", "import prompts"),
        ("clip_es", "if TYPE_CHECKING:\n    from clip_es.prompts import Vocabulary"),
        ("clip_es", "import importlib\nimportlib.import_module('clip_es.pipelines')"),
        ("prompts", "from clip_es.pipelines import cli"),
        ("prompts", "from clip_es.segmentor import dataset"),
        ("segmentor", "from clip_es.prompts import bank"),
        ("pipelines", "import cv2"),
        ("pipelines", "try:\n    import pydensecrf.densecrf as d\nexcept ImportError:\n    d = None"),
        ("clip_es", "from clip_es.refine.crf.native import mean_field"),
        ("clip_es", "class Plot:\n    import matplotlib.pyplot as plt"),
    ],
)
def test_a_wrong_arrow_is_seen(home, source):
    assert len(wrong_arrows(source, home, "clip_es" if home == "clip_es" else f"clip_es.{home}")) == 1


@pytest.mark.parametrize(
    ("home", "source"),
    [
        ("clip_es", "from clip_es.types import ImageRecord\nimport numpy"),
        ("clip_es", "def draw():\n    import matplotlib.pyplot"),
        ("clip_es", "if TYPE_CHECKING:\n    import ray"),
        ("prompts", "from clip_es.encoder import Encoder\nfrom .bank import build_bank"),
        ("pipelines", "from clip_es.prompts import bank\nfrom clip_es.segmentor import launch\nimport clip_es"),
    ],
)
def test_a_right_arrow_is_let_through(home, source):
    assert wrong_arrows(source, home, "clip_es" if home == "clip_es" else f"clip_es.{home}") == []
