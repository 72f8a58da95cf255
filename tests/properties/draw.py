"""A legal model on which a rule fires, by trial."""

from __future__ import annotations

from random import Random

import onnx

from graphopt.errors import PassError
from graphopt.registry import Registry
from graphopt.rewrite.rule import Entry

from . import einsum_families, legal_families, movement_families  # noqa: F401 - their families join the others
from .contexts import in_branch, in_function, suits
from .families import FAMILIES
from .judge import Illegal, differences, optimized
from .terms import NoTerm, graph_of

ENTRIES = {entry.name: entry for entry in Registry().select()}
MOST_DRAWS = 60

_CLIP = "onnxruntime's Clip holds infinity at the largest finite number where a bound is absent; without it, it stays"
_POOL = "onnxruntime's pools and reductions lose NaN, or keep it, by the order of the elements; a copy keeps it"
_SPELLED = "a matrix product meets inf * 0 where the operator does not look; the definition is kept on finite numbers"
_NAN = "what a whole number is made of NaN is not defined"
OPEN_AT_SPECIAL = {
    "spell-linear": _SPELLED,
    "spell-resizes": _SPELLED,
    "spell-training": _SPELLED,
    "spell-quantized": _NAN,
    "use-relu-for-clip": _CLIP,
    "merge-relu-of-clip": _CLIP,
    "merge-clip-of-relu": _CLIP,
    "merge-clips": _CLIP,
    "remove-clip-without-bounds": _CLIP,
    "remove-pool-of-one": _POOL,
    "fold-pad-into-max-pool": _POOL,
    "remove-global-pool-of-one": _POOL,
    "remove-reduce-of-one": _POOL,
    "reduce-max-before-transpose": _POOL,
    "reduce-min-before-transpose": _POOL,
}
"""Rules that are compared on finite numbers only, and why."""
AFFINE = frozenset(("Conv", "ConvTranspose", "BatchNormalization", "Gemm", "MatMul"))
"""A model with one of these is compared on finite numbers only, where factors or summands may have moved across it:
at an infinite input, inf * 0 and inf - inf then give NaN in other places."""
OPEN_OPERATORS = frozenset(
    (
        "Clip",
        "Max",
        "Min",
        "MaxPool",
        "GlobalMaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "ReduceMax",
        "ReduceMin",
        "Resize",
        "DFT",
        "QuantizeLinear",
    )
)
"""The whole pipeline is compared on finite numbers where one of these is in the model: the rules above may fire."""


def draw(entry: Entry, rng: Random) -> onnx.ModelProto:
    """One model that may hold what the rule looks for. Raises NoTerm."""
    family = FAMILIES.get(entry.name)
    if family is not None and (entry.traced is None or rng.random() < 0.6):
        model = family(rng)
    elif entry.traced is not None:
        try:
            model = graph_of(entry.traced, entry.name, rng)
        except (IndexError, ValueError) as error:
            raise NoTerm(f"no shape fits: {error}") from error
    else:
        raise NoTerm("neither a pattern nor a family")
    context = rng.random()
    if context < 0.3 and suits(model):
        return in_branch(model) if context < 0.15 else in_function(model)
    return model


def operators_in(graph: onnx.GraphProto) -> set[str]:
    found = {node.op_type for node in graph.node}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found |= operators_in(attribute.g)
    return found


def operators_everywhere(source: onnx.ModelProto) -> set[str]:
    inside = {node.op_type for function in source.functions for node in function.node}
    return operators_in(source.graph) | inside


def breach(entry: Entry, seed: int, *, whole: bool = True) -> list[str] | None:
    """What the rule, or then the whole pipeline, changed on a drawn model; None if it fired on none of MOST_DRAWS."""
    rng = Random(f"{entry.name} {seed}")
    for _ in range(MOST_DRAWS):
        try:
            source = draw(entry, rng)
            present = operators_everywhere(source)
            held = entry.name in OPEN_AT_SPECIAL or AFFINE & present
            result, fired = optimized(source, [entry])
            if not fired.get(entry.name):
                continue
            found = differences(source, result, seed, special=not held)
            if not found and whole:
                plain = not (OPEN_OPERATORS | AFFINE) & present
                everything, _ = optimized(source, ENTRIES.values())
                found = [f"whole pipeline: {line}" for line in differences(source, everything, seed, special=plain)]
        except (NoTerm, Illegal):
            continue
        except PassError as error:
            found = [f"the engine stopped it: {error}"]
        if found:
            return [*found, onnx.printer.to_text(source)]
        return []
    return None
