"""Graphs whose size is a number: for times that must grow linearly, and for bounds that must hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .store import Feeds, add, image, normal

Made = tuple[onnx.ModelProto, Feeds]


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Any]) -> onnx.ModelProto:
    given = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, given)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _port(name: str, *dims: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims))


def chain(nodes: int) -> Made:
    """Conv, BatchNormalization, Relu, one after the other, each block with weights of its own."""
    random = np.random.default_rng(0)
    weights: dict[str, Any] = {}
    made, x = [], "x"
    for i in range(nodes // 3):
        weights |= {
            f"w{i}": random.standard_normal((4, 4, 1, 1)) * 0.7,
            f"s{i}": random.uniform(0.8, 1.2, 4), f"b{i}": random.uniform(-0.1, 0.3, 4),
            f"m{i}": random.uniform(-0.1, 0.1, 4), f"v{i}": random.uniform(0.5, 1.5, 4),
        }  # fmt: skip
        made += [
            helper.make_node("Conv", [x, f"w{i}"], [f"c{i}"], f"conv{i}", kernel_shape=[1, 1]),
            helper.make_node("BatchNormalization", [f"c{i}", *(f"{k}{i}" for k in "sbmv")], [f"n{i}"], f"bn{i}"),
            helper.make_node("Relu", [f"n{i}"], [f"r{i}"], f"relu{i}"),
        ]
        x = f"r{i}"
    return _model(made, [_port("x", 1, 4, 4, 4)], [_port(x, 1, 4, 4, 4)], weights), {"x": image(1, 4, 4, 4)}


def wide(nodes: int) -> Made:
    """Conv, BatchNormalization, Relu side by side on one input, summed pairwise."""
    random = np.random.default_rng(0)
    weights: dict[str, Any] = {}
    made, level = [], []
    for i in range(nodes // 4):
        weights |= {
            f"w{i}": random.standard_normal((4, 4, 1, 1)) * 0.7,
            f"s{i}": random.uniform(0.8, 1.2, 4), f"b{i}": random.uniform(-0.1, 0.3, 4),
            f"m{i}": random.uniform(-0.1, 0.1, 4), f"v{i}": random.uniform(0.5, 1.5, 4),
        }  # fmt: skip
        made += [
            helper.make_node("Conv", ["x", f"w{i}"], [f"c{i}"], f"conv{i}", kernel_shape=[1, 1]),
            helper.make_node("BatchNormalization", [f"c{i}", *(f"{k}{i}" for k in "sbmv")], [f"n{i}"], f"bn{i}"),
            helper.make_node("Relu", [f"n{i}"], [f"r{i}"], f"relu{i}"),
        ]
        level.append(f"r{i}")
    while len(level) > 1:
        pairs = list(zip(level[::2], level[1::2], strict=False))
        rest = level[len(pairs) * 2 :]
        level = []
        for a, b in pairs:
            made.append(helper.make_node("Add", [a, b], [f"{a}_{b}"[-40:] + f"_{len(made)}"], f"add{len(made)}"))
            level.append(made[-1].output[0])
        level += rest
    return _model(made, [_port("x", 1, 4, 4, 4)], [_port(level[0], 1, 4, 4, 4)], weights), {"x": image(1, 4, 4, 4)}


def readers(count: int, order: str) -> Made:
    """One tensor read count times through Identity nodes that go; these stand forward, in reverse or at random."""
    random = np.random.default_rng(0)
    ranks = list(range(count))
    if order == "reverse":
        ranks.reverse()
    elif order == "random":
        random.shuffle(ranks)
    made = [helper.make_node("Relu", ["x"], ["shared"], "shared")]
    made += [helper.make_node("Identity", ["shared"], [f"i{k}"], f"identity{k}") for k in ranks]
    made += [helper.make_node("Mul", [f"i{k}", f"w{k}"], [f"p{k}"], f"mul{k}") for k in range(count)]
    made.append(helper.make_node("Sum", [f"p{k}" for k in range(count)], ["y"], "sum"))
    weights = {f"w{k}": random.standard_normal(4) for k in range(count)}
    return _model(made, [_port("x", 4)], [_port("y", 4)], weights), {"x": normal(4)}


def deep(depth: int, each: int = 40) -> Made:
    """If nodes nested depth times; in every branch a chain that captures the outermost input and folds in part."""

    def branch(level: int, taken: bool) -> onnx.GraphProto:
        mark = f"d{level}{'t' if taken else 'e'}"
        nodes, x = [], "x"
        for i in range(each):
            nodes.append(
                helper.make_node(("Neg", "Identity", "Neg", "Tanh")[i % 4], [x], [f"{mark}_{i}"], f"{mark}_n{i}")
            )
            x = f"{mark}_{i}"
        if taken and level < depth:
            inner = [branch(level + 1, True), branch(level + 1, False)]
            nodes.append(
                helper.make_node(
                    "If", ["flag"], [f"{mark}_if"], f"{mark}_if", then_branch=inner[0], else_branch=inner[1]
                )
            )
            nodes.append(helper.make_node("Add", [x, f"{mark}_if"], [f"{mark}_y"], f"{mark}_add"))
            x = f"{mark}_y"
        return helper.make_graph(nodes, mark, [], [_port(x, 4)])

    top = helper.make_node("If", ["flag"], ["y"], "top", then_branch=branch(1, True), else_branch=branch(1, False))
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    return _model([top], [_port("x", 4), flag], [_port("y", 4)], {}), {"x": normal(4), "flag": np.array(True)}


def _writer(make: Callable[[], Made]) -> Callable[[Path], Feeds]:
    def write(path: Path) -> Feeds:
        model, feeds = make()
        onnx.save(model, path)
        return feeds

    return write


SYNTHETIC = "onnx.helper"
for _nodes in (1_500, 6_000):
    add(f"chain-{_nodes}", "synthetic chain", SYNTHETIC, _writer(lambda n=_nodes: chain(n)))
add("wide-1500", "synthetic wide graph", SYNTHETIC, _writer(lambda: wide(1_500)))
add("readers-1000", "synthetic, one tensor read often", SYNTHETIC, _writer(lambda: readers(1_000, "random")))
add("deep-14", "synthetic, nested subgraphs", SYNTHETIC, _writer(lambda: deep(14)))
