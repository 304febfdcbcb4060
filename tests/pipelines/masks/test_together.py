"""Several pictures at once: the same masks as one by one; and on a GPU that computes nothing, few operations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_gpu import FakeGpu, to_fake_gpu
from torch import nn

from clip_es import MaskMaker
from clip_es.config.run import DEFAULT, CrfConfig, MaskConfig, RunConfig
from clip_es.errors import DataError, ShapeError
from clip_es.masks import decide, decide_together
from clip_es.pipelines.masks.method import masks
from clip_es.pipelines.masks.together import Batches, batches_of
from clip_es.pipelines.parallel.executor import Executor, Failure
from clip_es.types import ClassMaps, ImageRecord

TORCH = DEFAULT.using(crf=CrfConfig(backend="torch"))
LABELS = ((0,), (1, 3), (2,), (4, 0, 5))


def records(count: int, size_hw: tuple[int, int] = (64, 80)) -> list[ImageRecord]:
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, 8, 10, 3), dtype=np.uint8)
    pictures = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, : size_hw[0], : size_hw[1]]
    return [
        ImageRecord(f"p{number}", Path(f"p{number}"), LABELS[number % len(LABELS)], image=picture)
        for number, picture in enumerate(pictures)
    ]


def on_the_cpu(maker: MaskMaker, many: Batches | None = None) -> MaskMaker:
    """The maker, made to do here what it does on a GPU."""
    batches = many or batches_of(maker, maker._many)

    class Elsewhere(MaskMaker):
        together = batches

    maker.__class__ = Elsewhere
    return maker


@pytest.fixture(scope="module")
def alone():
    maker = MaskMaker.load(config=TORCH, device="cpu")
    return {record.image_id: result for record, result in masks(records(6), maker, Executor())}


def agree(found, alone) -> None:
    for record, result in found:
        other = alone[record.image_id]
        assert result.mask.class_ids == other.mask.class_ids
        assert (result.mask.labels != other.mask.labels).mean() <= 0.001, "measured: none"
        np.testing.assert_allclose(result.mask.confidence, other.mask.confidence, atol=2e-3)
        torch.testing.assert_close(result.refined.maps.scores, other.refined.maps.scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(result.maps.scores, other.maps.scores, atol=2e-3, rtol=0)


@pytest.mark.parametrize("decides", [True, False])
def test_pictures_that_go_together_get_the_masks_of_each_alone(decides, alone):
    maker = MaskMaker.load(config=TORCH, device="cpu")
    many = batches_of(maker, maker._many)
    assert many is not None
    assert many.decides
    found = list(masks(records(6), on_the_cpu(maker, replace(many, decides=decides)), Executor(), batch_size=4))
    assert len(found) == 6
    agree(found, alone)


def test_on_a_cpu_pictures_stay_one_by_one():
    assert MaskMaker.load(config=TORCH, device="cpu").together is None


def test_one_picture_that_fails_is_the_only_one_lost(alone):
    flawed = records(6)
    flawed[1] = replace(flawed[1], class_ids=())
    failures: list[Failure] = []
    maker = on_the_cpu(MaskMaker.load(config=TORCH, device="cpu"))
    found = list(masks(flawed, maker, Executor(failures.append), batch_size=4))
    assert [(one.record.image_id, one.stage, type(one.error)) for one in failures] == [("p1", "localize", DataError)]
    assert len(found) == 5
    agree(found, alone)


def test_pictures_of_one_grid_and_several_sizes_are_decided_by_size(alone):
    maker = on_the_cpu(MaskMaker.load(config=TORCH, device="cpu"))
    mixed = [*records(6)[:3], *(replace(one, image_id=f"small {one.image_id}") for one in records(3, (60, 77)))]
    found = {record.image_id: result for record, result in masks(mixed, maker, Executor(), batch_size=8)}
    assert {result.mask.labels.shape for result in found.values()} == {(64, 80), (60, 77)}
    agree([(one, found[one.image_id]) for one in mixed[:3]], alone)


@pytest.mark.parametrize("config", [MaskConfig(), MaskConfig(threshold=0.5)])
def test_masks_decided_together_are_those_of_each_alone(config):
    random = torch.manual_seed(0)
    probabilities = torch.rand(3, 4, 5, 6, generator=random).softmax(1)
    ids = [(7, 2, 253), (0,), (4, 9)]
    for own, one in zip(probabilities, ids, strict=True):
        own[1 + len(one) :] = 0
    for own, one, found in zip(probabilities, ids, decide_together(probabilities, ids, config), strict=True):
        wanted = decide((5, 6), ClassMaps(own[1 : 1 + len(one)], one, background=own[0]), config)
        assert np.array_equal(found.labels, wanted.labels)
        assert np.array_equal(found.decided, wanted.decided)
        assert np.array_equal(found.confidence, wanted.confidence)


def test_probabilities_that_are_none_are_refused():
    with pytest.raises(ShapeError, match=r"\[0, 1\]"):
        decide_together(torch.full((1, 2, 3, 3), torch.nan), [(0,)], MaskConfig())
    with pytest.raises(ShapeError, match="8-bit"):
        decide_together(torch.zeros(1, 2, 3, 3), [(254,)], MaskConfig())


# a GPU that computes nothing


@pytest.fixture
def put_on_gpu(monkeypatch):
    def put(maker: MaskMaker) -> MaskMaker:
        assert maker.encoder.logit_scale > 1  # read once from any device
        with FakeGpu(), monkeypatch.context() as patch:
            patch.setattr(nn.Module, "to", to_fake_gpu)
            maker.to("cuda")
        assert maker.encoder.device.type == "cuda"
        return maker

    return put


def through(maker: MaskMaker, count: int) -> tuple[FakeGpu, FakeGpu, FakeGpu]:
    """What the GPU is asked by the encoder, by what follows on the grid, and by the rest."""
    pictures = [maker.read(record) for record in records(count)]
    ids = [record.class_ids for record in records(count)]
    with FakeGpu() as first:
        seen = maker.encode(pictures)
    assert all(one.tokens.device.type == "cuda" for one in seen)
    many = maker.together
    with FakeGpu() as second:
        if many:
            refined = many.refine(many.locate(list(zip(pictures, seen, ids, strict=True))))
        else:
            refined = [maker.refine(maker.locate(*one)) for one in zip(pictures, seen, ids, strict=True)]
    with FakeGpu() as third:
        made = many.decide(refined) if many and many.decides else [maker.decide(one) for one in refined]
    assert [one.mask.labels.shape for one in made] == [(64, 80)] * count
    return first, second, third


def test_sixteen_pictures_ask_a_gpu_for_few_operations(put_on_gpu):
    _, grid, crf = through(put_on_gpu(MaskMaker.load(config=TORCH, device="cpu")), 16)
    assert sum(grid.operations.values()) / 16 < 25
    assert sum(grid.reads.values()) == 0
    assert sum(crf.operations.values()) / 16 < 100
    # The number of vertices of a lattice (that of the Gaussian term is kept), and the masks.
    assert crf.reads["copy to the CPU"] == 1
    assert crf.reads["one value"] <= 2


def test_where_the_cpu_does_the_crf_all_is_read_at_once(put_on_gpu):
    maker = put_on_gpu(MaskMaker.load(config=replace(TORCH, refine=("affinity",)), device="cpu"))
    _, grid, rest = through(maker, 16)
    assert sum(grid.operations.values()) / 16 < 25
    assert dict(grid.reads) == {"copy to the CPU": 1}
    assert not rest.operations


OTHERS = {
    "spectral": replace(TORCH, refine=("affinity", "spectral", "crf")),
    "words": TORCH.using(affinity=replace(TORCH.refiners.affinity, kind="words")),
    "views": replace(TORCH, views=replace(TORCH.views, scales=(1.0, 1.5), flip=True)),
    "cliper": replace(TORCH, method="cliper"),
    "clipseg": replace(TORCH, method="clipseg"),
    "patch-text": replace(TORCH, method="patch-text", refine=("crf",)),
    "joint": replace(TORCH, method="joint", refine=("crf",)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_tensor_of_every_method_is_on_the_gpu(name, put_on_gpu):
    config: RunConfig = OTHERS[name]
    first, grid, rest = through(put_on_gpu(MaskMaker.load(config=config, device="cpu")), 2)
    assert first.operations
    assert grid.operations
    assert rest.operations


def test_texts_are_encoded_on_the_gpu(put_on_gpu):
    encoder = put_on_gpu(MaskMaker.load(config=TORCH, device="cpu")).encoder
    with FakeGpu() as gpu:
        vectors = encoder.encode_text(["a photo of a cat", "a dog"])
    assert vectors.device.type == "cuda"
    assert gpu.operations["addmm"] > 0
