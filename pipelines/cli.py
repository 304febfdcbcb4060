"""`clip-es`: a command is one dataclass with a `run` method; its fields are the flags, its docstring the help."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from clip_es.errors import ClipEsError, nearest

# Name -> (module, class, what it does). Modules are imported when their command is called, so that help comes at once.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "masks voc12": ("masks", "MasksVoc12", "masks for a folder in the layout of PASCAL VOC 2012"),
    "masks coco14": ("masks", "MasksCoco14", "masks for COCO 2014 from a published label list"),
    "masks folder": ("masks", "MasksFolder", "masks for your own pictures and a CSV of labels"),
    "masks scenes": ("masks", "MasksScenes", "masks for the drawn world that ships with the package"),
    "evaluate": ("evaluate", "Evaluate", "compare a folder of masks with the truth: IoU, mIoU, accuracies"),
    "sweep voc12": ("sweep", "SweepVoc12", "rank sentence templates by sharpness on PASCAL VOC 2012"),
    "sweep coco14": ("sweep", "SweepCoco14", "rank sentence templates by sharpness on COCO 2014"),
    "sweep folder": ("sweep", "SweepFolder", "rank sentence templates by sharpness on your own pictures"),
    "sweep scenes": ("sweep", "SweepScenes", "rank sentence templates by sharpness on the drawn world"),
    "prompts suggest": ("prompts", "PromptsSuggest", "propose synonyms for a class from WordNet"),
    "prompts background": ("prompts", "PromptsBackground", "propose background words for a vocabulary"),
    "prompts check": ("prompts", "PromptsCheck", "find leaks, duplicates and badly read names in a vocabulary"),
    "ladder": ("ladder", "Ladder", "what each step of the method is worth, on scenes it never saw"),
    "scenes make": ("scenes", "ScenesMake", "draw a scenes data set in VOC layout"),
    "scenes train-clip": ("scenes", "ScenesTrainClip", "train the small CLIP of the drawn world again"),
    "demo": ("demo", "Demo", "draw scenes, make masks, evaluate, write the report"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Exit codes: 0 done, 1 done but some pictures failed, 2 cannot run, 130 stopped by Ctrl-C."""
    # OpenMP threads that wait by spinning take the core from the one they wait for: on two busy cores 30 pictures took
    # 89 s in place of 1.1 s. It is read once, when torch is loaded, so it must be set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        name, rest = _pick(args)
        if name is None:
            return 0
        module, kind, _ = COMMANDS[name]
        command = getattr(import_module(f"clip_es.pipelines.commands.{module}"), kind)
        return parse(command, f"clip-es {name}", rest).run()
    except ClipEsError as error:
        _say(f"{type(error).__name__}: {error}")
        return 2
    except KeyboardInterrupt:
        _say("Stopped. What was finished is safe; the same call continues.")
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has left; nothing more to tell it.
        sys.stderr.close()
        return 1


def parse(command: type, prog: str, args: Sequence[str]):
    """The command's dataclass filled from flags; `--preset` chooses the defaults of the others."""
    import tyro

    default = command.preset_default(args) if hasattr(command, "preset_default") else None
    if default is not None:
        return tyro.cli(command, prog=prog, args=args, default=default)
    return tyro.cli(command, prog=prog, args=args)


def _pick(args: list[str]) -> tuple[str | None, list[str]]:
    for words in (2, 1):
        name = " ".join(args[:words])
        if len(args) >= words and name in COMMANDS:
            return name, args[words:]
    asked = [word for word in args[:2] if not word.startswith("-")]
    group = [name for name in COMMANDS if asked and name.split()[0] == asked[0]]
    wrong = asked[1:] if group else asked
    if wrong:
        known = [name.split(" ", 1)[1] for name in group] if group else list(COMMANDS)
        raise ClipEsError(
            f"there is no command {' '.join(asked)!r}",
            expected=" | ".join(known),
            next_step=nearest(" ".join(wrong), known) or "See clip-es --help.",
        )
    _help(group or list(COMMANDS))
    if args and not any(word in {"-h", "--help"} for word in args):
        raise ClipEsError("the command is not complete", next_step="Choose one of the above.")
    return None, []


def _help(names: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 3))
    for name in names:
        table.add_row(f"clip-es {name}", COMMANDS[name][2])
    console = Console()
    console.print("Segmentation masks from image-level labels with a frozen CLIP.\n", highlight=False)
    console.print(table)
    console.print("\nEvery command explains its flags with --help.", highlight=False)


def _say(text: str) -> None:
    sys.stderr.write(f"clip-es: {text}\n")


if __name__ == "__main__":
    raise SystemExit(main())
