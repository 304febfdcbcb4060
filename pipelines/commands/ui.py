"""`clip-es ui`: the method in a browser."""

from __future__ import annotations

import threading
import webbrowser
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from clip_es.config.run import DEFAULT, RunConfig
from clip_es.encoder import load_encoder
from clip_es.pipelines.commands.flags import TemplateFlag
from clip_es.pipelines.commands.masks import DRAWINGS_ONLY
from clip_es.pipelines.console import say
from clip_es.pipelines.exchange.run_folder import Run
from clip_es.pipelines.playground.app import page
from clip_es.pipelines.playground.asking import Asking
from clip_es.pipelines.playground.guard import LOOPBACK
from clip_es.pipelines.playground.handlers import Handlers
from clip_es.pipelines.playground.runs import RunView
from clip_es.pipelines.playground.server import check_gradio, private_folder, serve
from clip_es.pipelines.playground.session import Playground
from clip_es.pipelines.playground.uploads import Uploads
from clip_es.pipelines.playground.words import Words
from clip_es.prompts import Synonyms, Vocabulary, load_vocabulary
from clip_es.prompts.templates import sentences
from clip_es.prompts.vocabulary import ClassEntry
from clip_es.prompts.vocabulary_files import PACKAGED

SMALLER = replace(DEFAULT, image=replace(DEFAULT.image, max_megapixels=16.0))
"""A visitor waits for every step, so larger pictures are left to `clip-es masks`."""


@dataclass(frozen=True, kw_only=True)
class Ui:
    """A playground in the browser: what a word, a refiner or a threshold changes; the masks of a run mended by hand.

    Nothing leaves this machine: the page refers to nothing elsewhere, and uploads are removed when the server ends.
    """

    folder: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = None
    """Folder of a run, to look through and to mend."""
    weights: str | None = None
    """As for `clip-es masks`. None: those of the run, or scenes."""
    vocabulary: str | None = None
    """As for `clip-es masks`. None: the run's, or scenes."""
    template: TemplateFlag = ()
    synonyms: Synonyms = "sentence"
    """Synonyms of a class in one sentence (the paper's), as the mean of their vectors, or left out."""
    images: Path | None = None
    """Folder of the run's pictures. None: as run.yaml says."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    host: str = "127.0.0.1"
    """The address that is listened on. Any other than this machine's own lets everyone in the network use it."""
    port: int = 7860
    """Of that address."""
    open: bool = False
    """Open the page in the browser of this machine."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: SMALLER)

    def run(self) -> int:
        """Serve until Ctrl-C."""
        check_gradio()
        run = None if self.folder is None else Run.open(self.folder, self.vocabulary)
        view = None if run is None else RunView(run, self.images)
        weights = self.weights or _told(run, "weights") or "scenes"
        vocabulary = self._words(run)
        encoder = load_encoder(weights, device=self.device, config=self.config.encoder)
        config = self.config.for_data(has_background=True)
        with private_folder() as folder:
            uploads = Uploads(folder / "uploads", config.image)
            asking = Asking(encoder, config.methods.clipseg, uploads)
            handlers = Handlers(Playground(encoder, vocabulary, config, uploads), asking, view, weights)
            words = Words((), self.synonyms, (), sentences(self.template))
            notes = [DRAWINGS_ONLY] if weights.startswith("scenes") else []
            blocks = page(handlers, words, notes)
            address = serve(blocks, self.host, self.port)
            if self.host not in LOOPBACK:
                say(f"Everyone who reaches {self.host} can use this page, and edit the run where one is open.")
            say(f"The playground answers at {address} until Ctrl-C.")
            if self.open:
                webbrowser.open(address)
            try:
                threading.Event().wait()
            finally:
                blocks.close(verbose=False)
        return 0

    def _words(self, run: Run | None) -> Vocabulary:
        """The vocabulary that is named, or the run's."""
        name = self.vocabulary or (run.manifest.vocabulary if run else None) or "scenes"
        if self.vocabulary is None and run is not None and name not in PACKAGED:
            return Vocabulary(name, tuple(ClassEntry(one) for one in run.names.classes))
        return load_vocabulary(name).for_masks()


def _told(run: Run | None, name: str) -> str | None:
    """What run.yaml says about the run."""
    found = None if run is None else run.manifest.about.get(name)
    return found if isinstance(found, str) else None
