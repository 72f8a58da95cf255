"""A layer as TensorRT's IPluginV3: on the interfaces of TensorRT-RTX, and on the real bindings of TensorRT."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.errors import BackendError, GraphoptError
from graphopt.layers.host import prepare
from graphopt.layers.plugin import register
from graphopt.layers.specification import Fields, Specification, read_fields

from . import bindings
from .third_party import FusedRootNorm


@pytest.fixture(scope="module")
def trt():
    return pytest.importorskip("tensorrt_rtx")


def check_drive(found: dict) -> None:
    assert found["outputs"] == {name: [[name, [2, 3, 64]]] for name in FusedRootNorm.dtypes}
    assert found["epsilon"] == 0.5
    assert found["derives"]
    assert found["creator"]
    assert found["signatures"] == []
    assert found["unknown"] == []


def test_the_life_cycle_on_the_interfaces_of_tensorrt_rtx(trt) -> None:
    check_drive(bindings.drive(trt))


@pytest.mark.full
@pytest.mark.parametrize("version", ["10.16", "11.4"])
def test_the_life_cycle_on_the_real_bindings(version: str, tmp_path: Path) -> None:
    """Downloads the bindings (6 MB), in a process of their own: two versions cannot be loaded into one."""
    uv = shutil.which("uv")
    words = [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
    target = ["-q", "--no-deps", "--target", str(tmp_path), f"tensorrt-cu13-bindings=={version}.*"]
    subprocess.run([*words, *target], check=True)
    major = version.split(".")[0]
    done = subprocess.run(
        [sys.executable, bindings.__file__, str(tmp_path), major], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["version"].startswith(version)
    check_drive(found)


def test_creators_are_never_registered_with_tensorrt_rtx(trt) -> None:
    with pytest.raises(BackendError, match="has no plugins"):
        register(trt, None, {"FusedRootNorm": FusedRootNorm}, ["FusedRootNorm"])


class FusedEvery(graphopt.Layer):
    """Attributes of every kind, an optional input, tactics, workspace, a data-dependent size."""

    number: float = 0.1
    count: int = 3
    flag: bool = True
    mode: str = "linear"
    sizes: tuple[int, ...] = (1, 2)
    ratios: tuple[float, ...] = (0.5,)
    types = {"mask": "bool"}
    in_place = {"y": "x"}

    def body(self, op, x, mask, bias=None):
        return x, op.Compress(x, mask)

    def infer(self, x, mask, bias):
        kept = graphopt.Size(upper=x.size, typical=x.size // 2)
        return x, graphopt.tensor(x.dtype, (kept,))

    def tactics(self):
        return (4, 9)

    def workspace(self, *tensors):
        return 4 * tensors[0].size

    def enqueue(self, x, mask, bias, y, kept, count, workspace, tactic):
        raise ValueError("no such kernel")


def every(trt, present=("x", "mask")):
    layer = FusedEvery(number=0.25, flag=False, mode="cubic", sizes=(5, 6, 7), ratios=(1.5, 2.5))
    tensors = [("float16", (4, 6)), ("bool", (24,)), ("float16", (6,))][: len(present)]
    return prepare(trt, layer, present, tensors)


def test_attributes_of_every_kind_survive(trt) -> None:
    made = every(trt).plugin.specification
    assert repr(made.layer) == (
        "FusedEvery(number=0.25, count=3, flag=False, mode='cubic', sizes=(5, 6, 7), ratios=(1.5, 2.5))"
    )
    assert made.present == ("x", "mask")
    assert every(trt, ("x", "mask", "bias")).plugin.specification.present == ("x", "mask", "bias")


def test_the_parsers_fields_are_read(trt) -> None:
    """TensorRT's parser gives int32 for integers, and text with a zero at its end."""
    given = [
        trt.PluginField("count", np.array([7], np.int32), trt.PluginFieldType.INT32),
        trt.PluginField("sizes", np.array([7, 8], np.int32), trt.PluginFieldType.INT32),
        trt.PluginField("mode", b"cubic\0", trt.PluginFieldType.CHAR),
        trt.PluginField("number", np.array([0.5], np.float32), trt.PluginFieldType.FLOAT32),
    ]
    layer = read_fields(FusedEvery, "FusedEvery", given).layer
    assert (layer.count, layer.sizes, layer.mode, layer.number, layer.flag) == (7, (7, 8), "cubic", 0.5, True)


