"""Names that exporters write for unknown sizes."""

from __future__ import annotations

from onnx import TensorProto, helper

from graphopt.ir.infer import Inference
from graphopt.ir.load import load
from graphopt.testing import model


def test_a_name_that_stands_for_nothing_does_not_hide_what_is_known() -> None:
    proto = model("g (float[N,8] x) => (float[N,8] y) { a = Relu(x) y = Neg(a) }")
    proto.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["unk__4", 8]))
    graph = load(proto)
    Inference(graph).run()
    assert tuple(graph.nodes[0].outputs[0].shape) == ("N", 8)


def test_a_name_that_stands_for_something_stays() -> None:
    proto = model("g (float[N,8] x) => (float[N,8] y) { a = Relu(x) y = Neg(a) }")
    proto.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["batch", 8]))
    graph = load(proto)
    Inference(graph).run()
    assert graph.nodes[0].outputs[0].shape[0] in ("N", "batch")
