"""python -m tests.bench.corpus FOLDER: write the corpus, each model in a process of its own."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path

from . import packaged, store

GENERATORS = (
    "synthetic", "hand_written", "timm_nets", "language", "plain", "wider", "further", "clouds", "tasks", "keras_nets",
    "light", "derived",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.corpus", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--packages", type=Path, help="where tests/bench/setup put the packages that ship networks")
    parser.add_argument("--only", default="*", help="names to make, as a glob; several with commas")
    parser.add_argument("--generators", default=",".join(GENERATORS), help="modules of this package")
    parser.add_argument("--again", action="store_true", help="also what is there already")
    parser.add_argument("--list", action="store_true", help="say the names and make nothing")
    parser.add_argument("--here", action="store_true", help="no child processes")
    words = parser.parse_args()
    if words.packages:
        packaged.register(words.packages)
    homes = dict.fromkeys(store.ENTRIES, GENERATORS[0])
    for name in words.generators.split(","):
        try:
            importlib.import_module(f".{name}", __package__)
        except ImportError as error:
            print(f"{name}: skipped, {error}", file=sys.stderr)
        homes |= dict.fromkeys(store.ENTRIES.keys() - homes.keys(), name)
    words.folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    for one in list(store.ENTRIES.values()):
        path = words.folder / f"{one.name}.onnx"
        if not any(fnmatch(one.name, glob) for glob in words.only.split(",")):
            continue
        if words.list or (path.with_suffix(".json").exists() and not words.again):
            print(one.name, one.family, one.exporter, sep="\t") if words.list else None
        elif words.here:
            print(one.name, store.make(one, words.folder), flush=True)
        else:
            failed += not _child(one.name, homes[one.name], words)
    return 1 if failed else 0


def _child(name: str, generator: str, words: argparse.Namespace) -> bool:
    began = time.monotonic()
    packages = ["--packages", str(words.packages)] if words.packages else []
    command = [sys.executable, "-m", __package__, str(words.folder), *packages, "--only", name, "--here"]
    command += ["--again", "--generators", generator]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    tail = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-1:]
    print(f"{'ok ' if done.returncode == 0 else 'FAILED'} {name} {time.monotonic() - began:.0f} s {tail}", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
