"""The first and the second `graphopt build` of a network, as a user types it: wall seconds of the whole process.

    python tests/bench/second_build_gpu.py [--budget 85] [resnet50 bert6 vit_b swin_t | MODEL.onnx ...]

Networks are exported with random weights. The second build is repeated five times with the engine in place, and three
times with the engine removed. What a process costs that does nothing stands beside it. JSON goes to
$OUT/second_build.json after every part; a part that fails is written down and the rest goes on; no network is begun
that would take longer than the budget if it took as long as the last.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

OUT = Path(os.environ.get("OUT", "."))
RESULTS: dict = {}
NOTHING = {
    "python": "pass",
    "numpy": "import numpy",
    "onnx": "import onnx",
    "typer": "import typer",
    "driver": "from graphopt.engines.request import gpu; gpu()",
    "sources": "from graphopt.engines.sources import core, plugins; core(); plugins()",
}


def keep(name, part, value):
    RESULTS.setdefault(name, {})[part] = value
    (OUT / "second_build.json").write_text(json.dumps(RESULTS, indent=1))


def timed(words, **environment):
    """(wall seconds, standard output, standard error) of a process. Raises RuntimeError where it fails."""
    began = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    took = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(done.stderr[-1200:])
    return took, done.stdout, done.stderr


def typed(*words):
    return [sys.executable, "-m", "graphopt", *map(str, words)]


def nothing():
    for name, code in NOTHING.items():
        keep("nothing", name, min(timed([sys.executable, "-c", code])[0] for _ in range(3)))
    print(
        "a process that does nothing:", ", ".join(f"{k} {v:.3f} s" for k, v in RESULTS["nothing"].items()), flush=True
    )


def exported(name, folder):
    if name.endswith(".onnx"):
        return Path(name).resolve()
    from precision_gpu import exported as export
    from precision_gpu import made

    return export(*made(name), folder / f"{name}.onnx")


def measured(name, folder):
    path = exported(name, folder)
    os.chdir(folder)
    engine = folder / f"{path.stem}.engine"
    command = typed("build", path)
    first, said, _ = timed(command)
    keep(name, "first_s", first)
    hits = [timed(command) for _ in range(5)]
    made = engine.read_bytes()
    removed = []
    for _ in range(3):
        engine.unlink()
        removed.append(timed(command)[0])
    if engine.read_bytes() != made or not all("from the engine cache" in one[1] for one in hits):
        raise RuntimeError(f"no hit, or another engine: {said} {hits[0][1]}")
    seconds = sorted(one[0] for one in hits)
    inside = json.loads(timed([*command, "--json"])[1])  # another line than the one before: parsed once more
    inside = json.loads(timed([*command, "--json"])[1])
    imports = timed([sys.executable, "-X", "importtime", *command[1:]])[2]
    found = {
        "model_bytes": path.stat().st_size,
        "engine_bytes": len(made),
        "second_s": seconds,
        "second_engine_removed_s": removed,
        "inside_s": inside["seconds"],
        "ratio": seconds[2] / first,
        "modules": len(re.findall(r"^import time:", imports, re.M)),
        "imports_ms": sum(int(us) for us in re.findall(r"^import time: +(\d+) \|", imports, re.M)) / 1e3,
    }
    for part, value in found.items():
        keep(name, part, value)
    print(f"{name:10} first {first:.2f} s, second {seconds[2]:.3f} s ({seconds[0]:.3f} to {seconds[-1]:.3f}; engine "
          f"removed {min(removed):.3f}): {found['ratio']:.1%}; {inside['seconds']:.3f} s of it inside, imports "
          f"{found['imports_ms']:.0f} ms; model {found['model_bytes'] / 1e6:.0f} MB, engine "
          f"{found['engine_bytes'] / 1e6:.0f} MB", flush=True)  # fmt: skip


def main():
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("names", nargs="*", default=["resnet50", "bert6", "vit_b", "swin_t"])
    words.add_argument("--budget", type=float, default=85.0, help="seconds after which no network is begun")
    asked = words.parse_args()
    began = time.perf_counter()
    sys.path.insert(0, str(Path(__file__).parent))
    folder = Path(tempfile.mkdtemp(prefix="second-build-"))
    os.environ["GRAPHOPT_CACHE"] = str(folder / "cache")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    timed(typed("passes"))  # every module compiled once, as it is where graphopt was used before
    keep("machine", "cores", os.cpu_count())
    took = 0.0
    for name, work in (("nothing", nothing), *((one, lambda one=one: measured(one, folder)) for one in asked.names)):
        left = asked.budget - (time.perf_counter() - began)
        if left < took:
            keep(name, "left out", f"{left:.0f} s are left, the last took {took:.0f}")
            print(f"{name}: left out", flush=True)
            continue
        start = time.perf_counter()
        try:
            work()
        except Exception:
            keep(name, "failed", traceback.format_exc()[-1500:])
            print(f"{name}: failed\n{traceback.format_exc()[-1500:]}", flush=True)
        took = time.perf_counter() - start if name != "nothing" else 0.0


if __name__ == "__main__":
    main()
