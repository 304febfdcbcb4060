"""Pictures that hold a machine of a cluster up until it dies, so that it dies at work however busy everything is."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from waiting import SECONDS

from clip_es.types import ImageRecord


@dataclass(frozen=True)
class HeldUp:
    """A picture file that one machine never gets; the others get it once that machine waits for one."""

    path: Path
    node: str
    """Ray's id of the machine."""
    mark: Path
    """Appears when the machine waits."""

    def fetch(self) -> bytes:
        """The bytes of the file."""
        import ray

        there = ray.get_runtime_context().get_node_id() == self.node
        end = time.monotonic() + SECONDS
        if there:
            self.mark.touch()
        while there or not self.mark.exists():
            if time.monotonic() > end:
                raise TimeoutError("the machine neither began nor died")
            time.sleep(0.05)
        return self.path.read_bytes()


def held_up(records: list[ImageRecord], node: str, mark: Path) -> list[ImageRecord]:
    """The same records, whose pictures one machine never gets."""
    return [replace(record, image=HeldUp(record.path, node, mark)) for record in records]
