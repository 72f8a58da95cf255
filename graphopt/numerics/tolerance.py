"""The one table of tolerances: how far a result may be from its source, by dtype and by requested precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Tolerance:
    """||actual - expected|| <= relative_l2 * ||expected||, or max|expected| and max|actual - expected| <= near_zero.

    Both zero means exact. `near_zero` is in the units of the tensor: below it a reference is rounding noise.
    """

    relative_l2: float
    near_zero: float

    @property
    def exact(self) -> bool:
        return self.relative_l2 == 0.0


EXACT = Tolerance(0.0, 0.0)
_FP32 = Tolerance(1e-5, 5e-7)

TABLE: Mapping[str, Tolerance] = MappingProxyType(
    {
        "float64": Tolerance(1e-10, 1e-14),
        "float32": _FP32,
        "tf32": Tolerance(2e-3, 1e-5),
        "float16": Tolerance(5e-3, 6e-5),
        "bfloat16": Tolerance(8e-3, 1e-5),
        "float8_e4m3fn": Tolerance(8e-2, 2e-3),
        "float8_e4m3fnuz": Tolerance(8e-2, 1e-3),
        "float8_e5m2": Tolerance(0.16, 2e-5),
        "float8_e5m2fnuz": Tolerance(0.16, 1e-5),
        "float8_e8m0fnu": EXACT,
        "float4_e2m1fn": Tolerance(0.3, 0.5),
        "complex64": _FP32,
        "complex128": Tolerance(1e-10, 1e-14),
        "int8 weights": Tolerance(5e-2, 1e-5),
        "int4 weights": Tolerance(0.2, 1e-5),
    }
)
"""Keys are numpy (ml_dtypes) dtype names, 'tf32', and the two quantized modes. What is not here is compared exactly."""

_MODES: Mapping[str, str] = MappingProxyType(
    {
        "fp16": "float16",
        "bf16": "bfloat16",
        "fp8": "float8_e4m3fn",
        "int8": "int8 weights",
        "int4": "int4 weights",
        "auto": "int8 weights",
    }
)

ESCALATION_FACTOR = 2.0
ROUNDING_FACTOR = 8.0
"""Of the source's own float32 error, where source and result agree in float64 better than that."""
ESCALATION_LIMIT = 5e-3
"""An escalated relative bound stays under this: a float64 evaluation that is further off is broken, not informative."""
CHAOTIC_LIMIT = 0.5
"""Beyond this error of the source's float32 the two have nothing in common, and nothing is proved."""
ONE_FORMULA = 1e-6
"""Source and result are one formula if they are no further apart in float64, however chaotic float32 is."""
ESCALATION_NEAR_ZERO = 1e-6
"""An escalated absolute bound stays under this, as a sigmoid in float32 is off by up to 1e-7 however small it is."""


def tolerance_for(dtype: str, precision: str = "fp32", behind: str = "") -> Tolerance:
    """The loosest of the dtype's own row, that of the precision in which the result computes, and that of `behind`.

    dtype: numpy name ('float32', 'bfloat16', 'int64', 'bool', 'string'); ints, bool and strings are always exact.
    precision: of config.PRECISIONS; 'tf32' and 'fp32' mean the dtype's own row: the CPU computes in full float32.
    behind: the coarsest dtype that the source itself rounds to on the way to the output (coarse.computed_in).
    """
    own = TABLE.get(dtype, EXACT)
    return own if own.exact else _loosest(own, _MODES.get(precision, ""), behind)


def engine_tolerance(dtype: str, precision: str = "tf32", behind: str = "") -> Tolerance:
    """The bound for an engine on a GPU: tolerance_for, but 'tf32' loosens float32 outputs to TF32's own row."""
    if precision == "tf32" and dtype == "float32":
        return _loosest(TABLE["tf32"], behind)
    return tolerance_for(dtype, precision, behind)


def _loosest(own: Tolerance, *rows: str) -> Tolerance:
    known = [own, *(TABLE[row] for row in rows if row in TABLE)]
    return Tolerance(max(row.relative_l2 for row in known), max(row.near_zero for row in known))


def escalated(own_relative_l2: float, own_max_abs: float) -> Tolerance:
    """relative_l2 = max(1e-5, 2 * own_relative_l2), or 1e-5 where 2 * own_relative_l2 > ESCALATION_LIMIT.

    near_zero = min(2 * own_max_abs, ESCALATION_NEAR_ZERO): a bound of max|actual - expected| at any max|expected|.
    own_*: the source's own difference between float32 and float64.
    """
    wider = ESCALATION_FACTOR * own_relative_l2
    relative = max(_FP32.relative_l2, wider) if wider <= ESCALATION_LIMIT else _FP32.relative_l2
    absolute = ESCALATION_FACTOR * own_max_abs
    return Tolerance(relative, min(absolute, ESCALATION_NEAR_ZERO) if absolute >= 0 else 0.0)
