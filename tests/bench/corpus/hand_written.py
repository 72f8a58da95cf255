"""What converters from other frameworks write, node by node: NHWC, nested control flow, functions, odd spellings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .store import Array, Feeds, add, image, normal

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


class Text:
    """A graph written line by line; weights are drawn as they are named."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def __call__(self, op: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        name = f"{op.lower()}_{len(self.nodes)}"
        made = [f"{name}_{i}" for i in range(outputs)]
        named = [one if isinstance(one, str) else self.const(one) for one in inputs]
        self.nodes.append(helper.make_node(op, named, made, name, **attributes))
        return made[0] if outputs == 1 else made

    def const(self, value: Any) -> str:
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        self.weights.append(numpy_helper.from_array(array, f"w{len(self.weights)}"))
        return str(self.weights[-1].name)

    def draw(self, *shape: int, scale: float | None = None) -> Array:
        factor = scale if scale is not None else (2 / max(1, int(np.prod(shape[1:])))) ** 0.5
        return (self.random.standard_normal(shape) * factor).astype(np.float32)

    def save(self, path: Path, inputs: Sequence[Any], outputs: Sequence[Any], opset: int, **more: Any) -> None:
        graph = helper.make_graph(
            self.nodes, "g", [_port(*one) for one in inputs], [_port(*one) for one in outputs], self.weights
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **more)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)  # types of the outputs, which are given none
        onnx.checker.check_model(model)
        onnx.save(model, path)


