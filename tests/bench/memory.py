"""python -m tests.bench.memory: peak memory and time of `graphopt optimize` on a model with 3.2 GB of external data."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.measure import peak_rss, sparse_model

GB = 1e9
COUNT, SIDE = 20, 6324
"""Weights of 160 MB each: 3.2 GB."""


def filled(folder: Path, count: int, side: int) -> Path:
    """sparse_model, its data overwritten with random numbers: holes in a file would be copied in no time."""
    path = sparse_model(folder, count=count, side=side)
    random = np.random.default_rng(0)
    with (folder / "weights.bin").open("r+b") as file:
        for _ in range(count):
            file.write(random.standard_normal(side * side, np.float32).tobytes())
    return path


def copied(folder: Path) -> float:
    """Seconds that a copy of the data file takes."""
    began = time.perf_counter()
    shutil.copyfile(folder / "weights.bin", folder / "copy.bin")
    took = time.perf_counter() - began
    (folder / "copy.bin").unlink()
    return took


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.memory", description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help="weights of 160 MB")
    parser.add_argument("--folder", type=Path, help="where there is room for three times the model")
    words = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-", dir=words.folder) as name:
        folder = Path(name)
        path = filled(folder, words.count, SIDE)
        size, largest = words.count * SIDE * SIDE * 4, SIDE * SIDE * 4
        print("| run | peak RSS, GB | limit, GB | wall s | copying, s | limit, s |", "|---" * 6 + "|", sep="\n")
        for verify, limit in (("none", 1.2 * GB + largest), ("end", 2 * size + 1.5 * GB)):
            copy = min(copied(folder) for _ in range(2))
            (folder / "out").mkdir(exist_ok=True)
            code, text, peak, took = peak_rss(
                ["optimize", str(path), "--verify", verify, "-o", str(folder / "out" / "out.onnx")]
            )
            shutil.rmtree(folder / "out")
            late = verify == "none" and took > 2.5 * copy
            failed |= code != 0 or peak > limit or late
            bound = f"{2.5 * copy:.1f}" if verify == "none" else "-"
            print(
                f"| --verify {verify} | {peak / GB:.2f} | {limit / GB:.2f} | {took:.1f} | {copy:.1f} | {bound} |",
                flush=True,
            )
            if code != 0:
                print(f"exit code {code}: {text[-400:]}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
