"""A request is answered in a process of its own: what crashes, raises or hangs is an answer, too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .forks import Forks

SCRIPT = """
import os, time
def answer(request):
    what = request["what"]
    if what == "raise":
        raise ValueError("no")
    if what == "die":
        os.abort()
    if what == "leave":
        os._exit(3)
    if what == "hang":
        time.sleep(60)
    if what == "print":
        print("noise on standard output")
    return {"pid": os.getpid(), "big": "x" * request.get("size", 0)}
"""


@pytest.fixture
def forks(tmp_path: Path) -> Iterator[Forks]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with Forks(sys.executable, script) as one:
        yield one


def test_each_request_has_its_own_process(forks: Forks) -> None:
    first, second = forks.ask({"what": ""}, 10), forks.ask({"what": "print"}, 10)
    assert first["pid"] != second["pid"]
    assert first["peak_rss"] > 1e6


def test_long_answers_arrive_whole(forks: Forks) -> None:
    assert len(forks.ask({"what": "", "size": 1_000_000}, 10)["big"]) == 1_000_000


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("raise", "ValueError: no"),
        ("die", "crashed: SIGABRT"),
        ("leave", "crashed: code 3"),
        ("hang", "not done after 0.5 s"),
    ],
)
def test_trouble_is_an_answer_and_the_next_request_works(forks: Forks, what: str, said: str) -> None:
    assert forks.ask({"what": what}, 0.5 if what == "hang" else 10)["error"] == said
    assert "pid" in forks.ask({"what": ""}, 10)
