"""Shell completion of the whole program, made from the flags that tyro makes: a script for each shell, nothing to run.

A script that asked Python at every key would wait for torch; this one knows all words beforehand. The three scripts
have the same tables (commands, flags, values of flags) and the same rules for what stands where.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import groupby
from typing import Any, Literal

Shell = Literal["bash", "zsh", "fish"]

COMMON = {
    "--help": "its flags",
    "--quiet": "nothing but errors",
    "--json": "a summary as one line on standard output",
}
"""Flags of every command."""

ALONE = {"--help": "all commands", "--version": "the version"}
"""What the program takes without a command."""

_LONGEST = 72


@dataclass(frozen=True)
class Flags:
    """Of one command."""

    about: str
    values: Mapping[str, tuple[str, ...]]
    """flag -> the values it may have, none where any goes."""
    told: Mapping[str, str]
    """flag -> what it does, the beginning of its help."""
    several: frozenset[str]
    """Flags that take several values."""


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
        told: dict[str, str] = {}
        several: set[str] = set()
        for action in parser_of(name)._actions:
            words = [word for word in action.option_strings if word.startswith("--")]
            values |= dict.fromkeys(words, tuple(str(one) for one in action.choices or ()))
            told |= dict.fromkeys(words, _short(action.help or ""))
            several |= set(words) if action.nargs in ("*", "+") else set()
        values |= dict.fromkeys(COMMON, ())
        found[name] = Flags(command.what, values, told | COMMON, frozenset(several))
    return found


def script(shell: Shell) -> str:
    """What makes the shell complete `clip-es`."""
    flags = all_flags()
    top = list(dict.fromkeys(name.split()[0] for name in flags))
    first = {word: flags[word].about if word in flags else _group(word, flags) for word in top}
    second = {
        word: {name.partition(" ")[2]: of.about for name, of in flags.items() if name.startswith(f"{word} ")}
        for word in first
    }
    parts = {
        "FIRST": _table(shell, [(["*"], list(first.items()))]),
        "SECOND": _table(shell, [([word], list(rows.items())) for word, rows in second.items() if rows]),
        "FLAGS": _table(shell, _shared({name: of.told.items() for name, of in flags.items()})),
        "VALUES": _values(shell, flags),
        "SEVERAL": _values(shell, flags, several=True),
        "ALONE": _table(shell, [(["*"], list(ALONE.items()))]),
    }
    text = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}[shell]
    return re.sub("|".join(rf"\b{name}\b" for name in parts), lambda found: parts[found[0]], text)


def _short(text: str) -> str:
    """The beginning of a help text, of one line."""
    text = (
        re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m", "", text)).partition(" (default: ")[0].removesuffix(" (required)")
    )
    text = re.split(r"(?<=[a-z0-9)])[.;] ", text)[0].rstrip(". ")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST].rpartition(' ')[0]} ..."


def _group(word: str, flags: Mapping[str, Flags]) -> str:
    """What the commands under one first word do."""
    rests = [name.partition(" ")[2] for name in flags if name.startswith(f"{word} ")]
    from clip_es.pipelines.table import ON_SOURCES

    return ON_SOURCES[word][2].format("a data set") if word in ON_SOURCES else ", ".join(rests)


Rows = Sequence[tuple[str, str]]


def _shared(rows: Mapping[str, Iterable[tuple[str, str]]]) -> list[tuple[list[str], Rows]]:
    """Rows that the same commands have, once for all of them."""
    owners: dict[tuple[str, str], list[str]] = {}
    for name, own in rows.items():
        for row in own:
            owners.setdefault(row, []).append(name)
    ordered = sorted(owners, key=lambda row: (owners[row], row))
    return [(names, list(some)) for names, some in groupby(ordered, key=owners.__getitem__)]


def _table(shell: Shell, blocks: Sequence[tuple[Sequence[str], Rows]]) -> str:
    """Lines of shell that print the rows of a name: words alone in bash, with what they mean in the others."""
    lines = []
    for names, rows in blocks:
        words = " ".join(word for word, _ in rows)
        if shell == "bash":
            lines.append(f"{_is(shell, names)} && echo {words}")
        elif shell == "zsh":
            lines.append(f"{_is(shell, names)} && rows+=({' '.join(_quoted(shell, ':'.join(row)) for row in rows)})")
        else:
            told = " ".join(_quoted(shell, "\t".join(row)) for row in rows)
            lines.append(f"{_is(shell, names)}; and printf '%s\\n' {told}")
    return "\n  ".join(lines)


def _values(shell: Shell, flags: Mapping[str, Flags], *, several: bool = False) -> str:
    """The same for the values of a flag, by command and flag; `several`: which of them take more than one."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, of in flags.items():
        for flag, values in of.values.items():
            if values and (not several or flag in of.several):
                alike.setdefault(("yes",) if several else values, []).append(f"{name} {flag}")
    if shell == "bash":
        return "\n  ".join(f"{_is(shell, names)} && echo {' '.join(values)}" for values, names in alike.items())
    if shell == "zsh":
        return "\n  ".join(f"{_is(shell, names)} && rows+=({' '.join(values)})" for values, names in alike.items())
    return "\n  ".join(f"{_is(shell, names)}; and printf '%s\\n' {' '.join(v)}" for v, names in alike.items())


