"""Which commands there are, how the words of a call choose one, and the list that `clip-es --help` prints."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from clip_es.errors import ClipEsError, nearest

if TYPE_CHECKING:
    from rich.table import Table

SOURCES: dict[str, tuple[str, str]] = {
    "voc12": ("Voc12Source", "a folder in the layout of PASCAL VOC 2012"),
    "coco14": ("Coco14Source", "COCO 2014: a list of labels, or its instances file"),
    "coco17": ("Coco17Source", "COCO 2017: its instances file"),
    "ade20k": ("Ade20kSource", "ADE20K, an evaluation set of 150 classes without background"),
    "cityscapes": ("CityscapesSource", "Cityscapes, an evaluation set of 19 classes"),
    "context": ("ContextSource", "Pascal Context, an evaluation set of 59 classes"),
    "folder": ("FolderSource", "your own pictures: a table of labels, sub-folders, or no labels"),
    "shards": ("ShardsSource", "pictures in tars (webdataset) or Parquet, on a disk or on object storage"),
    "huggingface": ("HuggingFaceSource", "a data set that `datasets` loads, from a folder or the Hub"),
    "scenes": ("ScenesSource", "the drawn world that ships with the package"),
}
"""Where pictures and labels come from: name -> (class in commands/sources/, what it is)."""

ON_SOURCES: dict[str, tuple[str, str, str]] = {
    "masks": ("masks", "Masks", "masks for {}"),
    "truth": ("truth", "Truth", "ground-truth masks with our values from {}"),
    "check": ("check_data", "CheckData", "find every problem before a run on {}"),
    "sweep": ("sweep", "Sweep", "rank sentence templates by sharpness on {}"),
    "oracle": ("oracle", "Oracle", "an upper bound that uses the ground truth: spectral segments on {}"),
}
"""Commands that read a data set, `clip-es masks voc12`: name -> (module, class, what it does with a source)."""

ALONE: dict[str, tuple[str, str, str]] = {
    "refine": ("refine", "Refine", "masks from maps that another method has made: CRF, confidence, 255"),
    "evaluate": ("evaluate", "Evaluate", "compare masks with the ground truth: IoU, mIoU, accuracies"),
    "check": ("check_run", "CheckRun", "check a run's files before training: labels, sizes, damage, class balance"),
    "train": ("train", "Train", "train a segmenter on the masks of a run"),
    "predict": ("predict", "Predict", "masks for any pictures with a trained segmenter"),
    "evaluate-episodes": (
        "episodes",
        "EvaluateEpisodes",
        "PASCAL-5i and COCO-20i, one class at a time",
    ),
    "segments": ("segments", "Segments", "segments of pictures from features and colours, without labels or training"),
    "train-shape-net": ("segments", "TrainShapeNet", "train the network of the shape loss on drawn outlines"),
    "export-onnx": ("onnx", "ExportOnnx", "write a trained segmenter as ONNX, checked against PyTorch"),
    "extend": ("extend", "Extend", "teach a trained segmenter classes it has no masks of, from their names"),
    "evaluate-zero-shot": ("extend", "EvaluateZeroShot", "seen, unseen and harmonic mIoU of predicted masks"),
    "prompts suggest": ("prompts", "PromptsSuggest", "propose synonyms for a class from WordNet"),
    "prompts background": ("prompts", "PromptsBackground", "propose background words for a vocabulary"),
    "prompts check": ("prompts", "PromptsCheck", "find leaks, duplicates and badly read names in a vocabulary"),
    "export": ("export", "Export", "masks as a data set for another tool: VOC, COCO, labelme, CVAT, YOLO, ..."),
    "import": ("export", "Import", "bring edited masks back into their run"),
    "restore": ("export", "Restore", "masks as they were before an import"),
    "worst": ("export", "Worst", "export the pictures a run is least sure of, to be corrected by hand"),
    "shards ls": ("shards", "ShardsLs", "list the shards of a run"),
    "shards verify": ("shards", "ShardsVerify", "compare the shards of a run with its manifest, and mend"),
    "shards merge": ("shards", "ShardsMerge", "join small shards to larger ones"),
    "agree": ("agree", "Agree", "what a quicker encoder (--dtype int8, bfloat16) changes in your own pictures"),
    "calibrate": ("calibrate", "Calibrate", "suggest settings for your own pictures, without labels or ground truth"),
    "reproduce voc12": ("reproduce", "ReproduceVoc12", "the published protocol on VOC 2012, beside 70.8 and 75.0"),
    "reproduce coco14": ("reproduce", "ReproduceCoco14", "the published protocol on COCO 2014, beside 39.7"),
    "serve": ("serve", "Serve", "answer annotation tools: Label Studio and X-AnyLabeling"),
    "ui": ("ui", "Ui", "a playground in the browser; look through a run and mend its masks"),
    "ladder": ("ladder", "Ladder", "what each step of the method adds, on scenes it never saw"),
    "scenes make": ("scenes", "ScenesMake", "draw a scenes data set in VOC layout"),
    "scenes train-clip": ("scenes", "ScenesTrainClip", "train the small CLIP of the drawn world again"),
    "train-clipseg scenes": ("train_clipseg", "TrainClipSegScenes", "train CLIPSeg's decoder on drawn scenes"),
    "train-clipseg phrasecut": ("train_clipseg", "TrainClipSegPhraseCut", "train CLIPSeg's decoder on PhraseCut"),
    "train-clipseg folder": ("train_clipseg", "TrainClipSegFolder", "train CLIPSeg's decoder on a table of masks"),
    "evaluate-clipseg referring": ("clipseg", "EvaluateReferring", "phrases against masks: mIoU, IoU_FG, IoU_BIN, AP"),
    "evaluate-clipseg zero-shot": ("clipseg", "EvaluateZeroShot", "seen and unseen classes, prompted by name"),
    "evaluate-clipseg one-shot": ("clipseg", "EvaluateOneShot", "folds of classes, each shown by one example"),
    "prompt": ("clipseg", "Prompt", "where is it? find words or an example in one picture"),
    "completion": ("completion", "Completion", "print what makes bash, zsh or fish complete commands and flags"),
    "demo": ("demo", "Demo", "draw scenes, make masks, evaluate, write the report"),
}
"""The other commands: name -> (module, class, what it does)."""


@dataclass(frozen=True)
class Command:
    """One command. Its module is imported when it is called, so that help comes at once."""

    module: str
    kind: str
    what: str
    """What it does, for the help."""
    source: str | None = None
    """A key of SOURCES, where it reads a data set."""


def _commands() -> Iterator[tuple[str, Command]]:
    """All commands in the order of the help: masks, evaluate, check and what follows."""
    for name, (module, kind, what) in {**ON_SOURCES, **ALONE}.items():
        if name in ALONE:
            yield name, Command(*ALONE[name])
        if name in ON_SOURCES:
            module, kind, what = ON_SOURCES[name]
            for source, (_, told) in SOURCES.items():
                yield f"{name} {source}", Command(module, kind, what.format(told), source)


COMMANDS: dict[str, Command] = dict(_commands())
"""Every command by the words that call it."""


def named(args: Sequence[str]) -> tuple[str, list[str]]:
    """The command that the words call, and the rest of them; the first word, where there is no such command."""
    for words in (2, 1):
        name = " ".join(args[:words])
        if len(args) >= words and name in COMMANDS:
            return name, list(args[words:])
    return next((word for word in args[:1] if not word.startswith("-")), ""), list(args[1:])


def pick(args: list[str]) -> tuple[str | None, list[str]]:
    """The command that is asked for and its arguments; none where help was, which then stands on standard output.

    Raises ClipEsError: there is no such command, or the words name several.
    """
    if args[:1] == ["help"]:
        args = [*args[1:], "--help"]
    name, rest = named(args)
    if name in COMMANDS:
        group = [other for other in COMMANDS if other == name or other.startswith(f"{name} ")]
        if len(group) > 1 and rest in ([], ["-h"], ["--help"]):
            _help(group, sys.stdout if rest else sys.stderr)  # `check` is a command, and has others under it.
        return name, rest
    asks = not args or any(word in {"-h", "--help"} for word in args)
    asked = [word for word in args[:2] if not word.startswith("-")]
    group = [name for name in COMMANDS if asked and name.split()[0] == asked[0]]
    wrong = asked[1:] if group else asked
    if wrong:
        start = f"clip-es {asked[0]}" if group else "clip-es"
        if group:
            like = get_close_matches(wrong[0], [name.partition(" ")[2] for name in group], n=2, cutoff=0.3)
        else:
            firsts = {name.split()[0] for name in COMMANDS}
            like = get_close_matches(" ".join(wrong), COMMANDS, n=2) or get_close_matches(wrong[0], firsts, n=2)
        like = [f"{start} {name}" for name in like]
        hint = f"Did you mean {' or '.join(like)}? " if like else ""
        raise ClipEsError(f"there is no command {' '.join(asked)!r}", next_step=f"{hint}See {start} --help.")
    if not asks and not group:
        hint = nearest(args[0], ("--help", "--version", "--quiet", "--json"))
        raise ClipEsError(
            f"there is no flag {args[0]} without a command", next_step=f"{hint}{' ' if hint else ''}See clip-es --help."
        )
    _help(group or list(COMMANDS), sys.stdout if asks else sys.stderr)
    if not asks:
        raise ClipEsError("the command is not complete", next_step="Choose one of the above.")
    return None, []


def _help(names: Sequence[str], file: Any) -> None:
    """What there is: all commands, those on data sets once; or those of one first word, each with its source."""
    from rich.console import Console

    whole = len({name.split()[0] for name in names}) > 1
    rows = {}
    for name in names:
        if whole and COMMANDS[name].source:
            word = name.split()[0]
            rows[f"clip-es {word} SOURCE"] = ON_SOURCES[word][2].format("a data set")
        else:
            rows[f"clip-es {name}"] = COMMANDS[name].what
    console = Console(file=file)
    console.print("Segmentation masks from image-level labels with a frozen CLIP.\n", highlight=False)
    console.print(_grid(rows))
    if whole:
        console.print("\nSOURCE is one of\n", highlight=False)
        console.print(_grid({f"  {name}": what for name, (_, what) in SOURCES.items()}))
    console.print(
        "\nEvery command explains its flags with --help, and takes --quiet (nothing but errors) and --json (a summary "
        "as one line). clip-es --version: the version.",
        highlight=False,
    )


def _grid(rows: Mapping[str, str]) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 3))
    for row in rows.items():
        table.add_row(*row)
    return table
