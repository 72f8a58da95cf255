"""What a layer's outputs should be: its body in float64, rounded once; and how far from it is too far."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import helper

from graphopt.errors import GraphoptError, PluginError
from graphopt.ir import dtypes
from graphopt.layers.emit import body_model
from graphopt.layers.facts import outputs_of
from graphopt.layers.function import call_attributes, function_of
from graphopt.layers.layer import DOMAIN
from graphopt.layers.tensor import Size
from graphopt.layers.trace import trace
from graphopt.numerics.rounding import rounded
from graphopt.rewrite.build import Skip

from .cases import Case

OPSETS = (21, 23, 18, 17, 13)
"""Where a body is tried, in this order."""
LIMITS = {"float64": 1e-12, "float32": 1e-5, "float16": 1.02 * 2.0**-10, "bfloat16": 1.02 * 2.0**-7}
"""|got - want| / (|want| + rms(want)): one unit in the last place of the half types, sums of float32."""
Arrays = Sequence[np.ndarray[Any, Any]]


def opset_of(case: Case) -> int:
    """The first of OPSETS at which the layer can be said. Raises PluginError."""
    reasons = []
    for opset in OPSETS:
        try:
            trace(case.layer, opset, case.present, fixed(case))
            proto(case, opset)
            return opset
        except Skip as skip:
            reasons.append(f"{opset}: {skip}")
    raise PluginError(f"the body can be said at no opset: {'; '.join(reasons)}", where=f"layer {case.layer.name}")


def fixed(case: Case) -> dict[str, Any]:
    """The variant that the case's attributes belong to."""
    for variant in case.layer.variants:
        if all(case.layer.values[name] == value for name, value in variant.items()):
            return dict(variant)
    raise PluginError(f"{case.layer} is none of its variants", where=f"layer {case.layer.name}")


def proto(case: Case, opset: int) -> onnx.FunctionProto:
    """The function that stands for this call in a model."""
    return function_of(case.layer, opset, case.present, fixed(case), case.kinds, case.layer.values)


def truth(case: Case, arrays: Mapping[str, np.ndarray[Any, Any]], spelling: str = "") -> list[np.ndarray[Any, Any]]:
    """The body's outputs in float64 of these inputs."""
    opset = opset_of(case)
    body = trace(case.layer, opset, case.present, fixed(case), spelling)
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    model, _ = body_model(body, opset, case.kinds, case.layer.values, shapes, double=True)
    feeds = {name: array.astype(np.float64) if _is_wide(array.dtype) else array for name, array in arrays.items()}
    told = outputs_of(case.layer, dict(zip(case.present, case.tensors(), strict=True)))
    try:
        return evaluate(model, feeds)
    except GraphoptError:
        if any(isinstance(dim, Size) for one in told for dim in one.shape) or any(one.size for one in told):
            raise
        return [np.zeros(one.shape, one.dtype) for one in told]  # no evaluator makes nothing of nothing


def _is_wide(kind: Any) -> bool:
    return dtypes.is_float(kind) and not dtypes.is_stored(kind)


