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
    "masks coco14": ("masks", "MasksCoco14", "masks for COCO 2014 from a label list or its instances file"),
    "masks coco17": ("masks", "MasksCoco17", "masks for COCO 2017 from its instances file"),
    "masks ade20k": ("masks", "MasksAde20k", "masks for ADE20K, an evaluation set of 150 classes without background"),
    "masks cityscapes": ("masks", "MasksCityscapes", "masks for Cityscapes, an evaluation set of 19 classes"),
    "masks context": ("masks", "MasksContext", "masks for Pascal Context, an evaluation set of 59 classes"),
    "masks folder": (
        "masks",
        "MasksFolder",
        "masks for your own pictures: a table of labels, sub-folders, or no labels",
    ),
    "masks scenes": ("masks", "MasksScenes", "masks for the drawn world that ships with the package"),
    "truth coco14": ("truth", "TruthCoco14", "ground-truth masks from COCO's annotations"),
    "truth coco17": ("truth", "TruthCoco17", "ground-truth masks from COCO's annotations"),
    "truth ade20k": ("truth", "TruthAde20k", "ADE20K's masks with our values: 1..150, 255 ignored"),
    "truth cityscapes": ("truth", "TruthCityscapes", "Cityscapes' masks with our values: 1..19, 255 ignored"),
    "truth context": ("truth", "TruthContext", "Pascal Context's masks with our values: 1..59, 255 or 0 for the rest"),
    "evaluate": ("evaluate", "Evaluate", "compare a folder of masks with the truth: IoU, mIoU, accuracies"),
    "check": ("check_run", "CheckRun", "look at a run's files before training: labels, sizes, damage, class balance"),
    "check voc12": ("check_data", "CheckVoc12", "look at a VOC data set before a run: labels, pictures, masks, cost"),
    "check coco14": ("check_data", "CheckCoco14", "look at COCO 2014 before a run"),
    "check coco17": ("check_data", "CheckCoco17", "look at COCO 2017 before a run"),
    "check ade20k": ("check_data", "CheckAde20k", "look at ADE20K before a run"),
    "check cityscapes": ("check_data", "CheckCityscapes", "look at Cityscapes before a run"),
    "check context": ("check_data", "CheckContext", "look at Pascal Context before a run"),
    "check folder": ("check_data", "CheckFolder", "look at your own pictures and labels before a run"),
    "check scenes": ("check_data", "CheckScenes", "look at drawn scenes before a run"),
    "train": ("train", "Train", "train a segmenter on the masks of a run"),
    "predict": ("predict", "Predict", "masks for any pictures with a trained segmenter"),
    "export-onnx": ("predict", "ExportOnnx", "write a trained segmenter as ONNX, checked against PyTorch"),
    "sweep voc12": ("sweep", "SweepVoc12", "rank sentence templates by sharpness on PASCAL VOC 2012"),
    "sweep coco14": ("sweep", "SweepCoco14", "rank sentence templates by sharpness on COCO 2014"),
    "sweep folder": ("sweep", "SweepFolder", "rank sentence templates by sharpness on your own pictures"),
    "sweep scenes": ("sweep", "SweepScenes", "rank sentence templates by sharpness on the drawn world"),
    "prompts suggest": ("prompts", "PromptsSuggest", "propose synonyms for a class from WordNet"),
    "prompts background": ("prompts", "PromptsBackground", "propose background words for a vocabulary"),
    "prompts check": ("prompts", "PromptsCheck", "find leaks, duplicates and badly read names in a vocabulary"),
    "export": ("export", "Export", "masks as a data set for another tool: VOC, COCO, labelme, CVAT, YOLO, ..."),
    "import": ("export", "Import", "masks that a person has edited override those of their run"),
    "worst": ("export", "Worst", "the pictures a run is least sure of, exported for a person to mend"),
    "oracle voc12": ("oracle", "OracleVoc12", "a bound that looks at the truth: spectral segments on PASCAL VOC 2012"),
    "oracle folder": ("oracle", "OracleFolder", "the same bound for a run on your own pictures with truth"),
    "oracle scenes": ("oracle", "OracleScenes", "the same bound for a run on the drawn world"),
    "ladder": ("ladder", "Ladder", "what each step of the method is worth, on scenes it never saw"),
    "scenes make": ("scenes", "ScenesMake", "draw a scenes data set in VOC layout"),
    "scenes train-clip": ("scenes", "ScenesTrainClip", "train the small CLIP of the drawn world again"),
    "train-clipseg scenes": ("train_clipseg", "TrainClipSegScenes", "train CLIPSeg's decoder on drawn scenes"),
    "train-clipseg phrasecut": ("train_clipseg", "TrainClipSegPhraseCut", "train CLIPSeg's decoder on PhraseCut"),
    "train-clipseg folder": ("train_clipseg", "TrainClipSegFolder", "train CLIPSeg's decoder on a table of masks"),
    "evaluate-clipseg referring": ("clipseg", "EvaluateReferring", "phrases against masks: mIoU, IoU_FG, IoU_BIN, AP"),
    "evaluate-clipseg zero-shot": ("clipseg", "EvaluateZeroShot", "seen and unseen classes asked by name"),
    "evaluate-clipseg one-shot": ("clipseg", "EvaluateOneShot", "folds of classes, each shown by one example"),
    "prompt": ("clipseg", "Prompt", "where is it? words or an example picture, asked of one picture"),
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
            group = [other for other in COMMANDS if other == name or other.startswith(f"{name} ")]
            if len(group) > 1 and args[words:] in ([], ["-h"], ["--help"]):
                _help(group)  # `check` is a command of its own and has others under it.
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
