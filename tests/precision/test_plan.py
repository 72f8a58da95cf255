"""The plan as a file: read, edited, compared, replayed; and what is said about mistakes in it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import UsageError
from graphopt.ir.load import load
from graphopt.precision.plan import COMPUTE, QUANTIZED, Entry, Plan, diff
from graphopt.precision.write import write_plan
from graphopt.testing import model

entries = st.builds(
    Entry,
    dtype=st.sampled_from(COMPUTE),
    quantized=st.sampled_from(["", *QUANTIZED]),
    scale=st.none() | st.floats(1e-20, 1e20),
    axis=st.none() | st.integers(0, 4),
    block=st.none() | st.sampled_from([32, 64]),
    readers=st.lists(st.text(min_size=1), max_size=2).map(tuple),
    why=st.text(max_size=5),
)


@given(st.dictionaries(st.text(min_size=1), entries, max_size=4), st.sampled_from(["keep", "change"]))
def test_what_is_written_is_read_back(tensors, io):
    plan = Plan("int8", io, tensors, ["a note"])
    assert Plan.from_text(plan.to_text()) == plan


def test_a_tensor_a_line():
    plan = Plan(tensors={"a": Entry("float16"), "b": Entry("float32", why="overflows")})
    lines = plan.to_text().splitlines()
    assert lines[1:3] == ['"a": {"dtype": "float16"},', '"b": {"dtype": "float32", "why": "overflows"}']


def test_what_differs_between_two_plans():
    before = Plan(tensors={"a": Entry("float16"), "b": Entry("float16"), "c": Entry("float16", why="x")})
    after = Plan(tensors={"a": Entry("float32"), "c": Entry("float16", why="y"), "d": Entry()})
    assert diff(before, after) == [
        ("a", Entry("float16"), Entry("float32")), ("b", Entry("float16"), None), ("d", None, Entry()),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dtype": "float8"}, "cannot be computed in"),
        ({"dtpye": "float16"}, "did you mean dtype"),
        ({"quantized": "int3"}, "nothing is quantized to 'int3'"),
        ({"scale": 0}, "must be a positive number"),
        ("float16", "is no object"),
    ],
)
def test_a_mistake_is_named(change, says):
    text = json.dumps({"graphopt_precision_plan": 1, "tensors": {"conv1": change}})
    with pytest.raises(UsageError, match="tensor 'conv1'") as caught:
        Plan.from_text(text)
    assert says in str(caught.value)


def test_something_else_is_no_plan(tmp_path):
    for text in ("{", "[]", '{"graphopt_precision_plan": 99}'):
        with pytest.raises(UsageError, match=r"no .*plan"):
            Plan.from_text(text)
    with pytest.raises(UsageError, match="there is no such plan"):
        Plan.load(tmp_path / "missing")


def test_a_tensor_that_the_model_has_not_is_named():
    graph = load(model("g (float[4] x) => (float[4] hidden) { hidden = Relu(x) }"))
    with pytest.raises(UsageError, match="no float tensor 'hiden'") as caught:
        write_plan(graph, Plan(tensors={"hiden": Entry("float16")}), {})
    assert "did you mean hidden" in caught.value.hint
