"""Values in a file, so that another process can read them: tensors of every ONNX dtype, sequences, maps, None."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from .difference import Array, Value


def write_values(path: Path, values: Mapping[str, Value]) -> None:
    """read_values(path) = values, with dtypes, shapes and order. Nothing is pickled."""
    arrays: list[Array] = []
    tree = {name: _describe(value, arrays) for name, value in values.items()}
    head = json.dumps(tree).encode()
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little"))
        file.write(head)
        for array in arrays:
            np.lib.format.write_array(file, array, allow_pickle=False)


def read_values(path: Path) -> dict[str, Value]:
    """The values that write_values wrote."""
    with path.open("rb") as file:
        head = file.read(int.from_bytes(file.read(8), "little"))
        return {name: _restore(node, file) for name, node in json.loads(head).items()}


def _describe(value: Value, arrays: list[Array]) -> Any:
    if value is None:
        return {"is": "none"}
    if isinstance(value, Mapping):
        keys = list(value)
        return {"is": "map", "keys": keys, "of": [_describe(value[key], arrays) for key in keys]}
    if isinstance(value, list | tuple):
        return {"is": "list", "of": [_describe(item, arrays) for item in value]}
    array = np.asarray(value)
    if array.dtype.kind in "OUST":
        flat = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel()]
        return {"is": "text", "shape": list(array.shape), "of": flat}
    if array.dtype.isbuiltin == 2:
        arrays.append(np.asarray(array, order="C").view(f"u{array.dtype.itemsize}"))
        return {"is": "bits", "dtype": array.dtype.name}
    arrays.append(array)
    return {"is": "array"}


def _restore(node: Any, file: IO[bytes]) -> Value:
    kind = node["is"]
    if kind == "none":
        return None
    if kind == "map":
        return dict(zip(node["keys"], [_restore(item, file) for item in node["of"]], strict=True))
    if kind == "list":
        return [_restore(item, file) for item in node["of"]]
    if kind == "text":
        text = np.empty(len(node["of"]), dtype=object)
        text[:] = node["of"]
        return text.reshape(node["shape"])
    array: Array = np.lib.format.read_array(file, allow_pickle=False)
    return array.view(getattr(ml_dtypes, node["dtype"])) if kind == "bits" else array
