"""On a GPU: engines and kernels in one container compute what the bodies compute, as one CUDA graph; and batches."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.backends.protocol import BuildOptions
from graphopt.config import Shapes
from graphopt.registry import Registry
from graphopt.runtime.batching import Batcher
from graphopt.runtime.container import is_container
from graphopt.runtime.kernel_call import KernelCall
from graphopt.runtime.segmented import SegmentsBound
from graphopt.runtime.segments import build_segments
from tests.layers import third_party
from tests.layers.models import norms

from . import keeping
from .networks import decoder, keep, scatter, tables
from .parts import once
from .test_segments import CASES, case, feeds_of

pytestmark = pytest.mark.gpu
TOLERANCE = {"float16": 2e-2, "float": 5e-3}


def cut_and_built(source: onnx.ModelProto, path: Path, shapes: Shapes, plugins: Any = (), lower: str = "always") -> Any:
    result = graphopt.optimize(
        source, lower=lower, plugins=plugins, engine=path, shapes=shapes, verify="none",
        build_options=BuildOptions(segments="always"),
    )  # fmt: skip
    assert is_container(path)
    return result.model


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> graphopt.Engine:
    path = tmp_path_factory.mktemp("segments") / "norms.engine"
    shapes = Shapes({"x": (2, 1, 64)}, {"x": (2, 8, 64)}, {"x": (2, 64, 64)})
    cut_and_built(norms(), path, shapes, [third_party])
    return graphopt.Engine(path, plugins=[third_party])


def x_of(rows: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((2, rows, 64)).astype(np.float32)


def close(got: Any, want: Any, dtype: str = "float") -> None:
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    error = np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-30)
    assert error < TOLERANCE[dtype], error


def test_numpy_at_any_size_of_the_profile(chain: graphopt.Engine) -> None:
    for rows in (1, 8, 64, 3, 8):
        x = x_of(rows, rows)
        close(chain(x=x)["z1"], once(norms(), {"x": x})["z1"])


def test_the_whole_is_one_cuda_graph(chain: graphopt.Engine) -> None:
    chain(x=x_of(8))
    bound = next(reversed(chain._bounds.values()))
    assert isinstance(bound, SegmentsBound)
    assert bound.capturable
    assert bound.is_captured(bound.own)
    assert sum(isinstance(step.work, KernelCall) for step in bound.steps) == 2


def test_without_cuda_graphs_it_gives_the_same(chain: graphopt.Engine) -> None:
    plain = graphopt.Engine(chain.loaded.path, plugins=[third_party], cuda_graphs=False)
    x = x_of(5)
    np.testing.assert_array_equal(plain(x=x)["z1"], chain(x=x)["z1"])


def test_cupy_and_a_bound_call(chain: graphopt.Engine) -> None:
    import cupy

    array = cupy.zeros((2, 8, 64), np.float32)
    call = chain.bind({"x": array})
    for seed in range(3):
        array.set(x_of(8, seed))
        cupy.cuda.get_current_stream().synchronize()
        call()
        call.stream.synchronize()
        want = once(norms(), {"x": x_of(8, seed)})["z1"]
        close(cupy.asnumpy(call.outputs["z1"]), want)
        close(cupy.asnumpy(chain(x=array)["z1"]), want)


def test_forks_run_beside_each_other(chain: graphopt.Engine) -> None:
    twins, wrong = [chain.fork() for _ in range(3)], []

    def work(number: int) -> None:
        for turn in range(10):
            x = x_of(1 + turn % 5, 10 * number + turn)
            try:
                close(twins[number](x=x)["z1"], once(norms(), {"x": x})["z1"])
            except AssertionError as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_its_profile_names_engines_layers_and_kernels(chain: graphopt.Engine) -> None:
    from graphopt.runtime.profile import profile

    found = profile(chain, {"x": x_of(8)}, seconds=0.1)
    assert [layer.name for layer in found.layers if layer.kind == "kernel"] == ["FusedRootNorm"] * 2
    assert len(found.layers) >= 4
    assert all(layer.alone_ms > 0 for layer in found.layers)
    assert found.named > 0.95


def test_shapes_outside_of_the_profile_are_named(chain: graphopt.Engine) -> None:
    with pytest.raises(graphopt.UsageError, match="no optimization profile"):
        chain(x=x_of(65))


def test_profiles_are_switched_by_shapes(tmp_path: Path) -> None:
    first, second = (Shapes({"x": (2, n, 64)}, {"x": (2, 2 * n, 64)}, {"x": (2, 4 * n, 64)}) for n in (1, 16))
    graphopt.optimize(
        norms(), lower="always", plugins=[third_party], engine=tmp_path / "m.engine", shapes=first, verify="none",
        build_options=BuildOptions(segments="always", profiles=(second,)),
    )  # fmt: skip
    engine = graphopt.Engine(tmp_path / "m.engine", plugins=[third_party])
    for rows in (2, 40, 4, 64, 16):
        x = x_of(rows, rows)
        close(engine(x=x)["z1"], once(norms(), {"x": x})["z1"])
    with pytest.raises(graphopt.UsageError, match="no optimization profile"):
        engine(x=x_of(9))


@pytest.mark.parametrize("name", [name for name in CASES if name != "control flow"])
def test_every_way_to_cut(name: str, tmp_path: Path) -> None:
    from graphopt import backends

    proto = case(name)
    feeds = feeds_of(proto)
    onnx.save(proto, tmp_path / "m.onnx")
    some = {key: value.shape for key, value in feeds.items()}
    axis = {key: len(shape) - 2 for key, shape in some.items()}
    low, high = (
        {key: (*shape[: axis[key]], size, shape[-1]) for key, shape in some.items()} for size in (1, 9)
    )  # fmt: skip
    words = backends.get("tensorrt_rtx"), Registry([third_party]), "always", Shapes(low, some, high)
    assert build_segments(tmp_path / "m.onnx", tmp_path / "m.engine", *words) is not None
    engine = graphopt.Engine(tmp_path / "m.engine", plugins=[third_party])
    got = engine(feeds)
    for output, want in once(proto, feeds).items():
        close(got[output], want)


@pytest.mark.parametrize("dtype", ["float16", "float"])
def test_two_layers_of_a_decoder(dtype: str, tmp_path: Path) -> None:
    """FusedRotaryInterleaved has tactics, which are timed; FusedAddRMSNorm has two outputs."""
    source = decoder(dtype=dtype)
    sizes = {"x": (64, 128), "cos": (64, 16), "sin": (64, 16)}
    shapes = Shapes(*({name: (rows, *rest) for name, rest in sizes.items()} for rows in (1, 4, 8)))
    optimized = cut_and_built(source, tmp_path / "m.engine", shapes)
    engine = graphopt.Engine(tmp_path / "m.engine")
    for rows in (1, 4, 7):
        x = np.random.default_rng(rows).standard_normal((rows, 64, 128)).astype(optimized_dtype(dtype))
        feeds = {"x": x, **tables(rows, 64, 16, dtype)}
        close(engine(feeds)["y"], once(optimized, feeds)["y"], dtype)


def optimized_dtype(dtype: str) -> Any:
    return {"float16": np.float16, "float": np.float32}[dtype]


@pytest.mark.parametrize("dtype", ["float16", "float"])
def test_what_the_engine_cannot_say_runs_as_a_kernel_by_itself(dtype: str, tmp_path: Path) -> None:
    """Nothing is asked for: --lower auto and --segments auto. The half type needs the kernel's workspace."""
    shapes = Shapes(opt={"x": (32, 8), "i": (100, 1), "u": (100, 8)})
    graphopt.optimize(scatter(dtype), engine=tmp_path / "m.engine", shapes=shapes, verify="none")
    assert is_container(tmp_path / "m.engine")
    rng = np.random.default_rng(0)
    kind = optimized_dtype(dtype)
    feeds = {
        "x": rng.standard_normal((32, 8)).astype(kind), "i": rng.integers(0, 32, (100, 1)),
        "u": rng.standard_normal((100, 8)).astype(kind),
    }  # fmt: skip
    want = np.tanh(feeds["x"].astype(np.float64))
    np.add.at(want, feeds["i"][:, 0], feeds["u"].astype(np.float64))
    close(graphopt.Engine(tmp_path / "m.engine")(feeds)["y"], np.abs(want), dtype)


