"""CLIPSeg in the playground: where is it? Asked in words, or by an example."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from clip_es.config.methods import ClipSegConfig
from clip_es.encoder import Encoder
from clip_es.errors import ConfigError, DataError
from clip_es.localize.clipseg.decoder import Decoder
from clip_es.localize.clipseg.weights import load_decoder
from clip_es.localize.methods import decoder_path
from clip_es.pipelines.clipseg.prompt import Answer, ask
from clip_es.pipelines.playground.cache import Cache
from clip_es.pipelines.playground.uploads import Uploads

MOST_TEXTS = 16
"""Prompts at once."""

Answers = tuple[UInt8[np.ndarray, "h w 3"], list[Answer]]


class Asking:
    """A decoder that answers words and examples; it is loaded when it is first asked."""

    def __init__(self, encoder: Encoder, config: ClipSegConfig, uploads: Uploads) -> None:
        self.encoder, self.config, self.uploads = encoder, config, uploads
        self._decoder: Decoder | None = None
        self._answers: Cache[Answers] = Cache(200 * 2**20)
        self._work = threading.Lock()

    @property
    def supervision(self) -> str:
        """What the decoder was trained on. Raises WeightsError."""
        return self._loaded().about.get("supervision", "masks")

    def ask(
        self,
        photo_key: str,
        texts: Sequence[str],
        example_key: str = "",
        example_mask: Path | None = None,
        text_share: float = 0.0,
    ) -> Answers:
        """The picture, and an answer for each text and for the example. Raises ClipEsError as `prompt.ask`."""
        texts = tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))
        if len(texts) > MOST_TEXTS:
            raise DataError("these are too many prompts at once", expected=f"at most {MOST_TEXTS}", found=len(texts))
        photo = self.uploads.get(photo_key)
        example = self.uploads.get(example_key) if example_key else None
        if not texts and example is None:
            raise ConfigError("there is nothing to look for", next_step="Write what to look for, or bring an example.")
        if example is not None and example_mask is None:
            raise DataError(
                "an example needs a mask that says what it shows",
                where=example.name,
                expected="a PNG of the same size in which the object is not 0",
            )
        shown = hashlib.sha256(example_mask.read_bytes()).hexdigest() if example and example_mask else ""
        key = photo_key, texts, example_key, shown, text_share
        if known := self._answers.get(key):
            return known
        with self._work:
            found = ask(
                self.encoder,
                self._loaded(),
                photo.path,
                texts,
                example=example.path if example else None,
                example_mask=example_mask if example else None,
                text_share=text_share if example and texts else 0.0,
            )
        return self._answers.put(key, found)

    def _loaded(self) -> Decoder:
        if self._decoder is None:
            decoder = load_decoder(decoder_path(self.config.decoder), self.config.layers)
            self._decoder = decoder.to(self.encoder.device)
        return self._decoder
