"""A TensorFlow function as an ONNX file, by tf2onnx, and as a reference to compare it with."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphopt.errors import ModelError, UsageError
from graphopt.importer import Arrays, Imported, ImportRequest
from graphopt.importing.samples import example_inputs

from .signature import Spec, chosen, declare

OPSET = 18
"""The newest that tf2onnx writes."""
_LARGE_BYTES = 1_500_000_000
_Written = tuple[Any, Any]


@dataclass(frozen=True)
class Function:
    """What is converted: call(*tensors in the order of inputs) -> tensors in the order of outputs.

    handlers: what tf2onnx makes of operators that only this function has.
    """

    inputs: Sequence[Spec]
    outputs: Sequence[str]
    call: Callable[..., Sequence[Any]]
    weights_bytes: int = 0
    handlers: Mapping[str, tuple[Callable[..., None], list[Any]]] = field(default_factory=dict)


def tensorflow() -> Any:
    """TensorFlow, on the CPU and quiet. Raises ImportError where it, or what converts its graphs, is missing."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    import tensorflow as tf
    import tf2onnx  # noqa: F401

    return tf


def convert(
    request: ImportRequest, function: Function, notes: Sequence[str] = (), files: Sequence[Path] | None = None
) -> Imported:
    """Traces the function with the shapes that were asked for, and writes it down. files: as of `Imported`.

    Raises UsageError and ModelError as `Importer.convert` does.
    """
    tf = tensorflow()
    if request.opset is not None and not 9 <= request.opset <= OPSET:
        raise UsageError(f"tf2onnx writes opsets 9 to {OPSET}, not {request.opset}", hint="leave --opset out")
    for spec in function.inputs:
        if spec.dtype in ("string", "resource", "variant"):
            hint = "cut it: choose --import-option inputs=... behind what reads it, as in a frozen graph"
            raise ModelError(
                f"input {spec.name!r} is of dtype {spec.dtype}, which no engine takes", where=request.source, hint=hint
            )
    specs = chosen(request, function.inputs)
    request.progress("tracing", 0, 0)
    concrete, signature = _traced(tf, request, function, specs)
    request.progress("converting", 0, 0)
    model, storage = _written(tf, request, function, specs, concrete)
    kept = [spec for spec in specs if spec.name in {value.name for value in model.graph.input}]
    declare(model, kept)
    _in_order(model.graph.output, function.outputs)
    _in_order(model.graph.input, [spec.name for spec in specs])
    path = request.folder / "model.onnx"
    for name, data in (storage.name_to_tensor_data if storage else {}).items():
        (request.folder / name).write_bytes(data)
    onnx.save(model, path)
    dropped = [spec.name for spec in specs if spec not in kept]
    said_more = [f"input {name!r} has no effect on the outputs, and is left out" for name in dropped]

    def reference(feeds: Arrays) -> list[Any]:
        args = []
        for spec, tensor in zip(specs, signature, strict=True):
            size = [1 if dim is None else dim for dim in tensor.shape]
            args.append(
                tf.constant(feeds[spec.name] if spec.name in feeds else np.zeros(size, tensor.dtype.as_numpy_dtype))
            )
        found = concrete(*args)
        return [value.numpy() for value in found]

    names = {"", *(spec.name for spec in kept)}
    asked = replace(
        request,
        shapes={name: dims for name, dims in request.shapes.items() if name in names},
        inputs={name: array for name, array in request.inputs.items() if name in names},
    )
    return Imported(path, reference, example_inputs(asked, path), [*notes, *said_more], files=files)


def _traced(tf: Any, request: ImportRequest, function: Function, specs: Sequence[Spec]) -> tuple[Any, list[Any]]:
    """The function as a graph, and its signature."""
    signature = [
        tf.TensorSpec([d if isinstance(d, int) else None for d in spec.dims or ()], spec.dtype, f"graphopt_{number}")
        for number, spec in enumerate(specs)
    ]

    @tf.function(autograph=False, input_signature=signature)  # type: ignore[untyped-decorator]
    def traced(*args: Any) -> list[Any]:
        return [tf.identity(value) for value in function.call(*args)]

    try:
        return traced.get_concrete_function(), signature
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise UsageError(f"TensorFlow refuses these input shapes: {_short(error)}", where=request.source) from error


