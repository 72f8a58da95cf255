"""What the bench counts and how it compares, each with a case in which it says no."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from .corpus.synthetic import chain, deep, readers, wide
from .judge import count, difference
from .scaling import per_doubling

FUNCTIONS = """<ir_version: 8, opset_import: ["": 17, "f": 1]>
g (float[2] x) => (float[2] y) {
  a = f.twice(x) b = f.twice(a) c = f.four(b) k = Constant<value = float {1}>() y = Add(c, k)
}
<opset_import: ["": 17], domain: "f"> twice (x) => (y) { n = Neg(x) y = Abs(n) }
<opset_import: ["": 17, "f": 1], domain: "f"> four (x) => (y) { t = f.twice(x) y = f.twice(t) }"""

BRANCHES = """<ir_version: 8, opset_import: ["": 17]>
g (bool flag, float[2] x) => (float[2] y) {
  y = If (flag) <
    then_branch = t () => (a) { k = Constant<value = float {1}>() b = Add(x, k) a = Relu(b) },
    else_branch = e () => (c) { c = Neg(x) }
  >
}"""


def test_functions_count_as_if_inlined_and_constants_not() -> None:
    assert count(onnx.parser.parse_model(FUNCTIONS)) == {"Neg": 4, "Abs": 4, "Add": 1}


def test_subgraphs_count() -> None:
    assert count(onnx.parser.parse_model(BRANCHES)) == {"If": 1, "Add": 1, "Relu": 1, "Neg": 1}


def test_another_domain_is_named() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "com.x": 1]> g (float[2] x) => (float[2] y) { y = com.x.Foo(x) }'
    )
    assert count(model) == {"com.x::Foo": 1}


@pytest.mark.parametrize("expected", [np.float32([3, 4]), np.float16([3, 4])])
def test_relative_l2(expected: np.ndarray) -> None:
    assert difference({"y": expected}, {"y": expected}) == 0
    off = expected + np.array([0, 0.05], expected.dtype)
    assert difference({"y": expected}, {"y": off}) == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize(
    "actual",
    [
        {"z": np.float32([1, np.nan])},
        {"y": np.float64([1, np.nan])},
        {"y": np.float32([[1, np.nan]])},
        {"y": np.float32([1, 1])},
        {"y": np.float32([np.nan, 1])},
        {},
    ],
    ids=["name", "dtype", "shape", "NaN is gone", "NaN elsewhere", "missing"],
)
def test_another_structure_is_infinitely_far(actual: dict[str, np.ndarray]) -> None:
    assert difference({"y": np.float32([1, np.nan])}, actual) == float("inf")


def test_signs_of_infinity_are_told_apart() -> None:
    assert difference({"y": np.float32([np.inf, 1])}, {"y": np.float32([np.inf, 1])}) == 0
    assert difference({"y": np.float32([np.inf, 1])}, {"y": np.float32([-np.inf, 1])}) == float("inf")


def test_integers_differ_by_the_share_of_unequal_elements() -> None:
    assert difference({"y": np.array([1, 2, 3, 4])}, {"y": np.array([1, 2, 3, 5])}) == 0.25


def test_zero_is_not_near_anything_else() -> None:
    assert difference({"y": np.zeros(2)}, {"y": np.full(2, 1e-9)}) == float("inf")


def test_growth_per_doubling() -> None:
    assert per_doubling((1_000, 4_000), (1.0, 4.0)) == pytest.approx(2)
    assert per_doubling((1_000, 4_000), (1.0, 16.0)) == pytest.approx(4)


@pytest.mark.parametrize("nodes", [30, 300])
def test_synthetic_graphs_have_the_size_they_say(nodes: int) -> None:
    assert len(chain(nodes)[0].graph.node) == nodes
    assert len(wide(nodes)[0].graph.node) == pytest.approx(nodes, abs=3)
    for order in ("forward", "reverse", "random"):
        model = readers(nodes, order)[0]
        assert sum(node.input[0] == "shared" for node in model.graph.node) == nodes
    onnx.checker.check_model(chain(nodes)[0], full_check=True)
    onnx.checker.check_model(wide(nodes)[0], full_check=True)


def test_subgraphs_nest_as_deep_as_they_say() -> None:
    ops = count(deep(5, each=4)[0])
    assert ops["If"] == 5
    onnx.checker.check_model(deep(5)[0], full_check=True)
