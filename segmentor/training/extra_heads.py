"""Heads that a config does not have itself: pixels compared with text, and outlines as an auxiliary task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clip_es.errors import ConfigError
from clip_es.segmentor.training.settings import TrainData, TrainSettings

if TYPE_CHECKING:
    from mmengine.config import Config


def set_text_head(cfg: Config, settings: TrainSettings, data: TrainData) -> None:
    """Put a head that compares pixels with words in the place of the config's. Raises ConfigError."""
    from clip_es.encoder import load_encoder
    from clip_es.segmentor.models.clip_members import member_count

    old, backbone = cfg.model.decode_head, cfg.model.backbone
    if isinstance(old, list) or not isinstance(old.get("in_channels"), (int, list, tuple)):
        raise ConfigError(
            "the pixel-text head takes the place of one decode head", where=settings.config, found="a cascade of heads"
        )
    own_weights = backbone.get("weights") if backbone.type == "FrozenClip" else None
    weights = settings.text_weights or own_weights or "ViT-B/16"
    sizes = load_encoder(weights, device="cpu").sizes
    embed = sizes.embed
    widths, index = old.in_channels, old.get("in_index", -1)
    widths, index = ([widths], [index]) if isinstance(widths, int) else (list(widths), list(index))
    own = own_weights is not None and weights == own_weights
    if own:
        backbone.members = True
        widths, index = [*widths, member_count(sizes.layers) * embed], [*index, len(backbone.get("blocks", (2, 4))) + 1]
    names = data.words or tuple((name,) for name in data.classes[1:])
    if len(names) != len(data.classes) - 1:
        raise ConfigError("each class has its words", expected=len(data.classes) - 1, found=len(names))
    text = {"weights": weights, "words": [list(row) for row in names], "background": list(data.background_words)}
    text["background"] = text["background"] or ["background"]
    text["templates"] = list(data.templates) or ["a photo of a {}."]
    if data.unseen:
        text["unseen"], text["pictures_with_unseen"] = [name for name, _ in data.unseen], data.pictures_with_unseen
    cfg.model.decode_head = {
        "type": "PixelTextHead",
        "in_channels": widths,
        "in_index": index,
        "channels": min(int(old.get("channels", 64)), 256),
        "embed": embed,
        "own": own,
        "text": text,
        "align_corners": False,
        "loss_decode": old.get("loss_decode", {"type": "CrossEntropyLoss"}),
    }


def add_edges(cfg: Config, settings: TrainSettings) -> None:
    """An auxiliary head for outlines, on the finest map that the decode head reads."""
    head = cfg.model.decode_head
    head = head[0] if isinstance(head, list) else head
    width, index = head.in_channels, head.get("in_index", -1)
    edge: dict[str, Any] = {
        "type": "EdgeHead",
        "in_channels": width if isinstance(width, int) else width[0],
        "in_index": index if isinstance(index, int) else index[0],
        "shape_net": None if settings.shape_net is None else str(settings.shape_net),
    }
    old = cfg.model.get("auxiliary_head")
    others = [] if old is None else list(old) if isinstance(old, list) else [old]
    cfg.model.auxiliary_head = [*others, edge]
