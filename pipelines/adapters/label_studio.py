"""Label Studio's machine-learning backend: brush masks as predictions, spoken over HTTP.

| Label Studio asks | it gets |
|---|---|
| GET /health | `{"status": "UP"}` |
| POST /setup | the version of the model |
| POST /predict | for each task a prediction with brush regions |
| POST /webhook | nothing; nothing is trained |

Where a task has choices (its picture is labelled, its pixels are not), those are the labels; else they are found. Only
labels that the project's interface offers are answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit
from urllib.request import Request, urlopen

import numpy as np

from clip_es.errors import ClipEsError, DataError
from clip_es.formats.label_studio import region as brush_region
from clip_es.pipelines.adapters.predict import Predictor
from clip_es.records.elsewhere import tails
from clip_es.records.file_listing import PICTURES
from clip_es.records.labels.label_studio import labels_of_task
from clip_es.records.xml_files import parse_xml

VERSION = "clip-es"
LARGEST_PICTURE = 2**28
"""Bytes of a picture that is fetched from Label Studio."""


@dataclass(frozen=True)
class Interface:
    """What a labelling interface asks for."""

    brush: str
    """Name of the brush."""
    image: str
    """Name of the picture it draws on."""
    data: str
    """Key of the picture in a task's data."""
    labels: tuple[str, ...]

    @classmethod
    def of(cls, config: str) -> Interface:
        """Read an interface. Raises DataError: not XML, or without brush labels on a picture."""
        tree = parse_xml(config.encode(errors="replace"), "the labelling interface")
        images = {element.get("name"): element.get("value", "") for element in tree.iter("Image")}
        for element in tree.iter("BrushLabels"):
            name, image = element.get("name"), element.get("toName")
            if name and image in images and images[image].startswith("$"):
                labels = tuple(label.get("value", "") for label in element.iter("Label"))
                return cls(name, str(image), images[image][1:], labels)
        raise DataError(
            "the labelling interface has no brush for a picture",
            expected='<Image name="image" value="$image"/> and <BrushLabels name="label" toName="image">',
            next_step="Add them under Settings, Labeling Interface.",
        )


class Backend:
    """Answers Label Studio's requests."""

    def __init__(
        self,
        predictor: Predictor,
        images: Path | None = None,
        host: str | None = None,
        token: str | None = None,
    ) -> None:
        """`images`: the folder the pictures lie in; `host` and `token`: of the Label Studio that has the others."""
        self.predictor = predictor
        self._images = images
        self._host = host
        self._token = token

    @property
    def routes(self) -> Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        """Answers by method and path."""
        return {
            "GET /": self.health,
            "GET /health": self.health,
            "POST /setup": lambda _: {"model_version": VERSION},
            "POST /predict": self.predict,
            "POST /webhook": lambda _: {"status": "ok", "result": None},
        }

    def health(self, _: dict[str, Any]) -> dict[str, Any]:
        """Alive."""
        return {"status": "UP", "model_class": "clip-es"}

    def predict(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A prediction for each task; a picture that cannot be used gets none. Raises DataError: no interface."""
        tasks, config = asked.get("tasks"), asked.get("label_config")
        if not isinstance(tasks, list) or not isinstance(config, str):
            raise DataError("a request names tasks and label_config", found=", ".join(map(str, asked))[:100])
        interface = Interface.of(config)
        return {"results": [self._prediction(task, interface) for task in tasks]}

    def _prediction(self, task: Any, interface: Interface) -> dict[str, Any]:
        try:
            data = task.get("data") if isinstance(task, dict) else None
            address = data.get(interface.data) if isinstance(data, dict) else None
            if not isinstance(address, str):
                raise DataError("the task has no picture", expected=f"data.{interface.data}", found=str(data)[:80])
            offered = self.predictor.known(interface.labels)
            labels = [name for name in self.predictor.known(labels_of_task(task)) if self._offered(name, offered)]
            regions = self.predictor.regions(self._picture(address), labels)
        except ClipEsError as error:
            return {"model_version": VERSION, "score": 0.0, "result": [], "error": str(error)}
        found = []
        for region in regions:
            name = self._offered(region.name, offered)
            if name is not None:
                entry = brush_region(region.mask, name, interface.brush, interface.image)
                found.append({**entry, "id": f"clip-es-{region.class_id}", "score": region.score})
        score = float(np.mean([entry["score"] for entry in found])) if found else 0.0
        return {"model_version": VERSION, "score": score, "result": found}

    def _offered(self, name: str, offered: list[str]) -> str | None:
        """The class as the interface spells it."""
        class_id = self.predictor.maker.vocabulary.class_id
        return next((label for label in offered if class_id(label) == class_id(name)), None)

    def _picture(self, address: str) -> Path | bytes:
        """A file below the folder, or what Label Studio has under the address. Raises DataError: neither."""
        if self._images is not None:
            for tail in tails(address):
                path = self._images / tail
                if path.suffix.lower() in PICTURES and path.is_file():
                    return path
        if self._host is None:
            raise DataError(
                f"the picture {address[:100]!r} is not below the folder of the pictures",
                where=self._images,
                next_step="Pass --images, or --label-studio with the address it runs at.",
            )
        return self._fetch(urljoin(self._host, address))

    def _fetch(self, address: str) -> bytes:
        """From Label Studio itself, and from nowhere else."""
        if urlsplit(address)[:2] != urlsplit(str(self._host))[:2]:
            raise DataError("the picture lies with somebody else", where=address[:100], expected=self._host)
        head = {"Authorization": f"Token {self._token}"} if self._token else {}
        try:
            with urlopen(Request(address, headers=head), timeout=60) as answer:
                content = answer.read(LARGEST_PICTURE + 1)
        except (OSError, ValueError) as error:
            raise DataError(
                "Label Studio does not give the picture",
                where=address[:100],
                found=error,
                next_step="Set LABEL_STUDIO_API_KEY to a token of an account that sees the project.",
            ) from error
        if len(content) > LARGEST_PICTURE:
            raise DataError("the picture is too large", where=address[:100])
        return content
