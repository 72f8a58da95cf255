"""A .tflite file as plain Python: graphs of tensors and operators, with constants as arrays."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from graphopt.errors import ModelError

Array = npt.NDArray[Any]

_DTYPES: Mapping[str, Any] = {
    "FLOAT32": np.float32, "FLOAT16": np.float16, "FLOAT64": np.float64, "BFLOAT16": ml_dtypes.bfloat16,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "BOOL": np.bool_, "INT4": np.int8, "STRING": np.object_,
}  # fmt: skip
_NARROW = ("INT8", "UINT8", "INT16", "INT4", "INT32")


@dataclass(frozen=True)
class Quant:
    """real = (stored - zero) * scale; along `axis` where there are several scales."""

    scale: Array
    zero: Array
    axis: int

    @property
    def per_tensor(self) -> bool:
        return self.scale.size == 1


@dataclass(frozen=True)
class Tensor:
    """dims: -1 where known only at run time. data: of a constant. quant: of what stands for real numbers."""

    name: str
    type: str
    dims: tuple[int, ...]
    data: Array | None
    quant: Quant | None
    is_variable: bool

    @property
    def dtype(self) -> Any:
        return np.dtype(_DTYPES.get(self.type, np.object_))


@dataclass(frozen=True)
class Operator:
    """inputs: numbers of tensors, -1 for an optional one that is absent. options: a table of the schema, or None."""

    op: str
    inputs: Sequence[int]
    outputs: Sequence[int]
    options: Any
    number: int

    def option(self, name: str, default: Any = 0) -> Any:
        """A field of its options, `default` where it has none."""
        return default if self.options is None else getattr(self.options, name)()


@dataclass(frozen=True)
class Graph:
    name: str
    tensors: Sequence[Tensor]
    operators: Sequence[Operator]
    inputs: Sequence[int]
    outputs: Sequence[int]

    @cached_property
    def _makers(self) -> dict[int, Operator]:
        return {index: operator for operator in self.operators for index in operator.outputs}

    def maker(self, index: int) -> Operator | None:
        """The operator that writes a tensor; None for inputs and constants."""
        return self._makers.get(index)


@dataclass(frozen=True)
class Signature:
    """Names that the framework gave to inputs and outputs: name -> number of the tensor."""

    key: str
    graph: int
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


@dataclass(frozen=True)
class File:
    graphs: Sequence[Graph]
    signatures: Sequence[Signature]


def read(data: bytes, source: str) -> File:
    """The file's content. Raises ModelError for what is no .tflite file, or damaged; ImportError without `tflite`."""
    import tflite

    if len(data) < 16 or data[4:8] != b"TFL3":
        raise ModelError("it is no .tflite file: its identifier TFL3 is missing", where=source)
    try:
        model = tflite.Model.GetRootAs(data, 0)
        codes = [_code(model.OperatorCodes(i)) for i in range(_count(model.OperatorCodesLength(), data))]
        graphs = [_graph(model, model.Subgraphs(i), codes, data) for i in range(_count(model.SubgraphsLength(), data))]
        signatures = [_signature(model.SignatureDefs(i)) for i in range(model.SignatureDefsLength())]
    except (
        struct.error,
        IndexError,
        ValueError,
        TypeError,
        AttributeError,
        UnicodeDecodeError,
        OverflowError,
    ) as error:
        raise ModelError(f"it is damaged: {error}", where=source, hint="was it copied whole?") from error
    if not graphs:
        raise ModelError("there is no graph in it", where=source)
    return File(graphs, signatures)


def _count(number: int, data: bytes) -> int:
    """A vector's length, refused where the file could not hold it."""
    if not 0 <= number <= len(data):
        raise ValueError(f"a vector of {number} entries in {len(data)} bytes")
    return number


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode()


@cache
def _names(enum: str) -> dict[int, str]:
    import tflite

    return {value: key for key, value in vars(getattr(tflite, enum)).items() if not key.startswith("_")}


def _code(code: Any) -> str:
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    name = _names("BuiltinOperator").get(number, f"operator {number}")
    return f"custom {_text(code.CustomCode())}" if name == "CUSTOM" else name


