"""The configs that have a name: complete, consistent with the vocabularies, buildable at full size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clip_es.errors import ConfigError
from clip_es.prompts import load_vocabulary
from clip_es.segmentor.training.launch import TrainData, TrainSettings, build_config, config_names, load_config, train

pytest.importorskip("mmseg")
pytestmark = pytest.mark.filterwarnings("ignore")

VOCABULARY = {"scenes": "scenes", "voc": "voc12", "coco": "coco14"}


def classes(name: str) -> tuple[str, ...]:
    return ("background", *load_vocabulary(name).names)


def build(cfg):
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    init_default_scope("mmseg")
    return MODELS.build(cfg.model)


def test_configs_with_a_name_are_those_that_are_no_mere_parts():
    assert config_names() == [
        "deeplabv2_cagnet_voc",
        "deeplabv2_r101_coco",
        "deeplabv2_r101_voc",
        "deeplabv3plus_r50_voc",
        "scenes_small",
        "segformer_b2_voc",
    ]


@pytest.mark.parametrize("name", config_names())
def test_classes_are_those_of_the_vocabulary_and_the_loss_is_the_papers(name):
    cfg = load_config(name)
    vocabulary = next(v for part, v in VOCABULARY.items() if part in name.split("_"))
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.type == "PseudoMaskDataset"
        assert tuple(loader.dataset.metainfo.classes) == classes(vocabulary)
    assert cfg.model.decode_head.num_classes == len(classes(vocabulary))
    loss = cfg.model.decode_head.loss_decode
    assert (loss.type, loss.mode, loss.threshold) == ("ConfidenceGuidedLoss", "hard", 0.95)
    assert cfg.default_hooks.checkpoint.type == "WholeCheckpointHook"
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters


def test_the_papers_rates_stand_in_its_config():
    voc, coco = load_config("deeplabv2_r101_voc"), load_config("deeplabv2_r101_coco")
    assert voc.optim_wrapper.optimizer.lr == 2e-4
    assert (voc.train_cfg.max_iters, voc.train_dataloader.batch_size) == (20000, 10)
    assert (coco.train_cfg.max_iters, coco.model.decode_head.num_classes) == (100000, 81)
    assert coco.model.backbone.depth == 101


def test_the_head_of_deeplab_v2_is_the_sum_of_its_branches():
    from clip_es.segmentor import prepare

    prepare()
    from clip_es.segmentor.models.heads import DeepLabV2Head

    head = DeepLabV2Head(in_channels=4, num_classes=3, in_index=0, dilations=(1, 2))
    head.init_weights()
    x = torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    by_hand = head.branches[0](x) + head.branches[1](x)
    torch.testing.assert_close(head((x,)), by_hand)
    assert by_hand.shape == (1, 3, 5, 6)
    assert {name.split(".")[0] for name, _ in head.named_parameters()} == {"branches"}
    assert float(head.branches[0].bias.abs().max()) == 0


def test_the_classifier_learns_ten_times_as_fast_and_its_bias_twenty():
    cfg = load_config("deeplabv2_r101_voc")
    cfg.model.backbone.depth = 50
    cfg.model.pretrained = None
    from mmengine.optim import build_optim_wrapper

    model = build(cfg)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(group["params"][0])]: group["lr"] / 2e-4 for group in wrapper.optimizer.param_groups}
    assert rates["decode_head.branches.3.weight"] == pytest.approx(10)
    assert rates["decode_head.branches.3.bias"] == pytest.approx(20)
    assert rates["backbone.layer4.2.conv3.weight"] == pytest.approx(1)


def test_a_frozen_clip_sees_the_picture_in_two_grids_and_is_not_trained():
    model = build(load_config("scenes_small"))
    maps = model.backbone(torch.zeros(1, 3, 64, 96))
    assert [tuple(part.shape) for part in maps] == [(1, 48, 16, 24), (1, 192, 4, 6), (1, 192, 4, 6)]
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name in trained if "tower" in name]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) < 80_000
    enlarged = model.backbone(torch.zeros(1, 3, 60, 96))
    assert [tuple(part.shape) for part in enlarged] == [tuple(part.shape) for part in maps]


def test_the_last_map_of_a_frozen_clip_is_the_towers_own_output():
    from clip_es.segmentor import prepare

    prepare()
    from clip_es.segmentor.models.clip_backbone import FrozenClip

    backbone = FrozenClip(blocks=(4,)).eval()
    pixels = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    wanted = backbone.tower(pixels)[:, 1:]
    torch.testing.assert_close(backbone(pixels)[1].flatten(2).transpose(1, 2), wanted)
    with pytest.raises(ConfigError, match=r"no such block. Expected some of 1\.\.4"):
        FrozenClip(blocks=(5,))


def test_every_config_takes_a_run_of_other_classes(tmp_path, tiny_training):
    folder = tiny_training.make_run(tmp_path / "data")
    for name in config_names():
        settings = TrainSettings(config=name, scratch=True)
        cfg = build_config(settings, tiny_training.train_data(folder), tmp_path / "out")
        assert cfg.model.decode_head.num_classes == 3
        assert "pretrained" not in cfg.model
        assert "init_cfg" not in cfg.model.backbone
        assert cfg.val_dataloader.dataset.masks == str(folder / "truth")


def test_a_schedule_can_be_squeezed_into_one_iteration(tmp_path, tiny_training):
    folder = tiny_training.make_run(tmp_path / "data")
    cfg = build_config(
        TrainSettings(config="segformer_b2_voc", iterations=1), tiny_training.train_data(folder), tmp_path
    )
    assert [(part.begin, part.end) for part in cfg.param_scheduler] == [(0, 1), (0, 1)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_papers_config_trains_at_full_size(tmp_path):
    """ResNet-101, crops of 321 x 321, 21 classes, from random weights; two iterations of a picture."""
    from PIL import Image

    from clip_es.masks import write_mask

    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    rng = np.random.default_rng(0)
    for i in range(2):
        Image.fromarray(rng.integers(0, 256, (375, 500, 3)).astype(np.uint8)).save(tmp_path / "images" / f"{i}.jpg")
        labels = np.zeros((375, 500), dtype=np.uint8)
        labels[100:300, 100:400] = 20 - i
        write_mask(tmp_path / "masks" / f"{i}.png", labels)
    settings = TrainSettings(
        config="deeplabv2_r101_voc", loss="plain", scratch=True, iterations=2, batch_size=1, workers=0
    )
    data = TrainData(classes=classes("voc12"), masks=tmp_path / "masks", images=tmp_path / "images")
    losses = []
    result = train(settings, data, tmp_path / "out", tell=lambda i, n, loss, miou: losses.append(loss))
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    state = torch.load(result.model, weights_only=True)["state_dict"]
    assert state["decode_head.branches.0.weight"].shape == (21, 2048, 3, 3)
    assert sum(value.numel() for name, value in state.items() if "running" not in name) > 40_000_000
    assert Path(result.model).stat().st_size > 160_000_000


def test_a_clip_beside_any_backbone_sees_the_same_pixels():
    from clip_es.segmentor import prepare

    prepare()
    from clip_es.segmentor.models.clip_backbone import FrozenClip, WithClip

    inner = {"type": "mmseg.ResNet", "depth": 18, "base_channels": 4, "stem_channels": 4}
    rgb = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(2)) * 255
    mean, std = torch.tensor(FrozenClip.MEAN)[:, None, None], torch.tensor(FrozenClip.STD)[:, None, None]
    expected = FrozenClip(blocks=(4,), project=True).eval()((rgb - mean) / std)[-1]
    caffe = torch.tensor((104.0, 117.0, 123.0))  # BGR, not divided
    maps = WithClip(inner, "scenes", caffe.tolist(), (1.0, 1.0, 1.0), rgb=False).eval()(
        rgb.flip(1) - caffe[:, None, None]
    )
    assert len(maps) == 5
    torch.testing.assert_close(maps[-1], expected, atol=1e-4, rtol=1e-4)
    told = WithClip(inner, "scenes", (120.0, 110.0, 100.0), (50.0, 60.0, 70.0)).eval()
    pixels = (rgb - torch.tensor((120.0, 110.0, 100.0))[:, None, None]) / torch.tensor((50.0, 60.0, 70.0))[
        :, None, None
    ]
    torch.testing.assert_close(told(pixels)[-1], expected, atol=1e-4, rtol=1e-4)
    assert told(pixels[..., :60])[-1].shape == (1, 192, 4, 4)  # the nearest whole number of patches
    assert not any(parameter.requires_grad for parameter in told.tower.parameters())
