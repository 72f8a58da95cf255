"""Finds plugins, and asks them. First-party plugins come through the same door as everybody's."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pluggy

from . import hookspecs
from .errors import GraphoptError, PluginError, UsageError, nearest
from .importer import Importer
from .ir.load import collector_off
from .layers.layer import Layer
from .layers.lower import SPELLING
from .rewrite.rule import STAGES, Entry, entry, kebab

SWITCHED_OFF = "switched off by --no-plugin"


@dataclass(frozen=True)
class Plugin:
    """A plugin as it was found; `reason` says why it is not in use, '' if it is."""

    name: str
    source: str
    hooks: tuple[str, ...] = ()
    reason: str = ""
    module: ModuleType | None = None

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "source": self.source, "hooks": list(self.hooks), "unavailable": self.reason}


class _Hooks(SimpleNamespace):
    """The hooks of a plugin, and nothing else: pluggy looks at every name of what it registers."""

    def __dir__(self) -> list[str]:
        return list(vars(self))


class Registry:
    """The plugins of one run.

    Raises:
        PluginError: duplicate names, unknown hooks, a --plugin that cannot be loaded.
        UsageError: --no-plugin names nothing.
    """

    def __init__(self, plugins: Sequence[str | ModuleType] = (), no_plugins: Iterable[str] = ()) -> None:
        self._by_name: dict[str, Plugin] = {}
        self.given = tuple(one for one in plugins if isinstance(one, str))
        self.switched_off = tuple(no_plugins)
        self.preferred: set[str] = set()
        """The plugins that this run names: their layers go before those of installed ones."""
        off = set(self.switched_off)
        unused = set(off)
        from_env = [item for item in os.environ.get("GRAPHOPT_PLUGINS", "").split(os.pathsep) if item]
        for point in _entry_points():
            unused.discard(point.name)
            self._add(_installed(point, off))
        for given in [*from_env, *plugins]:
            plugin = _from_argument(given)
            unused.discard(plugin.name)
            if plugin.name in off:
                plugin = Plugin(plugin.name, plugin.source, plugin.hooks, SWITCHED_OFF)
            self._add(plugin)
            self.preferred.add(plugin.name)
        if unused:
            raise UsageError(
                f"--no-plugin {sorted(unused)[0]}: no such plugin", hint=f"plugins: {', '.join(self._by_name)}"
            )
        self._manager = _managed(self.plugins)

    @property
    def plugins(self) -> list[Plugin]:
        """Every plugin that was found, in order."""
        return list(self._by_name.values())

    def _add(self, plugin: Plugin) -> None:
        other = self._by_name.setdefault(plugin.name, plugin)
        if other is plugin:
            return
        if other.module is None or other.module is not plugin.module:
            raise PluginError(
                f"two plugins are named {plugin.name}: from {other.source} and from {plugin.source}",
                hint="rename one of them, or uninstall its package",
            )

    def unavailable(self) -> list[str]:
        """One sentence about each plugin that is not in use though nobody switched it off."""
        return [
            f"plugin {one.name} of {one.source} is not in use: {one.reason}"
            for one in self.plugins
            if one.reason and one.reason != SWITCHED_OFF
        ]

    def _ask(self, hook: str, **arguments: Any) -> list[tuple[str, Any]]:
        """(plugin, answer) of every plugin that implements the hook, by plugin name."""
        answers = []
        caller = getattr(self._manager.hook, hook)
        for impl in sorted(caller.get_hookimpls(), key=lambda i: i.plugin_name):
            try:
                answers.append(
                    (impl.plugin_name, impl.function(**{k: v for k, v in arguments.items() if k in impl.argnames}))
                )
            except GraphoptError:
                raise
            except (Exception, SystemExit) as error:
                raise PluginError(
                    f"{hook} raised {type(error).__name__}: {error}",
                    where=f"plugin {impl.plugin_name}",
                    hint=f"leave it out with --no-plugin {impl.plugin_name}",
                ) from error
        return answers

    def has(self, hook: str) -> bool:
        """Whether any plugin implements the hook."""
        return bool(getattr(self._manager.hook, hook).get_hookimpls())

    def passes(self) -> list[Entry]:
        """Every pass of every plugin. Raises PluginError where one breaks the contract."""
        return [entry(run, name) for name, runs in self._ask("graphopt_passes") for run in _listed(name, runs)]

    def layers(self) -> list[tuple[str, type[Layer]]]:
        """(plugin, layer) of every custom layer. Raises PluginError for what is none, and for two of one name."""
        found: dict[str, tuple[str, type[Layer]]] = {}
        for plugin, layers in self._ask("graphopt_layers"):
            for layer in layers:
                if not (isinstance(layer, type) and issubclass(layer, Layer)):
                    raise PluginError(f"{layer!r} is no subclass of graphopt.Layer", where=f"plugin {plugin}")
                other = found.setdefault(layer.__name__, (plugin, layer))
                if other[1] is not layer:
                    raise PluginError(f"two layers are named {layer.__name__}: of plugin {other[0]} and of {plugin}")
        return [found[name] for name in sorted(found)]

    def importers(self) -> dict[str, Importer]:
        """name -> importer. Raises PluginError for what is none, and for two of one name or one suffix."""
        found: dict[str, tuple[str, Importer]] = {}
        owner: dict[str, str] = {}
        for plugin, importers in self._ask("graphopt_importers"):
            for one in importers:
                if not isinstance(one, Importer) or not getattr(one, "name", "") or not hasattr(one, "extra"):
                    hint = "derive it from graphopt.importer.Importer, with a name and an extra"
                    raise PluginError(f"{one!r} is no importer: {hint}", where=f"plugin {plugin}")
                if one.name in found:
                    raise PluginError(f"two importers are named {one.name}: of {found[one.name][0]} and of {plugin}")
                found[one.name] = (plugin, one)
                for suffix in one.suffixes:
                    if suffix in owner:
                        raise PluginError(f"two importers take {suffix}: of plugin {owner[suffix]} and of {plugin}")
                    owner[suffix] = plugin
        return {name: one for name, (_, one) in sorted(found.items())}

    def pipelines(self) -> dict[str, tuple[str, ...]]:
        """Every named pipeline; 'default' holds all stages, 'none' no pass."""
        known: dict[str, tuple[str, ...]] = {"default": STAGES, "none": ()}
        owner = dict.fromkeys(known, "graphopt")
        for plugin, named in self._ask("graphopt_pipelines"):
            for name, parts in named.items():
                if name in known:
                    raise PluginError(f"pipeline {name!r} is defined by {owner[name]} and by {plugin}")
                known[name], owner[name] = tuple(parts), plugin
        return known

    def select(self, pipeline: str = "default", skip: Iterable[str] = ()) -> list[Entry]:
        """The passes of a pipeline without the skipped ones. Raises UsageError for names that do not exist."""
        entries = self.passes()
        names = {one.name for one in entries}
        pipelines = self.pipelines()
        if pipeline not in pipelines:
            raise UsageError(f"no pipeline is named {pipeline!r}", hint=f"pipelines: {', '.join(pipelines)}")
        wanted = set(pipelines[pipeline])
        if unknown := wanted - names - set(STAGES):
            raise PluginError(f"pipeline {pipeline!r} names {sorted(unknown)[0]!r}, which is no pass and no stage")
        skipped = set(skip)
        layers = {kebab(layer.__name__) for _, layer in self.layers()}
        if unknown := {name for name in skipped - names if name not in layers and SPELLING.sub("", name) not in layers}:
            name = sorted(unknown)[0]
            hint = nearest(name, names | layers, "graphopt passes lists them", 0.6)
            raise UsageError(f"--skip {name}: no such pass", hint=hint)
        return [e for e in entries if (e.name in wanted or e.stage in wanted) and e.name not in skipped]

    def inputs(self, path: str) -> dict[str, Any] | None:
        """Verification inputs from the one plugin that has some. Raises PluginError if two have."""
        answers = [(name, got) for name, got in self._ask("graphopt_inputs", path=path) if got is not None]
        if len(answers) > 1:
            raise PluginError(f"two plugins answer graphopt_inputs: {answers[0][0]} and {answers[1][0]}")
        return dict(answers[0][1]) if answers else None

    def veto(self, rule: str, nodes: Sequence[Any], target: Any) -> str | None:
        """The first plugin's reason against a rewrite, or None."""
        for name, reason in self._ask("graphopt_check", rule=rule, nodes=nodes, target=target):
            if reason is not None:
                return f"{reason} (plugin {name})"
        return None

    def before_build(self, network: Any, config: Any) -> None:
        """Let plugins change TensorRT's network and config."""
        self._ask("graphopt_builder", network=network, config=config)

    def builder_keys(self) -> dict[str, str | None]:
        """plugin -> its cache key, or None where it has none, of each that may change a build."""
        keys = dict(self._ask("graphopt_cache_key"))
        asked = self._manager.hook.graphopt_builder.get_hookimpls()
        return {impl.plugin_name: keys.get(impl.plugin_name) for impl in asked}

    def after_pass(self, graph: Any, name: str, changes: int) -> None:
        """Tell every observer."""
        self._ask("graphopt_after_pass", graph=graph, name=name, changes=changes)


