"""A build that was answered before is answered in no time; whatever has changed since, it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt.engines import request, sources
from graphopt.engines.store import Store
from graphopt.lookup import Lookup, recall
from graphopt.testing import model

pytest.importorskip("tensorrt_rtx")
WORDS = ["build", "m.onnx", "--shapes", "x=1x3x8x8", "--verify", "none", "--json"]
HERE = os.uname()
SLOW = ("typing", "dataclasses", "importlib.metadata", "concurrent.futures", "tempfile", "shutil", "tomllib", "typer",
        "rich", "pydantic", "pluggy", "numpy", "onnx", "onnx_graphsurgeon", "networkx", "tensorrt_rtx")  # fmt: skip


def network(**attributes: int) -> onnx.ModelProto:
    proto = model(
        "g (float[N,3,8,8] x) => (float[N,4,6,6] y) { c = Conv(x, w) y = Relu(c) }",
        weights={"w": np.arange(108, dtype=np.float32).reshape(4, 3, 3, 3)},
    )
    for name, value in attributes.items():
        proto.graph.node[0].attribute.append(onnx.helper.make_attribute(name, value))
    return proto


PLUGIN = {
    "their_plugin/__init__.py": "",
    "their_plugin/rules.py": "import graphopt\nfrom their_helper import NAME\n@graphopt.hookimpl\n"
    "def graphopt_passes(): return []\n",
    "their_helper/__init__.py": "NAME = 'one'\n",
    "installed/their_plugin-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: their-plugin\nVersion: 1.0\n",
    "installed/their_plugin-1.0.dist-info/entry_points.txt": "[graphopt]\ntheirs = their_plugin.rules\n",
}


def write(files: dict[str, str]) -> None:
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


def graphopt(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "graphopt", *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stderr[-2000:]
    return done


def loaded(done: subprocess.CompletedProcess[str]) -> set[str]:
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which WORDS were typed once; its model has external data, its project a file and a plugin."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("GRAPHOPT_CACHE", str(folder / "cache"))
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (folder, folder / "installed"))))
        patch.syspath_prepend(str(folder / "installed"))
        patch.syspath_prepend(str(folder))
        write({**PLUGIN, "graphopt.toml": "[build]\noptimization-level = 1\n"})
        onnx.save(network(), "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
        assert not json.loads(graphopt(*WORDS).stdout)["build"]["cache"]["hit"]
        yield folder


def again(*words: str) -> bool:
    """Whether a new process would find the answer."""
    sources.forget()
    request.gpu.cache_clear()
    return recall(list(words or WORDS))


def asked_again() -> bool:
    """Whether the request is found by who has parsed the command line."""
    sources.forget()
    found = [_body(path) for path in (Store().root / "requests").iterdir()]
    call = next(one["call"] for one in found if "call" in one and one["call"]["model"] == "m.onnx")
    return Lookup(call["model"], Path(call["engine"]), call["words"], call["command"], Store()).answered()


def _body(path: Path) -> dict:
    return json.loads(path.read_text().partition("\n")[2])


def test_a_hit_loads_neither_the_command_line_nor_what_is_slow_in_the_standard_library(first: Path) -> None:
    made = Path("m.engine").read_bytes()
    Path("m.engine").unlink()
    done = graphopt(*WORDS)
    told = json.loads(done.stdout)
    assert told["build"]["cache"]["hit"]
    assert Path("m.engine").read_bytes() == made
    assert not loaded(done) & set(SLOW) - {"shutil"}  # which copies the engine
    done = graphopt(*WORDS)  # the engine is there
    assert not loaded(done) & set(SLOW)
    made_by = json.loads(Path("m.engine.json").read_text())["made_by"]
    assert set(made_by["files"]) == {"m.onnx"}
    assert made_by["command"][:3] == ["graphopt", "build", "m.onnx"]


def test_a_hit_says_the_same_whether_its_words_were_parsed_or_not(first: Path) -> None:
    def told(*words: str) -> dict:
        found = json.loads(graphopt(*words).stdout)
        return {name: value for name, value in found.items() if name != "seconds"}

    assert told(*WORDS) == told("--config", "graphopt.toml", *WORDS)
    short = [one for one in WORDS if one != "--json"]
    lines = [graphopt(*short).stdout.splitlines() for _ in range(2)]
    assert lines[0][0] == lines[1][0] == "m.onnx: 2 nodes, now 2; unchecked"
    assert lines[0][1].rpartition(";")[0] == lines[1][1].rpartition(";")[0]
    assert graphopt(*short, "--quiet").stdout == graphopt(*short, "--quiet").stdout == ""


def changed(path: str, change: Callable[[bytes], bytes]) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: Path(path).write_bytes(change(Path(path).read_bytes())) and None


def flipped(raw: bytes) -> bytes:
    return raw[:77] + bytes([raw[77] ^ 1]) + raw[78:]


def attribute(raw: bytes) -> bytes:
    proto = onnx.load_model_from_string(raw)
    proto.graph.node[0].attribute.append(onnx.helper.make_attribute("group", 1))
    return proto.SerializeToString()


def edge(raw: bytes) -> bytes:
    proto = onnx.load_model_from_string(raw)
    proto.graph.node[1].input[0] = "x"
    return proto.SerializeToString()


def weight_of_a_model_in_one_file(patch: pytest.MonkeyPatch) -> None:
    proto = network()
    [one] = proto.graph.initializer
    one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one) + np.float32(1e-5), one.name))
    onnx.save(proto, "m.onnx")


CHANGES = {
    "a bit of a weight": changed("m.data", flipped),
    "a weight": weight_of_a_model_in_one_file,
    "an attribute": changed("m.onnx", attribute),
    "an edge": changed("m.onnx", edge),
    "no data": lambda patch: Path("m.data").unlink(),
    "a plugin's source": changed("their_plugin/rules.py", lambda raw: raw + b"# other\n"),
    "what a plugin imports": changed("their_helper/__init__.py", lambda raw: raw.replace(b"one", b"two")),
    "another plugin": lambda patch: write(
        {"installed/more-1.0.dist-info/entry_points.txt": "[graphopt]\nmore = their_helper\n"}
    ),
    "a plugin's version": lambda patch: os.rename(
        "installed/their_plugin-1.0.dist-info", "installed/their_plugin-1.1.dist-info"
    ),
    "TensorRT's version": lambda patch: os.mkdir("installed/tensorrt_rtx-9.9.dist-info"),
    "TensorRT's libraries": lambda patch: patch.setenv("LD_LIBRARY_PATH", "/opt/tensorrt/lib"),
    "what TensorRT obeys": lambda patch: patch.setenv("NVIDIA_TF32_OVERRIDE", "0"),
    "the processor": lambda patch: patch.setattr(os, "uname", lambda: type(HERE)((*HERE[:4], "another"))),
    "a measurement": lambda patch: write({"cache/measured/A-GPU.json": "{}"}),
    "a plugin that may change every build": changed(
        "their_plugin/rules.py", lambda raw: raw + b"@graphopt.hookimpl\ndef graphopt_builder(network, config): pass\n"
    ),
    "a damaged engine in the cache": lambda patch: [
        one.write_bytes(flipped(one.read_bytes())) for one in Path("cache").glob("engines/entries/*/engine")
    ]
    and Path("m.engine").unlink(),
    "a damaged answer": lambda patch: [
        one.write_bytes(one.read_bytes()[:-9]) for one in Path("cache").glob("engines/requests/*")
    ]
    and None,
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_has_changed_is_no_hit(what: str, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                        capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """Neither for the line as it was typed, nor for who has parsed it; and it is a hit again once it is undone."""
    assert again()
    subprocess.run(["cp", "-a", f"{first}/.", str(tmp_path)], check=True)
    try:
        with monkeypatch.context() as patch:
            CHANGES[what](patch)
            assert not again()
            if what != "a damaged answer":
                assert not asked_again()
    finally:
        subprocess.run(["rm", "-rf", "their_plugin", "their_helper", "installed", "cache"], check=True)
        subprocess.run(["cp", "-a", f"{tmp_path}/.", str(first)], check=True)
    capsys.readouterr()
    assert again()
    assert json.loads(capsys.readouterr().out)["build"]["cache"]["hit"]


@pytest.mark.parametrize(
    "text", ["[build]\noptimization-level = 2\n", "[build]\nshapes = 'x=2x3x8x8'\n", "optimization-level = 1\n", None]
)
def test_a_changed_project_is_no_hit(first: Path, text: str | None) -> None:
    path = Path("graphopt.toml")
    before = path.read_text()
    try:
        path.write_text(text) if text is not None else path.unlink()
        assert not again()
        path.write_text(before)
        Path("here").mkdir(exist_ok=True)
        assert again()
    finally:
        path.write_text(before)


@pytest.mark.parametrize(
    "words",
    [
        [*WORDS, "--builderOptimizationLevel", "2"],
        [*WORDS, "--precision", "fp16"],
        [*WORDS, "--shapes", "x=2x3x8x8"],
        [*WORDS, "--report", "r.json"],
        [*WORDS, "--save-onnx", "s.onnx"],
        [*WORDS, "--no-cache"],
        [*WORDS, "--plugin", "their_plugin.rules"],
        ["build", "other.onnx", *WORDS[2:]],
    ],
)
def test_another_option_is_no_hit(first: Path, words: list[str]) -> None:
    assert again()
    assert not again(*words)


def test_another_folder_or_environment_is_another_line(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words may mean something else there."""
    monkeypatch.setenv("GRAPHOPT_PLUGINS", "their_plugin.rules")
    assert not again()
    monkeypatch.delenv("GRAPHOPT_PLUGINS")
    Path("inner").mkdir()
    monkeypatch.chdir("inner")
    os.link(first / "m.onnx", "m.onnx")
    os.link(first / "m.data", "m.data")
    assert not again()


