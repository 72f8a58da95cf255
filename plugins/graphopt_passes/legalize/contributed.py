"""onnxruntime's own quantized operators, between the standard ones that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.rewrite.build import Skip
from graphopt.rewrite.value import Value
from graphopt.rewrite.worklist import Model

from .site import Site, attempt

DOMAIN = "com.microsoft"
_POOLED = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")


def _wide(site: Site, slot: int, **attrs: Any) -> Value:
    """DQ of the operand, scale and zero point that begin at a slot. Raises Skip where the scale is a vector."""
    x, scale, zero = site[slot], site[slot + 1], site.input(slot + 2)
    if not attrs and not _is_number(scale):
        raise Skip("a scale is computed, or not a number")
    made: Value = site.op.DequantizeLinear(x, scale, *([] if zero is None else [zero]), **attrs)
    return made


def _is_number(value: Value) -> bool:
    return value.const is not None and value.const.size == 1


def _narrow(site: Site, y: Value, slot: int) -> Value:
    """Q of a result with the scale and zero point that begin at a slot."""
    scale, zero = site[slot], site.input(slot + 1)
    if not _is_number(scale):
        raise Skip("a scale is computed, or not a number")
    made: Value = site.op.QuantizeLinear(y, scale, *([] if zero is None else [zero]))
    return made


def _plain(site: Site, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in site.node.attrs.items() if name in names}


def _binary(site: Site) -> Value:
    name = {"QLinearAdd": "Add", "QLinearMul": "Mul"}[site.node.op]
    return _narrow(site, getattr(site.op, name)(_wide(site, 0), _wide(site, 3)), 6)


def _unary(site: Site) -> Value:
    name = {"QLinearSigmoid": "Sigmoid", "QLinearLeakyRelu": "LeakyRelu"}[site.node.op]
    return _narrow(site, getattr(site.op, name)(_wide(site, 0), **_plain(site, ("alpha",))), 3)


def _pool(site: Site) -> Value:
    if site.node.attrs.get("channels_last", 0):
        raise Skip("channels last")
    if site.node.op == "QLinearGlobalAveragePool":
        return _narrow(site, site.op.GlobalAveragePool(_wide(site, 0)), 3)
    return _narrow(site, site.op.AveragePool(_wide(site, 0), **_plain(site, _POOLED)), 3)


def _concat(site: Site) -> Value:
    parts = [_wide(site, slot) for slot in range(2, len(site.inputs), 3)]
    return _narrow(site, site.op.Concat(*parts, axis=int(site.node.attrs["axis"])), 0)


def _softmax(site: Site) -> Value:
    """Before opset 13 it is over all axes from this one on, as the standard operator of then."""
    axis, is_old = int(site.node.attrs.get("axis", -1)), int(site.node.attrs.get("opset", 0)) < 13
    x = _wide(site, 0)
    if is_old != (site.opset < 13) and axis != -1 and axis != (x.rank or 0) - 1:
        raise Skip("over several axes")
    return _narrow(site, site.op.raw("Softmax", [x], {"axis": axis}, 1)[0], 3)


def _gemm(site: Site) -> Value:
    """round(((a - za) @ (b - zb) + c) * (alpha * sa * sb / sy)) + zy, the sum in int32; no sy and zy: not rounded."""
    op, a, b, (sa, sb) = site.op, site[0], site[3], (site[1].const, site[4].const)
    sy = site[7].const if site.input(7) is not None else np.ones(1, np.float32)
    if sa is None or sb is None or sy is None or sa.size != 1 or sy.size != 1:
        raise Skip("a scale is computed, or not a number")
    a = op.Transpose(a, perm=[1, 0]) if site.attr("transA", 0) else a
    b = op.Transpose(b, perm=[1, 0]) if site.attr("transB", 0) else b
    total = op.MatMulInteger(a, b, site[2], site[5])
    if site.input(6) is not None:
        total = op.Add(total, site[6])
    factor = np.float32(site.attr("alpha", 1.0)) * sa.reshape(-1) * sb.reshape(-1) / sy.reshape(-1)
    y = op.Mul(site.cast(total, np.float32), factor.astype(np.float32))
    if site.input(7) is None:
        return y  # type: ignore[no-any-return]
    zero = site.input(8)
    made: Value = op.QuantizeLinear(y, np.float32(1), *([] if zero is None else [zero]))
    return made


HANDLERS = {
    "QLinearAdd": _binary,
    "QLinearMul": _binary,
    "QLinearSigmoid": _unary,
    "QLinearLeakyRelu": _unary,
    "QLinearGlobalAveragePool": _pool,
    "QLinearAveragePool": _pool,
    "QLinearConcat": _concat,
    "QLinearSoftmax": _softmax,
    "QGemm": _gemm,
}


@graphopt.pass_("legalize", ops=tuple(HANDLERS))
def spell_contributed(graph: gs.Graph, target: Target, model: Model) -> int:
    """QLinear f(x, ...) = Q(f(DQ(x), ...)) for onnxruntime's Add, Mul, Sigmoid, LeakyRelu, pools, Concat, Softmax.

    For TensorRT, with constant scales. Not with channels last, nor where the model has a function of that name.

    Accuracy: a value halfway between two integers may round to the other.
    """
    if target.backend not in ("tensorrt", "tensorrt_rtx"):
        return 0
    bodies = {(function.name, function.domain) for function in graph.functions}
    changes = 0
    for node in model.fresh("spell-contributed"):
        handler = HANDLERS.get(node.op)
        if handler is None or node.domain != DOMAIN or (node.op, DOMAIN) in bodies or not model.editor.has(node):
            continue
        if model.home(node) is model.graph and model.opset(node) >= 10:
            changes += attempt(node, model, target, handler, "spell-contributed")
    return changes


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [spell_contributed]
