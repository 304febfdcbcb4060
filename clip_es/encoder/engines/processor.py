"""What the processor can do: which arithmetic it has instructions for."""

from __future__ import annotations

import platform
from functools import lru_cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")

INT8 = {
    "amx_int8": "AMX",
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "i8mm": "I8MM",
    "asimddp": "dot products",
}
"""Linux's names of the instructions that multiply and add bytes into 32 bits, and what they are called."""
BFLOAT16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "bf16": "BF16"}
"""The same for bfloat16."""


@lru_cache
def flags(file: Path = _CPUINFO) -> frozenset[str]:
    """Names of the instructions that the processor has, as Linux tells them; empty where nobody does."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return frozenset({"asimddp"})  # every Apple processor has them
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    told = (line.partition(":") for line in lines)
    return next(
        (frozenset(rest.split()) for name, _, rest in told if name.strip() in ("flags", "Features")), frozenset()
    )


def instructions(known: dict[str, str]) -> str | None:
    """What those among `known` are called that this processor has; None where it has none of them."""
    return next((called for flag, called in known.items() if flag in flags()), None)


def eight_bit_sums() -> bool:
    """Whether products of bytes are summed without overflow: everywhere but on x86 before VNNI."""
    return instructions(INT8) is not None or platform.machine().lower() not in ("x86_64", "amd64")
