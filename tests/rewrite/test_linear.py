"""Twice the graph is at most twice the work, counted instead of timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from graphopt.config import Limits, Target
from graphopt.ir.edits import Editor
from graphopt.ir.infer import Inference
from graphopt.ir.load import load
from graphopt.registry import Registry
from graphopt.rewrite.manager import Manager
from graphopt.rewrite.match import Matcher
from tests.bench.corpus.synthetic import Made, chain, readers, wide

MOST = 2.1


def work(made: Made, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Node inferences, match attempts and entries in the editors' logs of one default run."""
    counts = {"inferences": 0, "matches": 0, "log": 0}
    editors: list[Editor] = []

    def counted(owner: Any, name: str, key: str) -> None:
        plain = getattr(owner, name)

        def call(*args: Any, **named: Any) -> Any:
            counts[key] += 1
            return plain(*args, **named)

        patch.setattr(owner, name, call)

    with monkeypatch.context() as patch:
        counted(Inference, "node", "inferences")
        counted(Matcher, "match", "matches")
        begin = Editor.__init__

        def noted(self: Editor, *args: Any) -> None:
            begin(self, *args)
            editors.append(self)

        patch.setattr(Editor, "__init__", noted)
        Manager(load(made[0]), Registry().select(), Target(), Limits()).run()
    counts["log"] = sum(len(editor.log) for editor in editors)
    return counts


@pytest.mark.parametrize(
    "make",
    [chain, wide, *(lambda n, order=order: readers(n, order) for order in ("forward", "reverse"))],
    ids=["chain", "wide", "readers forward", "readers reverse"],
)
def test_linear(make: Callable[[int], Made], monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = work(make(600), monkeypatch), work(make(1200), monkeypatch)
    assert small["inferences"] > 0
    assert small["log"] > 0
    for key, count in small.items():
        assert large[key] <= MOST * count, (key, count, large[key])
