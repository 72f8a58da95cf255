"""python -m tests.bench.legalize: ONNX's 2,024 operator models in TensorRT-RTX, as they are and made legal by graphopt.

Each model is parsed and built in a child process (one for each TensorRT-RTX given), then optimized, and built again;
what came out runs in onnxruntime, else in ONNX's reference evaluator, against the outputs that the suite expects,
within its tolerances. Records are appended to a file as they come: a run that was ended goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import select
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

import graphopt
from graphopt.backends.tensorrt import FLAVORS
from graphopt.ir.convert import RAISED, raise_opset
from graphopt.ir.load import load
from graphopt.ir.promote import promote_interface
from graphopt.ir.save import to_proto
from graphopt.ir.specialize import bind_inputs
from graphopt.numerics.randomness import random_outputs
from graphopt.registry import Registry
from graphopt.rewrite.manager import Manager
from tests.ir.operator_models import Case, cases

HERE = Path(__file__).parent
EPSILON = 1.2e-7
"""Of float32: sums in another order differ by a few times this, of the largest value; zeros of a transform, too."""


class Jury:
    """A child that parses and builds; started anew when it died or took too long."""

    def __init__(self, python: str, seconds: float) -> None:
        self.python, self.seconds = python, seconds
        self._start()

    def _start(self) -> None:
        self.child = subprocess.Popen(
            [self.python, str(HERE / "legalize_jury.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.version = json.loads(self._line() or "{}").get("version", "?")

    def _line(self) -> str:
        assert self.child.stdout is not None
        ready, _, _ = select.select([self.child.stdout], [], [], self.seconds)
        return self.child.stdout.readline() if ready else ""

    def ask(self, model: onnx.ModelProto, profile: dict[str, Any]) -> dict[str, Any]:
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            file.write(model.SerializeToString())
            file.flush()
            return self.answer({"model": file.name, "profile": profile})

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The child's verdict on a file; of a child that died or hung, how."""
        assert self.child.stdin is not None
        try:
            self.child.stdin.write(json.dumps(request) + "\n")
            self.child.stdin.flush()
            line = self._line()
        except BrokenPipeError:
            line = ""
        if line:
            return dict(json.loads(line))
        self.child.kill()
        code = self.child.wait()
        self._start()
        how = "hang" if code == -signal.SIGKILL else f"crash {code}"
        return {"parse": False, "build": False, "op": "", "node": "", "reason": how, "crash": how}

    def close(self) -> None:
        self.child.kill()
        self.child.wait()