STUB = """
#include <stdlib.h>
#include <string.h>
int cuInit(unsigned f) { return 0; }
int cuDeviceGet(int *d, int n) { *d = 0; return 0; }
int cuDeviceGetName(char *name, int n, int d) { strncpy(name, getenv("A_GPU"), n); return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = atoi(getenv("SOME_SM")); return a != 16; }
"""


def test_another_gpu_is_another_key_where_it_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a driver that names the GPU that the test wants."""
    (tmp_path / "stub.c").write_text(STUB)
    library = tmp_path / "libcuda.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "stub.c")], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    code = "import sys; from graphopt.engines.request import request_key as key\n"
    code += "print(key(dict(zip(('backend', 'precision'), sys.argv[1:])), {}))"

    def key(backend: str, precision: str, name: str = "H100", count: str = "132") -> str:
        environment = {**os.environ, "A_GPU": name, "SOME_SM": count}
        words = [sys.executable, "-c", code, backend, precision]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout

    for backend, precision, decides in (
        ("tensorrt", "tf32", True), ("tensorrt_rtx", "auto", True), ("tensorrt_rtx", "fp16", False),
    ):  # fmt: skip
        one = key(backend, precision)
        assert key(backend, precision) == one
        assert (key(backend, precision, name="A100") != one) == decides
        assert (key(backend, precision, count="114") != one) == decides


def test_a_model_under_another_name_is_found_by_its_bytes(first: Path) -> None:
    Path("moved").mkdir(exist_ok=True)
    for name, new in (("m.onnx", "moved/n.onnx"), ("m.data", "moved/m.data")):
        Path(new).write_bytes(Path(name).read_bytes())
    words = ["build", "moved/n.onnx", *WORDS[2:]]
    assert not again(*words)  # the line was never typed
    told = json.loads(graphopt(*words).stdout)["build"]
    assert told["cache"]["hit"]
    assert told["engine"] == "n.engine"
    made = json.loads(Path("n.engine.json").read_text())
    assert made["source"] == "moved/n.onnx"
    assert set(made["made_by"]["files"]) == {"moved/n.onnx"}
    assert again(*words)


def test_a_file_of_layer_times_is_part_of_the_request(first: Path) -> None:
    """`auto` goes by it."""
    keys = []
    for text in ("{}", "[]"):
        Path("times.json").write_text(text)
        job = Lookup("m.onnx", Path("m.engine"), {"precision": "auto", "layer_times": "times.json"}, [], Store())
        job.answered()
        keys.append(job.key)
    assert keys[0] != keys[1]
    assert all(keys)


@pytest.mark.parametrize("option", ["--report r.json", "--save-onnx s.onnx", "--precision fp16 --save-plan p.json"])
def test_what_is_asked_for_beside_the_engine_is_written_each_time(first: Path, option: str) -> None:
    *_, name = option.split()
    words = [*WORDS, "-o", "other.engine", *option.split()]
    for _ in range(2):
        assert not again(*words)
        told = json.loads(graphopt(*words).stdout)
        Path(name).unlink()
    assert told["build"]["cache"]["hit"]  # of the engine


WRONG = """
import graphopt
class AbsIsRelu(graphopt.Rule):
    "Relu(x) = Abs(x), which is wrong."
    def pattern(self, op, x): return op.Relu(x)
    def rewrite(self, op, x): return op.Abs(x)
