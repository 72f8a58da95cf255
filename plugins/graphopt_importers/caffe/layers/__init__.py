"""Writers of layers, by kind; importing this registers them all."""

from . import dense, detection, elementwise, normalization, pooling, recurrent, regions, resizing, shapes, windows

__all__ = [
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
]
