"""300 of ONNX's operator models that TensorRT refuses as they are, made legal, as engines on a GPU.

    python -m tests.bench.legalize_gpu --keep FILE.zip --records legalize.jsonl    here: choose and pack (no GPU)
    python legalize_gpu.py FILE.zip [--jobs 8] [--seconds 60]                      there: build, run, compare

The first half takes models that build only after graphopt (from the records of tests.bench.legalize), in turns from
each class of rewrite, rarest class first: the legal models, inputs, and the outputs that the suite expects. The second
builds each, runs it through graphopt.Engine, and compares by value: within the suite's tolerances (`right`), or, where
sums of products run in TF32 on the GPU, within 2e-3 of the largest value (`right_tf32`). It needs nothing but graphopt.
Workers are child processes: what crashes or hangs is a row of $OUT/legalize.json, written after every model.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import queue
import select
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

COUNT = 300
LARGEST_BYTES = 120_000
"""Of all arrays of a model: the archive travels with what a bare GPU machine lacks."""
TF32 = 2e-3
"""Of the largest expected value: TF32 has 11 significant bits, and a chain of sums adds up a few such errors."""
PRODUCTS = frozenset("MatMul Gemm Conv ConvTranspose Einsum Attention LSTM GRU RNN".split())
EPSILON = 1.2e-7
PLAIN = frozenset("bool float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64".split())
CLASSES = {
    "expand-functions": "functions",
    "widen-dtypes": "dtypes",
    "spell-quantized": "quantized",
    "resolve-sequences": "sequences",
}


# -- here ---------------------------------------------------------------------------------------------------------


def pack(path: Path, records: Path, count: int = COUNT) -> dict[str, int]:
    """Write the archive; models of each class."""
    import onnx

    from graphopt.numerics.randomness import random_outputs
    from graphopt.registry import Registry
    from tests.bench.legalize import compare, evaluate, feeds_of, is_good, optimize
    from tests.ir.operator_models import cases

    version = "1.6.1"
    chosen: dict[tuple[str, str], dict[str, Any]] = {}
    for line in records.read_text().splitlines():
        one = json.loads(line)
        exact = next((key for key in one["result"] if key.startswith(version)), None)
        if exact and is_good(one, exact) and not one["source"][exact].get("build") and "as_source" not in one:
            chosen[one["kind"], one["name"]] = one
    entries = Registry().select()
    found: dict[str, dict[str, Any]] = {}
    for case in cases():
        record = chosen.get((case.kind, case.name))
        if record is None or f"{case.kind}-{case.name}" in found:
            continue
        inputs, outputs = case.data()[0]
        arrays = [list(map(_array, values)) for values in (inputs, outputs)]
        model = case.model()
        feeds = feeds_of(model, arrays[0])
        bound = {name: feeds[name] for name in record["bound"]}
        fired: dict[str, int] = {}
        result = optimize(model, bound, entries, version, fired=fired)
        expected = dict(zip([port.name for port in result.graph.output], arrays[1], strict=True))
        values = [*feeds.values(), *expected.values()]
        if random_outputs(model) or any(not isinstance(v, np.ndarray) or v.dtype.kind in "OSU" for v in values):
            continue
        if sum(value.nbytes for value in values) > LARGEST_BYTES:
            continue
        if compare(case, model, arrays[1], evaluate(result, feeds)):
            continue
        types = {port.name: port.type.tensor_type.elem_type for port in result.graph.input}
        given = {
            name: value.astype(onnx.helper.tensor_dtype_to_np_dtype(types[name]))
            for name, value in feeds.items()
            if name in types
        }
        found[f"{case.kind}-{case.name}"] = {
            "classes": classes(fired, bound, model, result),
            "rules": sorted(name for name, times in fired.items() if times),
            "rtol": max(getattr(case.found, "rtol", 1e-3), 1e-3),
            "atol": max(getattr(case.found, "atol", 1e-7), 1e-7),
            "products": any(node.op_type in PRODUCTS for node in result.graph.node),
            "model": result.SerializeToString(),
            "arrays": {**{f"i:{n}": v for n, v in given.items()}, **{f"o:{n}": v for n, v in expected.items()}},
        }
    picked = stratified({name: one["classes"] for name, one in found.items()}, count)
    index = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name in sorted(picked):
            one = found[name]
            archive.writestr(f"{name}.onnx", one.pop("model"))
            held = io.BytesIO()
            np.savez(held, **{key: _stored(value) for key, value in one.pop("arrays").items()})
            archive.writestr(f"{name}.npz", held.getvalue())
            index[name] = {**one, "class": picked[name]}
        archive.writestr("index.json", json.dumps(index, indent=1))
    return dict(Counter(picked.values()))


def classes(fired: dict[str, int], bound: dict[str, Any], source: Any, result: Any) -> list[str]:
    """What made the model legal: kinds of rules, and what else was done to it."""
    names = [name for name, changes in fired.items() if changes]
    found = {CLASSES.get(name, f"decomposition: {name}") for name in names}
    if bound:
        found.add("bind")
    ports = zip(source.graph.output, result.graph.output, strict=True)
    if any(a.type.tensor_type.elem_type != b.type.tensor_type.elem_type for a, b in ports):
        found.add("dtypes")
    opset = next((one.version for one in source.opset_import if not one.domain), 99)
    if opset < 7:
        found.add("opset")
    return sorted(found) or ["folding and simplification"]


def stratified(classes: dict[str, list[str]], count: int) -> dict[str, str]:
    """Name -> the class it stands for: in turns from each class, each spread over its names; the same every time."""
    sizes = Counter(one for found in classes.values() for one in found)
    own: dict[str, list[str]] = {}
    for name in sorted(classes):
        own.setdefault(min(classes[name], key=lambda one: (sizes[one], one)), []).append(name)
    waiting = {label: [names[i] for i in _spread(len(names))] for label, names in own.items()}
    picked: dict[str, str] = {}
    while len(picked) < count and any(waiting.values()):
        for label in sorted(waiting, key=lambda one: (sizes[one], one)):
            if waiting[label] and len(picked) < count:
                picked[waiting[label].pop(0)] = label
    return picked


def _spread(size: int) -> list[int]:
    """0 to size - 1 so that every prefix is spread over the range."""
    bits = max(size - 1, 1).bit_length()
    order = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(1 << bits))
    return [i for i in order if i < size]


def _array(value: Any) -> Any:
    from onnx import TensorProto, numpy_helper

    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


def _stored(value: Any) -> Any:
    """An array that a plain .npz holds: NumPy's own dtypes, of the same value."""
    return value if value.dtype.name in PLAIN else value.astype(np.float32)


