"""`graphopt optimize`: what it writes, prints and returns."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import console
from graphopt.report import result
from graphopt.testing import model

from .conftest import Cli, files


def test_the_default_name_is_in_the_current_folder(cli: Cli, chain: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    chain.rename(tmp_path / "models" / "chain.onnx")
    done = cli("optimize", "models/chain.onnx")
    assert done.code == 0, done.err
    assert files(tmp_path) == ["chain.opt.onnx", "models"]
    assert files(tmp_path / "models") == ["chain.onnx"]
    assert [node.op_type for node in onnx.load("chain.opt.onnx").graph.node] == ["Relu", "Exp"]
    assert "Wrote chain.opt.onnx" in done.out


def test_the_table_says_what_changed(cli: Cli, chain: Path) -> None:
    done = cli("optimize", "chain.onnx", "-o", "out.onnx")
    assert re.search(r"nodes +4 +2 +\u221250\.0 %", done.out)
    assert re.search(r"Identity +1 +0 +\u22121", done.out)
    assert re.search(r"y +float32 \dx3 +0 +1\.0e-05 +ok", done.out)
    assert max(map(len, done.out.splitlines())) <= 80
    assert done.err == ""


def test_json_is_one_object_and_the_same_as_the_result(cli: Cli, chain: Path) -> None:
    done = cli("optimize", "chain.onnx", "-o", "out.onnx", "--json")
    assert (done.code, done.err) == (0, "")
    found = done.json
    again = graphopt.optimize(chain, count_layers=True).to_json()
    assert set(found) == set(again)
    assert found["status"] == "ok"
    assert found["nodes"] == again["nodes"]
    assert found["nodes"]["before"], found["nodes"]["after"] == (4, 2)
    assert found["outputs"] == {"model": ["out.onnx"]}
    assert [one["name"] for one in found["passes"]] == [one["name"] for one in again["passes"]]


def test_both_homes_of_the_schema_version_agree() -> None:
    assert console.SCHEMA_VERSION == result.SCHEMA_VERSION


def test_quiet_prints_nothing(cli: Cli, chain: Path, tmp_path: Path) -> None:
    done = cli("optimize", "chain.onnx", "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert files(tmp_path) == ["chain.onnx", "chain.opt.onnx"]


def test_verbose_lists_idle_passes(cli: Cli, chain: Path) -> None:
    short = cli("optimize", "chain.onnx").out
    long = cli("optimize", "chain.onnx", "--verbose").out
    assert "fold-conv-bn" not in short
    assert "fold-conv-bn" in long
    assert re.search(r"\d+ other passes found nothing to do", short)


@pytest.mark.parametrize("name", ["report.json", "report.html"])
def test_reports_are_files(cli: Cli, chain: Path, tmp_path: Path, name: str) -> None:
    done = cli("optimize", "chain.onnx", "--report", name, "--json")
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert files(tmp_path) == ["chain.onnx", "chain.opt.onnx", name]
    if name.endswith("json"):
        assert json.loads(text) == done.json
    else:
        assert text.startswith("<!doctype html>")
        assert "remove-identity" in text or "chain.onnx" in text
        assert not re.search(r"""(src|href)=|url\(|@import|https?://""", text)


def test_a_report_escapes_what_the_model_says(cli: Cli, tmp_path: Path) -> None:
    source = model("g (float[3] x) => (float[3] y) { a = Neg(x) y = Abs(a) }")
    evil = "<script>alert(1)</script>[bold]"
    source.graph.input[0].name = source.graph.node[0].input[0] = evil
    onnx.save(source, tmp_path / "m.onnx")
    done = cli("optimize", "m.onnx", "--report", "r.html")
    assert done.code == 0, done.err
    assert "<script>alert" not in (tmp_path / "r.html").read_text()
    assert evil in done.out


def test_build_writes_an_engine_and_says_how(cli: Cli, chain: Path, tmp_path: Path) -> None:
    done = cli("optimize", "chain.onnx", "--build", "--shapes", "x=4x3", "--maxShapes", "x:8x3", "--json")
    assert done.code == 0, done.err
    assert files(tmp_path) == ["chain.engine", "chain.engine.json", "chain.onnx", "chain.opt.onnx"]
    built = done.json["build"]
    assert built["engine"] == "chain.engine"
    assert built["bytes"] == (tmp_path / "chain.engine").stat().st_size > 0
    assert built["profile"] == {"x": [[4, 3], [4, 3], [8, 3]]}
    shown = cli("optimize", "chain.onnx", "--engine", "e.engine", "--shapes", "x=4x3", "--compute-capability", "sm89")
    assert "Wrote e.engine" in shown.out
    assert "x: 4x3" in shown.out


def test_building_without_shapes_prints_the_line_to_type(cli: Cli, chain: Path, tmp_path: Path) -> None:
    done = cli("optimize", "chain.onnx", "--build")
    assert done.code == 2
    line = re.search(r"--shapes x=\S+", done.err)
    assert line
    assert files(tmp_path) == ["chain.onnx"]
    assert cli("optimize", "chain.onnx", "--build", *line[0].split()).code == 0


def test_a_missing_backend_is_one_line_and_a_failure_only_under_build(cli: Cli, chain: Path, tmp_path: Path) -> None:
    done = cli("optimize", "chain.onnx", "--backend", "tensorrt")
    assert done.code == 0, done.err
    assert done.out.count("TensorRT is not installed") == 1
    (tmp_path / "chain.opt.onnx").unlink()
    done = cli("optimize", "chain.onnx", "--backend", "tensorrt", "--build", "--shapes", "x=1x3")
    assert done.code == 1
    assert "not installed" in done.err
    assert files(tmp_path) == ["chain.onnx"]


def test_a_wrong_rule_is_named_and_nothing_is_written(cli: Cli, chain: Path, wrong: Path, tmp_path: Path) -> None:
    (tmp_path / "chain.opt.onnx").write_text("old")
    done = cli("optimize", "chain.onnx", "--plugin", wrong, "--json")
    assert done.code == 1
    assert done.json["status"] == "failed"
    assert done.json["error"]["kind"] == "VerificationError"
    assert "replace-relu" in done.json["error"]["where"]
    assert "--skip replace-relu" in done.json["error"]["hint"]
    assert (tmp_path / "chain.opt.onnx").read_text() == "old"
    assert files(tmp_path) == ["chain.onnx", "chain.opt.onnx", "wrong.py"]


def test_each_takes_the_wrong_rule_back(cli: Cli, chain: Path, wrong: Path) -> None:
    words = ("optimize", "chain.onnx", "--plugin", wrong, "--samples", "1")
    done = cli(*words, "--verify", "each", "--json", "--report", "r.html")
    assert done.code == 0, done.err
    assert "warning: 1 change broke the numbers" in done.err
    assert done.json["status"] == "refused"
    assert done.json["refused"][0]["pass"] == "replace-relu"
    assert "replace-relu" in Path("r.html").read_text().split("Taken back")[1]
    assert [node.op_type for node in onnx.load("chain.opt.onnx").graph.node] == ["Relu", "Exp"]
    strict = cli(*words, "--verify", "each", "--strict", "-o", "strict.onnx")
    assert strict.code == 1
    assert "replace-relu" in strict.err
    assert not Path("strict.onnx").exists()


@pytest.mark.parametrize("words", [("--skip", "replace-relu"), ("--no-plugin", "wrong")])
def test_a_wrong_rule_can_be_left_out(cli: Cli, chain: Path, wrong: Path, words: tuple[str, str]) -> None:
    assert cli("optimize", "chain.onnx", "--plugin", wrong, *words).code == 0


def test_unverified_is_a_warning_and_a_failure_under_strict(cli: Cli, tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17, "acme" : 1]> g (float[3] x) => (float[3] y) { y = acme.Foo(x) }'
    onnx.save(model(text), tmp_path / "m.onnx")
    done = cli("optimize", "m.onnx")
    assert done.code == 0
    assert "warning: the result could not be compared with its source" in done.err
    assert "Unverified" in done.out
    assert cli("optimize", "m.onnx", "--json").json["status"] == "unverified"
    assert cli("optimize", "m.onnx", "--strict", "-o", "strict.onnx").code == 1
    assert files(tmp_path) == ["m.onnx", "m.opt.onnx"]


def test_of_random_outputs_only_shapes_are_compared_and_it_says_so(cli: Cli, tmp_path: Path) -> None:
    text = "g (float[4,8] x) => (float[4,8] y, float[4,8] z) { r = RandomNormalLike(x) y = Add(x, r) z = Neg(x) }"
    onnx.save(model(text), tmp_path / "noise.onnx")
    done = cli("optimize", tmp_path / "noise.onnx", "--report", tmp_path / "noise.html")
    assert re.search(r"y +float32 4x8 +\u2013 +shape +random", done.out)
    assert re.search(r"z +float32 4x8 +0 +1.0e-05 +ok", done.out)
    page = (tmp_path / "noise.html").read_text()
    assert ">random<" in page
    assert ">ok<" in page


def test_freeze_and_bind_change_the_model(cli: Cli, tmp_path: Path) -> None:
    text = "g (float[N,3] x, int64[1] k) => (float[A,B] y) { y = Tile(x, kk) kk = Concat<axis=0>(k, k) }"
    source = model(text)
    source.graph.node.insert(0, source.graph.node.pop())
    onnx.save(source, tmp_path / "m.onnx")
    done = cli("optimize", "m.onnx", "--freeze", "x=2x3", "--bind", "k=2", "-o", "out.onnx")
    assert done.code == 0, done.err
    made = onnx.load(tmp_path / "out.onnx")
    assert [one.name for one in made.graph.input] == ["x"]
    assert [dim.dim_value for dim in made.graph.input[0].type.tensor_type.shape.dim] == [2, 3]
    np.save(tmp_path / "k.npy", np.array([2]))
    assert cli("optimize", "m.onnx", "--bind", "k=@k.npy", "-o", "out.onnx").code == 0


def test_inputs_come_from_a_file(cli: Cli, chain: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", x=np.ones((5, 3), np.float32))
    done = cli("optimize", "chain.onnx", "--inputs", "f.npz", "--json")
    assert done.json["verification"]["shapes_used"] == [{"x": [5, 3]}]
    bad = cli("optimize", "chain.onnx", "--inputs", "absent.npz")
    assert bad.code == 2
    assert "absent.npz" in bad.err


def test_samples_and_seed(cli: Cli, chain: Path) -> None:
    found = cli("optimize", "chain.onnx", "--samples", "5", "--seed", "7", "--json").json
    assert len(found["verification"]["shapes_used"]) == 5
    assert cli("optimize", "chain.onnx", "--samples", "0").code == 2
    assert cli("optimize", "chain.onnx", "--seed", "-1").code == 2


def test_verify_none_says_so(cli: Cli, chain: Path) -> None:
    done = cli("optimize", "chain.onnx", "--verify", "none")
    assert "Not compared with the source" in done.out
    assert cli("optimize", "chain.onnx", "--verify", "none", "--json").json["status"] == "unchecked"


def test_a_plugin_that_cannot_be_used_is_a_warning(cli: Cli, chain: Path, tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text("GRAPHOPT_API = 99\n")
    done = cli("optimize", "chain.onnx", "--plugin", "late.py", "--verify", "none", "--json")
    assert done.code == 0
    assert done.err.startswith("warning: plugin late of late.py is not in use: needs plugin API 99")
    assert done.json["warnings"] == [done.err.removeprefix("warning: ").strip()]
    off = cli("optimize", "chain.onnx", "--plugin", "late.py", "--no-plugin", "late", "--verify", "none")
    assert (off.code, off.err) == (0, "")
