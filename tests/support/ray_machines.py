"""Machines of a Ray cluster, all on this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

_TRIES = 5
"""Ray gives a machine thirty seconds to begin; where many tests run at once that may be too little."""


def machines(*nodes: dict[str, Any]) -> tuple[Any, list[Any]]:
    """A cluster whose head has one core, and its further machines; workers know the modules of this folder.

    Skips the test where Ray is not installed.
    """
    pytest.importorskip("ray", reason="ray is not installed (extra `ray`)")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        for left in reversed(range(_TRIES)):
            cluster = None
            try:
                cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
                added = [cluster.add_node(**node) for node in nodes]
                cluster.wait_for_nodes(timeout=300)
                return cluster, added
            except Exception as error:
                if cluster is not None:
                    cluster.shutdown()
                if not left or "timed out" not in str(error):
                    raise
    raise AssertionError("never reached")
