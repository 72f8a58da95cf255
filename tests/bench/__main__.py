"""python -m tests.bench CORPUS: graphopt and its peers over every model, as tables."""

from __future__ import annotations

import argparse
import json
import sys
import threading
from fnmatch import fnmatch
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from . import table
from .run import PEERS, Bench, Setup
from .verdict import OURS, losses, verdict


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("corpus", type=Path, help="folder of NAME.onnx with NAME.npz (see tests.bench.corpus)")
    parser.add_argument(
        "--peers", default=".bench/peers/bin/python", help="the Python that has them (see tests/bench/setup)"
    )
    parser.add_argument("--cache", type=Path, default=Path(".bench/cache"), help="peers' records, kept between runs")
    parser.add_argument("--only", default="*", help="models, as a glob; several with commas")
    parser.add_argument("--tools", default=",".join((OURS, *PEERS)))
    parser.add_argument("--repeats", type=int, default=3, help="calls of which the fastest counts")
    parser.add_argument("--limit", type=float, default=120, help="seconds for a tool on a model")
    parser.add_argument("--engines", action="store_true", help="build engines, too, and compare their bytes")
    parser.add_argument("--no-layers", action="store_true", help="do not ask TensorRT's parser")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all records here")
    parser.add_argument("--gaps", type=Path, help="write here where ours is behind")
    parser.add_argument("--full", action="store_true", help="also a table for each metric with every tool")
    words = parser.parse_args()
    chosen = words.only.split(",")
    paths = [p for p in sorted(words.corpus.glob("*.onnx")) if any(fnmatch(p.stem, glob) for glob in chosen)]
    paths = [p for p in paths if p.with_suffix(".npz").exists()]
    if not paths:
        print(f"error: no models in {words.corpus}", file=sys.stderr)
        return 2
    results = measure(paths, words)
    tools = words.tools.split(",")
    print(table.verdicts(results), table.summary(results, tools), sep="\n\n")
    if words.full:
        for metric in ("nodes", "layers", "bytes", "seconds", "peak_rss", "difference"):
            print(f"\n## {metric}\n", table.table(results, tools, metric), sep="\n")
    return 1 if any(losses(one["source"], one["tools"]) for one in results.values()) else 0


def keep(results: dict[str, Any], words: argparse.Namespace) -> None:
    """What is known so far, for those who cannot wait for the end."""
    if words.json:
        words.json.write_text(json.dumps(results))
    if words.gaps:
        words.gaps.write_text(table.gaps(results) + "\n")


def measure(paths: list[Path], words: argparse.Namespace) -> dict[str, Any]:
    """The records of each model, several models at a time if --jobs says so."""
    setup = Setup(
        sys.executable, words.peers, words.cache, words.repeats, limit=words.limit, engines=words.engines,
        layers=not words.no_layers,
    )  # fmt: skip
    todo: Queue[Path] = Queue()
    for path in sorted(paths, key=lambda one: one.stat().st_size):
        todo.put(path)
    results: dict[str, Any] = {}
    lock = threading.Lock()

    def work() -> None:
        bench = Bench(setup, words.tools.split(","))
        while True:
            try:
                path = todo.get_nowait()
            except Empty:
                return bench.close()
            one = bench.model(path)
            with lock:
                results[path.stem] = one
                keep(dict(sorted(results.items())), words)
            print(f"{len(results)}/{len(paths)} {path.stem}: {verdict(one['source'], one['tools'])}", file=sys.stderr)

    threads = [threading.Thread(target=work) for _ in range(words.jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return dict(sorted(results.items()))


if __name__ == "__main__":
    sys.exit(main())
