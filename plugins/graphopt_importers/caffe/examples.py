"""Inputs that a network can be asked with, where the user gave none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .caffemodel import Array
from .emit import Dim
from .network import Network


def examples(net: Network, shapes: Mapping[str, Sequence[Dim]], dynamic: Mapping[str, int]) -> dict[str, Array]:
    """Normal numbers of a fixed seed; indices, regions, marks where layers want these. dynamic: name -> size, or 1."""
    random = np.random.default_rng(0)
    found = {}
    for name, dims in shapes.items():
        sizes = [dim if isinstance(dim, int) else dynamic.get(dim, 1) for dim in dims]
        found[name] = _made(_meaning(net, name), sizes, random, shapes).astype(np.float32)
    return found


def _meaning(net: Network, name: str) -> tuple[str, Any]:
    for layer in net.layers:
        if name in layer.bottoms:
            place = layer.bottoms.index(name)
            if layer.type == "Embed":
                return "index", layer.message.message("embed_param").integer("input_dim", 1)
            if layer.type in ("LSTM", "RNN") and place == 1:
                return "marks", None
            if layer.type in ("ROIPooling", "PSROIPooling") and place == 1:
                return "regions", None
            if layer.type == "Proposal" and place == 2:
                return "image", None
            if layer.type == "DetectionOutput" and place == 2:
                return "boxes", None
    return "normal", None


def _made(meaning: tuple[str, Any], sizes: list[int], random: Any, shapes: Mapping[str, Sequence[Dim]]) -> Array:
    kind, limit = meaning
    if kind == "index":
        return np.asarray(random.integers(0, max(limit, 1), sizes))
    if kind == "boxes" and len(sizes) == 3 and sizes[2] % 4 == 0:
        low, side = random.uniform(0, 0.7, (2, sizes[2] // 4, 2))
        boxes = np.concatenate([low, low + 0.1 + side / 3], 1).ravel()
        return np.broadcast_to(np.stack([boxes, np.full(sizes[2], 0.1)])[None], sizes)
    if kind == "marks":
        marks = np.ones(sizes)
        marks[:1] = 0
        return marks
    image = max(
        (dims for dims in shapes.values() if len(dims) == 4), key=lambda dims: str(dims[-1]), default=(1, 3, 64, 64)
    )
    height, width = (dim if isinstance(dim, int) else 64 for dim in image[2:])
    if kind == "image":
        return np.resize(np.array([height, width, 1.0]), sizes)
    if kind == "regions":
        corners = random.uniform(0, 1, (sizes[0], 2, 2)) * [width - 1, height - 1]
        ends = np.sort(corners, axis=1).reshape(sizes[0], 4)
        return np.concatenate([np.zeros((sizes[0], 1)), ends], axis=1).reshape(sizes)
    return np.asarray(random.standard_normal(sizes))
