"""Drives the workers and counts: a death, a hang and a traceback are findings.

python -m tests.hostile.fuzz FIRST LAST [VERIFY_EVERY]
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field

HANG_SECONDS = 90.0


@dataclass
class Tally:
    """How the cases ended."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[int, str]] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)


def fuzz(first: int, last: int, verify_every: int = 50) -> Tally:
    """Cases first to last, each through load, inspect, diff, optimize and load again."""
    tally = Tally()
    while first < last:
        with tempfile.TemporaryDirectory(prefix="graphopt-fuzz-") as folder:
            first = _run(first, last, folder, verify_every, tally)
    return tally


def _run(first: int, last: int, folder: str, verify_every: int, tally: Tally) -> int:
    words = [sys.executable, "-m", "tests.hostile.worker", str(first), str(last), folder, str(verify_every)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        current = first
        started = False
        while True:
            ready, _, _ = select.select([child.stdout], [], [], HANG_SECONDS)
            line = child.stdout.readline() if ready else b""
            if not line.endswith(b"\n"):
                hung = not ready
                child.kill()
                code = child.wait()
                if current >= last or not started:
                    assert started, f"the worker does not start: exit code {code}"
                    return last
                what = f"no end after {HANG_SECONDS:g} s" if hung else f"the process died with {code}"
                tally.findings.append((current, f"DEATH {what}"))
                return current + 1
            started = True
            said = json.loads(line)
            if "begin" in said:
                current = said["begin"]
                continue
            current = said["end"] + 1
            tally.slowest = max(tally.slowest, (said["s"], said["end"]))
            if said["outcome"].startswith("FINDING"):
                tally.findings.append((said["end"], said["outcome"]))
            else:
                tally.outcomes[said["outcome"]] += 1


def main() -> None:
    first, last = int(sys.argv[1]), int(sys.argv[2])
    tally = fuzz(first, last, int(sys.argv[3]) if len(sys.argv) > 3 else 50)
    lines = [f"{seed} {what}" for seed, what in tally.findings]
    lines += [f"{count} {outcome}" for outcome, count in sorted(tally.outcomes.items())]
    lines.append(f"{len(tally.findings)} findings; the slowest took {tally.slowest[0]:.1f} s (case {tally.slowest[1]})")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
