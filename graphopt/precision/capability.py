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


def refused(backend: str, low: str) -> frozenset[str]:
    """Operators that stay in float32 because the backend does not build them in this dtype."""
    return REFUSED.get((backend, low), frozenset())


def _numbers(version: str) -> tuple[int, int]:
    parts = [int(part) for part in version.split(".")[:2] if part.isdecimal()]
    return (parts[0], parts[1]) if len(parts) == 2 else (0, 0)
