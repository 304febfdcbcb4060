"""Every reader of files that a user may bring, with sound files to spoil.

A reader is called with the path of a spoilt file. It may return, or refuse with one of our errors; whatever it returns
is looked at too: ids that are plain file names, paths inside the data set, labels in range.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
import signal
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import malformed_mutations as spoilt
import malformed_shards
import numpy as np
import torch
from malformed_labels import LABEL_SAMPLES, PICTURES, Sample
from PIL import Image, features
from safetensors.torch import save

from clip_es.config.run import REFERENCE, ImageConfig
from clip_es.encoder import CLIP, TowerSizes, build_encoder, read_state_dict
from clip_es.errors import ClipEsError, DataError
from clip_es.formats import FORMATS, Source
from clip_es.images import look_at, read_picture
from clip_es.localize.clipseg.decoder import Decoder, DecoderSizes
from clip_es.localize.clipseg.weights import load_decoder
from clip_es.masks import read_confidence, read_mask, write_confidence, write_mask
from clip_es.pipelines.checks.run import check_run
from clip_es.pipelines.exchange.export import export
from clip_es.pipelines.exchange.import_masks import import_masks
from clip_es.pipelines.exchange.run_folder import Run
from clip_es.pipelines.sweep.features import SavedArrays
from clip_es.prompts import load_vocabulary
from clip_es.prompts.check import check_file
from clip_es.prompts.templates import load_templates
from clip_es.records import Dataset, coco14, coco_instances, folder, voc
from clip_es.records.labels.names import label_names
from clip_es.records.phrases.phrasecut import PhraseCut
from clip_es.records.phrases.table import PhraseTable
from clip_es.records.voc import read_annotation
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.scenes.weights import load_scenes_state_dict
from clip_es.store.failures import read_failures
from clip_es.store.run import RunStore
from clip_es.store.summary import update_summary
from clip_es.types import ImageRecord, PseudoMask

SMALL = ImageConfig(max_megapixels=1.0, max_patches=64)
"""A spoilt size must not cost minutes: of more than a million pixels nothing is learnt here."""

PUBLISHED = replace(REFERENCE.image, max_megapixels=1.0, max_patches=64)
NAMES = ("cat", "dog", "traffic light")
SIZES = TowerSizes(patch=4, width=128, layers=2, grid=2, embed=8, text_width=64, text_layers=1, context=9, vocab=50)


class Reader(NamedTuple):
    """One reader."""

    name: str
    file: str
    """Under which name it expects the spoilt file."""
    seeds: Callable[[Path], Iterable[bytes]]
    """Sound files; the reader has to accept each."""
    read: Callable[[Path, Path], object]
    """Takes the spoilt file and the folder of things prepared once."""
    below: Callable | None = None
    """Spoils below checksums and compression."""


# Pictures


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    return exif


def jpegs(_: Path) -> list[bytes]:
    image = noise(20, 28)
    return [
        encoded(image, "JPEG", exif=turned()),
        encoded(image, "JPEG", progressive=True, quality=60),
        encoded(image.convert("CMYK"), "JPEG"),
        encoded(image.convert("L"), "JPEG", icc_profile=b"profile" * 9),
        encoded(image, "MPO", save_all=True, append_images=[noise(20, 28, 1)]),
    ]


def pngs(_: Path) -> list[bytes]:
    image = noise(9, 11)
    frames = [noise(9, 11, i) for i in range(3)]
    return [
        encoded(image, "PNG", exif=turned()),
        encoded(image.convert("P"), "PNG", transparency=3),
        encoded(image.convert("RGBA"), "PNG"),
        encoded(image.convert("1"), "PNG"),
        encoded(Image.fromarray(np.arange(99, dtype=np.uint16).reshape(9, 11) * 600), "PNG"),
        encoded(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=True),
    ]


def other_pictures(_: Path) -> list[bytes]:
    image, second = noise(9, 11), noise(9, 11, 1)
    found = [
        encoded(image, "GIF", save_all=True, append_images=[second]),
        encoded(image.convert("P"), "GIF", transparency=2, interlace=1),
        encoded(image, "TIFF", compression="tiff_lzw", save_all=True, append_images=[second]),
        encoded(image.convert("F"), "TIFF"),
        encoded(
            Image.fromarray(np.arange(99, dtype=np.uint16).reshape(9, 11)), "TIFF", compression="tiff_adobe_deflate"
        ),
        encoded(image, "TIFF", compression="jpeg"),
        encoded(image.convert("P"), "BMP"),
        encoded(image, "PPM"),
        encoded(image.convert("1"), "PPM"),
    ]
    if features.check("webp"):
        found += [encoded(image, "WEBP", exif=turned()), encoded(image.convert("RGBA"), "WEBP", lossless=True)]
        found.append(encoded(image, "WEBP", save_all=True, append_images=[second]))
    if features.check("jpg_2000"):
        found.append(encoded(image, "JPEG2000"))
    if features.check("avif"):
        found.append(encoded(image, "AVIF", speed=10))
    return found


def picture(path: Path, home: Path) -> None:
    record = ImageRecord("a", path, (), (16, 24))
    try:
        look = look_at(path, SMALL, pixels=False)
    finally:
        shown = read_picture(record, 16, SMALL)
    assert min(look.size_hw) >= 1
    assert shown.rgb.dtype == np.uint8
    assert shown.grid_hw[0] * shown.grid_hw[1] <= 64
    whole = look_at(path, SMALL)
    assert whole.rgb is not None
    assert np.array_equal(whole.rgb, shown.rgb)
    with contextlib.suppress(ClipEsError):  # OpenCV reads fewer kinds
        read_picture(record, 16, PUBLISHED)


# Masks


def masks(_: Path) -> list[bytes]:
    labels = np.random.default_rng(0).integers(0, 4, (9, 11)).astype(np.uint8)
    labels[0, 0] = 255
    file = io.BytesIO()
    write_mask(file, labels)
    return [
        file.getvalue(),
        encoded(Image.fromarray(labels), "PNG"),
        encoded(Image.fromarray(labels % 2).convert("1").convert("P"), "PNG", bits=1),
    ]


def mask(path: Path, home: Path) -> None:
    labels = read_mask(path)
    assert labels.dtype == np.uint8
    assert labels.ndim == 2


def confidences(_: Path) -> list[bytes]:
    file = io.BytesIO()
    write_confidence(file, np.linspace(0, 1, 99, dtype=np.float32).reshape(9, 11))
    return [file.getvalue()]


def confidence(path: Path, home: Path) -> None:
    values = read_confidence(path)
    assert values.dtype == np.float32
    assert 0 <= values.min() <= values.max() <= 1


# Lists of pictures and labels


def pictures_at(home: Path) -> Path:
    """A data set whose pictures are sound, those of `PICTURES`, in several layouts."""
    root = home / "pictures"
    if not root.exists():
        (root / "in").mkdir(parents=True)
        for name in PICTURES:
            noise(9, 11).save(root / name)
        (home / "outside").mkdir(exist_ok=True)
        noise(9, 11).save(home / "outside" / "escaped.jpg")
        scenes = make(home / "voc", ScenesConfig(train=0, val=2, side=(32, 40)))
        (scenes / "list.txt").write_text("")
        for part in ("train2014", "val2014"):
            (home / "coco" / part).mkdir(parents=True)
        for number in (9, 25):
            noise(9, 11).save(home / "coco" / "train2014" / f"COCO_train2014_{number:012d}.jpg")
        (home / "phrases" / "images").mkdir(parents=True)
        for number in (1, 2):
            noise(20, 30).save(home / "phrases" / "images" / f"{number}.jpg")
            Image.fromarray(np.eye(20, 30, dtype=np.uint8)).save(home / "phrases" / f"{number}.png")
    return root


def safe(dataset: Dataset, root: Path) -> None:
    """What every data set promises, whatever its list says."""
    for record in dataset.records:
        assert "/" not in record.image_id
        assert record.image_id not in {"", ".", ".."}
        assert record.path.resolve().is_relative_to(root.resolve()), record.path
        assert all(0 <= k < 2**15 for k in record.class_ids)
        if record.image_id in dataset.truth:
            assert dataset.truth[record.image_id].resolve().is_relative_to(root.resolve())
    for problem in dataset.problems:
        assert problem.reason
        assert "\n" not in problem.reason


def class_id(name: str) -> int:
    return VOCABULARY.class_id(name)


VOCABULARY = load_vocabulary("voc12")


def label_seeds(sample: Sample) -> Callable[[Path], list[bytes]]:
    def seeds(home: Path) -> list[bytes]:
        pictures_at(home)
        return list(sample.contents)

    return seeds


def tool(sample: Sample) -> Callable[[Path, Path], None]:
    """A file of labels, also as the source of a vocabulary."""

    def read(path: Path, home: Path) -> None:
        for name, content in sample.beside:
            (path.parent / name).parent.mkdir(exist_ok=True)
            (path.parent / name).write_bytes(content)
        pictures = home / "pictures"
        try:
            safe(folder(pictures, path, class_id=class_id, class_count=20, truth=pictures), pictures)
        finally:
            try:
                names = set() if sample.format == "npy" else label_names(path)
            except DataError as error:
                if "numbers its classes" not in str(error):
                    raise
                names = set()
        assert all(isinstance(name, str) and name for name in names)

    return read


BELOW = {".json": spoilt.below_json, ".jsonl": spoilt.below_json, ".zip": spoilt.below_zip}
"""How files of labels are spoilt below their brackets and checksums."""


def coco_list_seeds(home: Path) -> list[bytes]:
    pictures_at(home)
    return [b"COCO_train2014_000000000009 45 49 50\nCOCO_train2014_000000000025 22\n"]


def coco_list(path: Path, home: Path) -> None:
    safe(coco14(home / "coco", list_file=path, truth=home / "coco"), home / "coco")


def id_list_seeds(home: Path) -> list[bytes]:
    pictures_at(home)
    return [b"val_000000\nval_000001\n"]


def id_list(path: Path, home: Path) -> None:
    scenes = load_vocabulary("scenes")
    safe(voc(home / "voc", list_file=path, class_id=scenes.class_id), home / "voc")


def xml_seeds(home: Path) -> list[bytes]:
    pictures_at(home)
    return [path.read_bytes() for path in sorted((home / "voc" / "Annotations").iterdir())]


def xml(path: Path, home: Path) -> None:
    names, size = read_annotation(path)
    assert all(isinstance(name, str) and name for name in names)
    assert size is None or min(size) >= 1


def coco_seeds(home: Path) -> list[bytes]:
    pictures_at(home)
    images = [{"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "height": 9, "width": 11} for n in (9, 25)]
    shapes = [
        [[1, 1, 8, 1, 8, 7, 1, 7]],
        {"size": [9, 11], "counts": [10, 20, 69]},
        {"size": [9, 11], "counts": "0O1000"},
    ]
    things = [
        {
            "id": i,
            "image_id": 9 if i else 25,
            "category_id": 17,
            "segmentation": shape,
            "area": 20.5,
            "iscrowd": int(isinstance(shape, dict)),
            "bbox": [1, 1, 7, 6],
        }
        for i, shape in enumerate(shapes[:2])
    ]
    categories = [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
    return [json.dumps({"images": images, "annotations": things, "categories": categories}).encode()]


def coco(path: Path, home: Path) -> None:
    names = load_vocabulary("coco14")
    safe(coco_instances(home / "coco", "train", class_id=names.class_id, annotations=path), home / "coco")


def phrasecut_seeds(home: Path) -> list[bytes]:
    pictures_at(home)
    tasks = [
        {"task_id": f"{n}__0", "image_id": n, "phrase": "a red cat", "Polygons": [[[[1, 1], [20, 1], [20, 15]]]]}
        for n in (1, 2)
    ]
    return [json.dumps(tasks).encode()]


def phrasecut(path: Path, home: Path) -> None:
    root = path.parent / "phrases"
    shutil.copytree(home / "phrases", root, dirs_exist_ok=True)
    path.replace(root / "refer_val.json")
    found = PhraseCut(root, "val")
    for number in range(len(found.samples)):
        found.mask(number)


def phrase_seeds(home: Path) -> list[bytes]:
    pictures_at(home)
    return [b'image,phrase,mask\n1.jpg,a cat,1.png\n2.jpg,"two, cats",2.png\n']


def phrase_table(path: Path, home: Path) -> None:
    PhraseTable(home / "phrases" / "images", path, home / "phrases")


# Words


def vocabulary_seeds(_: Path) -> list[bytes]:
    return [
        b"name: pets\ntemplate: a clean origami {}.\nclasses: [cat, {name: dog, prompt: dog puppy, synonyms: [pup]}]\n"
        b"background: [grass, sofa]\nbox_threshold: 0.4\n",
        b"- cat\n- dog\n- traffic light\n",
        b"a sleeping cat: cat\na kitten: cat\n'a dog, outside': dog\n",
    ]


def vocabulary(path: Path, home: Path) -> None:
    try:
        check_file(path)
    finally:
        found = load_vocabulary(path)
    assert all(isinstance(word, str) and word for word in (*found.names, *found.background, *found.templates))


def templates(path: Path, home: Path) -> None:
    assert all("{}" in template for template in load_templates(path))


# Run folders


SETTINGS = {"config": {"refine": ["affinity", "crf"], "threshold": 0.95}, "sha256": {"weights": "12ab"}}


def run_at(folder: Path) -> Path:
    """A small finished run."""
    about = {"classes": list(NAMES), "images": [str(folder.parent / "pictures")], "date": "2026-01-01"}
    with RunStore.open(folder, SETTINGS, about=about) as store:
        for number, image_id in enumerate(("a", "b")):
            decided = np.zeros((9, 11), dtype=np.uint8)
            decided[number : number + 4, 2:7] = 1 + number
            labels = decided.copy()
            labels[0] = 255
            record = ImageRecord(image_id, Path("a.jpg"), (0, 1))
            store.save(record, PseudoMask(labels, np.full((9, 11), 0.5, np.float32), (0, 1), decided))
        store.fail("c", "read", ValueError('a comma, a "quote"\nand a line'))
        store.finish({"read": 1.5}, {"miou": 50.0})
    return folder


def fresh_run(path: Path, home: Path) -> Path:
    """A copy to spoil."""
    if not (home / "run").exists():
        pictures_at(home)
        run_at(home / "run")
    run = path.parent / "run"
    shutil.copytree(home / "run", run)
    return run


def run_file(name: str) -> Callable[[Path], list[bytes]]:
    def seeds(home: Path) -> list[bytes]:
        if not (home / "run").exists():
            pictures_at(home)
            run_at(home / "run")
        return [(home / "run" / name).read_bytes()]

    return seeds


def run_yaml(path: Path, home: Path) -> None:
    run = fresh_run(path, home)
    path.replace(run / "run.yaml")
    first = None
    for read in (
        lambda: RunStore.open(run, SETTINGS).close(),
        lambda: Run.open(run).labels("a", "masks"),
        lambda: check_run(run),
    ):
        try:
            read()
        except ClipEsError as error:
            first = first or error
    if first:
        raise first


def failures(path: Path, home: Path) -> None:
    for problem in read_failures(path):
        assert all(isinstance(cell, str) for cell in (problem.image_id, problem.error, problem.reason, problem.stage))
    run = fresh_run(path, home)
    path.replace(run / "failures.csv")
    with RunStore.open(run, SETTINGS) as store:
        store.finish()


def summary(path: Path, home: Path) -> None:
    run = fresh_run(path, home)
    path.replace(run / "summary.json")
    update_summary(run, {"miou": 60.0})
    assert json.loads((run / "summary.json").read_bytes())["miou"] == 60.0


def cams_seeds(_: Path) -> list[bytes]:
    file = io.BytesIO()
    np.save(file, np.arange(8, dtype=np.float32))
    return [file.getvalue()]


def saved_array(path: Path, home: Path) -> None:
    saved = SavedArrays(path.parent / "cache", "told")
    path.replace(saved.folder / "key.npy")
    found = saved.load("key")
    assert found is None or not found.dtype.hasobject


# Edited masks


def edited_seeds(kind: str) -> Callable[[Path], list[bytes]]:
    def seeds(home: Path) -> list[bytes]:
        run_file("run.yaml")(home)
        out = home / f"edited-{kind}"
        if not out.exists():
            export(Run.open(home / "run"), kind, out, pictures="none")  # type: ignore[arg-type]
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for path in sorted(out.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(out).as_posix())
        return [file.getvalue()]

    return seeds


def edited(kind: str) -> Callable[[Path, Path], None]:
    def read(path: Path, home: Path) -> None:
        run = fresh_run(path, home)
        with Source(path) as source:
            import_masks(Run.open(run), source, kind)  # type: ignore[arg-type]
        for image_id in ("a", "b"):
            assert Run.open(run).labels(image_id, "masks").shape == (9, 11)

    return read


def coco_edit_seeds(home: Path) -> list[bytes]:
    edited_seeds("coco-rle")(home)
    return [
        path.read_bytes()
        for path in (home / "edited-coco-rle").rglob("*.json")
        if b'"annotations"' in path.read_bytes()
    ]


def shapes_edit_seeds(kind: str) -> Callable[[Path], list[bytes]]:
    def seeds(home: Path) -> list[bytes]:
        edited_seeds(kind)(home)
        return [
            path.read_bytes()
            for path in sorted((home / f"edited-{kind}").rglob("*.json"))
            if b'"shapes"' in path.read_bytes()
        ]

    return seeds


def label_studio_edit_seeds(home: Path) -> list[bytes]:
    edited_seeds("label-studio")(home)
    tasks = json.loads((home / "edited-label-studio" / "tasks.json").read_bytes())
    for task in tasks:
        task["annotations"] = [{"result": task.pop("predictions")[0]["result"], "was_cancelled": False}]
    polygon = {"points": [[10, 10], [80, 10], [80.5, 70]], "polygonlabels": ["cat"]}
    drawn = {"type": "polygonlabels", "original_width": 11, "original_height": 9, "value": polygon}
    tasks[0]["annotations"][0]["result"].append(drawn)
    return [json.dumps(tasks).encode()]


# Weights


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return CLIP(SIZES).state_dict()


def safetensors_seeds(_: Path) -> list[bytes]:
    tensors = {key: value.half() for key, value in state().items()}
    slim = dict(tensors)
    slim["token_rows"] = torch.arange(50, dtype=torch.int32)
    return [save(tensors, metadata={"format": "pt"}), save(slim)]


def torch_seeds(_: Path) -> list[bytes]:
    zipped, old, nested = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save(state(), zipped)
    torch.save(state(), old, _use_new_zipfile_serialization=False)
    torch.save({"state_dict": {f"module.{key}": value for key, value in state().items()}, "epoch": 3}, nested)
    return [zipped.getvalue(), old.getvalue(), nested.getvalue()]


class _Shell(torch.nn.Module):
    """Parameters under dotted names, so that a TorchScript archive of them has the keys of a CLIP."""

    def __init__(self, tree: dict) -> None:
        super().__init__()
        for key, value in tree.items():
            if isinstance(value, dict):
                self.add_module(key, _Shell(value))
            else:
                self.register_parameter(key, torch.nn.Parameter(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def script_seeds(_: Path) -> list[bytes]:
    tree: dict = {}
    for key, value in state().items():
        *parents, leaf = key.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of TorchScript
        torch.jit.save(torch.jit.trace(_Shell(tree), torch.zeros(1)), file)
    return [file.getvalue()]


def weights(path: Path, home: Path) -> None:
    build_encoder(read_state_dict(path), device="cpu")


def slim_weights(path: Path, home: Path) -> None:
    assert load_scenes_state_dict(path)["token_embedding.weight"].shape[0] == 49408


def slim_seeds(home: Path) -> list[bytes]:
    return [safetensors_seeds(home)[1]]


def decoder_seeds(_: Path) -> list[bytes]:
    torch.manual_seed(0)
    decoder = Decoder(DecoderSizes(dim=8, width=12, embed=8, depth=2, hidden=16, patch=4), (0, 1))
    tensors = {key: value.contiguous() for key, value in decoder.state_dict().items()}
    zipped = io.BytesIO()
    torch.save(tensors, zipped)
    return [save(tensors, metadata={"layers": "0 1", "side": "64"}), zipped.getvalue()]


def decoder(path: Path, home: Path) -> None:
    with path.open("rb") as file:
        told = file.read(9)[8:] == b"{"
    load_decoder(path, None if told else (0, 1))


READERS = (
    Reader("JPEG", "a.jpg", jpegs, picture),
    Reader("PNG", "a.png", pngs, picture, spoilt.below_png),
    Reader("other pictures", "a.tif", other_pictures, picture),
    Reader("mask PNG", "a.png", masks, mask, spoilt.below_png),
    Reader("confidence PNG", "a.png", confidences, confidence, spoilt.below_png),
    Reader("VOC XML", "a.xml", xml_seeds, xml),
    Reader("VOC id list", "list.txt", id_list_seeds, id_list),
    Reader("COCO label list", "list.txt", coco_list_seeds, coco_list),
    Reader("COCO JSON", "instances.json", coco_seeds, coco, spoilt.below_json),
    *(
        Reader(row.name, row.file, label_seeds(row), tool(row), BELOW.get(Path(row.file).suffix))
        for row in LABEL_SAMPLES
    ),
    Reader("PhraseCut JSON", "refer.json", phrasecut_seeds, phrasecut, spoilt.below_json),
    Reader("phrase CSV", "phrases.csv", phrase_seeds, phrase_table),
    Reader("vocabulary YAML", "words.yaml", vocabulary_seeds, vocabulary),
    Reader("template list", "templates.txt", lambda _: [b"# two\na photo of a {}.\na drawing of a {}.\n"], templates),
    Reader("run.yaml", "spoilt.yaml", run_file("run.yaml"), run_yaml),
    Reader("failures.csv", "spoilt.csv", run_file("failures.csv"), failures),
    Reader("summary.json", "spoilt.json", run_file("summary.json"), summary, spoilt.below_json),
    Reader("cached npy", "key.npy", cams_seeds, saved_array),
    *(
        Reader(f"edited {kind} zip", "edited.zip", edited_seeds(kind), edited(kind), spoilt.below_zip)
        for kind, format in FORMATS.items()
        if format.read
    ),
    Reader("edited COCO JSON", "edited.json", coco_edit_seeds, edited("coco-rle"), spoilt.below_json),
    Reader("edited labelme JSON", "a.json", shapes_edit_seeds("labelme"), edited("labelme"), spoilt.below_json),
    Reader(
        "edited X-AnyLabeling", "a.json", shapes_edit_seeds("x-anylabeling"), edited("x-anylabeling"), spoilt.below_json
    ),
    Reader("edited Label Studio", "a.json", label_studio_edit_seeds, edited("label-studio"), spoilt.below_json),
    Reader(
        "picture tar", "t.tar", malformed_shards.picture_tars, malformed_shards.pictures, malformed_shards.below_tar
    ),
    Reader("picture Parquet", "t.parquet", malformed_shards.picture_tables, malformed_shards.pictures),
    Reader(
        "result tar",
        "t.tar",
        malformed_shards.result_seeds("webdataset"),
        malformed_shards.results("webdataset"),
        malformed_shards.below_tar,
    ),
    Reader(
        "result Parquet", "t.parquet", malformed_shards.result_seeds("parquet"), malformed_shards.results("parquet")
    ),
    Reader("shard entry", "e.json", malformed_shards.entry_seeds, malformed_shards.entry, spoilt.below_json),
    Reader("CLIP safetensors", "clip.safetensors", safetensors_seeds, weights, spoilt.below_safetensors),
    Reader("CLIP torch file", "clip.pt", torch_seeds, weights, spoilt.below_zip),
    Reader("CLIP TorchScript", "clip.pt", script_seeds, weights, spoilt.below_zip),
    Reader("scenes weights", "clip.safetensors", slim_seeds, slim_weights, spoilt.below_safetensors),
    Reader("CLIPSeg decoder", "decoder.pt", decoder_seeds, decoder, spoilt.below_zip),
)


# Traps: readers that do what no reader may, to see that the campaign notices


def _trap(name: str) -> Callable[[Path, Path], None]:
    def read(path: Path, home: Path) -> None:
        if path.read_bytes() != b"sound":
            _TRAPS[name](path)

    return read


def _write_outside(path: Path) -> None:
    (path.parents[1] / "outside.txt").write_text("escaped")


def _run_a_program(path: Path) -> None:
    os.system("true")


def _import_a_name(path: Path) -> None:
    pickle.loads(b"cposix\ngetpid\n.")


def _take_memory(path: Path) -> None:
    np.ones(2**26).sum()


def _crash(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


_TRAPS: dict[str, Callable[[Path], object]] = {
    "wrong error": lambda path: [][0],
    "crash": _crash,
    "hang": lambda path: time.sleep(3600),
    "escape by writing": _write_outside,
    "escape by reading": lambda path: Path("/etc/hostname").read_bytes(),
    "escape by running": _run_a_program,
    "escape by import": _import_a_name,
    "memory": _take_memory,
}

TRAPS = tuple(Reader(f"trap: {name}", "a", lambda _: [b"sound"], _trap(name)) for name in _TRAPS)
