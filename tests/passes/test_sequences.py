"""Sequences that are only a detour."""

from __future__ import annotations

import numpy as np
import pytest
from graphopt_passes.split_parts import split_instead_of_sequence

from graphopt.testing import assert_unchanged, check_rule, model

PORTS = "(float[N,7] x) => (float[N,?] y, float[N,?] z)"
BODY = "s = SplitToSequence<axis = -1>(x, n) y = SequenceAt(s, i) z = SequenceAt(s, j)"


def graph(body=BODY, ports=PORTS, *, opset=17, n=4, i=0, j=-1):
    weights = {name: np.array(v, np.int64) for name, v in {"n": n, "i": i, "j": j}.items() if name in body}
    return model(f"g {ports} {{ {body} }}", weights=weights, opset=opset)


@pytest.mark.parametrize("n", [4, 7, 3, [2, 5], [1, 1, 5]], ids=str)
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_parts_of_a_split(n, opset):
    result = check_rule(split_instead_of_sequence, graph(n=n, opset=opset), fires=1)
    assert {node.op_type for node in result.graph.node} <= {"Split", "Identity"}


def test_what_stays():
    pass_ = split_instead_of_sequence
    assert_unchanged(pass_, graph(ports=PORTS.replace("N,7", "N,K")))
    whole = BODY.replace("z = SequenceAt(s, j)", "z = ConcatFromSequence<axis = 1>(s)")
    assert_unchanged(pass_, graph(whole))
    assert_unchanged(pass_, graph(i=5))
    computed = "(float[N,7] x, int64 j) => (float[N,?] y, float[N,?] z)"
    assert_unchanged(pass_, model(f"g {computed} {{ {BODY} }}", weights={"n": np.int64(4), "i": np.int64(0)}))
