"""A model that is cut at custom layers computes what it computed whole; its parts build, and survive the file."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import backends
from graphopt.backends.protocol import BuildOptions
from graphopt.engines.key import engine_key
from graphopt.errors import BackendError, GraphoptError, UsageError
from graphopt.layers.layer import Layer
from graphopt.layers.measured import Measurement, Store
from graphopt.registry import Registry
from graphopt.runtime.container import Blobs, Container, is_container, write
from graphopt.runtime.intervals import intervals
from graphopt.runtime.kernel_call import KernelCall
from graphopt.runtime.partition import EnginePart, KernelPart
from graphopt.runtime.ports import choose_profile
from graphopt.runtime.segmented import layers_of, ports_of
from graphopt.runtime.segments import build_segments
from graphopt.testing import model
from tests.layers import third_party
from tests.layers.models import norms

from . import keeping
from .networks import keep
from .parts import cut, once, run

LAYERS: dict[str, type[Layer]] = {"FusedRootNorm": third_party.FusedRootNorm}
NORM = "graphopt.FusedRootNorm<epsilon: float = 1e-5>"


@cache
def lowered(opset: int) -> onnx.ModelProto:
    """A model that has the layer's function."""
    return graphopt.optimize(norms(opset=opset), lower="always", plugins=[third_party], verify="none").model


def network(body: str, inputs: str, outputs: str, opset: int = 18) -> onnx.ModelProto:
    """A model with calls of FusedRootNorm, written `n = NORM(x, w)`; w is a weight of 8 columns."""
    layer = lowered(opset)
    head = f'<ir_version: 10, opset_import: ["" : {opset}, "graphopt" : 1]>\n'
    proto = model(
        f"{head}g ({inputs}) => ({outputs}) {{ {body.replace('NORM', NORM)} }}", weights={"w": (8,), "v": (8, 8)}
    )
    proto.functions.extend(layer.functions)
    return proto


CASES = {
    "chain": ("a = Relu(x) n = NORM(a, w) y = Exp(n)", "float[N,8] x", "float[N,8] y"),
    "layer first and last": ("n = NORM(x, w) e = Exp(n) y = NORM(e, w)", "float[N,8] x", "float[N,8] y"),
    "two layers in a row": ("n = NORM(x, w) y = NORM(n, w)", "float[N,8] x", "float[N,8] y"),
    "skip over the layer": ("a = Relu(x) n = NORM(a, w) y = Add(a, n)", "float[N,8] x", "float[N,8] y"),
    "branches": (
        "a = Exp(x) n = NORM(a, w) b = MatMul(x, v) m = NORM(b, w) c = Add(n, m) d = Sin(c) k = NORM(d, w) "
        "y = Sub(k, a)",
        "float[N,8] x",
        "float[N,8] y",
    ),
    "inner values are outputs": (
        "a = Relu(x) n = NORM(a, w) y = Exp(n)", "float[N,8] x", "float[N,8] y, float[N,8] n, float[N,8] a"
    ),
    "shape arithmetic crosses": (
        "s = Shape(x) a = Reshape(x, long) n = NORM(a, w) e = Exp(n) y = Reshape(e, s)",
        "float[2,N,8] x",
        "float[2,N,8] y",
    ),
    "shape of the layer's result": (
        "a = Relu(x) n = NORM(a, w) s = Shape(n) e = Expand(one, s) y = Add(e, n)", "float[N,8] x", "float[N,8] y"
    ),
    "a shape that is an output": (
        "s = Shape(x) n = NORM(x, w) e = Exp(n) y = Reshape(e, s)", "float[N,8] x", "float[N,8] y, int64[2] s"
    ),
    "two inputs": ("n = NORM(x, w) y = Add(n, z)", "float[N,8] x, float[N,8] z", "float[N,8] y"),
    "control flow": (
        "n = NORM(x, w) m = ReduceMax<keepdims: int = 0>(n) b = Greater(m, zero) "
        "y = If<then_branch: graph = t () => (float[N,8] p) { p = Exp(n) }, "
        "else_branch: graph = f () => (float[N,8] q) { q = Add(n, x) }>(b)",
        "float[N,8] x",
        "float[N,8] y",
    ),
}  # fmt: skip


def case(name: str) -> onnx.ModelProto:
    proto = network(*CASES[name])
    for constant, value in {"long": np.array([-1, 8]), "one": np.float32(1), "zero": np.float32(0)}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), constant))
    return proto


