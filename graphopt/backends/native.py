"""The calls into TensorRT's Python bindings. Runs in the child process only: any of them may end the process."""

from __future__ import annotations

import importlib
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from graphopt.config import Shapes
from graphopt.errors import BackendError

from .configure import Configuration
from .profiles import placeholders, profile
from .protocol import BuildOptions, NetworkInfo, ParseError, ParserError, TensorInfo, onnx_dtype
from .tensorrt import Flavor

_AT_NODE = "Parsing node: "
_REFUSED = re.compile(r'While parsing node number (\d+) \[.* -> "(.*)"\]')
_NOISE = re.compile(r"\.? In \S+ at \S+:\d+|In node -?\d+ with name: .*?\): [A-Z_]+: ")
_STEP_SECONDS = 0.05
_SHOWN = 8


ELSEWHERE = {
    "refit": "refittable engines are built beside an NVIDIA GPU",
    "refit_identical": "refittable engines are built beside an NVIDIA GPU",
    "refit_individual": "refittable engines are built beside an NVIDIA GPU",
    "strip_weights": "engines without weights are built beside an NVIDIA GPU",
    "version_compatible": "it needs TensorRT's lean runtime: --exclude-lean-runtime leaves that out of the engine",
}
"""Flags that depend on what stands beside the builder, and what that is."""


class Channel(Protocol):
    """Where the native half reports to."""

    def send(self, **message: Any) -> None:
        """Pass a message on."""

    def at_node(self, node: str) -> None:
        """Note the node that the parser is at, so that it is known if the parser crashes."""


def load(flavor: Flavor) -> Any:
    """The bindings' module. Raises BackendError if it or its libraries cannot be loaded."""
    try:
        return importlib.import_module(flavor.module)
    except Exception as error:
        raise BackendError(f"{flavor.title} cannot be loaded: {type(error).__name__}: {_plain(str(error))}") from error


class Native:
    """One model on its way to an engine."""

    def __init__(self, module: Any, flavor: Flavor, options: BuildOptions, channel: Channel) -> None:
        self._trt = module
        self._flavor = flavor
        self._options = options
        self._channel = channel
        self._title = f"{flavor.title} {module.__version__}"
        self._log = _logger(module, channel, options.verbose)
        self._builder: Any = None
        self._network: Any = None
        self._inputs: dict[str, TensorInfo] = {}
        self._model = ""

    def check(self) -> None:
        """Set the options; build a network of one layer with those that a library or a driver must be there for.

        Raises UsageError, BackendError.
        """
        trt = self._trt
        self._start()
        config, _ = self._configured()
        asked = [name for name in ELSEWHERE if name in self._options.flags]
        if not asked:
            return
        import numpy as np

        network = self._builder.create_network(_strongly_typed(trt))
        x = network.add_input("x", trt.float32, (4, 4))
        w = network.add_constant((4, 4), trt.Weights(np.ones((4, 4), np.float32)))
        product = network.add_matrix_multiply(x, trt.MatrixOperation.NONE, w.get_output(0), trt.MatrixOperation.NONE)
        network.mark_output(product.get_output(0))
        if self._builder.build_serialized_network(network, config) is None:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in asked)
            hint = "; ".join(dict.fromkeys(ELSEWHERE[name] for name in asked))
            found = self._failure(f"{self._title} cannot build an engine with {options} here")
            raise BackendError(found.what, hint=hint)

    def _start(self) -> None:
        try:
            self._builder = self._trt.Builder(self._log)
        except Exception as error:
            reason = str(error) if self._flavor.picks_compute_capability else f"it needs an NVIDIA GPU ({error})"
            raise self._failure(f"{self._title} cannot start", reason) from error

    def parse(self, model: str) -> NetworkInfo:
        """The parsed network. Raises ParseError."""
        self._model = model
        self._stage("parser", "starting")
        trt = self._trt
        self._start()
        self._network = self._builder.create_network(_strongly_typed(trt))
        parser = trt.OnnxParser(self._network, self._log)
        self._stage("parser", f"parsing {os.path.basename(model)}")
        if not parser.parse_from_file(model):
            raise self._refusal([parser.get_error(index) for index in range(parser.num_errors)])
        return self._describe()

    def build(self, shapes: Shapes, engine_path: str, before: Callable[[Any, Any], None] | None = None) -> float:
        """Build the parsed network into a file; the seconds it took. before: called with network and config.

        Raises UsageError, BackendError.
        """
        several = [profile(self._inputs, one) for one in (shapes, *self._options.profiles)]
        self._stage("builder", "building")
        config, configured = self._configured()
        for name, axis in placeholders(self._inputs) if several[0] else ():
            self._input(name).set_dimension_name(axis, f"{name}.{axis}")
        for bounds in several if several[0] else ():
            self._add_profile(config, bounds)
        if before is not None:
            before(self._network, config)
        self._log.errors.clear()
        start = time.perf_counter()
        engine = self._builder.build_serialized_network(self._network, config)
        if engine is None:
            raise self._failure(f"{self._title} cannot build this model")
        seconds = time.perf_counter() - start
        configured.keep_timing_cache(self._options.timing_cache)
        self._stage("builder", "writing the engine")
        try:
            with open(engine_path, "wb") as file:
                file.write(memoryview(engine))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise BackendError(f"the engine cannot be written: {error.strerror}", where=engine_path) from error
        return seconds

    def _configured(self) -> tuple[Any, Configuration]:
        config = self._builder.create_builder_config()
        self._log.errors.clear()
        found = Configuration(
            self._trt, config, self._title, self._log.errors, has_timing_cache=not self._flavor.picks_compute_capability
        )
        found.apply(self._options)
        config.progress_monitor = _monitor(self._trt, self._channel)
        return config, found

    def _add_profile(self, config: Any, bounds: dict[str, Any]) -> None:
        profile = self._builder.create_optimization_profile()
        for name, (low, typical, high) in bounds.items():
            fill = profile.set_shape_input if self._inputs[name].is_shape else profile.set_shape
            try:
                fill(name, low, typical, high)
            except ValueError as error:
                raise self._failure(f"{self._title} refuses the shapes of input {name!r}", str(error)) from error
        if config.add_optimization_profile(profile) < 0:
            raise self._failure(f"{self._title} refuses these shapes")

    def _input(self, name: str) -> Any:
        inputs = (self._network.get_input(index) for index in range(self._network.num_inputs))
        return next(tensor for tensor in inputs if tensor.name == name)

    def _describe(self) -> NetworkInfo:
        network = self._network
        types = Counter(network.get_layer(index).type.name for index in range(network.num_layers))
        constants = types.pop("CONSTANT", 0)
        inputs = [network.get_input(index) for index in range(network.num_inputs)]
        outputs = [network.get_output(index) for index in range(network.num_outputs)]
        self._inputs = {tensor.name: _tensor(tensor) for tensor in inputs}
        return NetworkInfo(
            layers=types.total(),
            constants=constants,
            layer_types=dict(sorted(types.items())),
            inputs=self._inputs,
            outputs={tensor.name: _tensor(tensor) for tensor in outputs},
        )

    def _refusal(self, found: list[Any]) -> ParseError:
        outputs = {match[1]: match[2] for text in self._log.errors if (match := _REFUSED.search(text))}
        errors = []
        for one in found:
            index = int(one.node())
            name = one.node_name() or (f"#{index}" if index >= 0 else "")
            output = outputs.get(str(index), "")
            errors.append(ParserError(name, one.node_operator(), _plain(one.desc()), index, output))
        if not errors:
            errors = [ParserError("", "", _first(self._log.errors) or "the parser gives no reason")]
        first, *others = errors
        if first.where:
            hints = [f"{one.where}: {one.reason}" for one in others[:_SHOWN]]
            hints += [f"and {len(others) - _SHOWN} more"] if len(others) > _SHOWN else []
        else:
            hints = [text for text in map(_plain, self._log.errors) if first.reason not in text][:_SHOWN]
        return ParseError(
            f"{self._title} cannot parse this: {first.reason}",
            where=f"{self._model}, {first.where}" if first.where else self._model,
            hint="\n  ".join(hints),
            errors=errors,
        )

    def _failure(self, what: str, reason: str = "") -> BackendError:
        first = _first(self._log.errors) or _plain(reason)
        others = [text for text in map(_plain, self._log.errors) if text and text != first]
        return BackendError(f"{what}: {first}" if first else what, where=self._model, hint="\n  ".join(others[:_SHOWN]))

    def _stage(self, role: str, doing: str) -> None:
        self._channel.send(type="stage", who=self._title, role=role, doing=doing)


