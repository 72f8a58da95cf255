"""Plugins as part of a key, once they are loaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .digest import digest_of, file_digest
from .request import NoKey
from .sources import package_source

if TYPE_CHECKING:
    from graphopt.registry import Registry


def loaded(plugins: Sequence[str], no_plugins: Sequence[str]) -> list[Any]:
    """All plugins, with their sources. Raises NoKey where one decides what no digest tells."""
    from graphopt.registry import Registry

    registry = Registry(plugins, no_plugins)
    if registry.has("graphopt_inputs"):
        raise NoKey("a plugin chooses the inputs")
    sources = [module_source(one.module) for one in registry.plugins if one.module is not None]
    return [[[one.name, one.source, one.reason] for one in registry.plugins], sources, builders(registry)]


def builders(registry: Registry) -> list[Any]:
    """Every plugin that may change TensorRT's network, with its key. Raises NoKey where one has none."""
    keys = registry.builder_keys()
    missing = sorted(name for name, key in keys.items() if key is None)
    if missing:
        raise NoKey(f"plugin {missing[0]} may change the build and has no graphopt_cache_key")
    return [[name, keys[name], about(registry, name)] for name in sorted(keys)]


def about(registry: Registry, name: str) -> list[str]:
    """Where a plugin comes from, and a digest of its source."""
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
