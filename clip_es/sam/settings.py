"""Settings of the mask generator; every default is that of the published code, whose name stands beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clip_es.config.bounds import check_within


@dataclass(frozen=True)
class SamConfig:
    """SAM, SAM 2 or SAM 3's tracker as a maker of regions (extra `sam`)."""

    model: str = "sam-vit-huge"
    """sam-vit-base, -large, -huge; sam2.1-tiny, -small, -base-plus, -large; sam3 (gated); a folder in transformers'
    layout; or the id of one on the Hugging Face hub."""
    prompts: Literal["grid", "maps"] = "grid"
    """grid: a point in every cell of a grid, as SAM's automatic masks. maps: for each connected region of each label a
    box and its highest point, from the maps themselves; far fewer masks, and so far faster."""
    points_per_side: int = 32
    """Rows and columns of the grid. Published by SAM and FMA-WSSS: 32."""
    points_at_once: int = 64
    """Points or boxes that go through the mask decoder together. Does not change the masks on a CPU."""
    crop_layers: int = 0
    """How often the picture is cut into overlapping pieces (2 x 2, 4 x 4, ..) to look again. SAM: 0; FMA: 1."""
    crop_downscale: int = 1
    """The pieces of each further layer have this many times fewer rows and columns of points. SAM: 1; FMA: 2."""
    predicted_iou: float = 0.88
    """Masks whose own estimate of their quality is not above this are dropped. SAM: .88; FMA: .86."""
    stability: float = 0.95
    """Masks that change more than this with the threshold are dropped: area at +offset through area at -offset.
    SAM: .95; FMA: .92."""
    stability_offset: float = 1.0
    """How far the threshold is moved for that, in logits. SAM: 1."""
    box_nms: float = 0.7
    """Of two masks whose boxes overlap by more than this, the less sure one is dropped. SAM and FMA: .7."""
    least_area: int = 0
    """Smaller masks are dropped, pixels. SAM: 0; FMA: 100 (which also fills holes of that size)."""
    peak: float = 0.5
    """prompts maps: share of a map's maximum above which a pixel belongs to a box. Trident: its own label map."""
    least_component: int = 225
    """prompts maps: connected regions with fewer pixels get no box, unless a label has no larger one. Trident: 225."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network."""

    def __post_init__(self) -> None:
        check_within("points_per_side", self.points_per_side, 1, 256, "rows of points")
        check_within("points_at_once", self.points_at_once, 1, 2**16, "points")
        check_within("crop_layers", self.crop_layers, 0, 4, "layers")
        check_within("crop_downscale", self.crop_downscale, 1, 64, "factor")
        for name in ("predicted_iou", "stability", "box_nms"):
            check_within(name, getattr(self, name), 0, 1, "share")
        check_within("stability_offset", self.stability_offset, 0, 1e3, "logits")
        check_within("least_area", self.least_area, 0, 10**9, "pixels")
        check_within("peak", self.peak, 0, 1, "share of the maximum")
        check_within("least_component", self.least_component, 0, 10**9, "pixels")