def evaluate(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    """Run in onnxruntime; in onnx's reference where that lacks an operator for a dtype, and for empty inputs.

    Some versions of onnxruntime reduce what is empty to itself.
    """
    import onnxruntime as ort

    if not all(array.size for array in feeds.values()):
        with suppress(GraphoptError):
            return refer(model, feeds)

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [np.asarray(array) for array in session.run(None, dict(feeds))]
    except Exception:  # a missing kernel is reported in several ways
        return refer(model, feeds)


def round_each(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    """Run in onnxruntime with every operator's result rounded to its dtype; in onnx's reference what it cannot take."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        if not _is_as_declared(model):
            return refer(model, feeds)
        wide = _exchanged_wide(model)
        session = ort.InferenceSession(
            rounded(wide).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )  # fmt: skip
        given = {name: array.astype(np.float32) if _is_low(array.dtype) else array for name, array in feeds.items()}
        got = [np.asarray(array) for array in session.run(None, given)]
    except Exception:  # a missing kernel is reported in several ways
        return refer(model, feeds)
    kinds = [dtypes.from_onnx(value.type.tensor_type.elem_type) for value in model.graph.output]
    return [array.astype(kind) for array, kind in zip(got, kinds, strict=True)]


def _is_as_declared(model: onnx.ModelProto) -> bool:
    """Whether the outputs are of the dtypes that they are said to be."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for value in bare.graph.output:
        value.ClearField("type")
    found = onnx.shape_inference.infer_shapes(bare).graph.output
    pairs = zip(found, model.graph.output, strict=True)
    return all(a.type.tensor_type.elem_type == b.type.tensor_type.elem_type for a, b in pairs)


def _is_low(kind: Any) -> bool:
    return dtypes.is_float(kind) and np.dtype(kind).itemsize < 4


def _exchanged_wide(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with low-precision inputs and outputs exchanged as float32, which every runtime can: same values."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    graph = wide.graph
    first: list[onnx.NodeProto] = []
    last: list[onnx.NodeProto] = []
    nodes = list(graph.node)
    for values, casts in ((graph.input, first), (graph.output, last)):
        for value in values:
            kind = value.type.tensor_type
            if _is_low(dtypes.from_onnx(kind.elem_type)):
                inner, outer = f"{value.name}__low", value.name
                ends = (outer, inner) if casts is first else (inner, outer)
                to = kind.elem_type if casts is first else onnx.TensorProto.FLOAT
                casts.append(helper.make_node("Cast", [ends[0]], [ends[1]], to=to))
                kind.elem_type = onnx.TensorProto.FLOAT
                for node in nodes:
                    names = node.input if casts is first else node.output
                    names[:] = [inner if name == outer else name for name in names]
    del graph.node[:]
    graph.node.extend([*first, *nodes, *last])
    return wide


def refer(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    """Run in onnx's reference: operator by operator, each result rounded to its dtype."""
    from onnx.inliner import inline_local_functions
    from onnx.reference import ReferenceEvaluator

    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing
            inlined = inline_local_functions(model)  # the reference does not resolve strings that a call passes on
            return [np.asarray(array) for array in ReferenceEvaluator(inlined).run(None, dict(feeds))]
    except Exception as error:
        raise GraphoptError(f"onnx's reference cannot run it: {type(error).__name__}: {error}") from error


def call_model(case: Case, opset: int) -> onnx.ModelProto:
    """A model with one call of the layer."""
    function = proto(case, opset)
    outputs = outputs_of(case.layer, dict(zip(case.present, case.tensors(), strict=True)))
    names = [f"out{at}" for at in range(len(outputs))]
    node = helper.make_node(
        function.name, list(case.present), names, domain=DOMAIN,
        **call_attributes(case.layer, case.present, case.layer.values),
    )  # fmt: skip
    ins = [
        helper.make_tensor_value_info(name, dtypes.to_onnx(case.kinds[name]), case.shapes[name])
        for name in case.present
    ]
    outs = [
        helper.make_tensor_value_info(
            name, dtypes.to_onnx(one.dtype), [dim if isinstance(dim, int) else None for dim in one.shape]
        )
        for name, one in zip(names, outputs, strict=True)
    ]
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    graph = helper.make_graph([node], "call", ins, outs)
    return helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=10)


def difference(got: np.ndarray[Any, Any], want: np.ndarray[Any, Any], dtype: Any) -> tuple[float, str]:
    """(error, what is wrong): |got - want| / (|want| + rms(want)), largest; integers must be equal.

    `want` is in float64, and rounded to the dtype first where that makes it infinite.
    """
    if got.shape != want.shape:
        return np.inf, f"shape {got.shape} instead of {want.shape}"
    if got.size == 0:
        return 0.0, ""
    if not dtypes.is_float(dtype):
        wrong = int(np.count_nonzero(got != want.astype(got.dtype)))
        return (np.inf, f"{wrong} of {got.size} elements differ") if wrong else (0.0, "")
    with np.errstate(all="ignore"):
        wide, target = got.astype(np.float64), want.astype(np.float64)
        rounded = target.astype(dtype).astype(np.float64)
        target = np.where(np.isfinite(rounded), target, rounded)
        finite = np.isfinite(target)
        odd = ~finite & ~((wide == target) | (np.isnan(wide) & np.isnan(target)))
        if odd.any() or not np.isfinite(wide[finite]).all():
            at = np.argwhere(odd | (finite & ~np.isfinite(wide)))[0].tolist()
            return np.inf, f"{wide[tuple(at)]} instead of {target[tuple(at)]} at {at}"
        if not finite.any():
            return 0.0, ""
        target, wide = target[finite], wide[finite]
        scale = np.abs(target) + np.sqrt(np.mean(np.square(target)))
        errors = np.abs(wide - target) / np.where(scale == 0, 1, scale)
        worst = int(np.argmax(errors))
        return float(errors[worst]), f"{wide[worst]} instead of {target[worst]}"


@cache
def limit(dtype: Any) -> float:
    """The largest error that rounding explains."""
    name = np.dtype(dtype).name
    if name in LIMITS:
        return LIMITS[name]
    if not dtypes.is_float(dtype):
        return 0.0
    one = np.ones((), dtype)
    return float(1.02 * (np.nextafter(one, one * 2).astype(np.float64) - 1))