def test_sizes_workspace_tactics_and_aliases(trt) -> None:
    made = every(trt)
    assert made.outputs == [
        (np.dtype(np.float16), (4, 6)), (np.dtype(np.float16), (24,)), (np.dtype(np.int32), ())
    ]  # fmt: skip
    assert made.sizes == [(1, 0, 2)]
    assert made.workspace_bytes == 96
    assert made.tactics == [4, 9]
    assert [made.plugin.get_aliased_input(at) for at in range(3)] == [0, -1, -1]


def test_other_dtypes_and_layouts_are_refused(trt) -> None:
    made = every(trt)
    both = [trt.DynamicPluginTensorDesc() for _ in range(5)]
    for one, desc in zip(both, (*made.input_desc, *made.output_desc), strict=True):
        one.desc = desc
    assert all(made.plugin.supports_format_combination(at, both, 2) for at in range(5))
    wrong = made.input_desc[1]
    wrong.type = trt.DataType.INT8
    both[1].desc = wrong
    assert not made.plugin.supports_format_combination(1, both, 2)
    wrong = made.input_desc[0]
    wrong.format = trt.TensorFormat.CHW32
    both[0].desc = wrong
    assert not made.plugin.supports_format_combination(0, both, 2)


def test_a_failure_names_the_layer_and_the_callback(trt) -> None:
    class FusedBad(FusedEvery):
        def infer(self, x, mask, bias):
            return x.nope

    with pytest.raises(GraphoptError, match=r"layer FusedBad, get_output_data_types\(\): .*no attribute 'nope'"):
        prepare(trt, FusedBad(), ("x", "mask"), [("float16", (4, 6)), ("bool", (24,))])


def test_a_plugin_that_lies_is_caught(trt) -> None:
    class FusedTactics(FusedEvery):
        def tactics(self):
            return (3, 3)

    with pytest.raises(GraphoptError, match="tactics"):
        prepare(trt, FusedTactics(), ("x", "mask"), [("float16", (4, 6)), ("bool", (24,))])

    class FusedOutputs(FusedEvery):
        def enqueue(self, x, mask, bias, y):
            raise NotImplementedError

    with pytest.raises(GraphoptError, match="3 output types for 1 outputs"):
        prepare(trt, FusedOutputs(), ("x", "mask"), [("float16", (4, 6)), ("bool", (24,))])


def test_a_clone_keeps_its_tactic(trt) -> None:
    made = every(trt)
    made.plugin.set_tactic(9)
    twin = made.twin()
    assert twin.plugin is not made.plugin
    assert twin.plugin.tactic == 9


def test_fields_are_those_that_are_read(trt) -> None:
    layer = FusedEvery(mode="")
    given = Fields(trt, Specification(layer, "FusedEvery", ("x", "mask")))
    assert [one.name for one in given.collection] == [*layer.attributes, "layer_inputs"]


class Recorder:
    """A registry of creators that remembers them: TensorRT's own needs its libraries."""

    def __init__(self, accepts: bool = True) -> None:
        self.found: dict[str, object] = {}
        self.accepts = accepts

    def get_creator(self, name: str, version: str, namespace: str) -> object:
        return self.found.get(name)

    def register_creator(self, creator: object, namespace: str) -> bool:
        self.found[creator.name] = (creator.plugin_version, namespace)
        return self.accepts


def test_each_specialization_has_a_creator_of_its_own(trt) -> None:
    import types

    interfaces = {name: getattr(trt, name) for name in dir(trt) if not name.startswith("__")}
    with_plugins = types.SimpleNamespace(**interfaces, __name__="tensorrt")
    with_plugins.INetworkDefinition = type("INetworkDefinition", (), {"add_plugin_v3": None})
    registry, layers = Recorder(), {"FusedRootNorm": FusedRootNorm}
    names = ["FusedRootNorm", "FusedRootNorm_0a1b2c3d", "FusedOther"]
    kept = register(with_plugins, registry, layers, names)
    assert registry.found == {name: ("1", "graphopt") for name in names[:2]}
    assert register(with_plugins, registry, layers, names) == []
    assert all(one.specification.layer.epsilon == 1e-6 for one in kept)
    with pytest.raises(BackendError, match="refuses the creator of layer FusedRootNorm"):
        register(with_plugins, Recorder(accepts=False), layers, names)
