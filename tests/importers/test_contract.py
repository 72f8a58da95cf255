"""What an importer may leave to graphopt: inputs, the file, the order of outputs, and names of code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.conftest import Cli, cli

__all__ = ["cli"]
PLUGIN = """
import graphopt
from graphopt.importer import Imported, Importer
from graphopt.testing import model

class Tensor:
    def __init__(self, array): self.array = array
    def detach(self): return self
    def cpu(self): return self
    def numpy(self): return self.array

class Least(Importer):
    name, extra, suffixes = "least", "onnx", (".least",)

    def convert(self, request):
        by = request.named()
        made = model(
            "g (float[N,3] x, int64[1] k) => (float[N,3] y, float[N,3] z) {"
            " y = Mul(x, w) c = Cast<to=1>(k) z = Add(x, c) }", weights={"w": by}
        )
        def reference(feeds):
            assert list(feeds) == ["x", "k"]
            return {"y": Tensor(feeds["x"] * by), "rest": [(feeds["x"] + feeds["k"].astype("float32"),), None]}
        return Imported(made, reference)

@graphopt.hookimpl
def graphopt_importers():
    return [Least()]
"""
CODE = "import numpy as np\nclass of:\n    by = np.float32(3)\n"


@pytest.fixture
def least(cli: Cli) -> Cli:
    Path("least.py").write_text(PLUGIN)
    Path("net.py").write_text(CODE)
    return cli


def words(*more: str, source: str = "net.py:of.by") -> tuple[str, ...]:
    return ("convert", source, "--from", "least", "--plugin", "least.py", *more)


def test_name_extra_and_convert_are_enough(least: Cli) -> None:
    done = least(*words("--json"))
    assert done.code == 0, done.err
    found = done.json["imported"]
    assert (found["status"], found["samples"]) == ("ok", 2)
    assert [one["relative_l2"] for one in found["compared"]] == [0.0, 0.0]
    assert [one.name for one in onnx.load("by.onnx").graph.output] == ["y", "z"]


def test_inputs_of_the_user_come_in_the_order_of_the_model(least: Cli) -> None:
    np.savez("in.npz", k=np.array([7]), x=np.ones((5, 3), dtype=np.float32))
    done = least(*words("--inputs", "in.npz", "--json"))
    assert done.json["imported"]["compared"][0]["shape"] in ([5, 3], [6, 3])


def test_an_output_without_elements_is_said(least: Cli) -> None:
    """Detections, say, of noise: that they agree is no evidence."""
    text = "g (float[3] x) => (int64[1,K] y, float[3] z) { b = Less(x, l) y = NonZero(b) z = Neg(x) }"
    body = f"""        made = model({text!r}, weights={{'l': np.float32(-99)}})
        return Imported(made, lambda feeds: [np.argwhere(feeds['x'] < -99).T, -feeds['x']])
"""
    head, tail = PLUGIN.split("        by = request.named()")
    Path("least.py").write_text(f"import numpy as np{head}{body}{tail[tail.index('@graphopt.hookimpl') :]}")
    found = least(*words("--json")).json["imported"]
    assert (found["status"], len(found["notes"])) == ("ok", 1)
    assert found["notes"][0].startswith("output y is empty: nothing of it is compared")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--shapes", "x=2x4"), "--shapes x is 2x4"),
        (("--shapes", "x=2x3x1"), "it takes x float32[N,3]"),
        (("--shapes", "xs=2x3"), "no input is named 'xs'"),
        (("--shapes", "2x3"), "no input is named ''"),
    ],
)
def test_shapes_that_do_not_fit(least: Cli, more: tuple[str, ...], says: str) -> None:
    done = least(*words(*more))
    assert (done.code, says in done.err) == (2, True), done.err


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        ("net.py", 2, "say which function or class of it\n  net.py:NAME; it has: of"),
        ("net.py:off", 2, "net.py has no 'off'\n  did you mean of?"),
        ("absent.py:make", 1, "no such file: absent.py"),
        ("no_such_package.nets:make", 1, "there is no module no_such_package.nets"),
        ("broken.py:make", 1, "its code cannot be imported: ZeroDivisionError"),
        ("net.least", 2, "it names no code"),
    ],
)
def test_code_that_is_not_there(least: Cli, source: str, code: int, says: str) -> None:
    Path("broken.py").write_text("1 / 0\n")
    Path("net.least").write_text("")
    done = least(*words(source=source))
    assert (done.code, says in done.err) == (code, True), done.err
