"""Pad becomes the padding of the convolution or pooling behind it, where that pads with the same number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import graphopt
from graphopt.ir import dtypes
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.value import Value

from .affine import whole_number


def spatial_pads(pads: Value, axes: Value | None, rank: int | None) -> list[int]:
    """What Pad adds before and behind each spatial axis. Raises Skip unless that is all, and nothing is cut off."""
    given = pads.const
    if given is None or rank is None or rank < 3:
        raise graphopt.Skip("the pads or the rank are unknown")
    amounts = [int(amount) for amount in given.reshape(-1)]
    if any(amount < 0 for amount in amounts):
        raise graphopt.Skip("a negative pad cuts off")
    along = list(range(rank))
    if axes is not None:
        if axes.const is None:
            raise graphopt.Skip("the axes are unknown")
        along = [int(axis) % rank for axis in axes.const.reshape(-1)]
    if len(amounts) != 2 * len(along):
        raise graphopt.Skip("the pads do not fit the axes")
    full = [0] * (2 * rank)
    for place, axis in enumerate(along):
        full[axis] += amounts[place]
        full[rank + axis] += amounts[len(along) + place]
    if full[0] or full[1] or full[rank] or full[rank + 1]:
        raise graphopt.Skip("it pads the batch or the channels")
    return full[2:rank] + full[rank + 2 :]


def fill(value: Value | None) -> float:
    """The number that Pad pads with."""
    if value is None or value.size == 0:
        return 0.0
    if value.const is None:
        raise graphopt.Skip("the value is unknown")
    return float(value.const.astype(np.float64).reshape(-1)[0])


def joined(attrs: Mapping[str, Any], more: list[int]) -> dict[str, Any]:
    """The attributes of a window operator that pads by `more` besides. Raises Skip where it pads by itself."""
    if attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise graphopt.Skip("SAME padding depends on the padded size")
    own = attrs.get("pads") or [0] * len(more)
    if not isinstance(own, (list, tuple)):
        raise graphopt.Skip("pads is a parameter of the enclosing function")
    if len(own) != len(more):
        raise graphopt.Skip("the pads are of another rank")
    rest = {name: value for name, value in attrs.items() if name != "auto_pad"}
    return rest | {"pads": [a + b for a, b in zip(own, more, strict=True)]}


class FoldPadIntoConv(graphopt.Rule):
    """Conv(Pad(x, p, 0), w, b, pads=q) = Conv(x, w, b, pads=p + q), p spatial and not negative."""

    def pattern(self, op: Any, x: Any, p: Any, value: Any, axes: Any, w: Any, b: Any, conv: Any) -> Any:
        return op.Conv(_pad(op, x, p, value, axes), w, op.maybe(b), attrs=conv)

    def rewrite(
        self,
        op: Any,
        x: Value,
        p: Value,
        value: Value | None,
        axes: Value | None,
        w: Value,
        b: Value | None,
        conv: dict[str, Any],
    ) -> Any:
        if fill(value) != 0:
            raise graphopt.Skip("it does not pad with zeros")
        rank = w.rank if w.rank is not None else x.rank
        return op.Conv(x, w, b, **joined(conv, spatial_pads(p, axes, rank)))


class FoldPadIntoAveragePool(graphopt.Rule):
    """AveragePool(Pad(x, p, 0), pads=q) = AveragePool(x, pads=p + q, count_include_pad=1), p spatial, not negative.

    Where q is not zero, the pool itself must count its padding. Not with ceil_mode, where the last window may reach
    beyond the padding, and is divided differently there.
    """

    def pattern(self, op: Any, x: Any, p: Any, value: Any, axes: Any, pool: Any) -> Any:
        return op.AveragePool(_pad(op, x, p, value, axes), attrs=pool)

    def rewrite(
        self, op: Any, x: Value, p: Value, value: Value | None, axes: Value | None, pool: dict[str, Any]
    ) -> Any:
        if fill(value) != 0:
            raise graphopt.Skip("it does not pad with zeros")
        attrs = window(pool, spatial_pads(p, axes, rank_of(x, pool)))
        if any(pool.get("pads") or ()) and not whole_number(pool, "count_include_pad", 0):
            raise graphopt.Skip("the pool does not count its own padding")
        return op.AveragePool(x, **(attrs | {"count_include_pad": 1}))


class FoldPadIntoMaxPool(graphopt.Rule):
    """MaxPool(Pad(x, p, -inf), pads=q) = MaxPool(x, pads=p + q), p spatial and not negative.

    Also where the padding is zero (or less) and x is not negative, as behind Relu: every window holds an element of x.
    """

    def pattern(self, op: Any, x: Any, p: Any, value: Any, axes: Any, pool: Any) -> Any:
        return op.MaxPool(_pad(op, x, p, value, axes), attrs=pool)

    def rewrite(
        self, op: Any, x: Value, p: Value, value: Value | None, axes: Value | None, pool: dict[str, Any]
    ) -> Any:
        if not dtypes.is_float(x.dtype):
            raise graphopt.Skip("the dtype is unknown, or holds no -inf")
        if fill(value) != -np.inf and not (fill(value) <= 0 and _is_positive(x)):
            raise graphopt.Skip("the padding may be the maximum")
        return op.MaxPool(x, **window(pool, spatial_pads(p, axes, rank_of(x, pool))))


def _pad(op: Any, x: Any, p: Any, value: Any, axes: Any) -> Any:
    return op.Pad(x, op.Const(p), op.maybe(op.Const(value)), op.maybe(op.Const(axes)), mode="constant")


def rank_of(x: Value, pool: Mapping[str, Any]) -> int | None:
    """The rank of x, which the window tells too."""
    kernel = pool.get("kernel_shape")
    return len(kernel) + 2 if isinstance(kernel, (list, tuple)) else x.rank


def window(pool: Mapping[str, Any], more: list[int]) -> dict[str, Any]:
    """The attributes of a pool that pads by `more` besides. Raises Skip where a window could lie in the padding."""
    attrs = joined(pool, more)
    kernel = pool.get("kernel_shape")
    if not isinstance(kernel, (list, tuple)) or len(kernel) * 2 != len(more):
        raise graphopt.Skip("the window is unknown")
    if whole_number(pool, "ceil_mode", 0):
        raise graphopt.Skip("with ceil_mode the last window may reach beyond the padding")
    if any(step != 1 for step in pool.get("dilations") or ()):
        raise graphopt.Skip("a dilated window may lie in the padding")
    if any(amount >= size for amount, size in zip(attrs["pads"], [*kernel, *kernel], strict=True)):
        raise graphopt.Skip("a window may lie in the padding")
    return attrs


_POSITIVE = frozenset("Relu Sigmoid HardSigmoid Softmax Softplus Exp Sqrt Abs".split())


def _is_positive(x: Value) -> bool:
    maker = x.producer
    if maker is None or not is_standard(maker):
        return False
    if maker.op == "Clip":
        low = Value(maker.inputs[1]).const if len(maker.inputs) > 1 else maker.attrs.get("min")
        return low is not None and bool(np.all(np.asarray(low) >= 0))
    return maker.op in _POSITIVE


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [FoldPadIntoConv(), FoldPadIntoAveragePool(), FoldPadIntoMaxPool()]