def _port(name: str, shape: Sequence[Any] | None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def nhwc(opset: int, batch: Any, residual: bool) -> Callable[[Path], Feeds]:
    """As tf2onnx leaves it: every convolution between two transposes, bias and norm in NHWC, SAME padding as Pad."""

    def write(path: Path) -> Feeds:
        t = Text()
        x, channels = "x", 3
        for i, (outer, stride) in enumerate([(16, 2), (16, 1), (32, 2), (32, 1), (48, 2)]):
            y = t("Transpose", x, perm=[0, 3, 1, 2])
            if stride == 2:
                pads = np.array([0, 0, 0, 0, 0, 0, 1, 1])
                y = t("Pad", y, pads) if opset >= 11 else t("Pad", y, pads=pads.tolist())
            y = t(
                "Conv", y, t.draw(outer, channels, 3, 3), strides=[stride] * 2, pads=[0] * 4 if stride == 2 else [1] * 4
            )
            y = t("Transpose", y, perm=[0, 2, 3, 1])
            y = t("Add", t("Mul", y, 1 + 0.2 * t.random.standard_normal(outer)), t.draw(outer, scale=0.2))
            y = t("Relu", y) if i % 2 else t("Mul", y, t("Sigmoid", y))
            x = t("Add", x, y) if residual and outer == channels and stride == 1 else y
            channels = outer
        y = t(
            "Transpose",
            t("MaxPool", t("Transpose", x, perm=[0, 3, 1, 2]), kernel_shape=[2, 2], strides=[2, 2]),
            perm=[0, 2, 3, 1],
        )
        y = t("ReduceMean", y, axes=[1, 2], keepdims=0)
        shape = t("Shape", y)
        rows = t("Slice", shape, np.array([0]), np.array([1]), np.array([0]))
        y = t("Reshape", y, t("Concat", rows, np.array([channels]), axis=0))
        y = t("Softmax", t("Add", t("MatMul", y, t.draw(channels, 10)), t.draw(10, scale=0.1)), axis=1)
        t.save(path, [("x", [batch, 64, 64, 3])], [(y, [None, 10])], opset)
        return {"x": np.ascontiguousarray(np.moveaxis(image(2, 3, 64, 64), 1, 3))}

    return write


def nested(depth: int) -> Callable[[Path], Feeds]:
    """If in If in If, each branch with foldable arithmetic and a capture of the outermost scope."""

    def write(path: Path) -> Feeds:
        def body(level: int, sign: float) -> onnx.GraphProto:
            t = Text()
            mark = f"l{level}{'a' if sign > 0 else 'b'}"
            c = helper.make_node("Constant", [], [f"{mark}_c"], value=numpy_helper.from_array(np.float32(sign * level)))
            twice = helper.make_node("Add", [f"{mark}_c", f"{mark}_c"], [f"{mark}_cc"])
            add_ = helper.make_node("Mul", ["x", f"{mark}_cc"], [f"{mark}_m"])
            t.nodes += [c, twice, add_]
            last = f"{mark}_m"
            if level < depth and sign > 0:
                inner = helper.make_node(
                    "If", ["flag"], [f"{mark}_i"], then_branch=body(level + 1, 1.0), else_branch=body(level + 1, -1.0)
                )
                total = helper.make_node("Add", [last, f"{mark}_i"], [f"{mark}_s"])
                t.nodes += [inner, total]
                last = f"{mark}_s"
            return helper.make_graph(t.nodes, mark, [], [_port(last, None)], t.weights)

        top = helper.make_node("If", ["flag"], ["y"], then_branch=body(1, 1.0), else_branch=body(1, -1.0))
        graph = helper.make_graph(
            [top], "g", [_port("x", [4]), _port("flag", [], TensorProto.BOOL)], [_port("y", None)]
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return {"x": normal(4), "flag": np.array(True)}

    return write


def loop(trip: int, scan: bool) -> Callable[[Path], Feeds]:
    """A Loop of constant trip count with a carried state and a collected output, or the same as a Scan."""

    def write(path: Path) -> Feeds:
        w = numpy_helper.from_array((np.eye(8) * 0.9 + 0.05).astype(np.float32), "w")
        step = [
            helper.make_node("MatMul", ["state", "w"], ["m"]),
            helper.make_node("Tanh", ["m"], ["next"]),
            helper.make_node("Identity", ["next"], ["seen"]),
        ]
        if scan:
            body = helper.make_graph(
                [helper.make_node("Add", ["state0", "row"], ["state"]), *step], "b",
                [_port("state0", [2, 8]), _port("row", [2, 8])], [_port("next", [2, 8]), _port("seen", [2, 8])],
            )  # fmt: skip
            nodes = [helper.make_node("Scan", ["x", "rows"], ["last", "all"], body=body, num_scan_inputs=1)]
            inputs = [_port("x", [2, 8]), _port("rows", [trip, 2, 8])]
            feeds = {"x": normal(2, 8), "rows": normal(trip, 2, 8, seed=1)}
            weights = [w]
        else:
            keep = helper.make_node("Identity", ["going"], ["on"])
            body = helper.make_graph(
                [keep, *step], "b",
                [_port("i", [], INT64), _port("going", [], TensorProto.BOOL), _port("state", [2, 8])],
                [_port("on", [], TensorProto.BOOL), _port("next", [2, 8]), _port("seen", [2, 8])],
            )  # fmt: skip
            nodes = [helper.make_node("Loop", ["trip", "", "x"], ["last", "all"], body=body)]
            inputs, feeds = [_port("x", [2, 8])], {"x": normal(2, 8)}
            weights = [w, numpy_helper.from_array(np.array(trip), "trip")]
        outputs = [_port("last", [2, 8]), _port("all", [trip, 2, 8])]
        graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return feeds

    return write


def functions(path: Path) -> Feeds:
    """Blocks as model-local functions, one of them used twice, that hide a Conv and its affine from each other."""
    lines = """<ir_version: 8, opset_import: ["": 17, "f": 1]>
    g (float[N,3,16,16] x) => (float[N,8,16,16] y) {
      a = f.block(x, w0, b0, s0)
      c = f.block(a, w1, b1, s1)
      y = f.gate(c)
    }
    <opset_import: ["": 17], domain: "f"> block (x, w, b, s) => (y) {
      c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
      m = Mul (c, s)
      y = Relu (m)
    }
    <opset_import: ["": 17], domain: "f"> gate (x) => (y) {
      h = Sigmoid (x)
      p = Mul (x, h)
      one = Constant <value = float[1] {1.0}> ()
      y = Mul (p, one)
    }"""
    model = onnx.parser.parse_model(lines)
    t = Text()
    for name, value in {
        "w0": t.draw(8, 3, 3, 3), "b0": t.draw(8), "s0": 1 + 0.1 * t.draw(1, 8, 1, 1),
        "w1": t.draw(8, 8, 3, 3), "b1": t.draw(8), "s1": 1 + 0.1 * t.draw(1, 8, 1, 1),
    }.items():  # fmt: skip
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    onnx.save(model, path)
    return {"x": image(2, 3, 16, 16)}


def random_pair(path: Path) -> Feeds:
    """Two equal random nodes are not one: their difference must not become zero. Only its shape is certain."""
    t = Text()
    a = t("RandomNormalLike", "x", mean=0.0, scale=1.0)
    b = t("RandomNormalLike", "x", mean=0.0, scale=1.0)
    gap = t("ReduceSum", t("Abs", t("Sub", a, b)), keepdims=0)
    y = t("Add", "x", t("Cast", t("Greater", gap, np.float32(1.0)), to=FLOAT))
    t.save(path, [("x", [64])], [(y, None)], 17)
    return {"x": normal(64)}


def shape_maze(opset: int) -> Callable[[Path], Feeds]:
    """Reshapes by shapes computed from shapes: Gather, Unsqueeze, Concat, Cast, Mul, Floor, Slice, Expand, Where."""

    def write(path: Path) -> Feeds:
        t = Text()
        x = "x"
        for i in range(4):
            shape = t("Shape", x)
            b, n, c = (t("Gather", shape, np.array(k), axis=0) for k in range(3))
            wide = t("Cast", t("Floor", t("Mul", t("Cast", c, to=FLOAT), np.float32(0.25))), to=INT64)
            parts = [t("Unsqueeze", v, np.array([0])) for v in (b, n)]
            y = t("Reshape", x, t("Concat", *parts, np.array([4]), t("Unsqueeze", wide, np.array([0])), axis=0))
            y = t("Transpose", y, perm=[0, 2, 1, 3])
            ones = t("ConstantOfShape", t("Shape", y), value=numpy_helper.from_array(np.ones(1, np.float32)))
            y = t("Mul", y, t("Expand", np.full((1, 1, 1, 1), 0.5 + i, np.float32), t("Shape", ones)))
            keep = t("Where", t("Equal", t("Shape", y), np.array(-1)), t("Shape", y), t("Shape", y))
            y = t("Expand", y, keep)
            y = t("Transpose", y, perm=[0, 2, 1, 3])
            back = t("Concat", *parts, np.array([-1]), axis=0)
            x = t("Add", x, t("Tanh", t("MatMul", t("Reshape", y, back), t.draw(16, 16))))
        y = t(
            "Slice",
            t("Slice", x, np.array([1]), np.array([9]), np.array([1])),
            np.array([0]),
            np.array([2**31 - 1]),
            np.array([2]),
        )
        t.save(path, [("x", ["batch", "length", 16])], [(y, [None, None, 16])], opset)
        return {"x": normal(2, 12, 16)}

    return write


def pads_and_pools(path: Path) -> Feeds:
    """Pad before Conv and pools, Resize by sizes and scales, Split and Concat back, Clip chains, Min and Max."""
    t = Text()
    y = t("Conv", t("Pad", "x", np.array([0, 0, 1, 1, 0, 0, 1, 1]), np.float32(0)), t.draw(8, 3, 3, 3))
    y = t("Clip", t("Relu", y), np.float32(0), np.float32(6))
    y = t("Max", t("Min", y, np.float32(5)), np.float32(0.1))
    y = t(
        "AveragePool",
        t("Pad", y, np.array([0, 0, 1, 1, 0, 0, 1, 1]), np.float32(0)),
        kernel_shape=[3, 3],
        strides=[2, 2],
    )
    a, b = t("Split", y, np.array([3, 5]), axis=1, outputs=2)
    y = t("Concat", a, b, axis=1)
    c, d = t("Split", y, np.array([4, 4]), axis=1, outputs=2)
    y = t("Concat", t("Sigmoid", c), t("Tanh", d), axis=1)
    y = t(
        "Resize",
        y,
        "",
        np.array([1, 1, 2, 2], np.float32),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    y = t("Resize", y, "", "", np.array([1, 8, 16, 16]), mode="linear")
    y = t("Div", t("Sub", y, np.full((8, 1, 1), 0.1, np.float32)), np.full((8, 1, 1), 2, np.float32))
    y = t("Conv", y, t.draw(8, 8, 1, 1), t.draw(8, scale=0.1))
    y = t("Dropout", t("Squeeze", t("Unsqueeze", y, np.array([0])), np.array([0])))
    y = t("Add", t("MatMul", t("Flatten", t("GlobalAveragePool", y)), t.draw(8, 4)), t.draw(4, scale=0.1))
    t.save(path, [("x", [1, 3, 16, 16])], [(y, None)], 17)
    return {"x": image(1, 3, 16, 16)}


HAND = "written node by node"
add("nhwc-13-dyn", "CNN, NHWC", HAND, nhwc(13, "batch", True))
add("nhwc-11", "CNN, NHWC", HAND, nhwc(11, 2, True))
add("nhwc-17-plain", "CNN, NHWC", HAND, nhwc(17, "batch", False))
add("nested-if-6", "control flow", HAND, nested(6))
add("loop-8", "control flow", HAND, loop(8, False))
add("scan-8", "control flow", HAND, loop(8, True))
add("functions", "functions", HAND, functions)
add("random-pair", "random", HAND, random_pair)
add("shape-maze-13", "shape arithmetic", HAND, shape_maze(13))
add("shape-maze-18", "shape arithmetic", HAND, shape_maze(18))
add("pads-and-pools", "CNN, odd spellings", HAND, pads_and_pools)
