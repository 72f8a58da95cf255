"""Which quantized operators build, by backend and version: data, so that it is said before the build."""

from __future__ import annotations

from collections.abc import Mapping

_ALL = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
_PRODUCTS = frozenset({"MatMul", "Gemm"})

BUILDS: tuple[tuple[str, tuple[int, int], Mapping[str, frozenset[str]]], ...] = (
    ("tensorrt_rtx", (0, 0), {"int8": _PRODUCTS, "float8e4m3fn": _PRODUCTS | {"Conv"}, "int4": _PRODUCTS}),
    ("tensorrt_rtx", (1, 7), {"int8": _PRODUCTS | {"Conv"}, "float8e4m3fn": _PRODUCTS | {"Conv"}, "int4": _PRODUCTS}),
    ("tensorrt", (0, 0), {"int8": _ALL, "float8e4m3fn": _PRODUCTS | {"Conv"}, "int4": _PRODUCTS}),
    ("onnxruntime", (0, 0), {"int8": _ALL, "float8e4m3fn": _ALL, "int4": _PRODUCTS}),
)
"""(backend, from this version on, dtype -> operators whose Q/DQ form builds). Measured: tests/backends and DESIGN."""

REFUSED: Mapping[tuple[str, str], frozenset[str]] = {
    ("tensorrt_rtx", "bfloat16"): frozenset({"ConvTranspose", "HardSwish", "Mish", "GRU", "LpNormalization"}),
}
"""(backend, dtype) -> operators that parse or build in float32, but not in this dtype. Measured with 1.6.1."""

SUMS_BEFORE_SCALES = frozenset({"tensorrt_rtx"})
"""Backends that convert the sum of products of 8-bit numbers to the result's dtype, and scale it then: float16
overflows, whatever the scales are (127 * 127 * 5 > 65504), so the result must be float32. Measured on an H100 with
TensorRT-RTX 1.6.1: tests/precision/test_gpu_quantized.py."""

SLOWER = (("tensorrt_rtx", (1, 7), "NVIDIA H"),)
"""(backend, before this version, GPUs) whose products of 8 bits take longer than those of float16. Measured on an H100
with 1.6.1: two products of 1024 x 768 x 3072 take 22 us in float16, 54 to 63 us in float8 and 61 to 68 us in int8."""

LEAST_CAPABILITY = {"float8e4m3fn": (8, 9), "int8": (7, 5), "int4": (7, 5)}
"""GPUs with the arithmetic."""


def quantizable(backend: str, version: str, quantized: str) -> frozenset[str]:
    """The operators that this version builds with operands of this dtype."""
    mine = _numbers(version)
    found: frozenset[str] = frozenset()
    for name, since, table in BUILDS:
        if name == backend and mine >= since:
            found = table.get(quantized, frozenset())
    return found


def alternatives(backend: str, version: str, quantized: str, op: str) -> str:
    """'; fp8 does, int8 from 1.7 on': where else the operator builds in 8 bits; '' where nowhere."""
    words = {"int8": "int8", "float8e4m3fn": "fp8"}
    found = [f"{word} does" for kind, word in words.items()
             if kind != quantized and op in quantizable(backend, version, kind)]  # fmt: skip
    later = [since for name, since, table in BUILDS
             if name == backend and since > _numbers(version) and op in table.get(quantized, frozenset())]  # fmt: skip
    found += [f"{quantized} from {since[0]}.{since[1]} on (--target-version)" for since in later[:1]]
    return f"; {', '.join(found)}" if found else ""


def loses(backend: str, version: str, gpu: str) -> bool:
    """Whether 8 bits are known to be slower than float16 on this GPU."""
    return any(backend == name and _numbers(version) < since and gpu.startswith(one) for name, since, one in SLOWER)


def refused(backend: str, low: str) -> frozenset[str]:
    """Operators that stay in float32 because the backend does not build them in this dtype."""
    return REFUSED.get((backend, low), frozenset())


def _numbers(version: str) -> tuple[int, int]:
    parts = [int(part) for part in version.split(".")[:2] if part.isdecimal()]
    return (parts[0], parts[1]) if len(parts) == 2 else (0, 0)
