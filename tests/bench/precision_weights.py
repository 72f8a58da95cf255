"""int4 and int8 weights of language models: error and agreement of the next token with float32.

python -m tests.bench.precision_weights .bench/corpus -o weights.json [NAME ...]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import onnx

import graphopt
from graphopt.config import Target
from graphopt.ir.convert import convert_opset
from graphopt.ir.load import load
from graphopt.ir.save import to_proto
from graphopt.numerics.execute import Runner
from graphopt.numerics.rounding import rounded_copy
from graphopt.precision.metric import error_of, judged, relative_l2
from graphopt.precision.stage import Request, lower


def one(path: Path) -> dict:
    feeds = dict(np.load(path.with_suffix(".npz")))
    base = graphopt.optimize(str(path), verify="none").graph
    convert_opset(base, max(21, int(base.opset)))
    source = to_proto(base)
    found: dict = {"bytes": source.ByteSize()}
    with tempfile.TemporaryDirectory(prefix="graphopt-") as where, Runner() as runner:
        folder = Path(where)
        onnx.save(source, folder / "reference.onnx")
        runner.open(folder / "reference.onnx")
        want = runner.run(feeds)
        ways = {
            "fp16": {"precision": "fp16"},
            "int8 weights": {"precision": "int8", "weights_only": True},
            "int4 weights": {"precision": "int4"},
        }
        for key, words in ways.items():
            graph = load(source)
            about = lower(graph, Request(calib=[feeds], max_error=float("inf"), **words), Target())
            result = to_proto(graph)
            (folder / "m.onnx").write_bytes(result.SerializeToString())
            (folder / "r.onnx").write_bytes(rounded_copy(folder / "m.onnx"))
            runner.open(folder / "r.onnx")
            got = runner.run(feeds)
            first = next(name for name in want if judged(want[name], got[name]))
            same = np.mean(np.asarray(want[first]).argmax(-1) == np.asarray(got[first]).argmax(-1))
            found[key] = {"bytes": result.ByteSize(), "error": error_of(relative_l2, want[first], got[first]),
                          "same token": float(same), "tensors": about.plan.counts()}  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=["gpt2-ts13", "llama-ts17-dyn", "gpt-neox-ts17-dyn", "gemma-ts17"])
    parser.add_argument("-o", "--output", type=Path, default=Path("weights.json"))
    words = parser.parse_args()
    done = {}
    for name in words.names:
        try:
            done[name] = one(words.folder / f"{name}.onnx")
        except Exception as error:
            done[name] = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(name, json.dumps(done[name]), flush=True)
        words.output.write_text(json.dumps(done, indent=1))


if __name__ == "__main__":
    main()
