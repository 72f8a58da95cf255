"""Writers of layers, by kind; importing this registers them all."""

from graphopt_importers.caffe.mapping import CONVERTERS, write

from . import dense, detection, elementwise, normalization, pooling, recurrent, regions, resizing, shapes, windows

__all__ = [
    "CONVERTERS",
    "dense",
    "detection",
    "elementwise",
    "normalization",
    "pooling",
    "recurrent",
    "regions",
    "resizing",
    "shapes",
    "windows",
    "write",
]
