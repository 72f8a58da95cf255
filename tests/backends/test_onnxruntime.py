import numpy as np
import onnx
import pytest
from onnx.external_data_helper import convert_model_to_external_data

from graphopt.backends import ParseError, get
from graphopt.backends.onnxruntime import run, session
from graphopt.errors import BackendError, ModelError, UsageError

MATMUL = """<ir_version: 8, opset_import: ["": 17]>
g (float[N, M] x, float[K, 5] z) => (float[N, 5] y) { [product] m = MatMul(x, z) y = Relu(m) }"""


def model(text: str) -> bytes:
    return onnx.parser.parse_model(text).SerializeToString()


def test_runs_the_graph_as_it_is_written(tmp_path):
    one = np.ones((2, 3), np.float32)
    for optimize in (False, True):
        found = run(session(model(MATMUL), optimize=optimize), {"x": one, "z": np.ones((3, 5), np.float32)})
        assert list(found) == ["y"]
        assert np.array_equal(found["y"], np.full((2, 5), 3, np.float32))


def test_optimizations_are_off_unless_asked_for():
    ort = pytest.importorskip("onnxruntime")
    levels = ort.GraphOptimizationLevel
    off, on = (session(model(MATMUL), optimize=flag).get_session_options() for flag in (False, True))
    assert off.graph_optimization_level == levels.ORT_DISABLE_ALL
    assert on.graph_optimization_level == levels.ORT_ENABLE_ALL


def test_parse_and_no_build(convolution, tmp_path):
    backend = get("onnxruntime")
    network = backend.parse(convolution)
    assert network.layer_types == {"Conv": 1, "Relu": 1}
    assert network.inputs["x"].dims == (-1, 3, -1, -1)
    assert network.inputs["x"].names == ("N", "", "H", "W")
    assert network.inputs["x"].dtype == "float32"
    with pytest.raises(UsageError, match="builds no engine"):
        backend.build(convolution, tmp_path / "e")


@pytest.mark.parametrize(
    ("text", "node", "op", "words"),
    [
        ("[strange] y = Frobnicate(x)", "strange", "Frobnicate", "No Op registered"),
        ("[narrow] y = MatMul(x, x)", "narrow", "MatMul", "Incompatible dimensions"),
        ("y = com.x.Frobnicate(x)", "", "com.x:Frobnicate", "is not a registered function/op"),
        ("[wrong] y = Relu <alpha = 3> (x)", "wrong", "Relu", "Unrecognized attribute"),
    ],
)
def test_refusals_name_node_and_op(text, node, op, words, capfd):
    header = '<ir_version: 8, opset_import: ["": 17, "com.x": 1]> g (float[3, 4] x) => (float[3, 4] y)'
    with pytest.raises(ParseError, match=words) as caught:
        session(model(f"{header} {{ {text} }}"))
    (error,) = caught.value.errors
    assert (error.node, error.op) == (node, op)
    assert op in caught.value.where
    assert "\n" not in caught.value.what
    assert capfd.readouterr() == ("", "")


def test_broken_files(tmp_path):
    with pytest.raises(ModelError, match="no such model file"):
        session(tmp_path / "none.onnx")
    (tmp_path / "cut.onnx").write_bytes(model(MATMUL)[:60])
    with pytest.raises(ParseError, match=r"cut\.onnx: onnxruntime refuses the model"):
        session(tmp_path / "cut.onnx")


def test_missing_external_data(tmp_path):
    made = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[1, 4] x) => (float[1, 4] y) { y = Add(x, w) }'
    )
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(4, np.float32), "w"))
    convert_model_to_external_data(made, location="weights.bin", size_threshold=0)
    onnx.save(made, tmp_path / "m.onnx")
    assert run(session(tmp_path / "m.onnx"), {"x": np.zeros((1, 4), np.float32)})["y"].sum() == 4
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ParseError, match=r"weights\.bin"):
        session(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({"x": np.ones((2, 3), np.float32), "z": np.ones((4, 5), np.float32)}, r"node product \(MatMul\)"),
        ({"x": np.ones((2, 3), np.float64), "z": np.ones((3, 5), np.float32)}, "double"),
        ({"x": np.ones((2, 3), np.float32)}, r"\['z'\]"),
    ],
)
def test_feeds_that_do_not_fit(feeds, words, capfd):
    with pytest.raises(BackendError, match=words):
        run(session(model(MATMUL)), feeds)
    assert capfd.readouterr() == ("", "")
