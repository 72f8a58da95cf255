"""python -m tests.bench.legalize_check: what `graphopt check` expects before any build, against the build.

    --suite            ONNX's 2,024 operator models: as a first attempt; and with --promote-io, and --bind where the
                       parser wants constants
    --corpus FOLDER    *.onnx with inputs in *.npz beside them; smallest first; builds at optimization level 0
    --table FILE       the tables of docs/legalize.md

Parsers and builders run in children, one for each --python. Verdicts are remembered by the digest of the model that was
judged, so that what was built once is not built again; a model that takes longer than --seconds is left out and told.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.backends.protocol import ParseError, ParserError
from graphopt.check import Checked, check
from graphopt.config import Limits, Target
from graphopt.errors import BackendError, GraphoptError, UsageError
from tests.bench.legalize import Jury, _array, feeds_of, profile_of, to_bind
from tests.ir.operator_models import cases


class Remembered:
    """A backend for `check`: a jury's verdicts, each asked for once."""

    name = "tensorrt_rtx"

    def __init__(self, jury: Jury, memory: Path, level: int | None) -> None:
        self.jury, self.memory, self.level = jury, memory, level
        self.profile: dict[str, Any] = {}
        self.builds = ("source", "result")
        lines = memory.read_text().splitlines() if memory.exists() else []
        self.known = {one["key"]: one["verdict"] for one in map(json.loads, lines)}

    def available(self) -> None:
        return None

    def version(self) -> str:
        return str(self.jury.version)

    def parse(self, path: Path) -> None:
        found = self._ask(path, parse_only=True)
        if found.get("crash"):
            raise BackendError(f"the parser ended: {found['crash']}")
        if not found["parse"]:
            errors = [
                ParserError(node or (f"#{i}" if i >= 0 else ""), op, why, i) for node, op, why, i in found["errors"]
            ]
            raise ParseError("cannot parse", errors=errors or [ParserError("", "", found["reason"])])

    def build(self, path: Path, engine: Path, *_: Any) -> None:
        if path.stem not in self.builds:
            raise UsageError("not asked")
        found = self._ask(path, parse_only=False)
        if found.get("crash") == "hang":
            raise UsageError("it took too long")
        if not found["build"]:
            raise BackendError(found["reason"] or found.get("crash", ""))

    def _ask(self, path: Path, *, parse_only: bool) -> dict[str, Any]:
        digest = hashlib.sha256(path.read_bytes())
        for other in sorted(path.parent.glob(path.name + "*")):
            if other != path:
                digest.update(other.read_bytes())
        digest.update(json.dumps([self.jury.version, "" if parse_only else self.profile, self.level]).encode())
        key = digest.hexdigest()[:24]
        if key not in self.known:
            request: dict[str, Any] = {"model": str(path), "profile": self.profile}
            if parse_only:
                request["parse_only"] = True
            if self.level is not None:
                request["level"] = self.level
            self.known[key] = self.jury.answer(request)
            with self.memory.open("a") as file:
                file.write(json.dumps({"key": key, "verdict": self.known[key]}) + "\n")
        return self.known[key]


def row(found: Checked, source_nodes: set[str]) -> dict[str, Any]:
    """What was said before the build, what came, and whether each blocker names nodes of the source in plain words."""
    blockers = [
        {"op": one.op, "source": list(one.source), "node": one.node, "reason": one.reason, "remedy": one.remedy}
        for one in found.result.blockers
    ]
    return {
        "predicted": found.predicted,
        "parses": found.result.parses,
        "builds": found.result.builds,
        "reason": found.result.reason,
        "source_builds": found.source.builds,
        "blockers": blockers,
    }


def suite(backends: list[Remembered], words: argparse.Namespace, keep: Any) -> None:
    for number, case in enumerate(cases()[:: words.sample]):
        if number % 200 == 0 and number:
            print(f"{number} models", file=sys.stderr, flush=True)
        if words.only and words.only not in case.name:
            continue
        model = case.model()
        data = case.data()
        feeds = feeds_of(model, list(map(_array, data[0][0]))) if data else {}
        profile = profile_of(model, feeds)
        wanted = to_bind(model, feeds)
        for how in ("first attempt", "helped"):
            for backend in backends:
                backend.profile, backend.level = profile, None
                label = f"suite, {how}"
                plain = how == "first attempt"
                keep(
                    label,
                    f"{case.kind}/{case.name}",
                    backend,
                    model,
                    bind={} if plain else wanted,
                    promote_io=not plain,
                )


def corpus(backends: list[Remembered], words: argparse.Namespace, keep: Any) -> None:
    paths = sorted(words.corpus.glob("*.onnx"), key=lambda one: (one.stat().st_size, one.name))
    for number, path in enumerate(paths[:: words.sample]):
        if words.only and words.only not in path.name:
            continue
        began = time.monotonic()
        feeds = dict(np.load(path.with_suffix(".npz"), allow_pickle=False)) if path.with_suffix(".npz").exists() else {}
        profile = {}
        for name, value in feeds.items():
            profile[name] = {"shapes": [list(value.shape)] * 3}
            if value.dtype.kind in "iub" and value.size <= 64:
                profile[name]["values"] = [int(one) for one in value.reshape(-1)]
        for backend in backends:
            backend.profile, backend.level = profile, 0
            backend.builds = ("result",)
            keep("corpus", path.stem, backend, path, bind={}, promote_io=False)
        seconds = time.monotonic() - began
        print(f"{number + 1}/{len(paths)} {path.stem} {seconds:.0f} s", file=sys.stderr, flush=True)


