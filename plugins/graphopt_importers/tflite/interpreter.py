"""What TensorFlow Lite's own interpreter computes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import ModelError
from graphopt.importer import Arrays, Reference

from .model import Ends
from .reader import File, Graph, Operator
from .scope import dequantized


@dataclass(frozen=True)
class Original:
    """What the interpreter computes; how far its own kernels are apart, by output; notes."""

    run: Reference | None = None
    rounding: Sequence[float] = ()
    notes: Sequence[str] = ()


def _interpreter() -> Any:
    """The interpreter's class and its sets of kernels, of either package; None where neither is installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError:
        try:
            from tensorflow.lite import Interpreter
            from tensorflow.lite.experimental import OpResolverType
        except ImportError:
            return None
    return Interpreter, OpResolverType


def original(data: bytes, file: File, ends: Ends, source: str) -> Original:
    """The original to compare with. Raises ModelError where the interpreter refuses the file."""
    found = _interpreter()
    if found is None:
        return Original(notes=["not compared with TensorFlow Lite: pip install ai-edge-litert, its interpreter"])
    if ends.graph is not file.graphs[0] or set(ends.named_outputs) != set(ends.graph.outputs):
        return Original(notes=["not compared with TensorFlow Lite, whose outputs are other ones"])
    notes = []
    if weights := _rounded_weights(file):
        notes = [
            "its weights are 8-bit, its activations are not: TensorFlow Lite rounds those to 8 bits as it runs "
            "(dynamic range), which the ONNX model does not; compared with it on the same weights as float32"
        ]
        data = _unrounded(data, file, weights)
    return Original(_runner(data, ends, source, found[0], found[1].BUILTIN), notes=notes)


def with_rounding(data: bytes, ends: Ends, source: str, made: Original, feeds: Arrays) -> Original:
    """Of a quantized graph: twice what TensorFlow Lite's kernels (XNNPACK, and its own) differ by, a step at least."""
    graph, found = ends.graph, _interpreter()
    if made.run is None or found is None or not any(_is_rounded(graph, one) for one in graph.operators):
        return made
    try:
        fast = made.run(feeds)
        plain = _runner(data, ends, source, found[0], found[1].BUILTIN_WITHOUT_DEFAULT_DELEGATES)(feeds)
    except (ValueError, RuntimeError):
        return made  # the comparison will say why it does not run
    rounding, said = [], []
    for index, a, b in zip(ends.named_outputs, fast, plain, strict=True):
        step = _step(graph, index)
        apart = float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max(initial=0))
        rounding.append(max(step, 2 * apart))
        said.append(f"{ends.named_outputs[index]!r} {apart / step if step else apart:.3g}{' steps' if step else ''}")
    note = f"quantized: TensorFlow Lite's own kernels are apart, at most, by {', '.join(said)}; twice that is allowed"
    return Original(made.run, rounding, [*made.notes, note])


def _is_rounded(graph: Graph, operator: Operator) -> bool:
    return any(graph.tensors[index].quant is not None for index in operator.outputs)


def _step(graph: Graph, index: int) -> float:
    """A quantized tensor's step in its own units; of real numbers, that of what they were made from."""
    if graph.tensors[index].quant is not None:
        return 1.0
    for operator in graph.operators:
        if index in operator.outputs and operator.op == "DEQUANTIZE":
            quant = graph.tensors[operator.inputs[0]].quant
            return 0.0 if quant is None else float(quant.scale.max())
    return 0.0


def _runner(data: bytes, ends: Ends, source: str, kind: Any, kernels: Any) -> Reference:
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

    return run


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
