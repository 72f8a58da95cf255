"""A network as TEST phase runs it: one generation of layers, each blob written once, what only trains left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.errors import ModelError, UsageError, nearest

from .caffemodel import Array
from .generations import layers_of
from .layer import Layer
from .prototxt import Message

DATA = frozenset(
    "Data ImageData MemoryData HDF5Data WindowData AnnotatedData VideoData DataLayer DenseImageData".split()
)
_LOSSES = {"SoftmaxWithLoss": "Softmax", "SigmoidCrossEntropyLoss": "Sigmoid"}
_ONLY_TRAINS = frozenset("Accuracy DetectionEvaluate HDF5Output Silence".split())
_LABELLED = frozenset(
    "Accuracy HingeLoss InfogainLoss MultinomialLogisticLoss SigmoidCrossEntropyLoss SoftmaxWithLoss".split()
)
"""Types whose further bottoms are labels, and no results."""


@dataclass
class Input:
    """What a caller feeds; shape is None where the .prototxt does not say."""

    name: str
    shape: tuple[int, ...] | None
    where: str


@dataclass
class Network:
    """inputs -> layers in order -> outputs; nothing that does not lead to an output."""

    name: str
    inputs: list[Input]
    layers: list[Layer]
    outputs: list[str]
    notes: list[str]
    blobs: dict[str, str]
    """value -> the blob of Caffe's that it is."""
    altered: bool
    """Whether losses were taken off, or readers of data became inputs: Caffe cannot run it as it stands in the file."""


def read(message: Message, stages: Sequence[str] = ()) -> Network:
    """The network of a NetParameter in phase TEST.

    Raises:
        ModelError: a bottom that no layer above wrote, two writers of one top, no layer, no output.
    """
    layers = layers_of(message, stages)
    inputs = _declared(message)
    if not layers:
        raise ModelError(
            "there is no layer for phase TEST",
            where=message.where,
            hint="a solver's .prototxt names its network: give that one" if "net" in message else "",
        )
    blobs = _write_once(inputs, layers)
    notes: list[str] = []
    layers, hidden = _without_training(layers, notes)
    kept = []
    for layer in layers:
        if _feeds(layer):
            inputs += _fed(layer, notes)
        else:
            kept.append(layer)
    consumed = hidden.union(*(layer.bottoms for layer in kept))
    outputs = [top for layer in kept for top in layer.tops if top not in consumed]
    if not outputs:
        raise ModelError("no layer has an output", where=message.where)
    needed, live = set(outputs), []
    for layer in reversed(kept):
        if needed & set(layer.tops):
            needed.update(layer.bottoms)
            live.append(layer)
    return Network(
        message.text("name", "") or "caffe",
        [one for one in inputs if one.name in needed],
        live[::-1],
        outputs,
        notes,
        blobs,
        bool(notes),
    )


def _feeds(layer: Layer) -> bool:
    return layer.type in DATA or layer.type == "Input"


def assign(network: Network, weights: Sequence[tuple[str, list[Array]]]) -> None:
    """Give every layer its blobs, by name; a blob that layers share is the one that is loaded last, as in Caffe."""
    by_name = {layer.name: layer for layer in network.layers}
    common: dict[str, Array] = {}
    for name, blobs in weights:
        if name in by_name:
            layer = by_name[name]
            layer.blobs = blobs
            for index, key in layer.shared.items():
                if index < len(blobs):
                    common[key] = blobs[index]
    for layer in network.layers:
        for index, key in sorted(layer.shared.items()):
            if key in common and index <= len(layer.blobs):
                layer.blobs = [*layer.blobs[:index], common[key], *layer.blobs[index + 1 :]]


def _declared(message: Message) -> list[Input]:
    """`input:` with `input_shape` or `input_dim`."""
    names, shapes, dims = message.words("input"), message.messages("input_shape"), message.ints("input_dim")
    if shapes and len(shapes) != len(names):
        raise ModelError(f"{len(names)} inputs, and {len(shapes)} times input_shape", where=message.where)
    if dims and len(dims) != 4 * len(names):
        raise ModelError(f"{len(names)} inputs, and {len(dims)} times input_dim: four an input", where=message.where)
    found: list[Input] = []
    for i, name in enumerate(names):
        shape = shapes[i].ints("dim") if shapes else dims[4 * i : 4 * i + 4]
        found.append(Input(name, checked(shape, f"{message.where}: input {name}") if shape else None, message.where))
    return found


def checked(shape: Sequence[int], where: str) -> tuple[int, ...]:
    """Dims of a blob. Raises ModelError for what Caffe has no memory for."""
    if any(not 0 < dim < 2**31 for dim in shape) or int(np.prod([*shape, 1], dtype=object)) >= 2**31:
        raise ModelError(f"no blob has the shape {'x'.join(map(str, shape))}", where=where)
    return tuple(shape)


def _fed(layer: Layer, notes: list[str]) -> list[Input]:
    """The inputs that stand for an Input layer, or for one that reads data from a disk."""
    shapes: list[tuple[int, ...] | None] = [None] * len(layer.tops)
    if layer.type == "Input":
        given = layer.message.message("input_param").messages("shape")
        if given and len(given) not in (1, len(layer.tops)):
            raise layer.error(f"{len(layer.tops)} tops, and {len(given)} shapes")
        dims = [checked(one.ints("dim"), layer.where) for one in given]
        if dims:
            shapes = list(dims * len(layer.tops) if len(dims) == 1 else dims)
    elif layer.tops:
        shapes[0] = _image(layer)
        transforms = {"mean_value", "mean_file", "scale"} & set(layer.message.message("transform_param").values)
        left = f", without {' and '.join(sorted(transforms))} of transform_param" if transforms else ""
        notes.append(f"layer {layer.name} ({layer.type}) became an input{left}")
    return [Input(top, shape, layer.where) for top, shape in zip(layer.tops, shapes, strict=True)]


