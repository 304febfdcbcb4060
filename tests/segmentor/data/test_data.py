"""Pictures, masks and confidence on their way to the loss."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from clip_es.errors import ConfigError, DataError
from clip_es.masks import write_confidence, write_mask
from clip_es.segmentor import prepare
from clip_es.segmentor.data.check import check_pairs
from clip_es.segmentor.data.pairs import find_pairs

pytest.importorskip("mmseg")


CLASSES = ("background", "left", "right")


@pytest.fixture
def folder(tmp_path, tiny_training):
    return tiny_training.make_run(tmp_path / "data")


def build(pipeline=(), **source):
    prepare()
    from mmengine.registry import init_default_scope
    from mmseg.registry import DATASETS

    init_default_scope("mmseg")
    steps = [{"type": "LoadImageFromFile"}, {"type": "LoadPseudoMask"}, *pipeline, {"type": "PackPseudoMask"}]
    source = {name: str(value) for name, value in source.items()}
    return DATASETS.build({"type": "PseudoMaskDataset", "metainfo": {"classes": CLASSES}, "pipeline": steps, **source})


def maps(item):
    sample = item["data_samples"]
    return sample.gt_sem_seg.data[0], sample.gt_confidence.data[0]


def test_a_run_gives_labels_before_the_255_rule_with_their_confidence(folder):
    data = build(run=folder / "run")
    labels, confidence = maps(data[0])
    assert len(data) == 6
    assert labels.shape == (40, 48)
    assert sorted(labels.unique().tolist()) == [0, 1, 2]
    assert sorted(confidence.unique().tolist()) == [230, 255]
    assert data.metainfo["classes"] == CLASSES
    assert data.metainfo["palette"] == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]


def test_labels_and_confidence_stay_together_through_resize_crop_flip_and_padding(folder):
    """Confidence is made a function of the label, so any pixel that got another one shows."""
    for i in range(6):
        labels = np.random.default_rng(i).integers(0, 3, (40, 48)).astype(np.uint8)
        write_mask(folder / "run" / "labels" / f"p{i}.png", labels)
        write_confidence(folder / "run" / "confidence" / f"p{i}.png", (0.2 + 0.3 * labels).astype(np.float32))
    data = build(
        [
            {"type": "RandomResize", "scale": (60, 60), "ratio_range": (0.5, 2.0), "keep_ratio": True},
            {"type": "RandomCrop", "crop_size": (32, 32), "cat_max_ratio": 0.75},
            {"type": "RandomFlip", "prob": 0.5},
            {"type": "PhotoMetricDistortion"},
            {"type": "RandomRotate", "prob": 0.5, "degree": 30},
            {"type": "Pad", "size": (36, 36)},
        ],
        run=folder / "run",
    )
    known = {0: 51, 1: 128, 2: 204, 255: 0}
    seen = set()
    for i in range(24):
        labels, confidence = maps(data[i % 6])
        assert labels.shape == confidence.shape == (36, 36)
        for label in labels.unique().tolist():
            assert confidence[labels == label].unique().tolist() == [known[label]]
            seen.add(label)
    assert seen == set(known)


def test_the_batch_of_the_model_pads_confidence_as_it_pads_labels():
    prepare()
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    from clip_es.segmentor.models.heads import batch_confidence

    sample = SegDataSample()
    sample.gt_sem_seg = PixelData(data=torch.full((1, 3, 4), 255))
    sample.set_data({"gt_confidence": PixelData(data=torch.full((1, 2, 2), 51, dtype=torch.uint8))})
    found = batch_confidence([sample])
    wanted = torch.tensor([[0.2, 0.2, 0, 0], [0.2, 0.2, 0, 0], [0, 0, 0, 0]])[None]
    torch.testing.assert_close(found, wanted)
    assert batch_confidence([SegDataSample()]) is None


def test_a_folder_of_masks_alone_has_no_confidence(folder):
    data = build(masks=folder / "truth", images=folder / "images")
    assert "gt_confidence" not in data[3]["data_samples"]
    assert sorted(data[3]["data_samples"].gt_sem_seg.data.unique().tolist()) == [0, 1, 2]


def test_a_list_chooses_and_orders(folder, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("p4\np1\n")
    found = find_pairs(run=folder / "run", list_file=listed)
    assert [pair.image_id for pair in found] == ["p4", "p1"]


def test_pictures_of_sub_folders_have_their_joined_names(folder):
    (folder / "images" / "a").mkdir()
    (folder / "images" / "p0.png").rename(folder / "images" / "a" / "b.png")
    for part in ("labels", "confidence"):
        (folder / "run" / part / "p0.png").rename(folder / "run" / part / "a__b.png")
    assert find_pairs(run=folder / "run")[0].image == folder / "images" / "a" / "b.png"


def test_a_run_may_name_its_pictures_by_a_list_of_folders(folder):
    """As `clip-es predict --confidence` writes it."""
    (folder / "more").mkdir()
    (folder / "images" / "p0.png").rename(folder / "more" / "p0.png")
    run_yaml = folder / "run" / "run.yaml"
    about = {"images": [str(folder / "images"), str(folder / "more")]}
    run_yaml.write_text(yaml.safe_dump({"about": about}))
    assert [pair.image.parent.name for pair in find_pairs(run=folder / "run")] == ["more"] + 5 * ["images"]


def test_the_folder_a_run_names_may_lie_deeper_than_the_one_it_was_given(folder):
    """All pictures lay in one sub-folder `a` of --images, so the run names that one, and its ids begin with `a__`."""
    (folder / "images").rename(folder / "a")
    for part in ("labels", "confidence"):
        for path in list((folder / "run" / part).glob("*.png")):
            path.rename(path.with_name(f"a__{path.name}"))
    assert find_pairs(run=folder / "run", images=folder / "a")[0].image == folder / "a" / "p0.png"


def test_what_is_missing_is_named(folder, tmp_path):
    (folder / "run" / "confidence" / "p2.png").unlink()
    with pytest.raises(DataError, match=r"p2\.png: the mask has no confidence"):
        find_pairs(run=folder / "run")
    (folder / "images" / "p0.png").unlink()
    with pytest.raises(DataError, match=r"p0\.png: the mask has no picture"):
        find_pairs(masks=folder / "truth", images=folder / "images")
    listed = tmp_path / "list.txt"
    listed.write_text("nobody\n")
    with pytest.raises(DataError, match="'nobody', which has no mask"):
        find_pairs(run=folder / "run", list_file=listed)
    listed.write_text("\n")
    with pytest.raises(DataError, match="an empty split"):
        find_pairs(run=folder / "run", list_file=listed)
    with pytest.raises(DataError, match="is not the folder of a run"):
        find_pairs(run=folder)
    with pytest.raises(ConfigError, match=r"the folder of the pictures is not known.* --images DIR"):
        find_pairs(masks=folder / "truth")
    with pytest.raises(ConfigError, match="one of two"):
        find_pairs()


def test_a_mask_of_another_size_or_with_a_strange_label_is_found_before_and_while_reading(folder):
    write_mask(folder / "run" / "labels" / "p1.png", np.zeros((40, 47), dtype=np.uint8))
    write_mask(folder / "run" / "labels" / "p3.png", np.full((40, 48), 9, dtype=np.uint8))
    write_confidence(folder / "run" / "confidence" / "p4.png", np.zeros((2, 2), dtype=np.float32))
    (folder / "images" / "p5.png").write_bytes(b"no picture")
    found = [(kind, Path(file).name, detail) for kind, file, detail in check_pairs(find_pairs(run=folder / "run"), 3)]
    assert [(kind, name) for kind, name, _ in found] == [
        ("size", "p1.png"),
        ("size", "p1.png"),
        ("label", "p3.png"),
        ("size", "p4.png"),
        ("picture", "p5.png"),
    ]
    assert found[0][2] == "40 x 48, labels/ 40 x 47"
    assert found[1][2].startswith("40 x 47, its picture ")
    assert found[2][2] == "label 9; expected 0..2"
    assert found[3][2] == "2 x 2, labels/ 40 x 48"
    data = build(run=folder / "run")
    with pytest.raises(DataError, match=r"p1\.png: is of another size than its picture"):
        data[1]
    with pytest.raises(DataError, match=r"p3\.png: the mask holds a label .* Found 9"):
        data[3]


def test_exif_orientation_counts_in_sizes(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((48, 40, 3), dtype=np.uint8)).save(folder / "images" / "p0.jpg", exif=exif)
    (folder / "images" / "p0.png").unlink()
    assert check_pairs(find_pairs(run=folder / "run"), 3) == []
    assert build(run=folder / "run")[0]["inputs"].shape == (3, 40, 48)


def test_a_data_set_without_classes_is_refused(folder):
    prepare()
    from clip_es.segmentor.data.dataset import PseudoMaskDataset

    with pytest.raises(ConfigError, match="does not know its classes"):
        PseudoMaskDataset(run=str(folder / "run"))


def test_without_mmsegmentation_the_extra_is_named(monkeypatch):
    import sys

    from clip_es.segmentor.training import compat

    monkeypatch.setitem(sys.modules, "mmcv", None)
    with pytest.raises(ConfigError, match=r"extra `segmentor`.*pip install 'clip-es\[segmentor\]'"):
        compat.prepare.__wrapped__()


def test_checkpoints_with_an_miou_are_read_without_unpickling(tmp_path, recwarn):
    """Fails on the day mmengine trusts float32 itself: then `compat.trusted` may go."""
    prepare()
    from mmengine.logging import HistoryBuffer
    from mmengine.runner.checkpoint import CheckpointLoader, get_torch_safe_globals

    from clip_es.segmentor.training.compat import trusted

    history = HistoryBuffer()
    history.update(0.5)
    torch.save({"message_hub": {"mIoU": history, "best": np.float32(0.5)}}, tmp_path / "iter_1.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = CheckpointLoader.load_checkpoint(str(tmp_path / "iter_1.pth"))
    assert found["message_hub"]["best"] == np.float32(0.5)
    assert trusted() == [type(np.dtype("f4"))]
    assert type(np.dtype("f4")) not in get_torch_safe_globals()
