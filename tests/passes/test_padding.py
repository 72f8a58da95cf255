"""Pad before Conv, AveragePool and MaxPool."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphopt_passes.padding import FoldPadIntoAveragePool, FoldPadIntoConv, FoldPadIntoMaxPool
from onnx import TensorProto, helper

from graphopt.testing import assert_unchanged, check_rule, model

INF = np.float32(-np.inf)


def padded(behind: str, pads, *, value=None, axes=None, attrs="", before="", opset=18, dims="N,4,9,9", w=(6, 4, 3, 3)):
    """y = behind(Pad(x, pads, value, axes))."""
    weights = {"p": np.asarray(pads, np.int64)}
    if value is not None:
        weights["v"] = np.float32(value)
    if axes is not None:
        weights["a"] = np.asarray(axes, np.int64)
    if "w" in behind:
        weights["w"] = w
    inputs = f"r, p, {'v' if value is not None else ''}, {'a' if axes is not None else ''}".rstrip(", ")
    inputs = inputs.replace(", , ", ', "", ')
    text = f"""g (float[{dims}] x) => (float[A,B,C,D] y) {{
        r = {before or "Identity"}(x)
        c = Pad{attrs}({inputs})
        y = {behind}
    }}"""
    return model(text, weights=weights, opset=opset)


def operators(proto):
    return [node.op_type for node in proto.graph.node][1:]


def attribute(proto, name):
    found = [a for a in proto.graph.node[-1].attribute if a.name == name]
    return helper.get_attribute_value(found[0]) if found else None


CONV = "Conv(c, w)"


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21, 23])
def test_zeros_around_a_convolution_are_its_padding(opset):
    result = check_rule(FoldPadIntoConv(), padded(CONV, [0, 0, 1, 2, 0, 0, 3, 0], opset=opset), fires=1)
    assert operators(result) == ["Conv"]
    assert attribute(result, "pads") == [1, 2, 3, 0]


@pytest.mark.parametrize("opset", [6, 9, 10])
def test_below_opset_11_pads_is_an_attribute(opset):
    text = """g (float[N,4,9,9] x) => (float[N,6,10,9] y) {
        c = Pad<pads = [0, 0, 1, 2, 0, 0, 2, 0]>(x)
        y = Conv(c, w)
    }"""
    result = check_rule(FoldPadIntoConv(), model(text, weights={"w": (6, 4, 3, 3)}, opset=opset), fires=1)
    assert attribute(result, "pads") == [1, 2, 2, 0]


def test_both_paddings_add_up():
    source = padded("Conv<pads = [1, 0, 0, 2], strides = [2, 1]>(c, w)", [0, 0, 1, 1, 0, 0, 1, 1], value=0)
    assert attribute(check_rule(FoldPadIntoConv(), source, fires=1), "pads") == [2, 1, 1, 3]


@pytest.mark.parametrize(("axes", "pads"), [([3], [1, 2]), ([-1, -2], [1, 0, 2, 0]), ([2, 0], [0, 0, 0, 0])])
def test_axes_of_opset_18(axes, pads):
    check_rule(FoldPadIntoConv(), padded(CONV, pads, axes=axes), fires=1)
    check_rule(FoldPadIntoConv(), padded(CONV, pads, axes=axes, value=0), fires=1)


def test_valid_padding_is_none():
    source = padded('Conv<auto_pad = "VALID">(c, w)', [0, 0, 1, 1, 0, 0, 1, 1])
    result = check_rule(FoldPadIntoConv(), source, fires=1)
    assert attribute(result, "auto_pad") is None


def test_weights_need_not_be_constant():
    text = "g (float[1,4,9] x, float[6,4,3] w, float[6] b) => (float[1,6,9] y) { c = Pad(x, p) y = Conv(c, w, b) }"
    source = model(text, weights={"p": np.array([0, 0, 1, 0, 0, 1])}, opset=18)
    check_rule(FoldPadIntoConv(), source, fires=1)


@pytest.mark.parametrize(
    ("why", "source"),
    [
        ("it pads the channels", padded(CONV, [0, 1, 0, 0, 0, 0, 0, 0], w=(6, 5, 3, 3))),
        ("it pads the batch", padded(CONV, [1, 0, 1, 1, 0, 0, 1, 1])),
        ("it pads the channels through axes", padded(CONV, [1, 0], axes=[-3], w=(6, 5, 3, 3))),
        ("a negative pad cuts off", padded(CONV, [0, 0, -1, 1, 0, 0, 1, 1])),
        ("it pads with ones", padded(CONV, [0, 0, 1, 1, 0, 0, 1, 1], value=1)),
        ("it reflects", padded(CONV, [0, 0, 1, 1, 0, 0, 1, 1], attrs='<mode = "reflect">')),
        ("it repeats the edge", padded(CONV, [0, 0, 1, 1, 0, 0, 1, 1], attrs='<mode = "edge">')),
        ("SAME depends on the size", padded('Conv<auto_pad = "SAME_UPPER">(c, w)', [0, 0, 1, 1, 0, 0, 1, 1])),
        ("another reader", padded("Conv(c, w) z = Relu(c)", [0, 0, 1, 1, 0, 0, 1, 1])),
    ],
)
def test_pad_before_a_convolution_stays(why, source):
    if "reader" in why:
        source.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, list("EFGH")))
    assert_unchanged(FoldPadIntoConv(), source)


def test_computed_pads_stay():
    text = "g (float[1,4,9] x, int64[6] p) => (float[1,6,9] y) { c = Pad(x, p) y = Conv(c, w) }"
    source = model(text, weights={"w": (6, 4, 3)}, opset=18)
    assert_unchanged(FoldPadIntoConv(), source)


SPATIAL = [0, 0, 1, 1, 0, 0, 1, 1]
AVERAGE = "AveragePool<kernel_shape = [3, 3], strides = [2, 2]{}>(c)"
MAX = "MaxPool<kernel_shape = [3, 3], strides = [2, 2]{}>(c)"


@pytest.mark.parametrize("opset", [11, 18, 21])
@pytest.mark.parametrize("attrs", ["", ", count_include_pad = 1", ", count_include_pad = 1, pads = [1, 0, 0, 1]"])
def test_an_average_counts_the_zeros_of_pad(attrs, opset):
    result = check_rule(FoldPadIntoAveragePool(), padded(AVERAGE.format(attrs), SPATIAL, opset=opset), fires=1)
    assert operators(result) == ["AveragePool"]
    assert attribute(result, "count_include_pad") == 1


@pytest.mark.parametrize(
    ("why", "attrs", "pads", "value"),
    [
        ("its own padding is not counted", ", pads = [1, 1, 1, 1]", SPATIAL, 0),
        ("ceil_mode", ", ceil_mode = 1", SPATIAL, 0),
        ("a window in the padding", "", [0, 0, 3, 0, 0, 0, 0, 0], 0),
        ("ones", "", SPATIAL, 1),
        ("channels", "", [0, 1, 0, 0, 0, 0, 0, 0], 0),
        ("SAME", ', auto_pad = "SAME_UPPER"', SPATIAL, 0),
    ],
)
def test_pad_before_an_average_stays(why, attrs, pads, value):
    assert_unchanged(FoldPadIntoAveragePool(), padded(AVERAGE.format(attrs), pads, value=value))


@pytest.mark.parametrize("attrs", ["", ", pads = [0, 1, 1, 0]"])
@pytest.mark.parametrize(("before", "value"), [("Identity", INF), ("Relu", INF), ("Relu", 0), ("Sigmoid", -5)])
def test_a_maximum_ignores_padding_that_is_never_larger(before, value, attrs):
    result = check_rule(FoldPadIntoMaxPool(), padded(MAX.format(attrs), SPATIAL, before=before, value=value), fires=1)
    assert operators(result) == ["MaxPool"]


def test_a_clip_from_zero_is_not_negative():
    text = f"""g (float[N,4,9,9] x) => (float[N,4,5,5] y) {{ r = Clip(x, l, h) c = Pad(r, p) y = {MAX.format("")} }}"""
    weights = {"p": np.asarray(SPATIAL), "l": np.float32(0), "h": np.float32(6)}
    check_rule(FoldPadIntoMaxPool(), model(text, weights=weights), fires=1)


@pytest.mark.parametrize(
    ("why", "before", "attrs", "pads", "value"),
    [
        ("zero may be the maximum", "Identity", "", SPATIAL, 0),
        ("one may be the maximum", "Relu", "", SPATIAL, 1),
        ("a low number may be the maximum", "Identity", "", SPATIAL, -1e9),
        ("ceil_mode", "Relu", ", ceil_mode = 1", SPATIAL, 0),
        ("dilations", "Relu", ", dilations = [2, 1]", SPATIAL, 0),
        ("a window in the padding", "Relu", "", [0, 0, 3, 0, 0, 0, 0, 0], 0),
        ("both paddings hold a window", "Relu", ", pads = [2, 0, 0, 0]", SPATIAL, 0),
        ("channels", "Relu", "", [0, 1, 0, 0, 0, 0, 0, 0], 0),
    ],
)
def test_pad_before_a_maximum_stays(why, before, attrs, pads, value):
    assert_unchanged(FoldPadIntoMaxPool(), padded(MAX.format(attrs), pads, before=before, value=value))


def test_integers_stay():
    """Abs(-128) = -128 in int8."""
    text = f"g (int8[1,4,9,9] x) => (int8[1,4,5,5] y) {{ r = Abs(x) c = Pad(r, p) y = {MAX.format('')} }}"
    assert_unchanged(FoldPadIntoMaxPool(), model(text, weights={"p": np.asarray(SPATIAL)}))


@pytest.mark.parametrize(
    ("rule", "body"),
    [
        (FoldPadIntoConv(), "c = Pad(x, p) y = Conv<pads: ints = @q>(c, w)"),
        (FoldPadIntoAveragePool(), "c = Pad(x, p) y = AveragePool<kernel_shape: ints = @q>(c)"),
    ],
)
def test_parameters_of_a_function_stay(rule, body):
    text = f"""<ir_version: 10, opset_import: ["" : 17, "f" : 1]>
        g (float[1,1,5] x) => (float[1,1,A] y) {{ y = f.block <q = [2, 2]> (x) }}
        <domain: "f", opset_import: ["" : 17]>
        block <q> (x) => (y) {{
            p = Constant<value_ints = [0, 0, 1, 0, 0, 1]>()
            w = Constant<value = float[1,1,2] {{1.0, 2.0}}>()
            {body}
        }}"""
    assert_unchanged(rule, text)


def test_indices_that_are_read_stay():
    source = padded(MAX.format("").replace("MaxPool", "MaxPool"), SPATIAL, before="Relu", value=0)
    source.graph.node[-1].output.append("i")
    source.graph.output.append(helper.make_tensor_value_info("i", TensorProto.INT64, list("EFGH")))
    onnx.checker.check_model(source)
    assert_unchanged(FoldPadIntoMaxPool(), source)
