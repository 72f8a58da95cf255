"""fp16 and bf16 of every network of a folder: casts and error against onnxruntime's converter, and does it build?

    python -m tests.bench.precision_corpus .bench/corpus -o precision.json            every *.onnx with its .npz
    python -m tests.bench.precision_corpus .bench/corpus -o precision.json --only bert  those whose name holds this

Both converters start from the same optimized float32 model and keep the types of inputs and outputs. The error is the
worst relative L2 of a float output with rounding after every operator. Custom layers are left out, which the peer does
not know. A network that does not build is tried again with its integer scalars bound to the sample's, as some decide
an If. The file is written after every model, and a second run goes on where the first one ended.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx

import graphopt
from graphopt import backends
from graphopt.config import Limits, Shapes, Target
from graphopt.errors import GraphoptError, VerificationError
from graphopt.ir.convert import convert_opset
from graphopt.ir.load import load
from graphopt.ir.save import to_proto
from graphopt.numerics.execute import Runner
from graphopt.numerics.rounding import rounded_copy
from graphopt.precision.metric import error_of, judged, relative_l2
from graphopt.precision.stage import Request, lower
from graphopt.precision.unquantize import is_quantized


def casts(model: onnx.ModelProto) -> int:
    """Cast nodes in all graphs and functions."""

    def of(nodes) -> int:
        count = 0
        for node in nodes:
            count += node.op_type == "Cast"
            for attribute in node.attribute:
                for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                    count += of(graph.node)
        return count

    return of(model.graph.node) + sum(of(function.node) for function in model.functions)


def peer(model: onnx.ModelProto) -> onnx.ModelProto:
    """What onnxruntime's converter makes of the model."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copied = onnx.ModelProto.FromString(model.SerializeToString())
    return convert_float_to_float16(copied, keep_io_types=True)


def errors(runner: Runner, reference: Path, model: onnx.ModelProto, feeds, folder: Path) -> float:
    path = folder / "candidate.onnx"
    onnx.save(model, path)
    copied = folder / "rounded.onnx"
    copied.write_bytes(rounded_copy(path))
    runner.open(reference)
    expected = runner.run(feeds)
    runner.open(copied)
    actual = runner.run(feeds)
    return max((error_of(relative_l2, want, actual[name]) for name, want in expected.items()
                if judged(want, actual[name])), default=0.0)  # fmt: skip


def build(backend, model: onnx.ModelProto, shapes: Shapes, folder: Path) -> str:
    path = folder / "built.onnx"
    onnx.save(model, path)
    try:
        backend.build(path, folder / "engine", shapes)
        return "ok"
    except GraphoptError as error:
        return " ".join(str(error).split())[:400]


