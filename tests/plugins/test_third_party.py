"""A package of a third party, installed into a clean environment, is found, runs, and can be switched off."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import venv
from pathlib import Path

import onnx
import pytest

HERE = Path(__file__).parent
MODEL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[3] x) => (float[3] y) { a = Neg(x) b = Neg(a) c = Abs(b) d = Relu(c) y = Exp(d) }"""


@pytest.mark.install
def test_a_wheel_in_a_clean_environment(tmp_path: Path) -> None:
    shutil.copytree(HERE / "third_party", tmp_path / "source")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    graphopt = tmp_path / "env" / "bin" / "graphopt"
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*install, HERE.parents[1]], check=True)
    subprocess.run([*install, tmp_path / "source"], check=True)
    model = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(MODEL), model)
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "GRAPHOPT"))}

    def run(*words: str) -> dict[str, object]:
        done = subprocess.run([graphopt, *words, "--json"], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    plugins = {one["name"]: one for one in run("plugins")["plugins"]}  # type: ignore[attr-defined]
    assert plugins["acme"]["source"] == "acme-graphopt 1.2.0"
    found = run("optimize", "m.onnx", "-o", "out.onnx")
    fired = {one["name"]: one["changes"] for one in found["passes"]}  # type: ignore[attr-defined]
    assert (fired["drop-double-neg"], fired["drop-relu-of-abs"]) == (1, 1)
    assert [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node] == ["Abs", "Exp"]
    off = run("optimize", "m.onnx", "-o", "off.onnx", "--no-plugin", "acme")
    assert not {"drop-double-neg", "drop-relu-of-abs"} & {one["name"] for one in off["passes"]}  # type: ignore[attr-defined]
    only = run("optimize", "m.onnx", "-o", "only.onnx", "--pipeline", "acme")
    assert [one["name"] for one in only["passes"]] == ["drop-double-neg"]  # type: ignore[attr-defined]
