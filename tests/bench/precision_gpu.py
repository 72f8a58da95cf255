"""Low precision on a GPU: latency and error of our plans, of blind conversion, and of torch.compile.

    python tests/bench/precision_gpu.py fp16        resnet50, vit_b, swin_t, bert6 at batch 8, against torch.compile
    python tests/bench/precision_gpu.py quantized   fp8 and int8 of bert6, vit_b; weight-only int8 and int4
    python tests/bench/precision_gpu.py layers      where the time of vit_b goes: our layers, torch.compile's kernels
    python tests/bench/precision_gpu.py corpus DIR  every *.onnx of a folder (with .npz): ours against onnxruntime's

Names after the stage choose models: `precision_gpu.py fp16 swin_t bert6`; for `quantized` a name may be a
file, x.onnx with its inputs in x.npz. One model takes about a minute; FULL=1 adds bf16 inputs and outputs, blind
conversion, and our own evaluation with rounding after every operator (minutes on a CPU).

Each model is made from a seed, exported, optimized, built and timed; engines and compiled modules of one model are
timed in turns in one process: medians with p10 and p90 of CUDA events around CUDA graphs. The error is the relative L2
of the worst output against the float32 model in onnxruntime on the CPU. A part that fails is written down and the rest
goes on. Results: $OUT/precision_<stage>.json, written after every model; the table is printed at the end.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import onnx

START = time.monotonic()
OUT = Path(os.environ.get("OUT", "."))
SECONDS = float(os.environ.get("PRECISION_SECONDS", "150"))
"""No new model is begun after this many seconds."""
ROUNDS, RUNS = 9, 20
FULL = bool(os.environ.get("FULL"))


def say(*words):
    print(f"[{time.monotonic() - START:5.0f} s]", *words, flush=True)


# -- models ------------------------------------------------------------------------------------------------------


def made(name, batch=8):
    """(torch module, example inputs by name) from a seed: the weights are the same at every batch size."""
    import torch

    torch.manual_seed(0)
    image = {"x": torch.randn(8, 3, 224, 224)}
    if name == "bert6":
        from transformers import BertConfig, BertModel

        config = BertConfig(num_hidden_layers=6, attn_implementation="eager")

        class Bert(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = BertModel(config, add_pooling_layer=False)

            def forward(self, input_ids, attention_mask):
                return self.inner(input_ids, attention_mask=attention_mask).last_hidden_state

        module = Bert().eval()
        ids = torch.randint(0, config.vocab_size, (8, 128))[:batch]
        return module, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    import timm
    import torchvision

    makers = {
        "resnet50": lambda: torchvision.models.resnet50(weights=None),
        "swin_t": lambda: torchvision.models.swin_t(weights=None),
        "vit_b": lambda: timm.create_model("vit_base_patch16_224", pretrained=False),
        "deit_s": lambda: timm.create_model("deit_small_patch16_224", pretrained=False),
        "convnext_t": lambda: timm.create_model("convnext_tiny", pretrained=False),
        "mobilenet_v3": lambda: torchvision.models.mobilenet_v3_large(weights=None),
        "efficientnet_b0": lambda: torchvision.models.efficientnet_b0(weights=None),
    }
    module = makers[name]().eval()
    _settle_norms(module, image["x"])
    return module, {"x": image["x"][:batch]}


def _settle_norms(module, example):
    """Statistics of BatchNorm as after training: activations neither die nor explode."""
    import torch

    if any(isinstance(part, torch.nn.BatchNorm2d) for part in module.modules()):
        module.train()
        with torch.no_grad():
            for _ in range(3):
                module(torch.randn_like(example))
        module.eval()


def exported(module, inputs, path):
    import torch

    names = list(inputs)
    words = {"input_names": names, "output_names": ["y"], "opset_version": 17}
    with torch.no_grad():
        try:
            torch.onnx.export(module, tuple(inputs.values()), str(path), dynamo=False, **words)
        except Exception:
            words["opset_version"] = 18
            torch.onnx.export(module, tuple(inputs.values()), str(path), dynamo=True, external_data=False, **words)
    return path


# -- engines -----------------------------------------------------------------------------------------------------


class Engine:
    """A built engine with its buffers, captured into a CUDA graph."""

    def __init__(self, path, feeds):
        import cupy
        import tensorrt_rtx as trt

        self.cupy, self.trt = cupy, trt
        self.runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self.engine = self.runtime.deserialize_cuda_engine(Path(path).read_bytes())
        if self.engine is None:
            raise RuntimeError("the engine cannot be loaded")
        self.context = self.engine.create_execution_context()
        self.buffers, self.outputs = {}, {}
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        for name in names:
            if self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                array = np.ascontiguousarray(self._in_dtype(name, feeds[name]))
                self.context.set_input_shape(name, array.shape)
                raw = np.frombuffer(array.tobytes() or b"\0", np.uint8)
                self.buffers[name] = cupy.asarray(raw)
                self.context.set_tensor_address(name, self.buffers[name].data.ptr)
        for name in names:
            if self.engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
                dims = tuple(self.context.get_tensor_shape(name))
                kind = np.dtype(trt.nptype(self.engine.get_tensor_dtype(name)))
                self.buffers[name] = cupy.zeros(dims, kind)
                self.outputs[name] = self.buffers[name]
                self.context.set_tensor_address(name, self.buffers[name].data.ptr)
        self.stream = cupy.cuda.Stream(non_blocking=True)
        for _ in range(5):
            self._launch()
        self.stream.synchronize()
        self.graph = None
        try:
            with self.stream:
                self.stream.begin_capture()
                self._launch()
                self.graph = self.stream.end_capture()
        except Exception as error:
            say("    no CUDA graph:", " ".join(str(error).split())[:120])

    def _in_dtype(self, name, array):
        return np.asarray(array).astype(np.dtype(self.trt.nptype(self.engine.get_tensor_dtype(name))))

    def _launch(self):
        if not self.context.execute_async_v3(self.stream.ptr):
            raise RuntimeError("the engine does not run")

    def run(self, times):
        """Milliseconds of `times` launches."""
        start, end = self.cupy.cuda.Event(), self.cupy.cuda.Event()
        start.record(self.stream)
        for _ in range(times):
            self.graph.launch(self.stream) if self.graph is not None else self._launch()
        end.record(self.stream)
        end.synchronize()
        return self.cupy.cuda.get_elapsed_time(start, end)

    def values(self):
        self._launch()
        self.stream.synchronize()
        return {name: self.cupy.asnumpy(buffer) for name, buffer in self.outputs.items()}


class Compiled:
    """torch.compile of the module in a dtype, captured into a CUDA graph by torch itself."""

    def __init__(self, module, inputs, dtype):
        import copy

        import torch

        self.torch = torch
        torch._dynamo.reset()
        self.module = copy.deepcopy(module).to("cuda", dtype)
        self.inputs = [one.to("cuda", dtype) if one.is_floating_point() else one.cuda() for one in inputs.values()]
        self.compiled = torch.compile(self.module, mode="reduce-overhead")
        with torch.no_grad():
            for _ in range(5):
                self.found = self.compiled(*self.inputs)
        torch.cuda.synchronize()

    def run(self, times):
        start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        with self.torch.no_grad():
            start.record()
            for _ in range(times):
                self.compiled(*self.inputs)
            end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def values(self):
        with self.torch.no_grad():
            return {"y": self.compiled(*self.inputs).float().cpu().numpy()}


def timed(candidates):
    """Fill in ms, p10, p90 of each candidate, in turns."""
    found = {name: [] for name in candidates}
    for one in candidates.values():
        one.run(RUNS)
    for _ in range(ROUNDS):
        for name, one in candidates.items():
            found[name].append(one.run(RUNS) / RUNS)
    return {
        name: {"ms": round(float(np.median(t)), 4), "p10": round(float(np.percentile(t, 10)), 4),
               "p90": round(float(np.percentile(t, 90)), 4)} for name, t in found.items()
    }  # fmt: skip


def reference(path, feeds):
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def error_of(want, got):
    from graphopt.precision.metric import error_of as measure
    from graphopt.precision.metric import judged, relative_l2

    pairs = [(want[name], got[name]) for name in want if name in got]
    if not pairs and len(want) == len(got) == 1:
        pairs = [(next(iter(want.values())), next(iter(got.values())))]
    return max((measure(relative_l2, e, a) for e, a in pairs if judged(e, a)), default=float("nan"))


def build(model, folder, name, feeds, shapes=None):
    """The engine of a model file. Raises GraphoptError."""
    from graphopt import backends
    from graphopt.config import Limits

    backend = backends.get("tensorrt_rtx", Limits(build_seconds=300))
    built = backend.build(model, Path(folder) / f"{name}.engine", shapes)
    return Engine(built.engine_path, feeds)


def peer(path, folder, blind):
    """onnxruntime's converter with its list of operators that stay, or without it."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    words = {"op_block_list": []} if blind else {}
    model = convert_float_to_float16(onnx.load(str(path)), keep_io_types=True, **words)
    target = Path(folder) / ("blind.onnx" if blind else "peer.onnx")
    onnx.save(model, target)
    return target


