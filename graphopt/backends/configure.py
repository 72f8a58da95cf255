"""Build options into TensorRT's IBuilderConfig; what the installed TensorRT lacks is an error. Child process only."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from typing import Any

from graphopt.errors import BackendError, UsageError

from .build_options import FLAGS, SETTINGS, BuildOptions

_SPELLED = {
    "tiling": "tiling_optimization_level",
    "l2_limit_bytes": "l2_limit_for_tiling",
    "aux_streams": "max_aux_streams",
    "hardware_compatibility": "hardware_compatibility_level",
}
_LEAVE = "leave it out, or build with a TensorRT that has it"


class Configuration:
    """One IBuilderConfig on its way to what was asked for.

    title: 'TensorRT 10.16.1', for messages. errors: what TensorRT complained about, in order.
    """

    def __init__(self, trt: Any, config: Any, title: str, errors: list[str], has_timing_cache: bool = True) -> None:
        self._trt = trt
        self._config = config
        self._title = title
        self._errors = errors
        self._has_timing_cache = has_timing_cache

    def apply(self, options: BuildOptions) -> None:
        """Set every option. Raises UsageError where this TensorRT has none such, or refuses the value."""
        for name, (attribute, enumeration) in SETTINGS.items():
            value = getattr(options, name)
            if value is not None:
                self._set(name, attribute, enumeration, value)
        for pool, count in options.memory_pools.items():
            self._pool(pool, count)
        if not options.tf32:
            self._config.clear_flag(self._member("precision fp32", "BuilderFlag", "TF32"))
        for name in sorted(options.flags, key=list(FLAGS).index):  # a flag may ask for one that stands before it
            self._flag(name)
        if options.compute_capabilities:
            self._compute_capabilities(options.compute_capabilities)
        if options.tactic_sources:
            self._tactic_sources(options.tactic_sources)
        for word in options.preview_features:
            feature = self._member("preview features", "PreviewFeature", word[1:].upper())
            self._config.set_preview_feature(feature, word[0] == "+")
            self._check(word, self._config.get_preview_feature(feature), word[0] == "+")
        if options.timing_cache:
            self._timing_cache(options.timing_cache)

    def keep_timing_cache(self, path: str) -> None:
        """Write what the build measured, with what another build has written meanwhile. Raises BackendError."""
        if not path:
            return
        cache = self._config.get_timing_cache()
        stored = _read(path)
        if stored:
            other = self._config.create_timing_cache(stored)
            if other is not None:
                cache.combine(other, False)
        folder = os.path.dirname(os.path.abspath(path))
        try:
            handle, name = tempfile.mkstemp(dir=folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(memoryview(cache.serialize()))
                os.replace(name, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(name)
                raise
        except OSError as error:
            raise BackendError(f"the timing cache cannot be written: {error.strerror}", where=path) from error

    def _set(self, name: str, attribute: str, enumeration: str, value: Any) -> None:
        if not hasattr(self._config, attribute):
            raise self._lacks(_words(name))
        wanted = self._member(f"{_words(name)} {value}", enumeration, value.upper()) if enumeration else value
        setattr(self._config, attribute, wanted)
        self._check(f"{_words(name)} {value}", getattr(self._config, attribute), wanted)

    def _pool(self, pool: str, count: int) -> None:
        member = self._member(f"memory pool {pool}", "MemoryPoolType", pool.upper())
        self._config.set_memory_pool_limit(member, count)
        self._check(f"memory pool {pool}:{count}", self._config.get_memory_pool_limit(member), count)

    def _flag(self, name: str) -> None:
        flag = self._member(_words(name), "BuilderFlag", FLAGS[name][0])
        if "timing_cache" in name and not self._has_timing_cache:
            raise self._lacks(_words(name))
        self._config.set_flag(flag)
        self._check(_words(name), self._config.get_flag(flag), True)

    def _compute_capabilities(self, wanted: tuple[tuple[int, int], ...]) -> None:
        if not hasattr(self._config, "set_compute_capability"):
            raise self._lacks("compute capabilities")
        members = [self._compute_capability(one) for one in wanted]
        self._config.num_compute_capabilities = len(members)
        for index, member in enumerate(members):
            self._config.set_compute_capability(member, index)

    def _compute_capability(self, wanted: tuple[int, int]) -> Any:
        members = self._trt.ComputeCapability.__members__
        name = f"SM{wanted[0]}{wanted[1]}"
        if name not in members:
            known = sorted((one.lower() for one in members if one.startswith("SM")), key=lambda one: int(one[2:]))
            raise UsageError(
                f"{self._title} has no compute capability {wanted[0]}.{wanted[1]} to build for",
                hint=f"leave it out (the default is 8.0 and later), or choose among {', '.join(known)}",
            )
        return members[name]

    def _tactic_sources(self, words: tuple[str, ...]) -> None:
        bits = self._config.get_tactic_sources()
        for word in words:
            bit = 1 << int(self._member("tactic sources", "TacticSource", word[1:].upper()))
            bits = bits | bit if word[0] == "+" else bits & ~bit
        self._config.set_tactic_sources(bits)
        self._check(f"tactic sources {','.join(words)}", self._config.get_tactic_sources(), bits)

    def _timing_cache(self, path: str) -> None:
        if not self._has_timing_cache:
            raise self._lacks("a timing cache")
        cache = self._config.create_timing_cache(_read(path))
        if cache is None or not self._config.set_timing_cache(cache, False):
            raise BackendError(
                f"{self._title} does not take the timing cache{self._reason()}",
                where=path,
                hint="it belongs to one version of TensorRT and one GPU: name another file, or remove it",
            )

    def _member(self, what: str, enumeration: str, name: str) -> Any:
        found = getattr(self._trt, enumeration, None)
        members = {} if found is None else found.__members__
        if name not in members:
            raise self._lacks(what, f"it knows {', '.join(one.lower() for one in members)}" if members else "")
        return members[name]

    def _check(self, what: str, found: Any, wanted: Any) -> None:
        if found != wanted:
            raise UsageError(f"{self._title} does not take {what}{self._reason()}", hint=_LEAVE)

    def _reason(self) -> str:
        found = [one for one in self._errors if not one.startswith("Thread context has not been set")]
        return f": {found[0]}" if found else ""

    def _lacks(self, what: str, hint: str = "") -> UsageError:
        return UsageError(f"{self._title} has no {what.removeprefix('a ')}", hint=hint or _LEAVE)


def _words(name: str) -> str:
    """The option of a field, as `graphopt build` spells it."""
    return "--" + _SPELLED.get(name, name).replace("_", "-")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise BackendError(f"the timing cache cannot be read: {error.strerror}", where=path) from error