def feeds_of(proto: onnx.ModelProto) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shape = {2: (3, 8), 3: (2, 3, 8)}
    return {
        one.name: rng.standard_normal(shape[len(one.type.tensor_type.shape.dim)]).astype(np.float32)
        for one in proto.graph.input
    }


@pytest.mark.parametrize("name", CASES)
def test_the_model_is_its_parts_one_after_the_other(name: str) -> None:
    proto = case(name)
    feeds = feeds_of(proto)
    found = cut(proto, LAYERS)
    assert len(found.kernels) == sum(node.domain == "graphopt" for node in proto.graph.node)
    expected, actual = once(proto, feeds), run(proto, found, feeds)
    for output, want in expected.items():
        np.testing.assert_allclose(actual[output], want, rtol=1e-5, atol=1e-6)


def test_a_node_is_in_the_first_engine_that_can_compute_it() -> None:
    found = cut(case("branches"), LAYERS)
    kinds = ["kernel" if isinstance(part, KernelPart) else "engine" for part in found.parts]
    assert kinds == ["engine", "kernel", "kernel", "engine", "kernel", "engine"], "as few engines as there can be"
    assert {node.op for node in found.engines[0].graph.nodes} == {"Exp", "MatMul"}


def test_sizes_do_not_cross_from_engine_to_engine() -> None:
    found = cut(case("shape arithmetic crosses"), LAYERS)
    last = found.parts[-1]
    assert isinstance(last, EnginePart)
    assert [node.op for node in last.graph.nodes].count("Shape") == 1
    assert all(found.tensors[name].dtype == np.float32 for part in found.parts for name in part.inputs)


def test_a_refused_call_stays_in_the_engine() -> None:
    proto = case("two layers in a row")
    found = cut(proto, LAYERS, lambda node, layer: "not worth it" if node.outputs[0].name == "y" else None)
    assert (len(found.kernels), list(found.reasons.values())) == (1, ["not worth it"])
    assert [function.name for function in found.engines[0].graph.functions] == ["FusedRootNorm"]
    feeds = feeds_of(proto)
    np.testing.assert_allclose(run(proto, found, feeds)["y"], once(proto, feeds)["y"], rtol=1e-5, atol=1e-6)
    assert cut(proto, LAYERS, lambda *_: "no").parts == []


def test_an_output_that_nothing_computes_is_refused() -> None:
    proto = network("y = NORM(x, w)", "float[N,8] x", "float[N,8] y, float[N,8] x")
    with pytest.raises(GraphoptError, match=r"'x'.*input or a constant"):
        cut(proto, LAYERS)


def no_parser(*_: Any) -> dict[str, Any]:
    raise AssertionError("symbols say it all")


def test_a_symbol_has_the_inputs_bounds_everywhere() -> None:
    shapes = graphopt.Shapes(min={"x": (1, 8)}, opt={"x": (4, 8)}, max={"x": (9, 8)})
    found = cut(case("branches"), LAYERS)
    bounds = intervals(found, shapes, no_parser)
    assert set(bounds.values()) == {((1, 8), (4, 8), (9, 8))}
    with pytest.raises(UsageError, match="--shapes x=1x8"):
        intervals(found, graphopt.Shapes(), no_parser)


