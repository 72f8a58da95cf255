"""Calls of model-local functions become what they call."""

from __future__ import annotations

import onnx
import pytest
from graphopt_passes import functions
from graphopt_passes.functions import inline_functions

from graphopt.testing import apply, assert_unchanged, check_rule


def whole(main: str, *bodies: str, opset: int = 18, theirs: int = 18) -> str:
    head = f'<ir_version: 10, opset_import: ["" : {opset}, "l" : 1]>'
    each = [f'<domain: "l", opset_import: ["" : {theirs}, "l" : 1]> {body}' for body in bodies]
    return "\n".join([head, main, *each])


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_a_call_is_its_body():
    result = check_rule(
        inline_functions,
        whole("g (float[N] x) => (float[N] y) { y = l.F(x) }", "F (p) => (r) { a = Exp(p) r = Neg(a) }"),
        '<ir_version: 10, opset_import: ["" : 18]> g (float[N] x) => (float[N] y) { a = Exp(x) y = Neg(a) }',
    )
    assert not result.functions


def test_functions_inside_functions_and_attributes_at_three_levels():
    """Given, given by the caller's own parameter, and by default."""
    result = check_rule(
        inline_functions,
        whole(
            "g (float[2,3] x, float[2,3] z) => (float[2,3] y) { a = l.Outer<k=2.0>(x, z) y = l.Inner<alpha=0.5>(a) }",
            "Outer <k>(p, q) => (r) { c = Constant<value_float: float = @k>() d = l.Inner(p) e = Mul(d, c)"
            " a = Add(e, q) r = l.Inner<alpha: float = @k>(a) }",
            "Inner <alpha: float = 0.3>(x) => (y) { y = LeakyRelu<alpha: float = @alpha>(x) }",
        ),
    )
    slopes = [one.f for node in result.graph.node if node.op_type == "LeakyRelu" for one in node.attribute]
    assert slopes == pytest.approx([0.3, 2.0, 0.5])
    assert not result.functions


def test_names_may_clash():
    check_rule(
        inline_functions,
        whole(
            "g (float[N] x) => (float[N] y) { a = l.F(x) b = l.F(a) y = Add(a, b) }",
            "F (y) => (a) { b = Exp(y) x = Neg(b) a = Mul(x, y) }",
        ),
    )


def test_inputs_and_outputs_may_be_left_out():
    check_rule(
        inline_functions,
        whole(
            "g (float[N] x) => (float[N] y) { y, s = l.F(x) }",
            "F (p, low, high) => (r, s) { r = Clip(p, low, high) s = Neg(p) }",
        ),
    )
    result, _ = apply(
        whole("g (float[N] x) => (float[N] y) { y = l.F(x) }", "F (p) => (r, s) { r = Exp(p) s = Neg(p) }"),
        inline_functions,
    )
    assert "Exp" in ops(result)


def test_a_body_that_hands_its_input_through():
    check_rule(
        inline_functions,
        whole(
            "g (float[N] x) => (float[N] y, float[N] z) { y, z = l.F(x) }",
            "F (p) => (r, s) { r = Identity(p) s = Neg(p) }",
        ),
    )


def test_calls_in_branches_and_branches_in_functions():
    check_rule(
        inline_functions,
        whole(
            "g (float[N] x, bool c) => (float[N] y) { y = If (c) <then_branch = t () => (float[N] p) { p = l.F(x, c) },"
            " else_branch = e () => (float[N] q) { q = Neg(x) }> }",
            "F (v, c) => (r) { w = Exp(v) r = If (c) <then_branch = t () => (float[N] p) { p = Abs(w) },"
            " else_branch = e () => (float[N] q) { q = Neg(w) }> }",
        ),
    )


def test_another_opset_that_means_the_same():
    """Exp and Neg are those of opset 13 in both."""
    check_rule(
        inline_functions,
        whole("g (float[N] x) => (float[N] y) { y = l.F(x) }", "F (p) => (r) { a = Exp(p) r = Neg(a) }", theirs=13),
    )


def test_another_opset_that_means_something_else():
    assert_unchanged(
        inline_functions,
        whole(
            "g (float[N,3] x) => (float[N] y) { y = l.F(x) }",
            "F (p) => (r) { r = ReduceMax<axes=[1], keepdims=0>(p) }",
            theirs=13,
        ),
    )


def test_functions_that_nothing_calls_are_removed():
    result, _ = apply(
        whole(
            "g (float[N] x) => (float[N] y) { y = Exp(x) }",
            "F (p) => (r) { r = l.G(p) }",
            "G (p) => (r) { r = Neg(p) }",
        ),
        inline_functions,
    )
    assert not result.functions


@pytest.mark.parametrize(
    ("call", "domain"), [("graphopt.F(x)", "graphopt"), ('l.F<plugin_namespace="graphopt">(x)', "l")]
)
def test_custom_layers_stay(call: str, domain: str):
    text = (
        f'<ir_version: 10, opset_import: ["" : 18, "{domain}" : 1]> g (float[N] x) => (float[N] y) {{ y = {call} }}'
        f' <domain: "{domain}", opset_import: ["" : 18]> F (p) => (r) {{ r = Exp(p) }}'
    )
    assert_unchanged(inline_functions, text)


def test_overloads_are_told_apart():
    model = onnx.parser.parse_model(
        whole(
            "g (float[N] x) => (float[N] y) { a = l.F(x) y = l.F(a) }",
            "F (p) => (r) { r = Exp(p) }",
            "F (p) => (r) { r = Neg(p) }",
        )
    )
    model.functions[1].overload = model.graph.node[1].overload = "second"
    result, _ = apply(model, inline_functions)
    assert ops(result) == ["Exp", "Neg"]


def test_not_beyond_the_limit(monkeypatch: pytest.MonkeyPatch):
    """A function of ten levels that each call the next one twice are 1,024 nodes."""
    levels = [f"F{i} (p) => (r) {{ a = l.F{i + 1}(p) r = l.F{i + 1}(a) }}" for i in range(10)]
    text = whole("g (float[N] x) => (float[N] y) { y = l.F0(x) }", *levels, "F10 (p) => (r) { r = Neg(p) }")
    result, _ = apply(text, inline_functions)
    assert ops(result) == ["Neg"] * 1024
    monkeypatch.setattr(functions, "_LIMIT", 100)
    result, _ = apply(text, inline_functions)
    assert ops(result) == ["F0"]
    assert len(result.functions) == 11


def test_each_copy_remembers_its_call():
    result, _ = apply(
        whole(
            'g (float[N] x) => (float[N] y) { ["first"] a = l.F(x) ["second"] y = l.F(a) }',
            "F (p) => (r) { r = Exp(p) }",
        ),
        inline_functions,
    )
    origins = [{prop.key: prop.value for prop in node.metadata_props}["graphopt.origin"] for node in result.graph.node]
    assert origins == ['["first"]', '["second"]']
