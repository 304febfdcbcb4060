"""Every format read back by the library it is meant for, and compared pixel for pixel, 255 included."""

from __future__ import annotations

import json
import sys
import types
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_es import rle
from clip_es.config.run import ImageConfig
from clip_es.errors import DataError
from clip_es.formats import FORMATS, Names, Source, brush, readable
from clip_es.formats.yolo import polygons
from clip_es.images import look_at
from clip_es.pipelines.cli import main
from clip_es.pipelines.exchange.export import export
from clip_es.pipelines.exchange.run_folder import Run

NAMES = ["cat", "traffic light", "dog"]

OWN_WARNING = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
"""pycocotools' compiled code on numpy 2.4; nothing of ours."""


@pytest.fixture
def made(made_up_run, tmp_path):
    return made_up_run(tmp_path)


def exported(made, name: str, out: Path, **options) -> Path:
    result = export(Run.open(made.run), name, out, **options)
    assert result.pictures == len(made.masks)
    assert result.problems == ()
    return out


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert sorted(found) == sorted(expected)
    for image_id, labels in expected.items():
        assert np.array_equal(found[image_id], labels), image_id
    assert any((labels == 255).any() for labels in expected.values())


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def test_voc_is_a_tree_of_palette_pngs_with_a_list(made, tmp_path):
    out = exported(made, "voc", tmp_path / "out", split="val")
    listed = (out / "ImageSets/Segmentation/val.txt").read_text().split("\n")[:-1]
    same({image_id: pixels(out / f"SegmentationClass/{image_id}.png") for image_id in listed}, made.masks)
    with Image.open(out / f"SegmentationClass/{listed[0]}.png") as image:
        palette = np.array(image.getpalette()).reshape(-1, 3)
    # The colours of the development kit: aeroplane, bicycle, bird, and the border of objects.
    assert palette[[1, 2, 3, 255]].tolist() == [[128, 0, 0], [0, 128, 0], [128, 128, 0], [224, 224, 192]]
    for image_id in listed:
        with Image.open(out / f"JPEGImages/{image_id}.jpg") as image:
            assert (image.format, image.size[::-1]) == ("JPEG", made.masks[image_id].shape)


