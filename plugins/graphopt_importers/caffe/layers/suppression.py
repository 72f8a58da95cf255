"""Which boxes stay where better ones overlap them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from graphopt_importers.caffe.emit import Graph, Value, fixed

_MOST_PAIRS = 2**26


def kept(g: Graph, boxes: Value, scores: Value, overlap: float, least: float, border: float = 0.0) -> Value:
    """Whether each box stays: lists x boxes, of bool. boxes: lists x boxes x 4 (x1, y1, x2, y2), best ones first.

    A box stays if its score is above `least`, and no better one that stays overlaps it by more than `overlap`:
    intersection / union, of sides x2 - x1 + border.

    Written as a loop that ends when nothing changes, for TensorRT-RTX does not build NonMaxSuppression; as this
    operator where --import-option nms=operator asks for it, or pairs of boxes would take too much memory.
    """
    lists, number = fixed(boxes, 0), fixed(boxes, 1)
    if g.options.get("nms") == "operator" or lists * number * number > _MOST_PAIRS:
        return _by_operator(g, boxes, scores, overlap, least, border)
    good = g.cast(g.op("Greater", scores, g.const(least)))
    return _by_loop(g, _overlapping(g, boxes, overlap, border), good)


def _overlapping(g: Graph, boxes: Value, overlap: float, border: float) -> Value:
    """1 where box j of a list comes before box i, and overlaps it: lists x j x i."""
    lists, number = boxes.shape[:2]
    edges = [g.slice(boxes, 2, i, i + 1) for i in range(4)]
    across = [g.reshape(edge, [lists, 1, number]) for edge in edges]
    sides = []
    for low, high in ((0, 2), (1, 3)):
        end = g.op("Min", edges[high], across[high])
        side = g.op("Sub", end, g.op("Max", edges[low], across[low]))
        sides.append(g.op("Relu", g.scaled(side, shift=border)))
    both = g.op("Mul", *sides)
    lengths = [g.op("Relu", g.scaled(g.op("Sub", edges[i + 2], edges[i]), shift=border)) for i in range(2)]
    area = g.op("Mul", *lengths)
    union = g.op("Sub", g.op("Add", area, g.reshape(area, [lists, 1, number])), both)
    share = g.op("Div", both, g.op("Max", union, g.const(1e-30)))
    before = g.const(np.triu(np.ones((fixed(boxes, 1), fixed(boxes, 1)), np.float32), 1))
    return g.op("Mul", g.cast(g.op("Greater", share, g.const(overlap))), before)


def _by_loop(g: Graph, overlapping: Value, good: Value) -> Value:
    """keep[i] = good[i] and no j: keep[j] and overlapping[j, i], again until it holds.

    After t rounds whatever depends on fewer than t others is right: as many rounds as boxes are enough.
    """
    lists, number = (fixed(good, i) for i in range(2))
    places = numpy_helper.from_array(np.array([lists, number, 1], np.int64), "places")
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    nodes = [
        helper.make_node("Reshape", ["keep", "places"], ["column"]),
        helper.make_node("Mul", [overlapping.name, "column"], ["hit"]),
        helper.make_node("ReduceMax", ["hit", "first"] if g.opset >= 18 else ["hit"], ["any"], keepdims=0),
        helper.make_node("Less", ["any", "half"], ["free"]),
        helper.make_node("Cast", ["free"], ["alone"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["alone", good.name], ["next"]),
        helper.make_node("Sub", ["next", "keep"], ["change"]),
        helper.make_node("Abs", ["change"], ["size"]),
        helper.make_node("ReduceMax", ["size"], ["largest"], keepdims=0),
        helper.make_node("Greater", ["largest", "half"], ["more"]),
    ]
    constants = [places, half]
    if g.opset >= 18:
        constants.append(numpy_helper.from_array(np.array([1], np.int64), "first"))
    else:
        nodes[2].attribute.append(helper.make_attribute("axes", [1]))
    prefix = f"{g.scope}/nms/"
    inner = {name for node in nodes for name in node.output} | {one.name for one in constants} | {"keep", "round", "go"}
    for node in nodes:
        node.input[:] = [prefix + name if name in inner else name for name in node.input]
        node.output[:] = [prefix + name for name in node.output]
    for one in constants:
        one.name = prefix + one.name
    body = helper.make_graph(
        nodes,
        f"{prefix}round",
        [
            helper.make_tensor_value_info(f"{prefix}round", TensorProto.INT64, []),
            helper.make_tensor_value_info(f"{prefix}go", TensorProto.BOOL, []),
            helper.make_tensor_value_info(f"{prefix}keep", TensorProto.FLOAT, [lists, number]),
        ],
        [
            helper.make_tensor_value_info(f"{prefix}more", TensorProto.BOOL, []),
            helper.make_tensor_value_info(f"{prefix}next", TensorProto.FLOAT, [lists, number]),
        ],
        constants,
    )
    rounds, begin = g.const(number, np.int64), g.const(True, np.bool_)
    found = g.known("Loop", [good.shape], [rounds, begin, good], body=body)[0]
    return g.op("Greater", found, g.const(0.5))


def _by_operator(g: Graph, boxes: Value, scores: Value, overlap: float, least: float, border: float) -> Value:
    lists, number = (fixed(boxes, i) for i in range(2))
    if border:
        boxes = g.op("Add", boxes, g.const([0.0, 0.0, border, border]))
    rows = g.reshape(scores, [lists, 1, number])
    limits = g.ints([number]), g.const([overlap]), g.const([least])
    chosen = replace(g.op("NonMaxSuppression", boxes, rows, *limits), shape=("chosen", 3))
    where = g.op("Gather", chosen, g.ints([0, 2]), axis=1)
    blank = g.const(np.zeros((lists, number), np.float32))
    ones = g.op("GatherND", g.const(np.ones((lists, number), np.float32)), where)
    return g.op("Greater", g.op("ScatterND", blank, where, ones), g.const(0.5))
