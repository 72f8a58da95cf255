"""The package's face: lazy, and honest about what is installed."""

import json
import pickle
import subprocess
import sys

import pytest

from graphopt.backends import BuildOptions, ParseError, ParserError, get, installed
from graphopt.backends.protocol import Backend
from graphopt.config import BACKENDS, Limits
from graphopt.errors import UsageError

HEAVY = ("tensorrt", "tensorrt_rtx", "onnxruntime", "onnx", "numpy", "cupy", "torch")


def test_import_loads_nothing_heavy():
    def loaded(package: str) -> set[str]:
        code = f"import {package}, json, sys; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
        return set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))

    assert loaded("graphopt.backends") <= loaded("graphopt")


def test_native_modules_stay_out_of_this_process(rtx, convolution):
    code = "import sys; from graphopt.backends import get; get('tensorrt_rtx').parse(sys.argv[1]); "
    code += "assert 'tensorrt_rtx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(convolution)], check=True)


@pytest.mark.parametrize("name", BACKENDS)
def test_every_configured_backend_exists(name):
    backend: Backend = get(name, Limits(build_seconds=5))
    assert backend.name == name
    assert backend.available() is None or "install" in (backend.available() or "")


def test_unknown_backend():
    with pytest.raises(UsageError, match="choose one of: tensorrt_rtx, tensorrt, onnxruntime"):
        get("openvino")


def test_installed_names_versions_and_reasons(rtx):
    found = installed()
    assert list(found) == list(BACKENDS)
    assert found["tensorrt_rtx"] == rtx.version()
    assert found["tensorrt_rtx"][0].isdigit()


def test_parse_error_survives_pickling():
    error = ParseError("no", where="m.onnx", hint="h", errors=[ParserError("n", "Op", "why", 3, "out")])
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.errors) == (ParseError, str(error), error.errors)


@pytest.mark.parametrize("options", [{"optimization_level": 9}, {"memory_pools": {"workspace": -1}}])
def test_impossible_options(options):
    with pytest.raises(UsageError):
        BuildOptions(**options)