def _is(shell: Shell, names: Sequence[str]) -> str:
    """Whether the first argument is one of the names."""
    if list(names) == ["*"]:
        return "true"
    if shell == "fish":
        return f'contains -- "$argv[1]" {" ".join(_quoted(shell, name) for name in names)}'
    return f"[[ '|{'|'.join(names)}|' == *\"|$1|\"* ]]"


def _quoted(shell: Shell, text: str) -> str:
    """In single quotes, in which zsh knows no escape and fish two."""
    return "'" + (re.sub(r"(['\\])", r"\\\1", text) if shell == "fish" else text.replace("'", "'\\''")) + "'"


_BASH = r"""# Completion of clip-es for bash: clip-es completion bash
_clip_es_first() {
  FIRST
}
_clip_es_second() {
  SECOND
  return 0
}
_clip_es_flags() {
  FLAGS
  return 0
}
_clip_es_values() {
  VALUES
  return 0
}
_clip_es_several() {
  SEVERAL
  return 0
}
_clip_es() {
  local cur="${COMP_WORDS[COMP_CWORD]}" words=() i second name flag="" after=0 offered=""
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "${COMP_WORDS[i]}" in
      --quiet | --json | =) ;;
      help) [ ${#words[@]} -gt 0 ] && words+=(help) ;;
      *) words+=("${COMP_WORDS[i]}") ;;
    esac
  done
  [ "$cur" = "=" ] && cur=""
  if [ ${#words[@]} -eq 0 ]; then
    offered="$(_clip_es_first)"
    [ "${cur#-}" != "$cur" ] && offered="--help --version --quiet --json"
    COMPREPLY=($(compgen -W "$offered" -- "$cur"))
    return
  fi
  name="${words[0]}"
  second="$(_clip_es_second "$name")"
  if [ ${#words[@]} -eq 1 ] && [ -n "$second" ] && [ "${cur#-}" = "$cur" ]; then
    COMPREPLY=($(compgen -W "$second" -- "$cur"))
    if [ -n "$(_clip_es_flags "$name")" ]; then
      compopt -o filenames 2>/dev/null
      local IFS=$'
'
      COMPREPLY+=($(compgen -f -- "$cur"))
    fi
    return
  fi
  case " $second " in *" ${words[1]:-/} "*) name="${words[0]} ${words[1]}" ;; esac
  if [ "${cur#-}" != "$cur" ]; then
    COMPREPLY=($(compgen -W "$(_clip_es_flags "$name")" -- "$cur"))
    return
  fi
  for ((i = ${#words[@]} - 1; i >= 0; i--)); do
    if [ "${words[i]#--}" != "${words[i]}" ]; then flag="${words[i]}"; break; fi
    after=$((after + 1))
  done
  if [ -n "$flag" ] && { [ $after -eq 0 ] || [ -n "$(_clip_es_several "$name $flag")" ]; }; then
    COMPREPLY=($(compgen -W "$(_clip_es_values "$name $flag")" -- "$cur"))
  fi
}
complete -o default -F _clip_es clip-es
"""

