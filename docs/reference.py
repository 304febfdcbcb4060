"""The reference pages, made from the code: every command with its flags, every table, every public name."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from importlib import import_module
from pathlib import Path

from clip_es.pipelines.cli import COMMANDS, SOURCES
from clip_es.pipelines.completion import parser_of

ROOT = Path(__file__).parents[1]
FOLDERS = ("clip_es", "prompts", "pipelines", "segmentor")


@dataclass(frozen=True)
class Flag:
    """One row of a command's table."""

    names: str
    value: str
    about: str


Groups = dict[tuple[str, str], list[Flag]]
"""(title, sentence) of each group of flags, and the flags."""


def commands(out: Path) -> list[Path]:
    """One page for each first word of a command; flags that all commands of a page share stand there once."""
    pages = []
    families: dict[str, list[str]] = {}
    for name in COMMANDS:
        families.setdefault(name.split()[0], []).append(name)
    for family, names in families.items():
        found = {name: _groups(name) for name in names}
        page = out / f"{family}.md"
        page.write_text(_page(family, found), encoding="utf-8")
        pages.append(page)
    return pages


def _page(family: str, found: dict[str, Groups]) -> str:
    alike = [name for name in found if COMMANDS[name].source] or list(found)
    shared = _shared([found[name] for name in alike]) if len(alike) > 1 else {}
    lines = [f"# clip-es {family}", ""]
    if COMMANDS[alike[0]].source:
        lines += [_prose(_command(alike[0]).__doc__ or ""), ""]
    for name, groups in found.items():
        source = COMMANDS[name].source
        about = f"{SOURCES[source][1][:1].upper()}{SOURCES[source][1][1:]}." if source else _command(name).__doc__
        lines += [*([f"## clip-es {name}", ""] if len(found) > 1 else []), _prose(about or COMMANDS[name].what), ""]
        both = shared if name in alike else {}
        own = {key: [flag for flag in flags if flag not in both.get(key, [])] for key, flags in groups.items()}
        lines += _tables(own, "###" if len(found) > 1 else "##")
    if shared:
        lines += [f"## Flags of every `clip-es {family}` on a data set" if COMMANDS[alike[0]].source else
                  f"## Flags of every `clip-es {family} ...`", "", *_tables(shared, "###")]  # fmt: skip
    return "\n".join(lines) + "\n"


def _shared(all_groups: list[Groups]) -> Groups:
    first, *others = all_groups
    return {
        key: kept
        for key, flags in first.items()
        if (kept := [flag for flag in flags if all(flag in groups.get(key, []) for groups in others)])
    }


def _tables(groups: Groups, heading: str) -> Iterator[str]:
    for (title, about), flags in groups.items():
        if not flags:
            continue
        if title not in {"options", "positional arguments"}:
            yield from (f"{heading} {title.removesuffix(' options')}", "")
        if about:
            yield from (_prose(about), "")
        yield from ("| flag | value | |", "|---|---|---|")
        yield from (f"| {flag.names} | {flag.value} | {flag.about} |" for flag in flags)
        yield ""


def _command(name: str) -> type:
    command = COMMANDS[name]
    return getattr(import_module(f"clip_es.pipelines.commands.{command.module}"), command.kind)


def _groups(name: str) -> Groups:
    parser = parser_of(name)
    groups: Groups = {}
    for group in parser._action_groups:
        flags = [_flag(action) for action in group._group_actions if action.dest != "help"]
        groups[(group.title or "options", group.description or "")] = flags
    return groups


def _flag(action: argparse.Action) -> Flag:
    names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.metavar or action.dest}`"
    metavar = action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar or ())
    metavar = metavar.replace("{None}|", "").replace("|", " or ").replace(",", ", ")
    value = "" if not action.option_strings or not metavar else f"`{metavar}`"
    return Flag(names, _cell(value), _cell(_prose(str(action.help or ""))))


def _prose(text: str) -> str:
    """A docstring or a help text as Markdown: paragraphs stay, signs that would be markup do not act."""
    paragraphs = [" ".join(part.split()) for part in text.strip().split("\n\n")]
    return "\n\n".join(_unmarked(paragraph) for paragraph in paragraphs)


def _unmarked(text: str) -> str:
    parts = text.split("`")
    parts[::2] = [escape(part, quote=False).replace("*", r"\*").replace("_", r"\_") for part in parts[::2]]
    return "`".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n\n", "<br>")


