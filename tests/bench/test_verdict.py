"""Who wins: a result that is wrong, crashed or in operators of its own wins nothing."""

from __future__ import annotations

from typing import Any

import pytest

from . import table
from .verdict import best, excess, fault, losses, verdict

SOURCE = {"nodes": 20, "layers": 30, "bytes": 1000, "foreign": [], "coarse": False, "ops": {"Relu": 20}}


def record(**more: Any) -> dict[str, Any]:
    return {
        "nodes": 10, "layers": 10, "bytes": 900, "difference": 1e-7, "compare_error": "", "foreign": [],
        "cpu_seconds": [0.2, 0.1], "ops": {"Relu": 10}, "layer_types": {"ACTIVATION": 10}, **more,
    }  # fmt: skip


def against(ours: dict[str, Any], **peers: dict[str, Any]) -> list[str]:
    return [metric for metric, _ in losses(SOURCE, {"graphopt": ours, **peers})]


def test_equal_is_best() -> None:
    assert verdict(SOURCE, {"graphopt": record(), "onnxsim": record()}) == "best"


@pytest.mark.parametrize(("metric", "worse"), [("nodes", 11), ("layers", 11), ("bytes", 946)])
def test_more_than_the_best_peer_is_a_loss(metric: str, worse: int) -> None:
    assert against(record(**{metric: worse}), onnxsim=record(), onnxslim=record(nodes=15, layers=15)) == [metric]


def test_slack_of_bytes() -> None:
    assert against(record(bytes=945), onnxsim=record()) == []


def test_more_than_the_source_is_a_loss_even_without_peers() -> None:
    assert against(record(nodes=21)) == ["nodes"]


def test_time_is_held_against_three_tools_only() -> None:
    slow = record(cpu_seconds=[0.3, 0.2])
    assert against(slow, onnxslim=record()) == ["seconds"]
    assert against(slow, onnxruntime=record(), onnxoptimizer=record()) == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"difference": 0.009}, "wrong: 0.009"),
        ({"difference": 1e30}, "wrong: other structure"),
        ({"difference": float("nan")}, "wrong: nan"),
        ({"compare_error": "no such operator"}, "wrong: does not run: no such operator"),
        ({"error": "crashed: SIGSEGV"}, "failed: crashed: SIGSEGV"),
        ({"error": "not done after 5 s", "late": True}, "not done after 5 s"),
        ({"foreign": ["com.microsoft::Gelu"]}, "foreign: com.microsoft::Gelu"),
        ({"difference": 1e-4}, ""),
        ({"difference": None}, ""),
    ],
)
def test_faults(more: dict[str, Any], said: str) -> None:
    assert fault(record(**more), SOURCE) == said


def test_a_faulty_peer_is_not_best() -> None:
    assert best("nodes", {"onnxslim": record(nodes=1, difference=0.01), "onnxsim": record()}, SOURCE) == (10, "onnxsim")
    assert against(record(), onnxslim=record(nodes=1, difference=0.01)) == []


def test_what_the_parser_does_not_take_is_no_rival_of_what_it_takes() -> None:
    """A loop that cannot be parsed has fewer nodes than its unrolled body, and is worth nothing."""
    refused = {"nodes": 5, "layers": None, "bytes": 100}
    records = {"graphopt": record(), "onnxsim": record(**refused), "onnxslim": record(nodes=9)}
    assert best("nodes", records, {**SOURCE, **refused}) == (9, "onnxslim")
    assert best("nodes", {**records, "graphopt": record(layers=None)}, {**SOURCE, **refused})[0] == 5


def test_our_own_faults_come_first() -> None:
    assert against(record(difference=0.01), onnxsim=record()) == ["WRONG"]
    assert against(record(error="PassError"), onnxsim=record()) == ["FAILED"]
    assert [metric for metric, _ in losses(SOURCE, {"onnxsim": record()})] == ["FAILED"]


def test_coarse_networks_may_differ_more_but_not_by_everything() -> None:
    coarse = {**SOURCE, "coarse": True}
    assert fault(record(difference=0.01), coarse) == ""
    assert fault(record(difference=0.1), coarse) == "wrong: 0.1"


def test_a_source_that_jumps_by_itself_bounds_nothing_tighter() -> None:
    jumpy = {**SOURCE, "sensitivity": 0.02}
    assert fault(record(difference=0.1), jumpy) == ""
    assert fault(record(difference=0.3), jumpy) == "wrong: 0.3"
    assert fault(record(difference=1e30), {**SOURCE, "sensitivity": 1.0}) == "wrong: other structure"


def test_what_a_peer_can_build_ours_must() -> None:
    nothing = {**SOURCE, "layers": None}
    ours = record(layers=None, layers_error="Conv refused")
    assert [metric for metric, _ in losses(nothing, {"graphopt": ours, "onnxsim": record()})] == ["NOT BUILT"]
    assert losses(nothing, {"graphopt": ours, "onnxsim": record(layers=None)}) == []
    assert against(ours) == ["NOT BUILT"]


def test_excess_names_operators() -> None:
    assert excess({"Cast": 3, "Mul": 1}, {"Cast": 1, "Add": 1, "Mul": 1}) == "+2 Cast, -1 Add"


def test_tables_strike_out_what_is_wrong() -> None:
    results = {"m": {"source": SOURCE, "tools": {"graphopt": record(), "onnxslim": record(nodes=1, difference=0.01)}}}
    assert "| m | 20 | 10 | ~~1~~ |" in table.table(results, ["graphopt", "onnxslim"], "nodes")
    assert "**1.0e-02**" in table.table(results, ["graphopt", "onnxslim"], "difference")
    assert "| onnxslim | 0 | 0 | 0 | 1 | - |" in table.summary(results, ["graphopt", "onnxslim"])
    results["m"]["tools"]["graphopt"] = record(nodes=12, ops={"Relu": 12})
    results["m"]["tools"]["onnxsim"] = record()
    assert "+2 Relu" in table.gaps(results)
