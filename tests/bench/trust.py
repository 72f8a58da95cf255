"""python -m tests.bench.trust CORPUS: every model under `--verify end` and `--verify each`: refusals and costs.

CPU time of all processes of a run, each model in a process of its own that has worked before. `end` runs 3 samples,
then as many as `each` had, so that both costs can be told: of the options as they are, and of the same samples.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import signal
import statistics
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import graphopt
from graphopt.testing import model

WARM = model("g (float[2,2] x) => (float[2,2] y) { a = Neg(x) b = Neg(a) y = Exp(b) }")


def cpu_seconds() -> float:
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in spent)


def measure(path: Path) -> dict[str, Any]:
    """What one model gives under both, at its default inputs."""
    for mode in ("end", "each"):
        graphopt.optimize(WARM, verify=mode)
    row: dict[str, Any] = {"model": path.stem}
    each = timed(row, "each", path, verify="each")
    if each is not None:
        found = each.report.each
        assert found is not None
        row |= {
            "nodes": each.report.source.node_count,
            "changes": found.changes,
            "compared": found.compared,
            "samples": len(found.samples),
            "notes": [*found.notes, *each.report.verification.notes],
            "warnings": each.report.warnings,
            "refused": [(one["pass"], one["node"], one["sample"], one["why"]) for one in each.report.refused],
        }
    timed(row, "end", path, verify="end")
    timed(row, "end_same", path, verify="end", samples=max(row.get("samples", 3), 1))
    return row


def timed(row: dict[str, Any], label: str, path: Path, **options: Any) -> Any:
    start = cpu_seconds()
    try:
        result = graphopt.optimize(path, **options)
        row[f"{label}_status"] = result.status
        return result
    except graphopt.GraphoptError as error:
        row[f"{label}_status"] = f"{type(error).__name__}: {error}"
        return None
    finally:
        row[f"{label}_cpu_s"] = round(cpu_seconds() - start, 3)


def alone(path: Path, seconds: int, pipe: Any) -> None:
    signal.alarm(seconds)
    pipe.send(measure(path))


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """The table of docs/reliability.md."""
    done = [row for row in rows if "refused" in row]
    changed = [row for row in done if row["changes"] and "end_same_cpu_s" in row]
    refused = [(row["model"], *one) for row in done for one in row["refused"]]
    lines = [
        f"models {len(rows)}, finished {len(done)}, with changes {len(changed)}",
        f"changes {sum(row['changes'] for row in done)}, compared on their own {sum(row['compared'] for row in done)}",
        *(f"{mode}: {count}" for mode, count in sorted(statuses(rows).items())),
        f"refused {len(refused)}",
        *(f"  {one}" for one in refused),
    ]
    for label, what in (("end", "`end` as it is"), ("end_same", "`end` with as many samples")):
        ratios = sorted(row["each_cpu_s"] / max(row[f"{label}_cpu_s"], 1e-3) for row in changed)
        if len(ratios) > 1:
            middle, p90 = statistics.median(ratios), statistics.quantiles(ratios, n=10)[-1]
            lines.append(f"CPU time against {what}: median {middle:.2f}, p90 {p90:.2f}, worst {ratios[-1]:.2f}")
    return "\n".join(lines)


def statuses(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        for label in ("each", "end"):
            status = str(row.get(f"{label}_status", row.get("died", "not run"))).split(":")[0]
            found[f"{label} {status}"] = found.get(f"{label} {status}", 0) + 1
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.trust", description=__doc__)
    parser.add_argument("corpus", type=Path, help="folder of *.onnx")
    parser.add_argument("--only", default="*", help="models, as a glob; several with commas")
    parser.add_argument(
        "--json", type=Path, default=Path("trust.jsonl"), help="one line a model; known ones are not run again"
    )
    parser.add_argument("--largest", type=float, default=float("inf"), help="MB; larger models are left out")
    parser.add_argument("--limit", type=int, default=900, help="seconds for a model")
    words = parser.parse_args()
    paths = [p for p in words.corpus.glob("*.onnx") if any(fnmatch(p.stem, glob) for glob in words.only.split(","))]
    paths = [path for path in paths if path.stat().st_size <= words.largest * 1e6]
    rows = [json.loads(line) for line in words.json.read_text().splitlines()] if words.json.exists() else []
    known = {row["model"] for row in rows}
    context = multiprocessing.get_context("fork")
    for path in sorted(paths, key=lambda one: one.stat().st_size):
        if path.stem in known:
            continue
        mine, theirs = context.Pipe(duplex=False)
        child = context.Process(target=alone, args=(path, words.limit, theirs))
        child.start()
        theirs.close()
        try:
            row = mine.recv()
        except EOFError:
            row = {"model": path.stem, "died": "died, or took too long"}
        child.join()
        rows.append(row)
        with words.json.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{len(rows)}/{len(paths)} {path.stem}: {row.get('each_status', row.get('died'))}", file=sys.stderr)
    print(summary(rows))
    return 1 if any(row.get("refused") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
