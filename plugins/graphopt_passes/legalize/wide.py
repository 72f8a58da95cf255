"""Operators over dtypes that TensorRT lacks, computed in the dtype that carries them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import dtypes
from graphopt.ir.graph import new_constant
from graphopt.rewrite.build import Skip
from graphopt.rewrite.value import Value
from graphopt.rewrite.worklist import Model

from .carried import CARRIER, NEVER_TAKEN, carrier, hold, is_pack, pack, round_to, unpack, wrap
from .site import Site, rewrite

MOVES = frozenset(
    "Reshape Transpose Identity Squeeze Unsqueeze Flatten Slice Concat Split Expand Tile Gather GatherElements "
    "GatherND DepthToSpace SpaceToDepth Pad".split()
)
"""What TensorRT does with int8, int4 and float8, too."""
SELECTS = MOVES | frozenset(
    "Where Max Min Clip Equal Less Greater LessOrEqual GreaterOrEqual Mod Sign ArgMax ArgMin TopK ReduceMax ReduceMin "
    "ScatterElements ScatterND Scatter Trilu OneHot ReverseSequence Shape Size Relu Compress NonZero Hardmax "
    "IsNaN IsInf TensorScatter Ceil Floor Round Upsample".split()
)
"""Their results are values of D where their operands are."""
COMPUTES = frozenset(
    "Add Sub Mul Div Neg Abs Sum ReduceSum ReduceProd ReduceL1 ReduceSumSquare CumSum CumProd Pow MatMul Gemm".split()
)
"""Their results are wrapped, or rounded."""
MAKES = frozenset("ConstantOfShape EyeLike Range RandomNormal RandomUniform RandomNormalLike RandomUniformLike".split())
WIDENED = sorted(SELECTS | COMPUTES | MAKES | {"Cast", "CastLike", "MaxPool", "Resize", "ReduceMean"})


@graphopt.pass_("legalize", ops=WIDENED)
def widen_dtypes(graph: gs.Graph, target: Target, model: Model) -> int:
    """f(x) over D = pack(hold_D(f(unpack(x)))), for dtypes D that the target does not compute in.

    int8, int16, uint8 and uint16 are carried in int32, uint32 and uint64 in int64 (uint64 below 2**63), small floats in
    float32; sums and products wrap around or are rounded as D does. Not where only movement touches a value that
    QuantizeLinear made: TensorRT moves those as they are.

    Accuracy: exact: integers wrap around, small floats are rounded to even after each operator; uint64 below 2**63.
    """
    return rewrite(model, target, {op: _widen for op in WIDENED}, "widen-dtypes", _is_concerned)


def _is_concerned(node: gs.Node) -> bool:
    """Whether any value may be of a dtype that is carried in another."""
    if node.op in ("Cast", "CastLike"):
        return True
    for tensor in (*node.inputs, *node.outputs):
        dtype = dtypes.of(tensor)
        if dtype is not None and dtypes.name(dtype) in CARRIER:
            return True
    return False


def _name(value: Value | None) -> str:
    return "" if value is None or value.dtype is None else dtypes.name(value.dtype)


def _widen(site: Site) -> Any:
    node = site.node
    if is_pack(node):
        raise Skip("it stands at the interface of a carried value")
    if node.op in ("Cast", "CastLike"):
        return _cast(site)
    if node.op == "Identity" and not is_pack(site[0].producer):
        raise Skip("a copy; widened, it is simplified to a copy again")
    given = {_name(value) for value in site.inputs} & CARRIER.keys()
    made = {dtypes.name(dtypes.of(t)) for t in node.outputs if t.name and dtypes.of(t) is not None} & CARRIER.keys()
    if not given | made:
        raise Skip("")  # no value is of a dtype that TensorRT lacks
    if len(given | made) > 1:
        raise Skip(f"several dtypes that TensorRT lacks meet: {', '.join(sorted(given | made))}")
    name = next(iter(given | made))
    if (
        node.op in MOVES
        and name not in NEVER_TAKEN
        and not any(_is_carried(site, value, name) for value in site.inputs)
    ):
        raise Skip("TensorRT moves such values as they are")
    if node.op in ("Resize", "Upsample") and site.attr("mode", "nearest") != "nearest":
        raise Skip("how interpolated whole numbers are rounded is not defined")
    kind = np.dtype(CARRIER[name])
    inner = np.dtype(np.float32) if node.op in ("MaxPool", "Resize", "Upsample", "ReduceMean") else kind
    operands = [None if value is None else unpack(site, value) for value in site.inputs[: len(node.inputs)]]
    if inner != kind:
        if name in ("uint32", "uint64"):
            raise Skip("float32 does not hold it")
        operands = [
            site.cast(wide, inner) if wide is not None and _name(value) == name else wide
            for wide, value in zip(operands, site.inputs, strict=False)
        ]
    attrs = {key: _attribute(value, name) for key, value in node.attrs.items()}
    if "dtype" in attrs:
        attrs["dtype"] = dtypes.to_onnx(carrier(dtypes.from_onnx(int(attrs["dtype"]))) or int(attrs["dtype"]))
    _accepts(site, inner)
    results = site.op.raw(node.op, operands, attrs, len(node.outputs))
    found: list[Value | None] = []
    for slot, tensor in enumerate(node.outputs):
        dtype = dtypes.of(tensor)
        if not site.wants(slot):
            found.append(None)
        elif dtype is not None and dtypes.name(dtype) == name:
            result = results[slot]
            if inner != kind:
                result = site.cast(result, kind)
            elif node.op in COMPUTES or node.attrs.get("reduction", "none") not in ("none", "max", "min"):
                result = hold(site, result, dtype)
            found.append(pack(site, result, dtype))
        else:
            found.append(results[slot])
    return found


def _is_carried(site: Site, value: Value | None, name: str) -> bool:
    """Whether a value is packed, or a uint8 input, of which TensorRT takes a Cast and nothing else."""
    if value is None or value.tensor is None:
        return False
    return is_pack(value.producer) or (name == "uint8" and site.model.editor.is_input(value.tensor))


def _accepts(site: Site, wide: np.dtype[Any]) -> None:
    schema = onnx.defs.get_schema(site.node.op, site.opset)
    word = {"float32": "float", "float64": "double"}.get(wide.name, wide.name)
    slots = [slot for slot, value in enumerate(site.inputs[: len(site.node.inputs)]) if _name(value) in CARRIER]
    for slot in slots:
        formal = schema.inputs[min(slot, len(schema.inputs) - 1)]
        if f"tensor({word})" not in formal.types:
            raise Skip(f"{site.node.op} takes no {wide.name} at opset {site.opset}")


def _attribute(value: Any, name: str) -> Any:
    if isinstance(value, gs.Constant) and dtypes.name(value.dtype) in CARRIER:
        return new_constant(value.name, value.values.astype(CARRIER[dtypes.name(value.dtype)]))
    if isinstance(value, gs.Graph):
        raise Skip("it has bodies")
    return value


def _cast(site: Site) -> Any:
    """Cast(x, to=Y) over dtypes that are carried: wrapped for integers, rounded for small floats."""
    x, target = site[0], site.out_dtype()
    source = _name(x)
    wanted = dtypes.name(target)
    if source not in CARRIER and wanted not in CARRIER:
        raise Skip("")  # no value is of a dtype that TensorRT lacks
    producer = x.producer
    out = site.node.outputs[0]
    if site.model.editor.is_result(out) and not out.outputs and wanted in ("int8", "uint8") and source not in CARRIER:
        raise Skip("it stands at the model's interface")
    if source in ("uint8", "int8") and x.tensor is not None and site.model.editor.is_input(x.tensor):
        if wanted not in CARRIER:
            raise Skip("it stands at the model's interface")
        if wanted in ("int8", "uint8") and site.model.editor.is_result(site.node.outputs[0]) and source == wanted:
            raise Skip("it stands at the model's interface")
    if source in CARRIER and (wanted not in CARRIER or wanted == "uint64") and not is_pack(producer) and not x.is_const:
        raise Skip("it unpacks a value")  # else two casts, which simplify to this one
    wide = unpack(site, x)
    if wanted not in CARRIER:
        return site.cast(wide, target) if wide.dtype != target else (wide if wide.is_const else site.op.Identity(wide))
    kind = carrier(target)
    assert kind is not None
    saturate = bool(site.node.attrs.get("saturate", 1))
    if kind.kind == "f":
        result = round_to(site, _as_float(site, wide), target, saturate)
    else:
        result = wrap(site, _as_integer(site, wide, kind), target)
    return pack(site, result, target)


def _as_float(site: Site, wide: Value) -> Value:
    return site.cast(wide, np.float32)


def _as_integer(site: Site, wide: Value, kind: np.dtype[Any]) -> Value:
    return site.cast(wide, kind)


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [widen_dtypes]
