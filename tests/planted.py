"""Twenty-odd wrong rules, each with a model on which it does harm: what `--verify each` must catch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

HEAD = """import graphopt
import numpy as np
"""
TAIL = """

@graphopt.hookimpl
def graphopt_passes():
    return [{made}]
"""


@dataclass(frozen=True)
class Planted:
    """name: of the pass. rule: its source. text, weights: the model. word: part of the reason that is given."""

    name: str
    rule: str
    text: str
    weights: dict[str, Any] = field(default_factory=dict)
    word: str = ""
    site: str = ""
    opset: int = 17

    @property
    def plugin(self) -> str:
        function = "@graphopt.pass_" in self.rule
        made = self.name.replace("-", "_") if function else "".join(w.capitalize() for w in self.name.split("-")) + "()"
        return HEAD + self.rule + TAIL.format(made=made)


def rule(name: str, pattern: str, rewrite: str, arguments: str = "x", check: str = "None", extra: str = "") -> str:
    """The source of a rule with these three expressions."""
    title = "".join(word.capitalize() for word in name.split("-"))
    return f'''
class {title}(graphopt.Rule):
    """Wrong: {name}."""

    stage = "canonicalize"

    def pattern(self, op, {arguments}):
        return {pattern}

    def check(self, op, {arguments}):
        return {check}

    def rewrite(self, op, {arguments}):
        {extra or "pass"}
        return {rewrite}
'''


def planted(
    name: str, pattern: str, rewrite: str, text: str, weights: dict[str, Any] | None = None, *, arguments: str = "x",
    check: str = "None", extra: str = "", word: str = "", site: str = "", opset: int = 17,
) -> Planted:  # fmt: skip
    source = rule(name, pattern, rewrite, arguments, check, extra)
    return Planted(name, source, text, weights or {}, word, site, opset)


FORWARD = " n = Neg(x) h = Neg(n) "
"""Something for the right passes to do, so that a test can see that they still did it."""

BODY = """<ir_version: 10, opset_import: ["" : 17, "f" : 1]>
g (float[N,4] x) => (float[N,4] y) {{ n = Neg(x) h = Neg(n) {call} }}
{functions}"""

WRONG = [
    planted(
        "wrong-axis",
        "op.Softmax(x, axis=-1)",
        "op.Softmax(x, axis=1)",
        f"g (float[N,4,5] x) => (float[N,4,5] y) {{ {FORWARD} y = Softmax<axis=-1>(h) }}",
    ),
    planted(
        "dropped-bias",
        "op.Gemm(x, w, b)",
        "op.Gemm(x, w)",
        f"g (float[N,4] x) => (float[N,6] y) {{ {FORWARD} y = Gemm(h, w, b) }}",
        {"w": (4, 6), "b": (6,)},
        arguments="x, w, b",
    ),
    planted(
        "shared-weight",
        "op.Mul(op.Conv(x, op.Const(w)), op.Const(s))",
        "op.Conv(x, w)",
        f"g (float[1,2,6,6] x) => (float[1,2,6,6] y, float[1,2,6,6] z)"
        f" {{ {FORWARD} a = Conv(h, w) y = Mul(a, s) z = Conv(y, w) }}",
        {"w": (2, 2, 1, 1), "s": 3.0},
        arguments="x, w, s",
        extra="w.tensor.values = w.tensor.values * s.const",
        word="in place",
    ),
    planted(
        "shifted-pad",
        "op.MaxPool(x, kernel_shape=k, pads=p)",
        "op.MaxPool(x, kernel_shape=k, pads=[p[0] + 1, p[1], p[2] - 1, p[3]])",
        f"g (float[1,2,7,7] x) => (float[1,2,7,7] y)"
        f" {{ {FORWARD} y = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(h) }}",
        arguments="x, k, p",
        check="None if p[0] == p[2] else 'done'",
    ),
    planted(
        "nan-dropping-max",
        "op.Max(x, y)",
        "op.Where(op.Greater(x, y), x, y)",
        f"g (float[N,8] x, float[N,8] b) => (float[N,8] y) {{ {FORWARD} y = Max(h, b) }}",
        arguments="x, y",
        word="NaN",
    ),
    planted(
        "merge-random",
        "op.Add(op.RandomNormalLike(x), op.RandomNormalLike(x))",
        "op.Mul(op.RandomNormalLike(x), 2.0)",
        f"g (float[N,8] x) => (float[N,8] y)"
        f" {{ {FORWARD} a = RandomNormalLike(h) b = RandomNormalLike(h) y = Add(a, b) }}",
        word="random",
    ),
    planted(
        "swap-sub",
        "op.Sub(op.Exp(x), y)",
        "op.Sub(y, op.Exp(x))",
        f"g (float[N,8] x, float[N,8] b) => (float[N,8] y) {{ {FORWARD} e = Exp(h) y = Sub(e, b) }}",
        arguments="x, y",
    ),
    planted(
        "wrong-broadcast",
        "op.Add(x, op.Const(b))",
        "op.Add(x, b.const.T)",
        f"g (float[4,4] x) => (float[4,4] y) {{ {FORWARD} y = Add(h, b) }}",
        {"b": (4, 1)},
        arguments="x, b",
        check="None if b.shape == (4, 1) else 'not this one'",
    ),
    planted(
        "overflow-limit",
        "op.Greater(x, op.Const(c))",
        "op.Not(op.Less(x, c.const + np.int32(1)))",
        "g (int32[N,8] x) => (bool[N,8] y) { y = Greater(x, c) }",
        {"c": np.array([2**31 - 1], np.int32)},
        arguments="x, c",
    ),
    planted(
        "overflow-product",
        "op.Div(op.Div(x, op.Const(a)), op.Const(b))",
        "op.Div(x, a.const * b.const)",
        "g (int32[N,8] x) => (int32[N,8] y) { d = Div(x, a) y = Div(d, b) }",
        {"a": np.array([46341], np.int32), "b": np.array([46342], np.int32)},
        arguments="x, a, b",
    ),
    planted(
        "forget-epsilon",
        "op.Div(x, op.Sqrt(op.Add(v, op.Const(e))))",
        "op.Div(x, op.Sqrt(v))",
        f"g (float[N,8] x) => (float[N,8] y)"
        f" {{ {FORWARD} q = Mul(h, h) v = ReduceMean<axes=[1]>(q) w = Add(v, e) s = Sqrt(w) y = Div(h, s) }}",
        {"e": 1e-6},
        arguments="x, v, e",
    ),
    planted(
        "wrong-perm",
        "op.Transpose(op.Transpose(x, perm=p), perm=q)",
        "op.Transpose(x, perm=[q[i] for i in p])",
        f"g (float[4,4,4] x) => (float[4,4,4] y)"
        f" {{ {FORWARD} t = Transpose<perm=[1,2,0]>(h) y = Transpose<perm=[0,2,1]>(t) }}",
        arguments="x, p, q",
    ),
    planted(
        "rename-output",
        "op.Exp(x)",
        "op.Relu(x)",
        f"g (float[N,8] x) => (float[N,8] y) {{ {FORWARD} y = Exp(h) }}",
        extra="x.tensor.outputs[0].outputs[0].name = 'other'",
        word="'y' is gone",
    ),
    planted(
        "wrong-keepdims",
        "op.Mul(op.ReduceMax(x, a, keepdims=1), y)",
        "op.Mul(op.ReduceMax(x, a, keepdims=0), y)",
        f"g (float[4,4] x) => (float[4,4] y) {{ {FORWARD} m = ReduceMax<axes=[1], keepdims=1>(h) y = Mul(m, h) }}",
        arguments="x, y, a",
    ),
    Planted(
        "swap-operands",
        """
