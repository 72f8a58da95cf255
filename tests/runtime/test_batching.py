"""Requests of any size through batches: every row gets the result that it gets alone."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.cli import main
from graphopt.errors import GraphoptError, UsageError
from graphopt.runtime.batching import Batcher
from graphopt.runtime.rows import Axes, padded_sizes
from graphopt.testing import model

from .executor import OnnxRuntime

AFFINE = """g (float[N,K] x) => (float[N,K] y, float[N] s) {
  a = Mul(x, x) y = Add(a, x) s = ReduceSum<keepdims: int = 0>(y, axes)
}"""


def affine(typical: int = 4, most: int = 8) -> OnnxRuntime:
    proto = model(AFFINE, weights={"axes": np.array([1])})
    return OnnxRuntime(proto, {"x": ((1, 1), (typical, 3), (most, 9))})


def rows(count: int, seed: int = 0, width: int = 3) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def alone(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return x * x + x


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 11), min_size=1, max_size=9), typical=st.integers(1, 8), delay=st.sampled_from([0, 1])
)
def test_results_come_in_order_whatever_shares_a_batch(sizes: list[int], typical: int, delay: float) -> None:
    engine = affine(typical)
    requests = [rows(count, seed) for seed, count in enumerate(sizes)]
    with Batcher(engine, delay_ms=delay) as batcher:
        found = list(batcher.map([{"x": x} for x in requests]))
    for x, got in zip(requests, found, strict=True):
        np.testing.assert_array_equal(got["y"], alone(x))
        np.testing.assert_allclose(got["s"], alone(x).sum(1), rtol=1e-5, atol=1e-6)
    assert {call["x"][0] for call in engine.calls} <= set(batcher.sizes)
    assert batcher.statistics.rows == sum(sizes)


def test_a_large_request_is_split_and_a_small_one_padded() -> None:
    engine = affine(typical=4)
    with Batcher(engine) as batcher:
        x = rows(11)
        np.testing.assert_array_equal(batcher({"x": x})["y"], alone(x))
    assert [call["x"][0] for call in engine.calls] == [4, 4, 4]
    assert (batcher.statistics.batches, batcher.statistics.rows, batcher.statistics.padding) == (3, 11, 1)


def test_lists_are_taken_in_the_engines_dtype() -> None:
    with Batcher(affine()) as batcher:
        assert batcher({"x": [[1, 2, 3]]})["y"].tolist() == [[2, 6, 12]]


def test_waiting_rows_are_merged_and_others_wait_no_longer_than_the_delay() -> None:
    engine = affine(typical=4)
    with Batcher(engine, delay_ms=10_000) as batcher:
        began = time.monotonic()
        futures = [batcher.submit({"x": rows(1, seed)}) for seed in range(4)]
        for seed, future in enumerate(futures):
            np.testing.assert_array_equal(future.result()["y"], alone(rows(1, seed)))
        assert time.monotonic() - began < 5, "a full batch does not wait"
    assert len(engine.calls) == 1
    with Batcher(engine, delay_ms=50) as batcher:
        began = time.monotonic()
        batcher({"x": rows(1)})
        assert 0.045 <= time.monotonic() - began < 5


def test_requests_that_differ_in_other_dimensions_are_not_merged() -> None:
    engine = affine()
    with Batcher(engine, delay_ms=5) as batcher:
        requests = [rows(2, seed, 3 + seed % 2) for seed in range(6)]
        found = list(batcher.map([{"x": x} for x in requests]))
    for x, got in zip(requests, found, strict=True):
        np.testing.assert_array_equal(got["y"], alone(x))


def test_a_static_engine_gets_its_own_batch() -> None:
    engine = OnnxRuntime(model("g (float[5,2] x) => (float[5,2] y) { y = Exp(x) }"))
    with Batcher(engine) as batcher:
        x = rows(7, width=2)
        np.testing.assert_allclose(batcher({"x": x})["y"], np.exp(x), rtol=1e-6)
    assert (batcher.sizes, len(engine.calls)) == ((5,), 2)


def test_rows_may_lie_on_another_axis_and_inputs_be_shared() -> None:
    engine = OnnxRuntime(model("g (float[2,N] x, float[2,1] w) => (float[2,N] y) { y = Mul(x, w) }"))
    weight = np.array([[2.0], [3.0]], np.float32)
    with Batcher(engine, axis=1, batch=4, shared={"w": weight}) as batcher:
        x = rows(2, width=9)
        np.testing.assert_array_equal(batcher({"x": x})["y"], x * weight)


def test_many_threads_at_once() -> None:
    engine = affine(typical=8)
    wrong: list[str] = []
    with Batcher(engine, workers=2, limit_rows=16) as batcher:

        def client(number: int) -> None:
            for turn in range(20):
                x = rows(1 + (number * 7 + turn) % 5, number * 100 + turn)
                if not np.array_equal(batcher({"x": x})["y"], alone(x)):
                    wrong.append(f"{number}, {turn}")

        threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert batcher.statistics.requests == 120


def test_one_bad_request_does_not_fail_those_that_share_its_batch() -> None:
    table = model("g (int64[N] i) => (float[N] y) { y = Gather(t, i) }", weights={"t": np.arange(4, dtype=np.float32)})
    engine = OnnxRuntime(table, {"i": ((1,), (4,), (8,))})
    with Batcher(engine, delay_ms=10_000) as batcher:
        futures = [batcher.submit({"i": np.array([at])}) for at in (0, 1, 99, 3)]  # 99 is no row of the table
        good = [futures[at].result()["y"].tolist() for at in (0, 1, 3)]
        with pytest.raises(GraphoptError):
            futures[2].result()
    assert good == [[0], [1], [3]]


def test_a_request_that_was_given_up_is_not_run() -> None:
    engine = affine(typical=4)
    batcher = Batcher(engine, delay_ms=10_000)
    first, second = batcher.submit({"x": rows(1)}), batcher.submit({"x": rows(2)})
    assert first.cancel()
    batcher.close()
    np.testing.assert_array_equal(second.result()["y"], alone(rows(2)))
    assert batcher.statistics.rows == 2
    with pytest.raises(UsageError, match="closed"):
        batcher.submit({"x": rows(1)})


def test_submit_waits_while_too_many_rows_are_queued() -> None:
    engine = affine(typical=2)
    with Batcher(engine, delay_ms=100, limit_rows=1) as batcher:
        batcher.submit({"x": rows(1)})
        began = time.monotonic()
        batcher.submit({"x": rows(1)})
        assert time.monotonic() - began > 0.05


@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        ({}, "'x' is missing"),
        ({"x": rows(1), "z": rows(1)}, "no input 'z'"),
        ({"x": rows(1).astype(np.float64)}, "float64"),
        ({"x": rows(1)[0]}, "shape"),
        ({"x": rows(0)}, "no rows"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_at_once(feeds: dict[str, Any], says: str) -> None:
    with Batcher(affine()) as batcher, pytest.raises(UsageError, match=says):
        batcher.submit(feeds)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("g (float[N] x) => (float y) { y = ReduceMean<keepdims: int = 0>(x) }", "no rows on axis 0"),
        ("g (float[N,2] x) => (float[2,N] y) { y = Transpose<perm: ints = [1, 0]>(x) }", "2 elements on axis 0"),
        ("g (float[2] x, float[3,1] w) => (float[3,2] y) { y = Mul(x, w) }", "no batches|rows"),
    ],
)
def test_an_engine_without_rows_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Batcher(OnnxRuntime(model(text)))


def test_an_output_whose_rows_are_not_those_of_the_input_is_an_error() -> None:
    engine = OnnxRuntime(model("g (float[N] x) => (float[M] y) { y = Concat<axis: int = 0>(x, x) }"))
    with Batcher(engine, batch=4) as batcher, pytest.raises(GraphoptError, match=r"'y'.*cannot be split"):
        batcher({"x": rows(1)[0][:2]})


def test_sizes_that_the_engine_does_not_take_are_refused() -> None:
    with pytest.raises(UsageError, match="takes 1 to 8"):
        Batcher(affine(), batch=9)
    with pytest.raises(UsageError, match="choose among"):
        Batcher(affine(), sizes=[16])


@pytest.mark.parametrize("sizes", ["", "0", "4,x", "-1", "some"])
def test_batch_sizes_that_are_none_are_refused(sizes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["bench", "nowhere.engine", "--batches", sizes])
    assert left.value.code == 2
    assert "--batches 1,8,32" in capsys.readouterr().err


def test_rows_are_repeated_or_left_out_to_make_a_batch_of_a_size() -> None:
    axes = Axes(affine(), 0, {}, None)
    x = rows(3)
    assert axes.of_size({"x": x}, 2)["x"].tolist() == x[:2].tolist()
    assert axes.of_size({"x": x}, 5)["x"].tolist() == [*x.tolist(), *x[:2].tolist()]
    assert padded_sizes(1, 8) == (1, 2, 4, 8)
    assert padded_sizes(3, 10) == (3, 4, 8, 10)
    assert padded_sizes(5, 5) == (5,)
