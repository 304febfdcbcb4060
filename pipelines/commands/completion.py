"""`clip-es completion`: commands and flags at the press of a key."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from clip_es.pipelines.completion import Shell, script


@dataclass(frozen=True, kw_only=True)
class Completion:
    """Print what makes a shell complete commands, flags and their values.

    bash: `clip-es completion bash > ~/.local/share/bash-completion/completions/clip-es`. zsh: `... zsh > _clip-es` in a
    folder of $fpath. fish: `... fish > ~/.config/fish/completions/clip-es.fish`. Again after an update.
    """

    shell: Annotated[Shell, tyro.conf.Positional]
    """bash, zsh or fish."""

    def run(self) -> int:
        """Print the script."""
        sys.stdout.write(script(self.shell))
        return 0