# -- there --------------------------------------------------------------------------------------------------------


def verdict(about: dict[str, Any], expected: dict[str, Any], got: dict[str, Any]) -> dict[str, Any]:
    """{'status': right, right_tf32 or wrong; 'off': the largest difference relative to the largest value}."""
    status, off = "right", 0.0
    for name, want in expected.items():
        found = np.asarray(got[name])
        if found.shape != want.shape:
            return {"status": "wrong", "why": f"{name}: shape {found.shape}, not {want.shape}"}
        if not want.size:
            continue
        with np.errstate(all="ignore"):
            x, y = want.astype(np.float64), found.astype(np.float64)
            finite = np.isfinite(x)
            largest = float(np.abs(x[finite]).max()) if finite.any() else 0.0
            floor = max(about["atol"], 4 * EPSILON * largest)
            if finite.any() and largest:
                off = max(off, float(np.nan_to_num(np.abs(x - y)[finite], nan=np.inf).max()) / largest)
            if np.allclose(y, x, rtol=about["rtol"], atol=floor, equal_nan=True):
                continue
            if about["products"] and np.allclose(y, x, rtol=TF32, atol=TF32 * largest, equal_nan=True):
                status = "right_tf32"
                continue
            most = np.abs(x - y).max()
        return {"status": "wrong", "why": f"{name}: {most:.4g} off of {largest:.4g}", "off": off}
    return {"status": status, "off": off}


def one(folder: Path, name: str, about: dict[str, Any]) -> dict[str, Any]:
    """Build, run and judge one model."""
    from graphopt import Engine, GraphoptError
    from graphopt.backends.tensorrt import TensorRTBackend
    from graphopt.config import Limits, Shapes

    with np.load(folder / f"{name}.npz") as held:
        arrays = {key: held[key] for key in held.files}
    feeds = {key[2:]: value for key, value in arrays.items() if key.startswith("i:")}
    expected = {key[2:]: value for key, value in arrays.items() if key.startswith("o:")}
    backend = TensorRTBackend("tensorrt_rtx", Limits(build_seconds=120))
    began = time.monotonic()
    try:
        network = backend.parse(folder / f"{name}.onnx")
        shapes = {
            key: tuple(int(n) for n in feeds[key].reshape(-1)) if info.is_shape else feeds[key].shape
            for key, info in network.inputs.items()
            if info.is_shape or -1 in info.dims
        }
        engine = backend.build(folder / f"{name}.onnx", folder / f"{name}.engine", Shapes(opt=shapes)).engine_path
    except GraphoptError as error:
        return {"status": "not built", "why": str(error)[:400]}
    built = time.monotonic()
    try:
        ready = Engine(engine)
        given = {key: np.asarray(feeds[key]).astype(port.dtype) for key, port in ready.inputs.items()}
        got = ready(given)
    except Exception as error:
        trace = traceback.format_exc()[-800:]
        return {"status": "cannot run", "why": f"{type(error).__name__}: {error}"[:400], "trace": trace}
    finally:
        engine.unlink(missing_ok=True)
    seconds = {"build_s": round(built - began, 2), "run_s": round(time.monotonic() - built, 2)}
    return {**verdict(about, expected, got), **seconds}


