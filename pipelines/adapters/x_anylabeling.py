"""The remote server of X-AnyLabeling: it lists its models and answers a picture with polygons.

| X-AnyLabeling asks | it gets |
|---|---|
| GET /v1/models | the model and the widgets it wants: a text field for the labels of the picture |
| GET /v1/models/clip-es/info | the same for one model |
| POST /v1/predict | `{"success": true, "data": {"shapes": [...], "description": ""}}` |

What is written into the text field (`cat, dog`) are the labels of the picture; where it is empty they are found.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

from clip_es.errors import ClipEsError, DataError
from clip_es.formats.x_anylabeling import shape
from clip_es.pipelines.adapters.predict import Predictor, Region, Stopped
from clip_es.records.text_files import printable

MODEL = "clip-es"


class RemoteServer:
    """Answers X-AnyLabeling's requests."""

    def __init__(self, predictor: Predictor, tell: Callable[[str], object] = lambda _: None) -> None:
        """`tell`: what becomes of a line about a picture that has no answer."""
        self.predictor = predictor
        self._tell = tell

    @property
    def routes(self) -> Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        """Answers by method and path."""
        return {
            "GET /v1/models": lambda _: {"success": True, "data": {MODEL: self.about()}},
            f"GET /v1/models/{MODEL}/info": lambda _: {"success": True, "data": {"model_id": MODEL, **self.about()}},
            "POST /v1/predict": self.predict,
        }

    def about(self) -> dict[str, Any]:
        """What the model is called and which widgets it wants."""
        return {
            "display_name": "clip-es: masks from labels",
            "widgets": [
                {"name": "button_run", "value": None},
                {"name": "edit_text", "value": None},
                {"name": "button_send", "value": None},
                {"name": "edit_conf", "value": 0.0},
                {"name": "toggle_preserve_existing_annotations", "value": False},
            ],
            "params": {},
            "capabilities": {},
            "classes": list(self.predictor.names),
            "batch_processing_mode": "default",
        }

    def predict(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Polygons of one picture; an error of ours is told in the server's own form."""
        answer = self._prediction(asked)
        if not answer["success"]:
            self._tell(f"X-AnyLabeling: {printable(answer['error']['message'], 500)}")
        return answer

    def _prediction(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked.get("model") != MODEL:
            return _failed("MODEL_NOT_FOUND", f"there is no model {str(asked.get('model'))[:80]!r}")
        stated = asked.get("params")
        params: dict[str, Any] = stated if isinstance(stated, dict) else {}
        try:
            picture = _decoded(asked.get("image"))
        except DataError as error:
            return _failed("INVALID_IMAGE", str(error))
        try:
            regions = self.predictor.regions(picture, _prompts(params), _least(params))
            asked_for = params.get("filter_classes")
            wanted = asked_for if isinstance(asked_for, list) and asked_for else self.predictor.names
            shapes = [shape for region in regions if region.name in wanted for shape in _shapes(region)]
        except (ClipEsError, Stopped) as error:
            return _failed("INFERENCE_ERROR", str(error))
        return {"success": True, "data": {"shapes": shapes, "description": ""}}


def _decoded(image: object) -> bytes:
    text = image.rsplit(",", 1)[-1] if isinstance(image, str) else ""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError("the picture is not base64", found=str(error)[:80]) from error
    if not data:
        raise DataError("the request has no picture", expected="base64 of a picture file")
    return data


def _prompts(params: dict[str, Any]) -> list[str]:
    text = params.get("text_prompt")
    words = text.replace(";", ",").replace(".", ",").split(",") if isinstance(text, str) else []
    return list(dict.fromkeys(word.strip() for word in words if word.strip()))


def _least(params: dict[str, Any]) -> float:
    value = params.get("conf_threshold", 0.0)
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else 0.0


def _shapes(region: Region) -> list[dict[str, Any]]:
    rings = [ring for ring in region.outlines() if len(set(ring)) > 2]
    # A shape from a server is closed by naming its first point again.
    return [shape(region.name, [*ring, ring[0]], round(region.score, 4)) for ring in rings]


def _failed(code: str, message: str) -> dict[str, Any]:
    """X-AnyLabeling shows no such error; without `replace: false` it would remove what is drawn in the picture."""
    error = {"code": code, "message": message, "details": None}
    return {"success": False, "error": error, "data": {"shapes": [], "description": "", "replace": False}}
