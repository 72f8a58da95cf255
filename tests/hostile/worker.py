"""Runs hostile models through the whole of graphopt, one after another; says which, so that a death names its case.

python -m tests.hostile.worker FIRST LAST FOLDER [VERIFY_EVERY]
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

MEMORY_BYTES = 6 << 30


def furnish(folder: Path) -> Path:
    """A room for models, with links that lead out of it, beside a secret."""
    room = folder / "room"
    (room / "folder").mkdir(parents=True)
    (folder / "secret.bin").write_bytes(b"SECRET" * 1000)
    (room / "data.bin").write_bytes(bytes(8192))
    (room / "link.bin").symlink_to("../secret.bin")
    (room / "loop.bin").symlink_to("loop.bin")
    (room / "folderlink").symlink_to("..")
    return room


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def through(raw: bytes, room: Path, verify: str) -> str:
    """'refused', or 'done' with the result loaded again. Anything but a GraphoptError escapes."""
    import graphopt
    from graphopt.errors import GraphoptError, PassError
    from graphopt.ir.load import load
    from graphopt.report.contents import contents
    from graphopt.report.diff import compare

    source, target = room / "m.onnx", room / "out.onnx"
    source.write_bytes(raw)
    outcome = "done"
    try:
        json.dumps(contents(load(source), str(source)).to_json())
        json.dumps(compare(load(source), load(source)).to_json())
        result = graphopt.optimize(source, output=target, verify=verify, samples=1, limits=LIMITS())
        json.dumps(result.to_json(), allow_nan=False)
        load(target)
        if left_out := [text for text in result.report.warnings if "was left out" in text]:
            raise AssertionError(f"a rule of ours fell over: {left_out}")
    except GraphoptError as error:
        if isinstance(error, PassError) or not 0 < len(str(error)) < 20_000:
            raise
        outcome = f"refused {type(error).__name__}"
    finally:
        for path in room.glob("out.onnx*"):
            assert b"SECRET" not in path.read_bytes(), "the secret is in the result"
            path.unlink()
        source.unlink()
    return outcome


def LIMITS() -> Any:
    from graphopt.config import Limits

    return Limits(run_seconds=20, pass_seconds=20, memory_bytes=4 << 30)


def main() -> None:
    import traceback

    from .mutate import hostile

    first, last, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    every = int(sys.argv[4]) if len(sys.argv) > 4 else 50
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.simplefilter("ignore")
    room = furnish(folder)
    before = tree(folder)
    for seed in range(first, last):
        raw = hostile(seed)
        print(json.dumps({"begin": seed}), file=channel, flush=True)
        started = time.monotonic()
        try:
            outcome = through(raw, room, "end" if seed % every == 0 else "none")
            assert tree(folder) == before, f"files were left: {set(tree(folder)) - set(before)}"
        except BaseException as error:
            trace = " < ".join(traceback.format_exc().splitlines()[-7:-1:2])[-400:]
            outcome = f"FINDING {type(error).__name__}: {str(error)[:200]} | {trace}"
            if not isinstance(error, Exception):
                outcome += " (not an Exception)"
        print(json.dumps({"end": seed, "outcome": outcome, "s": time.monotonic() - started}), file=channel, flush=True)


if __name__ == "__main__":
    main()