@graphopt.hookimpl
def graphopt_passes(): return [AbsIsRelu()]
"""


def test_what_broke_the_numbers_is_said_each_time(first: Path) -> None:
    Path("wrong.py").write_text(WRONG)
    words = ["build", "m.onnx", "--shapes", "x=1x3x8x8", "--verify", "each", "--plugin", "wrong.py", "-o", "w.engine"]
    told = [graphopt(*words) for _ in range(2)]
    for one in told:
        assert "warning: 1 change broke the numbers and was taken back" in one.stderr


def test_a_file_that_changes_while_it_is_built_is_not_kept(first: Path) -> None:
    """What was looked at before the build may not be what was built."""
    text = "import graphopt, pathlib\n@graphopt.hookimpl\ndef graphopt_after_pass(graph, name, changes, target=None):\n"
    write({"late.py": text + "    pathlib.Path('late.onnx').write_bytes(pathlib.Path('later.onnx').read_bytes())\n"})
    onnx.save(network(), "late.onnx")
    onnx.save(network(group=1), "later.onnx")
    words = ["build", "late.onnx", *WORDS[2:], "--plugin", "late.py"]
    before = Path("late.onnx").read_bytes()
    assert not json.loads(graphopt(*words).stdout)["build"]["cache"]["hit"]
    assert Path("late.onnx").read_bytes() != before
    Path("late.onnx").write_bytes(before)
    answers = [_body(path) for path in (Store().root / "requests").iterdir()]
    assert not any("late.onnx" in str(one.get("call")) for one in answers)
    write({"late.py": text + "    pass\n"})
    assert json.loads(graphopt(*words).stdout)["build"]["cache"]["hit"]  # the engine, by what it is made of
