"""The main job from Python: optimize, prove, build."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphopt
from graphopt import Shapes, VerificationError, backends
from graphopt.testing import model

from .real_models import LARGE, LIGHT_NAMES, OCR_SHAPES, light, ocr, text_page

rtx = pytest.mark.skipif(
    backends.get("tensorrt_rtx").available() is not None, reason="pip install 'graphopt[rtx]' to build engines"
)


@rtx
@pytest.mark.parametrize(("name", "most"), [("rec", 240), ("det", 195), ("cls", 145)])
def test_trained_ocr_networks_become_smaller_stay_right_and_build(name: str, most: int, tmp_path: Path) -> None:
    result = graphopt.optimize(
        ocr(name),
        output=tmp_path / "out.onnx",
        engine=tmp_path / "out.engine",
        shapes=Shapes(opt={"x": OCR_SHAPES[name]}),
        inputs={"x": text_page(OCR_SHAPES[name])},
        count_layers=True,
    )
    found = result.to_json()
    assert found["status"] == "ok"
    assert found["nodes"]["after"] <= most
    assert found["layers"]["after"]["count"] <= found["layers"]["before"]["count"]
    assert all(one["relative_l2"] < 1e-5 for one in found["verification"]["outputs"])
    assert (tmp_path / "out.engine").stat().st_size == found["build"]["bytes"] > 1_000_000
    onnx.checker.check_model(tmp_path / "out.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.engine", "out.engine.json", "out.onnx"]


def check_light(name: str, folder: Path) -> None:
    source = folder / "source.onnx"
    onnx.save(light(name), source)
    shape = (1, 3, 224, 224)
    result = graphopt.optimize(source, engine=folder / "out.engine", shapes=Shapes(), samples=1)
    found = result.to_json()
    assert found["status"] == "ok", found["verification"]
    assert found["nodes"]["after"] <= found["nodes"]["before"]
    assert found["build"]["bytes"] > 0
    assert all(one["relative_l2"] < 1e-5 for one in found["verification"]["outputs"])
    assert shape in {tuple(dims) for sample in found["verification"]["shapes_used"] for dims in sample.values()}


@rtx
@pytest.mark.parametrize("name", [name for name in LIGHT_NAMES if name not in LARGE])
def test_light_architectures_with_random_weights(name: str, tmp_path: Path) -> None:
    check_light(name, tmp_path)


@rtx
@pytest.mark.full
@pytest.mark.parametrize("name", LARGE)
def test_large_light_architectures_with_random_weights(name: str, tmp_path: Path) -> None:
    check_light(name, tmp_path)


SHARED = """g (float[1,2,5,5] x) => (float[1,2,5,5] y, float[1,2,5,5] z) {
    c = Conv(x, w)
    y = BatchNormalization(c, s, b, m, v)
    z = Conv(x, w)
}"""
WEIGHTS = {
    "w": (2, 2, 1, 1),
    "s": np.array([2, 3], np.float32),
    "b": np.array([0.5, 1], np.float32),
    "m": np.array([0.1, 0.2], np.float32),
    "v": np.array([1, 2], np.float32),
}
WRONG = """
import graphopt

class FoldSharedBatchNorm(graphopt.Rule):
    '''Wrong: scales the weight in place, though another Conv reads it too.'''
    stage = "canonicalize"
    def pattern(self, op, x, w, s, b, m, v):
        return op.BatchNormalization(op.Conv(x, op.Const(w)), s, b, m, v)
    def rewrite(self, op, x, w, s, b, m, v):
        k = s.const / (v.const + 1e-5) ** 0.5
        w.tensor.values = w.const * k.reshape(-1, 1, 1, 1)
        return op.Conv(x, w, b.const - m.const * k)

class NegTwice(graphopt.Rule):
    '''Right: Neg(Neg(x)) = x.'''
    stage = "canonicalize"
    def pattern(self, op, x):
        return op.Neg(op.Neg(x))
    def rewrite(self, op, x):
        return x

@graphopt.hookimpl
def graphopt_passes():
    return [FoldSharedBatchNorm(), NegTwice()]
