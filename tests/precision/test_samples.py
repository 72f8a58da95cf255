"""Bad calibration data is named before any work."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.cli import main
from graphopt.config import Target
from graphopt.errors import UsageError
from graphopt.ir.load import load
from graphopt.precision.samples import Samples
from graphopt.precision.stage import Request, lower
from graphopt.testing import model

SOURCE = model(
    "g (float[N,4] x, int64[N] i) => (float[N,4] y) { f = Cast<to = 1>(i) u = Unsqueeze(f, k) y = Add(x, u) }",
    weights={"k": np.array([1])},
)
GOOD = {"x": np.ones((2, 4), np.float32), "i": np.arange(2)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": None}, "input 'x' is missing"),
        ({"z": np.ones(3)}, "no input 'z'"),
        ({"x": np.ones((2, 5), np.float32)}, "dimension 1 is 4, not 5"),
        ({"x": np.ones((2, 4))}, "is float32, not float64"),
        ({"x": np.full((2, 4), np.nan, np.float32)}, "has 8 NaN"),
        ({"x": np.full((2, 4), np.inf, np.float32)}, "infinit"),
        ({"x": np.ones((0, 4), np.float32), "i": np.arange(0)}, "is empty"),
        ({"x": np.ones((3, 4), np.float32)}, "'N' is 3 in 'x' and 2 in 'i'"),
    ],
)
def test_what_does_not_fit(change, says, tmp_path):
    given = {k: v for k, v in {**GOOD, **change}.items() if v is not None}
    with pytest.raises(UsageError, match=says):
        Samples([GOOD, given], SOURCE)
    np.savez(tmp_path / "0.npz", **GOOD)
    np.savez(tmp_path / "1.npz", **given)
    with pytest.raises(UsageError, match=says) as caught:
        Samples(tmp_path, SOURCE)
    assert "npz" in str(caught.value) or "--calib" in str(caught.value)


def test_no_sample_at_all(tmp_path):
    for source in ([], tmp_path):
        with pytest.raises(UsageError, match="no sample"):
            Samples(source, SOURCE)
    with pytest.raises(UsageError, match="no such file"):
        Samples(str(tmp_path / "missing"), SOURCE)


def test_a_function_is_called_once_a_pass(tmp_path, monkeypatch):
    text = "import numpy as np\ncalls = []\ndef data():\n    calls.append(1)\n    for n in (1, 2):\n"
    text += "        yield {'x': np.ones((n, 4), np.float32), 'i': np.arange(n)}\n"
    (tmp_path / "my_samples.py").write_text(
        text + "def broken():\n    raise OSError('disk')\n    yield\ndef wrong():\n    yield 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    samples = Samples("my_samples:data", SOURCE)
    assert len(samples) == 2
    assert [np.shape(one["x"]) for one in samples] == [(1, 4), (2, 4)]
    for name, says in (("nothing", "has no nothing"), ("broken", "raised OSError: disk"), ("wrong", "is a int")):
        with pytest.raises(UsageError, match=says):
            Samples(f"my_samples:{name}", SOURCE)


def test_it_is_said_before_the_passes_run(tmp_path, capsys):
    """The error comes before any pass: a pass that would fail is not reached."""
    onnx.save(SOURCE, tmp_path / "m.onnx")
    np.savez(tmp_path / "bad.npz", x=np.full((2, 4), np.nan, np.float32), i=np.arange(2))
    seen = []
    with pytest.raises(UsageError, match="NaN"):
        graphopt.optimize(tmp_path / "m.onnx", precision=graphopt_request(tmp_path / "bad.npz"),
                          progress=lambda what, done, total: seen.append(what))  # fmt: skip
    assert seen == ["load"]
    with pytest.raises(SystemExit) as left:
        main(["optimize", str(tmp_path / "m.onnx"), "--precision", "int8", "--calib", str(tmp_path / "bad.npz")])
    assert left.value.code == 2
    assert "has 8 NaN" in capsys.readouterr().err


def graphopt_request(path):
    from graphopt.precision.stage import Request

    return Request("int8", calib=path)


def test_a_value_that_the_model_refuses_names_its_sample():
    """The names, dtypes and shapes fit; an index beyond the table is found when the model runs."""
    text = "g (int64[N] i) => (float[N,64] y) { a = Gather(table, i) y = MatMul(a, w) }"
    graph = load(model(text, weights={"table": (5, 64), "w": (64, 64)}, opset=21))
    calib = [{"i": np.arange(3)}, {"i": np.array([7, 0, 0])}]
    with pytest.raises(UsageError, match=r"refuses sample 1.*must be within"):
        lower(graph, Request("int8", calib=calib, samples=1), Target(version="1.7.1"))


PLAIN = model("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")


def test_a_module_in_the_current_folder_is_found(tmp_path, monkeypatch):
    """An installed command does not have it on its path."""
    (tmp_path / "samples_of_mine.py").write_text(
        "import numpy as np\ndef some():\n    yield {'x': np.ones((2, 4), np.float32)}\nconstant = 5\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    assert len(Samples("samples_of_mine:some", PLAIN)) == 1
    assert len(Samples("samples_of_mine.py:some", PLAIN)) == 1
    with pytest.raises(UsageError, match="it is of type int, not a function"):
        Samples("samples_of_mine:constant", PLAIN)


def test_a_folder_of_other_files_is_told_by_what_is_in_it(tmp_path):
    np.save(tmp_path / "first.npy", np.ones(3))
    with pytest.raises(UsageError) as told:
        Samples(tmp_path, PLAIN)
    assert "first.npy" in str(told.value.hint)
    assert "numpy.savez" in str(told.value.hint)


def test_samples_of_one_value_are_noted():
    flat = {"x": np.zeros((2, 4), np.float32)}
    assert Samples([flat, flat], PLAIN).notes == ["input 'x' is 0 everywhere in all samples: are these real ones?"]
    assert not Samples([flat, {"x": np.ones((2, 4), np.float32)}], PLAIN).notes


def test_a_layout_that_is_turned_round_is_named():
    source = model("g (float[N,3,4,5] x) => (float[N,3,4,5] y) { y = Relu(x) }")
    with pytest.raises(UsageError, match="its channels come first"):
        Samples([{"x": np.ones((1, 4, 5, 3), np.float32)}], source)
    with pytest.raises(UsageError, match="add the batch dimension"):
        Samples([{"x": np.ones((3, 4, 5), np.float32)}], source)
