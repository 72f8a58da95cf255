"""Killed at any moment, a full disk, plugins that misbehave: nothing is lost, and the message names the culprit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.config import Limits
from graphopt.errors import PassError, PluginError
from graphopt.ir.load import load
from graphopt.rewrite.rule import Entry
from graphopt.rewrite.worklist import Worklist
from graphopt.testing import model
from tests.ir.models import run, save
from tests.ir.test_atomicity import large

KILLS = int(os.environ.get("GRAPHOPT_KILLS", "6"))
CHAIN = "g (float[N,3] x) => (float[N,3] y) { a = Transpose<perm=[0,1]>(x) b = Relu(a) c = Identity(b) y = Exp(c) }"
HEAD = "import os, sys, time, graphopt\n"
TAIL = "\n@graphopt.hookimpl\ndef graphopt_passes():\n    return [culprit]\n"


def plugin(folder: Path, body: str, name: str = "acme") -> str:
    path = folder / f"{name}.py"
    path.write_text(f"{HEAD}@graphopt.pass_('simplify')\ndef culprit(graph, target):\n    {body}\n{TAIL}")
    return str(path)


def rule(folder: Path, check: str = "return None", rewrite: str = "return op.Relu(x)") -> str:
    path = folder / "acme.py"
    path.write_text(
        f"{HEAD}class Culprit(graphopt.Rule):\n    def pattern(self, op, x):\n        return op.Relu(x)\n"
        f"    def check(self, op, x):\n        {check}\n    def rewrite(self, op, x):\n        {rewrite}\n"
        "@graphopt.hookimpl\ndef graphopt_passes():\n    return [Culprit()]\n"
    )
    return str(path)


def chain(folder: Path) -> Path:
    path = folder / "chain.onnx"
    onnx.save(model(CHAIN), path)
    return path


def command(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "graphopt", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".ses")  # onnxruntime's own


# -- death --------------------------------------------------------------------------------------------------------


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """SIGKILL over the whole run: the output is the old file or the new one, whole; a later run sweeps the rest."""
    onnx.save(large(1, 2.0), tmp_path / "m.onnx")
    words = ("optimize", "m.onnx", "-o", "o.onnx", "--verify", "none", "--quiet", "--backend", "onnxruntime")
    began = time.perf_counter()
    assert command(tmp_path, *words).wait() == 0
    whole = time.perf_counter() - began
    new = (tmp_path / "o.onnx").read_bytes()
    old = save(large(1, 7.0), tmp_path / "old.onnx").read_bytes()
    rng = random.Random(0)
    outcomes = set()
    for _ in range(KILLS):
        (tmp_path / "o.onnx").write_bytes(old)
        child = command(tmp_path, *words)
        time.sleep(rng.uniform(0.3, 1.1) * whole)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        found = (tmp_path / "o.onnx").read_bytes()
        assert found in (old, new)
        outcomes.add(found == new)
    (tmp_path / ".graphopt-deadbeef").mkdir()
    assert command(tmp_path, *words).wait() == 0
    assert names(tmp_path) == ["m.onnx", "o.onnx", "old.onnx"]
    assert (tmp_path / "o.onnx").read_bytes() == new


def test_a_living_process_keeps_its_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from graphopt.ir.staging import staging\n"
        "with staging(Path('.')) as folder:\n"
        "    (folder / 'part').write_text('half'); print(folder, flush=True); sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    folder = tmp_path / child.stdout.readline().strip()
    graphopt.optimize(chain(tmp_path), output=tmp_path / "o.onnx", verify="none")
    assert (folder / "part").read_text() == "half"
    child.kill()
    child.communicate()
    assert folder.is_dir()
    graphopt.optimize(chain(tmp_path), output=tmp_path / "o.onnx", verify="none")
    assert not folder.exists()


def test_folders_of_others_stay(tmp_path: Path) -> None:
    for name in (".graphopt-notes", ".graphopt-short", "graphopt-abcdefgh", ".graphopt-UPPERCAS"):
        (tmp_path / name).mkdir()
    (tmp_path / ".graphopt-filefile").write_text("a file")
    (tmp_path / ".graphopt-linklink").symlink_to(tmp_path / "graphopt-abcdefgh")
    before = names(tmp_path)
    graphopt.optimize(model(CHAIN), output=tmp_path / "o.onnx", verify="none")
    assert names(tmp_path) == sorted([*before, "o.onnx"])


def test_two_processes_that_write_one_output(tmp_path: Path) -> None:
    onnx.save(large(1, 2.0), tmp_path / "a.onnx")
    onnx.save(large(1, 4.0), tmp_path / "b.onnx")
    children = [
        command(tmp_path, "optimize", name, "-o", "o.onnx", "--verify", "none", "--quiet")
        for name in ("a.onnx", "b.onnx", "a.onnx", "b.onnx")
    ]
    assert [child.wait() for child in children] == [0] * 4
    assert run(tmp_path / "o.onnx")[0][0] in (3.0, 5.0)
    assert names(tmp_path) == ["a.onnx", "b.onnx", "o.onnx"]


@pytest.mark.parametrize("megabytes", [1, 6])
def test_a_full_disk(tmp_path: Path, megabytes: int) -> None:
    """Where the result does not fit, the old one stays; where only the comparison's copies do not, it is unverified."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = f"size={megabytes}m"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", disk], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        onnx.save(large(4), tmp_path / "m.onnx")
        (disk / "o.onnx").write_bytes(b"old")
        environment = {**os.environ, "TMPDIR": str(disk)}
        words = [sys.executable, "-m", "graphopt", "optimize", str(tmp_path / "m.onnx"), "-o", str(disk / "o.onnx")]
        done = subprocess.run([*words, "--json"], env=environment, capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        assert names(disk) == ["o.onnx"]
        if megabytes == 1:
            assert done.returncode == 1
            assert "No space left on device" in json.loads(done.stdout)["error"]["what"]
            assert (disk / "o.onnx").read_bytes() == b"old"
        else:
            assert json.loads(done.stdout)["verification"]["status"] == "unverified"
            assert run(disk / "o.onnx")[0].shape == (4 << 18,)
    finally:
        subprocess.run(["umount", disk], check=True)


# -- plugins ------------------------------------------------------------------------------------------------------

FAILURES = {
    "raises": ("raise RuntimeError('no licence')", "no licence"),
    "exits": ("sys.exit(3)", "SystemExit: 3"),
    "claims what it did not do": ("return 7", "it claims 7 changes"),
    "changes and keeps silent": ("graph.nodes[0].op = 'Neg'; return 0", "changed the graph"),
    "returns nonsense": ("return 'done'", "not the number of changes"),
    "recurses": ("return culprit.function(graph, target)", "RecursionError"),
    "empties the graph and raises": ("graph.nodes.clear(); raise ValueError('sorry')", "sorry"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_pass_that_fails_is_left_out_and_the_rest_goes_on(kind: str, tmp_path: Path) -> None:
    body, said = FAILURES[kind]
    result = graphopt.optimize(chain(tmp_path), output=tmp_path / "o.onnx", plugins=[plugin(tmp_path, body)])
    assert result.report.verification.status == "passed"
    assert [node.op_type for node in onnx.load(tmp_path / "o.onnx").graph.node] == ["Relu", "Exp"]
    (warning,) = result.report.warnings
    assert "pass culprit failed and was left out" in warning
    assert said in warning


@pytest.mark.parametrize("kind", FAILURES)
def test_strict_makes_it_an_error(kind: str, tmp_path: Path) -> None:
    body, said = FAILURES[kind]
    with pytest.raises(PassError, match="culprit") as caught:
        graphopt.optimize(chain(tmp_path), output=tmp_path / "o.onnx", plugins=[plugin(tmp_path, body)], strict=True)
    assert said in str(caught.value)
    assert "plugin acme" in str(caught.value)
    assert names(tmp_path) == ["acme.py", "chain.onnx"]


@pytest.mark.parametrize(
    ("check", "rewrite", "said"),
    [
        ("raise KeyError('scale')", "return x", "KeyError"),
        ("sys.exit()", "return x", "SystemExit"),
        ("return 5", "return x", "None or a reason"),
        ("return None", "1 / 0", "ZeroDivisionError"),
        ("return None", "op.Exp(x); raise OSError('gone')", "gone"),
        ("return None", "return None", "returned None"),
        ("return None", "return op.Cast(x, to=7)", "from float32 to int64"),
        ("return None", "return 'x'", "it must return a value"),
    ],
)
def test_a_rule_that_fails_is_left_out(check: str, rewrite: str, said: str, tmp_path: Path) -> None:
    result = graphopt.optimize(chain(tmp_path), plugins=[rule(tmp_path, check, rewrite)])
    assert [node.op for node in result.graph.nodes] == ["Relu", "Exp"]
    assert "pass culprit failed and was left out" in result.report.warnings[0]
    assert said in result.report.warnings[0]


def test_a_layer_whose_rewrite_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, the passes started again with the very same layer, for ever."""
    source = model("g (float[3,2] x, bool[2] c) => (float[3,?] y) { y = Compress <axis = 1> (x, c) }", opset=18)
    lowered = graphopt.optimize(source, lower="always", verify="none")
    name = next(one.name for one in lowered.report.passes if one.changes and one.stage == "lower")
    run = Worklist._try

    def fails(self: Worklist, entry: Entry, *more: object) -> object:
        if entry.name == name:
            raise PassError("it fell over")
        return run(self, entry, *more)

    monkeypatch.setattr(Worklist, "_try", fails)
    report = graphopt.optimize(source, lower="always", verify="none").report
    assert f"pass {name} failed and was left out" in report.warnings[0]


def test_under_each_what_failed_is_listed_as_refused(tmp_path: Path) -> None:
    result = graphopt.optimize(chain(tmp_path), plugins=[rule(tmp_path, "return None", "1 / 0")], verify="each")
    (one,) = result.report.refused
    assert (one["pass"], one["plugin"]) == ("culprit", "acme")
    assert one["node"]
    assert "ZeroDivisionError" in one["why"]
    assert result.status == "refused"
    assert graphopt.optimize(chain(tmp_path), plugins=[rule(tmp_path, "return None", "1 / 0")]).status == "ok"


def test_other_plugins_go_on(tmp_path: Path) -> None:
    bad = plugin(tmp_path, "raise RuntimeError('no')", "bad")
    good = tmp_path / "good.py"
    good.write_text(
        "import graphopt\nclass UseAbs(graphopt.Rule):\n"
        "    def pattern(self, op, x):\n        return op.Exp(op.Relu(x))\n"
        "    def rewrite(self, op, x):\n        return op.Exp(op.Max(x, x * 0.0))\n"
        "@graphopt.hookimpl\ndef graphopt_passes():\n    return [UseAbs()]\n"
    )
    result = graphopt.optimize(chain(tmp_path), plugins=[bad, str(good)], verify="none")
    assert next(one for one in result.report.passes if one.name == "use-abs").changes == 1
    assert not any(one.name == "culprit" for one in result.report.passes)


HANGS = (
    "while True: pass",
    "time.sleep(1e6)",
    "\n    for _ in range(2):\n        try: time.sleep(1e6)\n        except Exception: pass\n    time.sleep(1e6)",
)


@pytest.mark.parametrize("body", HANGS, ids=("busy", "asleep", "deaf"))
def test_a_pass_that_hangs_is_named(body: str, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(PassError, match="culprit") as caught:
        graphopt.optimize(chain(tmp_path), plugins=[plugin(tmp_path, body)], limits=Limits(pass_seconds=2))
    assert time.monotonic() - began < 30
    assert "does not end within 2 s" in str(caught.value)
    assert "--time-limit" in str(caught.value)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_a_rule_that_hangs_is_named(tmp_path: Path) -> None:
    with pytest.raises(PassError, match=r"pass culprit of plugin acme raised TimeoutError"):
        graphopt.optimize(chain(tmp_path), plugins=[rule(tmp_path, "time.sleep(1e6)")], limits=Limits(pass_seconds=1))


@pytest.mark.parametrize("hook", ["graphopt_check", "graphopt_after_pass", "graphopt_inputs"])
@pytest.mark.parametrize(
    ("body", "said"), [("raise ValueError('no')", "ValueError: no"), ("sys.exit(4)", "SystemExit")]
)
def test_a_hook_that_fails_is_named(hook: str, body: str, said: str, tmp_path: Path) -> None:
    arguments = {"graphopt_check": "rule, nodes, target", "graphopt_after_pass": "graph, name, changes"}
    path = tmp_path / "acme.py"
    path.write_text(f"{HEAD}@graphopt.hookimpl\ndef {hook}({arguments.get(hook, 'path')}):\n    {body}\n")
    with pytest.raises(PluginError, match=f"plugin acme: {hook} raised {said}"):
        graphopt.optimize(chain(tmp_path), output=tmp_path / "o.onnx", plugins=[str(path)])
    assert names(tmp_path) == ["acme.py", "chain.onnx"]


def test_a_plugin_that_exits_while_it_is_imported_is_named(tmp_path: Path) -> None:
    (tmp_path / "acme.py").write_text("raise SystemExit(0)\n")
    with pytest.raises(PluginError, match=r"acme\.py: it raised SystemExit"):
        graphopt.optimize(chain(tmp_path), plugins=[str(tmp_path / "acme.py")])


def test_a_plugin_that_ends_the_process_leaves_the_old_output(tmp_path: Path) -> None:
    """os._exit cannot be caught: there is no message, and the exit code is the plugin's; nothing is half-written."""
    chain(tmp_path)
    (tmp_path / "o.onnx").write_bytes(b"old")
    plugin(tmp_path, "os._exit(9)")
    child = command(tmp_path, "optimize", "chain.onnx", "-o", "o.onnx", "--plugin", "acme.py")
    assert child.wait() == 9
    child.communicate()
    assert (tmp_path / "o.onnx").read_bytes() == b"old"
    assert names(tmp_path) == ["acme.py", "chain.onnx", "o.onnx"]


def test_an_observer_that_edits_does_not_pass_unseen(tmp_path: Path) -> None:
    path = tmp_path / "acme.py"
    path.write_text(
        f"{HEAD}@graphopt.hookimpl\ndef graphopt_after_pass(graph, name, changes):\n"
        "    for node in graph.nodes:\n        if node.op == 'Exp': node.op = 'Neg'\n"
    )
    with pytest.raises(graphopt.GraphoptError):
        graphopt.optimize(chain(tmp_path), output=tmp_path / "o.onnx", plugins=[str(path)])
    assert not (tmp_path / "o.onnx").exists()


def test_ctrl_c_in_a_pass(tmp_path: Path) -> None:
    chain(tmp_path)
    plugin(tmp_path, "print('here', file=sys.stderr, flush=True); time.sleep(60)")
    child = command(tmp_path, "optimize", "chain.onnx", "-o", "o.onnx", "--plugin", "acme.py", "--quiet")
    assert child.stderr is not None
    while "here" not in child.stderr.readline():
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    assert names(tmp_path) == ["acme.py", "chain.onnx"]


# -- limits -------------------------------------------------------------------------------------------------------


def test_a_model_that_needs_too_much_memory_is_no_danger(tmp_path: Path) -> None:
    """y = ReduceSum(Expand(x, n)) with n from the input: 4 GB asked of a child that may take 2."""
    hungry = model(
        "g (float[1] x, int64[1] n) => (float[1] y) { e = Expand(x, n) r = Relu(e) y = ReduceSum<keepdims=1>(r) }"
    )
    feeds = {"x": np.ones(1, np.float32), "n": np.array([1 << 30], np.int64)}
    result = graphopt.optimize(hungry, inputs=feeds, limits=Limits(memory_bytes=2 << 30))
    assert result.report.verification.status == "unverified"
    assert any("memory" in one.reason or "alloc" in one.reason for one in result.report.verification.shapes_dropped)


def test_a_model_that_runs_for_ever_is_ended(tmp_path: Path) -> None:
    endless = model(
        """g (float[1] x) => (float[1] y) <int64 n = {4611686018427387904}> {
            t = Constant<value = bool {1}>()
            y = Loop(n, t, x) <body = b (int64 i, bool c, float[1] a) => (bool d, float[1] e) {
                d = Identity(c) e = Sin(a) }> }"""
    )
    began = time.monotonic()
    result = graphopt.optimize(endless, limits=Limits(run_seconds=3))
    assert time.monotonic() - began < 40
    assert result.report.verification.status == "unverified"
    assert "took more than 3 s" in str(result.report.verification.shapes_dropped)


BOMBS = {
    "ConstantOfShape": "n = Constant<value_ints=[1000000000000]>() b = ConstantOfShape(n)",
    "Expand": "n = Constant<value_ints=[1000000,1000000]>() b = Expand(x, n)",
    "Expand of a constant": "n = Constant<value_ints=[1000000,1000000]>() o = Constant<value_float=1.0>()"
    " b = Expand(o, n)",
    "Range": "o = Constant<value_int=0>() n = Constant<value_int=1000000000000>() s = Constant<value_int=1>()"
    " k = Range(o, n, s) b = Cast<to=1>(k)",
    "Tile": "n = Constant<value_ints=[1000000000000]>() o = Constant<value_floats=[1.0]>() b = Tile(o, n)",
    "Pad": "n = Constant<value_ints=[0,1000000000000]>() o = Constant<value_floats=[1.0]>() b = Pad(o, n)",
    "OneHot": "i = Constant<value_ints=[0]>() n = Constant<value_int=1000000000000>()"
    " v = Constant<value_floats=[0.0,1.0]>() b = OneHot(i, n, v)",
    "doubling": "a0 = Constant<value_floats=[1.0]>()"
    + "".join(f" a{i} = Concat<axis=0>(a{i - 1}, a{i - 1})" for i in range(1, 45))
    + " b = Identity(a44)",
    "two that double": "a0 = Constant<value_floats=[1.0]>() b0 = Neg(a0)"
    + "".join(f" a{i} = Concat<axis=0>(a{i - 1}, b{i - 1}) b{i} = Neg(a{i})" for i in range(1, 40))
    + " b = Identity(a39)",
    "outer products": "n = Constant<value_ints=[30000,1]>() m = Constant<value_ints=[1,30000]>() p = ConstantOfShape(n)"
    " q = ConstantOfShape(m) b = MatMul(p, q)",
    "Einsum": 'n = Constant<value_ints=[3000]>() p = ConstantOfShape(n) b = Einsum<equation="i,j,k->ijk">(p, p, p)',
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_not_folded(kind: str, tmp_path: Path) -> None:
    """Terabytes asked for in few bytes: the passes take little time and memory, and the result is small."""
    source = model(f"g (float[1] x) => (float[1] y) {{ {BOMBS[kind]} r = ReduceMax<keepdims=0>(b) y = Add(x, r) }}")
    code = (
        "import sys, resource, graphopt, onnx, json\n"
        "result = graphopt.optimize('m.onnx', output='o.onnx', verify='none')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    onnx.save(source, tmp_path / "m.onnx")
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) < 1_200_000, "kilobytes"
    assert time.monotonic() - began < 60
    assert (tmp_path / "o.onnx").stat().st_size < 150 << 20
    load(tmp_path / "o.onnx")


def test_the_limits_of_the_command_line(tmp_path: Path) -> None:
    chain(tmp_path)
    for words in (("--time-limit", "0"), ("--time-limit", "nan"), ("--memory-limit", "-1")):
        child = command(tmp_path, "optimize", "chain.onnx", *words)
        _, said = child.communicate()
        assert child.returncode == 2
        assert words[0] in said
    child = command(tmp_path, "optimize", "chain.onnx", "--time-limit", "60", "--memory-limit", "4", "--json")
    out, _ = child.communicate()
    assert child.returncode == 0
    assert json.loads(out)["verification"]["status"] == "passed"
