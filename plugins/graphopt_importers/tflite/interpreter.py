"""What TensorFlow Lite's own interpreter computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.errors import ModelError
from graphopt.importer import Arrays, Reference

from .model import Ends
from .reader import File


def _interpreter() -> Any:
    """The interpreter's class, of either package; None where neither is installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError:
        try:
            from tensorflow.lite import Interpreter
            from tensorflow.lite.experimental import OpResolverType
        except ImportError:
            return None
    return Interpreter, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


def reference(data: bytes, file: File, ends: Ends, source: str) -> tuple[Reference | None, Sequence[str]]:
    """The original to compare with, and notes. Raises ModelError where the interpreter refuses the file."""
    found = _interpreter()
    if found is None:
        return None, ["not compared with TensorFlow Lite: pip install ai-edge-litert, its interpreter"]
    if ends.graph is not file.graphs[0] or set(ends.named_outputs) != set(ends.graph.outputs):
        return None, ["not compared with TensorFlow Lite, whose outputs are other ones"]
    kind, kernels = found
    try:
        interpreter = kind(model_content=data, experimental_op_resolver_type=kernels)
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"TensorFlow Lite refuses it: {' '.join(str(error).split())[:300]}", where=source) from error

    def run(feeds: Arrays) -> list[Any]:
        for index, name in ends.named_inputs.items():
            shape = np.shape(feeds[name])
            if tuple(interpreter._get_tensor_details(index, 0)["shape"]) != shape:
                interpreter.resize_tensor_input(index, shape)
        interpreter.allocate_tensors()
        for index, name in ends.named_inputs.items():
            interpreter.set_tensor(index, np.asarray(feeds[name]))
        interpreter.reset_all_variables()
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in ends.named_outputs]

    return run, []
