"""Shell completion of the whole program, made from the flags that tyro makes: a script for each shell, nothing to run.

A script that asked Python at every key would wait for torch; this one knows all words beforehand.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal

Shell = Literal["bash", "zsh", "fish"]

COMMON = ("--help", "--quiet", "--json")
"""Flags of every command."""


@dataclass(frozen=True)
class Flags:
    """Of one command: flag -> the values it may have, none where any goes."""

    about: str
    values: Mapping[str, tuple[str, ...]]


def parser_of(name: str) -> Any:
    """The flags of a command as argparse knows them: the only structured view of what `--help` prints."""
    import tyro

    from clip_es.pipelines.cli import offered
    from clip_es.pipelines.table import COMMANDS

    command = COMMANDS[name]
    kind = getattr(import_module(f"clip_es.pipelines.commands.{command.module}"), command.kind)
    kind, options = offered(kind, [], command.source)
    known = {key: value for key, value in options.items() if key in {"description", "default"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # tyro has named no successor
        return tyro.extras.get_parser(kind, prog=f"clip-es {name}", **known)


@cache
def all_flags() -> dict[str, Flags]:
    """The flags of every command."""
    from clip_es.pipelines.table import COMMANDS

    found = {}
    for name, command in COMMANDS.items():
        values: dict[str, tuple[str, ...]] = {}
        for action in parser_of(name)._actions:
            choices = tuple(str(one) for one in action.choices or ())
            values |= {word: choices for word in action.option_strings if word.startswith("--")}
        found[name] = Flags(command.what, values | dict.fromkeys(COMMON, ()))
    return found


def script(shell: Shell) -> str:
    """What makes the shell complete `clip-es`."""
    flags = all_flags()
    return _fish(flags) if shell == "fish" else _bash(flags, shell)


def _bash(flags: Mapping[str, Flags], shell: Shell) -> str:
    first = list(dict.fromkeys(name.split()[0] for name in flags))
    second: dict[str, list[str]] = {}
    for name in flags:
        word, _, rest = name.partition(" ")
        if rest:
            second.setdefault(word, []).append(rest)
    lines = [f"# Completion of clip-es for {shell}: clip-es completion {shell}"]
    if shell == "zsh":
        lines = ["#compdef clip-es", *lines, "autoload -U +X bashcompinit && bashcompinit"]
    lines += ["_clip_es_words() {", '  case "$1" in']
    lines += [f'    "{word}") echo "{" ".join(rest)}" ;;' for word, rest in second.items()]
    lines += ["  esac", "}", "_clip_es_flags() {", '  case "$1" in']
    lines += [f'    "{name}") echo "{" ".join(of.values)}" ;;' for name, of in flags.items()]
    lines += ["  esac", "}", "_clip_es_values() {", '  case "$1" in']
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, of in flags.items():
        for flag, values in of.values.items():
            if values:
                alike.setdefault(values, []).append(f'"{name} {flag}"')
    lines += [f'    {"|".join(names)}) echo "{" ".join(values)}" ;;' for values, names in alike.items()]
    lines += ["  esac", "}"]
    lines.append(_BASH.replace("FIRST", " ".join([*first, "--help", "--version"])))
    return "\n".join(lines) + "\n"


_BASH = """_clip_es() {
  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}"
  local one="${COMP_WORDS[1]}" two="${COMP_WORDS[2]}" name known
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "FIRST" -- "$cur"))
    return
  fi
  known="$(_clip_es_words "$one")"
  name="$one"
  case " $known " in *" $two "*) [ -n "$two" ] && name="$one $two" ;; esac
  if [ "$COMP_CWORD" -eq 2 ] && [ -n "$known" ] && [ "${cur#-}" = "$cur" ]; then
    COMPREPLY=($(compgen -W "$known" -- "$cur"))
    return
  fi
  if [ "${cur#-}" != "$cur" ]; then
    COMPREPLY=($(compgen -W "$(_clip_es_flags "$name")" -- "$cur"))
    return
  fi
  COMPREPLY=($(compgen -W "$(_clip_es_values "$name $prev")" -- "$cur"))
}
complete -o default -F _clip_es clip-es"""


def _fish(flags: Mapping[str, Flags]) -> str:
    lines = [
        "# Completion of clip-es for fish: clip-es completion fish > ~/.config/fish/completions/clip-es.fish",
        "function __clip_es_is",
        "  set -l words (commandline -opc)",
        '  test "$words[2..(math 1 + (count $argv))]" = "$argv"',
        "end",
        "complete -c clip-es -n __fish_use_subcommand -l version -d 'the version'",
    ]
    second: dict[str, list[tuple[str, str]]] = {}
    for name, of in flags.items():
        word, _, rest = name.partition(" ")
        if rest:
            second.setdefault(word, []).append((rest, of.about))
        about = _quoted(of.about if not rest else f"{word} ...")
        line = f"complete -c clip-es -n __fish_use_subcommand -f -a {word} -d {about}"
        if not rest or word not in flags:
            lines += [line] if line not in lines else []
    for word, names in second.items():
        for rest, about in names:
            test = _quoted(f"__clip_es_is {word}; and test (count (commandline -opc)) -eq 2")
            lines.append(f"complete -c clip-es -n {test} -f -a {rest} -d {_quoted(about)}")
    for name, of in flags.items():
        for flag, values in of.values.items():
            given = f" -x -a {_quoted(' '.join(values))}" if values else ""
            lines.append(f"complete -c clip-es -n {_quoted(f'__clip_es_is {name}')} -l {flag[2:]}{given}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + re.sub(r"(['\\\\])", r"\\\1", text) + "'"
