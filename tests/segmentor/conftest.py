"""What several tests of segmenters share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def trained(tiny_training, tmp_path_factory):
    """A pixel-text model with outlines after two steps: its file, the losses by step, its data and their folder."""
    pytest.importorskip("mmseg")
    from clip_es.segmentor.training.launch import TrainSettings, train

    folder = tiny_training.make_run(tmp_path_factory.mktemp("data") / "data")
    out = tmp_path_factory.mktemp("trained") / "out"
    told = {}
    settings = TrainSettings(
        config="scenes_small", head="pixel-text", edges=True, iterations=2, batch_size=2, workers=0, loss="plain"
    )
    data = tiny_training.train_data(folder, val=False)
    train(settings, data, out, tell=lambda i, n, loss, miou: told.setdefault(i, loss))
    return out / "final.pth", told, data, folder
