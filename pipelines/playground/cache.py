"""Results kept within a budget of memory, for all visitors at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import fields, is_dataclass
from typing import Generic, TypeVar

import numpy as np
from torch import Tensor

V = TypeVar("V")


class Cache(Generic[V]):
    """Values by key; the one not used for longest goes first. The latest is kept whatever its size."""

    def __init__(self, most_bytes: int, most: int = 1000) -> None:
        self.most_bytes, self.most = most_bytes, most
        self._values: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> V | None:
        """The value, or None."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: V) -> V:
        """Keep a value, and return it."""
        with self._lock:
            self._values[key] = value, held_bytes(value)
            self._values.move_to_end(key)
            while len(self._values) > 1 and (len(self._values) > self.most or self._held() > self.most_bytes):
                self._values.popitem(last=False)
        return value

    def _held(self) -> int:
        return sum(size for _, size in self._values.values())


def held_bytes(value: object) -> int:
    """Bytes of the arrays and tensors that a value is made of."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        return value.nbytes
    if is_dataclass(value):
        return sum(held_bytes(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, dict):
        return sum(map(held_bytes, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(held_bytes, value))
    return 0