@OWN_WARNING
def test_coco_rle_through_pycocotools(made, tmp_path, capsys):
    coco = pytest.importorskip("pycocotools.coco")
    out = exported(made, "coco-rle", tmp_path / "out")
    api = coco.COCO(out / "annotations/instances_train.json")
    label = {
        row["id"]: 255 if row["name"] == "undecided" else NAMES.index(row["name"]) + 1 for row in api.cats.values()
    }
    found = {}
    for image in api.loadImgs(api.getImgIds()):
        labels = np.zeros((image["height"], image["width"]), dtype=np.uint8)
        for row in api.imgToAnns[image["id"]]:
            mask = api.annToMask(row).astype(bool)
            assert row["area"] == mask.sum()
            y, x = np.nonzero(mask)
            assert row["bbox"] == [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
            assert not labels[mask].any()  # no overlaps
            labels[mask] = label[row["category_id"]]
        assert pixels(out / "images" / image["file_name"]).shape[:2] == labels.shape
        found[Path(image["file_name"]).stem] = labels
    same(found, made.masks)


def test_supervision_reads_coco_rle(made, tmp_path):
    supervision = pytest.importorskip("supervision")
    out = exported(made, "coco-rle", tmp_path / "out")
    data = supervision.DetectionDataset.from_coco(
        str(out / "images"), str(out / "annotations/instances_train.json"), force_masks=True
    )
    same(_from_supervision(data, made.masks), made.masks)


def test_supervision_reads_yolo_polygons(made, tmp_path):
    supervision = pytest.importorskip("supervision")
    out = exported(made, "yolo-seg", tmp_path / "out")
    data = supervision.DetectionDataset.from_yolo(
        str(out / "images/train"), str(out / "labels/train"), str(out / "data.yaml"), force_masks=True
    )
    assert data.classes == [*NAMES, "undecided"]
    same(_from_supervision(data, made.masks), made.masks)


def _from_supervision(data, expected) -> dict[str, np.ndarray]:
    value = [255 if name == "undecided" else NAMES.index(name) + 1 for name in data.classes]
    found = {}
    for path, _, detections in data:
        labels = np.zeros(expected[Path(path).stem].shape, dtype=np.uint8)
        for row, mask in enumerate(detections.mask if detections.mask is not None else ()):
            labels[mask] = value[detections.class_id[row]]
        found[Path(path).stem] = labels
    return found


@pytest.fixture
def ultralytics(monkeypatch, tmp_path):
    """The library, which asks for the version of torchvision when it is imported, and for little else of it."""
    real = metadata.version
    monkeypatch.setattr(Image, "open", Image.open)  # it replaces it by its own
    monkeypatch.setattr(metadata, "version", lambda name: "0.28.0" if name == "torchvision" else real(name))
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("ultralytics", exc_type=ImportError)


@pytest.mark.filterwarnings("ignore")
def test_ultralytics_reads_its_semantic_masks(made, tmp_path, ultralytics):
    from ultralytics.data.dataset import SemanticDataset
    from ultralytics.data.utils import check_det_dataset

    out = exported(made, "yolo-semantic", tmp_path / "out")
    data = check_det_dataset(str(out / "data.yaml"), autodownload=False)
    assert list(data["names"].values()) == ["background", *NAMES]
    read = SemanticDataset(img_path=data["train"], data=data, imgsz=64, augment=False, cache=False, task="semantic")
    found = {Path(label["im_file"]).stem: read.load_mask(number) for number, label in enumerate(read.labels)}
    same(found, made.masks)
    told("yolo-semantic by ultralytics", found, made.masks)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ultralytics_trains_its_smallest_model_on_them(made, tmp_path, ultralytics, monkeypatch):
    """One epoch from scratch. The table of results that it keeps in the checkpoint needs polars, which is left out."""
    from ultralytics.engine.trainer import BaseTrainer

    out = exported(made, "yolo-semantic", tmp_path / "out")
    monkeypatch.setattr(BaseTrainer, "read_results_csv", lambda self: {})
    model = ultralytics.YOLO("yolo26n-sem.yaml", task="semantic")
    options = {"epochs": 1, "imgsz": 64, "batch": 4, "workers": 0, "device": "cpu", "amp": False, "plots": False}
    model.train(data=str(out / "data.yaml"), project=str(tmp_path / "runs"), verbose=False, **options)
    miou = model.trainer.metrics["metrics/mIoU"]
    sys.stdout.write(f"yolo26n-sem from scratch, one epoch: mIoU {miou:.3f}\n")
    assert 0 <= miou <= 1


def test_label_studio_decodes_the_brush_masks(made, tmp_path):
    sdk = pytest.importorskip("label_studio_sdk.converter.brush", exc_type=ImportError)
    interface = pytest.importorskip("label_studio_sdk.label_interface", exc_type=ImportError)
    out = exported(made, "label-studio", tmp_path / "out")
    config = interface.LabelInterface(config=(out / "config.xml").read_text())
    assert config.get_first_tag_occurence("BrushLabels", "Image") == ("label", "image", "image")
    found = {}
    for task in json.loads((out / "tasks.json").read_text()):
        (prediction,) = task["predictions"]
        assert config.validate_prediction({**prediction, "score": 0.5}, return_errors=True) == []
        image_id = task["data"]["image_id"]
        labels = np.zeros(made.masks[image_id].shape, dtype=np.uint8)
        for region in prediction["result"]:
            alpha = sdk.decode_rle(region["value"]["rle"]).reshape(*labels.shape, 4)[..., 3]
            (name,) = region["value"]["brushlabels"]
            labels[alpha > 0] = 255 if name == "undecided" else NAMES.index(name) + 1
        found[image_id] = labels
        assert (out / task["data"]["image"].split("?d=")[1]).is_file()
    same(found, made.masks)
    told("label-studio by label_studio_sdk", found, made.masks)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.03, 0.5, 1.0])