def parts(page: Path) -> None:
    """What there is to choose from: the tables that flags, help and error messages are made from."""
    from clip_es.config.presets import PRESETS
    from clip_es.formats.registry import FORMATS
    from clip_es.localize.methods import METHODS
    from clip_es.prompts.vocabulary_files import PACKAGED, load_vocabulary
    from clip_es.records.labels.formats import LABEL_FORMATS
    from clip_es.refine.registry import REFINERS
    from clip_es.segmentor.training.adapt import CONFIGS, config_names

    where = {"patches": "on the patch grid", "own": "on a grid of its own", "pixels": "at full size"}
    words = [(name, load_vocabulary(name)) for name in PACKAGED]
    configs = [(name, ast.get_docstring(ast.parse((CONFIGS / f"{name}.py").read_text()))) for name in config_names()]
    tables: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = [
        (
            "Methods",
            ("`--method`", "", "labels"),
            [(m.name, m.about, "with or without" if m.finds_classes else "needed") for m in METHODS.values()],
        ),
        ("Refiners", ("`--refine`", "", "works"), [(r.name, r.about, where[r.grid]) for r in REFINERS.values()]),
        (
            "Formats",
            ("`--format`", "", "read back"),
            [(f.name, f.about, "yes" if f.read else "no") for f in FORMATS.values()],
        ),
        (
            "Formats of labels",
            ("`--labels-format`", "", "files"),
            [(f.name, f.about, ", ".join(f.suffixes)) for f in LABEL_FORMATS.values()],
        ),
        (
            "Vocabularies",
            ("`--vocabulary`", "", "classes", "background words"),
            [(name, PACKAGED[name], str(len(v.classes)), str(len(v.background))) for name, v in words],
        ),
        (
            "Presets",
            ("`--preset`", "", "method", "refiners"),
            [(name, p.about, p.config.method, " ".join(p.config.refine) or "none") for name, p in PRESETS.items()],
        ),
        ("Training configs", ("`--config`", ""), [(name, _summary(text)) for name, text in configs]),
    ]
    lines = [
        "# The parts",
        "",
        "What `--method`, `--refine`, `--format` and so on take; made from the tables of the code.",
        "",
    ]
    for title, header, rows in tables:
        lines += [f"## {title}", "", f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
        lines += [f"| `{row[0]}` | " + " | ".join(_cell(_prose(cell)) for cell in row[1:]) + " |" for row in rows]
        lines.append("")
    page.write_text("\n".join(lines), encoding="utf-8")


def _summary(docstring: str | None) -> str:
    """The first paragraph that is prose; a config's docstring begins with the call that uses it."""
    paragraphs = (docstring or "").strip().split("\n\n")
    return next((part for part in paragraphs if not part.startswith("clip-es ")), "")


def names(out: Path) -> list[Path]:
    """One page for each package, with the public names of its modules."""
    pages = []
    for folder in sorted(path.parent for home in FOLDERS for path in (ROOT / home).rglob("__init__.py")):
        parts = folder.relative_to(ROOT).parts
        package = ".".join(parts if parts[0] == "clip_es" else ("clip_es", *parts))
        modules = [package, *(f"{package}.{path.stem}" for path in sorted(folder.glob("[!_]*.py")))]
        if package.endswith(".configs"):
            continue
        page = out / f"{package}.md"
        lines = [f"# {package}", ""]
        for module in modules:
            lines += [f"::: {module}", ""]
        page.write_text("\n".join(lines), encoding="utf-8")
        pages.append(page)
    return pages


def link_sources(out: Path) -> None:
    """The packages as they are imported: three of them lie elsewhere in the repository."""
    package = out / "clip_es"
    package.mkdir(parents=True, exist_ok=True)
    for home in FOLDERS:
        children = (ROOT / home).iterdir() if home == "clip_es" else [ROOT / home]
        for child in children:
            link = package / child.name
            if child.name != "__pycache__" and not link.is_symlink():
                link.symlink_to(child)
