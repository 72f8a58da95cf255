"""Measured layer times: as seconds of nodes, as what `auto` goes by."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphopt
from graphopt.config import Target
from graphopt.errors import BackendError, UsageError
from graphopt.ir.load import load
from graphopt.precision.cost import FLOOR, Cost
from graphopt.precision.stage import Request, lower
from graphopt.precision.times import merged, read_times, times_of
from graphopt.precision.watch import Timed
from graphopt.testing import model

RNG = np.random.default_rng(7)
SOURCE = """g (float[8,64] x) => (float[8,64] y) {
    a = MatMul(x, w0) b = Relu(a) c = MatMul(b, w1) d = Tanh(c) e = MatMul(d, w2) y = Relu(e) }"""
PRODUCTS = ("n0", "n2", "n4")


def network():
    made = model(SOURCE, weights={f"w{i}": (RNG.standard_normal((64, 64)) / 8).astype(np.float32) for i in range(3)})
    for number, node in enumerate(made.graph.node):
        node.name = f"n{number}"
    return made


def layer(nodes, ms, dtype="float16", **words):
    return {"name": "_".join(nodes), "nodes": list(nodes), "sources": [], "ms": ms, "dtype": dtype, **words}


@given(st.lists(st.tuples(st.sets(st.sampled_from([f"n{i}" for i in range(6)] + ["cast_x"]), min_size=1),
                          st.floats(1e-3, 10)), min_size=1, max_size=8))  # fmt: skip
def test_no_time_is_lost_or_made(rows):
    """sum(seconds of nodes) = sum(layers), where any layer has a node of the graph."""
    found = times_of([layer(sorted(nodes), ms) for nodes, ms in rows], GRAPH)
    total = sum(seconds for by_dtype in found.values() for seconds in by_dtype.values())
    known = any(nodes - {"cast_x"} for nodes, _ in rows)
    assert total == pytest.approx(sum(ms for _, ms in rows) / 1e3 if known else 0.0)


GRAPH = load(network())


def test_a_fused_layer_is_shared_out_by_bytes_and_arithmetic():
    found = times_of([layer(["n0", "n1"], 3.0)], GRAPH)
    estimate = Cost()
    first, second = (estimate.seconds(node, "float16") for node in GRAPH.nodes[:2])
    assert found["n0"]["float16"] / found["n1"]["float16"] == pytest.approx(first / second)


def test_quantizing_is_time_of_what_needs_it():
    rows = [layer(["n0"], 1, "int8"), layer(["QuantizeLinear_b"], 0.5), layer(["n2"], 1, "int8"), layer(["cast_y"], 2)]
    found = times_of(rows, GRAPH)
    assert found == {"n0": {"int8": 1e-3}, "n2": {"int8": pytest.approx(3.5e-3)}}


def test_layers_of_another_engine_are_known_by_their_source_nodes():
    found = times_of([layer(["other"], 1, sources=["n4"])], GRAPH)
    assert found == {"n4": {"float16": 1e-3}}


def test_dtypes_come_from_different_profiles():
    both = merged({"a": {"float16": 2.0}}, {"a": {"int8": 1.0}, "b": {"int8": 3.0}})
    assert both == {"a": {"float16": 2.0, "int8": 1.0}, "b": {"int8": 3.0}}


def test_a_dtype_that_was_not_measured_scales_with_one_that_was():
    node, plain = GRAPH.nodes[0], Cost()
    cost = Cost({"n0": {"float16": 1.0}})
    assert cost.seconds(node, "float16") == 1.0
    ratio = plain.seconds(node, "int8") / plain.seconds(node, "float16")
    assert cost.seconds(node, "int8") == pytest.approx(FLOOR + (1 - FLOOR) * ratio)
    small = Cost({"n0": {"float16": FLOOR}})
    assert small.seconds(node, "int8") == FLOOR, "a layer that is all launch is no faster on fewer bits"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not json", "no profile"),
        ("{}", "no profile"),
        ('{"layers": []}', "no layers"),
        (json.dumps({"layers": [layer(["n0"], 1, "")]}), "no dtype"),
        (json.dumps({"layers": [layer(["elsewhere"], 9), layer(["n0"], 1)]}), "only 10% of its time"),
    ],
)
def test_a_file_that_is_no_profile_of_this_model(tmp_path, text, said):
    path = tmp_path / "times.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_times(path, GRAPH)


def test_a_missing_file_is_said_before_any_work(tmp_path):
    request = Request("auto", calib=samples(), layer_times=[tmp_path / "none.json"])
    with pytest.raises(UsageError, match="no such file"):
        graphopt.optimize(network(), precision=request)


# -- auto ----------------------------------------------------------------------------------------------------------


def samples():
    return [{"x": np.random.default_rng(3).standard_normal((8, 64)).astype(np.float32)}]


def clock(seconds):
    """A machine on which products take so long: {node: {dtype: milliseconds}}, twice that of float16 in float32; all
    else takes nothing."""

    def measure(graph, feeds):
        rows = []
        for node in graph.nodes:
            if node.name in seconds:
                quantized = node.inputs[0].inputs and node.inputs[0].inputs[0].op == "DequantizeLinear"
                dtype = "int8" if quantized else np.dtype(node.outputs[0].dtype).name
                known = {"float32": 2 * seconds[node.name]["float16"], **seconds[node.name]}
                rows.append(layer([node.name], known[dtype], dtype))
        return Timed(sum(row["ms"] for row in rows), rows, "a machine")

    return measure


def quantized_by(found):
    return {name for e in found.plan.tensors.values() if e.quantized for name in e.readers}


def auto(times, **words):
    request = Request("auto", calib=samples(), max_error=0.5, **words)
    return lower(load(network()), request, Target(version="1.7.1"), clock=clock(times))


def test_what_is_slower_in_8_bits_on_this_gpu_stays_in_float16(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    found = auto({"n0": {"float16": 2, "int8": 1}, "n2": {"float16": 1, "int8": 3}, "n4": {"float16": 2, "int8": 1}})
    assert quantized_by(found) == {"n0", "n4"}
    assert "us more" in found.plan.tensors["c"].why
    assert any("timed on a machine: float16 5 ms, float32 10 ms" in note for note in found.notes)


def test_where_8_bits_gain_nothing_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    found = auto({name: {"float16": 1, "int8": 1.2} for name in PRODUCTS})
    assert not quantized_by(found)
    assert max(found.error.values()) < 0.01


def test_layers_promise_and_the_launch_decides(tmp_path, monkeypatch):
    """Every product is faster alone, and the engine is slower: the plan before it stays."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    timed = clock({name: {"float16": 1, "int8": 0.5} for name in PRODUCTS})

    def slow(graph, feeds):
        found = timed(graph, feeds)
        bits = sum(node.op == "QuantizeLinear" for node in graph.nodes)
        return Timed(found.ms + bits, found.layers)

    request = Request("auto", calib=samples(), max_error=0.5)
    found = lower(load(network()), request, Target(version="1.7.1"), clock=slow)
    assert not quantized_by(found)
    assert any("float16 3 ms" in note and "3 products in int8 4.5 ms" in note for note in found.notes)


def test_where_no_engine_can_be_timed_the_estimate_decides_and_a_note_says_so(tmp_path, monkeypatch):
    """By the estimate, products of 8 x 64 x 64 are not worth a quantization."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))

    def broken(graph, feeds):
        raise BackendError("out of memory")

    found = lower(load(network()), Request("auto", calib=samples(), max_error=0.5), Target(version="1.7.1"),
                  clock=broken)  # fmt: skip
    assert not quantized_by(found)
    assert found.plan.tensors["c"].dtype == "float16"
    assert any("out of memory" in note for note in found.notes)


def test_a_profile_in_a_file_counts_as_well(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    path = tmp_path / "times.json"
    rows = [layer([name], 1) for name in PRODUCTS] + [layer(["n4"], 2, "int8")]
    path.write_text(json.dumps({"layers": rows}))
    request = Request("auto", calib=samples(), max_error=0.5, layer_times=[path])
    found = lower(load(network()), request, Target(version="1.7.1"))
    assert quantized_by(found) == {"n0", "n2"}
