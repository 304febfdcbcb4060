"""SAM, SAM 2 and SAM 3 with seeded random weights, small enough for a test: transformers' own classes."""

from __future__ import annotations

from pathlib import Path

import torch

KINDS = ("sam", "sam2", "sam3_tracker")


def save_prompted(kind: str, folder: Path) -> Path:
    """A network that answers points and boxes, in a folder of transformers' layout."""
    return _saved(_prompted(kind), folder)


def save_phrased(folder: Path, queries: int = 6) -> Path:
    """A SAM 3 that answers phrases."""
    import transformers as t

    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_attention_heads": 2}
    head = {**small, "num_layers": 1, "intermediate_size": 32, "dropout": 0.0}
    config = t.Sam3Config(
        vision_config=_sam3_vision(),
        text_config={
            "model_type": "clip_text_model",
            "vocab_size": 49408,
            "hidden_size": 32,
            "intermediate_size": 32,
            "projection_dim": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
        },
        geometry_encoder_config=head,
        detr_encoder_config=head,
        detr_decoder_config={**head, "num_queries": queries},
        mask_decoder_config={**small, "num_upsampling_stages": 3},
    )
    return _saved(t.Sam3Model(config), folder)


def _prompted(kind: str):
    import transformers as t

    torch.manual_seed(0)
    decoder = {"hidden_size": 32, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    decoder |= {"iou_head_hidden_dim": 16}
    if kind == "sam":
        vision = {
            "hidden_size": 32,
            "output_channels": 32,
            "num_pos_feats": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "mlp_dim": 32,
            "window_size": 4,
            "global_attn_indexes": [1],
        }
        prompt = {"hidden_size": 32, "image_size": 64, "patch_size": 8, "mask_input_channels": 4}
        model = t.SamModel(t.SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder))
    elif kind == "sam2":
        backbone = {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": 8,
            "image_size": [64, 64],
            "blocks_per_stage": [1, 1, 2, 1],
            "embed_dim_per_stage": [8, 16, 32, 64],
            "num_attention_heads_per_stage": [1, 1, 1, 1],
            "window_size_per_stage": [4, 4, 4, 2],
            "global_attention_blocks": [3],
        }
        vision = {
            "backbone_config": backbone,
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 32,
        }
        prompt = {"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
        model = t.Sam2Model(
            t.Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
        )
    else:
        prompt = {"hidden_size": 32, "image_size": 56, "patch_size": 14, "mask_input_channels": 4}
        model = t.Sam3TrackerModel(
            t.Sam3TrackerConfig(vision_config=_sam3_vision(), prompt_encoder_config=prompt, mask_decoder_config=decoder)
        )
    return model


def _sam3_vision() -> dict:
    return {
        "model_type": "sam3_vision_model",
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
            "window_size": 2,
            "global_attn_indexes": [1],
            "pretrain_image_size": 28,
        },
        "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    }


def _saved(model, folder: Path) -> Path:
    with torch.no_grad():
        for name, values in model.named_parameters():
            if values.dim() > 1 and "norm" not in name:
                values.copy_(torch.randn_like(values) * 0.3)
    model.save_pretrained(folder)
    return folder
