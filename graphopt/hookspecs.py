"""The whole extension surface of graphopt: what a plugin may implement.

A plugin is a module (an entry point of group `graphopt`, a file given with --plugin, or a name in GRAPHOPT_PLUGINS)
whose functions under `@graphopt.hookimpl` have these names; a parameter that is not needed may be left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pluggy

API = 1
"""Version of this file. A plugin that needs a newer one says so: `GRAPHOPT_API = 2`."""

hookspec = pluggy.HookspecMarker("graphopt")
hookimpl = pluggy.HookimplMarker("graphopt")

ONE_ANSWER = frozenset({"graphopt_inputs"})
"""Hooks that at most one plugin may answer in a run; two answers are an error naming both."""


@hookspec
def graphopt_passes() -> Sequence[Any]:  # type: ignore[empty-body]
    """Passes that this plugin adds: Rule instances and functions under `@graphopt.pass_`. Asked once per run."""


@hookspec
def graphopt_layers() -> Sequence[Any]:  # type: ignore[empty-body]
    """Custom layers that this plugin adds: subclasses of `graphopt.Layer`. Asked once per run."""


@hookspec
def graphopt_importers() -> Sequence[Any]:  # type: ignore[empty-body]
    """Importers that this plugin adds: objects as `graphopt.importer.Importer` says. Asked once per run."""


@hookspec
def graphopt_pipelines() -> Mapping[str, Sequence[str]]:  # type: ignore[empty-body]
    """Named selections for --pipeline: name -> names of passes or whole stages. Asked once per run."""


@hookspec
def graphopt_inputs(path: str) -> Mapping[str, Any] | None:
    """Real inputs to verify the model at `path` with (name -> array), or None. At most one plugin may answer."""


@hookspec
def graphopt_check(rule: str, nodes: Sequence[Any], target: Any) -> str | None:
    """A veto: None, or why `rule` must leave these matched nodes alone. Asked before each rewrite."""


@hookspec
def graphopt_after_pass(graph: Any, name: str, changes: int) -> None:
    """Told after each run of a pass, with the number of its changes. Must not change the graph."""


@hookspec
def graphopt_builder(network: Any, config: Any) -> None:
    """May change TensorRT's own network and config right before the build. Asked in the process that builds.

    An engine that such a plugin may have changed is kept in the cache only if the plugin has graphopt_cache_key, too.
    """


@hookspec
def graphopt_cache_key() -> str:  # type: ignore[empty-body]
    """What this plugin's graphopt_builder depends on, beside its distribution, version and source: any text."""