def test_what_follows_a_kernel_gets_the_size_that_it_found_out(tmp_path: Path) -> None:
    import cupy

    shapes = Shapes({"x": (1, 8), "mask": (1,)}, {"x": (6, 8), "mask": (6,)}, {"x": (64, 8), "mask": (64,)})
    graphopt.optimize(keep(), engine=tmp_path / "m.engine", plugins=[keeping], shapes=shapes, verify="none")
    engine = graphopt.Engine(tmp_path / "m.engine", plugins=[keeping])
    rng = np.random.default_rng(0)
    for rows, share in ((6, 0.5), (6, 0.9), (64, 0.3), (1, 1.1), (6, 0.5), (9, 1.1), (9, 0.0), (9, 0.4)):
        x, mask = rng.standard_normal((rows, 8)).astype(np.float32), rng.random(rows) < share
        got = engine(x=x, mask=mask)
        want = np.exp(np.tanh(x[mask]))
        assert got["y"].shape == want.shape
        if want.size:
            close(got["y"], want)
            close(got["s"], want.sum(1))
        close(got["t"], np.tanh(x))
        on_gpu = engine(x=cupy.asarray(x), mask=cupy.asarray(mask))
        np.testing.assert_array_equal(cupy.asnumpy(on_gpu["y"]), got["y"])


