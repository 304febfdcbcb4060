"""Which engine computes the early blocks, in which arithmetic, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec

from clip_es.config.stages import DType, EncoderConfig
from clip_es.encoder.engines.processor import BFLOAT16, INT8, instructions
from clip_es.errors import ConfigError


@dataclass(frozen=True)
class Choice:
    """What `auto` has become."""

    config: EncoderConfig
    """The settings with engine and dtype settled."""
    why: str
    """In words: `int8 by onnx: the processor has AVX512-VNNI`."""


def choose(config: EncoderConfig, device: str) -> Choice:
    """Engine and dtype for a kind of device, `cpu` or `cuda`.

    Engine `auto`: torch, or onnx for int8. dtype `auto`: on a CPU int8 where the processor multiplies bytes and the
    extra is installed, else bfloat16 where it has that, else float32; on a GPU float32, as without.
    Raises ConfigError: engine, dtype and device do not go together, or the extra is missing.
    """
    engine, dtype, why = config.engine, config.dtype, "as asked for"
    if dtype == "auto":
        dtype, why = _dtype(engine, device)
    if engine == "auto":
        engine = "onnx" if dtype == "int8" or (config.dtype == "auto" and _exact_onnx(dtype, device)) else "torch"
    _check(engine, dtype, device)
    if engine == "onnx" and (missing := _missing()):
        raise ConfigError(
            f"{'int8' if dtype == 'int8' else 'the engine onnx'} needs {' and '.join(missing)}",
            found="not installed",
            next_step="Run: pip install 'clip-es[onnx]', or pass --encoder.engine torch.",
        )
    return Choice(replace(config, engine=engine, dtype=dtype), f"{dtype} by {engine}: {why}")


def _dtype(engine: str, device: str) -> tuple[DType, str]:
    """The narrowest arithmetic that this place has instructions for, and why."""
    if device != "cpu":
        return "float32", f"on {device}, where nothing else is chosen unasked"
    int8, bfloat16 = instructions(INT8), instructions(BFLOAT16)
    missing = engine != "torch" and _missing()
    if int8 and engine != "torch" and not missing:
        return "int8", f"the processor has {int8}"
    absent = f", and {' and '.join(missing)} not installed" if missing and int8 else ""
    if bfloat16 and engine != "onnx":
        return "bfloat16", f"the processor has {bfloat16}{absent}"
    return "float32", f"the processor has no instructions for anything narrower{absent}"


def _exact_onnx(dtype: str, device: str) -> bool:
    """Whether float32 was chosen where ONNX Runtime computes it faster."""
    return dtype == "float32" and device == "cpu" and not _missing()


def _check(engine: str, dtype: str, device: str) -> None:
    if engine == "torch" and dtype == "int8":
        raise ConfigError(
            "torch does not compute the encoder in int8",
            expected="--encoder.engine onnx (or auto), or --dtype bfloat16",
            found="--encoder.engine torch --dtype int8",
        )
    if engine == "onnx" and dtype == "bfloat16":
        raise ConfigError(
            "ONNX Runtime does not compute the encoder in bfloat16",
            expected="--dtype int8 or float32, or --encoder.engine torch",
            found="--encoder.engine onnx --dtype bfloat16",
        )
    if engine == "onnx" and device != "cpu":
        raise ConfigError(
            "the engine onnx computes on CPUs only" if dtype != "int8" else "int8 is computed on CPUs only",
            expected="--device cpu, or --encoder.engine torch with --dtype float32 or bfloat16",
            found=f"--device {device}",
        )


def _missing() -> list[str]:
    return [name for name in ("onnx", "onnxruntime") if not find_spec(name)]
