"""What an engine is made of, as one key: a changed bit of any of it is another key."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from graphopt import __version__
from graphopt.backends.build_options import BuildOptions
from graphopt.config import Shapes, Target

from .digest import file_digest

if TYPE_CHECKING:
    import onnx

    from graphopt.registry import Registry

SCHEMA = 1
_NOT_PART = ("timing_cache", "verbose", "plugins", "no_plugins")
"""Options that change how long a build takes, or where layers come from, whose sources are part of the key."""


class NoKey(Exception):
    """Why a build cannot be kept."""


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
        "layers": _layers(proto, registry),
        "measured": measured.digest() if _is_chosen(proto, options, target) else "",
        "builders": _builders(registry),
    }
    return digest_of(parts)


def request_key(
    words: Mapping[str, Any], files: Mapping[str, str], plugins: Sequence[str], no_plugins: Sequence[str]
) -> str:
    """The key of a whole command: every option, the files that they name, and all code.

    files: each with its digest, the model's among them; not those with a model's external data, which nobody knows
    who has not parsed it: they are part of the answer.

    Raises NoKey where code of the user's own decides what comes out.
    """
    found = _installed_plugins()
    if plugins or found is None or os.environ.get("GRAPHOPT_PLUGINS"):
        found = _loaded_plugins(plugins, no_plugins)
    parts = {
        "schema": SCHEMA,
        "graphopt": [__version__, package_source(Path(__file__).parents[1])],
        "library": _library(),
        "words": {name: words[name] for name in sorted(words)},
        "files": sorted(files.items()),
        "plugins": [found, list(no_plugins)],
        "gpu": gpu(),
    }
    return digest_of(parts)


def _is_chosen(proto: onnx.ModelProto, options: BuildOptions, target: Target) -> bool:
    """Whether measurements decide which layers run as kernels between engines."""
    from graphopt.layers.layer import DOMAIN

    auto = options.segments == "auto" and target.backend == "tensorrt_rtx"
    return auto and any(node.domain == DOMAIN for node in proto.graph.node)


def _installed_plugins() -> list[Any] | None:
    """Every entry point with its package's source, none of it imported; distributions are listed by `_library`.

    None where a package has hooks that may bring in more than its source: then it must be asked.
    """
    found = []
    for point in sorted(metadata.entry_points(group="graphopt"), key=lambda one: (one.name, one.value)):
        spec = find_spec(point.module.partition(".")[0])
        if spec is None or not spec.submodule_search_locations:
            return None
        folder = Path(spec.submodule_search_locations[0])
        if _asks(folder):
            return None
        found.append([point.name, point.value, package_source(folder)])
    return found


@cache
def _asks(folder: Path) -> bool:
    return any(word in path.read_bytes() for path in folder.rglob("*.py") for word in _HOOKS)


_HOOKS = (b"graphopt_builder", b"graphopt_inputs")


def _loaded_plugins(plugins: Sequence[str], no_plugins: Sequence[str]) -> list[Any]:
    from graphopt.registry import Registry

    registry = Registry(plugins, no_plugins)
    if registry.has("graphopt_inputs"):
        raise NoKey("a plugin chooses the inputs")
    sources = [module_source(one.module) for one in registry.plugins if one.module is not None]
    return [[[one.name, one.source, one.reason] for one in registry.plugins], sources, _builders(registry)]


def digest_of(parts: Any) -> str:
    """A digest of what JSON can say."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


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
    return [[name, _about(registry, name)] for name in sorted(owners)]


def _builders(registry: Registry) -> list[Any]:
    keys = registry.builder_keys()
    missing = sorted(name for name, key in keys.items() if key is None)
    if missing:
        raise NoKey(f"plugin {missing[0]} may change the build and has no graphopt_cache_key")
    return [[name, keys[name], _about(registry, name)] for name in sorted(keys)]


def _about(registry: Registry, name: str) -> list[str]:
    plugin = next(one for one in registry.plugins if one.name == name)
    return [plugin.source, module_source(plugin.module) if plugin.module is not None else ""]


def module_source(module: ModuleType) -> str:
    """A digest of a plugin's Python source: its whole package, or, of a file, what was loaded from its folder."""
    path = getattr(module, "__file__", None)
    if path is None:
        return ""
    root = sys.modules.get(module.__name__.partition(".")[0])
    folders = list(getattr(root, "__path__", ())) if root is not None and root is not module else []
    if folders:
        return package_source(Path(folders[0]))
    home = Path(path).resolve().parent
    loaded = {Path(path).resolve()}
    for other in list(sys.modules.values()):
        source = getattr(other, "__file__", None)
        if source and source.endswith(".py") and Path(source).resolve().is_relative_to(home):
            loaded.add(Path(source).resolve())
    return digest_of([file_digest(one) for one in sorted(loaded)])


@cache
def package_source(folder: Path) -> str:
    """A digest of all source files under a folder."""
    kinds = (".py", ".cuh", ".cu", ".json")
    files = sorted(one for one in folder.rglob("*") if one.suffix in kinds and one.is_file())
    return digest_of([[str(one.relative_to(folder)), file_digest(one)] for one in files])


@cache
def _library() -> list[str]:
    """Every installed distribution, by the name of its metadata folder: asking each takes a hundred times longer."""
    found: set[str] = set()
    for place in sys.path:
        with suppress(OSError):
            found.update(name for name in os.listdir(place or ".") if name.endswith((".dist-info", ".egg-info")))
    return sorted(found)


@cache
def gpu() -> str:
    """'NVIDIA H100 80GB HBM3, 132' of the first GPU: its name and number of multiprocessors; '' without a driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ""
    device, count, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    multiprocessors = 16
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0) or cuda.cuDeviceGetName(name, 256, device):
        return ""
    cuda.cuDeviceGetAttribute(ctypes.byref(count), multiprocessors, device)
    return f"{name.value.decode()}, {count.value}"
