"""Build the pages of this folder, strictly and without a network: `make docs`, or `python docs/build.py`.

OUT/pages holds what is built: the Markdown of this folder, the tutorial as it was last run, and the reference, which is
made from the code. OUT/site is the result; open OUT/site/index.html. A broken link, anchor or name ends the build.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import yaml

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))  # For the Markdown extension, and for the module below where this file is no script.

import reference  # noqa: E402

COPIED = {
    "data/README.md": "reference/data.md",
    "CHANGELOG.md": "about/changelog.md",
    "CONTRIBUTING.md": "about/contributing.md",
    "SECURITY.md": "about/security.md",
}
"""Files that are pages too."""


def main() -> int:
    """Make the pages, build them, say where they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/docs"))
    out = parser.parse_args().out
    began = time.monotonic()
    code = build(out)
    print(f"{out / 'site' / 'index.html'}  {time.monotonic() - began:.1f} s" if code == 0 else "The build failed.")
    return code


def build(out: Path) -> int:
    """Returns the exit code of the strict build."""
    pages = out / "pages"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(HERE, pages, ignore=shutil.ignore_patterns("*.py", "*.yml", "*.ipynb", "__pycache__"))
    for source, target in COPIED.items():
        (pages / target).parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / source).read_text(encoding="utf-8")
        (pages / target).write_text(relinked(text, Path(source), Path(target)), encoding="utf-8")
    notebook_page(HERE / "tutorial.ipynb", pages / "tutorial.md")
    for name in ("commands", "python"):
        (pages / "reference" / name).mkdir(parents=True, exist_ok=True)
    commands = reference.commands(pages / "reference" / "commands")
    names = reference.names(pages / "reference" / "python")
    reference.parts(pages / "reference" / "parts.md")
    reference.link_sources(out / "sources")
    config = (HERE / "mkdocs.yml").read_text(encoding="utf-8")
    nav = navigation(pages, commands, names)
    (out / "mkdocs.yml").write_text(config + yaml.safe_dump({"nav": nav}, sort_keys=False), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(HERE.resolve()), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", "mkdocs.yml"]
    return subprocess.run(command, cwd=out, env=environment, check=False).returncode


def relinked(text: str, source: Path, target: Path) -> str:
    """A page of the repository as one of these pages: links lead to where the others stand here, or to nothing."""

    def link(match: re.Match[str]) -> str:
        name, where = match.groups()
        inner = os.path.normpath(source.parent / where)
        there = COPIED.get(inner) or (inner.removeprefix("docs/") if inner.startswith("docs/") else None)
        return f"[{name}]({os.path.relpath(there, target.parent)})" if there else name

    parts = re.split(r"(^ *```.*?^ *```)", text, flags=re.S | re.M)  # Code stays as it is.
    parts[::2] = [re.sub(r"\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)", link, part) for part in parts[::2]]
    return "".join(parts)


def navigation(pages: Path, commands: list[Path], names: list[Path]) -> list:
    """What stands in the margin, in the order of reading."""

    def titled(paths: list[Path]) -> list[dict[str, str]]:
        return [{_title(path): path.relative_to(pages).as_posix()} for path in paths]

    def folder(name: str, first: tuple[str, ...] = ()) -> list[dict[str, str]]:
        found = sorted((pages / name).glob("*.md"), key=lambda p: (p.stem not in first, first and p.stem, p.stem))
        order = {stem: i for i, stem in enumerate(first)}
        return titled(sorted(found, key=lambda path: (order.get(path.stem, len(order)), path.stem)))

    return [
        {"Start": "index.md"},
        {"Tutorial": "tutorial.md"},
        {
            "How to": folder(
                "how-to",
                (
                    "own-pictures",
                    "python",
                    "words",
                    "voc",
                    "coco",
                    "train",
                    "unseen-classes",
                    "extend",
                    "mend",
                    "maps",
                    "regions",
                    "annotation-tools",
                    "playground",
                    "speed",
                    "cluster",
                ),
            )
        },
        {"Explanation": folder("explanation", ("method",))},
        {"Numbers": "numbers.md"},
        {
            "Reference": [
                *folder("reference", ("parts", "run-folder", "exit-codes", "data")),
                {"Commands": titled(commands)},
                {"Python": titled(names)},
            ]
        },
        {"About": folder("about", ("contributing", "security", "changelog"))},
    ]


def _title(page: Path) -> str:
    return next(line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("# "))[2:]


def notebook_page(notebook: Path, page: Path) -> None:
    """A notebook as Markdown: its text, its code, what the code printed and drew when it was last run."""
    lines: list[str] = []
    pictures = 0
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "markdown":
            lines += [cell.source, ""]
            continue
        shell = cell.source.startswith("%%bash\n")
        lines += ["```sh" if shell else "```python", cell.source.removeprefix("%%bash\n"), "```", ""]
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                pictures += 1
                picture = page.with_name(f"{page.stem}-{pictures}.png")
                picture.write_bytes(base64.b64decode(data["image/png"]))
                lines += [f"![output of the cell above]({picture.name})", ""]
            elif text := output.get("text") or data.get("text/plain"):
                lines += ["```text", text.rstrip(), "```", ""]
    page.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
