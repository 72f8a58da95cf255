"""python -m tests.bench.scaling: how graphopt's time grows with the graph. CPU seconds, the best of several calls."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from math import log2
from pathlib import Path

import onnx

from .corpus.synthetic import Made, chain, deep, readers, wide
from .forks import Forks
from .run import HERE

SIZES = (1_500, 3_000, 6_000, 12_000, 21_000, 42_000, 84_000)
READERS = (1_250, 2_500, 5_000, 10_000, 20_000)
SHAPES: dict[str, tuple[Callable[[int], Made], tuple[int, ...]]] = {
    "chain": (chain, SIZES),
    "wide": (wide, SIZES),
    "readers forward": (lambda n: readers(n, "forward"), READERS),
    "readers reverse": (lambda n: readers(n, "reverse"), READERS),
    "readers random": (lambda n: readers(n, "random"), READERS),
    "nested subgraphs": (lambda n: deep(n), (4, 8, 16, 31)),
}
LIMIT = 2.2
"""Twice the nodes may take this much longer."""


def per_doubling(sizes: tuple[int, int], seconds: tuple[float, float]) -> float:
    """The factor in time of one doubling of the size, from two measurements: t ratio ** (1 / log2 size ratio)."""
    return float((seconds[1] / seconds[0]) ** (1 / log2(sizes[1] / sizes[0])))


def measure(tool: Forks, name: str, make: Callable[[int], Made], size: int, folder: Path, repeats: int) -> float | str:
    path = folder / "model.onnx"
    onnx.save(make(size)[0], path)
    found = tool.ask(
        {"tool": name, "source": str(path), "result": str(folder / "out.onnx"), "repeats": repeats, "patience": 30}, 600
    )
    return found["error"][:60] if "error" in found else float(min(found["cpu_seconds"]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scaling", description=__doc__)
    parser.add_argument("--only", default="", help="one of: " + ", ".join(SHAPES))
    parser.add_argument("--most", type=int, default=SIZES[-1], help="no larger graphs than this")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", default="", help="their Python: also times onnxsim on the chain, to 21,000 nodes")
    words = parser.parse_args()
    worst = 0.0
    print("| graph | size | CPU s | per doubling |", "|---|---|---|---|", sep="\n")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="graphopt-bench-"))
        ours = stack.enter_context(Forks(sys.executable, HERE / "tools.py", ("graphopt",)))
        for shape, (make, sizes) in SHAPES.items():
            if words.only not in ("", shape):
                continue
            before: tuple[int, float] | None = None
            for size in (one for one in sizes if one <= words.most):
                took = measure(ours, "graphopt", make, size, Path(folder), words.repeats)
                factor = ""
                if isinstance(took, float):
                    if before:
                        grown = per_doubling((before[0], size), (before[1], took))
                        worst = max(worst, grown)
                        factor = f"{grown:.2f}"
                    before = (size, took)
                else:
                    worst = float("inf")
                print(
                    f"| {shape} | {size} | {took if isinstance(took, str) else f'{took:.2f}'} | {factor} |", flush=True
                )
        if words.peers:
            with Forks(words.peers, HERE / "tools.py", ("onnxsim",)) as peer:
                for size in (1_500, 6_000, 21_000):
                    took = measure(peer, "onnxsim", chain, size, Path(folder), 1)
                    print(
                        f"| onnxsim: chain | {size} | {took if isinstance(took, str) else f'{took:.2f}'} | |",
                        flush=True,
                    )
    print(f"\nThe largest factor per doubling is {worst:.2f}; the limit is {LIMIT}.")
    return 1 if worst > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
