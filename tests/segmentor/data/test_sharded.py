"""A training reads shards where they lie, on a disk and on object storage, and sees what a folder would give."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from made_up_shards import CLASSES, make_shards, mask_of, records_in

from clip_es.errors import ConfigError, DataError
from clip_es.segmentor import prepare
from clip_es.segmentor.data.check import check_pairs
from clip_es.segmentor.data.pairs import find_pairs
from clip_es.storage import place_of
from clip_es.store.shards import manifest

pytest.importorskip("mmseg")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the server's own code

STEPS = [{"type": "LoadImageFromFile"}, {"type": "LoadPseudoMask"}, {"type": "PackPseudoMask"}]


def dataset(**source):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepare()
        from mmengine.registry import init_default_scope
        from mmseg.registry import DATASETS

        init_default_scope("mmseg")
        meta = {"classes": ("background", *CLASSES)}
        return DATASETS.build({"type": "PseudoMaskDataset", "metainfo": meta, "pipeline": STEPS, **source})


@pytest.fixture(params=["webdataset", "parquet", "s3"])
def run(request, tmp_path):
    """A run in shards that carry their pictures: its place, and its records."""
    records = records_in(tmp_path / "in", 7, draw=True)
    out = Path(f"{request.getfixturevalue('bucket')}/{tmp_path.name}") if request.param == "s3" else tmp_path / "out"
    form = "parquet" if request.param == "parquet" else "webdataset"
    make_shards(place_of(out), records, form, size=3, pictures=True)
    return out, records


def test_pictures_masks_and_confidence_come_out_of_the_shards(run):
    out, records = run
    found = dataset(run=str(out))
    assert len(found) == 7
    for number in (6, 0, 3):
        sample, wanted = found[number], mask_of(records[number])
        assert sample["inputs"].shape == (3, 24, 32)
        assert int(sample["inputs"][0, 0, 0]) == number
        assert np.array_equal(sample["data_samples"].gt_sem_seg.data[0].numpy(), wanted.decided)
        sure = sample["data_samples"].gt_confidence.data[0].numpy()
        assert np.array_equal(sure, np.rint(255 * wanted.confidence).astype(np.uint8))
    assert check_pairs(find_pairs(run=out), 4) == []
    assert {trouble.kind for trouble in check_pairs(find_pairs(run=out), 3)} == {"label"}


def test_pictures_may_lie_beside_the_shards(tmp_path):
    records = records_in(tmp_path / "in", 4, draw=True)
    make_shards(tmp_path / "out", records)
    pairs = find_pairs(run=tmp_path / "out")
    assert [pair.image for pair in pairs] == [record.path for record in records]
    assert int(dataset(run=str(tmp_path / "out"))[2]["inputs"][0, 0, 0]) == 2
    records[1].path.unlink()
    with pytest.raises(DataError, match="has no picture"):
        find_pairs(run=tmp_path / "out")
    (tmp_path / "list.txt").write_text("p.003\np.000\n")
    listed = find_pairs(run=tmp_path / "out", list_file=tmp_path / "list.txt")
    assert [pair.image_id for pair in listed] == ["p.003", "p.000"]
    (tmp_path / "list.txt").write_text("p.999\n")
    with pytest.raises(DataError, match="no shard has"):
        find_pairs(run=tmp_path / "out", list_file=tmp_path / "list.txt")


def test_what_is_missing_is_told_before_a_training(tmp_path):
    records = records_in(tmp_path / "in", 4, draw=True)
    make_shards(tmp_path / "out", records, pictures=True)
    (entry,) = manifest.entries(place_of(tmp_path / "out"))
    assert isinstance(entry, manifest.Entry)
    data = (tmp_path / "out" / entry.file).read_bytes()
    (tmp_path / "out" / entry.file).write_bytes(data[:9000])
    kinds = [trouble.kind for trouble in check_pairs(find_pairs(run=tmp_path / "out"), 4)]
    assert set(kinds) == {"damaged", "picture"}
    (tmp_path / "out" / entry.path).write_text("{}")
    with pytest.raises(DataError, match="no entry of a manifest"):
        find_pairs(run=tmp_path / "out")
    (tmp_path / "out" / "run.yaml").unlink()
    with pytest.raises((ConfigError, DataError)):
        find_pairs(run=tmp_path / "out")
