"""Edited masks come back and override; what is damaged, foreign or hostile is refused by name and changes nothing."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_run import make_run
from PIL import Image

from clip_es import rle
from clip_es.errors import ClipEsError, ConfigError, DataError, ShapeError
from clip_es.file_source import LARGEST_FILE
from clip_es.formats import FORMATS, Names, Source, readable
from clip_es.formats.labelme import read as read_labelme
from clip_es.masks import read_confidence, read_mask, write_mask
from clip_es.pipelines.cli import main
from clip_es.pipelines.exchange.export import export
from clip_es.pipelines.exchange.import_masks import TABLE, apply_edit, import_masks, imported_ids
from clip_es.pipelines.exchange.run_folder import Run
from clip_es.store.run import RunStore
from clip_es.types import ImageRecord

NAMES = Names(("cat", "traffic light", "dog"))
FIRST = "000.plain"


@pytest.fixture
def made(made_up_run, tmp_path):
    return made_up_run(tmp_path)


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of the masks, confidences and labels."""
    files = [path for part in ("masks", "labels", "confidence") for path in sorted((folder / part).iterdir())]
    return {f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def edited(labels: np.ndarray) -> np.ndarray:
    """A dog in the corner, an undecided strip, background below."""
    new = labels.copy()
    new[:9, :7], new[12:15], new[-5:] = 3, 255, 0
    return new


def rewritten(made, name: str, out: Path, new: dict[str, np.ndarray]) -> Path:
    """An export of the run as it would be had its masks been `new`: what a person's tool would save."""
    other = out.parent / f"{out.name}-run"
    (other / "masks").mkdir(parents=True)
    (other / "run.yaml").write_bytes((made.run / "run.yaml").read_bytes())
    for image_id, labels in new.items():
        write_mask(other / f"masks/{image_id}.png", labels)
    export(Run.open(other), name, out, pictures="none" if name != "labelme" else "link")
    return out


@pytest.mark.parametrize("name", readable())
def test_edits_override_and_nothing_else_changes(made, tmp_path, name):
    new = {image_id: edited(labels) for image_id, labels in made.masks.items() if image_id != FIRST}
    source = rewritten(made, name, tmp_path / "edited", {**new, FIRST: made.masks[FIRST]})
    before = tree(made.run)
    assert main(["import", str(made.run), "--format", name, "--from", str(source)]) == 0
    after = tree(made.run)
    assert {key for key in after if after[key] != before[key]} <= {
        f"{part}/{image_id}.png" for part in ("masks", "labels", "confidence") for image_id in new
    }
    for image_id, labels in new.items():
        changed = labels != made.masks[image_id]
        sure = labels != 255
        assert np.array_equal(read_mask(made.run / f"masks/{image_id}.png"), labels)
        decided = read_mask(made.run / f"labels/{image_id}.png")
        assert np.array_equal(decided[changed & sure], labels[changed & sure])
        assert np.array_equal(decided[~(changed & sure)], made.decided[image_id][~(changed & sure)])
        confidence = read_confidence(made.run / f"confidence/{image_id}.png")
        assert (confidence[changed & sure] == 1).all()
        assert (confidence[changed & ~sure] == 0).all()
        assert np.array_equal(confidence[~changed], made.confidence[image_id][~changed])
    assert imported_ids(made.run) == new.keys()
    assert json.loads((made.run / "summary.json").read_text())["imported"] == len(new)


def test_importing_what_was_exported_changes_nothing(made, tmp_path, capsys):
    before = tree(made.run)
    for name in readable():
        for labels in ("masks", "decided"):
            out = tmp_path / f"{name}-{labels}"
            assert main(["export", str(made.run), "--format", name, "--out", str(out), "--labels", labels]) == 0
            assert main(["import", str(made.run), "--format", name, "--from", str(out)]) == 0
            assert "0 pictures edited (0 pixels" in capsys.readouterr().out
    assert tree(made.run) == before
    assert not (made.run / TABLE).exists()


def test_a_second_import_changes_nothing(made, tmp_path, capsys):
    source = rewritten(made, "voc", tmp_path / "edited", {k: edited(v) for k, v in made.masks.items()})
    arguments = ["import", str(made.run), "--format", "voc", "--from", str(source)]
    assert main(arguments) == 0
    once = tree(made.run)
    table = (made.run / TABLE).read_bytes()
    assert main(arguments) == 0
    assert tree(made.run) == once
    assert (made.run / TABLE).read_bytes() == table


@pytest.mark.parametrize("kind", ["masks", "decided"])
@pytest.mark.parametrize("files", [0, 1, 2])
def test_an_import_that_was_killed_is_completed_by_the_same_call(made, tmp_path, monkeypatch, kind, files):
    import clip_es.pipelines.exchange.import_masks as module

    new = {k: edited(made.masks[k] if kind == "masks" else made.decided[k]) for k in made.masks}
    source = rewritten(made, "voc", tmp_path / "edited", new)
    undisturbed = tmp_path / "copy"
    __import__("shutil").copytree(made.run, undisturbed)
    arguments = ["--format", "voc", "--from", str(source), "--labels", kind]
    assert main(["import", str(undisturbed), *arguments]) == 0
    real, count = module.write_atomic, [files]

    def killed(path, data, **options):
        if not count[0]:
            raise KeyboardInterrupt
        count[0] -= 1
        return real(path, data, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomic", killed)
        assert main(["import", str(made.run), *arguments]) == 130
    assert tree(made.run) != tree(undisturbed)
    assert main(["import", str(made.run), *arguments]) == 0
    assert tree(made.run) == tree(undisturbed)


def test_a_continued_run_leaves_edits_alone(made, tmp_path):
    source = rewritten(made, "voc", tmp_path / "edited", {k: edited(v) for k, v in made.masks.items()})
    assert main(["import", str(made.run), "--format", "voc", "--from", str(source)]) == 0
    before = tree(made.run)
    records = [ImageRecord(image_id, made.images, (0,)) for image_id in made.masks]
    with RunStore.open(made.run, {"made": "up"}) as store:
        assert store.unfinished(records) == []
        store.finish()
    assert tree(made.run) == before
    assert imported_ids(made.run) == made.masks.keys()


def test_an_edit_by_hand():
    masks = np.array([[0, 255, 1, 2]], dtype=np.uint8)
    decided = np.array([[0, 1, 1, 2]], dtype=np.uint8)
    confidence = np.array([[0.99, 0.5, 0.97, 0.96]], dtype=np.float32)
    new = np.array([[0, 3, 1, 255]], dtype=np.uint8)  # undecided becomes 3, a sure 2 becomes undecided
    found = apply_edit(new, masks, decided, confidence, compared_with="masks")
    assert found.masks.tolist() == [[0, 3, 1, 255]]
    assert found.decided.tolist() == [[0, 3, 1, 2]]
    assert found.confidence[0].tolist() == pytest.approx([0.99, 1, 0.97, 0])
    assert found.changed.tolist() == [[False, True, False, True]]


def test_a_guess_left_as_it_is_stays_undecided_unless_a_person_vouches_for_it():
    masks, decided = np.array([[255, 1]], dtype=np.uint8), np.array([[2, 1]], dtype=np.uint8)
    confidence = np.array([[0.5, 0.97]], dtype=np.float32)
    found = apply_edit(decided, masks, decided, confidence, compared_with="decided")
    assert (found.masks.tolist(), found.changed.any()) == ([[255, 1]], False)
    found = apply_edit(decided, masks, decided, confidence, compared_with="decided", reviewed=True)
    assert (found.masks.tolist(), found.confidence.tolist()) == ([[2, 1]], [[1, 1]])


def test_the_mark_of_the_export_says_what_was_exported(made, tmp_path, capsys):
    """With `decided`, pixels that are 255 in masks/ are no edits."""
    new = {k: v.copy() for k, v in made.decided.items()}
    new[FIRST][0, 0] = (new[FIRST][0, 0] + 1) % 4
    source = rewritten(made, "labelme", tmp_path / "edited", new)
    mark = json.loads((source / "clip-es-export.json").read_text())
    (source / "clip-es-export.json").write_text(json.dumps({**mark, "labels": "decided"}))
    assert main(["import", str(made.run), "--format", "labelme", "--from", str(source)]) == 0
    assert "1 pictures edited (1 pixels differ from RUN/labels), 7 unchanged" in capsys.readouterr().out


def test_a_person_may_use_a_class_the_picture_was_not_labelled_with(made, tmp_path):
    new = np.zeros_like(made.masks["005.grey"])
    new[2:5] = 3
    source = rewritten(made, "coco-rle", tmp_path / "edited", {"005.grey": new})
    assert main(["import", str(made.run), "--format", "coco-rle", "--from", str(source)]) == 0
    assert np.array_equal(read_mask(made.run / "masks/005.grey.png"), new)


def test_cvat_comes_back_as_the_zip_it_is_downloaded_as_in_colours_of_its_own(made, tmp_path):
    """The label map is the example of CVAT's manual with our names; the PNGs are RGB, as CVAT writes them."""
    colours = {0: (0, 128, 0), 1: (10, 10, 128), 2: (10, 128, 128), 3: (9, 9, 9), 255: (250, 250, 250)}
    names = {0: "background", 1: "Cat", 2: "traffic light", 3: "dog", 255: "undecided"}
    rows = ["# label:color_rgb:parts:actions", *(f"{names[k]}:{r},{g},{b}::" for k, (r, g, b) in colours.items())]
    table = np.zeros((256, 3), dtype=np.uint8)
    for label, colour in colours.items():
        table[label] = colour
    new = {image_id: edited(labels) for image_id, labels in made.masks.items()}
    with zipfile.ZipFile(tmp_path / "task.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labelmap.txt", "\n".join([*rows, "dog house:1,2,3::", ""]))
        for image_id, labels in new.items():
            data = io.BytesIO()
            Image.fromarray(table[labels]).save(data, "PNG")
            archive.writestr(f"SegmentationClass/{image_id}.png", data.getvalue())
            archive.writestr(f"SegmentationObject/{image_id}.png", data.getvalue())
    assert main(["import", str(made.run), "--format", "cvat", "--from", str(tmp_path / "task.zip")]) == 0
    for image_id, labels in new.items():
        assert np.array_equal(read_mask(made.run / f"masks/{image_id}.png"), labels)


def labelme_file(shapes: list[dict], size: tuple[int, int] = (20, 30)) -> dict:
    return {"version": "5.5.0", "shapes": shapes, "imageHeight": size[0], "imageWidth": size[1], "imagePath": "a.jpg"}


def read_one(tmp_path: Path, content: dict | str | bytes, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    data = content if isinstance(content, (str, bytes)) else json.dumps(content)
    (tmp_path / "a.json").write_bytes(data if isinstance(data, bytes) else data.encode())
    with Source(tmp_path / "a.json") as source:
        (incoming,) = read_labelme(source, NAMES)
        return incoming.read(size)


def test_shapes_drawn_in_labelme_are_filled_as_labelme_fills_them(tmp_path):
    shapes = [
        {"label": "cat", "points": [[2, 3], [12, 3], [12, 9], [2, 9]], "shape_type": "polygon"},
        {"label": "DOG", "points": [[8, 8], [5, 5]], "shape_type": "rectangle"},
        {"label": "__ignore__", "points": [[20.0, 10.0], [20.0, 13.0]], "shape_type": "circle"},
    ]
    found = read_one(tmp_path, labelme_file(shapes))
    assert (found == 1).sum() == 11 * 7 - 4 * 4  # a polygon and a rectangle include their corners
    assert (found[5:9, 5:9] == 3).all()
    assert found[10, 20] == found[7, 20] == found[13, 20] == found[10, 23] == 255
    assert found[14, 20] == 0


def test_shapes_as_labelme_rasterizes_them(tmp_path):
    labelme = pytest.importorskip("labelme", exc_type=ImportError)
    rng = np.random.default_rng(3)
    for kind, count in (("polygon", 7), ("rectangle", 2), ("circle", 2), ("oriented_rectangle", 4)):
        points = (rng.uniform(0, 20, (count, 2))).tolist()
        found = read_one(tmp_path, labelme_file([{"label": "cat", "points": points, "shape_type": kind}]))
        assert np.array_equal(found == 1, labelme.utils.shape_to_mask((20, 30), points, kind))


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_polygons_of_coco_are_filled_as_pycocotools_fills_them(made, tmp_path):
    api = pytest.importorskip("pycocotools.mask")
    height, width = made.masks[FIRST].shape
    ring = [3.5, 2.25, 30.0, 4.0, 25.5, 33.0, 4.0, 20.0]
    content = {
        "images": [{"id": 7, "file_name": f"some/where/{FIRST}.jpg", "height": height, "width": width}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 9, "segmentation": [ring]}],
        "categories": [{"id": 9, "name": "dog"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    assert main(["import", str(made.run), "--format", "coco-rle", "--from", str(tmp_path / "coco.json")]) == 0
    expected = api.decode(api.frPyObjects([ring], height, width))[..., 0]
    assert np.array_equal(read_mask(made.run / f"masks/{FIRST}.png"), 3 * expected)


BAD_SHAPES = {
    "the label 'dgo' is not one of this run": {"label": "dgo", "points": [[0, 0], [5, 0], [5, 5]]},
    "Nearest: 'dog'": {"label": "dgo", "points": [[0, 0], [5, 0], [5, 5]]},
    "covers no region": {"label": "cat", "points": [[0, 0]], "shape_type": "point"},
    "has 3 points": {"label": "cat", "points": [[0, 0], [1, 1]], "shape_type": "polygon"},
    r"must be \[x, y\]": {"label": "cat", "points": [[0, float("nan")], [1, 1], [2, 2]]},
    "must be .x, y": {"label": "cat", "points": [[0, 1e300], [1, 1], [2, 2]]},
    "needs a label": {"points": []},
    "outside its picture": {"label": "cat", "points": [[0, 0], [30, 3]], "shape_type": "mask", "mask": ""},
    "is not a PNG": {"label": "cat", "points": [[0, 0], [3, 3]], "shape_type": "mask", "mask": "AAAA"},
    "not base64": {"label": "cat", "points": [[0, 0], [3, 3]], "shape_type": "mask", "mask": "§"},
}


@pytest.mark.parametrize("message", BAD_SHAPES)
def test_a_bad_shape_is_refused_by_name(tmp_path, message):
    with pytest.raises(DataError, match=message):
        read_one(tmp_path, labelme_file([BAD_SHAPES[message]]))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"shapes": 3}', b"1" * 5000])
def test_what_is_no_labelme_file_is_refused(tmp_path, content):
    with pytest.raises(DataError):
        read_one(tmp_path, content)


def test_a_mask_of_another_size_is_refused_before_it_is_unpacked(tmp_path):
    data = io.BytesIO()
    Image.new("1", (2_000, 2_000)).save(data, "PNG")
    text = base64.b64encode(data.getvalue()).decode()
    shape = {"label": "cat", "points": [[0, 0], [3, 3]], "shape_type": "mask", "mask": text}
    with pytest.raises(ShapeError, match=r"\(2000, 2000\)"):
        read_one(tmp_path, labelme_file([shape]))
    with pytest.raises(ShapeError, match=r"\(9, 9\)"):
        read_one(tmp_path, labelme_file([], (9, 9)))


@pytest.mark.parametrize(
    "counts",
    [
        [5],
        [601],
        [-1, 601],
        [2**70],
        [True, 599],
        [1.5],
        "",
        "!",
        "0" * 50,
        "o" * 9,
        "zz",
        "\x00",
        "é",
        None,
        {},
        "P" * 9,
    ],
)
def test_damaged_run_lengths_are_refused(counts):
    with pytest.raises(DataError):
        rle.decode(counts, (20, 30))


def test_a_number_or_colour_without_label_is_refused(made, tmp_path, capsys):
    (tmp_path / "edited").mkdir()
    write_mask(tmp_path / f"edited/{FIRST}.png", np.full_like(made.masks[FIRST], 4))
    soft = np.zeros((*made.masks["001.plain"].shape, 3), dtype=np.uint8)
    soft[0, 0] = (127, 0, 0)
    Image.fromarray(soft).save(tmp_path / "edited/001.plain.png")
    before = tree(made.run)
    assert main(["import", str(made.run), "--format", "voc", "--from", str(tmp_path / "edited")]) == 1
    text = capsys.readouterr().out
    assert "holds the number 4, which no label of this run has" in text
    assert "holds the colour 127,0,0, which no label of this run has. Found 1 pixels of it" in text
    assert tree(made.run) == before


def test_names_never_leave_the_run(made, tmp_path, capsys):
    """A hostile JSON names files everywhere; a hostile zip has members that point out of it."""
    height, width = made.masks[FIRST].shape
    evil = ["../../etc/passwd", "/etc/passwd", "..\\..\\x.png", "", "..", "\x00", "a/../../b.png", "CON.png"]
    content = {
        "images": [{"id": k, "file_name": n, "height": height, "width": width} for k, n in enumerate(evil)],
        "annotations": [],
        "categories": [],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for name in ("../../outside.png", "/outside.png", "SegmentationClass/../../outside.png"):
            archive.writestr(name, b"\x89PNG\r\n\x1a\n")
    everything = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for name, source in (("coco-rle", "coco.json"), ("voc", "evil.zip"), ("labelme", "coco.json")):
        assert main(["import", str(made.run), "--format", name, "--from", str(tmp_path / source)]) == 1
        assert "no finished picture of this run has this name" in capsys.readouterr().out
    changed = {path for path in tmp_path.rglob("*") if everything.get(path) != path.stat().st_mtime_ns}
    assert changed <= {made.run}  # its lock came and went


def test_a_picture_that_comes_twice_counts_once(made, tmp_path, capsys):
    for folder in ("a", "b"):
        (tmp_path / "edited" / folder).mkdir(parents=True)
        write_mask(
            tmp_path / f"edited/{folder}/{FIRST}.png", np.full_like(made.masks[FIRST], len(folder) + (folder > "a"))
        )
    assert main(["import", str(made.run), "--format", "voc", "--from", str(tmp_path / "edited")]) == 1
    assert "occurs twice" in capsys.readouterr().out
    assert (read_mask(made.run / f"masks/{FIRST}.png") == 1).all()


def test_two_imports_at_once_are_refused(made, tmp_path):
    from clip_es.store.disk import Lock

    source = rewritten(made, "voc", tmp_path / "edited", made.masks)
    lock = Lock.take(made.run, "import")
    assert lock is not None
    with lock, Source(source) as files, pytest.raises(ConfigError, match="another import"):
        import_masks(Run.open(made.run), files, "voc")


def test_a_source_without_masks_says_so(made, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["import", str(made.run), "--format", "voc", "--from", str(tmp_path / "empty")]) == 2
    assert "holds no mask of the format voc" in capsys.readouterr().err
    assert main(["import", str(made.run), "--format", "cvat", "--from", str(tmp_path / "empty")]) == 2
    assert "labelmap.txt" in capsys.readouterr().err
    assert main(["import", str(made.run), "--format", "voc", "--from", str(tmp_path / "nowhere")]) == 2
    assert "there is no such folder or file" in capsys.readouterr().err


def test_pipes_and_large_files_are_not_read(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.json")
    with Source(tmp_path) as source, pytest.raises(DataError, match="no plain file"):
        source.bytes("pipe.json")
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    with Source(tmp_path) as source, pytest.raises(DataError, match="too large"):
        source.bytes("large.json")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.json", bytes(2**20))
    assert (tmp_path / "bomb.zip").stat().st_size < 2000
    with Source(tmp_path / "bomb.zip") as source, pytest.raises(DataError, match="too large"):
        source.bytes("bomb.json", limit=2**20 - 1)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Small exports of one picture in every readable format, as the bytes of their files."""
    root = tmp_path_factory.mktemp("originals")
    made = make_run(root, 1, side=12)
    found = {}
    for name in readable():
        export(Run.open(made.run), name, root / name, pictures="none")
        files = [
            path for path in (root / name).rglob("*") if path.is_file() and path.suffix in (".json", ".png", ".txt")
        ]
        found[name] = {
            str(path.relative_to(root / name)): path.read_bytes() for path in files if "clip-es" not in path.name
        }
    return found, made.masks[FIRST].shape


@pytest.mark.parametrize("name", readable())
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_damaged_files_end_in_our_errors(originals, tmp_path_factory, name, data):
    """Bytes changed, cut out, doubled or put in: the reader gives labels of the right kind, or one of our errors."""
    files, size = originals
    folder = tmp_path_factory.mktemp("damaged")
    for inner, content in files[name].items():
        raw = bytearray(content)
        for _ in range(data.draw(st.integers(0, 3))):
            place = data.draw(st.integers(0, max(len(raw) - 1, 0)))
            kind = data.draw(st.sampled_from(["flip", "cut", "double", "put"]))
            if kind == "flip" and raw:
                raw[place] = data.draw(st.integers(0, 255))
            elif kind == "cut":
                del raw[place : place + data.draw(st.integers(1, 40))]
            elif kind == "double":
                raw[place:place] = raw[place : place + 20]
            else:
                raw[place:place] = data.draw(
                    st.sampled_from([b"null", b"-1", b"1e999", b"[]", b"{}", b'"', b"\x00", b"9" * 30])
                )
        (folder / inner).parent.mkdir(parents=True, exist_ok=True)
        (folder / inner).write_bytes(bytes(raw))
    read = FORMATS[name].read
    assert read is not None
    with Source(folder) as source:
        try:
            for incoming in read(source, NAMES):
                labels = incoming.read(size)
                assert (labels.dtype, labels.shape) == (np.uint8, size)
                assert set(np.unique(labels)) <= {0, 1, 2, 3, 255}
        except ClipEsError:
            pass


def repainted(path: Path, write: Callable[[Image.Image], Image.Image]) -> None:
    """Save a mask again as some editor would."""
    with Image.open(path) as image:
        image.load()
        write(image).save(path)


def numbered_anew(image: Image.Image) -> Image.Image:
    """With a palette of only the colours that occur, as editors save it; every number stands for another colour."""
    rgb = np.asarray(image.convert("RGB")).reshape(-1, 3)
    colours, numbers = np.unique(rgb, axis=0, return_inverse=True)
    out = Image.fromarray(numbers.reshape(image.height, image.width).astype(np.uint8)[:, ::1], "P")
    out.putpalette(colours.ravel().tolist())
    return out


def with_palette(colours: list[int]) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        out = image.copy()
        out.putpalette(colours)
        return out

    return change


@pytest.mark.parametrize("name", ["voc", "yolo-semantic"])
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_a_palette_that_an_editor_numbered_anew_changes_no_label(made_up_run, tmp_path, capsys, name):
    made = made_up_run(tmp_path, 5)
    assert main(["export", str(made.run), "--format", name, "--out", str(tmp_path / "out")]) == 0
    masks = sorted(
        path for path in (tmp_path / "out").rglob("*.png") if path.parent.name in ("SegmentationClass", "train")
    )
    masks = [path for path in masks if "images" not in path.parts]
    kinds = [
        numbered_anew,
        lambda image: image.convert("RGBA"),
        with_palette([v for k in range(256) for v in (k,) * 3]),
    ]
    for path, change in zip(masks, [*kinds, with_palette([7, 8, 9] * 256)], strict=False):
        repainted(path, change)
    last = masks[4].rename(masks[4].with_suffix(".jpg"))
    capsys.readouterr()
    assert main(["import", str(made.run), "--format", name, "--from", str(tmp_path / "out")]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "0 pictures edited (0 pixels differ from RUN/masks), 3 unchanged, 2 refused" in told
    assert "has another palette than the export" in told
    assert f"{last.name}: is no PNG" in told