def _managed(plugins: Sequence[Plugin]) -> pluggy.PluginManager:
    """The hooks of these plugins; of the same ones as the last time, the same."""
    global _LAST
    used = [plugin for plugin in plugins if plugin.module is not None and not plugin.reason]
    found = {plugin.name: {name: getattr(plugin.module, name) for name in plugin.hooks} for plugin in used}
    if _LAST is None or _LAST[0] != found:
        for plugin in used:
            _check_hooks(plugin)
        manager = pluggy.PluginManager("graphopt")
        manager.add_hookspecs(hookspecs)
        for name, hooks in found.items():
            manager.register(_Hooks(**hooks), name)
        _LAST = found, manager
    return _LAST[1]


_LAST: tuple[dict[str, dict[str, Any]], pluggy.PluginManager] | None = None


@dataclass
class _Installed:
    """The entry points of the folders of the path, and the plugins that were loaded from them."""

    folders: Any
    points: list[EntryPoint]
    plugins: dict[str, Plugin]


def _entry_points() -> list[EntryPoint]:
    """The installed entry points by name; looked for again when a folder of the path has changed."""
    global _FOUND
    folders = []
    for place in sys.path:
        try:
            folders.append((place, os.stat(place or ".").st_mtime_ns))
        except OSError:
            folders.append((place, 0))
    if _FOUND is None or _FOUND.folders != (entry_points, folders):
        points = sorted(entry_points(group="graphopt"), key=lambda p: (p.name, p.value))
        _FOUND = _Installed((entry_points, folders), points, {})
    return _FOUND.points


