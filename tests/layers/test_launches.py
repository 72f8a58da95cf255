"""Without a GPU: what enqueue launches is looked at, and its CUDA source compiled for the arguments that it gets."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import graphopt
from graphopt.conformance import launches
from graphopt.conformance.cases import cases
from graphopt.conformance.check import check_layer
from graphopt.registry import Registry

from .third_party import FusedRootNorm

LAYERS = [layer for _, layer in Registry().layers() if layer.__module__.startswith("graphopt_layers.")]
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc to compile with")
SOURCE = """
#include <graphopt.cuh>
template <class T> __global__ void scale(const T* x, T* y, long long count, float factor) {
    for (go::i64 i = go::thread(); i < count; i += go::threads()) y[i] = go::from_float<T>(go::to_float(x[i]) * factor);
}"""
scale = graphopt.Kernel(SOURCE, types=("T",))
wide = graphopt.Kernel(SOURCE.replace("float factor", "double factor"), types=("T",))
broken = graphopt.Kernel(SOURCE.replace("* factor)", "* fator)"), types=("T",))


class FusedScaled(graphopt.Layer):
    """y = x * factor."""

    factor: float = 2.0
    dtypes = ("float32", "float16")
    shapes = {"x": "... n"}

    def body(self, op, x):
        return op.like(op.float32(x) * self.factor, x)

    def infer(self, x):
        return x

    def enqueue(self, x, y):
        scale((graphopt.launch.blocks(x.size, 256),), (256,), (x, y, x.size, self.factor))


def scaled(enqueue) -> type[graphopt.Layer]:
    return type("FusedScaled", (FusedScaled,), {"enqueue": enqueue, "__doc__": "y = x * factor."})


def test_launches_are_written_down() -> None:
    case = next(one for one in cases(FusedRootNorm(), quick=True) if one.dtype == "float16")
    (made,) = launches.enqueue(case).launches
    assert made.expression == "rms_norm<__half>"
    assert made.arguments[3] == case.shapes["x"][-1]
    assert np.array_equal(np.asarray(made.arguments[0]), case.arrays()["x"])


@needs_nvcc
def test_a_right_layer_passes() -> None:
    outcome = check_layer(FusedScaled, gpu=False, quick=True)
    assert outcome.ok
    assert [one.case for one in outcome.findings if one.check == "compile"] == ["kernel scale"]
    assert not outcome.remarks


WRONG = {
    "too few arguments": (lambda self, x, y: scale((1,), (32,), (x, y, x.size)), "another number of arguments"),
    "another dtype": (lambda self, x, y: scale["float64"]((1,), (32,), (x, y, x.size, 1.0)), "does not fit"),
    "out of order": (lambda self, x, y: scale((1,), (32,), (x, y, self.factor, x.size)), "does not fit"),
    "a float for a double": (lambda self, x, y: wide((1,), (32,), (x, y, x.size, self.factor)), "does not fit"),
    "CUDA that does not compile": (lambda self, x, y: broken((1,), (32,), (x, y, x.size, 1.0)), "fator"),
}


@needs_nvcc
@pytest.mark.parametrize("name", WRONG)
def test_a_launch_that_does_not_fit_its_kernel_is_found(name: str) -> None:
    enqueue, words = WRONG[name]
    outcome = check_layer(scaled(enqueue), gpu=False, quick=True)
    (failure,) = outcome.failures
    assert failure.check == "compile"
    assert words in failure.detail


def _typo(self, x, y):
    scale((x.sizes,), (256,), (x, y, x.size, self.factor))


def test_enqueue_that_raises_is_found_with_its_line() -> None:
    (failure,) = check_layer(scaled(_typo), gpu=False, quick=True, cuda=False).failures
    assert failure.check == "launch"
    assert "AttributeError" in failure.detail
    assert "test_launches.py, line" in failure.detail


@pytest.mark.parametrize(("grid", "block"), [((1, 70000), (32,)), ((1,), (2048,)), ((1,), (0,))])
def test_a_grid_that_no_gpu_takes_is_found(grid: tuple[int, ...], block: tuple[int, ...]) -> None:
    def enqueue(self, x, y):
        scale(grid, block, (x, y, x.size, self.factor))

    (failure,) = check_layer(scaled(enqueue), gpu=False, quick=True, cuda=False).failures
    assert failure.check == "launch"


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launches, "compiler", lambda: "")
    outcome = check_layer(FusedScaled, gpu=False, quick=True)
    assert outcome.ok
    assert "was not compiled" in outcome.remarks[0]


@needs_nvcc
@pytest.mark.full
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
def test_first_party_kernels_compile_for_what_they_are_launched_with(layer: type[graphopt.Layer]) -> None:
    every = [one for case in cases(layer(), quick=True) for one in launches.enqueue(case).launches]
    assert every
    assert [told for _, told in launches.compiled(every) if told] == []
