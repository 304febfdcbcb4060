"""What bash, zsh and fish offer at the Tab key: asked of the shells themselves, where they are installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from clip_es.pipelines.completion import Shell, all_flags, script
from clip_es.pipelines.table import COMMANDS

# zsh completes on a terminal alone; what it is told to offer is printed here in place of that.
ZSH = r"""
compdef() {}
compadd() { shift; print -l -- "$@" }
_describe() { [[ $1 == -o ]] && shift; print -l -- "${(@P)2}" }
_files() { print FILES }
compset() { words[CURRENT]="${words[CURRENT]#*=}" }
"""


@pytest.fixture(scope="module")
def flags():
    return all_flags()


@pytest.fixture(scope="module")
def scripts(tmp_path_factory, flags) -> dict[Shell, Path]:
    root = tmp_path_factory.mktemp("completion")
    (root / "pictures").mkdir()
    for shell in ("bash", "zsh", "fish"):
        (root / shell).write_text(script(shell))
    return {shell: root / shell for shell in ("bash", "zsh", "fish")}


def offered(shell: Shell, path: Path, *words: str) -> list[str]:
    """What the shell offers for the last word; FILES where zsh is told to look for files."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    line = " ".join(f"'{word}'" for word in words)
    code = {
        "bash": f"source {path}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _clip_es; "
        'printf "%s\\n" "${COMPREPLY[@]}"',
        "zsh": f"{ZSH}; source {path}; t() {{ local -a words=({line}); local CURRENT={len(words)}; _clip_es }}; t",
        "fish": f'source {path}; complete -C "{" ".join(words)}"',
    }[shell]
    without_own = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    ran = subprocess.run([shell, *without_own, "-c", code], capture_output=True, text=True, cwd=path.parent)
    assert ran.stderr == ""
    found = [row.partition("\t")[0] if shell == "fish" else row for row in ran.stdout.splitlines()]
    found = [row.partition(":")[0] if shell == "zsh" else row for row in found if row]
    last = words[-1].rpartition("=")[2] if shell == "zsh" else words[-1]
    return sorted(row for row in found if row.startswith(last) or row == "FILES")


def test_completion_knows_every_command_and_its_flags(flags):
    assert flags.keys() == COMMANDS.keys()
    assert {"--out", "--weights", "--refine.crf.backend", "--json", "--quiet"} <= flags["masks voc12"].values.keys()
    assert "reference" not in flags["masks voc12"].values["--preset"], "presets are names, not choices"
    assert set(flags["evaluate"].values["--undecided"]) == {"miss", "ignore"}
    assert flags["masks folder"].several >= {"--refine", "--template"}
    assert "--undecided" not in flags["evaluate"].several
    assert flags["evaluate"].told["--out"] == "Also write the figures to this JSON file"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands_sources_flags_and_values(shell, scripts):
    def tab(*words: str) -> list[str]:
        return offered(shell, scripts[shell], "clip-es", *words)

    firsts = {name.split()[0] for name in COMMANDS}
    assert set(tab("")) - {"FILES"} == firsts
    assert tab("mas") == ["masks"]
    assert "voc12" in tab("masks", "")
    assert {"suggest", "background", "check"} == set(tab("prompts", ""))
    assert {"--version", "--help"} <= set(tab("--"))
    assert "--refine.crf.backend" in tab("masks", "voc12", "--refine.crf.b")
    assert "--refine.crf.backend" not in tab("evaluate", "RUN", "--"), "each command has its own flags"
    assert tab("evaluate", "RUN", "--undecided", "") == ["ignore", "miss"]
    assert "crf" in tab("masks", "folder", "--refine", "affinity", ""), "a list goes on"
    assert "miss" not in tab("evaluate", "--undecided", "ignore", ""), "one value is enough"
    assert "shards" in tab("help", "")
    assert "shards" in tab("--quiet", "")
    assert "--quiet" in tab("demo", "--qu")
    assert set(tab("check", "RUN", "--")) == set(tab("check", "--"))
    assert "--images" in tab("check", "folder", "--")


def test_a_value_behind_an_equals_sign_is_completed(scripts):
    assert offered("bash", scripts["bash"], "clip-es", "evaluate", "--undecided", "=", "mi") == ["miss"]
    assert offered("fish", scripts["fish"], "clip-es", "evaluate", "--undecided=mi") == ["--undecided=miss"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_where_a_file_is_wanted_files_are_offered(shell, scripts):
    files = {"zsh": ["FILES"], "fish": ["pictures/"], "bash": []}[shell]  # bash looks by itself then
    assert offered(shell, scripts[shell], "clip-es", "masks", "folder", "--images", "pic") == files
    assert offered(shell, scripts[shell], "clip-es", "evaluate", "pic") == files
    beside = offered(shell, scripts[shell], "clip-es", "check", "pic")
    assert beside == ({"bash": ["pictures"]} | dict.fromkeys(("zsh", "fish"), files))[shell], "RUN or a source"
