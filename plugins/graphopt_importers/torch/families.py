"""What models of well-known libraries need so that they can be written down as a graph."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

from .sources import Read

CACHE_OFF = "use_cache is off: the keys and values of earlier steps are no outputs"
NMS = "batched_nms moves the boxes of each class apart, which torchvision itself does for up to 1,000 boxes"


def without_cache(found: Read) -> list[str]:
    """Switches off the caches that language models return, which are no tensors. Notes."""
    own = getattr(getattr(found.thing, "config", None), "use_cache", False)
    if not own or "use_cache" in found.kwargs or "past_key_values" in found.kwargs:
        return []
    for part in found.thing.modules():  # an encoder and a decoder have copies of it
        if getattr(getattr(part, "config", None), "use_cache", False):
            part.config.use_cache = False
    return [CACHE_OFF]


@contextmanager
def exportable(notes: list[str]) -> Iterator[None]:
    """torchvision's detectors decide by the number of boxes how to go on; here, they do what is true of any number."""
    said: dict[str, None] = {}

    def batched_nms(boxes: Any, scores: Any, idxs: Any, iou_threshold: float) -> Any:
        said[NMS] = None
        return _batched_nms(boxes, scores, idxs, iou_threshold)

    with ExitStack() as stack:
        _replace(stack, "torchvision.ops.boxes", "batched_nms", batched_nms)
        _replace(stack, "torchvision.ops.poolers", "_multiscale_roi_align", _multiscale_roi_align)
        yield
    notes.extend(said)


def _replace(stack: ExitStack, module: str, name: str, new: Any) -> None:
    """Puts `new` wherever a loaded module has this function by its name."""
    old = getattr(sys.modules.get(module), name, None)
    holders = [one for one in list(sys.modules.values()) if old is not None and vars(one).get(name) is old]
    for one in holders:
        stack.enter_context(mock.patch.object(one, name, new))


def _batched_nms(boxes: Any, scores: Any, idxs: Any, iou_threshold: float) -> Any:
    """Suppression among boxes of one class: each class is moved to a place of its own."""
    largest = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max()
    moved = boxes + (idxs.to(boxes) * (largest + 1))[:, None]
    return torch.ops.torchvision.nms(moved, scores, iou_threshold)


def _multiscale_roi_align(
    x_filtered: list[Any], boxes: list[Any], output_size: list[int], sampling_ratio: int, scales: Any, mapper: Any
) -> Any:
    """Each box pooled from the level that suits its size: from every level, and then one of them is taken."""
    from torchvision.ops import roi_align
    from torchvision.ops.poolers import _convert_to_roi_format

    rois = _convert_to_roi_format(boxes)
    levels = mapper(boxes)[:, None, None, None]
    pooled = [
        roi_align(one, rois, output_size, spatial_scale=scale, sampling_ratio=sampling_ratio)
        for one, scale in zip(x_filtered, scales, strict=True)
    ]
    found = pooled[0]
    for level, one in enumerate(pooled[1:], 1):
        found = torch.where(levels == level, one, found)
    return found
