"""`clip-es serve`: the method as a backend of annotation tools."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from clip_es.errors import ConfigError
from clip_es.pipelines.adapters.label_studio import Backend
from clip_es.pipelines.adapters.pictures import Pictures
from clip_es.pipelines.adapters.predict import Predictor
from clip_es.pipelines.adapters.server import server
from clip_es.pipelines.adapters.x_anylabeling import RemoteServer
from clip_es.pipelines.commands.flags import VocabularyFlag, WeightsFlag
from clip_es.pipelines.console import say
from clip_es.pipelines.playground.guard import LOOPBACK


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Answer annotation tools: Label Studio's machine-learning backend and X-AnyLabeling's remote server, on one port.

    It listens on this machine alone unless --host says otherwise, and ends with Ctrl-C.
    """

    weights: WeightsFlag = "ViT-B/16"
    vocabulary: VocabularyFlag
    images: Path | None = None
    """Folder of the pictures that Label Studio shows as local files; others are fetched from it."""
    label_studio: str | None = None
    """Where Label Studio runs, such as http://localhost:8080; its token, personal or legacy, is taken from
    LABEL_STUDIO_API_KEY."""
    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 lets the whole network in."""
    port: int = 9090
    """The port; 0 takes a free one."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""

    def run(self) -> int:
        """Load the model, then answer until it is stopped."""
        if self.images is not None and not self.images.is_dir():
            raise ConfigError("is not a folder", where=self.images, next_step="Check --images.")
        pictures = Pictures(self.images, self.label_studio, os.environ.get("LABEL_STUDIO_API_KEY"))
        predictor = Predictor.load(self.weights, self.vocabulary, self.device)
        backend = Backend(predictor, pictures, say)
        try:
            made = server({**backend.routes, **RemoteServer(predictor, say).routes}, self.host, self.port, say)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                "cannot listen there", where=f"{self.host}:{self.port}", found=error, next_step="Pass another --port."
            ) from error
        with made:
            if self.host not in LOOPBACK:
                say(f"Everyone who reaches {self.host} can use this server.")
            say(f"Listening on http://{self.host}:{made.server_address[1]} for Label Studio and X-AnyLabeling")
            try:
                made.serve_forever()
            finally:
                predictor.stop()
        return 0
