"""For plugin authors' tests: a rule fires where it should, not where it should not, and keeps the numbers.

Models are ONNX text (onnx.parser), bytes, paths, ModelProto or graphsurgeon graphs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from .config import Shapes, Target
from .errors import ModelError, VerificationError
from .ir.fingerprint import fingerprint
from .ir.load import load
from .ir.save import to_proto
from .layers.layer import Layer
from .numerics.difference import compare
from .numerics.feeds import make_feeds
from .numerics.ranges import read_inputs
from .numerics.shapes import sample_shapes
from .rewrite.manager import Manager
from .rewrite.rule import Pass, entry


def model(text: str, *, weights: Mapping[str, Any] | None = None, opset: int = 17, **domains: int) -> onnx.ModelProto:
    """A model from ONNX text: a whole `<...>` model, or a graph `name (float[N] x) => (float[N] y) {...}`.

    `weights` are added as initializers; a value may be an array, or a shape tuple for seeded normal numbers.
    """
    imports = ", ".join([f'"" : {opset}', *(f'"{name}" : {version}' for name, version in domains.items())])
    header = "" if text.lstrip().startswith("<") else f"<ir_version: 10, opset_import: [{imports}]>\n"
    try:
        proto = onnx.parser.parse_model(header + text)
    except onnx.parser.ParseError as error:
        words = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise ModelError(f"it is no ONNX text: {words.strip()}") from None
    rng = np.random.default_rng(0)
    for name, value in (weights or {}).items():
        if isinstance(value, tuple) and all(isinstance(dim, int) for dim in value):
            value = rng.standard_normal(value).astype(np.float32)
        array = np.asarray(value, np.float32 if isinstance(value, float) else None)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def apply(source: Any, *passes: Pass, target: Target | None = None) -> tuple[onnx.ModelProto, dict[str, int]]:
    """Run just these passes to their fixpoint: the new model, and the number of changes by pass."""
    graph = load(_as_model(source))
    fired = Manager(graph, [entry(one, "test") for one in passes], target or Target()).run()
    return to_proto(graph), {one.name: one.changes for one in fired}


def check_rule(
    rule: Pass,
    before: Any,
    after: Any = None,
    *,
    fires: int | None = None,
    target: Target | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seeds: int = 3,
) -> onnx.ModelProto:
    """`rule` turns `before` into `after` (when given, up to names), and both compute the same numbers.

    `fires`: exactly this many times; by default at least once. Returns the new model.

    Raises:
        AssertionError: it fired a different number of times, or `after` differs.
        VerificationError: the numbers differ.
    """
    source = _as_model(before)
    onnx.checker.check_model(source, full_check=False)
    result, counts = apply(source, rule, target=target)
    count = counts[rule.name]
    if count != fires if fires is not None else not count:
        why = "" if count > (fires or 0) else _why_not(source, rule, target)
        raise AssertionError(f"{rule.name} fired {count} times\n{why}{text_of(result)}")
    if after is not None:
        wanted = _as_model(after)
        got, want = fingerprint(load(result)), fingerprint(load(wanted))
        assert got == want, f"got\n{text_of(result)}\nwanted\n{text_of(wanted)}"
    onnx.checker.check_model(result, full_check=False)
    _same_numbers(source, result, shapes, seeds)
    return result


def assert_unchanged(rule: Pass, before: Any, *, target: Target | None = None) -> None:
    """`rule` leaves this model alone. Raises AssertionError."""
    source = _as_model(before)
    result, counts = apply(source, rule, target=target)
    assert counts[rule.name] == 0, f"{rule.name} fired {counts[rule.name]} times\n{text_of(result)}"
    untouched, _ = apply(source)  # without any pass, shapes of outputs still become known
    assert fingerprint(load(result)) == fingerprint(load(untouched))


def check_layer(layer: type[Layer], *, gpu: bool = True, quick: bool = False) -> None:
    """A custom layer's function, shapes, and on a GPU its kernel, are what its body means.

    Raises AssertionError with all that is not so; GraphoptError where nothing can be tested.
    """
    from .conformance.check import check_layer as run

    outcome = run(layer, gpu=gpu, quick=quick)
    assert outcome.ok, "\n".join(f"{one.check}: {one.case}: {one.detail}" for one in outcome.failures)


def text_of(proto: onnx.ModelProto) -> str:
    """The model as ONNX text."""
    return onnx.printer.to_text(proto)


def _as_model(source: Any) -> Any:
    if isinstance(source, str) and re.search(r"=>|opset_import", source):
        return model(source)
    return source


def _why_not(source: Any, rule: Pass, target: Target | None) -> str:
    """Why the rule fires nowhere (any more), a line for each node where it might."""
    from .rewrite.explain import misses

    manager = Manager(load(source), [entry(rule, "test")], target or Target())
    manager.run()
    return "".join(f"at {node}: {reason}\n" for node, reason in misses(manager, rule.name))


def _same_numbers(
    source: onnx.ModelProto, result: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]] | None, seeds: int
) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    a = ort.InferenceSession(source.SerializeToString(), options, providers=["CPUExecutionProvider"])
    b = ort.InferenceSession(result.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = read_inputs(source)
    count = len(sample_shapes(inputs, Shapes(), seeds))
    for seed in range(seeds):
        dims = dict(shapes) if shapes is not None else sample_shapes(inputs, Shapes(), seeds)[seed % count]
        feeds = make_feeds(inputs, dims, seed)
        names = {one.name for one in b.get_inputs()}
        expected = a.run(None, feeds)
        actual = b.run(None, {name: value for name, value in feeds.items() if name in names})
        for info, want, got in zip(a.get_outputs(), expected, actual, strict=True):
            difference = compare(want, got, name=info.name)
            if not difference.ok:
                raise VerificationError(f"output {difference}")