_FOUND: _Installed | None = None


def _installed(point: EntryPoint, off: set[str]) -> Plugin:
    """The plugin of an entry point; one that was imported is looked at once."""
    assert _FOUND is not None
    known = _FOUND.plugins.get(point.name)
    if known is not None and point.name not in off and sys.modules.get(point.module) is known.module:
        return known
    plugin = _from_entry_point(point, off)
    if not plugin.reason and getattr(plugin.module, "__name__", "") == point.module:
        _FOUND.plugins[point.name] = plugin
    return plugin


def load_own() -> None:
    """Import the plugins of graphopt's own distribution and read their patterns: what each process does once.

    What fails here fails again, and is told, in the run that needs it. Others' plugins wait for a run, which may leave
    them out.
    """
    with suppress(Exception), collector_off():
        for point in _entry_points():
            if _source(point).partition(" ")[0] == __package__:
                module: Any = _installed(point, set()).module
                for run in getattr(module, "graphopt_passes", list)():
                    entry(run, point.name)


def _listed(plugin: str, runs: Any) -> list[Any]:
    if isinstance(runs, (list, tuple)):
        return list(runs)
    raise PluginError(f"graphopt_passes returned {type(runs).__name__}, not a list", where=f"plugin {plugin}")


_SOURCES: dict[str, str] = {}


def _source(point: EntryPoint) -> str:
    """The distribution's name and version; its metadata is read once, not once an entry point."""
    if point.dist is None:
        return point.value
    where = str(getattr(point.dist, "_path", ""))
    if not where or where not in _SOURCES:
        _SOURCES[where] = f"{point.dist.name} {point.dist.version}"
    return _SOURCES[where]


def _from_entry_point(point: EntryPoint, off: set[str]) -> Plugin:
    source = _source(point)
    if point.name in off:
        return Plugin(point.name, source, reason=SWITCHED_OFF)
    try:
        module = point.load()
    except GraphoptError:
        raise
    except (Exception, SystemExit) as error:
        return Plugin(point.name, source, reason=f"cannot be imported: {type(error).__name__}: {error}")
    return _plugin(point.name, source, module)


def _from_argument(given: str | ModuleType) -> Plugin:
    if isinstance(given, ModuleType):
        return _plugin(given.__name__, "given", given)
    path = Path(given)
    try:
        if given.endswith(".py"):
            if not path.is_file():
                raise PluginError(f"no such file: {given}", where="--plugin")
            name = path.stem
            label = f"graphopt_plugin_{abs(hash(str(path.resolve()))):x}"
            spec = importlib.util.spec_from_file_location(label, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[label] = module
            spec.loader.exec_module(module)
            return _plugin(name, given, module)
        return _plugin(given.rpartition(".")[2], given, importlib.import_module(given))
    except GraphoptError:
        raise
    except SyntaxError as error:
        raise PluginError(f"{error.msg} (line {error.lineno})", where=f"--plugin {given}") from error
    except ModuleNotFoundError as error:
        hint = "write the path of a .py file, or the name of an installed module"
        raise PluginError(f"{error}", where=f"--plugin {given}", hint=hint) from error
    except (Exception, SystemExit) as error:
        raise PluginError(f"it raised {type(error).__name__}: {error}", where=f"--plugin {given}") from error


def _plugin(name: str, source: str, module: ModuleType) -> Plugin:
    hooks = tuple(sorted(attr for attr, thing in vars(module).items() if _is_impl(thing)))
    wanted = getattr(module, "GRAPHOPT_API", hookspecs.API)
    if wanted > hookspecs.API:
        return Plugin(name, source, hooks, f"needs plugin API {wanted}; this graphopt has {hookspecs.API}")
    return Plugin(name, source, hooks, "", module)


def _is_impl(thing: Any) -> bool:
    return not isinstance(thing, (type, ModuleType)) and getattr(thing, "graphopt_impl", None) is not None


def _check_hooks(plugin: Plugin) -> None:
    known = {name for name in vars(hookspecs) if name.startswith("graphopt_")}
    for name in plugin.hooks:
        if name not in known:
            raise PluginError(
                f"unknown hook {name}", where=f"plugin {plugin.name}", hint=f"hooks: {', '.join(sorted(known))}"
            )
    for name, thing in vars(plugin.module).items():
        if name in known and callable(thing) and not _is_impl(thing):
            raise PluginError(f"{name} lacks @graphopt.hookimpl", where=f"plugin {plugin.name}")
