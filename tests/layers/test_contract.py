"""What a layer author may write, and what is refused with which words."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.layers.facts import outputs_of
from graphopt.layers.function import function_of
from graphopt.rewrite.build import Skip
from graphopt.testing import check_layer, model

from .third_party import FusedRootNorm

F32 = {"x": np.dtype(np.float32), "weight": np.dtype(np.float32)}


class FusedAxes(graphopt.Layer):
    """y = softmax(x * scale, axis), plus bias if there is one."""

    axis: int = -1
    scale: float = 1.0
    shapes = {"x": "n m", "bias": "m"}

    def body(self, op, x, bias=None):
        y = op.Softmax(x * self.scale, axis=self.axis)
        return y if bias is None else y + bias

    def infer(self, x, bias):
        return x

    def enqueue(self, x, bias, y):
        raise NotImplementedError


class FusedTwo(graphopt.Layer):
    """(x + y, relu(x + y)), or their negatives."""

    negative: bool = False
    variants = ({"negative": False}, {"negative": True})
    shapes = {"x": "... n", "y": "... n"}

    def body(self, op, x, y):
        total = x + y
        return (-total, op.Relu(-total)) if self.negative else (total, op.Relu(total))

    def infer(self, x, y):
        return x, x

    def enqueue(self, x, y, total, positive):
        raise NotImplementedError


class FusedBranch(graphopt.Layer):
    """Branches on an attribute that no variant fixes."""

    bias: bool = False
    shapes = {"x": "n"}

    def body(self, op, x):
        return x + 1.0 if self.bias else x * 2.0

    def infer(self, x):
        return x

    def enqueue(self, x, y):
        raise NotImplementedError


def plugin(*layers):
    import types

    made = types.ModuleType("contract_layers")
    made.graphopt_layers = graphopt.hookimpl(lambda: list(layers))
    made.graphopt_layers.__name__ = "graphopt_layers"
    return made


def run(source, *layers, **options):
    return graphopt.optimize(source, lower="always", plugins=[plugin(*layers)], **options)


def test_attributes_are_annotated_defaults() -> None:
    layer = FusedAxes(axis=0)
    assert layer.attributes == {"axis": -1, "scale": 1.0}
    assert layer.values == {"axis": 0, "scale": 1.0}
    assert (layer.inputs, layer.optional, layer.outputs) == (("x", "bias"), ("bias",), ("y",))
    with pytest.raises(graphopt.PluginError, match="no attribute 'axes'"):
        FusedAxes(axes=1)


@pytest.mark.parametrize("axis", [-1, 0])
def test_integer_attributes_are_captured(axis: int) -> None:
    source = model(
        f"g (float[3,4] x) => (float[3,4] z) {{ a = Mul(x, s) y = Softmax<axis={axis}>(a) z = Relu(y) }}",
        weights={"s": np.float32(0.5)},
    )
    result = run(source, FusedAxes)
    call = result.model.graph.node[0]
    found = {a.name: onnx.helper.get_attribute_value(a) for a in call.attribute}
    assert found["axis"] == axis
    assert found["scale"] == 0.5
    assert found["layer_inputs"] == b"x"
    assert call.op_type.startswith("FusedAxes_"), "an absent input specializes"
    assert result.status == "ok"


def test_an_optional_input_is_taken_where_it_is() -> None:
    source = model(
        "g (float[3,4] x) => (float[3,4] z) { a = Mul(x, s) y = Softmax<axis=-1>(a) b = Add(y, bias) z = Relu(b) }",
        weights={"s": np.float32(0.5), "bias": (4,)},
    )
    result = run(source, FusedAxes)
    assert [node.op_type for node in result.model.graph.node] == ["FusedAxes", "Relu"]


@pytest.mark.parametrize("negative", [False, True])
def test_several_outputs_and_variants(negative: bool) -> None:
    negate = "m = Neg(t)" if negative else "m = Identity(t)"
    source = model(
        f"g (float[2,3] x, float[2,3] y) => (float[2,3] u, float[2,3] v) {{ t = Add(x, y) {negate} r = Relu(m)"
        " u = Exp(m) v = Exp(r) }"
    )
    result = run(source, FusedTwo)
    call = next(node for node in result.model.graph.node if node.domain == "graphopt")
    assert len(call.output) == 2
    assert result.status == "ok"
    assert next(a.i for a in call.attribute if a.name == "negative") == negative


def test_both_variants_in_one_model_have_a_function_each() -> None:
    source = model(
        "g (float[2,3] x, float[2,3] y) => (float[2,3] u, float[2,3] v) { t = Add(x, y) r = Relu(t) a = Mul(t, r)"
        " t2 = Add(a, y) m = Neg(t2) r2 = Relu(m) u = Exp(m) v = Exp(r2) }"
    )
    result = run(source, FusedTwo)
    names = {function.name for function in result.model.functions}
    assert len(names) == 2
    assert result.status == "ok"


def test_branching_on_a_symbolic_attribute_says_what_to_do() -> None:
    with pytest.raises(graphopt.PluginError, match="'bias' is not known while the body is traced") as caught:
        run(model("g (float[3] x) => (float[3] y) { y = Abs(x) }"), FusedBranch)
    assert "variants" in caught.value.hint


def test_a_name_that_tensorrt_could_take_for_its_own_is_refused() -> None:
    class Gelu(FusedRootNorm):
        pass

    with pytest.raises(graphopt.PluginError, match="begins with 'Fused'"):
        run(model("g (float[3] x) => (float[3] y) { y = Abs(x) }"), Gelu)


def test_what_cannot_be_said_at_the_opset_is_reported() -> None:
    class FusedNewer(FusedRootNorm):
        """Uses an operator of opset 20."""

        def body(self, op, x, weight):
            return op.Gelu(x) * weight

    result = run(model("g (float[3] x) => (float[3] y) { y = Abs(x) }"), FusedNewer)
    reason = result.report.not_lowered["fused-newer"]
    assert reason == "it cannot be said at opset 17: Gelu does not exist at opset 17"


def test_below_opset_15_the_function_is_of_one_dtype() -> None:
    kinds = {name: np.dtype(np.float16) for name in F32}
    new = function_of(FusedRootNorm(), 15, ("x", "weight"), {}, kinds, {"epsilon": 1e-6})
    old = function_of(FusedRootNorm(), 14, ("x", "weight"), {}, kinds, {"epsilon": 1e-6})
    older = function_of(FusedRootNorm(), 14, ("x", "weight"), {}, F32, {"epsilon": 1e-6})
    assert new.name == "FusedRootNorm"
    assert len({new.name, old.name, older.name}) == 3
    assert old.opset_import[0].version == 14
    with pytest.raises(Skip):
        function_of(FusedAxesList(), 11, ("x",), {}, {"x": np.dtype(np.float32)}, {"epsilon": 1.0})


class FusedAxesList(graphopt.Layer):
    epsilon: float = 1.0

    def body(self, op, x):
        return op.Gelu(x)


def test_formals_are_mangled_and_calls_are_full() -> None:
    made = function_of(FusedRootNorm(), 18, ("x", "weight"), {}, F32, {"epsilon": 1e-6})
    assert all(name.startswith("FusedRootNorm__") for name in (*made.input, *made.output))
    assert set(made.attribute) == {"epsilon", "plugin_namespace"}


def test_sizes_are_arithmetic_until_they_are_known() -> None:
    n = graphopt.layers.tensor.Dim("symbol", ("N",))
    assert graphopt.ceil_div(7, 2) == 4
    assert graphopt.larger(3, 5) == 5
    assert (n + 0, n * 1) == (n, n)
    with pytest.raises(TypeError, match="not known"):
        bool(n > 3)
    known = graphopt.tensor("float16", (n, 4))
    assert outputs_of(FusedRootNorm(), {"x": known, "weight": None})[0].shape == (n, 4)


def test_check_layer_finds_a_spelling_that_is_another_function() -> None:
    class FusedWrong(FusedRootNorm):
        def patterns(self):
            return [self.body, self.without_epsilon]

        def without_epsilon(self, op, x, weight):
            wide = op.float32(x)
            return op.like(wide / op.Sqrt(op.ReduceMean(wide * wide, [-1], keepdims=1)), x) * weight

    with pytest.raises(AssertionError, match=r"without_epsilon\(\) is not the body"):
        check_layer(FusedWrong, gpu=False, quick=True)


def test_check_layer_finds_a_shape_rule_that_is_wrong() -> None:
    class FusedShape(FusedRootNorm):
        def infer(self, x, weight):
            return graphopt.tensor(x.dtype, (*x.shape[:-1], x.shape[-1] + 1))

    with pytest.raises(AssertionError, match=r"infer\(\) says"):
        check_layer(FusedShape, gpu=False, quick=True)


def test_check_layer_finds_a_dtype_that_is_wrong() -> None:
    class FusedDtype(FusedRootNorm):
        def infer(self, x, weight):
            return graphopt.tensor("float32", x.shape)

    with pytest.raises(AssertionError, match="infer\\(\\) says float32"):
        check_layer(FusedDtype, gpu=False, quick=True)


def test_check_layer_passes_a_right_one() -> None:
    check_layer(FusedRootNorm, gpu=False, quick=True)


def test_a_tuple_attribute_without_elements_is_refused() -> None:
    class FusedEmpty(FusedTwo):
        """An attribute of no elements."""

        sizes: tuple[int, ...] = ()

    with pytest.raises(graphopt.GraphoptError, match="an empty tuple says neither int nor float"):
        _ = FusedEmpty().attributes


@pytest.mark.parametrize(
    ("value", "default", "wanted"),
    [
        (np.array([2**62 + 1, 3]), (1,), (2**62 + 1, 3)),
        (np.array([2.0, 3.0]), (1,), (2, 3)),
        (np.array([2.5]), (1,), None),
        (np.array([], np.int64), (1,), None),
        (np.float32("inf"), 1, None),
        (np.float32("nan"), False, None),
        (np.float32("inf"), 1.0, float("inf")),
        (np.array([1, 2]), 1, None),
    ],
)
def test_a_captured_constant_takes_the_type_of_the_declaration(value, default, wanted) -> None:
    from graphopt.layers.find import _cast

    assert _cast(value, default) == wanted
