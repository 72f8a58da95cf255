"""Build options: every name held against real bindings, every option driven through a real build, lacks said so."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from graphopt.backends import BuildOptions
from graphopt.backends.build_options import FLAGS
from graphopt.config import Shapes
from graphopt.errors import BackendError, UsageError

from . import option_names

SHAPES = Shapes(opt={"x": (1, 3, 8, 8)})


@pytest.mark.full
@pytest.mark.parametrize("version", ["10.16", "11.4"])
def test_every_option_is_one_of_tensorrt(version, tmp_path):
    """Downloads the bindings (6 MB), in a process of their own: two versions cannot be loaded into one."""
    uv = shutil.which("uv")
    words = [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
    target = ["-q", "--no-deps", "--target", str(tmp_path), f"tensorrt-cu13-bindings=={version}.*"]
    subprocess.run([*words, *target], check=True)
    script = [sys.executable, option_names.__file__, str(tmp_path), version.split(".")[0]]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["version"].startswith(version)
    assert found["missing"] == []


def test_every_option_is_one_of_tensorrt_rtx():
    trt = pytest.importorskip("tensorrt_rtx")
    assert option_names.missing(trt) == []


def test_the_check_of_names_sees_a_wrong_one(monkeypatch):
    trt = pytest.importorskip("tensorrt_rtx")
    monkeypatch.setitem(FLAGS, "fast", ("VERY_FAST", ""))
    assert option_names.missing(trt) == ["BuilderFlag.VERY_FAST"]


@pytest.mark.parametrize(
    "options",
    [
        BuildOptions(optimization_level=1, aux_streams=2, avg_timing=2, max_tactics=4),
        BuildOptions(tiling="fast", l2_limit_bytes=1 << 20, profiling_verbosity="none"),
        BuildOptions(memory_pools={"workspace": 1 << 28, "tactic_dram": 1 << 28, "tactic_shared_memory": 1 << 15}),
        BuildOptions(preview_features=("+runtime_activation_resize_10_10",), tactic_sources=("-jit_convolutions",)),
        BuildOptions(flags=("sparsity", "weight_streaming", "strict_nans", "direct_io", "distributive_independence")),
        BuildOptions(compute_capabilities=((8, 9), (12, 0))),
    ],
)
def test_options_that_build(rtx, convolution, tmp_path, options):
    assert rtx.build(convolution, tmp_path / "e", SHAPES, options).bytes > 1000


def test_each_compute_capability_adds_kernels_of_its_own(rtx, convolution, tmp_path):
    one = rtx.build(convolution, tmp_path / "a", SHAPES, BuildOptions(compute_capabilities=((8, 9),)))
    two = rtx.build(convolution, tmp_path / "b", SHAPES, BuildOptions(compute_capabilities=((8, 9), (12, 0))))
    assert two.bytes > one.bytes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (BuildOptions(timing_cache="t.cache"), "has no timing cache"),
        (BuildOptions(flags=("error_on_timing_cache_miss",)), "has no --error-on-timing-cache-miss"),
        (
            BuildOptions(hardware_compatibility="ampere_plus"),
            "does not take --hardware-compatibility-level ampere_plus",
        ),
        (BuildOptions(runtime_platform="windows_amd64"), "does not take --runtime-platform windows_amd64: .*platform"),
        (BuildOptions(memory_pools={"dla_managed_sram": 1 << 20}), "does not take memory pool .*DLA"),
        (BuildOptions(flags=("exclude_lean_runtime",)), "does not take --exclude-lean-runtime: .*VERSION_COMPATIBLE"),
        (BuildOptions(preview_features=("+profile_sharing_0806",)), "has no preview features"),
        (BuildOptions(tactic_sources=("+cudnn",)), "has no tactic sources"),
    ],
)
def test_what_tensorrt_rtx_lacks_is_said(rtx, convolution, tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        rtx.build(convolution, tmp_path / "e", SHAPES, options)
    assert not list(tmp_path.glob("e*"))


def test_what_needs_more_than_is_installed_is_said(rtx, convolution, tmp_path):
    with pytest.raises(BackendError, match="libnvinfer_lean"):
        rtx.build(convolution, tmp_path / "e", SHAPES, BuildOptions(flags=("version_compatible",)))


def test_several_profiles(rtx, convolution, tmp_path):
    large = Shapes(min={"x": (8, 3, 8, 8)}, opt={"x": (16, 3, 8, 8)}, max={"x": (32, 3, 8, 8)})
    one = rtx.build(convolution, tmp_path / "a", SHAPES)
    two = rtx.build(convolution, tmp_path / "b", SHAPES, BuildOptions(profiles=(large,)))
    assert two.bytes > one.bytes
    wrong = BuildOptions(profiles=(Shapes(opt={"z": (1,)}),))
    with pytest.raises(UsageError, match="no input 'z'"):
        rtx.build(convolution, tmp_path / "c", SHAPES, wrong)


def test_options_survive_json():
    options = BuildOptions(
        optimization_level=2, memory_pools={"workspace": 5}, compute_capabilities=((8, 9),), profiles=(SHAPES,),
        flags=("refit",), tactic_sources=("+cudnn",), tiling="full",
    )  # fmt: skip
    assert BuildOptions.from_json(json.loads(json.dumps(asdict(options)))) == options


@pytest.mark.parametrize(
    "wrong",
    [
        {"tiling": "slow"}, {"flags": ("fast",)}, {"memory_pools": {"heap": 1}}, {"aux_streams": -1},
        {"tactic_sources": ("cudnn",)}, {"hardware_compatibility": "turing"}, {"max_tactics": 0},
    ],
)  # fmt: skip
def test_what_does_not_exist_is_refused(wrong):
    with pytest.raises(UsageError):
        replace(BuildOptions(), **wrong)


def test_unknown_names_in_json_are_refused():
    with pytest.raises(UsageError, match="no build option 'speed'"):
        BuildOptions.from_json({"speed": 5})
