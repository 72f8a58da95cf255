"""Constants in another float dtype: checked for what it cannot hold, converted when they are written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphopt.ir import dtypes
from graphopt.ir.graph import put
from graphopt.ir.weights import Array, read, stored_bytes

from .plan import LARGEST

_STEP = 1 << 22
_FOLLOWED = 400
FEW = 8
SENTINEL = 32752.0
"""What takes the place of a masking constant beyond float16: half the largest, so that adding to it stays finite."""
_MASKS = frozenset("Add Sub Mul Where".split())
PASSES = _MASKS | frozenset(
    "Reshape Transpose Unsqueeze Squeeze Expand Concat Slice Identity Gather Tile Min Max Div Flatten Split "
    "Cast".split()
)
LEAST = {"float16": 5.9604645e-08}
_FACTORS = frozenset("Mul Div Pow Log Sqrt Reciprocal".split())
"""Where a constant that vanishes changes all of the result. Added, it becomes the least positive number instead of
zero, so that what it keeps away from zero stays away."""
_BOUNDS = frozenset({"Clip", "Min", "Max"})


class Converted(LazyValues):  # type: ignore[misc]
    """Values of a constant in another dtype, made when they are asked for; finite ones stay finite."""

    def __init__(self, source: gs.Constant, dtype: Any, largest: float) -> None:
        self.source = source
        self.dtype = np.dtype(dtype)
        self.shape = tuple(source._values.shape)
        self.nbytes = stored_bytes(self.dtype, self.shape)
        self._largest = largest

    @property
    def tensor(self) -> Any:
        """graphsurgeon's view of lazy values."""
        from onnx import numpy_helper

        return numpy_helper.from_array(self.load())

    def load(self) -> Array:
        return rounded_to(read(self.source), self.dtype, self._largest)


def rounded_to(values: Array, dtype: Any, largest: float) -> Array:
    """The values in dtype, to nearest; finite ones beyond it become +-largest; of a few, none vanishes."""
    with np.errstate(all="ignore"):
        cast = values.astype(dtype)
        if values.size <= FEW and values.dtype != cast.dtype:
            gone = (cast == 0) & (values != 0)
            cast = np.where(gone, np.copysign(LEAST.get(dtypes.name(dtype), 0.0), values).astype(dtype), cast)
        lost = np.isinf(cast.astype(np.float32)) & np.isfinite(values) if values.dtype != cast.dtype else None
        if lost is not None and lost.any():
            cast = np.where(lost, (np.sign(values) * largest).astype(dtype), cast)
    return np.asarray(cast)


def pieces(constant: gs.Constant) -> Iterator[Array]:
    """The values, flat, some megabytes at a time."""
    flat = read(constant).reshape(-1)
    for start in range(0, flat.size, _STEP):
        yield flat[start : start + _STEP]


@dataclass(frozen=True)
class Fit:
    """How float16 or bfloat16 holds a constant."""

    beyond: float = 0.0
    """The largest finite magnitude that it cannot hold; 0 where it holds all."""
    vanished: int = 0
    """How many values that are not zero become zero."""
    relative: float = 0.0
    """Relative L2 error of what it holds."""


def fit(constant: gs.Constant, dtype: Any) -> Fit:
    """Range check of a constant: one read, however many nodes share it."""
    known: dict[Any, Fit] | None = getattr(constant, "_fits", None)
    if known is None:
        put(constant, "_fits", known := {})
    key = (id(constant._values), dtypes.name(dtype))
    if key not in known:
        beyond, vanished, error, size = 0.0, 0, 0.0, 0.0
        for piece in pieces(constant):
            with np.errstate(all="ignore"):
                wide = piece.astype(np.float64)
                cast = piece.astype(dtype).astype(np.float64)
                lost = np.isinf(cast) & np.isfinite(wide)
                if lost.any():
                    beyond = max(beyond, float(np.abs(wide[lost]).max()))
                vanished += int(np.count_nonzero((cast == 0) & (wide != 0)))
                plain = np.isfinite(cast) & np.isfinite(wide)
                error += float(np.sum((cast[plain] - wide[plain]) ** 2))
                size += float(np.sum(wide[plain] ** 2))
        known[key] = Fit(beyond, vanished, (error / size) ** 0.5 if size else 0.0)
    return known[key]


def largest_for(node: gs.Node, dtype: Any) -> float:
    """What takes the place of a finite value beyond the dtype in a constant that this node reads."""
    top = LARGEST[dtypes.name(dtype)]
    return top if node.op in _BOUNDS or top > 1e6 else SENTINEL


def trouble(node: gs.Node, slot: int, constant: gs.Constant, dtype: Any) -> str:
    """Why a node must not read this constant in dtype; '' where it may.

    A masking constant (-3.4e38 added to scores, or chosen by Where) may become -32752 where all that comes of it ends
    in a Softmax or Sigmoid, for which the two are the same. Bounds of Clip may become the largest value, and what
    is added (the epsilon of a norm) the least one instead of zero. A factor that vanishes keeps its node in float32.
    """
    found = fit(constant, dtype)
    if found.beyond and node.op not in _BOUNDS and not (node.op in _MASKS and ends_in_softmax(node)):
        return f"constant {constant.name!r} has {found.beyond:.3g}, beyond {dtypes.name(dtype)}"
    size = int(np.prod(constant._values.shape, dtype=np.int64))
    if size > FEW or node.op not in _FACTORS:
        return ""  # a tiny weight among others, or one that is added: what that costs is measured
    if found.vanished:
        return f"constant {constant.name!r} becomes zero in {dtypes.name(dtype)}"
    if found.relative > 2e-2:
        return f"constant {constant.name!r} keeps too few digits in {dtypes.name(dtype)} (off by {found.relative:.2g})"
    return ""


def ends_in_softmax(node: gs.Node) -> bool:
    """Whether everything that is made of the node's result goes through a Softmax, Sigmoid or Attention's mask."""
    pending, seen = [node], {id(node)}
    while pending:
        for tensor in pending.pop().outputs:
            if not tensor.outputs:
                return False
            for user in tensor.outputs:
                if user.domain not in (None, ""):
                    return False
                if user.op in ("Softmax", "Sigmoid", "Attention"):
                    continue
                if user.op not in PASSES or len(seen) > _FOLLOWED:
                    return False
                if id(user) not in seen:
                    seen.add(id(user))
                    pending.append(user)
    return True
