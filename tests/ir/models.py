"""Small models that tests damage, hide and rebuild."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def value(name: str, shape: Any = (2, 3), dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def tensor(name: str, array: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: list[onnx.ValueInfoProto] | None = None,
    initializers: list[TensorProto] | None = None,
    *,
    functions: list[onnx.FunctionProto] | None = None,
    opset: int = 18,
    ir_version: int = 10,
    domains: dict[str, int] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        inputs if inputs is not None else [value("x")],
        outputs if outputs is not None else [value("y")],
        initializers or [],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(*item) for item in (domains or {}).items())]
    return helper.make_model(graph, opset_imports=imports, functions=functions or [], ir_version=ir_version)


node = helper.make_node


def relu() -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["y"])])


def body(
    nodes: list[onnx.NodeProto], outputs: list[str], initializers: list[TensorProto] | None = None, name="b"
) -> Any:
    infos = [onnx.ValueInfoProto(name=out) for out in outputs]
    return helper.make_graph(nodes, name, [], infos, initializers or [])


def rich() -> onnx.ModelProto:
    """A bit of everything: branches that capture, a function, typed and raw weights, metadata, a sparse weight."""
    function = helper.make_function(
        "local",
        "Scale",
        ["a"],
        ["b"],
        [
            node("Constant", [], ["k"], value=tensor("", np.float32(2))),
            node("Mul", ["a", "k"], ["m"]),
            helper.make_node("LeakyRelu", ["m"], ["b"]),
        ],
        [helper.make_opsetid("", 18)],
        ["alpha"],
    )
    reference = function.node[2].attribute.add()
    reference.name, reference.ref_attr_name, reference.type = "alpha", "alpha", onnx.AttributeProto.FLOAT
    then = body([node("Add", ["h", "w"], ["t"])], ["t"], name="then")
    other = body([node("Sub", ["h", "v"], ["e"])], ["e"], [tensor("v", np.ones(3, np.float32))], name="else")
    made = model(
        [
            node("Mul", ["x", "w"], ["h"], name="first", doc_string="doubles"),
            node("ReduceSum", ["h"], ["s"], keepdims=0),
            node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
            node("If", ["c"], ["z"], then_branch=then, else_branch=other),
            node("Scale", ["z"], ["q"], domain="local", alpha=0.5),
            node("Concat", ["q", "q"], ["r"], axis=0),
            node("Slice", ["r", "from", "to"], ["y"], name="cut"),
        ],
        initializers=[
            tensor("w", np.arange(3, dtype=np.float32)),
            helper.make_tensor("from", TensorProto.INT64, [2], [0, 0]),
            helper.make_tensor("to", TensorProto.INT64, [2], [2, 3]),
        ],
        functions=[function],
        domains={"local": 1},
    )
    helper.set_model_props(made, {"author": "nobody"})
    made.graph.value_info.append(value("h"))
    return made


def save(proto: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def run(proto: onnx.ModelProto | Path, feeds: dict[str, Any] | None = None) -> list[Any]:
    """The outputs in onnxruntime with its optimizations off; of ones unless fed."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    source = str(proto) if isinstance(proto, Path) else proto.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    if feeds is None:
        feeds = {item.name: np.ones(item.shape, np.float32) for item in session.get_inputs()}
    return list(session.run(None, feeds))
