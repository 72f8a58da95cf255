"""Which operators that ONNX defines by others the target's parser and builder take as they are.

Measured with TensorRT-RTX 1.6.1 and 1.7.1 over ONNX's operator tests (tests/bench/legalize.py); for TensorRT itself,
see graphopt.backends.operators.TABLES.
"""

from __future__ import annotations

from collections.abc import Callable

from graphopt.backends.operators import table
from graphopt.ir import dtypes

from .site import Site

_FLOATS = ("float32", "float16", "bfloat16")


def is_taken(site: Site) -> str:
    """Why the node is left as it is, '' where the target does not take it."""
    test = _TESTS.get(site.node.op)
    if test is None:
        return ""
    if site.node.op in table(site.target.backend, site.target.version).refused:
        return ""
    return f"{site.node.op} is taken as it is" if test(site) else ""


def _always(site: Site) -> bool:
    return True


def _of(*names: str) -> Callable[[Site], bool]:
    return lambda site: dtypes.name(site[0].dtype) in names


def _one_output(site: Site) -> bool:
    return not any(site.wants(slot) for slot in range(1, len(site.node.outputs)))


def _layer_norm(site: Site) -> bool:
    same = all(site[slot].dtype == site[0].dtype for slot in range(len(site.inputs)) if site.input(slot))
    return _one_output(site) and same and dtypes.name(site[0].dtype) in _FLOATS


def _attention(site: Site) -> bool:
    """One output, float16 or bfloat16, heads of 16, 32, ... elements, no softcap, cache or mask with causality."""
    if dtypes.name(site[0].dtype) not in ("float16", "bfloat16") or not _one_output(site):
        return False
    if site.attr("softcap", 0.0) or site.node.attrs.get("softmax_precision") or site.attr("qk_matmul_output_mode", 0):
        return False
    if any(site.input(slot) is not None for slot in (4, 5, 6)) or (site.attr("is_causal", 0) and site.input(3)):
        return False
    if site.attr("left_window_size", -1) != -1 or site.attr("right_window_size", -1) != -1:
        return False
    if any(site[slot].rank != 4 for slot in range(3)):
        return False
    heads = [shape[3] for slot in range(3) if (shape := site[slot].shape)]
    return len(set(heads)) == 1 and isinstance(heads[0], int) and heads[0] % 16 == 0


_TESTS: dict[str, Callable[[Site], bool]] = {
    **dict.fromkeys(
        "Elu Gelu GroupNormalization MeanVarianceNormalization Mish RMSNormalization "
        "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceSumSquare RotaryEmbedding Shrink Softmax LogSoftmax "
        "Softsign ThresholdedRelu".split(),
        _always,
    ),
    "Celu": _of("float32"),
    "LayerNormalization": _layer_norm,
    "Attention": _attention,
}
