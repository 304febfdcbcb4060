"""One mask that a person has edited, put into its run at once: an import of a single picture without a file."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from clip_es.errors import ConfigError, DataError
from clip_es.masks import read_confidence
from clip_es.pipelines.exchange.history import PARTS, Before, digest
from clip_es.pipelines.exchange.import_masks import TABLE, apply_edit, imported_ids, write_edit
from clip_es.pipelines.exchange.run_folder import Run
from clip_es.store.disk import Lock, drop_torn_line, names_in
from clip_es.store.summary import update_summary


def save_edit(run: Run, image_id: str, new: UInt8[np.ndarray, "h w"], seen: str, made_with: str) -> int:
    """Take over the labels of one picture where they differ from its mask; returns how many pixels do.

    `seen` is the digest (`history.digest`) of the mask that the person began with: one that the run has changed since
    is refused. What the picture was before stays in RUN/imports, so `clip-es restore` brings it back. `made_with`
    stands in the place of a format in RUN/imported.csv.
    Raises DataError: another size, or the run has another mask by now. ConfigError: an import is going on. StoreError.
    """
    lock = Lock.take(run.folder, "import")
    if lock is None:
        raise ConfigError(
            "an import into this run is going on",
            where=run.folder,
            found=Lock.holder(run.folder, "import"),
            next_step="Save once more when it has ended; nothing is lost.",
        )
    with lock:
        drop_torn_line(run.folder / TABLE)
        for part in (".", *PARTS):
            names_in(run.folder / part)  # listing clears what a writer that died has left
        masks, decided = run.labels(image_id, "masks"), run.labels(image_id, "decided")
        if new.shape != masks.shape:
            raise DataError(
                "the edited mask has another size", where=image_id, expected=list(masks.shape), found=list(new.shape)
            )
        if digest(masks) != seen:
            raise DataError(
                "the run has another mask of this picture by now",
                where=image_id,
                next_step="Open the picture again, paint over the new mask, and save.",
            )
        confidence = read_confidence(run.folder / "confidence" / f"{image_id}.png")
        made = apply_edit(new, masks, decided, confidence, compared_with="masks")
        pixels = int(made.changed.sum())
        if pixels:
            write_edit(run, Before(run.folder), image_id, made, (made_with, "masks", pixels, False))
            update_summary(run.folder, {"imported": len(imported_ids(run.folder))})
    return pixels
