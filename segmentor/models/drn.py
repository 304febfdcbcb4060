"""Dilated residual networks DRN-D-22 and DRN-D-105, and the pyramid head that SAZS puts on them.

Plain torch modules whose parameters have the names of the public files; `DrnBackbone` is theirs in mmsegmentation.
Source: Yu et al. 2017 (DRN), SAZS's released head. Differs: two convolutions of that head that nothing uses (`fc2`,
`up`) do not exist; `read_drn` leaves them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clip_es.errors import WeightsError

DrnName = Literal["drn_d_22", "drn_d_105"]

_LAYERS: dict[DrnName, tuple[bool, tuple[int, ...]]] = {
    "drn_d_22": (False, (1, 1, 2, 2, 2, 2, 1, 1)),
    "drn_d_105": (True, (1, 1, 3, 4, 23, 3, 1, 1)),
}
"""Whether the blocks are bottlenecks, and how many there are of each stage."""
_CHANNELS = (16, 32, 64, 128, 256, 512, 512, 512)
POOLS = (1, 2, 3, 6)


class _Block(nn.Module):
    """Two 3x3 convolutions, or 1x1 - 3x3 - 1x1, and a way round them."""

    def __init__(self, inside: int, width: int, stride: int, dilation: int, narrow: bool) -> None:
        super().__init__()
        outside = 4 * width if narrow else width
        sizes = (1, 3, 1) if narrow else (3, 3)
        channels = (inside, width, width, outside) if narrow else (inside, width, outside)
        for number, size in enumerate(sizes, start=1):
            strided = stride if number == (2 if narrow else 1) else 1
            spread = dilation if size == 3 else 1
            convolution = nn.Conv2d(
                channels[number - 1], channels[number], size, strided, spread * (size // 2), spread, bias=False
            )
            self.add_module(f"conv{number}", convolution)
            self.add_module(f"bn{number}", nn.BatchNorm2d(channels[number]))
        self.count = len(sizes)
        self.downsample = None
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        around = x if self.downsample is None else self.downsample(x)
        for number in range(1, self.count + 1):
            x = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(x))
            x = torch.relu(x + around if number == self.count else x)
        return x


class Drn(nn.Module):
    """The trunk: pictures [batch 3 H W] to features [batch 512 H/8 W/8], not negative."""

    def __init__(self, name: DrnName = "drn_d_105") -> None:
        super().__init__()
        narrow, counts = _LAYERS[name]
        first = nn.Sequential(nn.Conv2d(3, 16, 7, 1, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        stages: list[nn.Module] = [first]
        inside = 16
        for stage, (count, width) in enumerate(zip(counts, _CHANNELS, strict=True)):
            stride = 2 if stage in (1, 2, 3) else 1
            dilation = {4: 2, 5: 4, 6: 2}.get(stage, 1)
            if stage in (0, 1, 6, 7):
                stages.append(_plain(inside, width, count, stride, dilation))
                inside = width
                continue
            blocks = []
            for number in range(count):
                blocks.append(_Block(inside, width, stride if number == 0 else 1, dilation, narrow))
                inside = 4 * width if narrow else width
            stages.append(nn.Sequential(*blocks))
        self.base = nn.Sequential(*stages)

    def forward(self, pixels: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 512 gh gw"]:
        """The last stage's output."""
        return self.base(pixels)


def _plain(inside: int, width: int, count: int, stride: int, dilation: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(count):
        layers += [
            nn.Conv2d(inside, width, 3, stride if number == 0 else 1, dilation, dilation, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        inside = width
    return nn.Sequential(*layers)


class DrnPyramid(Drn):
    """The trunk and the pyramid head: features [batch 512 H/8 W/8] that are compared with text vectors.

    Averages over 1, 2, 3 and 6 cells a side join the trunk's features; `dropout` leaves whole channels out while
    training (0.95 for PASCAL, 0.9 for COCO as released; the default is lower, for such rates make short trainings look
    broken).
    """

    def __init__(self, name: DrnName = "drn_d_105", dropout: float = 0.1) -> None:
        super().__init__(name)
        for cells in POOLS:
            self.add_module(f"pool{cells}_conv", nn.Conv2d(512, 512, 1, bias=False))
            self.add_module(f"pool{cells}_bn", nn.BatchNorm2d(512))
        self.fc1 = nn.Conv2d(512 * (1 + len(POOLS)), 512, 3, padding=1, bias=False)
        self.fc1_bn = nn.BatchNorm2d(512)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, pixels: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 512 gh gw"]:
        """Pixel embeddings, not negative."""
        seen = self.base(pixels)
        parts = [seen]
        for cells in POOLS:
            pooled = self.get_submodule(f"pool{cells}_conv")(F.adaptive_avg_pool2d(seen, cells))
            pooled = torch.relu(self.get_submodule(f"pool{cells}_bn")(pooled))
            parts.append(F.interpolate(pooled, size=seen.shape[2:], mode="bilinear", align_corners=False))
        return self.dropout(torch.relu(self.fc1_bn(self.fc1(torch.cat(parts, dim=1)))))


_UNUSED = ("fc2.", "up.", "fc.", "seg.", "edgeocr_cls_head.")


def read_drn(model: Drn, state: Mapping[str, Tensor], where: object = None) -> None:
    """Give a model public weights: `base.N...`, or the classifier's own names `layerN...` of the DRN files.

    Raises WeightsError: weights are missing or of another shape.
    """
    own = model.state_dict()
    given = {_drn_name(str(key).removeprefix("module.")): value for key, value in state.items()}
    given = {key: value for key, value in given.items() if not key.startswith(_UNUSED)}
    heads = [key for key in own if not key.startswith("base.")]
    missing = [key for key in own if key not in given and not key.endswith("num_batches_tracked")]
    if heads and set(heads) - {key for key in heads if key.endswith("num_batches_tracked")} <= set(missing):
        missing = [key for key in missing if key.startswith("base.")]  # A trunk alone; the head starts anew.
    wrong = [key for key in own if key in given and own[key].shape != given[key].shape]
    if missing or wrong:
        key = (missing or wrong)[0]
        raise WeightsError(
            "these are no weights of this DRN",
            where=where,
            expected=f"{key} {list(own[key].shape)}",
            found=f"{list(given[key].shape)}" if wrong and not missing else f"{len(missing)} of {len(own)} missing",
            next_step="Name the DRN that the file is of: drn_d_22 or drn_d_105.",
        )
    model.load_state_dict({**own, **{key: value for key, value in given.items() if key in own}})


def _drn_name(key: str) -> str:
    if key.startswith("layer") and key[5:6].isdigit():
        number, _, rest = key[5:].partition(".")
        return f"base.{number}.{rest}"
    return key