def test_brush_masks_are_those_of_label_studio_byte_for_byte(share):
    sdk = pytest.importorskip("label_studio_sdk.converter.brush", exc_type=ImportError)
    mask = np.random.default_rng(0).random((203, 301)) < share
    theirs = sdk.mask2rle((255 * mask).astype(np.uint8))
    assert brush.encode(mask) == theirs
    assert np.array_equal(brush.decode(theirs, mask.shape), mask)


def test_a_brush_with_soft_edges_covers_what_is_half_covered():
    sdk = pytest.importorskip("label_studio_sdk.converter.brush", exc_type=ImportError)
    alpha = np.random.default_rng(0).integers(0, 256, (17, 23)).astype(np.uint8)
    assert np.array_equal(brush.decode(sdk.mask2rle(alpha), alpha.shape), alpha >= 128)


def test_fiftyone_gets_samples_with_a_segmentation(made, tmp_path):
    """The form that its importer documents; FiftyOne itself needs a MongoDB, which not every machine has."""
    out = exported(made, "fiftyone", tmp_path / "out")
    about = json.loads((out / "metadata.json").read_text())
    targets = {int(k): name for k, name in about["info"]["default_mask_targets"].items()}
    assert targets == {0: "background", 1: "cat", 2: "traffic light", 3: "dog", 255: "undecided"}
    found = {}
    for sample in json.loads((out / "samples.json").read_text())["samples"]:
        assert (out / sample["filepath"]).is_file()
        assert sample["ground_truth"]["_cls"] == "Segmentation"
        mask = out / sample["ground_truth"]["mask_path"]
        found[Path(sample["filepath"]).stem] = pixels(mask)
        with Image.open(mask) as image:
            assert image.mode == "L"  # FiftyOne reads with OpenCV, which turns a palette into colours.
    same(found, made.masks)
    told("fiftyone, by its documented form", found, made.masks)


def test_fiftyone_masks_are_numbers_as_opencv_reads_them(made, tmp_path):
    cv2 = pytest.importorskip("cv2", exc_type=ImportError)
    out = exported(made, "fiftyone", tmp_path / "out")
    masks = (out / "fields/ground_truth").iterdir()
    same({path.stem: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in masks}, made.masks)


def test_fiftyone_reads_its_dataset(made, tmp_path):
    fo = pytest.importorskip("fiftyone", exc_type=ImportError)
    out = exported(made, "fiftyone", tmp_path / "out")
    data = fo.Dataset.from_dir(dataset_dir=str(out), dataset_type=fo.types.FiftyOneDataset)
    assert data.default_mask_targets[255] == "undecided"
    same({Path(s.filepath).stem: s.ground_truth.get_mask() for s in data}, made.masks)


