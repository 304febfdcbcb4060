"""How the tree reads, in figures, one column for each tree (default: this): `python benchmarks/house.py [TREE ...]`."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

HOMES = ("clip_es", "prompts", "pipelines", "segmentor")
LONG_FUNCTION, LONG_FILE = 60, 300


def measure(tree: Path) -> dict[str, str]:
    sources = [path for home in HOMES for path in sorted((tree / home).rglob("*.py"))]
    folders = Counter(str(path.parent.relative_to(tree)) for path in sources)
    largest, files = folders.most_common(1)[0]
    functions = sorted((row for path in sources for row in lengths(path, tree)), reverse=True)
    lines = sorted(((len(path.read_text().splitlines()), path) for path in sources), reverse=True)
    long = [f"{path.relative_to(tree)} {count}" for count, path in lines if count > LONG_FILE]
    return {
        "source files, folders": f"{len(sources)}, {len(folders)}",
        "most files in one folder": f"{files} ({largest})",
        f"functions above {LONG_FUNCTION} lines": str(sum(count > LONG_FUNCTION for count, _ in functions)),
        "longest functions": "; ".join(f"{name} {count}" for count, name in functions[:3]),
        f"files above {LONG_FILE} lines": f"{len(long)}: {'; '.join(long[:6])}{'; ...' * (len(long) > 6)}",
        "places that name run.yaml": str(sum(map(named, sources))),
        "lines of source": str(sum(count for count, _ in lines)),
        "lines of tests": str(sum(len(path.read_text().splitlines()) for path in (tree / "tests").rglob("*.py"))),
        "lines of README": str(len((tree / "README.md").read_text().splitlines())),
    }


def lengths(path: Path, tree: Path) -> Iterator[tuple[int, str]]:
    """Lines of each function, from `def` to its last line, docstring included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1, f"{path.relative_to(tree)}:{node.name}"


def named(path: Path) -> int:
    """How often code, not prose, says "run.yaml"."""
    return sum(
        isinstance(node, ast.Constant) and node.value == "run.yaml" for node in ast.walk(ast.parse(path.read_text()))
    )


def main() -> None:
    trees = [Path(word) for word in sys.argv[1:]] or [Path(__file__).parents[1]]
    columns = [measure(tree) for tree in trees]
    for name in columns[0]:
        print(f"| {name} | {' | '.join(column[name] for column in columns)} |")


if __name__ == "__main__":
    main()
