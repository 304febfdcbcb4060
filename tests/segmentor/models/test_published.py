"""SAZS's backbones as configs of mmsegmentation: built, trained a step, given public weights."""

from __future__ import annotations

import pytest
import torch

from clip_es.errors import WeightsError

pytest.importorskip("mmseg")
pytestmark = pytest.mark.filterwarnings("ignore")  # mmsegmentation's own.

DRN = {"type": "DrnBackbone", "name": "drn_d_22", "dropout": 0.5}
DPT = {
    "type": "DptBackbone",
    "width": 16,
    "heads": 2,
    "hooks": (0, 1, 2, 3),
    "level_features": (8, 12, 16, 16),
    "features": 8,
    "image_side": 32,
}
"""The ViT-L/16 of the paper at a size for tests: 2 x 2 patches in its position table."""


def build(part):
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    from clip_es.segmentor.training.compat import prepare

    prepare()
    init_default_scope("mmseg")
    torch.manual_seed(0)
    return MODELS.build(part)


def segmenter(backbone, channels):
    """A pixel-text head as SAZS has it (plain products, no scale), and the outlines as an auxiliary task."""
    model = build(
        {
            "type": "ConfidenceEncoderDecoder",
            "data_preprocessor": {"type": "SegDataPreProcessor", "mean": [0.0] * 3, "std": [255.0] * 3},
            "backbone": backbone,
            "decode_head": {
                "type": "PixelTextHead",
                "in_channels": [channels],
                "in_index": [0],
                "channels": 8,
                "embed": 6,
                "normalize": False,
                "num_classes": 3,
                "align_corners": False,
                "text": {"weights": "scenes", "words": [["a"], ["b"]], "background": ["others"]},
                "loss_decode": {"type": "CrossEntropyLoss"},
            },
            "auxiliary_head": {"type": "EdgeHead", "in_channels": channels, "in_index": 0, "num_classes": 3},
            "train_cfg": {},
            "test_cfg": {"mode": "whole"},
        }
    )
    model.decode_head.pixel_text.rows.normal_()
    return model


@pytest.mark.parametrize(("backbone", "channels"), [(DRN, 512), ({**DPT, "outputs": "level2"}, 12)])
def test_a_step_of_training_reaches_the_backbone_from_words_and_from_outlines(backbone, channels):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    model = segmenter(backbone, channels).train()
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    labels[:, 16:48, 16:48] = 1
    samples = [SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo={"img_shape": (64, 64)}) for _ in range(2)]
    found = model.loss(torch.rand(2, 3, 64, 64), samples)
    losses = {key: value for key, value in found.items() if "loss" in key}
    assert {"decode.loss_ce", "aux.loss_edge", "aux.loss_edge_attention", "aux.loss_edge_shape"} <= set(losses)
    assert all(bool(value.isfinite()) for value in losses.values())
    sum(losses.values()).backward()
    grads = [p.grad for p in model.backbone.parameters() if p.grad is not None]
    assert sum(float(grad.abs().sum()) for grad in grads) > 0
    assert model.eval().encode_decode(torch.rand(1, 3, 64, 64), [{"img_shape": (64, 64)}]).shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("outputs", "shapes"),
    [
        ("level2", [(12, 8, 8)]),
        ("levels", [(8, 16, 16), (12, 8, 8), (16, 4, 4), (16, 2, 2)]),
        ("path", [(8, 32, 32)]),
    ],
)
def test_a_dpt_gives_the_maps_of_its_levels(outputs, shapes):
    """64 x 64 pixels are 4 x 4 patches: levels at 1/4, 1/8, 1/16 and 1/32, the fused path at 1/2."""
    backbone = build({**DPT, "outputs": outputs}).eval()
    with torch.no_grad():
        assert [tuple(part.shape[1:]) for part in backbone(torch.rand(1, 3, 64, 64))] == shapes
    blocks = len(backbone.vit.layers)
    assert blocks == (2 if outputs == "level2" else 4), "what lies behind the block that is read does not exist"


def test_public_weights_are_read_by_name_and_others_are_named(tmp_path):
    drn, dpt = build(DRN), build({**DPT, "outputs": "path"})
    torch.save({"state_dict": {f"module.{k}": v for k, v in drn.net.state_dict().items()}}, tmp_path / "drn.pth")
    again = build({**DRN, "weights": str(tmp_path / "drn.pth")})
    assert all(torch.equal(value, again.net.state_dict()[key]) for key, value in drn.net.state_dict().items())
    torch.save({f"module.{k}": v for k, v in dpt.dpt.state_dict().items()}, tmp_path / "dpt.pth")
    with pytest.raises(Exception, match=r"no weights of this ViT.*vit_large_patch16_384"):
        build({**DPT, "outputs": "path", "weights": str(tmp_path / "dpt.pth")})
    with pytest.raises(Exception, match=r"no weights of this DRN.*drn_d_22 or drn_d_105"):
        build({**DRN, "name": "drn_d_105", "weights": str(tmp_path / "drn.pth")})
    torch.save({"state_dict": [1, 2]}, tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    from clip_es.segmentor.training.checkpoints import read_state

    with pytest.raises(WeightsError, match="holds no state dict"):
        read_state(tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="weights alone"):
        read_state(tmp_path / "text.pth")


def test_a_trained_model_needs_the_public_file_no_more(tmp_path):
    from clip_es.segmentor.loading import build_model

    part = {"type": "FCNHead", "in_channels": 512, "in_index": 0, "channels": 8, "num_classes": 3, "num_convs": 1}
    backbone = {**DRN, "weights": str(tmp_path / "gone.pth")}
    made = build_model({"model": {"type": "EncoderDecoder", "backbone": backbone, "decode_head": part}}, "config.py")
    assert sum(p.numel() for p in made.backbone.parameters()) > 1e6
