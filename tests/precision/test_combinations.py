"""`auto` on small networks against trying every plan, by a cost model of the test's own."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from graphopt.config import Target
from graphopt.ir import dtypes
from graphopt.ir.load import load
from graphopt.numerics.execute import Runner
from graphopt.precision.plan import Plan
from graphopt.precision.stage import Request, lower
from graphopt.precision.trial import Trials
from graphopt.precision.write import write_plan
from graphopt.testing import model

SHAPES = {
    "siblings": "a = MatMul(x, w0) b = MatMul(x, w1) c = Mul(a, b) d = MatMul(c, w2) y = Add(d, x)",
    "spike": "a = MatMul(x, w0) b = Mul(a, s) c = MatMul(b, w1) d = Add(c, a) y = MatMul(d, w2)",
}
WHERE = Target("tensorrt", version="11.4")
ROWS = 16
KINDS = ("float32", "float16", "int8")


def network(shape: str):
    rng = np.random.default_rng(len(shape))
    weights = {f"w{i}": (rng.standard_normal((64, 64)) / 8).astype(np.float32) for i in range(3)}
    if shape == "spike":
        weights["s"] = np.where(np.arange(64) == 3, 300, 1).astype(np.float32)
        weights["w1"][3] = 0
    source = model(f"g (float[{ROWS},64] x) => (float[{ROWS},64] y) {{ {SHAPES[shape]} }}", weights=weights, opset=21)
    for number, node in enumerate(source.graph.node):
        node.name = f"n{number}"
    return source


def seconds_of(graph, times) -> float:
    """Of the written model: each node in the dtype that it computes in, and each cast; a cast that is only quantized
    is in the measured time of the product."""
    total = 0.0
    for node in graph.nodes:
        if node.op == "Cast":
            if any(one.op != "QuantizeLinear" for one in node.outputs[0].outputs) or not node.outputs[0].outputs:
                total += 1e-6 + ROWS * 64 * 6 / 2.9e12
        elif node.name in times:
            quantized = node.inputs[0].inputs and node.inputs[0].inputs[0].op == "DequantizeLinear"
            total += times[node.name]["int8" if quantized else dtypes.name(dtypes.of(node.outputs[0]))]
    return total


def products(source) -> list[str]:
    return [node.name for node in source.graph.node if node.op_type == "MatMul"]


@cache
def every_plan(shape: str):
    """(written graph, error) of every plan: each product in each of three dtypes, all else with the fewest casts."""
    source = network(shape)
    names = products(source)
    bits = lower(load(source), Request("int8", calib=CALIB, max_error=1e9, judge=False), WHERE).plan
    small = {name: entry for name, entry in bits.tensors.items() if entry.quantized}
    found = []
    with Runner() as runner, tempfile.TemporaryDirectory() as folder:
        trials = Trials(load(source), CALIB, runner, Path(folder), {}, None)
        for count in range(len(names) + 1):
            for high in itertools.combinations(names, count):
                base = lower(load(source), Request("fp16", keep=high, calib=CALIB, judge=False), WHERE).plan
                rest = [name for name in names if name not in high]
                for low in itertools.product((False, True), repeat=len(rest)):
                    chosen = set(itertools.compress(rest, low))
                    plan = Plan("auto", tensors=dict(base.tensors))
                    for name, entry in small.items():
                        if readers := tuple(one for one in entry.readers if one in chosen):
                            held = plan.tensors.get(name, entry).dtype
                            plan.tensors[name] = replace(entry, readers=readers, dtype=held)
                    graph = load(source)
                    write_plan(graph, plan, {})
                    found.append((graph, trials.run(plan).worst))
    assert len(found) == len(KINDS) ** len(names)
    return found


CALIB = [{"x": np.random.default_rng(3).standard_normal((ROWS, 64)).astype(np.float32)}]
TIMES = st.lists(st.tuples(*(st.integers(1, 30),) * 3), min_size=3, max_size=3)


@settings(max_examples=10, deadline=None, derandomize=True, phases=[Phase.generate])
@given(st.sampled_from(sorted(SHAPES)), TIMES, st.floats(0.1, 0.95))
def test_no_plan_that_fits_is_faster(shape, micros, share):
    """Any times, any budget: nothing that fits is faster than what auto finds, and what it finds fits."""
    source = network(shape)
    times = {name: dict(zip(KINDS, (one * 1e-6 for one in row), strict=True))
             for name, row in zip(products(source), micros, strict=True)}  # fmt: skip
    plans = every_plan(shape)
    errors = sorted(error for _, error in plans)
    budget = max(errors[int(share * (len(errors) - 1))] * 1.001, 1e-5)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv("GRAPHOPT_CACHE", folder)
        graph = load(source)
        found = lower(graph, Request("auto", calib=CALIB, layer_times=times, max_error=budget), WHERE)
    assert max(found.error.values()) <= budget
    least = min(seconds_of(one, times) for one, error in plans if error <= budget)
    assert seconds_of(graph, times) <= least * (1 + 1e-9)