def _strongly_typed(trt: Any) -> int:
    """The flags of a network whose dtypes are the model's own; where that is the only kind, there may be no flag."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _tensor(tensor: Any) -> TensorInfo:
    try:
        dims = tuple(int(dim) for dim in tensor.shape)
    except ValueError:  # of unknown rank
        dims = ()
    names = tuple(tensor.get_dimension_name(axis) or "" for axis in range(len(dims))) if tensor.is_network_input else ()
    dtype = tensor.dtype.name
    return TensorInfo(onnx_dtype(dtype), dims, names, tensor.is_network_input and tensor.is_shape_tensor)


def _first(messages: list[str]) -> str:
    return next((text for text in map(_plain, messages) if text), "")


def _plain(message: str) -> str:
    """A reason in one line, without the places in source files and the remarks that there is no GPU driver."""
    lines = [line for line in message.splitlines() if "catchCudaError" not in line]
    return " ".join(_NOISE.sub("", " ".join(" ".join(lines).split())).split())


def _logger(trt: Any, channel: Channel, verbose: bool) -> Any:
    severity = trt.ILogger.Severity
    shown = {severity.INTERNAL_ERROR: "error", severity.ERROR: "error", severity.WARNING: "warning"}
    if verbose:
        shown[severity.INFO] = "info"

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, level: Any, message: str) -> None:
            if level in shown:
                if shown[level] == "error":
                    self.errors.append(message)
                sys.stderr.write(f"{shown[level]}: {message}\n")
                sys.stderr.flush()
            elif message.startswith(_AT_NODE):
                channel.at_node(message[len(_AT_NODE) :])

    return Logger()


def _monitor(trt: Any, channel: Channel) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.totals: dict[str, int] = {}
            self.last = 0.0

        def phase_start(self, phase: str, parent: str, steps: int) -> None:
            self.totals[phase] = steps
            self.send(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            if time.monotonic() - self.last >= _STEP_SECONDS:
                self.send(phase, step + 1)
            return True

        def phase_finish(self, phase: str) -> None:
            self.send(phase, self.totals.pop(phase, 0))

        def send(self, phase: str, done: int) -> None:
            self.last = time.monotonic()
            channel.send(type="progress", phase=phase, done=done, total=self.totals.get(phase, done))

    return Monitor()
