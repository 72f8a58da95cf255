"""First-party layers on a GPU: right for every dtype, and how fast.

    python tests/bench/layers_gpu.py                      everything
    python tests/bench/layers_gpu.py check                only whether the kernels are right
    python tests/bench/layers_gpu.py time --only RMSNorm  times of the layers whose name holds this
    python tests/bench/layers_gpu.py table layers.json    the table of docs/layers.md from a file of times

Times: medians of CUDA events around a CUDA graph of launches over rotating buffers, against a device copy of the same
bytes, the engine that TensorRT-RTX builds of the body, and PyTorch eager and compiled. JSON goes to $OUT/layers.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from pathlib import Path

import numpy as np
from layers_gpu_cases import SPECS

from graphopt.conformance.bench import standalone
from graphopt.conformance.cases import Case
from graphopt.layers.host import prepare
from graphopt.layers.tensor import Tensor
from graphopt.registry import Registry

START = time.monotonic()
OUT = Path(os.environ.get("OUT", "."))
ROTATE_BYTES = 256 << 20
ROUNDS = 15


def say(*words):
    print(*words, flush=True)


def layers(only):
    found = [layer for plugin, layer in Registry().layers() if layer.__module__.startswith("graphopt_layers")]
    return [layer for layer in found if any(word in layer.__name__ for word in only or [""])]


def check(only, quick, deadline):
    """The conformance suite over every layer; the number of those that failed."""
    from graphopt.conformance.check import check_layer

    failed, results = 0, {}
    for layer in layers(only):
        if time.monotonic() - START > deadline:
            say(f"-- {layer.__name__}: not checked, out of time")
            continue
        begin = time.monotonic()
        try:
            found = check_layer(layer, quick=quick)
            results[layer.__name__] = found.to_json()
            kinds = found.to_json()["largest_error"]
            say(f"{'ok ' if found.ok else 'BAD'} {layer.__name__}: {len(found.findings)} findings, "
                f"values {kinds.get('values', 0):.2g}, {time.monotonic() - begin:.1f} s")  # fmt: skip
            failed += not found.ok
            for one in found.failures[:12]:
                say(f"      {one.check}: {one.case}: {one.detail}")
            if len(found.failures) > 12:
                say(f"      and {len(found.failures) - 12} more")
        except Exception:
            failed += 1
            say(f"BAD {layer.__name__}: {time.monotonic() - begin:.1f} s")
            say(traceback.format_exc())
        (OUT / "checks.json").write_text(json.dumps(results, indent=1))
    return failed


def graph_ms(launches):
    """(median, p10, p90) milliseconds of one launch, in a graph that goes through `launches` in turn."""
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    for launch in launches:
        launch(stream)
    stream.synchronize()
    count = max(len(launches), 12 // len(launches) * len(launches))
    stream.begin_capture()
    for turn in range(count):
        launches[turn % len(launches)](stream)
    graph = stream.end_capture()
    times = []
    for turn in range(ROUNDS + 3):
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        begin.record(stream)
        graph.launch(stream)
        end.record(stream)
        end.synchronize()
        if turn >= 3:
            times.append(cupy.cuda.get_elapsed_time(begin, end) / count)
    low, middle, high = np.percentile(times, [10, 50, 90])
    return float(middle), float(low), float(high)


def torch_ms(function, sets):
    """(median, p10, p90) of a PyTorch function, captured likewise; without a graph where it cannot be captured."""
    import torch

    for values in sets[:2]:
        function(**values)
        function(**values)
    torch.cuda.synchronize()
    times = []
    try:
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for values in sets:
                function(**values)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for values in sets:
                function(**values)
        run, count = graph.replay, len(sets)
    except Exception:
        torch.cuda.synchronize()

        def run():
            for values in sets:
                function(**values)

        count = len(sets)
    for turn in range(ROUNDS + 3):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        if turn >= 3:
            times.append(begin.elapsed_time(end) / count)
    low, middle, high = np.percentile(times, [10, 50, 90])
    return float(middle), float(low), float(high)


def copy_ms(nbytes):
    """Milliseconds of device copies that read and write `nbytes` in all."""
    import torch

    half = max(nbytes // 2, 1)
    sets = [(torch.empty(half, dtype=torch.uint8, device="cuda"), torch.empty(half, dtype=torch.uint8, device="cuda"))
            for _ in range(max(2, ROTATE_BYTES // nbytes))]  # fmt: skip
    import cupy

    def launch(pair):
        a, b = pair
        return lambda stream: cupy.cuda.runtime.memcpyAsync(b.data_ptr(), a.data_ptr(), half, 3, stream.ptr)

    return graph_ms([launch(pair) for pair in sets])[0]


def torch_type(kind):
    import torch

    return getattr(torch, {"bool": "bool"}.get(np.dtype(kind).name, np.dtype(kind).name))


def inputs(case, rng, values_of):
    """The inputs of a call as torch tensors; values_of: name -> function of the shape, in place of random ones."""
    import torch

    found = {}
    own = torch.Generator(device="cuda").manual_seed(0)  # the default one may be stuck in a capture that failed
    for name in case.present:
        kind, shape = case.kinds[name], case.shapes[name]
        values = values_of[name](shape) if name in values_of else case.layer.sample(name, shape, rng)
        if values is not None:
            array = np.ascontiguousarray(values)
            found[name] = torch.from_numpy(array).cuda().to(torch_type(kind))
        elif np.dtype(kind).kind in "iu":
            found[name] = torch.randint(0, 9, shape, device="cuda", generator=own).to(torch_type(kind))
        elif np.dtype(kind) == np.bool_:
            found[name] = torch.rand(shape, device="cuda", generator=own) < 0.5
        else:
            found[name] = torch.randn(shape, device="cuda", generator=own).to(torch_type(kind))
    return found


def engine_ms(case, sets):
    """(median, p10, p90) of the engine of the body, or the reason why there is none."""
    import tempfile

    import onnx
    import tensorrt_rtx as trt
    import torch

    from graphopt import backends
    from graphopt.config import Limits

    backend = backends.get("tensorrt_rtx", Limits())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "body.onnx"
        onnx.save(standalone(case), path)
        plan = backend.build(path, Path(folder) / "body.engine").engine_path.read_bytes()
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(plan)
    kinds = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16, "INT32": torch.int32,
             "INT64": torch.int64, "BOOL": torch.bool, "INT8": torch.int8, "UINT8": torch.uint8}  # fmt: skip
    launches, held = [], [runtime, engine]
    for values in sets:
        context = engine.create_execution_context()
        for at in range(engine.num_io_tensors):
            name = engine.get_tensor_name(at)
            if name in values:
                buffer = values[name]
            else:
                kind = kinds[engine.get_tensor_dtype(name).name]
                buffer = torch.empty(tuple(context.get_tensor_shape(name)), dtype=kind, device="cuda")
            held.append(buffer)
            context.set_tensor_address(name, buffer.data_ptr())
        held.append(context)
        launches.append(lambda stream, context=context: context.execute_async_v3(stream.ptr))
    return graph_ms(launches)


def attempt(entry, name, work):
    """Keep the result of a measurement, or why there is none."""
    try:
        got = work()
        entry[name] = [round(x, 5) for x in got] if isinstance(got, tuple) else got
    except Exception as error:
        entry[name] = None
        entry[f"{name}_why"] = f"{type(error).__name__}: {error}"[:400]


def measure(spec, dtype, compiled):
    import tensorrt_rtx as trt
    import torch

    layer = spec["layer"]()
    layer = type(layer)(**spec.get("attributes", {}))
    kinds = {name: np.dtype(spec.get("types", {}).get(name, dtype)) for name in spec["shapes"]}
    shapes = {name: tuple(shape) for name, shape in spec["shapes"].items()}
    case = Case(layer, tuple(n for n in layer.inputs if n in shapes), kinds, shapes)
    prepared = prepare(trt, layer, case.present, [(kinds[name], shapes[name]) for name in case.present])
    tensors = [*case.tensors(), *(Tensor(kind, shape) for kind, shape in prepared.outputs)]
    moved = int(sum(tensor.nbytes for tensor in tensors))
    nbytes = int(spec["bytes"](case) if "bytes" in spec else layer.limit(*tensors).get("bytes", moved))
    rng = np.random.default_rng(0)
    first = inputs(case, rng, spec.get("values", {}))
    sets = [first] + [{k: v.clone() for k, v in first.items()} for _ in range(max(1, ROTATE_BYTES // moved) - 1)]
    outs = [
        [torch.empty(shape, dtype=torch_type(kind), device="cuda") for kind, shape in prepared.outputs] for _ in sets
    ]
    spaces = [torch.empty(max(prepared.workspace_bytes, 1), dtype=torch.uint8, device="cuda") for _ in sets]

    def launcher(values, made, space, tactic):
        pointers = [values[name].data_ptr() for name in case.present], [one.data_ptr() for one in made]
        twin = prepared.twin()
        return lambda stream: twin.enqueue(*pointers, space.data_ptr(), stream.ptr, tactic)

    entry = {"layer": layer.name, "dtype": dtype, "shapes": {k: list(v) for k, v in shapes.items()}, "bytes": nbytes,
             "attributes": {k: v for k, v in layer.values.items() if not isinstance(v, tuple)}}  # fmt: skip
    torch.cuda.synchronize()
    best = {}
    for tactic in prepared.tactics or [0]:
        best[tactic] = graph_ms([launcher(*one, tactic) for one in zip(sets, outs, spaces, strict=True)])
    entry["kernel_ms"] = [round(x, 5) for x in min(best.values())]
    attempt(entry, "copy_ms", lambda: round(copy_ms(nbytes), 5))
    function = spec.get("torch")
    if function is not None:
        wanted = function(**first)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        errors = []
        for a, b in zip(outs[0], wanted, strict=False):
            if b is None:
                continue
            if a.numel() > b.numel():  # packed at the size that the kernel found out
                a = a.flatten()[: b.numel()].reshape(b.shape)
            if a.is_floating_point():
                scale = b.float().norm().item() or 1.0
                errors.append(round((a.float() - b.float()).norm().item() / scale, 7))
            else:
                errors.append(int((a.reshape(b.shape) != b).sum().item()) if a.numel() == b.numel() else -1)
        entry["against_torch"] = errors
        attempt(entry, "eager_ms", lambda: torch_ms(function, sets))
        if compiled:
            attempt(entry, "compiled_ms", lambda: torch_ms(torch.compile(function, dynamic=False), sets))
    attempt(entry, "engine_ms", lambda: engine_ms(case, sets))
    kernel = entry["kernel_ms"][0]
    entry["gb_per_s"] = round(nbytes / kernel / 1e6, 1)
    if entry.get("copy_ms"):
        entry["of_copy"] = round(entry["copy_ms"] / kernel, 3)
    return entry


def times(only, deadline, compiled):
    import torch

    found = []
    say(f"{torch.cuda.get_device_name()}; {'layer':>24} {'dtype':>9} {'MB':>6} {'kernel ms':>10} {'of copy':>8} "
        f"{'engine':>8} {'eager':>8} {'compiled':>8}  against torch")  # fmt: skip
    for spec in SPECS:
        name = spec["layer"]().name
        if only and not any(word in name for word in only):
            continue
        for dtype in spec["dtypes"]:
            if time.monotonic() - START > deadline:
                say(f"-- {name} {dtype}: not timed, out of time")
                continue
            try:
                entry = measure(spec, dtype, compiled and dtype == spec["dtypes"][0])
            except Exception:
                say(f"BAD {name} {dtype}")
                say(traceback.format_exc())
                continue
            finally:
                torch.cuda.empty_cache()
            found.append(entry)

            def ms(key, entry=entry):
                got = entry.get(key)
                return f"{got[0]:8.4f}" if got else f"{'-':>8}"

            say(f"{name:>38} {dtype:>9} {entry['bytes'] / 1e6:6.0f} {entry['kernel_ms'][0]:10.4f} "
                f"{entry.get('of_copy', 0):8.3f} {ms('engine_ms')} {ms('eager_ms')} {ms('compiled_ms')}  "
                f"{entry.get('against_torch', '')}")  # fmt: skip
            for key in ("engine_ms_why", "eager_ms_why", "compiled_ms_why", "copy_ms_why"):
                if key in entry:
                    say(f"      {key}: {entry[key][:200]}")
            body = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "times": found}
            (OUT / "layers.json").write_text(json.dumps(body, indent=1))


def table(path):
    """The rows of docs/layers.md."""
    found = json.loads(Path(path).read_text())
    say(f"Measured on {found['gpu']}, PyTorch {found['torch']}; milliseconds, medians.\n")
    say("| layer | dtype | MB | kernel | share of copy bandwidth | TensorRT-RTX's engine | eager | compiled |")
    say("|---|---|---|---|---|---|---|---|")
    for one in found["times"]:
        cells = [f"{one[key][0]:.4f}" if one.get(key) else "-" for key in ("engine_ms", "eager_ms", "compiled_ms")]
        say(f"| {one['layer']} | {one['dtype']} | {one['bytes'] / 1e6:.0f} | {one['kernel_ms'][0]:.4f} | "
            f"{100 * one.get('of_copy', 0):.0f} % | {' | '.join(cells)} |")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=["check", "time"])
    parser.add_argument("--only", action="append")
    parser.add_argument("--full", action="store_true", help="all shapes of the conformance suite")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--seconds", type=float, default=280.0, help="nothing is begun after this")
    given = parser.parse_args()
    if given.sections[0] == "table":
        table(given.sections[1])
        return 0
    failed = 0
    share = 0.45 if len(given.sections) > 1 else 1.0
    if "check" in given.sections:
        failed = check(given.only, not given.full, given.seconds * share)
    if "time" in given.sections:
        times(given.only, given.seconds, not given.no_compile)
    say(f"{time.monotonic() - START:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