def _written(
    tf: Any, request: ImportRequest, function: Function, specs: Sequence[Spec], concrete: Any
) -> tuple[Any, Any]:
    """The ONNX model and its large tensors: of the sizes that the framework leaves open, else of the chosen ones.

    With a known batch, TensorFlow's own folding takes loops apart, and tf2onnx finds no LSTM in them any more.
    """
    free = [replace(s, dims=s.dims if o.dims is None else o.dims) for s, o in zip(specs, function.inputs, strict=True)]
    if [spec.dims for spec in free] != [spec.dims for spec in specs]:
        try:
            return _model(tf, request, function, specs, _traced(tf, request, function, free)[0])
        except (UsageError, ModelError):
            pass  # the chosen sizes may do, and say better what is wrong
    return _model(tf, request, function, specs, concrete)


def _model(
    tf: Any, request: ImportRequest, function: Function, specs: Sequence[Spec], concrete: Any
) -> tuple[Any, Any]:
    from tf2onnx import tf_loader
    from tf2onnx.convert import _convert_common  # from_function() takes captured constants for inputs

    inputs = dict(zip([one.name for one in concrete.inputs], [spec.name for spec in specs], strict=False))
    outputs = dict(zip([one.name for one in concrete.outputs], function.outputs, strict=True))
    large = function.weights_bytes > _LARGE_BYTES
    with _errors() as said:
        try:
            with tf.device("/cpu:0"):
                frozen = tf_loader.from_function(concrete, list(inputs), list(outputs), large_model=large)
                model, storage = _convert_common(
                    frozen,
                    name=request.source,
                    continue_on_error=True,
                    opset=request.opset or OPSET,
                    custom_op_handlers={**_missing_operators(), **function.handlers},
                    input_names=list(inputs),
                    output_names=list(outputs),
                    tensors_to_rename={**inputs, **outputs},
                    large_model=large,
                )
        except Exception as error:
            what = f"tf2onnx cannot convert it: {type(error).__name__}: {_short(error)}"
            raise ModelError(what, where=request.source, hint=said[0] if said else "") from error
    _refuse_unsupported(request, model, said)
    return model, storage


def as_spec(name: str, tensor: Any) -> Spec:
    """The spec of a tf.TensorSpec, or of what else has a shape and a dtype."""
    shape = tensor.shape
    dims = None if getattr(shape, "rank", 0) is None else tuple(None if d is None else int(d) for d in shape)
    return Spec(name, getattr(tensor.dtype, "name", tensor.dtype), dims)


def _in_order(values: Any, names: Sequence[str]) -> None:
    """Sorts graph inputs or outputs in place."""
    ordered = sorted(values, key=lambda value: names.index(value.name))
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in ordered]
    del values[:]
    values.extend(copies)


def _refuse_unsupported(request: ImportRequest, model: onnx.ModelProto, said: Sequence[str]) -> None:
    opsets = {one.domain: one.version for one in model.opset_import}
    known = {one.domain for one in model.functions}
    wrong = [node for node in _all_nodes(model.graph) if not _is_known(node, opsets) and node.domain not in known]
    if wrong:
        places = ", ".join(f"{node.op_type} (node {node.name})" for node in wrong[:3])
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        why = f"; tf2onnx said: {said[0]}" if said else ""
        hint = f"cut it out with other inputs or outputs, or replace the layer that makes it{why}"
        raise ModelError(f"no counterpart in ONNX for {places}{more}", where=request.source, hint=hint)


def _is_known(node: onnx.NodeProto, opsets: dict[str, int]) -> bool:
    try:
        onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return False
    return True


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g)


def _missing_operators() -> dict[str, tuple[Callable[..., None], list[Any]]]:
    """What tf2onnx has no handler for."""

    def erfc(graph: Any, node: Any, name: str, args: Any) -> None:
        """erfc(x) = 1 - erf(x)."""
        kind, shape, out = graph.get_dtype(node.output[0]), graph.get_shape(node.output[0]), node.output[0]
        one = graph.make_const(f"{name}/one", np.array(1, onnx.helper.tensor_dtype_to_np_dtype(kind))).output[0]
        source = node.input[0]
        graph.remove_node(name)
        erf = graph.make_node("Erf", [source], name=f"{name}/erf", shapes=[shape], dtypes=[kind]).output[0]
        graph.make_node("Sub", [one, erf], name=name, outputs=[out], shapes=[shape], dtypes=[kind])

    return {"Erfc": (erfc, [])}


@contextlib.contextmanager
def _errors() -> Iterator[list[str]]:
    """What tf2onnx logs as errors, instead of printing it."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(_short(record.getMessage()))

    logger, keep = logging.getLogger("tf2onnx"), Keep(logging.ERROR)
    before = logger.propagate, logger.level
    logger.addHandler(keep)
    logger.propagate = False
    logger.setLevel(logging.ERROR)
    try:
        yield said
    finally:
        logger.removeHandler(keep)
        logger.propagate, logger.level = before


def _short(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."
