"""Import torchvision beside a CPU torch.

Its wheel on PyPI is built for CUDA, so its native operators do not load here, and its import fails when it registers
shapes for them. Their schemas alone let it import; they have no kernels, so a call of one raises.
"""

from __future__ import annotations

import torch

SCHEMAS = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))


def define() -> torch.library.Library | None:
    """The schemas, or None where torchvision's own operators are there."""
    try:
        torch.ops.torchvision.nms  # noqa: B018
    except AttributeError:
        library = torch.library.Library("torchvision", "DEF")
        for schema in SCHEMAS:
            library.define(schema)
        return library
    return None


LIBRARY = define()