@graphopt.pass_('fuse')
def swap_operands(graph, target):
    '''Wrong: a - b = b - a.'''
    found = [n for n in graph.nodes if n.op == 'Sub' and 'seen' not in n.__dict__]
    for n in found:
        a, b = n.inputs
        n.inputs = [b, a]
        n.seen = True
    return len(found)
""",
        f"g (float[N,8] x, float[N,8] b) => (float[N,8] y) {{ {FORWARD} y = Sub(h, b) }}",
    ),
    Planted(
        "merge-noise",
        """
@graphopt.pass_('fuse')
def merge_noise(graph, target):
    '''Wrong: two random tensors of one shape are one.'''
    found = [n for n in graph.nodes if n.op == 'RandomNormalLike']
    for n in found[1:]:
        for user in list(n.outputs[0].outputs):
            user.inputs = [found[0].outputs[0] if t is n.outputs[0] else t for t in user.inputs]
        graph.nodes.remove(n)
    return len(found[1:])
""",
        f"g (float[N,8] x) => (float[N,8] y)"
        f" {{ {FORWARD} a = RandomNormalLike(h) b = RandomNormalLike(h) y = Sub(a, b) }}",
    ),
    planted(
        "batch-of-one",
        "op.Flatten(x)",
        "op.Reshape(x, np.array([1, -1]))",
        f"g (float[N,3,4] x) => (float[N,12] y) {{ {FORWARD} y = Flatten(h) }}",
    ),
    planted(
        "only-positive",
        "op.LeakyRelu(x)",
        "op.Relu(x)",
        f"g (float[N,8] x) => (float[N,8] y) {{ {FORWARD} y = LeakyRelu(h) }}",
    ),
    planted(
        "only-even",
        "op.MaxPool(x, kernel_shape=k, strides=s, ceil_mode=1)",
        "op.MaxPool(x, kernel_shape=k, strides=s, ceil_mode=0)",
        f"g (float[1,2,H,W] x) => (float[1,2,P,Q] y)"
        f" {{ {FORWARD} y = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(h) }}",
        arguments="x, k, s",
    ),
    planted(
        "halve-the-double",
        "op.Div(op.Mul(x, op.Const(a)), op.Const(b))",
        "op.Identity(x)",
        "g (int32[N,8] x) => (int32[N,8] y) { d = Mul(x, two) y = Div(d, two) }",
        {"two": np.array([2], np.int32)},
        arguments="x, a, b",
    ),
    planted(
        "divide-by-zero",
        "op.Div(x, op.Const(c))",
        "op.Div(x, c.const * 0)",
        "g (int32[N,8] x) => (int32[N,8] y) { y = Div(x, two) }",
        {"two": np.array([2], np.int32)},
        arguments="x, c",
        check="None if c.const.any() else 'done'",
        word="does not run",
    ),
    planted(
        "floor-is-cast",
        "op.Cast(x, to=7)",
        "op.Cast(op.Floor(x), to=7)",
        f"g (float[N,8] x) => (int64[N,8] y) {{ {FORWARD} y = Cast<to=7>(h) }}",
        check="None if x.producer is None or x.producer.op != 'Floor' else 'done'",
    ),
    planted(
        "naive-softmax",
        "op.Softmax(x, axis=-1)",
        "op.Div(op.Exp(x), op.ReduceSum(op.Exp(x), np.array([-1]), keepdims=1))",
        f"g (float[N,8] x) => (float[N,8] y) {{ {FORWARD} y = Softmax<axis=-1>(h) }}",
    ),
    planted(
        "not-a-matrix",
        "op.MatMul(x, w)",
        "op.Gemm(x, w)",
        f"g (float[N,3,4] x) => (float[N,3,5] y) {{ {FORWARD} y = MatMul(h, w) }}",
        {"w": (4, 5)},
        arguments="x, w",
        word="does not run",
    ),
    planted(
        "static-output",
        "op.Sqrt(op.Exp(x))",
        "op.Exp(op.Mul(x, 0.5))",
        f"g (float[N,8] x) => (float[N,8] y) {{ {FORWARD} e = Exp(h) y = Sqrt(e) }}",
        extra="x.tensor.outputs[0].outputs[0].outputs[0].outputs[0].shape = (1, 8)",
        word="declares output",
    ),
    planted(
        "in-if-body",
        "op.Erf(x)",
        "op.Tanh(x)",
        BODY.format(
            call="s = ReduceSum<keepdims=0>(h) o = Constant<value_float=1e9>() c = Less(s, o)"
            " y = If (c) <then_branch = t () => (float[N,4] p) { p = Erf(h) },"
            " else_branch = e () => (float[N,4] q) { q = Cos(h) }>",
            functions="",
        ),
    ),
    planted(
        "in-other-branch",
        "op.Erf(x)",
        "op.Tanh(x)",
        BODY.format(
            call="s = ReduceSum<keepdims=0>(h) o = Constant<value_float=1e30>() c = Less(s, o)"
            " y = If (c) <then_branch = t () => (float[N,4] p) { p = Cos(h) },"
            " else_branch = e () => (float[N,4] q) { q = Erf(h) }>",
            functions="",
        ),
    ),
    planted(
        "in-loop-body",
        "op.Erf(x)",
        "op.Tanh(x)",
        BODY.format(
            call="k = Constant<value = int64 {3}>() c = Constant<value = bool {1}>()"
            " y = Loop (k, c, h) <body = b (int64 i, bool ci, float[N,4] s) => (bool co, float[N,4] r)"
            " { co = Identity(ci) e = Erf(s) r = Add(e, s) }>",
            functions="",
        ),
    ),
    planted(
        "in-scan-body",
        "op.Erf(x)",
        "op.Tanh(x)",
        BODY.format(
            call="z, y = Scan (s0, h) <num_scan_inputs = 1,"
            " body = b (float[4] s, float[4] xi) => (float[4] so, float[4] yo)"
            " { e = Erf(xi) so = Add(s, e) yo = Identity(so) }>",
            functions="",
        ),
        {"s0": (4,)},
    ),
    planted(
        "in-function",
        "op.Erf(x)",
        "op.Tanh(x)",
        BODY.format(
            call="y = f.Wave(h)",
            functions='<domain: "f", opset_import: ["" : 17]> Wave (a) => (b) { e = Erf(a) b = Add(e, a) }',
        ),
    ),
]