def right(one: dict[str, Any]) -> bool:
    return bool(one["predicted"]) == bool(one["builds"])


def told(one: dict[str, Any]) -> bool:
    """Whether every blocker of a model that does not build has a place and a reason."""
    return bool(one["blockers"]) and all(b["reason"] and (b["source"] or b["node"] or b["op"]) for b in one["blockers"])


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| models | TensorRT-RTX | builds | does not | expected rightly | node and reason named |",
        "|---|---|---|---|---|---|",
    ]
    judged = [one for one in rows if one.get("builds") is not None or one.get("parses") is False]
    for label, version in sorted({(one["label"], one["version"]) for one in rows}):
        mine = [one for one in judged if (one["label"], one["version"]) == (label, version)]
        every = [one for one in rows if (one["label"], one["version"]) == (label, version)]
        bad = [one for one in mine if not one["builds"]]
        good = sum(map(right, mine))
        lines.append(
            f"| {label} ({len(mine)} of {len(every)} judged) | {version} | {len(mine) - len(bad)} | {len(bad)} | "
            f"{good} ({100 * good / max(len(mine), 1):.2f} %) | {sum(map(told, bad))} of {len(bad)} |"
        )
    lines += ["", "| models | operator | reason | what is done | how many |", "|---|---|---|---|---|"]
    newest = max((one["version"] for one in rows), default="")
    why: Counter[tuple[str, ...]] = Counter()
    for one in judged:
        if not one["builds"] and one["version"] == newest:
            found = one["blockers"][0] if one["blockers"] else {"op": "?", "reason": one["reason"], "remedy": ""}
            key = (one["label"], found["op"], found["reason"], found["remedy"])
            why[tuple(text.replace("|", "\\|") for text in key)] += 1
    lines += [
        f"| {' | '.join(key)} | {times} |" for key, times in sorted(why.items(), key=lambda kv: (kv[0][0], -kv[1]))
    ]
    for one in judged:
        if not right(one):
            lines.append(
                f"wrong: {one['label']} {one['version']} {one['name']}: said {one['predicted']}: {one['reason'][:200]}"
            )
        elif not one["builds"] and not told(one):
            lines.append(f"not told: {one['label']} {one['version']} {one['name']}: {one['reason'][:200]}")
    lines += [f"not judged: {one['label']} {one['version']} {one['name']}: {one.get('reason') or one.get('failed')}"
              for one in rows if one not in judged]  # fmt: skip
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help="an interpreter with tensorrt_rtx; repeat for each version")
    parser.add_argument("--suite", action="store_true")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--table", type=Path, help="print the tables of this file and end")
    parser.add_argument(
        "--json", type=Path, default=Path("check.jsonl"), help="a line a model; known ones are not run again"
    )
    parser.add_argument("--fresh", action="store_true", help="ask anew for every model; verdicts are still remembered")
    parser.add_argument("--memory", type=Path, default=Path("check_memory.jsonl"), help="verdicts, by digest")
    parser.add_argument("--sample", type=int, default=1, help="every n-th model only")
    parser.add_argument("--only", default="", help="models whose name holds this")
    parser.add_argument("--failed", type=Path, help="only what did not build, or was not expected, in these records")
    parser.add_argument("--seconds", type=float, default=120, help="limit for a build")
    words = parser.parse_args()
    if words.table:
        print(table([json.loads(line) for line in words.table.read_text().splitlines()]))
        return 0
    if words.fresh:
        words.json.unlink(missing_ok=True)
    rows = [json.loads(line) for line in words.json.read_text().splitlines()] if words.json.exists() else []
    known = {(one["label"], one["name"], one["version"]) for one in rows}
    wanted = None
    if words.failed:
        old = map(json.loads, words.failed.read_text().splitlines())
        wanted = {(one["label"], one["name"]) for one in old if not one["builds"] or not right(one)}
    juries = [Jury(python, words.seconds) for python in words.python or [sys.executable]]
    backends = [Remembered(jury, words.memory, None) for jury in juries]

    def keep(label: str, name: str, backend: Remembered, model: Any, **options: Any) -> None:
        if (label, name, backend.version()) in known or (wanted is not None and (label, name) not in wanted):
            return
        about = {"label": label, "name": name, "version": backend.version()}
        began = time.process_time()
        try:
            found = check(model, target=Target(version=backend.version()), backend=backend,
                          limits=Limits(pass_seconds=words.seconds), **options)  # fmt: skip
            one = {**about, **row(found, set())}
        except GraphoptError as error:
            one = {**about, "failed": f"{type(error).__name__}: {error}"[:300], "builds": None}
        one["cpu_s"] = round(time.process_time() - began, 2)
        rows.append(one)
        with words.json.open("a") as file:
            file.write(json.dumps(one) + "\n")

    try:
        if words.suite:
            suite(backends, words, keep)
        if words.corpus:
            corpus(backends, words, keep)
    finally:
        for jury in juries:
            jury.close()
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
