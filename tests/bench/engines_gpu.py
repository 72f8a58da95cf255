"""Engines on a GPU: raw against optimized, profiles led back to source nodes, and what the runner itself costs.

    python tests/bench/engines_gpu.py                     resnet50, vit_b, swin_t and bert6 at batch 8
    python tests/bench/engines_gpu.py overhead resnet50   only the runner's own cost

Every network is one command each from ONNX: `graphopt bench`, `graphopt profile`. JSON goes to $OUT/engines.json after
every part; a part that fails is written down and the rest goes on.
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

from precision_gpu import exported, made

OUT = Path(os.environ.get("OUT", "."))
RESULTS: dict = {}


def keep(name, part, value):
    RESULTS.setdefault(name, {})[part] = value
    (OUT / "engines.json").write_text(json.dumps(RESULTS, indent=1))


def graphopt(*words):
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "graphopt", *map(str, words), "--json"], capture_output=True, text=True, check=False
    )
    if not done.stdout:
        raise RuntimeError(done.stderr[-800:])
    return json.loads(done.stdout), round(time.monotonic() - began, 1)


def attempt(name, part, work, *given):
    try:
        keep(name, part, work(name, *given))
    except Exception:
        keep(name, part, {"failed": traceback.format_exc()[-1200:]})
        print(f"{name} {part}: failed\n{traceback.format_exc()[-1200:]}", flush=True)


def compared(name, path):
    found, took = graphopt("bench", path, "--seconds", "1")
    for row in found["rows"]:
        ms = row["device_ms"] or {}
        print(f"{name:12} {row['name']:32} {ms.get('median')} ms ({ms.get('p10')} to {ms.get('p90')}), call "
              f"{(row['call_ms'] or {}).get('median')} ms, difference {row['relative_l2']} {row['failed'] or ''}",
              flush=True)  # fmt: skip
    return {"seconds": took, **found}


def profiled(name, path):
    found, took = graphopt("profile", path)
    total, launch = found["layers_ms"], found["launch_ms"]["median"]
    print(f"{name:12} {len(found['layers'])} layers, {total:.4f} ms in all ({found['alone_ms']:.4f} alone), launch "
          f"{launch:.4f} ms, named {found['named']:.1%}", flush=True)  # fmt: skip
    (OUT / f"profile_{name}.json").write_text(json.dumps(found, indent=1))
    return {
        "seconds": took,
        "layers_ms": total,
        "alone_ms": found["alone_ms"],
        "launch_ms": launch,
        "named": found["named"],
    }


def overhead(name, path, inputs):
    """Wall time of 1,000 queued calls / 1,000, minus the GPU's time of one launch; and of whole calls."""
    import cupy

    import graphopt as library

    folder = Path(tempfile.mkdtemp())
    library.optimize(path, engine=folder / "m.engine", verify="none")
    began = time.perf_counter()
    engine = library.Engine(folder / "m.engine")
    arrays = {key: cupy.asarray(value.numpy()) for key, value in inputs.items()}
    call = engine.bind(arrays)
    opened = time.perf_counter() - began
    for _ in range(200):
        call()
    call.stream.synchronize()
    walls, gpus, queues = [], [], []
    for _ in range(5):
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        start = time.perf_counter()
        begin.record(call.stream)
        for _ in range(1000):
            call()
        end.record(call.stream)
        queued = time.perf_counter()
        call.stream.synchronize()
        walls.append((time.perf_counter() - start) * 1e3)
        queues.append((queued - start) * 1e3)
        gpus.append(cupy.cuda.get_elapsed_time(begin, end))
    wall, gpu, queue = sorted(walls)[2], sorted(gpus)[2], sorted(queues)[2]
    whole = []
    for _ in range(50):
        engine(arrays)
    engine.stream.synchronize()
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(200):
            engine(arrays)
        engine.stream.synchronize()
        whole.append((time.perf_counter() - start) * 5e3)
    print(f"{name:12} bound call: wall {wall:.2f} us, GPU {gpu:.2f} us, overhead {wall - gpu:.2f} us; engine(cupy) "
          f"{sorted(whole)[2]:.1f} us; opened and bound in {opened:.2f} s", flush=True)  # fmt: skip
    return {"wall_us": wall, "gpu_us": gpu, "overhead_us": wall - gpu, "queue_us": queue, "call_us": sorted(whole)[2],
            "open_s": opened}  # fmt: skip


def main(words):
    only = [word for word in words if word != "overhead"]
    for name in only or ["resnet50", "vit_b", "swin_t", "bert6"]:
        folder = Path(tempfile.mkdtemp())
        try:
            module, inputs = made(name)
            path = exported(module, inputs, folder / f"{name}.onnx")
        except Exception:
            keep(name, "export", {"failed": traceback.format_exc()[-1200:]})
            print(traceback.format_exc()[-1200:], flush=True)
            continue
        if "overhead" not in words:
            attempt(name, "bench", compared, path)
            attempt(name, "profile", profiled, path)
        attempt(name, "overhead", overhead, path, inputs)


if __name__ == "__main__":
    main(sys.argv[1:])