def work(folder: Path) -> None:
    """A worker: a name a line on stdin, a row a line out, on a pipe of their own: native code prints where it likes."""
    back = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    index = json.loads((folder / "index.json").read_text())
    for line in sys.stdin:
        name = line.strip()
        try:
            row = one(folder, name, index[name])
        except Exception:
            row = {"status": "failed", "why": traceback.format_exc()[-800:]}
        back.write(json.dumps(row) + "\n")


class Worker:
    """A child that does one model after another; started anew when it dies or takes too long."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.child: subprocess.Popen[str] | None = None

    def ask(self, name: str) -> dict[str, Any]:
        if self.child is None:
            words = [sys.executable, __file__, "--work", str(self.folder)]
            log = (self.folder / "workers.log").open("a")
            self.child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        try:
            self.child.stdin.write(name + "\n")
            self.child.stdin.flush()
            ready, _, _ = select.select([self.child.stdout], [], [], self.seconds)
            line = self.child.stdout.readline() if ready else ""
        except BrokenPipeError:
            ready, line = [True], ""
        if line:
            return dict(json.loads(line))
        self.child.kill()
        code = self.child.wait()
        self.child = None
        return {"status": "crash" if ready else "hang", "why": f"exit code {code}"}

    def close(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait()


def run(archive: Path, out: Path, jobs: int, seconds: float, only: str = "") -> dict[str, Any]:
    """All models of the archive; the rows by name. Rows that are in `out` already are kept."""
    rows: dict[str, Any] = json.loads(out.read_text())["rows"] if out.exists() else {}
    with tempfile.TemporaryDirectory(prefix="legalize-") as folder:
        with zipfile.ZipFile(archive) as held:
            held.extractall(folder)
        index = json.loads((Path(folder) / "index.json").read_text())
        names: queue.SimpleQueue[str] = queue.SimpleQueue()
        for name in index:
            if name not in rows and only in name:
                names.put(name)
        lock = threading.Lock()

        def turns() -> None:
            worker = Worker(Path(folder), seconds)
            try:
                while True:
                    try:
                        name = names.get_nowait()
                    except queue.Empty:
                        return
                    row = {"class": index[name]["class"], **worker.ask(name)}
                    with lock:
                        rows[name] = row
                        temporary = out.with_suffix(".part")
                        temporary.write_text(json.dumps({"summary": counts(rows), "rows": rows}, indent=1))
                        temporary.replace(out)
                        if row["status"] not in ("right", "right_tf32"):
                            print(f"{row['status']:10} {name} [{row['class']}] {row.get('why', '')[:200]}", flush=True)
            finally:
                worker.close()

        threads = [threading.Thread(target=turns) for _ in range(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return rows


def counts(rows: dict[str, Any]) -> dict[str, Any]:
    """How many of each status, in all and by class."""
    by_class: dict[str, Counter[str]] = {}
    for row in rows.values():
        by_class.setdefault(row["class"], Counter())[row["status"]] += 1
    return {
        "models": len(rows),
        "status": dict(Counter(row["status"] for row in rows.values())),
        "by_class": {label: dict(found) for label, found in sorted(by_class.items())},
        "build_s": round(sum(row.get("build_s", 0) for row in rows.values()), 1),
        "run_s": round(sum(row.get("run_s", 0) for row in rows.values()), 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, nargs="?", help="what --keep wrote")
    parser.add_argument("--keep", type=Path, help="choose models and write this archive; needs no GPU")
    parser.add_argument("--records", type=Path, default=Path("legalize.jsonl"), help="of tests.bench.legalize")
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--jobs", type=int, default=8, help="models at a time")
    parser.add_argument("--seconds", type=float, default=150, help="limit for one model")
    parser.add_argument("--only", default="", help="models whose name holds this")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.work:
        work(words.work)
        return 0
    if words.keep:
        found = pack(words.keep, words.records, words.count)
        print(json.dumps(found, indent=1), f"\n{sum(found.values())} models, {words.keep.stat().st_size >> 10} KiB")
        return 0
    if words.archive is None:
        parser.error("name the archive, or --keep one")
    rows = run(words.archive, Path(os.environ.get("OUT", ".")) / "legalize.json", words.jobs, words.seconds, words.only)
    print(json.dumps(counts(rows), indent=1))
    return 0 if all(row["status"].startswith("right") for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
