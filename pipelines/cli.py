"""`clip-es`: a command is one dataclass with a `run` method; its fields are the flags, its docstring the help.

Every command also takes `--quiet` and `--json`, before its own flags or among them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from inspect import cleandoc
from typing import TYPE_CHECKING, Any

import clip_es
from clip_es.errors import ClipEsError, ConfigError
from clip_es.pipelines.numbers import check_numbers, with_flag

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
"""Where pictures and labels come from: name -> (class in commands/sources.py, what it is)."""

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


def program() -> int:
    """What the installed `clip-es` calls: `main`, with a code of its own for a fault of this package."""
    try:
        return main()
    except Exception:
        traceback.print_exc()
        _say("This is a fault of clip-es. What was finished is safe. Please report it with the lines above.")
        return 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Exit codes: 0 done, 1 done but some pictures failed or problems were found, 2 cannot run, 130
    stopped by Ctrl-C or SIGTERM; 3 (of the installed program) a fault of this package."""
    # OpenMP threads that wait by spinning take the core from the one they wait for: on two busy cores 30 pictures took
    # 89 s in place of 1.1 s. It is read once, when torch is loaded, so it must be set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    args = list(sys.argv[1:] if argv is None else argv)
    if args[:1] in (["--version"], ["-V"]):
        sys.stdout.write(f"clip-es {clip_es.__version__}\n")
        return 0
    quiet, json = "--quiet" in args, "--json" in args
    args = [word for word in args if word not in ("--quiet", "--json")]
    if not json:
        return _told(args, quiet)
    return _as_json(args, quiet)


def _told(args: list[str], quiet: bool) -> int:
    """Run a command, with what goes wrong as a line on standard error."""
    try:
        if not quiet:
            return _run(args)[1]
        from clip_es.pipelines.console import speaking

        with speaking(quiet=True, json=False):
            return _run(args)[1]
    except ClipEsError as error:
        _say(f"{type(error).__name__}: {error}")
        return 2
    except KeyboardInterrupt:
        _say(STOPPED)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has left; nothing more to tell it.
        _drop_output()
        return 1
    except OSError as error:
        _drop_output()
        _say(_of_the_system(error))
        return 2


def _as_json(args: list[str], quiet: bool) -> int:
    """Run a command; standard output gets one line of JSON, whatever happens."""
    from clip_es.pipelines.console import speaking
    from clip_es.pipelines.summary import one_line

    start, error = time.perf_counter(), None
    with speaking(quiet=quiet, json=True) as figures:
        try:
            command, code = _run(args)
        except SystemExit as stop:  # tyro has explained the flags, or what is wrong with them
            if stop.code in (0, None):
                raise
            command, code, error = None, 2, ConfigError("the flags cannot be read", next_step="See standard error.")
        except KeyboardInterrupt as stop:
            command, code, error = None, 130, stop
            _say(STOPPED)
        except (ClipEsError, OSError) as caught:
            command, code, error = None, 2, caught
            ours = isinstance(caught, ClipEsError)
            _say(f"{type(caught).__name__}: {caught}" if ours else _of_the_system(caught))
        line = one_line(args, command, code, time.perf_counter() - start, figures, error)
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    return code


def _run(args: list[str]) -> tuple[Any, int]:
    """The command, after it has run, and its exit code."""
    name, rest = _pick(args)
    if name is None:
        return None, 0
    asked = COMMANDS[name]
    with _sigterm_as_ctrl_c():
        kind = getattr(import_module(f"clip_es.pipelines.commands.{asked.module}"), asked.kind)
        command = parse(kind, f"clip-es {name}", rest, asked.source)
        check_numbers(command)
        code = command.run()
        sys.stdout.flush()
        return command, code


STOPPED = "Stopped. What was finished is safe; the same call continues."


def _of_the_system(error: OSError) -> str:
    told = error.strerror or str(error)
    what = f"{error.filename}: {told}" if error.filename else f"what it prints cannot be written: {told}"
    step = "Repair that" if error.filename else "Send the output to a place that takes it"
    return f"{what}. {step}, then call again; what was finished is safe."


def _drop_output() -> None:
    """Nothing that is still waiting to be printed shall fail once more when Python ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM (a scheduler, `kill`, `docker stop`) end a command as Ctrl-C does, unless the caller handles it."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def parse(kind: Any, prog: str, args: Sequence[str], source: str | None = None):
    """The command's dataclass filled from flags; the source and `--preset` choose the defaults of the others."""
    try:
        return _parsed(kind, prog, args, source)
    except ConfigError as error:
        raise with_flag(error, args) from error


def _parsed(kind: Any, prog: str, args: Sequence[str], source: str | None):
    import tyro

    kind, options = offered(kind, args, source)
    return tyro.cli(kind, prog=prog, args=args, **options)


def offered(kind: Any, args: Sequence[str], source: str | None) -> tuple[Any, dict[str, Any]]:
    """What tyro makes the flags of a command from, and its defaults under the arguments."""
    if source is None:
        return kind, (kind.chosen(args) if hasattr(kind, "chosen") else {})
    from clip_es.pipelines.commands import sources
    from clip_es.pipelines.commands.data_source import required

    data = kind.variants.get(source) or getattr(sources, SOURCES[source][0])
    options = {**required(kind), **(kind.preset_options(args) if hasattr(kind, "preset_options") else {})}
    options.pop("source")
    default = kind.of(data(**required(data)), **options)
    told = f"{cleandoc(kind.__doc__ or '')}\n\n{cleandoc(data.__doc__ or '')}"
    return kind[data], {"default": default, "description": told}


def _pick(args: list[str]) -> tuple[str | None, list[str]]:
    for words in (2, 1):
        name = " ".join(args[:words])
        if len(args) >= words and name in COMMANDS:
            group = [other for other in COMMANDS if other == name or other.startswith(f"{name} ")]
            if len(group) > 1 and args[words:] in ([], ["-h"], ["--help"]):
                _help(group)  # `check` is a command of its own and has others under it.
            return name, args[words:]
    asked = [word for word in args[:2] if not word.startswith("-")]
    group = [name for name in COMMANDS if asked and name.split()[0] == asked[0]]
    wrong = asked[1:] if group else asked
    if wrong:
        known = [name.split(" ", 1)[1] for name in group] if group else list(COMMANDS)
        start = f"clip-es {asked[0]}" if group else "clip-es"
        like = [f"{start} {name}" for name in get_close_matches(" ".join(wrong), known, n=2, cutoff=0.3)]
        hint = f"Did you mean {' or '.join(like)}? " if like else ""
        raise ClipEsError(f"there is no command {' '.join(asked)!r}", next_step=f"{hint}See {start} --help.")
    _help(group or list(COMMANDS))
    if args and not any(word in {"-h", "--help"} for word in args):
        raise ClipEsError("the command is not complete", next_step="Choose one of the above.")
    return None, []


def _help(names: Sequence[str]) -> None:
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
    console = Console()
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


def _say(text: str) -> None:
    sys.stderr.write(f"clip-es: {text}\n")


if __name__ == "__main__":
    raise SystemExit(program())
