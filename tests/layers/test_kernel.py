"""CUDA sources: compiled once, kept on disk, errors with their log. NVRTC needs no GPU, launching does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt import launch
from graphopt.folders import cache_folder
from graphopt.layers.kernel import HEADERS, cpp

from .third_party import rms_norm


def test_importing_and_making_a_kernel_loads_no_cupy() -> None:
    code = (
        "import sys, graphopt; graphopt.Kernel('__global__ void f() {}'); graphopt.Layer; graphopt.launch;"
        "sys.exit('cupy' in sys.modules or 'onnxruntime' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_template_arguments() -> None:
    import ml_dtypes

    given = [cpp(x) for x in (np.float16, np.dtype(ml_dtypes.bfloat16), "int64", 8, True, "go::Sum")]
    assert given == ["__half", "__nv_bfloat16", "long long", "8", "true", "go::Sum"]
    assert graphopt.Kernel("", "f")["float32", 4].expression == "f<float, 4>"


def test_the_only_kernel_needs_no_name() -> None:
    assert rms_norm.name == "rms_norm"
    bounded = graphopt.Kernel("__global__ void __launch_bounds__(256) g(int* x) {}")
    assert bounded.name == "g"
    with pytest.raises(graphopt.GraphoptError, match="2 kernels"):
        graphopt.Kernel("__global__ void a() {} __global__ void b() {}")


def test_launch_geometry() -> None:
    assert [launch.blocks(n, 256) for n in (0, 1, 256, 257)] == [0, 1, 1, 2]
    assert [launch.row_threads(n) for n in (1, 32, 33, 200, 1024, 100000)] == [32, 32, 64, 256, 256, 1024]


class Array:
    """What `vector` looks at."""

    class Data:
        def __init__(self, ptr: int) -> None:
            self.ptr = ptr

    def __init__(self, ptr: int, dtype: str, size: int) -> None:
        self.data, self.dtype, self.size = self.Data(ptr), np.dtype(dtype), size


@pytest.mark.parametrize(
    ("ptr", "dtype", "size", "columns", "width"),
    [
        (256, "float16", 64, 0, 8),
        (256, "float32", 64, 0, 4),
        (256 + 2, "float16", 64, 0, 1),
        (256 + 8, "float16", 64, 0, 4),
        (256, "float16", 66, 0, 2),
        (256, "float16", 64, 3, 1),
        (256, "float64", 64, 64, 2),
    ],
)
def test_elements_per_load(ptr: int, dtype: str, size: int, columns: int, width: int) -> None:
    assert launch.vector(Array(ptr, dtype, size), columns=columns) == width


def test_a_mixed_pair_is_as_wide_as_the_wider_allows() -> None:
    assert launch.vector(Array(256, "float16", 64), Array(256, "float32", 64)) == 4


@pytest.mark.parametrize("dtype", ["float", "__half", "__nv_bfloat16"])
def test_the_source_compiles_with_nvcc(dtype: str, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    source = tmp_path / "kernel.cu"
    use = f"template __global__ void rms_norm<{dtype}>(const {dtype}*, const {dtype}*, {dtype}*, long long, float);"
    source.write_text(rms_norm.source + use)
    words = [nvcc, "-arch=sm_90", "-std=c++17", "-cubin", f"-I{HEADERS}", "-o", str(tmp_path / "k.cubin"), str(source)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class TestCompiled:
    """With NVRTC, which CuPy brings."""

    @pytest.fixture(autouse=True)
    def _nvrtc(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("cupy", exc_type=ImportError)
        monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))

    def test_it_is_kept_and_found_again(self) -> None:
        path, name = rms_norm.compile("rms_norm<__half>", "sm_90")
        written = path.stat().st_mtime_ns
        assert path.is_relative_to(cache_folder())
        assert name.startswith("_Z8rms_norm")
        assert rms_norm.compile("rms_norm<__half>", "sm_90") == (path, name)
        assert path.stat().st_mtime_ns == written
        assert rms_norm.compile("rms_norm<__half>", "sm_80")[0] != path
        assert rms_norm.compile("rms_norm<float>", "sm_90")[0] != path

    def test_an_error_has_the_log(self) -> None:
        wrong = graphopt.Kernel("__global__ void f() { undefined_name; }")
        with pytest.raises(graphopt.GraphoptError, match="undefined_name") as caught:
            wrong.compile(arch="sm_90")
        assert caught.value.where == "kernel f"
        assert not list(cache_folder().rglob("*.cubin"))

    def test_two_processes_at_once(self, tmp_path: Path) -> None:
        code = "from tests.layers.third_party import rms_norm; print(rms_norm.compile('rms_norm<float>', 'sm_90')[0])"
        root = Path(__file__).parents[2]
        paths = [str(root), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
        words = [sys.executable, "-c", code]
        both = [subprocess.Popen(words, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        assert len({one.communicate()[0] for one in both}) == 1
        assert all(one.returncode == 0 for one in both)
        assert len(list(tmp_path.rglob("kernel.cubin"))) == 1
        assert not list(tmp_path.rglob(".kernel-*"))
