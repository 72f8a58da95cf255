"""The door: what another framework wrote becomes an engine by the same commands, whatever its importer does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.engines.store import Store
from graphopt.errors import ImporterError, ModelError, UsageError, VerificationError
from graphopt.import_words import split_shapes
from graphopt.importing.ask import Import, completed, stem_of
from graphopt.testing import model
from tests.cli.conftest import Cli, cli, files

__all__ = ["cli"]
PLUGIN = str(Path(__file__).with_name("trial.py"))
WITH = ("--plugin", PLUGIN)


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files: every test leaves it empty."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def trial(name: str = "net.trial", **about: object) -> str:
    Path(name).write_text(json.dumps(about) if name.endswith(".trial") else f"trial:{json.dumps(about)}")
    return name


def test_one_command_from_a_foreign_file_to_a_compared_model(cli: Cli, temporary: Path) -> None:
    done = cli("optimize", trial(by=3), *WITH, "--json")
    assert done.code == 0
    found = done.json["imported"]
    assert (found["importer"], found["status"], found["notes"]) == ("trial", "ok", ["multiplied by 3"])
    assert found["samples"] == 2  # also with one row more than it was exported with
    assert [one["relative_l2"] for one in found["compared"]] == [0.0]
    assert onnx.load("net.opt.onnx").graph.node[0].op_type == "Mul"
    assert files(Path()) == ["net.opt.onnx", "net.trial"]
    assert files(temporary) == []


@pytest.mark.parametrize(
    "words",
    [
        "check", "inspect", "lint-precision", "run", "convert -o n.onnx", "convert --opset 17", "inspect --from trial",
        "diff net.trial", "diff plain.onnx --from trial", "explain --pass fold-constants --node y", "bisect -o repro",
        "run --compare net.trial", "run --compare onnxruntime --shapes x=Nx3",
    ],
)  # fmt: skip
def test_commands_that_take_it(cli: Cli, words: str, temporary: Path) -> None:
    command, *rest = words.split()
    onnx.save(model("g (float[3] x) => (float[3] y) { y = Neg(x) }"), "plain.onnx")
    done = cli(command, trial(), *rest, *WITH)
    assert done.code == 0, done.err
    assert "noise" not in done.out + done.err
    assert files(temporary) == []


def test_convert_writes_what_was_asked_for(cli: Cli) -> None:
    assert cli("convert", trial(), *WITH, "--opset", "17", "--shapes", "Bx3", "-o", "n.onnx").code == 0
    made = onnx.load("n.onnx")
    assert made.opset_import[0].version == 17
    assert made.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "B"


def test_an_engine_says_how_it_is_made_anew(cli: Cli) -> None:
    words = ("build", trial(), *WITH, "--shapes", "x=1x3", "--import-option", "by=5", "--no-cache")
    done = cli(*words, "--json")
    assert done.code == 0, done.err
    noted = json.loads(Path("net.engine.json").read_text())
    assert noted["source"] == "net.trial"
    assert noted["made_by"]["imported"]["importer"] == "trial"
    assert "net.trial" in noted["made_by"]["files"]
    again = noted["made_by"]["command"]
    assert again[again.index("--import-option") + 1] == "by=5"
    assert cli(*again[1:]).code == 0


def test_a_changed_option_of_the_importer_is_another_engine(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(Path("cache").absolute()))
    trial()
    for by in ("5", "6", "5"):
        assert cli("build", "net.trial", *WITH, "--shapes", "x=1x3", "--import-option", f"by={by}").code == 0
    assert len(Store().entries()) == 2


def test_the_second_build_is_answered_without_the_framework(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as no file that decided what came out has changed, and none of it was code."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(Path("cache").absolute()))
    trial(weights="w.txt")
    Path("w.txt").write_text("3")
    words = ("build", "net.trial", *WITH, "--shapes", "x=1x3", "--json")
    first = cli(*words).json
    monkeypatch.setattr("graphopt.importing.door._converted", _never)
    again = cli(*words)
    assert again.code == 0, again.err
    assert again.json["build"]["cache"] == {**first["build"]["cache"], "hit": True}
    assert again.json["imported"] == first["imported"]
    assert json.loads(Path("net.engine.json").read_text())["made_by"]["imported"] == first["imported"]
    assert "from the engine cache" in cli(*words[:-1]).out
    for more in (("--import-option", "by=3"), ("--import-tolerance", "0.01"), ("--opset", "17")):
        assert cli(*words, *more).code == 1
    Path("w.txt").write_text("4")
    assert cli(*words).code == 1


def _never(*_: object) -> None:
    raise ModelError("it was converted")


@pytest.mark.parametrize("about", [{"code": True}, {"blind": True}])
def test_what_code_or_a_missing_framework_decided_is_asked_again(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, about: dict[str, bool]
) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(Path("cache").absolute()))
    words = ("build", trial(**about), *WITH, "--shapes", "x=1x3", "--json")
    assert cli(*words).json["build"]["cache"]["hit"] is False
    again = cli(*words).json
    assert again["build"]["cache"]["hit"] is True  # the engine, not the answer
    monkeypatch.setattr("graphopt.importing.door._converted", _never)
    assert cli(*words).code == 1


def test_a_source_is_known_by_its_content_or_by_name(cli: Cli) -> None:
    assert cli("inspect", trial("net.weird"), *WITH).code == 0
    Path("plain.bin").write_bytes(model("g (float[3] x) => (float[3] y) { y = Neg(x) }").SerializeToString())
    assert "Neg" in cli("inspect", "plain.bin", *WITH).out
    onnx.save(model("g (float[3] x) => (float[3] y) { y = Neg(x) }"), "plain.trial")
    assert "Neg" in cli("inspect", "plain.trial", *WITH, "--from", "onnx").out


ERRORS = {
    "crash": (1, "the trial importer died with signal SIGSEGV while multiplying"),
    "kill": (1, "SIGKILL"),
    "leave": (1, "its code ended the process: SystemExit(3)"),
    "missing": (1, "pip install 'graphopt[trial]'"),
    "unsupported": (1, "net.trial: layer 3: layer 'swirl' has no counterpart in ONNX"),
    "bug": (1, "importer trial failed: IndexError: list index out of range"),
}


@pytest.mark.parametrize("what", ERRORS)
def test_a_failing_importer_is_one_clear_error(cli: Cli, what: str, temporary: Path) -> None:
    done = cli("optimize", trial(do=what), *WITH)
    code, words = ERRORS[what]
    assert (done.code, words in done.err) == (code, True), done.err
    assert files(Path()) == ["net.trial"]
    assert files(temporary) == []


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("net.trial --from trail", 2, "did you mean trial?"),
        ("net.trial --import-option bye=2", 2, "did you mean by?"),
        ("net.trial --import-option by", 2, "NAME=VALUE"),
        ("net.trial --import-tolerance 0", 2, "no tolerance"),
        ("net.trial --shapes x=Nx4", 2, "input 'x' is N x 3, not Nx4"),
        ("net.trial --shapes x=Nx3,x=Mx3", 2, "two different shapes"),
        ("net.trial --shapes x=Nx3 --min-shapes x=1x3x1", 2, "dimensions"),
        ("net.trial --inputs no.npz", 2, "cannot be read"),
        ("absent.trial", 1, "absent.trial: no such file"),
        ("notes.txt", 1, "a text file"),
        ("notes.txt --shapes Nx3", 1, "no importer knows what it is"),
        ("absent.py:make --from trial", 1, "FileNotFoundError"),
        ("plain.onnx --import-option by=2", 2, "taken as ONNX by its name"),
        ("plain.onnx --shapes x=Nx3", 2, "names no shape"),
    ],
)
def test_words_that_do_not_fit(cli: Cli, words: str, code: int, says: str) -> None:
    trial()
    Path("notes.txt").write_text("a note\n")
    onnx.save(model("g (float[3] x) => (float[3] y) { y = Neg(x) }"), "plain.onnx")
    done = cli("optimize", *words.split(), *WITH)
    assert (done.code, says in done.err) == (code, True), done.err


def test_a_model_that_computes_something_else_is_refused(cli: Cli) -> None:
    done = cli("convert", trial(off=0.01), *WITH)
    assert done.code == 1
    assert "output 'y': the ONNX model does not compute what trial computes: relative L2 difference" in done.err
    assert files(Path()) == ["net.trial"]
    assert cli("convert", "net.trial", *WITH, "--verify", "none").code == 0
    assert cli("convert", "net.trial", *WITH, "--import-tolerance", "0.1").code == 0


def test_a_size_that_was_baked_in_is_found(cli: Cli) -> None:
    done = cli("convert", trial(baked=True), *WITH)
    assert done.code == 1
    assert "a size was baked in" in done.err
    assert cli("convert", "net.trial", *WITH, "--shapes", "x=2x3").code == 0


def test_what_cannot_be_compared_is_said(cli: Cli) -> None:
    done = cli("convert", trial(blind=True), *WITH)
    assert done.code == 0
    assert "warning: the imported model could not be compared" in done.err
    assert cli("convert", "net.trial", *WITH, "--strict").code == 1


def test_a_time_limit_ends_it_and_its_children(cli: Cli, temporary: Path) -> None:
    done = cli("optimize", trial(do="hang"), *WITH, "--time-limit", "1.5")
    assert done.code == 1
    assert "the trial importer was stopped after 1.5 s, the limit (--time-limit), while" in done.err
    assert files(temporary) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_nothing_behind(tmp_path: Path, number: int, code: int) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    (tmp_path / "net.trial").write_text('{"do": "hang"}')
    words = [sys.executable, "-m", "graphopt", "optimize", "net.trial", "--plugin", PLUGIN]
    child = subprocess.Popen(words, cwd=tmp_path, env={**os.environ, "TMPDIR": str(folder)}, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not list(folder.rglob("half-written.onnx")) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(number)
    said = child.communicate(timeout=30)[1].decode()
    assert child.returncode == code, said
    assert "Traceback" not in said
    assert files(folder) == []
    assert files(tmp_path) == ["net.trial", "tmp"]


def test_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    monkeypatch.chdir(tmp_path)
    trial(by=3)
    with graphopt.import_model("net.trial", shapes={"x": ("rows", 3)}, plugins=[PLUGIN]) as found:
        assert onnx.load(found.path).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "rows"
        assert found.report["status"] == "ok"
        assert files(temporary) != []
    assert files(temporary) == []
    kept = graphopt.import_model("net.trial", output="net.onnx", plugins=[PLUGIN])
    assert kept.path == Path("net.onnx")
    result = graphopt.optimize("net.trial", importer=Import(options={"by": "4"}), plugins=[PLUGIN])
    assert result.report.imported is not None
    assert result.model.graph.initializer[0].float_data or result.model.graph.initializer[0].raw_data
    for wrong, error in (({"off": 1.0}, VerificationError), ({"do": "crash"}, ImporterError)):
        trial(**wrong)
        with pytest.raises(error):
            graphopt.optimize("net.trial", plugins=[PLUGIN])
    with pytest.raises(UsageError, match="ONNX model by its name"):
        graphopt.import_model("net.onnx", plugins=[PLUGIN])
    with pytest.raises(ModelError, match="no such file"):
        graphopt.import_model("absent.trial", plugins=[PLUGIN])
    del result
    assert files(temporary) == []


def test_inputs_of_the_user_are_what_is_compared(cli: Cli) -> None:
    np.savez("in.npz", x=np.ones((4, 3), dtype=np.float32))
    done = cli("optimize", trial(), *WITH, "--inputs", "in.npz", "--json")
    assert done.json["imported"]["compared"][0]["shape"] in ([4, 3], [5, 3])


def test_an_onnx_model_asks_no_importer() -> None:
    """Not even the registry: its name says what it is."""
    source = Import("trial")
    assert completed(source, None, None, None) == source
    code = (
        "import sys; from graphopt.importing.ask import may_be_foreign as f; "
        "print(f('a.onnx', None), f('a.engine', None), f('a.pt2', None), f(b'x', None), 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True", "False", "False"]


def test_dimensions_whose_bounds_differ_are_dynamic() -> None:
    """Inputs with the same bounds on the same axis share a dimension; height and width do not."""
    shapes = graphopt.Shapes(
        min={"ids": (1, 8), "mask": (1, 8), "image": (1, 3, 32, 32)},
        opt={"ids": (2, 8), "mask": (2, 8), "image": (2, 3, 64, 64)},
        max={"ids": (4, 8), "mask": (4, 8), "image": (4, 3, 96, 96)},
    )
    found = completed(Import(), shapes, None, None)
    assert found.shapes["ids"] == found.shapes["mask"] == ("ids_0", 8)
    assert found.shapes["image"] == ("ids_0", 3, "image_2", "image_3")
    assert found.sizes == {"ids_0": 2, "image_2": 64, "image_3": 64}
    named = completed(Import(shapes={"ids": ("B", 8)}), shapes, None, None)
    assert named.shapes["ids"] == ("B", 8)
    with pytest.raises(UsageError, match="outside 1 to 4"):
        completed(Import(shapes={"ids": (9, 8)}), shapes, None, None)


@pytest.mark.parametrize(
    ("word", "named", "rest"),
    [
        ("x=Nx3", {"x": ("N", 3)}, []),
        ("x=Nx3,y=4x3", {"x": ("N", 3)}, ["y=4x3"]),
        ("a:b=batchx3xhxw", {"a:b": ("batch", 3, "h", "w")}, []),
        ("1x3x8", {"": (1, 3, 8)}, []),
        ("N", {"": ("N",)}, []),
        ("x=", {}, ["x="]),
        ("x=12", {}, ["x=12"]),
    ],
)
def test_names_of_dimensions(word: str, named: object, rest: object) -> None:
    assert split_shapes([word]) == (named, rest)


@pytest.mark.parametrize(
    ("source", "stem"),
    [("a/net.pt2", "net"), ("nets.py:make", "make"), ("torchvision.models:resnet18", "resnet18"), ("saved/", "saved")],
)
def test_what_files_are_called(source: str, stem: str) -> None:
    assert stem_of(source) == stem


def test_the_list_of_importers(cli: Cli) -> None:
    done = cli("importers", *WITH, "--json")
    found = {one["name"]: one for one in done.json["importers"]}["trial"]
    assert found["suffixes"] == [".trial"]
    assert found["installed"] is False
    said = cli("importers", *WITH).out
    assert "the factor, instead of the file's" in said
    assert "net.py:make" in said