def told(name: str, found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Print files, pixels, and pixels that differ."""
    differ = sum(int((found[k] != labels).sum()) for k, labels in expected.items())
    count = sum(labels.size for labels in expected.values())
    sys.stdout.write(f"{name}: {len(found)} files, {count} pixels, {differ} differ\n")
    assert differ == 0


def test_yolo_without_undecided_declares_no_such_class(made, tmp_path):
    out = exported(made, "yolo-seg", tmp_path / "out", labels="decided")
    assert (out / "data.yaml").read_text().count("undecided") == 0
    for file in (out / "labels/train").iterdir():
        for line in file.read_text().splitlines():
            number, *points = line.split()
            # The form ultralytics documents: a class and at least three points in shares of width and height.
            assert int(number) < 3
            assert len(points) >= 6
            assert len(points) % 2 == 0
            assert all(0 <= float(p) <= 1 for p in points)


@pytest.mark.parametrize("read", [np.floor, np.rint])
@pytest.mark.parametrize("seed", range(8))
def test_outlines_with_holes_give_back_every_pixel(read, seed):
    import cv2

    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(1, 40), rng.integers(1, 40))) < rng.choice([0.1, 0.5, 0.9])
    filled = np.zeros(mask.shape, dtype=np.uint8)
    for ring in polygons(mask, cv2):
        one = np.zeros_like(filled)
        cv2.fillPoly(one, [read(np.array(ring) + 0.25).astype(np.int32)], 1)
        filled |= one
    assert np.array_equal(filled.astype(bool), mask)


def test_a_ring_of_pixels_stays_a_ring():
    import cv2

    ring = np.pad(np.pad(np.zeros((3, 3), dtype=bool), 2, constant_values=True), 1)
    (outline,) = polygons(ring, cv2)
    one = cv2.fillPoly(np.zeros(ring.shape, dtype=np.uint8), [np.array(outline)], 1)
    assert one.sum() == 49 - 9


def test_coco_panoptic_by_the_rule_of_its_specification(made, tmp_path):
    out = exported(made, "coco-panoptic", tmp_path / "out")
    tree = json.loads((out / "annotations/panoptic_train.json").read_text())
    names = {row["id"]: row["name"] for row in tree["categories"]}
    sizes = {row["id"]: (row["height"], row["width"]) for row in tree["images"]}
    found = {}
    for row in tree["annotations"]:
        rgb = pixels(out / "annotations/panoptic_train" / row["file_name"]).astype(int)
        segments = rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2]
        assert segments.shape == sizes[row["image_id"]]
        labels = np.full(segments.shape, 255, dtype=np.uint8)  # 0 is void
        assert set(np.unique(segments)) - {0} == {segment["id"] for segment in row["segments_info"]}
        for segment in row["segments_info"]:
            name = names[segment["category_id"]]
            labels[segments == segment["id"]] = 0 if name == "background" else NAMES.index(name) + 1
            assert segment["area"] == (segments == segment["id"]).sum()
        found[Path(row["file_name"]).stem] = labels
    same(found, made.masks)


def test_the_datasets_library_reads_the_hugging_face_folder(made, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    out = exported(made, "huggingface", tmp_path / "out")
    data = datasets.load_dataset("imagefolder", data_dir=str(out), cache_dir=str(tmp_path / "cache"))["train"]
    assert set(data.column_names) == {"image", "mask", "id"}
    found = {}
    for row in data:
        assert row["image"].size == row["mask"].size
        found[row["id"]] = np.array(row["mask"])
    same(found, made.masks)
    names = json.loads((out / "id2label.json").read_text())
    assert names == {"0": "background", "1": "cat", "2": "traffic light", "3": "dog"}


def test_plain_mmseg_reads_the_config(made, tmp_path):
    pytest.importorskip("mmseg")
    import mmseg.datasets  # noqa: F401  (fills the registries, as mmseg's own scripts do)
    from mmengine.config import Config
    from mmengine.registry import DefaultScope
    from mmseg.registry import DATASETS

    out = exported(made, "mmseg", tmp_path / "out")
    settings = Config.fromfile(out / "dataset.py").train_dataloader.dataset
    steps = settings.pipeline
    assert [step.type for step in steps][:2] == ["LoadImageFromFile", "LoadAnnotations"]
    with DefaultScope.overwrite_default_scope("mmseg"):
        assert len(DATASETS.build(settings)) == len(made.masks)
        data = DATASETS.build({**settings, "pipeline": [*steps[:2], steps[-1]]})  # without what changes pixels
        assert data.metainfo["classes"] == ("background", *NAMES)
        samples = [data[number] for number in range(len(data))]
    found = {}
    for row in samples:
        sample = row["data_samples"]
        found[Path(sample.seg_map_path).stem] = sample.gt_sem_seg.data.numpy()[0].astype(np.uint8)
        assert tuple(row["inputs"].shape[1:]) == found[Path(sample.img_path).stem].shape
    same(found, made.masks)


def test_the_config_of_mmseg_may_be_a_base(made, tmp_path):
    pytest.importorskip("mmengine")
    from mmengine.config import Config

    exported(made, "mmseg", tmp_path / "data/mine")
    (tmp_path / "train.py").write_text("_base_ = ['data/mine/dataset.py']\ntrain_dataloader = dict(batch_size=2)\n")
    loader = Config.fromfile(tmp_path / "train.py").train_dataloader
    assert loader.batch_size == 2
    assert Path(loader.dataset.data_root) == tmp_path / "data/mine"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_labelme_reads_its_files(made, tmp_path):
    """Needs PyQt5; the test below does by hand what labelme does. labelme leaves files open."""
    labelme = pytest.importorskip("labelme", exc_type=ImportError)
    out = exported(made, "labelme", tmp_path / "out")
    value = {name: number - 1 for number, name in enumerate((out / "labels.txt").read_text().splitlines())}
    found = {}
    for image_id, labels in made.masks.items():
        file = labelme.LabelFile(str(out / f"{image_id}.json"))
        numbers, _ = labelme.utils.shapes_to_label(labels.shape, file.shapes, value)
        found[image_id] = numbers.astype(np.uint8)  # labelme's own lblsave writes -1, __ignore__, as 255 likewise
    same(found, made.masks)


def test_labelme_masks_are_pasted_at_their_first_point(made, tmp_path):
    import base64
    import io

    out = exported(made, "labelme", tmp_path / "out")
    names = ["__ignore__", "_background_", *NAMES]
    assert (out / "labels.txt").read_text().splitlines() == names
    found = {}
    for image_id, expected in made.masks.items():
        tree = json.loads((out / f"{image_id}.json").read_text())
        assert (tree["imageHeight"], tree["imageWidth"], tree["imageData"]) == (*expected.shape, None)
        assert (out / tree["imagePath"]).is_file()
        labels = np.zeros(expected.shape, dtype=np.int32)
        for shape in tree["shapes"]:
            (x, y), (x2, y2) = np.array(shape["points"]).astype(int)
            mask = np.array(Image.open(io.BytesIO(base64.b64decode(shape["mask"])))).astype(bool)
            labels[y : y2 + 1, x : x2 + 1][mask] = names.index(shape["label"]) - 1
        found[image_id] = labels.astype(np.uint8)
    same(found, made.masks)


@pytest.mark.parametrize(("name", "kind"), [("cvat", "voc_segmentation"), ("voc", "voc_segmentation")])
def test_datumaro_reads_cvat_and_voc(made, tmp_path, name, kind):
    """Datumaro is what CVAT imports with; it asks for another pandas than the other tools do, so it may be missing."""
    datumaro = pytest.importorskip("datumaro", exc_type=ImportError)
    out = exported(made, name, tmp_path / "out")
    data = datumaro.Dataset.import_from(str(out), kind)
    labels = [row.name for row in data.categories()[datumaro.AnnotationType.label]]
    found = {}
    for item in data:
        canvas = np.zeros(made.masks[item.id].shape, dtype=np.uint8)
        for row in item.annotations:
            label = labels[row.label]
            value = {"background": 0, "undecided": 255}.get(label)
            canvas[np.asarray(row.image).astype(bool)] = NAMES.index(label) + 1 if value is None else value
        found[item.id] = canvas
    same(found, made.masks)


def test_cvat_declares_a_colour_for_every_label_and_packs_what_cvat_uploads(made, tmp_path):
    import zipfile

    out = exported(made, "cvat", tmp_path / "out")
    rows = [line.split(":") for line in (out / "labelmap.txt").read_text().splitlines() if line[0] != "#"]
    colours = {tuple(map(int, row[1].split(","))): row[0] for row in rows}
    assert all(len(row) == 4 for row in rows)
    assert colours[(0, 0, 0)] == "background"
    assert colours[(224, 224, 192)] == "undecided"
    with zipfile.ZipFile(out / "annotations.zip") as archive:
        assert archive.testzip() is None
        names = {f"SegmentationClass/{image_id}.png" for image_id in made.masks}
        assert set(archive.namelist()) == names | {"labelmap.txt", "ImageSets/Segmentation/default.txt"}
        found = {}
        for image_id in made.masks:
            with archive.open(f"SegmentationClass/{image_id}.png") as file, Image.open(file) as image:
                rgb = np.array(image.convert("RGB"))
            label = np.vectorize(
                lambda r, g, b: (
                    {"background": 0, "undecided": 255}.get(n := colours[(r, g, b)])
                    or (NAMES.index(n) + 1 if n in NAMES else 0)
                ),
                otypes=[np.uint8],
            )
            found[image_id] = label(rgb[..., 0], rgb[..., 1], rgb[..., 2])
    same(found, made.masks)


@pytest.mark.parametrize("name", readable())
def test_what_is_written_is_read_back(made, tmp_path, name):
    out = exported(made, name, tmp_path / "out")
    with Source(out) as source:
        read = FORMATS[name].read
        assert read is not None
        found = {i.image_id: i.read(made.masks[i.image_id].shape) for i in read(source, Names(tuple(NAMES)))}
    same(found, made.masks)
    told(f"{name}, written and read back", found, made.masks)


def test_run_lengths_as_the_coco_api_documents_them():
    # The two examples of its description, one row each; pycocotools' own text of them.
    api = pytest.importorskip("pycocotools.mask")
    for row, counts in (([0, 0, 1, 1, 1, 0, 1], [2, 3, 1, 1]), ([1, 1, 1, 1, 1, 1, 0], [0, 6, 1])):
        mask = np.array([row], dtype=bool)
        assert np.array_equal(rle.decode(counts, (1, 7)), mask)
        assert rle.encode(mask) == api.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.03, 0.5, 1.0])
def test_run_lengths_are_those_of_pycocotools(share):
    api = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(7)
    for size in ((1, 1), (3, 1), (97, 201), (1200, 700)):
        mask = rng.random(size) < share
        text = rle.encode(mask)
        assert text == api.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        assert np.array_equal(rle.decode(text, size), mask)


def test_pictures_that_others_would_see_differently_are_written_again(made, tmp_path):
    out = exported(made, "labelme", tmp_path / "out")
    kept, again = [], []
    for source in made.images.iterdir():
        (placed,) = [path for path in out.iterdir() if path.stem == source.stem and path.suffix != ".json"]
        (kept if placed.read_bytes() == source.read_bytes() else again).append(source.stem.split(".")[1])
        seen = look_at(source, ImageConfig()).rgb
        assert np.array_equal(np.array(Image.open(placed).convert("RGB")), seen)
    assert sorted(kept) == ["grey", "plain", "plain"]
    assert sorted(again) == ["alpha", "cmyk", "deep", "turned", "web"]


def test_links_take_no_space_and_copies_are_files_of_their_own(made, tmp_path):
    source = made.images / "000.plain.jpg"
    linked = exported(made, "labelme", tmp_path / "linked") / "000.plain.jpg"
    copied = exported(made, "labelme", tmp_path / "copied", pictures="copy") / "000.plain.jpg"
    assert linked.samefile(source)
    assert not copied.samefile(source)
    assert copied.read_bytes() == source.read_bytes()


@OWN_WARNING
def test_coco_keeps_its_own_category_ids_and_numbers(made_up_coco, tmp_path, capsys):
    coco = pytest.importorskip("pycocotools.coco")
    run, truth, original = _coco_run(made_up_coco, tmp_path, 30)
    out = tmp_path / "out"
    assert main(["export", str(run), "--format", "coco-rle", "--out", str(out), "--pictures", "none"]) == 0
    _compare_with_original(coco.COCO(out / "annotations/instances_train.json"), coco.COCO(original), truth)


@OWN_WARNING
@pytest.mark.slow
def test_a_thousand_coco_pictures_keep_their_category_ids(made_up_coco, tmp_path, capsys):
    coco = pytest.importorskip("pycocotools.coco")
    run, truth, original = _coco_run(made_up_coco, tmp_path, 1000)
    out = tmp_path / "out"
    arguments = ["export", str(run), "--format", "coco-rle", "--out", str(out)]
    assert main([*arguments, "--images", str(tmp_path / "coco/train2014")]) == 0
    assert len(list((out / "images").iterdir())) == 1000
    _compare_with_original(coco.COCO(out / "annotations/instances_train.json"), coco.COCO(original), truth)


def _coco_run(made_up_coco, root: Path, count: int):
    """A run whose masks are the truth of a made-up COCO; pictures without objects have masks too."""
    from clip_es.store.run import RunStore
    from clip_es.types import ImageRecord, PseudoMask

    made = made_up_coco(root / "coco", count)
    with RunStore.open(root / "run", {}, about={"vocabulary": "coco14"}) as store:
        for image_id, labels in made.truth.items():
            decided = np.where(labels == 255, np.uint8(0), labels)
            confidence = (labels != 255).astype(np.float32)
            record = ImageRecord(image_id, root, tuple(range(80)))
            store.save(record, PseudoMask(labels, confidence, record.class_ids, decided))
    return root / "run", made.truth, made.annotations


def _compare_with_original(api, original, truth) -> None:
    ids = sorted(original.cats)
    assert (min(ids), max(ids), len(ids)) == (1, 90, 80)
    assert {k: v["name"] for k, v in api.cats.items() if k <= 90}.keys() == set(ids)
    names = {image_id: number for number, image_id in ((k, Path(v["file_name"]).stem) for k, v in api.imgs.items())}
    stems = {
        image_id: number for number, image_id in ((k, Path(v["file_name"]).stem) for k, v in original.imgs.items())
    }
    assert names == {image_id: stems[image_id] for image_id in truth}
    for image_id, labels in truth.items():
        rows = api.imgToAnns[names[image_id]]
        assert {row["category_id"] for row in rows} == {255 if k == 255 else ids[k - 1] for k in np.unique(labels) if k}
        canvas = np.zeros_like(labels)
        for row in rows:
            k = row["category_id"]
            canvas[api.annToMask(row).astype(bool)] = 255 if k == 255 else ids.index(k) + 1
        assert np.array_equal(canvas, labels)


def test_x_anylabeling_fills_its_shapes_as_its_own_export_does(tmp_path):
    """Polygons as `custom_to_mask` of X-AnyLabeling 4.2.1: corners cut off to whole pixels, borders included."""
    pytest.importorskip("cv2")
    corners = [[1.9, 1.2], [4.0, 1.0], [4.5, 3.9], [1.0, 3.0]]

    def read(*shapes: dict) -> np.ndarray:
        tree = {"version": "4.2.1", "shapes": shapes, "imagePath": "a.png", "imageHeight": 6, "imageWidth": 7}
        (tmp_path / "a.json").write_text(json.dumps(tree))
        with Source(tmp_path / "a.json") as source:
            (incoming,) = FORMATS["x-anylabeling"].read(source, Names(("cat", "dog")))
            return incoming.read((6, 7))

    expected = np.zeros((6, 7), np.uint8)
    expected[1:4, 1:5] = 1
    for kind in ("polygon", "rectangle", "rotation", "quadrilateral"):
        np.testing.assert_array_equal(read({"label": "cat", "points": corners, "shape_type": kind}), expected)
    assert read({"label": "dog", "points": [[3, 3], [3, 4]], "shape_type": "circle"}).sum() == 2 * 5
    outside = read({"label": "cat", "points": [[-5, -5], [13, -5], [13, 11], [-5, 11]], "shape_type": "polygon"})
    assert (outside == 1).all()
    assert (read({"label": "undecided", "points": [[2, 2]] * 3, "shape_type": "polygon"}) == 255).sum() == 1
    for shape, says in (
        ({"label": "cat", "points": [[0, 0], [1, 1]], "shape_type": "mask"}, "pass --format labelme"),
        ({"label": "cat", "points": [[0, 0], [1, 1]], "shape_type": "line"}, "covers no region"),
        ({"label": "cat", "points": [[0, 0], [1, 1]], "shape_type": "polygon"}, "3 points or more"),
    ):
        with pytest.raises(DataError, match=says):
            read(shape)