def shapes_of(path: Path, feeds) -> Shapes:
    """A profile at the sample's shapes, for inputs that are dynamic."""
    model = onnx.load(str(path), load_external_data=False)
    open_ = {
        value.name for value in model.graph.input
        if any(not dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
    }  # fmt: skip
    return Shapes(opt={name: tuple(np.shape(array)) for name, array in feeds.items() if name in open_})


def one(path: Path, precisions, builds: bool) -> dict:
    archive = path.with_suffix(".npz")
    feeds = dict(np.load(archive)) if archive.is_file() else None
    found = measured(path, precisions, builds, feeds, {})
    bind = {name: array for name, array in (feeds or {}).items() if array.ndim == 0 and array.dtype.kind == "i"}
    if bind and any(found[precision].get("build", "ok") != "ok" for precision in precisions):
        rest = {name: array for name, array in feeds.items() if name not in bind}
        found = {"bound": sorted(bind), **measured(path, precisions, builds, rest, bind)}
    return found


def measured(path: Path, precisions, builds: bool, feeds, bind) -> dict:
    base = graphopt.optimize(str(path), verify="none", lower="never", bind=bind)
    source, quantized = to_proto(base.graph), ""
    if is_quantized(load(str(path))):
        source, quantized = onnx.load(str(path)), str(path)  # legalized for float32, it is no longer quantized
    found: dict = {"nodes": len(source.graph.node)}
    backend = backends.get("tensorrt_rtx", Limits(build_seconds=300))
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name, Runner(seconds=120) as runner:
        folder = Path(name)
        reference = folder / "reference.onnx"
        onnx.save(source, reference)
        profile = shapes_of(reference, feeds or {})
        for precision in precisions:
            row = found[precision] = {}
            began = time.perf_counter()
            try:
                graph, about = lowered(source, precision, feeds, quantized)
                row |= {"casts": about["casts"], "notes": about["notes"], "tensors": about["tensors"],
                        "error": max((v if v is not None else float("inf") for v in about["error"].values()),
                                     default=None), "kept": len(about["kept"])}  # fmt: skip
                row["seconds"] = round(time.perf_counter() - began, 2)
                if builds:
                    row["build"] = build(backend, to_proto(graph), profile, folder)
            except Exception as error:
                row["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
            if precision == "fp16":
                try:
                    other = peer(source)
                    row["peer_casts"] = casts(other) - casts(source)
                    if builds:
                        row["peer_build"] = build(backend, other, profile, folder)
                    if feeds:
                        row["peer_error"] = errors(runner, reference, other, feeds, folder)
                except Exception as error:
                    row["peer_failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if any("build" in row and row["build"] != "ok" for row in found.values() if isinstance(row, dict)):
            found["tf32"] = {"build": build(backend, source, profile, folder)}
    return found


def lowered(source: onnx.ModelProto, precision: str, feeds, quantized: str = ""):
    """(graph, report): within the budget, or as near as it comes, which the report then says.

    quantized: a source that goes through the whole job, as it is brought to float between its passes.
    """
    words = {"calib": feeds and [feeds]}
    notes = []
    for budget in (None, 0.05, float("inf")):
        request = Request(precision, max_error=budget, **words)
        try:
            if quantized:
                found = graphopt.optimize(quantized, precision=request, inputs=feeds, lower="never")
                graph, about = found.graph, found.report.precision
            else:
                graph = fresh(source, precision)
                about = lower(graph, request, Target()).to_json()
        except VerificationError as error:
            notes.append(f"over the budget: {error.what}")
            continue
        about["notes"] += notes
        return graph, about
    raise AssertionError("no budget is above infinity")


def fresh(source: onnx.ModelProto, precision: str):
    graph = load(source)
    least = 19 if is_quantized(graph) else 13 if precision == "bf16" else 0
    if graph.opset < least:
        convert_opset(graph, least)
    return graph


def families(paths) -> list[Path]:
    """One network of each family, then the second of each, and so on; those of most members first."""
    members: dict[str, list[Path]] = {}
    for path in sorted(paths):
        members.setdefault(path.stem.split("-")[0], []).append(path)
    ranked = sorted(members.values(), key=len, reverse=True)
    return [family[i] for i in range(len(ranked[0])) for family in ranked if i < len(family)] if ranked else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("precision.json"))
    parser.add_argument("--only", nargs="*", default=[""])
    parser.add_argument("--precision", nargs="*", default=["fp16", "bf16"])
    parser.add_argument("--no-build", action="store_true")
    words = parser.parse_args()
    done = json.loads(words.output.read_text()) if words.output.is_file() else {}
    for path in families(words.folder.glob("*.onnx")):
        if path.stem in done or not any(part in path.stem for part in words.only):
            continue
        try:
            done[path.stem] = one(path, words.precision, not words.no_build)
        except Exception as error:
            done[path.stem] = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}
        temporary = words.output.with_suffix(".tmp")
        temporary.write_text(json.dumps(done, indent=1))
        temporary.replace(words.output)
        print(path.stem, json.dumps(done[path.stem].get("fp16", done[path.stem]))[:300], flush=True)
    print(table(done))


def table(done: dict) -> str:
    """The sum of it, and every model that falls short."""
    rows = {name: one["fp16"] for name, one in done.items() if "fp16" in one}
    both = {name: row for name, row in rows.items() if "peer_casts" in row and "casts" in row}
    fewer = sum(row["casts"] < row["peer_casts"] for row in both.values())
    equal = sum(row["casts"] == row["peer_casts"] for row in both.values())
    lines = [
        f"{len(done)} models; fp16: {len(both)} converted by both, casts {sum(r['casts'] for r in both.values())} "
        f"against {sum(r['peer_casts'] for r in both.values())}; fewer on {fewer}, as many on {equal}"
    ]
    for name, row in both.items():
        if row["casts"] > row["peer_casts"]:
            lines.append(f"  more casts: {name} {row['casts']} > {row['peer_casts']}, error {row['error']} "
                         f"against {row.get('peer_error')}")  # fmt: skip
    for precision in ("fp16", "bf16"):
        for name, one in done.items():
            row = one.get(precision, one)
            if "failed" in row:
                lines.append(f"  {precision} failed: {name}: {row['failed'][:200]}")
            elif row.get("build", "ok") != "ok":
                base = "" if one.get("tf32", {}).get("build") == "ok" else " (nor does tf32)"
                lines.append(f"  {precision} does not build{base}: {name}: {row['build'][:200]}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