def test_other_sizes_are_asked_of_the_backends_parser(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    proto = case("shape arithmetic crosses")
    onnx.save(proto, tmp_path / "m.onnx")
    shapes = graphopt.Shapes(min={"x": (2, 1, 8)}, opt={"x": (2, 4, 8)}, max={"x": (2, 9, 8)})
    path = tmp_path / "m.engine"
    built = build_segments(
        tmp_path / "m.onnx", path, backends.get("tensorrt_rtx"), Registry([third_party]), "always", shapes
    )
    assert built is not None
    value = Container(path).description.values["a"]
    assert value.profiles == (((2, 8), (8, 8), (18, 8)),)


def test_a_size_that_depends_on_data_is_refused() -> None:
    """As the backend's parser says it: -1."""
    proto = network("r = Compress<axis: int = 0>(x, c) y = NORM(r, w)", "float[N,8] x, bool[N] c", "float[M,8] y")
    shapes = graphopt.Shapes(opt={"x": (4, 8), "c": (4,)})
    with pytest.raises(BackendError, match=r"value 'r': its size depends on data(.|\n)*--segments never"):
        intervals(cut(proto, LAYERS), shapes, lambda part, _: dict.fromkeys(part.outputs, (-1, 8)))


def test_a_size_that_a_kernel_finds_out_is_bounded_by_the_layer(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    shapes = graphopt.Shapes({"x": (1, 8), "mask": (1,)}, {"x": (6, 8), "mask": (6,)}, {"x": (9, 8), "mask": (9,)})
    graphopt.optimize(keep(), engine=tmp_path / "m.engine", plugins=[keeping], shapes=shapes, verify="none")
    found = Container(tmp_path / "m.engine").description
    value = found.values["y"]
    assert (value.dims, value.profiles) == ((-1, 8), (((0, 8), (6, 8), (9, 8)),))
    (entry,) = found.kernels
    given = {"x": graphopt.tensor("float32", (7, 8)), "mask": graphopt.tensor("bool", (7,))}
    call = KernelCall(entry, keeping.FusedKeep, given)
    assert (call.most, call.shapes([0]), call.shapes([5])) == ([(7, 8)], [(0, 8)], [(5, 8)])
    call.reshape({"x": graphopt.tensor("float32", (2, 8)), "mask": graphopt.tensor("bool", (2,))})
    with pytest.raises(GraphoptError, match="a size is 3, of at most 2"):
        call.shapes([3])


def test_a_value_that_decides_shapes_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    proto = network("n = NORM(x, w) y = Expand(n, s)", "float[1,8] x, int64[2] s", "float[M,8] y")
    onnx.save(proto, tmp_path / "m.onnx")
    shapes = graphopt.Shapes(opt={"s": (4, 8)})
    with pytest.raises(BackendError, match="value 's': its values decide shapes"):
        build_segments(
            tmp_path / "m.onnx", tmp_path / "m.engine", backends.get("tensorrt_rtx"), Registry([third_party]),
            "always", shapes,
        )  # fmt: skip
    assert [one.name for one in tmp_path.iterdir()] == ["m.onnx"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A container of two engines and two kernels, built by `graphopt.optimize`."""
    pytest.importorskip("tensorrt_rtx")
    folder = tmp_path_factory.mktemp("segments")
    result = graphopt.optimize(
        norms(), lower="always", plugins=[third_party], engine=folder / "m.engine", verify="none",
        shapes=graphopt.Shapes(min={"x": (2, 1, 64)}, opt={"x": (2, 5, 64)}, max={"x": (2, 9, 64)}),
        build_options=BuildOptions(segments="always"),
    )  # fmt: skip
    told = result.report.build or {}
    assert [one["kind"] for one in told["segments"]] == ["kernel", "engine"] * 2
    json.dumps(result.to_json())
    return folder / "m.engine"


def test_a_segmented_build_is_one_file(built: Path) -> None:
    assert sorted(path.name for path in built.parent.iterdir()) == ["m.engine", "m.engine.json"]
    assert is_container(built)
    container = Container(built)
    found = container.description
    assert (found.inputs, found.outputs, len(found.engines)) == (("x",), ("z1",), 2)
    kernel = found.kernels[0]
    assert (kernel.layer, kernel.values, kernel.source) == ("FusedRootNorm", {"x": "x"}, "given")
    np.testing.assert_allclose(kernel.attributes["epsilon"], 1e-5, rtol=1e-6)
    weight = onnx.numpy_helper.to_array(next(one for one in norms().graph.initializer if one.name == "g0"))
    np.testing.assert_array_equal(container.constant(kernel.constants["weight"]), weight)
    plain = built.with_name("plain.engine")
    graphopt.optimize(model("g (float[3] x) => (float[3] y) { y = Exp(x) }"), engine=plain, verify="none")
    assert not is_container(plain)
    for engine in found.engines:
        assert bytes(container.read(engine.blob)[:8]) == plain.read_bytes()[:8], "each is a plain engine by itself"


@pytest.mark.parametrize("at", [0, 4096 * 2 + 7])
def test_a_changed_byte_is_found(built: Path, tmp_path: Path, at: int) -> None:
    data = bytearray(built.read_bytes())
    blobs = [one.blob for one in Container(built).description.engines]
    data[Container(built)._blobs + blobs[0].offset + (at % blobs[0].nbytes)] ^= 1
    (tmp_path / "m.engine").write_bytes(data)
    with pytest.raises(BackendError, match="changed"):
        Container(tmp_path / "m.engine").read(blobs[0])


@pytest.mark.parametrize("size", [0, 10, 30, 3000, 200_000])
def test_a_file_that_was_cut_off_is_refused(built: Path, tmp_path: Path, size: int) -> None:
    (tmp_path / "m.engine").write_bytes(built.read_bytes()[:size])

    def read_all() -> None:
        container = Container(tmp_path / "m.engine")
        for one in container.description.engines:
            container.read(one.blob)

    with pytest.raises(BackendError):
        read_all()


def test_a_newer_format_is_refused(built: Path, tmp_path: Path) -> None:
    data = built.read_bytes().replace(b'"schema_version": 1', b'"schema_version": 9', 1)
    (tmp_path / "m.engine").write_bytes(data)
    with pytest.raises(BackendError, match="format 9"):
        Container(tmp_path / "m.engine")


def test_what_is_written_is_read(tmp_path: Path, built: Path) -> None:
    description = Container(built).description
    write(tmp_path / "again.engine", description, Blobs())
    assert Container(tmp_path / "again.engine").description == description


def test_auto_cuts_where_the_measurement_pays_for_the_border(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    proto = case("chain")
    onnx.save(proto, tmp_path / "m.onnx")
    shapes, size = graphopt.Shapes(opt={"x": (64, 8)}), 64 * 8 * 4 * 2 + 32

    def segments() -> Any:
        words = tmp_path / "m.engine", backends.get("tensorrt_rtx"), Registry([third_party]), "auto", shapes
        return build_segments(tmp_path / "m.onnx", *words)

    assert segments() is None, "nothing was measured"
    store = Store("NVIDIA Test")
    store.add([Measurement("FusedRootNorm", "float32", size, ((64, 8), (8,)), 0.1, 0.2)])
    assert segments() is None, "the kernel wins, but less than a border may cost"
    store.add([Measurement("FusedRootNorm", "float32", size, ((64, 8), (8,)), 0.1, 0.21)])
    assert segments() is not None


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(UsageError, match="auto, always, never"):
        BuildOptions(segments="some")


def test_measurements_are_part_of_the_key_of_what_they_choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    onnx.save(case("chain"), tmp_path / "m.onnx")
    onnx.save(model("g (float[3] x) => (float[3] y) { y = Exp(x) }"), tmp_path / "plain.onnx")

    def keys(name: str, mode: str) -> set[str]:
        found = set()
        for kernel_ms in (0.1, 0.2):
            Store("NVIDIA Test").add([Measurement("FusedX", "float32", 4, ((1,),), kernel_ms, 0.3)])
            words = None, BuildOptions(segments=mode), graphopt.Target(), "1", Registry([third_party])
            found.add(engine_key(tmp_path / name, *words))
        return found

    assert len(keys("m.onnx", "auto")) == 2
    assert len(keys("m.onnx", "always")) == len(keys("plain.onnx", "auto")) == 1


def test_every_profile_has_its_bounds(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    onnx.save(case("chain"), tmp_path / "m.onnx")
    first, second = (graphopt.Shapes({"x": (n, 8)}, {"x": (2 * n, 8)}, {"x": (4 * n, 8)}) for n in (1, 16))
    words = backends.get("tensorrt_rtx"), Registry([third_party]), "always", first, BuildOptions(profiles=(second,))
    assert build_segments(tmp_path / "m.onnx", tmp_path / "m.engine", *words) is not None
    value = Container(tmp_path / "m.engine").description.values["a"]
    assert value.profiles == (((1, 8), (2, 8), (4, 8)), ((16, 8), (32, 8), (64, 8)))
    assert value.dims == (-1, 8)


def test_a_layer_that_is_missing_or_has_changed_is_said(built: Path, tmp_path: Path) -> None:
    description = Container(built).description
    assert layers_of(description, [third_party]) == LAYERS
    with pytest.raises(GraphoptError, match=r"FusedRootNorm is not installed(.|\n)*--plugin FILE"):
        layers_of(description, [])
    changed = tmp_path / "third_party.py"
    changed.write_text(Path(third_party.__file__).read_text().replace("rsqrtf", "1 / sqrtf"))
    with pytest.raises(GraphoptError, match="has changed"):
        layers_of(description, [str(changed)])


def test_a_container_has_the_ports_of_an_engine(built: Path) -> None:
    ports = ports_of(Container(built).description)
    assert [str(port) for port in ports.values()] == ["x: float32[2, ?, 64]", "z1: float32[2, ?, 64]"]
    assert choose_profile([ports["x"]], {"x": (2, 7, 64)}) == 0
    with pytest.raises(UsageError, match="no optimization profile"):
        choose_profile([ports["x"]], {"x": (2, 10, 64)})


def test_without_a_gpu_it_says_so(built: Path) -> None:
    if importlib.util.find_spec("cupy") is not None:
        pytest.skip("there may be a GPU here")
    with pytest.raises(BackendError, match="CuPy"):
        graphopt.Engine(built, plugins=[third_party])
