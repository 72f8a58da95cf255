"""What a layer's plugin is made of, and how that is written into an engine and read back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from graphopt.errors import BackendError, GraphoptError

from .facts import outputs_of
from .find import symbolic_dims
from .function import PRESENT, layer_values
from .layer import Layer
from .tensor import Dim, Size, Tensor

DATA_TYPES = {
    "float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16", "int8": "INT8", "int32": "INT32", "int64": "INT64",
    "bool": "BOOL", "uint8": "UINT8", "float8_e4m3fn": "FP8", "int4": "INT4", "float4_e2m1fn": "FP4",
}  # fmt: skip
"""NumPy's name -> the member of tensorrt.DataType."""
_RANKS = (2, 3, 4, 1, 5, 0, 6)


def data_type(trt: Any, dtype: Any) -> Any:
    """A dtype as tensorrt.DataType. Raises BackendError where TensorRT has none."""
    name = np.dtype(dtype).name
    if name not in DATA_TYPES:
        raise BackendError(f"TensorRT has no tensors of {name}")
    return getattr(trt.DataType, DATA_TYPES[name])


def numpy_type(data: Any) -> np.dtype[Any]:
    """A tensorrt.DataType as a dtype."""
    return np.dtype(next(name for name, member in DATA_TYPES.items() if member == data.name))


class Specification:
    """What a plugin object is made of: the layer with its attributes, the operator's name, which inputs are there."""

    def __init__(self, layer: Layer, op: str, present: Sequence[str]) -> None:
        self.layer, self.op, self.present = layer, op, tuple(present)

    def tensors(self, given: Sequence[Tensor]) -> dict[str, Tensor | None]:
        return dict(zip(self.present, given, strict=True))

    def outputs(self, given: Sequence[Tensor]) -> list[Tensor]:
        return outputs_of(self.layer, self.tensors(given))

    def kinds(self, dtypes: Sequence[np.dtype[Any]]) -> tuple[list[np.dtype[Any]], int]:
        """dtypes of the outputs for those of the inputs, and how many sizes only the kernel finds out."""
        failure: Exception | None = None
        for rank in _RANKS:
            declared = symbolic_dims(self.layer, rank)
            given = [
                Tensor(kind, tuple(_symbol(d) for d in declared.get(name, [f"{name}{axis}" for axis in range(rank)])))
                for name, kind in zip(self.present, dtypes, strict=True)
            ]
            try:
                found = self.outputs(given)
            except GraphoptError as error:
                failure = failure or error
                continue
            return [one.dtype for one in found], len(sizes_of(found))
        assert failure is not None
        raise failure


def sizes_of(outputs: Sequence[Tensor]) -> list[Size]:
    """The data-dependent sizes in outputs, each once, in order."""
    found: list[Size] = []
    for one in outputs:
        found += [dim for dim in one.shape if isinstance(dim, Size) and not any(dim is other for other in found)]
    return found


def _symbol(dim: Any) -> Any:
    return dim if isinstance(dim, int) else Dim("symbol", (dim,))


def upper(tensor: Tensor) -> tuple[int, ...]:
    """The shape with every data-dependent size at its bound."""
    return tuple(int(dim.upper if isinstance(dim, Size) else dim) for dim in tensor.shape)


class Fields:
    """The attributes, and which inputs there are, as plugin fields; they point into `arrays`, which must live on."""

    def __init__(self, trt: Any, specification: Specification) -> None:
        kinds = trt.PluginFieldType
        values = dict(specification.layer.values)
        if specification.layer.optional:
            values[PRESENT] = ",".join(specification.present)
        self.arrays: list[np.ndarray[Any, Any]] = []
        self.list: list[Any] = []
        for name, value in values.items():
            if isinstance(value, str):
                array, kind = np.frombuffer(value.encode() + b"\0", np.uint8), kinds.CHAR
            else:
                array = np.atleast_1d(np.asarray(value))
                is_float = array.dtype.kind == "f"
                array = np.ascontiguousarray(array, np.float32 if is_float else np.int64)
                kind = kinds.FLOAT32 if is_float else kinds.INT64
            self.arrays.append(array)
            self.list.append(trt.PluginField(name, array, kind))
        self.collection = trt.PluginFieldCollection(self.list)


def read_fields(layer: type[Layer], op: str, collection: Iterable[Any]) -> Specification:
    """The specification that fields hold."""
    values: dict[str, Any] = {}
    defaults = layer().attributes
    present: Sequence[str] = layer().inputs
    for field in collection:
        data = np.asarray(field.data)
        if field.name == PRESENT:
            text = data.astype(np.uint8).tobytes().decode().rstrip("\0")
            present = [name for name in text.split(",") if name]
        elif field.name in defaults:
            default = defaults[field.name]
            if isinstance(default, str):
                values[field.name] = data.astype(np.uint8).tobytes().decode().rstrip("\0")
            else:
                values[field.name] = data.tolist() if isinstance(default, tuple) else data.ravel()[0].item()
    return Specification(layer(**layer_values(layer(), values)), op, present)