def casts(path):
    model = onnx.load(str(path), load_external_data=False)
    return sum(node.op_type == "Cast" for node in model.graph.node)


def ours(path, folder, name, request, feeds, about, verify="end"):
    """Our model in a file; the report goes into `about`."""
    import graphopt
    from graphopt.config import Target

    began = time.perf_counter()
    target = Path(folder) / f"{name}.onnx"
    capability = request.pop("capability", None)
    result = graphopt.optimize(
        str(path), output=target, precision=graphopt_request(request) if request else None,
        target=Target(compute_capability=capability), verify=verify, inputs=dict(feeds),
    )  # fmt: skip
    about["seconds"] = round(time.perf_counter() - began, 1)
    about["nodes"] = result.report.result.node_count
    about["precision"] = result.report.precision
    return target


def graphopt_request(words):
    from graphopt.precision.stage import Request

    return Request(**words)


def measure(path, feeds, candidates, entry, module=None, inputs=None, compiled=(), shapes=None):
    """Build and time everything that can be built; `candidates`: name -> function(folder) -> model file."""
    want = reference(path, feeds)
    running = {}
    with tempfile.TemporaryDirectory(prefix="precision-") as folder:
        for name, make in candidates.items():
            about = entry.setdefault(name, {})
            try:
                model = make(folder, about)
                about["casts"] = casts(model)
                one = build(model, folder, name, feeds, shapes)
                about["error"] = error_of(want, one.values())
                running[name] = one
            except Exception as error:
                about["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
                if os.environ.get("TRACE"):
                    traceback.print_exc()
            say(f"    {name}: {json.dumps({k: v for k, v in about.items() if k != 'precision'})[:200]}")
        for name, dtype in compiled:
            about = entry.setdefault(name, {})
            try:
                one = Compiled(module, inputs, dtype)
                about["error"] = error_of(want, one.values())
                running[name] = one
            except Exception as error:
                about["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            say(f"    {name}: {json.dumps(about)[:200]}")
        try:
            for name, times in timed(running).items():
                entry[name] |= times
        except Exception:
            # One that fails while it is timed must not take the others with it.
            traceback.print_exc()
            for name, one in running.items():
                try:
                    entry[name] |= timed({name: one})[name]
                except Exception as error:
                    entry[name]["failed"] = f"{type(error).__name__}: {error}"


# -- stages ------------------------------------------------------------------------------------------------------


def source_of(name, folder, batch=8):
    if name.endswith(".onnx"):
        return None, None, Path(name), dict(np.load(Path(name).with_suffix(".npz")))
    module, inputs = made(name, batch)
    path = exported(module, inputs, Path(folder) / f"{name}-{batch}.onnx")
    return module, inputs, path, {key: value.numpy() for key, value in inputs.items()}


def profile_of(path, feeds):
    """The shapes of the feeds, for the inputs that have none of their own."""
    from graphopt.config import Shapes

    model = onnx.load(str(path), load_external_data=False)
    open_ = {value.name for value in model.graph.input
             if any(not dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)}  # fmt: skip
    return Shapes(opt={name: tuple(array.shape) for name, array in feeds.items() if name in open_})


def wanted(*names):
    """The models that the command line names, else all."""
    return sys.argv[2:] or names


def fp16(results, save):
    import torch

    for name in wanted("resnet50", "vit_b", "swin_t", "bert6"):
        with step(name, results, save) as entry, tempfile.TemporaryDirectory(prefix="precision-") as folder:
            module, inputs, path, feeds = source_of(name, folder)

            def low(precision, io="keep", path=path, feeds=feeds):
                words = {"precision": precision, "io": io, "calib": [feeds], "samples": 1, "judge": FULL}
                return lambda folder, about: ours(path, folder, precision + io, words, feeds, about, "none")

            def tf32(folder, about, path=path, feeds=feeds):
                return ours(path, folder, "tf32", {}, feeds, about, "none")

            candidates = {
                "ours fp16": low("fp16"),
                "onnxruntime converter": lambda folder, about, path=path: peer(path, folder, False),
                "ours tf32": tf32,
                "ours bf16": low("bf16"),
            }
            if FULL:
                candidates |= {
                    "source tf32": lambda folder, about, path=path: path,
                    "blind fp16": lambda folder, about, path=path: peer(path, folder, True),
                    "ours fp16 in and out": low("fp16", io="change"),
                }
            measure(path, feeds, candidates, entry, module, inputs, [("torch.compile fp16", torch.float16)])


def quantized(results, save):
    for name in wanted("bert6", "vit_b"):
        with step(name, results, save) as entry, tempfile.TemporaryDirectory(prefix="precision-") as folder:
            _, _, path, feeds = source_of(name, folder)
            sample = shifted(feeds)

            def low(request, path=path, feeds=feeds, sample=sample):
                words = {"calib": [feeds, sample], "samples": 1, "max_error": float("inf"), "judge": FULL, **request}
                return lambda folder, about: ours(path, folder, mark(words), dict(words), feeds, about, "none")

            candidates = {
                "ours fp16": low({"precision": "fp16"}),
                "ours fp8": low({"precision": "fp8", "method": "max", "capability": (9, 0)}),
                "ours int8": low({"precision": "int8"}),
                "ours int8 weights": low({"precision": "int8", "weights_only": True}),
                "ours int4 weights": low({"precision": "int4"}),
            }
            measure(path, feeds, candidates, entry, shapes=profile_of(path, feeds))


def mark(words):
    return words["precision"] + ("w" if words.get("weights_only") else "")


def shifted(feeds):
    return {name: np.roll(array, 1, axis=-1) for name, array in feeds.items()}


def layers(results, save):
    """Our layers with their nodes, and torch.compile's kernels, the costliest first."""
    import torch

    import graphopt
    from graphopt.precision.stage import Request
    from graphopt.runtime.engine import Engine as Loaded
    from graphopt.runtime.profile import profile

    for name in wanted("vit_b"):
        with step(name, results, save) as entry, tempfile.TemporaryDirectory(prefix="precision-") as folder:
            module, inputs, path, feeds = source_of(name, folder)
            request = Request("fp16", calib=[feeds], samples=1, judge=False)
            engine = Path(folder, "fp16.engine")
            graphopt.optimize(str(path), precision=request, engine=engine, verify="none")
            found = profile(Loaded(engine), feeds)
            entry["ours"] = found.to_json()
            for one in sorted(found.layers, key=lambda one: -one.ms)[:12]:
                say(f"    {one.ms:.4f} ms  {one.name[:60]}  {', '.join(one.nodes)[:80]}")
            save()
            compiled = Compiled(module, inputs, torch.float16)
            kinds = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
            with torch.profiler.profile(activities=kinds) as recorded:
                compiled.run(5)
            rows = [(one.key, one.device_time_total / 5e3, one.count / 5) for one in recorded.key_averages()]
            entry["torch.compile"] = sorted((row for row in rows if row[1] > 0), key=lambda row: -row[1])[:40]
            for row in entry["torch.compile"][:12]:
                say(f"    {row[1]:.4f} ms in {row[2]:.0f}  {row[0][:90]}")


def corpus(results, save):
    folder = Path(sys.argv[2])
    for path in sorted(folder.glob("*.onnx")):
        archive = path.with_suffix(".npz")
        if not archive.is_file() or path.stem in results:
            continue
        with step(path.stem, results, save) as entry:
            feeds = dict(np.load(archive))
            shapes = profile_of(path, feeds)

            def low(precision, path=path, feeds=feeds):
                words = {"calib": [feeds], "samples": 1, "precision": precision, "max_error": float("inf")}
                return lambda folder, about: ours(path, folder, precision, dict(words), feeds, about)

            def base(folder, about, path=path, feeds=feeds):
                return ours(path, folder, "tf32", {}, feeds, about)

            measure(
                path, feeds,
                {
                    "ours tf32": base,
                    "onnxruntime converter": lambda folder, about: peer(base(folder, about), folder, False),
                    "ours fp16": low("fp16"),
                    "ours bf16": low("bf16"),
                },
                entry, shapes=shapes,
            )  # fmt: skip


class step:
    """One model: begun while there is time, saved whatever happens."""

    def __init__(self, name, results, save):
        self.name, self.results, self.save = name, results, save

    def __enter__(self):
        say(self.name)
        self.entry = self.results.setdefault(self.name, {})
        if time.monotonic() - START > SECONDS:
            self.entry["skipped"] = "out of time"
            raise Late
        return self.entry

    def __exit__(self, kind, error, trace):
        if kind is not None and kind is not KeyboardInterrupt:
            traceback.print_exc()
            self.entry["failed"] = f"{kind.__name__}: {' '.join(str(error).split())[:500]}"
        self.save()
        return kind is not KeyboardInterrupt


class Late(Exception):
    """There is no time for another model."""


def table(results):
    lines = []
    for name, entry in results.items():
        lines.append(f"\n{name}")
        for kind, row in entry.items():
            if not isinstance(row, dict) or not row.keys() & {"ms", "failed", "error"}:
                lines.append(f"  {kind}: {str(row)[:200]}")
            elif "ms" in row:
                lines.append(f"  {kind:24} {row['ms']:8.4f} ms ({row['p10']:.4f} to {row['p90']:.4f})  "
                             f"error {row.get('error', float('nan')):.2e}  casts {row.get('casts', '-')}")  # fmt: skip
            else:
                lines.append(f"  {kind:24} failed: {row.get('failed', 'not timed')[:200]}")
    return "\n".join(lines)


def main():
    stages = {"fp16": fp16, "quantized": quantized, "layers": layers, "corpus": corpus}
    stage = sys.argv[1] if len(sys.argv) > 1 else "fp16"
    if stage not in stages:
        raise SystemExit(__doc__)
    names = [Path(name).stem for name in sys.argv[2:]] if stage != "corpus" else []
    target = OUT / f"precision_{'_'.join([stage, *names])}.json"
    results = {}

    def save():
        target.write_text(json.dumps(results, indent=1, default=str))

    try:
        stages[stage](results, save)
    except Late:
        pass
    finally:
        save()
        text = table(results)
        target.with_suffix(".txt").write_text(text)
        print(text, flush=True)


if __name__ == "__main__":
    main()
