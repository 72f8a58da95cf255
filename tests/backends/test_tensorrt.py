"""Real parses and builds with TensorRT-RTX; they need no GPU."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import convert_model_to_external_data

from graphopt.backends import BuildOptions, ParseError, get
from graphopt.config import Shapes
from graphopt.errors import BackendError, ModelError, UsageError

SHAPES = Shapes(opt={"x": (1, 3, 8, 8)})
RESHAPE = """<ir_version: 8, opset_import: ["": 17]>
reshape (float[N, 4] x, int64[2] s) => (float[A, B] y) { y = Reshape(x, s) }"""


def bindings():
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")


def profile_of(engine_path: Path, name: str):
    """The profile in the engine file, read back by the real runtime; None where that needs a GPU."""
    trt = bindings()
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(engine_path.read_bytes())
    return None if engine is None else [tuple(dims) for dims in engine.get_tensor_profile_shape(name, 0)]


def test_parse_describes_the_network(rtx, convolution):
    network = rtx.parse(convolution)
    assert network.layer_types == {"CONVOLUTION": 1, "ACTIVATION": 1}
    assert (network.layers, network.constants) == (2, 0)
    assert network.inputs["x"].dtype == "float32"
    assert network.inputs["x"].dims == (-1, 3, -1, -1)
    assert network.inputs["x"].names == ("N", "", "H", "W")
    assert network.outputs["y"].dims == (-1, 4, -1, -1)


def test_constant_layers_are_counted_apart(rtx, tmp_path, write):
    model = write(
        """<ir_version: 8, opset_import: ["": 17]>
        add (float16[2] x) => (float16[2] y) <float16[2] w = {1, 2}> { y = Add(x, w) }""",
    )
    network = rtx.parse(model)
    assert (network.layer_types, network.layers, network.constants) == ({"ELEMENTWISE": 1}, 1, 1)
    assert network.inputs["x"].dtype == "float16"


def test_build_writes_an_engine_and_nothing_else(rtx, convolution, tmp_path):
    steps = []
    target = tmp_path / "out" / "convolution.engine"
    target.parent.mkdir()
    result = rtx.build(convolution, target, SHAPES, progress=lambda *step: steps.append(step))
    assert list(target.parent.iterdir()) == [target]
    assert result.bytes == target.stat().st_size > 1000
    assert (result.layers, result.backend, result.version) == (2, "tensorrt_rtx", rtx.version())
    assert result.seconds > 0
    assert steps
    assert all(0 <= done <= total for _, done, total in steps)
    assert steps[-1][1] == steps[-1][2]


def test_profile_reaches_the_engine(rtx, convolution, tmp_path):
    low, typical, high = (1, 3, 8, 8), (2, 3, 16, 8), (4, 3, 32, 8)
    rtx.build(convolution, tmp_path / "e", Shapes(min={"x": low}, opt={"x": typical}, max={"x": high}))
    assert profile_of(tmp_path / "e", "x") in (None, [low, typical, high])


def test_trained_network_whose_unknown_dimensions_share_one_name(rtx, classifier, tmp_path):
    shapes = Shapes(opt={"x": (1, 3, 48, 192)}, max={"x": (4, 3, 48, 320)})
    result = rtx.build(classifier, tmp_path / "e", shapes)
    assert result.network.layer_types["CONVOLUTION"] == 53
    assert result.bytes > 500_000


def test_shape_tensor_inputs_are_bounded_by_value(rtx, tmp_path, write):
    model = write(RESHAPE)
    assert rtx.parse(model).inputs["s"].is_shape
    with pytest.raises(UsageError, match="--shapes x=1x4 --shapes s=1x1"):
        rtx.build(model, tmp_path / "e")
    assert rtx.build(model, tmp_path / "e", Shapes(opt={"x": (2, 4), "s": (4, 2)})).bytes


def test_missing_shape_says_what_to_type(rtx, convolution, tmp_path):
    with pytest.raises(UsageError, match="--shapes x=1x3x224x224"):
        rtx.build(convolution, tmp_path / "e")
    assert list(tmp_path.iterdir()) == [convolution]


def test_every_option_is_taken(rtx, convolution, tmp_path):
    options = BuildOptions(
        optimization_level=1,
        memory_pools={"workspace": 1 << 28},
        compute_capabilities=((8, 6), (12, 0)),
        tf32=False,
        verbose=True,
    )
    result = rtx.build(convolution, tmp_path / "e", SHAPES, options)
    assert any(line.startswith("info: ") for line in result.log)


def test_unknown_compute_capability(rtx, convolution, tmp_path):
    with pytest.raises(UsageError, match=r"no compute capability 1\.0 .*\n.*sm80, sm86, sm89"):
        rtx.build(convolution, tmp_path / "e", SHAPES, BuildOptions(compute_capabilities=((1, 0),)))


def test_compute_capability_is_refused_before_a_full_tensorrt_starts(convolution, tmp_path):
    with pytest.raises(UsageError, match="backend tensorrt_rtx"):
        get("tensorrt").build(convolution, tmp_path / "e", SHAPES, BuildOptions(compute_capabilities=((8, 6),)))


def test_refused_nodes_are_named(rtx, tmp_path, write):
    model = write(
        """<ir_version: 8, opset_import: ["": 17, "com.x": 1]>
        g (float[N, 4] x) => (float[N, 4] y)
        {
            [first] a = Relu(x)
            [strange] b = com.x.Frobnicate(a)
            y = com.x.Twiddle(b)
        }""",
    )
    with pytest.raises(ParseError, match=r"node strange \(Frobnicate\).*Op type Frobnicate is not supported") as caught:
        rtx.parse(model)
    named, unnamed = caught.value.errors
    assert (named.node, named.op, named.index, named.output) == ("strange", "Frobnicate", 1, "b")
    assert (unnamed.node, unnamed.op, unnamed.output) == ("#2", "Twiddle", "y")
    assert "node #2 (Twiddle, output y)" in str(caught.value)


def test_build_failure_gives_the_builders_reason(rtx, tmp_path, convolution):
    options = BuildOptions(memory_pools={"workspace": 0})
    with pytest.raises(BackendError, match=r"cannot build this model.*workspace"):
        rtx.build(convolution, tmp_path / "e", SHAPES, options)
    assert list(tmp_path.iterdir()) == [convolution]


def test_external_data(rtx, tmp_path):
    def model():
        weight = onnx.numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
        made = onnx.parser.parse_model(
            """<ir_version: 8, opset_import: ["": 17]> g (float[1, 64] x) => (float[1, 64] y) { y = MatMul(x, w) }"""
        )
        made.graph.initializer.append(weight)
        convert_model_to_external_data(made, location="weights.bin", size_threshold=0)
        return made

    path = tmp_path / "m.onnx"
    onnx.save(model(), path)
    assert rtx.build(path, tmp_path / "e").bytes > 64 * 64 * 4
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ParseError, match=r"weights\.bin") as caught:
        rtx.parse(path)
    assert "In node -1" not in str(caught.value)


def test_truncated_model(rtx, classifier, tmp_path):
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(classifier.read_bytes()[:5000])
    with pytest.raises(ParseError, match="Failed to parse the ONNX model"):
        rtx.parse(cut)


def test_no_such_model(rtx, tmp_path):
    with pytest.raises(ModelError, match="no such model file"):
        rtx.build(tmp_path / "none.onnx", tmp_path / "e")


@pytest.mark.parametrize("target", ["missing/e", "."])
def test_impossible_target_is_refused_before_the_build(rtx, convolution, tmp_path, target):
    steps = []
    with pytest.raises(UsageError, match="folder"):
        rtx.build(convolution, tmp_path / target, SHAPES, progress=lambda *step: steps.append(step))
    assert not steps
    assert list(tmp_path.iterdir()) == [convolution]


def test_library_that_is_not_installed(convolution, tmp_path):
    backend = get("tensorrt")
    if backend.available() is None:
        pytest.skip("the full TensorRT is installed here")
    with pytest.raises(BackendError, match="pip install"):
        backend.build(convolution, tmp_path / "e", SHAPES)
