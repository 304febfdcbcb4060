"""A Hugging Face `datasets` folder: `load_dataset("imagefolder", data_dir=DIR)` gives columns image and mask.

Masks are palette PNGs whose numbers are the labels, 255 undecided; `id2label.json` has their names, as
`AutoModelForSemanticSegmentation` and its image processors (`do_reduce_labels=False`) want them.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from clip_es.errors import ConfigError
from clip_es.formats.writer import Writer, palette_png
from clip_es.store.tables import json_text

_CARD = """---
task_categories:
- image-segmentation
---
Masks made by clip-es from image-level labels. `load_dataset("imagefolder", data_dir="...")` gives the columns `image`
and `mask`; a mask holds 0 for background, k + 1 for class k and 255 for undecided, and `id2label.json` has the names.
"""


class HuggingFaceWriter(Writer):
    """<split>/images, <split>/masks, <split>/metadata.jsonl, id2label.json and README.md.

    Raises ConfigError when made: the pictures are to be left out, but a data set of this kind is made of them.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.pictures == "none":
            raise ConfigError("a Hugging Face folder needs its pictures", next_step="Pass --pictures link or copy.")
        self._rows = self.folder.growing(f"{self.split}/metadata.jsonl")

    def add(self, image_id: str, labels: UInt8[np.ndarray, "h w"], picture: Path | None) -> None:
        """Picture, mask and a line of metadata."""
        name = self.place(picture, f"{self.split}/images/{image_id}", labels)
        self.folder.write(f"{self.split}/masks/{image_id}.png", palette_png(labels))
        row = {"file_name": f"images/{name}", "mask_file_name": f"masks/{image_id}.png", "id": image_id}
        self._rows.add(json.dumps(row, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        """Metadata, names and card."""
        self._rows.finish()
        names = {str(k): self.names.name(k) for k in range(len(self.names.classes) + 1)}
        self.folder.write("id2label.json", json_text(names))
        self.folder.write("README.md", _CARD)
