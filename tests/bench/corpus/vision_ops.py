"""Import torchvision beside a CPU torch.

Its wheel on PyPI is built for CUDA, so its native operators may not load here, and its import fails when it registers
shapes for them. Their schemas alone let it import; they have no kernels, so a call of one raises.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

SCHEMAS = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))


def define() -> torch.library.Library | None:
    """The schemas, or None where torchvision's own operators load."""
    spec = find_spec("torchvision")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in Path(folder).glob("_C*.so"):
            try:
                torch.ops.load_library(path)
                return None
            except OSError:
                pass
    library = torch.library.Library("torchvision", "DEF")
    for schema in SCHEMAS:
        library.define(schema)
    return library


LIBRARY = define()
