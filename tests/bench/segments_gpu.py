"""Segments on a GPU: two custom layers as kernels between engines, against the engine that computes their bodies.

    python tests/bench/segments_gpu.py             a decoder block with FusedRotaryInterleaved and FusedAddRMSNorm, in
                                                   float16 and float32, small and large; the cost of a border; batches
    python tests/bench/segments_gpu.py border      only one part: decoder, border, auto, batches

JSON goes to $OUT/segments.json after every part; a part that fails is written down and the rest goes on. Times: medians
of CUDA events around single launches (CUDA graphs), inputs on the GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import onnx

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import graphopt  # noqa: E402
from graphopt.backends.protocol import BuildOptions  # noqa: E402
from graphopt.config import Shapes  # noqa: E402
from graphopt.runtime.timing import on_device  # noqa: E402
from tests.layers import third_party  # noqa: E402
from tests.runtime.networks import WORDS, decoder, tables  # noqa: E402
from tests.runtime.parts import once  # noqa: E402

OUT = Path(os.environ.get("OUT", "."))
RESULTS: dict = {}


def say(*words):
    print(*words, flush=True)


def keep(name, value):
    RESULTS[name] = value
    (OUT / "segments.json").write_text(json.dumps(RESULTS, indent=1))


def attempt(name, work, *given):
    try:
        keep(name, work(*given))
    except Exception:
        keep(name, {"failed": traceback.format_exc()[-1500:]})
        say(f"{name}: failed\n{traceback.format_exc()[-1500:]}")


def engines(source, shapes, folder, plugins=()):
    """name -> (engine, optimized model); what cannot be built is its error."""
    found = {}
    for name, lower, segments in (
        ("raw", "never", "never"),
        ("bodies", "always", "never"),
        ("segments", "always", "always"),
    ):
        path = folder / f"{name}.engine"
        try:
            result = graphopt.optimize(
                source, lower=lower, plugins=plugins, engine=path, shapes=shapes, verify="none",
                build_options=BuildOptions(segments=segments),
            )  # fmt: skip
            found[name] = graphopt.Engine(path, plugins=plugins), result.model
        except Exception as error:
            found[name] = str(error)[:300]
    return found


def difference(got, want):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def compared(source, shapes, feeds, plugins=(), seconds=0.2):
    """Times in one process, each engine measured twice in turns, the better of the two; and errors."""
    import cupy

    folder = Path(tempfile.mkdtemp())
    found, rows = engines(source, shapes, folder, plugins), {}
    model = next((one[1] for one in reversed(found.values()) if not isinstance(one, str)), None)
    arrays = {name: cupy.asarray(value) for name, value in feeds.items()}
    calls = {}
    for name, one in found.items():
        if isinstance(one, str):
            rows[name] = {"failed": one}
            continue
        engine, _ = one
        calls[name] = engine, engine.bind(arrays)
        got = engine(feeds)
        rows[name] = {"bytes": engine.device_bytes}
        if model is not None and next(iter(feeds.values())).size < 5e6:
            want = once(model, feeds)
            rows[name]["relative_l2"] = max(difference(got[key], want[key]) for key in want)
    for _ in range(2):
        for name, (engine, call) in calls.items():
            took = on_device(call, engine.stream, seconds=seconds).to_json()
            if "ms" not in rows[name] or took["median"] < rows[name]["ms"]["median"]:
                rows[name]["ms"] = took
    for name, (_, call) in calls.items():
        rows[name]["overhead_us"] = overhead(call)
    steps = getattr(calls["segments"][1]._bound, "steps", ()) if "segments" in calls else ()
    if steps:
        rows["segments"]["captured"] = calls["segments"][1]._graph is not None
        rows["segments"]["parts_ms"] = parts(calls["segments"][1]._bound)
    for name, row in rows.items():
        say(f"  {name:10} {row.get('ms', {}).get('median')} ms, difference {row.get('relative_l2')}, "
            f"overhead {row.get('overhead_us')} us {row.get('parts_ms', '')} {row.get('failed', '')}")  # fmt: skip
    return rows


def overhead(call):
    import cupy

    for _ in range(200):
        call()
    call.stream.synchronize()
    found = []
    for _ in range(5):
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        start = time.perf_counter()
        begin.record(call.stream)
        for _ in range(1000):
            call()
        end.record(call.stream)
        call.stream.synchronize()
        found.append((time.perf_counter() - start) * 1e3 - cupy.cuda.get_elapsed_time(begin, end))
    return round(sorted(found)[2], 3)


def parts(bound):
    """Milliseconds of each part by itself, queued one by one: the sum is more than that of the graph."""
    from graphopt.runtime.bound import Context

    addresses, found = bound._addresses(bound.own), []
    for at, step in enumerate(bound.steps):
        tactic = f" (tactic {step.work.tactic})" if not isinstance(step.work, Context) else ""
        name = "engine" if isinstance(step.work, Context) else step.work.entry.layer + tactic
        found.append((name, round(bound._time(at, addresses), 5)))
    return found


def decoders():
    found = {}
    for rows, length, heads, size, dtype in (
        (4, 64, 4, 32, "float16"), (8, 512, 16, 128, "float16"), (8, 512, 16, 128, "float"),
        (8, 2048, 32, 128, "float16"),
    ):  # fmt: skip
        name = f"{rows}x{length}x{heads}x{size} {dtype}"
        say(f"decoder {name}")
        rng = np.random.default_rng(0)
        x = rng.standard_normal((rows, length, heads * size)).astype(WORDS[dtype])
        feeds = {"x": x, **tables(rows, length, size // 2, dtype)}
        shapes = Shapes(opt={key: value.shape for key, value in feeds.items()})
        try:
            found[name] = compared(decoder(length, heads, size, dtype), shapes, feeds)
        except Exception:
            found[name] = {"failed": traceback.format_exc()[-1500:]}
            say(found[name]["failed"])
    return found


def border():
    """What ending and beginning an engine costs: Relu -> norm -> Relu, at sizes where all three are short."""
    from tests.layers.models import norms

    found = {}
    for rows in (8, 512, 4096):
        say(f"border, {rows} rows of 64")
        x = np.random.default_rng(0).standard_normal((2, rows, 64)).astype(np.float32)
        found[rows] = compared(norms(), Shapes(opt={"x": x.shape}), {"x": x}, [third_party])
    return found


def auto():
    """bench-layer, then optimize with nothing said: which calls become kernels, and is that faster?"""
    folder = Path(tempfile.mkdtemp())
    os.environ["GRAPHOPT_CACHE"] = str(folder / "cache")
    onnx.save(decoder(512, 16, 128), folder / "m.onnx")

    def command(*words):
        done = subprocess.run(
            [sys.executable, "-m", "graphopt", *map(str, words), "--json"], capture_output=True, text=True, check=False
        )
        if not done.stdout:
            raise RuntimeError(done.stderr[-800:])
        return json.loads(done.stdout)

    rotary = "x=8x16x512x128,cos=8x512x64,sin=8x512x64"
    norm = "x=8x512x2048,residual=8x512x2048,weight=2048"
    measured = [
        command("bench-layer", f"graphopt_layers.{layer}", "--shapes", shapes, "--dtype", "float16")["measurements"]
        for layer, shapes in (("rotary:FusedRotaryInterleaved", rotary), ("norms:FusedAddRMSNorm", norm))
    ]
    shapes = "x=8x512x2048,cos=8x512x64,sin=8x512x64"
    words = [word for one in shapes.split(",") for word in ("--shapes", one)]
    chosen = command("optimize", folder / "m.onnx", "--engine", folder / "m.engine", *words, "--verify", "none")
    kinds = [one["name"] for one in chosen["build"]["segments"]]
    say(f"auto: {measured}\n  chosen: {kinds}")
    ran = command("bench", folder / "m.engine", "--seconds", "0.5")
    say(f"  {ran['rows']}")
    return {"measured": measured, "segments": kinds, "bench": ran["rows"]}


def batches():
    """Requests of 1 to 8 rows, one by one and through a Batcher: rows per second."""
    from graphopt.runtime.batching import Batcher

    folder = Path(tempfile.mkdtemp())
    length, heads, size = 128, 8, 64
    source, found = decoder(length, heads, size), {}
    feeds = {"x": (length, heads * size), "cos": (length, size // 2), "sin": (length, size // 2)}
    shapes = Shapes(*({key: (rows, *dims) for key, dims in feeds.items()} for rows in (1, 32, 64)))
    graphopt.optimize(source, lower="always", engine=folder / "m.engine", shapes=shapes, verify="none")
    engine = graphopt.Engine(folder / "m.engine")
    rng = np.random.default_rng(0)
    requests = []
    for number in range(400):
        rows = 1 + number % 8
        x = rng.standard_normal((rows, length, heads * size)).astype(np.float16)
        requests.append({"x": x, **tables(rows, length, size // 2)})
    total = sum(len(one["x"]) for one in requests)
    for one in requests[:8]:
        engine(one)
    start = time.perf_counter()
    alone = [engine(one)["y"] for one in requests]
    found["one by one, rows per second"] = round(total / (time.perf_counter() - start))
    for workers in (1, 2):
        with Batcher(engine, workers=workers) as batcher:
            list(batcher.map(requests[:100]))
            start = time.perf_counter()
            merged = [one["y"] for one in batcher.map(requests)]
            found[f"{workers} workers, rows per second"] = round(total / (time.perf_counter() - start))
            found[f"{workers} workers, rows per batch"] = round(batcher.statistics.rows_per_batch, 1)
        found["largest difference"] = max(difference(a, b) for a, b in zip(merged, alone, strict=True))
    say(found)
    return found


def main(words):
    for name, work in (("auto", auto), ("batches", batches), ("border", border), ("decoder", decoders)):
        if not words or name in words:
            attempt(name, work)


if __name__ == "__main__":
    main(sys.argv[1:])