"""


@pytest.fixture
def wrong(tmp_path: Path) -> str:
    path = tmp_path / "wrong.py"
    path.write_text(WRONG)
    return str(path)


def shared_model(folder: Path) -> Path:
    path = folder / "shared.onnx"
    text = SHARED.replace("z = Conv(x, w)", "n = Neg(x) nn = Neg(n) z = Conv(nn, w)")
    onnx.save(model(text, weights=WEIGHTS), path)
    return path


def test_a_wrong_rule_is_caught_named_and_nothing_is_written(tmp_path: Path, wrong: str) -> None:
    output = tmp_path / "out.onnx"
    output.write_bytes(b"what was there before")
    with pytest.raises(VerificationError, match="pass fold-shared-batch-norm at node 'BatchNormalization_0'") as caught:
        graphopt.optimize(shared_model(tmp_path), output=output, plugins=[wrong])
    assert "--skip fold-shared-batch-norm" in str(caught.value)
    assert output.read_bytes() == b"what was there before"
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != "") == ["out.onnx", "shared.onnx", "wrong.py"]


def test_verify_each_takes_the_wrong_change_back_and_keeps_the_rest(tmp_path: Path, wrong: str) -> None:
    result = graphopt.optimize(
        shared_model(tmp_path), output=tmp_path / "out.onnx", plugins=[wrong], verify="each", pipeline="default"
    )
    assert result.status == "refused"
    assert [(one["pass"], one["node"], one["plugin"]) for one in result.report.refused] == [
        ("fold-shared-batch-norm", "BatchNormalization_0", "wrong")
    ]
    assert {one.name: one.changes for one in result.report.passes}["neg-twice"] == 1
    assert result.report.verification is not None
    assert result.report.verification.passed


def test_strict_makes_a_refused_change_a_failure(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(VerificationError, match="refused: pass fold-shared-batch-norm"):
        graphopt.optimize(
            shared_model(tmp_path), output=tmp_path / "out.onnx", plugins=[wrong], verify="each", strict=True
        )
    assert not (tmp_path / "out.onnx").exists()


def test_a_wrong_function_pass_is_named(tmp_path: Path) -> None:
    path = tmp_path / "swap.py"
    path.write_text(
        "import graphopt\n"
        "@graphopt.pass_('fuse')\n"
        "def swap_operands(graph, target):\n"
        "    '''Wrong: a - b = b - a.'''\n"
        "    found = [n for n in graph.nodes if n.op == 'Sub' and 'seen' not in n.__dict__]\n"
        "    for n in found:\n"
        "        a, b = n.inputs\n"
        "        n.inputs = [b, a]\n"
        "        n.seen = True\n"
        "    return len(found)\n"
        "@graphopt.hookimpl\n"
        "def graphopt_passes():\n"
        "    return [swap_operands]\n"
    )
    source = model("g (float[3] a, float[3] b) => (float[3] y) { y = Sub(a, b) }")
    with pytest.raises(VerificationError, match="pass swap-operands: the result does not compute"):
        graphopt.optimize(source, plugins=[str(path)])
    result = graphopt.optimize(source, plugins=[str(path)], verify="each")
    assert result.report.refused[0]["pass"] == "swap-operands"
    assert graphopt.optimize(source, plugins=[str(path)], verify="none").status == "unchecked"


@pytest.mark.parametrize("kind", ["path", "str", "bytes", "proto", "graph"])
def test_models_of_every_kind(kind: str, tmp_path: Path) -> None:
    proto = model("g (float[3] x) => (float[3] y) { a = Identity(x) b = Neg(a) y = Neg(b) }")
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    given = {
        "path": path,
        "str": str(path),
        "bytes": proto.SerializeToString(),
        "proto": proto,
        "graph": graphopt.load(proto),
    }
    result = graphopt.optimize(given[kind])
    assert result.status == "ok"
    assert len(result.model.graph.node) < 3
    [written] = result.save(tmp_path / "out.onnx")
    feeds = {"x": np.arange(3, dtype=np.float32)}
    session = ort.InferenceSession(written, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, feeds)[0], feeds["x"])


def test_freeze_and_bind_narrow_the_model(tmp_path: Path) -> None:
    source = model("g (float[N,4] x, int64[1] axis) => (float[N,1] y) { y = ReduceSum(x, axis) }")
    result = graphopt.optimize(source, freeze={"x": (3, 4)}, bind={"axis": 1}, output=tmp_path / "out.onnx")
    assert result.status == "ok"
    written = onnx.load(tmp_path / "out.onnx")
    assert [i.name for i in written.graph.input] == ["x"]
    assert [d.dim_value for d in written.graph.input[0].type.tensor_type.shape.dim] == [3, 4]
    assert [d.dim_value for d in written.graph.output[0].type.tensor_type.shape.dim] == [3, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": {"z": (1,)}}, "--freeze z: the model has no such input"),
        ({"freeze": {"x": (1,)}}, "of rank 2, not 1"),
        ({"freeze": {"x": (1, 5)}}, "dimension 1 of the input is 4, not 5"),
        ({"bind": {"axis": 0.5}}, "cannot be held by int64"),
        ({"verify": "never"}, "--verify never: choose one of"),
        ({"pipeline": "fast"}, "no pipeline is named 'fast'"),
    ],
)
def test_usage_errors(options: dict[str, object], message: str) -> None:
    source = model("g (float[N,4] x, int64[1] axis) => (float[N,1] y) { y = ReduceSum(x, axis) }")
    with pytest.raises(graphopt.UsageError, match=message):
        graphopt.optimize(source, **options)  # type: ignore[arg-type]


def test_a_model_that_cannot_run_is_unverified() -> None:
    source = model("g (float[3] x) => (float[3] y) { y = com.x.Foo(x) }", **{"com.x": 1})
    assert graphopt.optimize(source).status == "unverified"
    with pytest.raises(VerificationError, match="the source could not be run"):
        graphopt.optimize(source, strict=True)


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model("g (float[3] x) => (float[3] y) { y = Neg(x) }"), path)
    with pytest.raises(graphopt.UsageError, match="the output is the input file"):
        graphopt.optimize(path, output=path)


def test_the_json_mirrors_the_result() -> None:
    result = graphopt.optimize(model("g (float[3] x) => (float[3] y) { y = Neg(x) }"))
    found = result.to_json()
    assert json.loads(json.dumps(found)) == found
    assert list(found) == [
        "schema_version",
        "status",
        "imported",
        "nodes",
        "weights_bytes",
        "layers",
        "opset",
        "passes",
        "verification",
        "each",
        "refused",
        "not_lowered",
        "precision",
        "build",
        "outputs",
        "seconds",
        "warnings",
    ]
    assert found["schema_version"] == 1
    assert found["nodes"]["before"] == sum(found["nodes"]["by_op_before"].values()) == 1


def test_hooks_for_inputs_vetoes_and_observers(tmp_path: Path) -> None:
    path = tmp_path / "hooks.py"
    path.write_text(
        "import numpy, graphopt\n"
        "told = []\n"
        "@graphopt.hookimpl\n"
        "def graphopt_inputs(path):\n"
        "    return {'x': numpy.arange(3, dtype='float32')}\n"
        "@graphopt.hookimpl\n"
        "def graphopt_check(rule, nodes):\n"
        "    return 'Neg stays' if any(node.op == 'Neg' for node in nodes) else None\n"
        "@graphopt.hookimpl\n"
        "def graphopt_after_pass(name, changes):\n"
        "    told.append(name)\n"
    )
    source = model("g (float[3] x) => (float[3] y) { a = Neg(x) b = Neg(a) y = Relu(b) }")
    assert len(graphopt.optimize(source).model.graph.node) == 1
    result = graphopt.optimize(source, plugins=[str(path)])
    assert len(result.model.graph.node) == 3
    vetoes = [reason for one in result.report.passes for reason in one.vetoes.values()]
    assert "Neg stays (plugin hooks)" in vetoes
    assert result.report.verification is not None
    assert len(result.report.verification.shapes_used) == 1


BIG = 10_000


@pytest.mark.full
@pytest.mark.parametrize("verify", ["none", "end"])
def test_a_model_of_3_gb_with_external_data(verify: str, tmp_path: Path) -> None:
    """Peak RSS of the process tree: 2 GB without verification, 2 x model + 1.5 GB with it."""
    from .measure import peak_rss, sparse_model

    source = sparse_model(tmp_path, count=8, side=BIG)
    size = 8 * BIG * BIG * 4
    words = ["optimize", str(source), "-o", str(tmp_path / "out.onnx"), "--verify", verify, "--json", "--samples", "1"]
    code, out, peak, seconds = peak_rss(words)
    assert code == 0, out
    found = json.loads(out)
    print(f"{verify}: peak {peak / 1e9:.2f} GB, {seconds:.1f} s")  # noqa: T201 - the measurement
    assert found["status"] == ("ok" if verify == "end" else "unchecked")
    assert peak < (2e9 if verify == "none" else 2 * size + 1.5e9)
    assert graphopt.load(tmp_path / "out.onnx") is not None


def test_exporters_notes_are_dropped_unless_they_are_asked_for() -> None:
    proto = model("g (float[3] x) => (float[3] y) { a = Neg(x) y = Abs(a) }")
    for key, value in (("pkg.torch.onnx.stack_trace", "File ..."), ("namespace", "a/b"), ("owner", "us")):
        proto.graph.node[0].metadata_props.add(key=key, value=value)
    proto.graph.node[1].metadata_props.add(key="namespace", value="mine")
    proto.graph.metadata_props.add(key="pkg.torch.export.graph_signature", value="...")

    def notes(**options: bool) -> list[set[str]]:
        found = graphopt.to_proto(graphopt.optimize(proto, verify="none", **options).graph)
        return [{one.key for one in owner.metadata_props} for owner in (*found.graph.node, found.graph)]

    assert notes() == [{"owner"}, {"namespace"}, set()]
    kept = {"pkg.torch.onnx.stack_trace", "namespace", "owner"}
    assert notes(keep_metadata=True) == [kept, {"namespace"}, {"pkg.torch.export.graph_signature"}]
