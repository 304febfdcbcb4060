"""`import clip_es` and the first mask load what they need, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

NEVER = {
    *("cv2", "datasets", "diffusers", "gradio", "huggingface_hub", "matplotlib", "mmcv", "mmengine", "mmseg", "nltk"),
    *("onnx", "onnxruntime", "pandas", "pycocotools", "ray", "sklearn", "skimage", "supervision", "tensorboard"),
    *("torchvision", "transformers", "jinja2"),
}
"""Libraries that a mask does not need."""

CODE = """
import json, sys
told = []
def loaded():
    told.append(sorted({name.split(".")[0] for name in sys.modules} | {n for n in sys.modules if n == "torch._dynamo"}))
import clip_es
clip_es.load
loaded()
maker = clip_es.load("scenes", device="cpu")
loaded()
import numpy as np
maker(np.zeros((48, 48, 3), np.uint8), [maker.vocabulary.names[0]])
loaded()
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def steps() -> list[set[str]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, env=environment)
    return [set(names) for names in json.loads(ran.stdout)]


@pytest.mark.parametrize("step", ["import", "load", "mask"])
def test_nothing_is_loaded_that_a_mask_does_not_need(steps, step):
    assert steps[["import", "load", "mask"].index(step)] & NEVER == set()


def test_what_only_some_steps_need_waits_for_them(steps):
    after_import, after_load, _ = steps
    assert {"scipy", "numba", "rich", "ftfy"} & after_import == set()
    assert {"scipy", "numba", "torch._dynamo", "sympy"} & after_load == set(), "weights are loaded without a compiler"
