"""Writes files as Caffe does, through Google's protobuf: independent of the reader that is tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_F = descriptor_pb2.FieldDescriptorProto
_MESSAGES: dict[str, list[tuple[str, int, Any, bool]]] = {
    "BlobShape": [("dim", 1, _F.TYPE_INT64, True)],
    "BlobProto": [
        ("num", 1, _F.TYPE_INT32, False),
        ("channels", 2, _F.TYPE_INT32, False),
        ("height", 3, _F.TYPE_INT32, False),
        ("width", 4, _F.TYPE_INT32, False),
        ("data", 5, _F.TYPE_FLOAT, True),
        ("diff", 6, _F.TYPE_FLOAT, True),
        ("shape", 7, "BlobShape", False),
        ("double_data", 8, _F.TYPE_DOUBLE, True),
        ("raw_data_type", 10, _F.TYPE_INT32, False),
        ("raw_data", 12, _F.TYPE_BYTES, False),
    ],
    "V0LayerParameter": [("name", 1, _F.TYPE_STRING, False), ("blobs", 50, "BlobProto", True)],
    "V1LayerParameter": [
        ("layer", 1, "V0LayerParameter", False),
        ("name", 4, _F.TYPE_STRING, False),
        ("blobs", 6, "BlobProto", True),
    ],
    "LayerParameter": [
        ("name", 1, _F.TYPE_STRING, False),
        ("type", 2, _F.TYPE_STRING, False),
        ("blobs", 7, "BlobProto", True),
    ],
    "NetParameter": [
        ("name", 1, _F.TYPE_STRING, False),
        ("layers", 2, "V1LayerParameter", True),
        ("layer", 100, "LayerParameter", True),
    ],
}


@cache
def messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="caffe_weights.proto", package="caffe_weights", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            label = _F.LABEL_REPEATED if repeated else _F.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = _F.TYPE_MESSAGE, f".caffe_weights.{kind}"
            else:
                added.type = kind
                added.options.packed = repeated and kind != _F.TYPE_STRING
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe_weights.{name}")) for name in _MESSAGES
    }


def fill(blob: Any, array: Any, form: str = "float") -> None:
    """form: float, double, half (NVIDIA's), legacy (four dimensions)."""
    array = np.asarray(array)
    if form == "legacy":
        dims = [1] * (4 - array.ndim) + list(array.shape)
        blob.num, blob.channels, blob.height, blob.width = dims
    else:
        blob.shape.dim.extend(array.shape)
    if form == "double":
        blob.double_data.extend(array.astype(np.float64).ravel().tolist())
    elif form == "half":
        blob.raw_data_type, blob.raw_data = 2, array.astype(np.float16).tobytes()
    else:
        blob.data.extend(array.astype(np.float32).ravel().tolist())


def weights(blobs: Mapping[str, Sequence[Any]], generation: int = 2, form: str = "float") -> bytes:
    """A .caffemodel: layer -> its blobs."""
    net = messages()["NetParameter"](name="net")
    for name, arrays in blobs.items():
        layer = net.layer.add() if generation == 2 else net.layers.add()
        layer = layer.layer if generation == 0 else layer
        layer.name = name
        for array in arrays:
            fill(layer.blobs.add(), array, form)
    return bytes(net.SerializeToString())


def write(folder: Path, text: str, blobs: Mapping[str, Sequence[Any]] | None = None, **how: Any) -> Path:
    """net.prototxt, and net.caffemodel beside it where there are blobs; the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "net.prototxt"
    path.write_text(text)
    if blobs is not None:
        path.with_suffix(".caffemodel").write_bytes(weights(blobs, **how))
    return path
