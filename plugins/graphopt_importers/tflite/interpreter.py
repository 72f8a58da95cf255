"""What TensorFlow Lite's own interpreter computes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from graphopt.errors import ModelError
from graphopt.importer import Arrays, Reference

from .model import Ends
from .reader import File
from .scope import dequantized


def _interpreter() -> Any:
    """The interpreter's class, of either package; None where neither is installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError:
        try:
            from tensorflow.lite import Interpreter
            from tensorflow.lite.experimental import OpResolverType
        except ImportError:
            return None
    return Interpreter, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


def reference(data: bytes, file: File, ends: Ends, source: str) -> tuple[Reference | None, Sequence[str]]:
    """The original to compare with, and notes. Raises ModelError where the interpreter refuses the file."""
    found = _interpreter()
    if found is None:
        return None, ["not compared with TensorFlow Lite: pip install ai-edge-litert, its interpreter"]
    if ends.graph is not file.graphs[0] or set(ends.named_outputs) != set(ends.graph.outputs):
        return None, ["not compared with TensorFlow Lite, whose outputs are other ones"]
    kind, kernels = found
    notes = []
    if weights := _rounded_weights(file):
        notes = [
            "its weights are 8-bit, its activations are not: TensorFlow Lite rounds those to 8 bits as it runs (dynamic "
            "range), which the ONNX model does not; compared with TensorFlow Lite on the same weights as float32"
        ]
        data = _unrounded(data, file, weights)
    try:
        interpreter = kind(model_content=data, experimental_op_resolver_type=kernels)
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"TensorFlow Lite refuses it: {' '.join(str(error).split())[:300]}", where=source) from error

    def run(feeds: Arrays) -> list[Any]:
        for index, name in ends.named_inputs.items():
            shape = np.shape(feeds[name])
            if tuple(interpreter._get_tensor_details(index, 0)["shape"]) != shape:
                interpreter.resize_tensor_input(index, shape)
        interpreter.allocate_tensors()
        for index, name in ends.named_inputs.items():
            interpreter.set_tensor(index, np.asarray(feeds[name]))
        interpreter.reset_all_variables()
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in ends.named_outputs]

    return run, notes


def _rounded_weights(file: File) -> set[tuple[int, int]]:
    """(graph, tensor) of 8-bit constants that operators read together with, and to make, real numbers only."""
    found = set()
    for number, graph in enumerate(file.graphs):
        for operator in graph.operators:
            read = [index for index in operator.inputs if index >= 0]
            constants = {i for i in read if graph.tensors[i].data is not None and graph.tensors[i].quant is not None}
            others = [*operator.outputs, *(i for i in read if i not in constants)]
            if operator.op not in ("DEQUANTIZE", "QUANTIZE") and all(graph.tensors[i].quant is None for i in others):
                found |= {(number, index) for index in constants}
    return found


def _unrounded(data: bytes, file: File, weights: Collection[tuple[int, int]]) -> bytes:
    """The file with these constants as float32."""
    import flatbuffers

    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError:
        from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(data), 0))
    for number, index in weights:
        tensor, known = model.subgraphs[number].tensors[index], file.graphs[number].tensors[index]
        assert known.data is not None
        assert known.quant is not None
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(dequantized(known.data, known.quant).tobytes(), np.uint8)
        model.buffers.append(buffer)
        tensor.buffer, tensor.type, tensor.quantization = len(model.buffers) - 1, schema.TensorType.FLOAT32, None
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
