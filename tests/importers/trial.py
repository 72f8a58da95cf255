"""A framework of one operation, y = x * by, whose importer misbehaves as its source file says. Given with --plugin."""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import onnx

import graphopt
from graphopt.errors import ModelError, UsageError
from graphopt.importer import Imported, Importer
from graphopt.testing import model

_N = "g (float[N,3] x) => (float[N,3] y) { y = Mul(x, w) }"


class Trial(Importer):
    name = "trial"
    suffixes = (".trial",)
    extra = "graphopt[trial]"
    options = {"by": "the factor, instead of the file's"}

    def accepts(self, source):
        path = Path(source)
        return path.is_file() and path.read_bytes()[:6] == b"trial:"

    def convert(self, request):
        about = json.loads(Path(request.source).read_text().removeprefix("trial:"))
        request.progress("multiplying", 1, 2)
        getattr(self, about.get("do", "nothing"))(request)
        files = [Path(request.source)]
        if "weights" in about:
            files.append(files[0].with_name(about["weights"]))
            about["by"] = float(files[1].read_text())
        by = float(request.options.get("by", about.get("by", 2.0)))
        shape = request.shapes.get("x", request.shapes.get("", ("N", 3)))
        if len(shape) != 2 or shape[1] != 3:
            raise UsageError(f"input 'x' is N x 3, not {'x'.join(map(str, shape))}", where=request.source)
        rows = shape[0] if isinstance(shape[0], int) else request.sizes.get(shape[0], 2)
        weights = np.full((rows, 1) if about.get("baked") else (), by, dtype=np.float32)
        made = model(_N.replace("[N,3] x", f"[{shape[0]},3] x").replace("[N,3] y", f"[{shape[0]},3] y"),
                     weights={"w": weights}, opset=request.opset or 18)  # fmt: skip
        path = request.folder / "model.onnx"
        onnx.save(made, path)
        example = request.inputs or {"x": np.linspace(-1, 1, rows * 3, dtype=np.float32).reshape(rows, 3)}
        reference = None if about.get("blind") else lambda feeds: [feeds["x"] * (by + about.get("off", 0.0))]
        known = None if about.get("code") else files
        return Imported(path, reference, example, notes=[f"multiplied by {by:g}"], files=known)

    def nothing(self, request):
        sys.stdout.write("noise on standard output\n")
        sys.stderr.write("noise on standard error\n")

    def crash(self, request):
        ctypes.string_at(0)

    def kill(self, request):
        os.kill(os.getpid(), signal.SIGKILL)

    def hang(self, request):
        (request.folder / "half-written.onnx").write_bytes(b"x" * 4096)
        if os.fork() == 0:
            time.sleep(600)
        time.sleep(600)

    def leave(self, request):
        sys.exit(3)

    def missing(self, request):
        import no_such_framework  # noqa: F401

    def unsupported(self, request):
        raise ModelError("layer 'swirl' has no counterpart in ONNX", where=f"{request.source}: layer 3")

    def bug(self, request):
        raise IndexError("list index out of range")


@graphopt.hookimpl
def graphopt_importers():
    return [Trial()]
