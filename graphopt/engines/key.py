"""What an engine is made of, as one key: a changed bit of any of it is another key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt import __version__
from graphopt.backends.build_options import BuildOptions
from graphopt.config import Shapes, Target

from .digest import digest_of, file_digest
from .loaded import about, builders
from .request import gpu, platform

if TYPE_CHECKING:
    import onnx

    from graphopt.registry import Registry

SCHEMA = 1
_NOT_PART = ("timing_cache", "verbose", "plugins", "no_plugins")
"""Options that change how long a build takes, or where layers come from, whose sources are part of the key."""


def engine_key(
    model: Path, shapes: Shapes | None, options: BuildOptions, target: Target, version: str, registry: Registry
) -> str:
    """The key of the engine that a model file and these options make.

    Held by it: the file's bytes (operators, edges, attributes, node names, inputs and outputs in their order, weights),
    those of its data files, the shapes and options, the measurements by which layers' kernels are chosen, TensorRT's
    and graphopt's versions, the sources of custom layers and of plugins that may change the build, and, for full
    TensorRT, the GPU's name and its number of multiprocessors.

    Raises NoKey where a plugin may change the build and has no graphopt_cache_key.
    """
    import onnx

    from graphopt.layers import measured

    proto = onnx.load(model, load_external_data=False)
    parts = {
        "schema": SCHEMA,
        "graphopt": __version__,
        "model": [file_digest(model), _data_files(model, proto)],
        "shapes": asdict(shapes or Shapes()),
        "options": {name: value for name, value in asdict(options).items() if name not in _NOT_PART}
        | {"timing_cache": bool(options.timing_cache)},
        "backend": [target.backend, version],
        "gpu": gpu() if target.backend == "tensorrt" else "",
        "platform": platform(),
        "layers": _layers(proto, registry),
        "measured": measured.digest() if _is_chosen(proto, options, target) else "",
        "builders": builders(registry),
    }
    return digest_of(parts)


def _is_chosen(proto: onnx.ModelProto, options: BuildOptions, target: Target) -> bool:
    """Whether measurements decide which layers run as kernels between engines."""
    from graphopt.layers.layer import DOMAIN

    auto = options.segments == "auto" and target.backend == "tensorrt_rtx"
    return auto and any(node.domain == DOMAIN for node in proto.graph.node)


def data_files(model: Path) -> dict[str, str]:
    """Every data file that a model names, with its digest."""
    import onnx

    return _data_files(model, onnx.load(model, load_external_data=False))


def _data_files(model: Path, proto: onnx.ModelProto) -> dict[str, str]:
    names = {entry.value for one in _tensors(proto) for entry in one.external_data if entry.key == "location"}
    return {name: file_digest(model.parent / name) for name in sorted(names)}


def _tensors(proto: onnx.ModelProto) -> Iterable[onnx.TensorProto]:
    graphs = [proto.graph]
    nodes = [node for one in proto.functions for node in one.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            nodes += graph.node
        else:
            for attribute in nodes.pop().attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                if attribute.HasField("g"):
                    graphs.append(attribute.g)
                graphs += attribute.graphs


def _layers(proto: onnx.ModelProto, registry: Registry) -> list[Any]:
    called = {(one.domain, one.name) for one in proto.functions}
    called |= {(node.domain, node.op_type) for node in proto.graph.node}
    names = {name for _, name in called}
    owners = {plugin: layer for plugin, layer in registry.layers() if layer.__name__ in names}
    return [[name, about(registry, name)] for name in sorted(owners)]
