"""A playground on the drawn world, without a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from clip_es.config.run import DEFAULT
from clip_es.encoder import load_encoder
from clip_es.pipelines.playground.session import Playground
from clip_es.pipelines.playground.uploads import Uploads
from clip_es.prompts import load_vocabulary
from clip_es.scenes.draw import SceneConfig, draw_scene


@pytest.fixture(scope="session")
def scenes_encoder():
    return load_encoder("scenes", device="cpu")


@pytest.fixture
def playground(scenes_encoder, tmp_path: Path) -> Playground:
    return Playground(scenes_encoder, load_vocabulary("scenes"), DEFAULT, Uploads(tmp_path / "uploads", DEFAULT.image))


@pytest.fixture
def bring(playground: Playground, tmp_path: Path) -> Callable[[int], tuple[str, list[str]]]:
    """Upload a drawn scene: its key, and the names of what it shows."""

    def bring(index: int) -> tuple[str, list[str]]:
        scene = draw_scene(5, index, SceneConfig(size_hw=(96, 112), objects=(2, 3)))
        path = tmp_path / f"scene {index}.png"
        Image.fromarray(scene.picture).save(path)
        return playground.uploads.take(path).key, [playground.vocabulary.names[k] for k in scene.class_ids]

    return bring