_ZSH = r"""#compdef clip-es
# Completion of clip-es for zsh: clip-es completion zsh > _clip-es, in a folder of $fpath
_clip_es_first() {
  FIRST
}
_clip_es_second() {
  SECOND
  return 0
}
_clip_es_flags() {
  FLAGS
  return 0
}
_clip_es_values() {
  VALUES
  return 0
}
_clip_es_several() {
  SEVERAL
  return 0
}
_clip_es() {
  local cur="${words[CURRENT]}" name flag="" word
  local -a rows given second
  local -i i after=0
  for ((i = 2; i < CURRENT; i++)); do
    case "${words[i]}" in
      --quiet | --json) ;;
      help) (( ${#given} )) && given+=(help) ;;
      *) given+=("${words[i]}") ;;
    esac
  done
  rows=()
  if (( ! ${#given} )); then
    if [[ $cur == -* ]]; then
      ALONE
      _describe -o 'flags' rows
    else
      _clip_es_first
      _describe 'commands' rows
    fi
    return
  fi
  name="${given[1]}"
  _clip_es_second "$name"
  second=("${rows[@]%%:*}")
  if (( ${#given} == 1 && ${#rows} )) && [[ $cur != -* ]]; then
    _describe 'commands' rows
    rows=()
    _clip_es_flags "$name"
    (( ${#rows} )) && _files
    return
  fi
  (( ${#given} > 1 && ${second[(Ie)${given[2]}]} )) && name="${given[1]} ${given[2]}"
  rows=()
  if [[ $cur == --*=* ]]; then
    flag="${cur%%=*}"
    _clip_es_values "$name $flag"
    compset -P '*='
    (( ${#rows} )) && compadd -- "${rows[@]}" || _files
    return
  fi
  if [[ $cur == -* ]]; then
    _clip_es_flags "$name"
    _describe -o 'flags' rows
    return
  fi
  for ((i = ${#given}; i >= 1; i--)); do
    if [[ ${given[i]} == --* ]]; then flag="${given[i]}"; break; fi
    after+=1
  done
  if [[ -n $flag ]]; then
    (( after )) && _clip_es_several "$name $flag"
    if (( ! after || ${#rows} )); then
      rows=()
      _clip_es_values "$name $flag"
      if (( ${#rows} )); then
        compadd -- "${rows[@]}"
        return
      fi
    fi
  fi
  _files
}
if [[ ${funcstack[1]} == _clip-es ]]; then
  _clip_es "$@"
else
  compdef _clip_es clip-es
fi
"""

_FISH = r"""# Completion of clip-es for fish: clip-es completion fish > ~/.config/fish/completions/clip-es.fish
function __clip_es_first
  FIRST
end
function __clip_es_second
  SECOND
end
function __clip_es_flags
  FLAGS
end
function __clip_es_values
  VALUES
end
function __clip_es_several
  SEVERAL
end
function __clip_es
  set -l cur (commandline -ct)
  set -l given
  for word in (commandline -opc)[2..-1]
    switch $word
      case --quiet --json
      case help
        test (count $given) -gt 0; and set -a given help
      case '*'
        set -a given $word
    end
  end
  if test (count $given) -eq 0
    if string match -q -- '-*' $cur
      ALONE
    else
      __clip_es_first
    end
    return
  end
  set -l name $given[1]
  set -l second (__clip_es_second $name)
  if test (count $given) -eq 1; and test (count $second) -gt 0; and not string match -q -- '-*' "$cur"
    printf '%s
' $second
    test (count (__clip_es_flags $name)) -gt 0; and __fish_complete_path $cur
    return
  end
  if test (count $given) -gt 1
    contains -- $given[2] (string replace -r '	.*' '' -- $second); and set name "$given[1] $given[2]"
  end
  if string match -q -- '--*=*' "$cur"
    set -l flag (string replace -r '=.*' '' -- $cur)
    set -l values (__clip_es_values "$name $flag")
    test (count $values) -gt 0; and printf "$flag=%s
" $values; or __fish_complete_path $cur
    return
  end
  if string match -q -- '-*' "$cur"
    __clip_es_flags $name
    return
  end
  set -l after 0
  for word in $given[-1..1]
    if string match -q -- '--*' $word
      if test $after -eq 0; or test (count (__clip_es_several "$name $word")) -gt 0
        set -l values (__clip_es_values "$name $word")
        if test (count $values) -gt 0
          printf '%s
' $values
          return
        end
      end
      break
    end
    set after (math $after + 1)
  end
  __fish_complete_path $cur
end
complete -c clip-es -f -a '(__clip_es)'
"""
