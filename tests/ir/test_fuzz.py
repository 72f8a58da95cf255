"""Whatever a file holds, the answer is a graph or a GraphoptError; never a crash, a hang or an allocation."""

from __future__ import annotations

import os
import tracemalloc

import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from graphopt.errors import GraphoptError
from graphopt.ir.edits import Editor
from graphopt.ir.fingerprint import fingerprint, signature
from graphopt.ir.infer import infer
from graphopt.ir.load import load
from graphopt.ir.save import to_proto

from .damage import damaged_bytes, damaged_fields
from .models import rich

WHOLE = rich().SerializeToString()
CASES = int(os.environ.get("GRAPHOPT_FUZZ", "300"))


def through(source: bytes | onnx.ModelProto) -> bool:
    """Load, look, edit, write and read again; whether it was a model at all."""
    refused = None
    try:
        graph = load(source)
    except GraphoptError as error:
        refused = error
    if refused is not None:
        assert refused.what
        assert len(str(refused)) < 2000
        return False
    signature(graph)
    before = fingerprint(graph)
    again = load(to_proto(graph))
    assert fingerprint(again) == before
    infer(graph)
    Editor(graph).sweep()
    load(to_proto(graph).SerializeToString())
    return True


def test_the_whole_model_goes_through() -> None:
    assert through(WHOLE)


@settings(max_examples=CASES)
@given(damaged_bytes(WHOLE))
def test_damaged_bytes(raw: bytes) -> None:
    through(raw)


@settings(max_examples=CASES)
@given(damaged_fields(rich()))
def test_damaged_fields(model: onnx.ModelProto) -> None:
    through(model)


@settings(max_examples=100)
@given(st.binary(max_size=300))
@example(b"\x08\x08")
def test_random_bytes(raw: bytes) -> None:
    assert not through(raw)


@pytest.mark.parametrize("cut", range(0, len(WHOLE), 7))
def test_truncated(cut: int) -> None:
    with pytest.raises(GraphoptError, match=r"truncated|empty|made by no|no ONNX model"):
        load(WHOLE[:cut])


def test_huge_dims_allocate_nothing() -> None:
    tracemalloc.start()
    for dims in ([2**62], [2**31, 2**31], [0, 2**62], [-1], [2**40]):
        model = rich()
        model.graph.initializer[0].dims[:] = dims
        with pytest.raises(GraphoptError):
            load(model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