def _graph(model: Any, graph: Any, codes: Sequence[str], data: bytes) -> Graph:
    tensors = [_tensor(model, graph.Tensors(i), data) for i in range(_count(graph.TensorsLength(), data))]

    def indices(values: Iterator[int], least: int) -> list[int]:
        found = [int(value) for value in values]
        if any(not least <= value < len(tensors) for value in found):
            raise ValueError(f"a tensor that does not exist among {len(tensors)}")
        return found

    operators = []
    for number in range(_count(graph.OperatorsLength(), data)):
        one = graph.Operators(number)
        inputs = indices((one.Inputs(i) for i in range(_count(one.InputsLength(), data))), -1)
        outputs = indices((one.Outputs(i) for i in range(_count(one.OutputsLength(), data))), 0)
        operators.append(Operator(codes[one.OpcodeIndex()], inputs, outputs, _options(one), number))
    return Graph(
        _text(graph.Name()),
        tensors,
        operators,
        indices((graph.Inputs(i) for i in range(_count(graph.InputsLength(), data))), 0),
        indices((graph.Outputs(i) for i in range(_count(graph.OutputsLength(), data))), 0),
    )


def _options(operator: Any) -> Any:
    import tflite

    if operator.CustomOptionsLength():
        from flatbuffers import flexbuffers

        return flexbuffers.Loads(operator.CustomOptionsAsNumpy().tobytes())
    name = _names("BuiltinOptions").get(operator.BuiltinOptionsType(), "NONE")
    table = operator.BuiltinOptions()
    if name == "NONE" or table is None:
        return None
    options = getattr(tflite, name)()
    options.Init(table.Bytes, table.Pos)
    return options


def _tensor(model: Any, tensor: Any, data: bytes) -> Tensor:
    kind = _names("TensorType").get(tensor.Type(), f"type {tensor.Type()}")
    signature = tensor.ShapeSignatureAsNumpy() if tensor.ShapeSignatureLength() else None
    shape = tensor.ShapeAsNumpy() if tensor.ShapeLength() else np.zeros(0, np.int32)
    dims = tuple(int(d) for d in (shape if signature is None else signature))
    name = _text(tensor.Name())
    if tensor.Sparsity() is not None:
        raise ModelError(f"tensor {name!r} is stored sparse", hint="convert it again without sparse storage")
    return Tensor(
        name, kind, dims, _constant(model, tensor, kind, dims, data), _quant(tensor, kind), tensor.IsVariable()
    )


def _constant(model: Any, tensor: Any, kind: str, dims: tuple[int, ...], data: bytes) -> Array | None:
    buffer = model.Buffers(tensor.Buffer()) if 0 < tensor.Buffer() < model.BuffersLength() else None
    if buffer is None or kind not in _DTYPES or kind == "STRING":
        return None
    if buffer.DataLength():
        raw = buffer.DataAsNumpy()
    elif buffer.Offset() > 1:
        raw = np.frombuffer(data, np.uint8, int(buffer.Size()), int(buffer.Offset()))
    else:
        return None
    size = int(np.prod(dims, dtype=np.int64))
    if kind == "INT4":
        pairs = np.asarray(raw).view(np.int8)
        values = np.stack([(pairs << 4) >> 4, pairs >> 4], axis=-1).reshape(-1)[:size]
    else:
        values = np.frombuffer(np.ascontiguousarray(raw).data, _DTYPES[kind])
    if values.size != size:
        raise ValueError(f"a constant of {size} elements has {values.size}")
    return values.reshape(dims)


def _quant(tensor: Any, kind: str) -> Quant | None:
    found = tensor.Quantization()
    if found is None or not found.ScaleLength() or kind not in _NARROW:
        return None
    scale = np.array(found.ScaleAsNumpy(), np.float32)
    zero = np.array(found.ZeroPointAsNumpy(), np.int64) if found.ZeroPointLength() else np.zeros(1, np.int64)
    if zero.size not in (1, scale.size) or not np.isfinite(scale).all() or (scale < 0).any():
        raise ValueError("a quantization that makes no sense")
    return Quant(scale, np.broadcast_to(zero, scale.shape), int(found.QuantizedDimension()))


def _signature(one: Any) -> Signature:
    return Signature(
        _text(one.SignatureKey()),
        one.SubgraphIndex(),
        {_text(one.Inputs(i).Name()): one.Inputs(i).TensorIndex() for i in range(one.InputsLength())},
        {_text(one.Outputs(i).Name()): one.Outputs(i).TensorIndex() for i in range(one.OutputsLength())},
    )
