"""Layers of an engine led back to source nodes, from what TensorRT-RTX 1.6.1 printed on an H100."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.runtime.profile import attribute, shares

NODES = {
    "conv": {"outputs": ["c"], "from": ["Conv_0", "BatchNormalization_1"], "rules": ["fold-conv-bn"]},
    "relu": {"outputs": ["r"], "from": ["Relu_2"], "rules": []},
    "fc": {"outputs": ["y"], "from": ["Gemm_9"], "rules": []},
}


def layer(name: str, reads: str, makes: str, nodes: str = "") -> dict:
    metadata = "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes.split())
    tensor = {"Dimensions": [2, 8], "Datatype": "Half"}
    return {
        "Name": name, "LayerType": "kgen", "Metadata": metadata,
        "Inputs": [{"Name": reads, **tensor}], "Outputs": [{"Name": makes, **tensor}],
    }  # fmt: skip


DETAILS = [
    layer("__myl_Move_myl0_0", "x", "x.1_2_myl0"),
    layer("conv_myl0_1", "x.1_2_myl0", "r.1_3_myl0", "conv relu"),
    layer("fc_myl0_2", "r.1_3_myl0", "y.1_4_myl0"),
    layer("__myl_Move_myl0_3", "y.1_4_myl0", "out_myl0"),
]


def test_metadata_then_tensors_then_neighbours() -> None:
    found = attribute([(one["Name"], 1.0) for one in DETAILS], DETAILS, NODES)
    assert [one.by for one in found] == ["neighbours", "metadata", "tensors", "neighbours"]
    assert found[0].sources == found[1].sources == ["Conv_0", "BatchNormalization_1", "Relu_2"]
    assert found[1].rules == ["fold-conv-bn"]
    assert found[2].sources == found[3].sources == ["Gemm_9"]
    assert found[2].nbytes == 2 * 2 * 8 * 2


def test_without_a_manifest_the_nodes_are_the_models() -> None:
    found = attribute([("conv_myl0_1", 1.0)], DETAILS, {})
    assert found[0].sources == ["conv", "relu"]


def test_what_is_not_known_has_no_source() -> None:
    assert attribute([("mystery", 1.0)], [], NODES)[0].sources == []


TIMES = st.lists(st.floats(1e-4, 10), min_size=1, max_size=50)


@given(TIMES, st.floats(1e-3, 100))
def test_shares_add_up_to_the_launch_and_keep_their_order(alone: list[float], launch: float) -> None:
    found = shares(alone, launch)
    assert sum(found) == pytest.approx(min(launch, sum(alone)), rel=1e-6)
    assert all(0 <= new <= old for new, old in zip(found, alone, strict=True))
    assert [new for _, new in sorted(zip(alone, found, strict=True))] == sorted(found)


def test_a_profile_as_json(tmp_path: Path) -> None:
    found = attribute([("conv_myl0_1", 0.5)], DETAILS, NODES)[0].to_json()
    assert json.loads(json.dumps(found))["sources"] == ["Conv_0", "BatchNormalization_1", "Relu_2"]
