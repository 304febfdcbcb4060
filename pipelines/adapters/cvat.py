"""CVAT's auto-annotation: a detection function, `spec` and `detect`, that draws a mask for each class in a picture.

    cvat-cli task auto-annotate 137 --function-module clip_es.pipelines.adapters.cvat \\
        -p weights=str:ViT-B/16 -p vocabulary=str:cat,dog --allow-unmatched-labels

Labels of the task and classes of the vocabulary are matched by their names, as CVAT does for every function.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from clip_es.errors import ConfigError, DataError
from clip_es.pipelines.adapters.predict import Predictor, Region

if TYPE_CHECKING:
    from cvat_sdk.auto_annotation import DetectionAnnotation, DetectionFunctionContext, DetectionFunctionSpec


class DetectionFunction:
    """What `cvat_sdk.auto_annotation.annotate_task` takes."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    @cached_property
    def spec(self) -> DetectionFunctionSpec:
        """A label for each class; its id is that of the class."""
        sdk = _sdk()
        labels = [sdk.label_spec(name, number, type="mask") for number, name in enumerate(self.predictor.names)]
        return sdk.DetectionFunctionSpec(labels=labels)

    def detect(self, context: DetectionFunctionContext, image: Any) -> list[DetectionAnnotation]:
        """A mask for each class that is found, or polygons where CVAT asks for them. Raises DataError."""
        try:
            regions = self.predictor.regions(image, least=context.conf_threshold or 0.0)
        except DataError as error:
            raise DataError(
                "this frame has no mask, so none is uploaded", where=context.frame_name, found=error
            ) from error
        return [shape for region in regions for shape in _shapes(region, context.conv_mask_to_poly)]


def create(weights: str = "scenes", vocabulary: str = "scenes", device: str = "auto") -> DetectionFunction:
    """What `cvat-cli` calls, with its parameters. Raises WeightsError, ConfigError."""
    return DetectionFunction(Predictor.load(weights, vocabulary, device))


def _shapes(region: Region, as_polygons: bool) -> list[DetectionAnnotation]:
    sdk = _sdk()
    if not as_polygons:
        from cvat_sdk.masks import encode_mask

        return [sdk.mask(region.class_id, encode_mask(region.mask))]
    return [sdk.polygon(region.class_id, [float(v) for point in ring for v in point]) for ring in region.edges()]


def _sdk() -> Any:
    try:
        import cvat_sdk.auto_annotation as sdk
    except ImportError as error:
        raise ConfigError("CVAT's functions need cvat-sdk", next_step="pip install cvat-sdk.") from error
    return sdk