def _image(layer: Layer) -> tuple[int, ...] | None:
    """batch x channels x height x width, where a data layer says so."""
    if layer.type == "MemoryData":
        p = layer.message.message("memory_data_param")
        return checked([p.integer(name) for name in ("batch_size", "channels", "height", "width")], layer.where)
    p = layer.message.message("image_data_param" if layer.type == "ImageData" else "data_param")
    transform = layer.message.message("transform_param")
    size = transform.integer("crop_size", p.integer("crop_size", 0))
    if not size:
        return None
    return checked(
        [p.integer("batch_size", 1), 1 if transform.flag("force_gray", False) else 3, size, size], layer.where
    )


def _write_once(inputs: Sequence[Input], layers: Sequence[Layer]) -> dict[str, str]:
    """Name values so that each is written once; returns value -> blob for those that have a name of their own.

    An input keeps its blob's name; else the last writer leaves it its name.
    """
    keeps: dict[str, int] = {}
    for number, layer in enumerate(layers):
        for top in layer.tops:
            keeps[top] = number
    for number, layer in reversed(list(enumerate(layers))):
        if _feeds(layer):
            keeps.update(dict.fromkeys(layer.tops, number))
    keeps.update({one.name: -1 for one in inputs})
    taken = set(keeps)
    now: dict[str, str] = {}
    blobs: dict[str, str] = {}
    for one in inputs:
        if one.name in now:
            raise ModelError(f"two inputs are named {one.name}", where=one.where)
        now[one.name] = one.name
    for number, layer in enumerate(layers):
        own = layer.bottoms
        for blob in own:
            if blob not in now:
                known = nearest(blob, now, "layers are listed in the order in which they run")
                raise layer.error(f"bottom {blob} is written by no layer above", known)
        layer.bottoms = [now[blob] for blob in own]
        for top, count in Counter(layer.tops).items():
            if count > 1 or (top in now and top not in own):
                raise layer.error(f"top {top} is written twice", "only a layer that works in place may reuse a name")
        for top in layer.tops:
            now[top] = top if keeps[top] == number else _unused(f"{top}/{layer.name}", taken)
            blobs[now[top]] = top
        layer.tops = [now[top] for top in layer.tops]
    return blobs


def _unused(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _without_training(layers: Sequence[Layer], notes: list[str]) -> tuple[list[Layer], set[str]]:
    """(layers without losses and accuracies, the values that only these took, or Silence).

    A loss that ends the network leaves the activation that it has inside.
    """
    trains = [_trains(one) for one in layers]
    consumed = {blob for one, off in zip(layers, trains, strict=True) if not off for blob in one.bottoms}
    kept, hidden = [], set()
    for layer, off in zip(layers, trains, strict=True):
        if not off:
            kept.append(layer)
            continue
        if layer.type == "Silence":
            hidden.update(layer.bottoms)
            continue
        if layer.type in _LABELLED:
            hidden.update(layer.bottoms[1:])
        activation = _LOSSES.get(layer.type)
        if activation and layer.bottoms[0] not in consumed:
            consumed.add(layer.bottoms[0])
            top = (layer.tops[1:] or layer.tops or [layer.name])[0]
            kept.append(Layer(layer.name, activation, layer.bottoms[:1], [top], layer.message))
            notes.append(f"layer {layer.name} ({layer.type}) became {activation}: there are no labels")
        else:
            notes.append(f"layer {layer.name} ({layer.type}) is left out: it only trains or scores")
    return kept, hidden


def _trains(layer: Layer) -> bool:
    named = layer.type.endswith("Loss") or layer.type in _LOSSES or layer.type in _ONLY_TRAINS
    if named and not layer.bottoms:
        raise layer.error("it has no bottom")
    return named


def shapes_of(network: Network, given: Mapping[str, Sequence[int | str]]) -> dict[str, tuple[int | str, ...]]:
    """name -> dims of every input: those that the user gave go before those of the file.

    Raises:
        UsageError: a name that is none of an input, another rank, or no shape at all.
    """
    names = [one.name for one in network.inputs]
    found = dict(given)
    if "" in found:
        if len(names) != 1:
            raise UsageError(f"--shapes without a name, and {len(names)} inputs: {', '.join(names)}")
        found[names[0]] = found.pop("")
    for name in found:
        if name not in names:
            raise UsageError(
                f"--shapes {name}: no such input", hint=nearest(name, names, f"inputs: {', '.join(names)}")
            )
    shapes: dict[str, tuple[int | str, ...]] = {}
    for one in network.inputs:
        dims = tuple(found.get(one.name, one.shape or ()))
        if not dims:
            raise UsageError(
                f"input {one.name} has no shape in the file",
                where=one.where,
                hint=f"give --shapes {one.name}=1x3x224x224",
            )
        if one.shape and len(dims) != len(one.shape):
            shown = "x".join(map(str, one.shape))
            raise UsageError(f"--shapes {one.name}: {len(dims)} dimensions, where the network has {shown}")
        fixed = [dim for dim in dims if isinstance(dim, int)]
        if any(dim <= 0 for dim in fixed):
            raise UsageError(f"--shapes {one.name}: dimensions are at least 1, not {min(fixed)}")
        shapes[one.name] = dims
    return shapes
