"""Label Studio's machine-learning backend: brush masks as predictions, spoken over HTTP.

| Label Studio asks | it gets |
|---|---|
| GET /health | `{"status": "UP"}` |
| POST /setup, GET /versions | the version of the model |
| POST /predict | for each task a prediction with brush regions |
| POST /webhook | nothing; nothing is trained |

Where a task has choices (its picture is labelled, its pixels are not), those are the labels; else they are found. Only
labels that the project's interface offers are answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clip_es.errors import ClipEsError, DataError
from clip_es.formats.label_studio import region as brush_region
from clip_es.pipelines.adapters.pictures import Pictures
from clip_es.pipelines.adapters.predict import Predictor
from clip_es.records.labels.label_studio import labels_of_task
from clip_es.records.text_files import printable
from clip_es.records.xml_files import parse_xml


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
        self, predictor: Predictor, pictures: Pictures, tell: Callable[[str], object] = lambda _: None
    ) -> None:
        """`tell`: what becomes of a line about a request, since Label Studio shows no error of a backend."""
        self.predictor = predictor
        self._pictures = pictures
        self._tell = tell
        self.version = f"clip-es-{predictor.maker.bank.source[:8]}"
        """Of weights and words: Label Studio does not ask again for a picture that this version has predicted."""

    @property
    def routes(self) -> Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        """Answers by method and path."""
        return {
            "GET /": self.health,
            "GET /health": self.health,
            "POST /setup": lambda _: {"model_version": self.version},
            "GET /versions": lambda _: {"versions": [self.version]},
            "POST /predict": self.predict,
            "POST /webhook": lambda _: {"status": "ok", "result": None},
        }

    def health(self, _: dict[str, Any]) -> dict[str, Any]:
        """Alive."""
        return {"status": "UP", "model_class": "clip-es"}

    def predict(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A prediction for each task; a picture that cannot be used gets none, so that it can be asked for again.

        Raises DataError: no interface.
        """
        tasks, config = asked.get("tasks"), asked.get("label_config")
        if not isinstance(tasks, list) or not isinstance(config, str):
            raise DataError("a request names tasks and label_config", found=", ".join(map(str, asked))[:100])
        interface = Interface.of(config)
        results = [self._prediction(task, interface) for task in tasks]
        self._tell(f"Label Studio: {len(results) - results.count([])} of {len(results)} pictures predicted")
        return {"results": results}

    def _prediction(self, task: Any, interface: Interface) -> dict[str, Any] | list[Any]:
        """A prediction, or an empty list of them."""
        try:
            data = task.get("data") if isinstance(task, dict) else None
            address = data.get(interface.data) if isinstance(data, dict) else None
            if not isinstance(address, str):
                raise DataError("the task has no picture", expected=f"data.{interface.data}", found=str(data)[:80])
            offered = self.predictor.known(interface.labels)
            labels = [name for name in self.predictor.known(labels_of_task(task)) if self._offered(name, offered)]
            regions = self.predictor.regions(self._pictures(address), labels)
        except ClipEsError as error:
            number = task.get("id") if isinstance(task, dict) else None
            self._tell(
                f"Label Studio: task {printable(str(number), 20)} has no prediction: {printable(str(error), 500)}"
            )
            return []
        found = []
        for region in regions:
            name = self._offered(region.name, offered)
            if name is not None:
                entry = brush_region(region.mask, name, interface.brush, interface.image)
                found.append({**entry, "id": f"clip-es-{region.class_id}", "score": region.score})
        score = float(np.mean([entry["score"] for entry in found])) if found else 0.0
        return {"model_version": self.version, "score": score, "result": found}

    def _offered(self, name: str, offered: list[str]) -> str | None:
        """The class as the interface spells it."""
        class_id = self.predictor.maker.vocabulary.class_id
        return next((label for label in offered if class_id(label) == class_id(name)), None)
