"""What Caffe itself computes, where pycaffe is installed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.importer import Arrays, Reference

from .caffemodel import Array
from .emit import Dim
from .network import Network

_LARGEST_FILE = 512 * 2**20


def reference(
    text: Path,
    weights: Path | None,
    net: Network,
    padded: Mapping[str, Sequence[Dim]],
    stages: Sequence[str],
    notes: list[str],
) -> Reference | None:
    """Caffe's forward pass, or None: Caffe is not installed, or the network is not run as it stands in the file.

    padded: detections that are given in a fixed number of rows, and their shapes.
    """
    if importlib.util.find_spec("caffe") is None:
        return None
    if net.altered:
        notes.append("not compared with Caffe: without labels and data it cannot run the file as it stands")
        return None
    if weights is not None and weights.stat().st_size > _LARGEST_FILE:
        notes.append("not compared with Caffe: it reads no .caffemodel above 512 MiB")
        return None

    def run(arrays: Arrays) -> Sequence[Array]:
        os.environ.setdefault("GLOG_minloglevel", "2")
        import caffe  # type: ignore[import-untyped,import-not-found,unused-ignore]

        caffe.set_mode_cpu()
        words: dict[str, Any] = {"weights": str(weights)} if weights else {}
        model = caffe.Net(str(text), caffe.TEST, stages=list(stages), **words)
        for name, array in arrays.items():
            model.blobs[name].reshape(*array.shape)
        model.reshape()
        for name, array in arrays.items():
            model.blobs[name].data[...] = array
        model.forward()
        found = {name: np.array(model.blobs[net.blobs.get(name, name)].data) for name in net.outputs}
        images = next((len(array) for array in arrays.values()), 1)
        for name, dims in padded.items():
            found[name] = _padded(found[name], [int(dim) for dim in dims], images)
        return list(found.values())

    return run


def _padded(found: Array, dims: Sequence[int], images: int) -> Array:
    """Detections as `--import-option detections=fixed` has them: as many rows each image, of -1 after the last one."""
    rows = np.full((images, dims[2] // images, 7), -1, np.float32)
    table = found.reshape(-1, 7)
    for image in range(images):
        own = table[(table[:, 0] == image) & (table[:, 1] >= 0)]
        rows[image, : len(own)] = own
    return rows.reshape(dims)