def _array(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def feeds_of(model: onnx.ModelProto, inputs: list[Any]) -> dict[str, Any]:
    """Inputs by name: the suite's data are in the order of the graph's inputs."""
    names = [port.name for port in model.graph.input]
    return {name: value for name, value in zip(names, inputs, strict=False) if value is not None}


def profile_of(model: onnx.ModelProto, feeds: dict[str, Any], dynamic: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for port in model.graph.input:
        value = feeds.get(port.name)
        if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind != "O":
            full = [list(value.shape)] * 3
            if dynamic and value.shape:
                full[0] = [min(1, value.shape[0]), *value.shape[1:]]
            entry: dict[str, Any] = {"shapes": full}
            if value.dtype.kind in "iub" and value.size <= 64:
                entry["values"] = [int(one) for one in value.reshape(-1)]
            found[port.name] = entry
    return found


def with_dynamic_leading_dims(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a symbol in place of the first dimension of every input of rank 1 and more; outputs unshaped."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for port in copy.graph.input:
        shape = port.type.tensor_type.shape
        if port.type.HasField("tensor_type") and len(shape.dim):
            old = shape.dim[0].dim_value
            shape.dim[0].Clear()
            shape.dim[0].dim_param = f"lead_{old}"
    for port in copy.graph.output:
        for dim in port.type.tensor_type.shape.dim if port.type.HasField("tensor_type") else ():
            dim.Clear()
    del copy.graph.value_info[:]
    return copy


class _Late(Exception):
    pass


def _alarm(*_: Any) -> None:
    raise _Late


def optimize(
    model: onnx.ModelProto, bound: dict[str, Any], entries: Any, version: str, fired: dict[str, int] | None = None,
    promote: bool = True,
) -> onnx.ModelProto:  # fmt: skip
    """The legal model. promote: as --promote-io. fired: filled with the changes of each legalizing pass."""
    graph = load(model)
    bind_inputs(graph, bound)
    target = graphopt.Target(version=version)
    least = FLAVORS[target.backend].least_opset
    raise_opset(graph, least, RAISED)
    if promote:
        promote_interface(graph, target)
    manager = Manager(graph, entries, target)
    for one in manager.run():
        if fired is not None and one.changes and one.plugin.startswith("legalize"):
            fired[one.name] = one.changes
    return to_proto(manager.graph)


def to_bind(model: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    """The inputs that feed a slot which the parser wants constant, with the values of the suite."""
    from graphopt.backends.operators import CONSTANT_SLOTS

    wanted: dict[str, Any] = {}
    produced = {name for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        for slot in CONSTANT_SLOTS.get(node.op_type, ()):
            if slot < len(node.input) and node.input[slot] in feeds and node.input[slot] not in produced:
                wanted[node.input[slot]] = feeds[node.input[slot]]
    return wanted


def evaluate(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    """Outputs in onnxruntime without its optimizations, else in the reference evaluator."""
    import onnxruntime as ort
    from onnx.reference import ReferenceEvaluator

    types = {port.name: port.type.tensor_type.elem_type for port in model.graph.input}
    given = {}
    for name, value in feeds.items():
        if name in types:
            if isinstance(value, (np.ndarray, np.generic)) and types[name]:
                value = np.asarray(value).astype(onnx.helper.tensor_dtype_to_np_dtype(types[name]))
            given[name] = value
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        opened = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return list(opened.run(None, given))
    except Exception:
        with np.errstate(all="ignore"):
            return list(ReferenceEvaluator(model).run(None, given))


def compare(case: Case, model: onnx.ModelProto, expected: list[Any], actual: list[Any]) -> str:
    """'' where all outputs agree within the suite's tolerances, by value; else what does not."""
    rtol, atol = max(getattr(case.found, "rtol", 1e-3), 1e-3), max(getattr(case.found, "atol", 1e-7), 1e-7)
    random = random_outputs(model)
    for port, want, got in zip(model.graph.output, expected, actual, strict=True):
        if want is None or isinstance(want, list):
            if isinstance(want, list) and len(want) == len(got):
                pairs = list(zip(want, got, strict=True))
            elif want is None and got is None:
                continue
            else:
                return f"{port.name}: a sequence differs"
        else:
            pairs = [(want, got)]
        for a, b in pairs:
            a, b = np.asarray(a), np.asarray(b)
            if a.shape != b.shape:
                return f"{port.name}: shape {b.shape}, not {a.shape}"
            if port.name in random or not a.size:
                continue
            if a.dtype.kind in "OSU":
                if not (a.astype(str) == b.astype(str)).all():
                    return f"{port.name}: strings differ"
                continue
            with np.errstate(all="ignore"):
                x, y = a.astype(np.float64), b.astype(np.float64)
                finite = np.abs(x[np.isfinite(x)])
                floor = max(atol, 4 * EPSILON * float(finite.max())) if finite.size else atol
                loose = max(rtol, 2e-2) if a.dtype.name in ("bfloat16",) or "float8" in a.dtype.name else rtol
                if not np.allclose(y, x, rtol=loose, atol=floor, equal_nan=True):
                    return f"{port.name}: {np.nanmax(np.abs(x - y)):.3g} off"
    return ""


def is_all_constant(model: onnx.ModelProto) -> bool:
    """Whether no output depends on an input."""
    makers = {name: node for node in model.graph.node for name in node.output}
    inputs = {port.name for port in model.graph.input}
    pending, seen = [port.name for port in model.graph.output], set()
    while pending:
        name = pending.pop()
        if name in inputs:
            return False
        if name in seen or name not in makers:
            continue
        seen.add(name)
        node = makers[name]
        if any(attribute.type in (5, 10) for attribute in node.attribute):
            return False
        pending.extend(node.input)
    return True


def judge(
    case: Case, juries: list[Jury], entries: Any, words: argparse.Namespace, known: dict[str, Any] | None = None
) -> dict[str, Any]:
    model = case.model()
    data = [(list(map(_array, inputs)), list(map(_array, outputs))) for inputs, outputs in case.data()]
    inputs = data[0][0] if data else []
    feeds = feeds_of(model, inputs)
    if words.dynamic:
        model = with_dynamic_leading_dims(model)
    shown = profile_of(model, feeds, words.dynamic)
    record: dict[str, Any] = {
        "name": case.name,
        "kind": case.kind,
        "ops": sorted({n.op_type for n in model.graph.node}),
    }
    ask = known is None and not words.no_source
    record["source"] = {jury.version: jury.ask(model, shown) for jury in juries} if ask else {}
    if known is not None:
        record["source"] = known
    record["result"], record["wrong"] = {}, {}
    signal.signal(signal.SIGALRM, _alarm)
    made: dict[tuple[Any, ...], onnx.ModelProto] = {}
    for jury in juries:
        bound: dict[str, Any] = {}
        helped = not record["source"].get(jury.version, {}).get("build")
        if helped:
            bound = to_bind(model, feeds)
        record["bound"] = sorted(bound)
        signal.alarm(int(words.seconds))
        try:
            key = (helped, *sorted(bound))
            if key not in made:  # no rule asks for the version
                made[key] = optimize(model, bound, entries, jury.version, promote=helped)
            result = made[key]
        except _Late:
            record["result"][jury.version] = {
                "parse": False,
                "build": False,
                "reason": "graphopt: late",
                "op": "",
                "late": 1,
            }
            continue
        except Exception as error:
            record["result"][jury.version] = {
                "parse": False, "build": False, "op": "", "reason": f"graphopt: {type(error).__name__}: {error}"[:300]
            }  # fmt: skip
            continue
        finally:
            signal.alarm(0)
        if words.keep:
            (words.keep / f"{case.name}.onnx").write_bytes(result.SerializeToString())
        record["result"][jury.version] = verdict = jury.ask(result, shown)
        if is_all_constant(result) and set(feeds) - set(bound) and not is_all_constant(model):
            verdict["constant"] = True
        if verdict["build"]:
            signal.alarm(int(words.seconds))
            try:
                for values, wanted in data:
                    given = feeds_of(case.model(), values)
                    if any(not np.array_equal(given[name], value) for name, value in bound.items()):
                        continue
                    wrong = compare(case, model, wanted, evaluate(result, given))
                    if wrong and not compare(case, model, evaluate(case.model(), given), evaluate(result, given)):
                        record.setdefault("as_source", wrong)  # the evaluator itself is off, alike for the source
                        wrong = ""
                    if wrong:
                        record["wrong"][jury.version] = wrong
                        break
            except _Late:
                record["wrong"][jury.version] = "late"
            except Exception as error:
                record["wrong"][jury.version] = f"cannot run: {type(error).__name__}: {error}"[:300]
            finally:
                signal.alarm(0)
    return record


def count(verdicts: list[dict[str, Any]], what: str) -> int:
    return sum(bool(one.get(what)) for one in verdicts)


def summary(records: list[dict[str, Any]]) -> str:
    lines = [f"{len(records)} models"]
    versions = sorted({version for one in records for version in one["result"]})
    for version in versions:
        before = [one["source"].get(version, {}) for one in records]
        after = [one["result"].get(version, {}) for one in records]
        good = [one for one in records if is_good(one, version)]
        lost = [
            one["name"] for one in records if one["source"].get(version, {}).get("build") and not is_good(one, version)
        ]
        lines += [
            f"TensorRT-RTX {version}",
            f"  as they are: {count(before, 'parse')} parse, {count(before, 'build')} build",
            f"  made legal:  {count(after, 'parse')} parse, {count(after, 'build')} build",
            f"  of these right: {len(good)}; wrong: {sum(version in one['wrong'] for one in records)}; "
            f"all outputs constant: {count(after, 'constant')}; "
            f"with bound inputs: {sum(bool(one['bound']) for one in good)}",
            f"  crashes: {count(before, 'crash')} -> {count(after, 'crash')}; lost: {len(lost)} {lost[:9]}",
        ]
        why = Counter(
            (a.get("op", ""), a.get("reason", "")[:90]) for a in after if not a.get("build") or a.get("constant")
        )
        lines += [f"    {times:4} {op:24} {reason}" for (op, reason), times in why.most_common(60)]
        lines += [f"    wrong {one['name']}: {one['wrong'][version]}" for one in records if version in one["wrong"]]
    return "\n".join(lines)


def is_good(record: dict[str, Any], version: str) -> bool:
    found = record["result"].get(version, {})
    return bool(found.get("build")) and version not in record["wrong"] and not found.get("constant")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.legalize", description=__doc__)
    parser.add_argument("--python", action="append", help="an interpreter with tensorrt_rtx; repeat for each version")
    parser.add_argument("--sample", type=int, default=1, help="every n-th model only")
    parser.add_argument("--only", default="", help="models whose name or operators contain one of these, with commas")
    parser.add_argument("--failed", type=Path, help="only models that are not good in this file of records")
    parser.add_argument("--json", type=Path, default=Path("legalize.jsonl"), help="records, a line each")
    parser.add_argument("--fresh", action="store_true", help="begin anew instead of going on")
    parser.add_argument("--dynamic", action="store_true", help="make the leading dimension of every input dynamic")
    parser.add_argument("--no-source", action="store_true", help="do not judge the models as they are")
    parser.add_argument("--sources", type=Path, help="take the verdicts on the models as they are from these records")
    parser.add_argument("--seconds", type=float, default=60, help="limit for each step")
    parser.add_argument("--keep", type=Path, help="write the legal models into this folder")
    words = parser.parse_args()
    if words.fresh:
        words.json.unlink(missing_ok=True)
    if words.keep:
        words.keep.mkdir(parents=True, exist_ok=True)
    records = [json.loads(line) for line in words.json.read_text().splitlines()] if words.json.exists() else []
    done = {(one["kind"], one["name"]) for one in records}
    chosen = [case for case in cases()[:: words.sample] if (case.kind, case.name) not in done]
    if words.only:
        parts = words.only.split(",")
        ops = {case.name: {node.op_type for node in case.model().graph.node} for case in chosen}
        chosen = [c for c in chosen if any(part in c.name or part in ops[c.name] for part in parts)]
    if words.failed:
        old = [json.loads(line) for line in words.failed.read_text().splitlines()]
        bad = {one["name"] for one in old if not all(is_good(one, version) for version in one["result"])}
        chosen = [case for case in chosen if case.name in bad]
    sources = {}
    if words.sources:
        for line in words.sources.read_text().splitlines():
            one = json.loads(line)
            sources[one["kind"], one["name"]] = one["source"]
    entries = Registry().select()
    juries = [Jury(python, words.seconds) for python in words.python or [sys.executable]]
    try:
        with words.json.open("a") as file:
            for number, case in enumerate(chosen):
                if number % 100 == 0 and number:
                    print(f"{number} of {len(chosen)}", file=sys.stderr, flush=True)
                records.append(judge(case, juries, entries, words, sources.get((case.kind, case.name))))
                file.write(json.dumps(records[-1]) + "\n")
                file.flush()
    finally:
        for jury in juries:
            jury.close()
    print(summary(records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
