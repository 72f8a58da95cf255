"""inspect, diff, passes, plugins, explain."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.testing import model

from .conftest import Cli

CONV_BN = """g (float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] z) {
  a = Conv(x, w)
  b = BatchNormalization(a, s, t, m, v)
  y = Relu(b)
  c = Conv(x, w)
  d = BatchNormalization(c, s, t, m, v)
  e = Neg(c)
  z = Add(d, e)
}"""


@pytest.fixture
def conv(tmp_path: Path) -> Path:
    """Two convolutions with a BatchNormalization each; something else reads the second convolution too."""
    import numpy as np

    path = tmp_path / "conv.onnx"
    norm = {name: np.full(4, value, np.float32) for name, value in (("s", 2.0), ("t", 0.5), ("m", 0.1), ("v", 1.5))}
    made = model(CONV_BN, weights={"w": (4, 3, 3, 3), **norm})
    for node, name in zip(made.graph.node, ("conv1", "bn1", "relu1", "conv2", "bn2", "neg2", "add2"), strict=True):
        node.name = name
    onnx.save(made, path)
    return path


def test_inspect(cli: Cli, conv: Path) -> None:
    found = cli("inspect", "conv.onnx", "--json").json
    assert found["schema_version"] == 1
    assert found["opset"] == 17
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["N", 3, 8, 8]}]
    assert found["dynamic"] == {"N": ["x"]}
    assert found["nodes"]["by_op"] == {"BatchNormalization": 2, "Conv": 2, "Add": 1, "Neg": 1, "Relu": 1}
    assert found["weights"]["bytes"] == 4 * (4 * 27 + 16)
    assert found["weights"]["largest"][0] == {"name": "w", "dtype": "float32", "shape": [4, 3, 3, 3], "bytes": 432}
    shown = cli("inspect", "conv.onnx").out
    assert "Known only at run time: N (x)" in shown
    assert re.search(r"BatchNormalization +2", shown)


def test_inspect_counts_bodies_functions_and_constant_nodes(cli: Cli, tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>
    g (float[3] x, bool c) => (float[3] y) {
      k = Constant<value: tensor = float[3] {1, 2, 3}>()
      a = acme.Twice(x)
      b = If (c) <then_branch = t () => (float[3] p) { p = Add(a, k) },
        else_branch = e () => (float[3] q) { q = Neg(a) }>
      y = Relu(b)
    }
    <domain: "acme", opset_import: ["" : 17]> Twice (v) => (w) { w = Add(v, v) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    found = cli("inspect", "m.onnx", "--json").json
    assert found["nodes"] == {
        "count": 6,
        "by_op": {"Add": 2, "If": 1, "Neg": 1, "Relu": 1, "Twice": 1},
        "constants": 1,
    }
    assert found["subgraphs"] == 2
    assert found["functions"] == [{"domain": "acme", "name": "Twice", "nodes": 1, "calls": 1}]
    assert found["weights"]["count"] == 1
    assert found["weights"]["largest"][0]["name"] == "k"
    assert "Twice" in cli("inspect", "m.onnx").out


def test_diff_of_a_model_and_its_result(cli: Cli, conv: Path) -> None:
    assert cli("optimize", "conv.onnx", "-o", "out.onnx", "--verify", "none", "--quiet").code == 0
    found = cli("diff", "conv.onnx", "out.onnx", "--json").json
    assert not found["same"]
    gone = {one["name"]: one for one in found["nodes"]["gone"]}
    new = {one["name"]: one for one in found["nodes"]["new"]}
    assert {"conv1", "bn1"} <= set(gone)
    heirs = gone["conv1"]["became"]
    assert heirs
    assert "fold-conv-bn" in new[heirs[0]]["rules"]
    assert {"conv1", "bn1"} <= set(new[heirs[0]]["origin"])
    assert found["interface"] == []
    assert [one["name"] for one in found["weights"]["added"]] or found["weights"]["changed"]
    shown = cli("diff", "conv.onnx", "out.onnx").out
    assert "by fold-conv-bn" in shown
    assert "- bn1 BatchNormalization" in shown


def test_diff_of_a_model_with_itself_and_with_another_interface(cli: Cli, conv: Path, tmp_path: Path) -> None:
    assert cli("diff", "conv.onnx", "conv.onnx", "--json").json["same"]
    assert "same model" in cli("diff", "conv.onnx", "conv.onnx").out
    other = onnx.load(conv)
    other.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    del other.graph.output[1]
    onnx.save(other, tmp_path / "other.onnx")
    found = cli("diff", "conv.onnx", "other.onnx", "--json").json
    assert found["interface"] == [
        "input 'x': float32 Nx3x8x8 became float32 1x3x8x8",
        "output 'z' (float32 Nx4x6x6) is gone",
    ]


def test_diff_tells_weights_by_content(cli: Cli, conv: Path, tmp_path: Path) -> None:
    other = onnx.load(conv)
    by_name = {one.name: one for one in other.graph.initializer}
    by_name["w"].raw_data = by_name["w"].raw_data[::-1]
    by_name["s"].name = "renamed"
    for node in other.graph.node:
        for slot, name in enumerate(node.input):
            node.input[slot] = "renamed" if name == "s" else name
    onnx.save(other, tmp_path / "other.onnx")
    weights = cli("diff", "conv.onnx", "other.onnx", "--json").json["weights"]
    assert [one["name"] for one in weights["changed"]] == ["w"]
    assert (weights["added"], weights["removed"], weights["kept"]) == ([], [], 4)


def test_passes_come_in_the_order_in_which_they_run(cli: Cli, wrong: Path) -> None:
    found = cli("passes", "--json").json
    stages = [one["stage"] for one in found["passes"]]
    assert stages == sorted(stages, key=["canonicalize", "simplify", "fuse", "lower", "legalize"].index)
    by_name = {one["name"]: one for one in found["passes"]}
    assert by_name["fold-conv-bn"]["equation"].startswith("BN(Conv(x, w, b)) = ")
    assert (by_name["fold-conv-bn"]["kind"], by_name["fold-constants"]["kind"]) == ("rule", "function")
    assert all(one["equation"] for one in found["passes"])
    assert "default" in found["pipelines"]
    shown = cli("passes", "--plugin", wrong).out
    assert "replace-relu  wrong" in shown
    assert "replace-relu" not in cli("passes", "--plugin", wrong, "--skip", "replace-relu").out


def test_plugins_say_where_they_are_from_and_why_they_are_off(cli: Cli, wrong: Path) -> None:
    found = {one["name"]: one for one in cli("plugins", "--plugin", wrong, "--json").json["plugins"]}
    assert found["wrong"] == {"name": "wrong", "source": str(wrong), "hooks": ["graphopt_passes"], "unavailable": ""}
    assert found["constants"]["source"].startswith("graphopt ")
    off = cli("plugins", "--plugin", wrong, "--no-plugin", "wrong").out
    assert re.search(r"switched\s+off", off)


def test_explain_where_it_fires(cli: Cli, conv: Path) -> None:
    found = cli("explain", "conv.onnx", "--pass", "fold-conv-bn", "--node", "bn1", "--json").json
    assert (found["pass"], found["verdict"], found["node"], found["op"]) == (
        "fold-conv-bn",
        "fires",
        "bn1",
        "BatchNormalization",
    )
    assert set(found["covers"]) == {"conv1", "bn1"}
    assert found["fired_here"]
    assert found["taken_by"] == "pass fold-conv-bn at node bn1"
    inner = cli("explain", "conv.onnx", "--pass", "fold-conv-bn", "--node", "conv1", "--json").json
    assert inner["verdict"] == "fires"
    assert "bn1" in inner["reason"]
    by_output = cli("explain", "conv.onnx", "--pass", "fold-conv-bn", "--node", "b", "--json").json
    assert by_output["node"] == "bn1"
    assert "It fires here" in cli("explain", "conv.onnx", "--pass", "fold-conv-bn", "--node", "bn1").out


def test_explain_tells_the_nearest_miss(cli: Cli, conv: Path) -> None:
    shared = cli("explain", "conv.onnx", "--pass", "fold-conv-bn", "--node", "bn2").out
    assert "It does not match here" in shared
    assert re.search(r"inner\s+value\s+'c'\s+is\s+also\s+read\s+by", shared)
    assert "neg2" in shared.split("In the whole run")[0]
    other = cli("explain", "conv.onnx", "--pass", "fold-conv-bn", "--node", "relu1", "--json").json
    assert other["verdict"] == "no match"
    assert "no Relu" in other["reason"]


def test_explain_tells_a_veto(cli: Cli, conv: Path, tmp_path: Path) -> None:
    (tmp_path / "shy.py").write_text(
        "import graphopt\n@graphopt.hookimpl\ndef graphopt_check(rule, nodes, target):\n"
        "    if rule == 'fold-conv-bn':\n        return 'quantization needs it apart'\n"
    )
    words = ("explain", "conv.onnx", "--pass", "fold-conv-bn", "--node", "bn1", "--plugin", "shy.py")
    found = cli(*words, "--json").json
    assert (found["verdict"], found["changes"]) == ("vetoed", 0)
    assert found["reason"] == "quantization needs it apart (plugin shy)"
    assert "quantization needs it apart" in cli(*words).out


def test_explain_holds_every_spelling_of_a_layer(cli: Cli, tmp_path: Path) -> None:
    text = """g (float[2,N,8] gate, float[2,M,8] up) => (float[2,N,8] y) {
      d = Div(gate, root) e = Erf(d) p = Add(e, one) h = Mul(half, p) a = Mul(gate, h) y = Mul(a, up)
    }"""
    weights = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    onnx.save(model(text, weights=weights), tmp_path / "gated.onnx")
    found = cli("explain", "gated.onnx", "--pass", "fused-ge-glu", "--node", "y", "--json").json
    assert found["verdict"] == "vetoed", "the spelling that exporters write is not the layer's first"
    assert "up" in found["reason"]


def test_explain_tells_who_took_the_node(cli: Cli, chain: Path) -> None:
    found = cli("explain", "chain.onnx", "--pass", "fold-conv-bn", "--node", "c", "--json").json
    assert found["verdict"] == "gone"
    assert re.match(r"pass [\w-]+( at node \w+)? took it before stage simplify began", found["reason"])


def test_explain_a_function_pass(cli: Cli, chain: Path) -> None:
    found = cli("explain", "chain.onnx", "--pass", "fold-constants", "--node", "y", "--json").json
    assert found["verdict"] == "function"
    assert (found["op"], found["taken_by"]) == ("Exp", "")


def test_help_is_light() -> None:
    code = """
import sys
from graphopt.cli import main
try:
    main(["optimize", "--help"])
except SystemExit:
    pass
heavy = {"onnx", "onnx_graphsurgeon", "onnxruntime", "numpy", "networkx", "tensorrt_rtx"} & set(sys.modules)
print("HEAVY", sorted(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("HEAVY []\n")
