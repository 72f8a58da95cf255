"""onnxruntime on the CPU: runs ONNX models as they are; the reference, never the judge of fp16."""

from __future__ import annotations

import importlib.util
import os
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.config import Limits, Shapes
from graphopt.errors import BackendError, ModelError, UsageError

from .protocol import BuildOptions, BuildResult, NetworkInfo, ParseError, ParserError, Progress, StrPath, TensorInfo

_SILENT = 4
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_NODE = (
    re.compile(r'In Node, \("(?P<node>[^"]*)", (?P<op>[^,]+),'),
    re.compile(r"Node \((?P<node>[^)]*)\) Op \((?P<op>[^)]*)\)"),
    re.compile(r"running (?P<op>\w+) node\. Name:'(?P<node>[^']*)'"),
    re.compile(r"implementation for (?P<op>[\w.:]+)\(\d+\) node with name '(?P<node>[^']*)'"),
    re.compile(r"(?P<op>[\w.:]+)\(-?\d+\) is not a registered function/op(?P<node>)"),
)


class OnnxRuntimeBackend:
    """Runs models; there is no engine to build."""

    name = "onnxruntime"

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()

    def available(self) -> str | None:
        """None, or how to install onnxruntime."""
        if importlib.util.find_spec("onnxruntime") is None:
            return "onnxruntime is not installed; to install it: pip install onnxruntime"
        return None

    def version(self) -> str:
        """onnxruntime's version, like '1.22.0'. Raises BackendError if it is not available."""
        return str(_module().__version__)

    def parse(self, model_path: StrPath) -> NetworkInfo:
        """What onnxruntime makes of a model; a layer is a node here.

        Raises ModelError if there is no such file, ParseError if onnxruntime refuses the model.
        """
        import onnx

        loaded = session(model_path)
        nodes = Counter(node.op_type for node in onnx.load(model_path, load_external_data=False).graph.node)
        constants = nodes.pop("Constant", 0)
        return NetworkInfo(
            layers=nodes.total(),
            constants=constants,
            layer_types=dict(sorted(nodes.items())),
            inputs={one.name: _tensor(one) for one in loaded.get_inputs()},
            outputs={one.name: _tensor(one) for one in loaded.get_outputs()},
        )

    def build(
        self,
        model_path: StrPath,
        engine_path: StrPath,
        shapes: Shapes | None = None,
        options: BuildOptions | None = None,
        progress: Progress | None = None,
    ) -> BuildResult:
        """Raises UsageError: onnxruntime has no engines."""
        raise _no_engine()

    def check(self, options: BuildOptions) -> None:
        """Raises UsageError: onnxruntime has no engines."""
        raise _no_engine()


def _no_engine() -> UsageError:
    return UsageError(
        "onnxruntime builds no engine: it runs the ONNX model itself",
        hint="leave out --build, or choose backend tensorrt_rtx or tensorrt",
    )


def session(model: StrPath | bytes, *, optimize: bool = False) -> Any:
    """An onnxruntime InferenceSession on the CPU that runs the graph as it is written, unless `optimize`.

    Raises ModelError if there is no such file, ParseError if onnxruntime refuses the model, BackendError if onnxruntime
    is not installed.
    """
    ort = _module()
    if not isinstance(model, bytes):
        model = os.fspath(model)
        if not os.path.isfile(model):
            raise ModelError("there is no such model file", where=model)
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason, node, op = _reason(error)
        found = [ParserError(node, op, reason)]
        path = "" if isinstance(model, bytes) else model
        raise ParseError(
            f"onnxruntime refuses the model: {reason}", where=_where(path, node, op), errors=found
        ) from error


def run(session: Any, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    """Every output of the model by name. Raises BackendError if the feeds do not fit or a node fails."""
    import onnxruntime as ort

    quiet = ort.RunOptions()
    quiet.log_severity_level = _SILENT
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, dict(feeds), quiet), strict=True))
    except Exception as error:
        reason, node, op = _reason(error)
        raise BackendError(f"onnxruntime cannot run the model: {reason}", where=_where("", node, op)) from error


def _module() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"onnxruntime cannot be loaded: {error}", hint="to install it: pip install onnxruntime"
        ) from error
    return onnxruntime


def _reason(error: Exception) -> tuple[str, str, str]:
    """(reason in one line, node, op) of what onnxruntime says."""
    text = " ".join(_PREFIX.sub("", str(error)).split())
    for pattern in _NODE:
        found = pattern.search(text)
        if found:
            return text, found["node"], found["op"]
    return text, "", ""


def _where(path: str, node: str, op: str) -> str:
    spot = f"node {node or '(unnamed)'} ({op})" if op else ""
    return ", ".join(part for part in (path, spot) if part)


def _tensor(info: Any) -> TensorInfo:
    """onnxruntime writes 'tensor(float)' and mixes numbers, names and None in a shape."""
    inner = re.sub(r"^tensor\((.*)\)$", r"\1", info.type)
    dtype = {"float": "float32", "double": "float64"}.get(inner, inner)
    dims = tuple(dim if isinstance(dim, int) else -1 for dim in info.shape)
    names = tuple(dim if isinstance(dim, str) else "" for dim in info.shape)
    return TensorInfo(dtype, dims, names)