def test_rows_kept_by_the_installed_layer(tmp_path: Path) -> None:
    """FusedCompress, which nobody asked for: TensorRT-RTX cannot say Compress."""
    frozen = {"x": (9, 8), "mask": (9,)}
    graphopt.optimize(keep(), engine=tmp_path / "m.engine", freeze=frozen, verify="none")
    engine = graphopt.Engine(tmp_path / "m.engine")
    x = np.random.default_rng(0).standard_normal((9, 8)).astype(np.float32)
    for mask in (np.arange(9) % 2 == 0, np.arange(9) < 8, np.ones(9, bool), np.zeros(9, bool)):
        got = engine(x=x, mask=mask)["y"]
        assert got.shape == (mask.sum(), 8)
        if mask.any():
            close(got, np.exp(np.tanh(x[mask])))


def test_batches_of_numpy_and_cupy_requests(tmp_path: Path) -> None:
    import cupy

    from graphopt.testing import model

    proto = model("g (float[N,8] x) => (float[N,8] y) { t = Tanh(x) y = Add(t, x) }")
    graphopt.optimize(
        proto, engine=tmp_path / "m.engine", shapes=Shapes({"x": (1, 8)}, {"x": (8, 8)}, {"x": (32, 8)}), verify="none"
    )
    engine = graphopt.Engine(tmp_path / "m.engine")
    rng = np.random.default_rng(0)
    requests = [rng.standard_normal((1 + number % 13, 8)).astype(np.float32) for number in range(60)]
    with Batcher(engine, workers=2, delay_ms=1) as batcher:
        for x, got in zip(requests, batcher.map({"x": x} for x in requests), strict=True):
            close(got["y"], np.tanh(x) + x)
        with cupy.cuda.Stream(non_blocking=True):
            big = cupy.random.random((3000, 3000), dtype=np.float32)
            waits = [cupy.asarray(x) + 0 * (big @ big)[0, 0] for x in requests]  # not there yet when it is submitted
            found = list(batcher.map({"x": x} for x in waits))
        for x, one in zip(requests, found, strict=True):
            assert isinstance(one["y"], cupy.ndarray)
            close(cupy.asnumpy(one["y"]), np.tanh(x) + x)
    assert batcher.statistics.batches < 120
