"""Caffe: a .prototxt and its .caffemodel, of every generation, in phase TEST."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import graphopt
from graphopt.importer import Imported, Importer, ImportRequest

_STARTS = re.compile(rb"\s*(#[^\n]*\n\s*)*(name\s*:\s*[\"']|input\s*:\s*[\"']|layers?\s*\{|force_backward\s*:)")


class Caffe(Importer):
    """Reads Caffe's files itself: Caffe need not be installed. Where it is, it is what numbers are compared with."""

    name = "caffe"
    suffixes: tuple[str, ...] = (".prototxt", ".caffemodel")
    extra = "graphopt"
    options: Mapping[str, str] = {
        "weights": "The .caffemodel; by default the one of the .prototxt's name, or the only one beside it.",
        "net": "The .prototxt, where a .caffemodel is given as the model.",
        "stages": "Stages that are on, with commas between them: what include and exclude rules ask for.",
        "sequences": "marked, or whole: sequences of LSTM layers begin at the first step only, whatever the marks say.",
        "nms": "loop, or operator: suppression as NonMaxSuppression, not as a loop that every TensorRT builds.",
        "detections": "found, or fixed: DetectionOutput has keep_top_k rows an image, of -1 after the last detection.",
    }

    def accepts(self, source: str) -> bool:
        """A file that starts as a definition of a network does, and has layers."""
        try:
            with Path(source).open("rb") as file:
                head = file.read(65536)
        except OSError:
            return False
        return bool(_STARTS.match(head)) and re.search(rb"^\s*layers?\s*\{", head, re.MULTILINE) is not None

    def convert(self, request: ImportRequest) -> Imported:
        """The network of phase TEST as ONNX.

        Raises:
            ModelError: a file cannot be read, a layer has no counterpart, weights are missing or of another shape.
            UsageError: shapes, inputs or options do not fit.
        """
        from .convert import convert

        return convert(request)


@graphopt.hookimpl
def graphopt_importers() -> list[Importer]:
    return [Caffe()]
