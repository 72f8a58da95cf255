"""From the files to an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.errors import ModelError, UsageError
from graphopt.importer import Imported, ImportRequest

from . import caffemodel, layers, network
from .emit import BEST_OPSET, OPSETS, Dim
from .examples import examples
from .files import definition, pair
from .reference import reference

_CHOICES = {"sequences": ("marked", "whole"), "nms": ("loop", "operator"), "detections": ("found", "fixed")}


def convert(request: ImportRequest) -> Imported:
    """As `Caffe.convert` says."""
    opset = request.opset or BEST_OPSET
    if opset not in OPSETS:
        raise UsageError(f"opset {opset}: the Caffe importer writes {OPSETS[0]} to {OPSETS[-1]}")
    for name, value in request.options.items():
        if value not in _CHOICES.get(name, (value,)):
            raise UsageError(f"--import-option {name}={value}", hint=f"it takes {' or '.join(_CHOICES[name])}")
    text, weights, notes = pair(request.source, request.options)
    stages = [stage for stage in request.options.get("stages", "").split(",") if stage]
    net = network.read(definition(text), stages)
    shapes = network.shapes_of(net, _given(request))
    if weights is not None:
        request.progress("weights", 0, 1)
        network.assign(net, caffemodel.weights(weights))
        request.progress("weights", 1, 1)
    try:
        graph = layers.write(net, shapes, opset, request.options, request.progress)
    except ModelError as error:
        if weights is None and "missing" in error.what:
            hint = f"no weights were found: {text.with_suffix('.caffemodel').name} is not there; "
            raise ModelError(
                error.what, where=error.where, hint=f"{hint}name them: --import-option weights=FILE.caffemodel"
            ) from error
        raise
    path = request.folder / "model.onnx"
    graph.save(path)
    inputs = dict(request.inputs) or examples(net, shapes, request.sizes)
    fixed = request.options.get("detections") == "fixed"
    boxes = {top for one in net.layers if one.type == "DetectionOutput" for top in one.tops}
    padded = {one.name: one.shape for one in graph.outputs if fixed and one.name in boxes}
    run = reference(text, weights, net, padded, stages, notes)
    files = [text, *([weights] if weights is not None else [])]
    return Imported(path, run, inputs, [*notes, *net.notes], files=files)


def _given(request: ImportRequest) -> Mapping[str, tuple[Dim, ...]]:
    """--shapes, and for the rest the shapes of example inputs."""
    return {**{name: tuple(array.shape) for name, array in request.inputs.items()}, **request.shapes}
